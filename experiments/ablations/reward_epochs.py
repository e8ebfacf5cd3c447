r"""Epochs of the reward model (appendix C.2).

python -m instructrl.sweep \
    --config=experiments/ablations/reward_epochs.py:tiny --workdir=DIR

The paper: with more than one epoch the validation loss is plainly worse.

Result of `tiny`, six seeds: the validation log loss is 0.596, 0.596 and 0.610
nats after one, two and three epochs; more than one raises it by 0.007 (95%
interval -0.003 to 0.016): undecided. The accuracy is 66.5, 67.2 and 67.3%. An
epoch takes two to three minutes of one core of an AMD EPYC server CPU, beside
other runs.
"""

from experiments.ablations import base

FIELD = 'reward.num_epochs'
GRID = {'micro': (1, 2), 'tiny': (1, 2, 3)}
PAPER = (1, 2, 3, 4)


def get_config(arg='tiny'):
  c = base.reward_model(arg)
  c.plot.x = FIELD
  c.plot.label = 'epochs'
  c.expected = (
    base.rise(
      base.LOG_LOSS,
      FIELD,
      GRID.get(arg, PAPER)[1:],
      1,
      'More than one epoch raises the validation loss',
      'plainly worse',
      unit='nats',
    ),
  )
  return c


def sweep(add, config):
  for num_epochs in GRID.get(config.size, PAPER):
    add({FIELD: num_epochs})
