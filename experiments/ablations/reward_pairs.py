r"""All pairs of a prompt in one element, or shuffled pairs (appendix C.2).

python -m instructrl.sweep --config=experiments/ablations/reward_pairs.py:tiny \
    --workdir=DIR

The paper: shuffled pairs overfit within one epoch, because each response is in
up to K - 1 updates. One element also needs one forward pass per response only.
"""

from experiments.ablations import base

FIELD, BATCH, MICROBATCH = (
  f'reward.{name}'
  for name in ('shuffled_pairs', 'batch_size', 'microbatch_size')
)
# About the number of untied pairs per prompt with K = 4 to 9, so an update has
# the same number of comparisons in both settings.
PAIRS = 16


def get_config(arg='tiny'):
  c = base.get_config(
    arg, ('reward',), (*base.REWARD, ('seconds', 'reward', 'DONE', 'seconds'))
  )
  c.seeds = (0, 1, 2)
  c.plot.x = FIELD
  return c


def sweep(add, config):
  c = config.stages.reward
  add({FIELD: False, BATCH: c.batch_size, MICROBATCH: c.microbatch_size})
  add({FIELD: True, BATCH: PAIRS * c.batch_size, MICROBATCH: c.batch_size})
