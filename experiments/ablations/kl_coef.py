"""KL coefficient with the pretraining mix, 0 among them (figure 36).

python -m instructrl.sweep --config=experiments/ablations/kl_coef.py:tiny --workdir=DIR

The paper: labelers like the policy most at 0.01 to 0.02; without a penalty it
is over-optimised, and at 2 it stays too near to where it started.
"""

from experiments.ablations import base

FIELD = 'ppo_ptx.ppo.kl_coef'
# Around each recipe's own: 0.3 on a laptop, 0.02 in the paper, which goes to 2.
GRID = {'micro': (0.0, 0.3, 3.0), 'tiny': (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)}
PAPER = (0.0, 0.001, 0.01, 0.02, 0.1, 0.5, 2.0)


def get_config(arg='tiny'):
  c = base.ppo(arg)
  c.plot.x, c.plot.log = FIELD, True
  return c


def sweep(add, config):
  for kl_coef in GRID.get(config.size, PAPER):
    add({FIELD: kl_coef})
