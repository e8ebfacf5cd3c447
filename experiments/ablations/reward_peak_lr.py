r"""The reward model's learning rate, plus and minus 50% (appendix C.2).

python -m instructrl.sweep \
    --config=experiments/ablations/reward_peak_lr.py:tiny --workdir=DIR

The paper: the rate changes little.
"""

from experiments.ablations import base

FIELD = 'reward.optimizer.peak_lr'


def get_config(arg='tiny'):
  c = base.get_config(arg, ('reward',), base.REWARD)
  c.seeds = (0, 1, 2)
  c.plot.x = FIELD
  return c


def sweep(add, config):
  for times in (0.5, 1.0, 1.5):  # C.2
    add({FIELD: times * config.stages.reward.optimizer.peak_lr})
