r"""Epochs of the reward model (appendix C.2).

python -m instructrl.sweep \
    --config=experiments/ablations/reward_epochs.py:tiny --workdir=DIR

The paper: the reward model overfits fast with more than one epoch.
"""

from experiments.ablations import base

FIELD = 'reward.num_epochs'


def get_config(arg='tiny'):
  c = base.get_config(arg, ('reward',), base.REWARD)
  c.seeds = (0, 1, 2)
  c.plot.x = FIELD
  return c


def sweep(add, config):
  del config
  for num_epochs in (1, 2, 4):
    add({FIELD: num_epochs})
