"""Pretraining coefficient, gamma of equation 2, 0 among them (figure 33).

python -m instructrl.sweep --config=experiments/ablations/ptx_coef.py:tiny --workdir=DIR

The paper: from about 20 on the public tasks recover; the validation reward
falls slowly as gamma grows.
"""

from experiments.ablations import base

FIELD = 'ppo_ptx.ppo.ptx_coef'
# A laptop's recipe has 2 where the paper has 27.8: see experiments/ppo_ptx.py.
GRID = {'micro': (0.0, 2.0), 'tiny': (0.0, 0.1, 0.5, 2.0, 10.0)}
PAPER = (0.0, 1.0, 5.0, 20.0, 27.8, 100.0)


def get_config(arg='tiny'):
  c = base.ppo(arg)
  c.plot.x, c.plot.log = FIELD, True
  return c


def sweep(add, config):
  for ptx_coef in GRID.get(config.size, PAPER):
    add({FIELD: ptx_coef})
