r"""Pretraining coefficient (gamma in equation 2), including 0 (figure 33).

python -m instructrl.sweep --config=experiments/ablations/ptx_coef.py:tiny \
    --workdir=DIR

The paper: the public tasks recover from about 20 on. The validation reward
falls slowly as gamma grows.
"""

from experiments.ablations import base

FIELD = 'ppo_ptx.ppo.ptx_coef'
# The recipe of a laptop uses 2; the paper uses 27.8 (experiments/ppo_ptx.py).
GRID = {'micro': (0.0, 2.0), 'tiny': (0.0, 0.1, 0.5, 2.0, 10.0)}
PAPER = (0.0, 1.0, 5.0, 20.0, 27.8, 100.0)


def get_config(arg='tiny'):
  c = base.ppo(arg)
  c.plot.x, c.plot.log = FIELD, True
  return c


def sweep(add, config):
  for ptx_coef in GRID.get(config.size, PAPER):
    add({FIELD: ptx_coef})
