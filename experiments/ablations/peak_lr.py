r"""The policy's peak learning rate, with and without the mix (figure 38).

python -m instructrl.sweep --config=experiments/ablations/peak_lr.py:tiny \
    --workdir=DIR

The paper: without pretraining gradients the high rates diverge. With them the
result depends less on the rate.
"""

from experiments.ablations import base

RATE, COEF = 'ppo_ptx.optimizer.peak_lr', 'ppo_ptx.ppo.ptx_coef'
# Multiples of the recipe's rate: the decade of the paper's scan, and more.
TIMES = {'micro': (1.0, 10.0)}


def get_config(arg='tiny'):
  c = base.ppo(arg)
  c.plot.x, c.plot.by, c.plot.log = RATE, COEF, True
  return c


def sweep(add, config):
  recipe = config.stages.ppo_ptx
  for ptx_coef in (0.0, recipe.ppo.ptx_coef):
    for times in TIMES.get(config.size, (0.3, 1.0, 3.0, 10.0)):
      add({COEF: ptx_coef, RATE: times * recipe.optimizer.peak_lr})
