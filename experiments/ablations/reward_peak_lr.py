r"""The reward model's learning rate, plus and minus 50% (appendix C.2).

python -m instructrl.sweep \
    --config=experiments/ablations/reward_peak_lr.py:tiny --workdir=DIR

The paper: a rate changed by up to 50% gives similar results.

Result of `tiny`, six seeds: the accuracy is 66.3% at half the rate, 66.5% at
the rate and 66.3% at 1.5 times the rate. Both differences are -0.2 points (95%
intervals -0.8 to 0.4 and -0.9 to 0.5), within the two points that count as
alike: shown. A run takes 113 s (the median of 18) of one core of an AMD EPYC
server CPU, beside other runs.
"""

from experiments.ablations import base

FIELD = 'reward.optimizer.peak_lr'
TIMES = {'micro': (1.0, 1.5)}
PAPER = (0.5, 1.0, 1.5)


def get_config(arg='tiny'):
  c = base.reward_model(arg)
  c.plot.x = FIELD
  c.plot.label = 'peak learning rate'
  recipe = c.stages.reward.optimizer.peak_lr
  others = tuple(t * recipe for t in TIMES.get(arg, PAPER) if t != 1)
  c.expected = tuple(
    base.rise(
      base.ACCURACY,
      FIELD,
      other,
      recipe,
      f'The accuracy is alike at {other / recipe:g} times the rate',
      'similar',
      unit='points',
    )
    | dict(region=base.ALIKE)
    for other in others
  )
  return c


def sweep(add, config):
  recipe = config.stages.reward.optimizer.peak_lr
  for times in TIMES.get(config.size, PAPER):
    add({FIELD: times * recipe})
