r"""Pretraining examples per episode (appendix E.11).

python -m instructrl.sweep --config=experiments/ablations/ptx_examples.py:tiny \
    --workdir=DIR

The paper: with 4 the pretraining loss rises during training; 8 doubles the time
of an iteration; 32 is better but slower.
"""

from experiments.ablations import base

FIELD = 'ppo_ptx.ppo.ptx_examples_per_episode'
# The lab's recipes use 1, so the grid has larger values only.
GRID = {'micro': (1, 2), 'tiny': (1, 2, 4), 'small': (1, 2, 4)}
PAPER = (4, 8, 32)


def get_config(arg='tiny'):
  c = base.ppo(arg, measures=(('seconds', 'ppo_ptx', 'DONE', 'seconds'),))
  c.plot.x, c.plot.log = FIELD, True
  return c


def sweep(add, config):
  for examples in GRID.get(config.size, PAPER):
    add({FIELD: examples})
