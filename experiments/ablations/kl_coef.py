r"""KL coefficient with the pretraining mix, including 0 (figure 36).

python -m instructrl.sweep --config=experiments/ablations/kl_coef.py:tiny \
    --workdir=DIR

The paper: labelers prefer the policy at 0.01 to 0.02. Without a penalty the
policy is over-optimized, and at 2 it stays too close to its start.
"""

from experiments.ablations import base

FIELD = 'ppo_ptx.ppo.kl_coef'
# Around each recipe's value: 0.3 on a laptop, 0.02 in the paper.
GRID = {'micro': (0.0, 0.3, 3.0), 'tiny': (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)}
PAPER = (0.0, 0.001, 0.01, 0.02, 0.1, 0.5, 2.0)


def get_config(arg='tiny'):
  c = base.ppo(arg)
  c.plot.x, c.plot.log = FIELD, True
  return c


def sweep(add, config):
  for kl_coef in GRID.get(config.size, PAPER):
    add({FIELD: kl_coef})
