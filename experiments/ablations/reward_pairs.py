"""All pairs of a prompt in one element, or shuffled apart (appendix C.2).

python -m instructrl.sweep --config=experiments/ablations/reward_pairs.py:tiny --workdir=DIR

The paper: shuffled pairs overfit within one epoch, since each response is in
up to K - 1 updates; together they are also one forward pass for each response.
"""

from experiments.ablations import base

FIELD = 'reward.shuffled_pairs'


def get_config(arg='tiny'):
  c = base.get_config(arg, ('reward',), (
      *base.REWARD, ('seconds', 'reward', 'DONE', 'seconds')))
  c.seeds = (0, 1, 2)
  c.plot.x = FIELD
  return c


def sweep(add, config):
  del config
  for shuffled in (False, True):
    add({FIELD: shuffled})
