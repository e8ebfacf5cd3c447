r"""All pairs of a prompt in one element, or shuffled pairs (section 3.5, C.2).

python -m instructrl.sweep --config=experiments/ablations/reward_pairs.py:tiny \
    --workdir=DIR

The paper: as separate points each response gets up to K - 1 updates, and one
pass overfits. Together, validation accuracy and log loss are much better (the
numbers are not printed), and each response needs one forward pass; for the time
see docs/performance.md.

Result of `tiny`, six seeds: together the validation log loss is 0.596 nats and
shuffled 0.646, a difference of -0.050 (95% interval -0.071 to -0.028): shown.
The accuracy is 66.5% and 66.8%, a difference of -0.3 points (-1.1 to 0.5):
undecided. A run takes 164 s together and 953 s shuffled (medians), on one core
of an AMD EPYC server CPU, beside other runs.
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
  c = base.reward_model(arg)
  c.plot.x = FIELD
  c.plot.label = 'shuffled pairs'
  together, shuffled = False, True
  c.expected = (
    base.rise(
      base.ACCURACY,
      FIELD,
      together,
      shuffled,
      'Pairs of a prompt together are more accurate than shuffled',
      'much better',
      unit='points',
      quantity='accuracy, together minus shuffled',
    ),
    base.fall(
      base.LOG_LOSS,
      FIELD,
      together,
      shuffled,
      'Pairs of a prompt together have a lower log loss than shuffled',
      'much better',
      unit='nats',
      quantity='validation log loss, together minus shuffled',
    ),
  )
  return c


def sweep(add, config):
  c = config.stages.reward
  add({FIELD: False, BATCH: c.batch_size, MICROBATCH: c.microbatch_size})
  add({FIELD: True, BATCH: PAIRS * c.batch_size, MICROBATCH: c.batch_size})
