r"""The reward model on labelers that it did not train on (appendix E.2).

python -m instructrl.sweep --config=experiments/ablations/reward_folds.py:tiny \
    --workdir=DIR

The paper divides the training labelers into five groups with about equal data,
and holds out each group once, with three seeds. The accuracy is 72.4 +- 0.4% on
the groups of the training data and 69.6 +- 0.9% on the group left out.

Each point is a fold; the interval on the difference is over the five folds,
each the mean of its seeds. The unscreened labelers, of the group `heldout`, are
in no fold.

Result of `tiny`: 66.8% on the folds of the training data and 66.6% on the fold
left out, a difference of 0.2 points (95% interval -1.4 to 1.8): undecided.
Fifteen runs of about two minutes of one core of an AMD EPYC server CPU.
"""

from experiments.ablations import base

FIELD = 'reward.fold'
LEFT_OUT = 'accuracy, labelers left out'
NUM_FOLDS = 5
# Validation rankings. The accuracy on one ranking has a standard deviation of
# 19 points (200 rankings: 67.8 to 73.1%). All folds together see each ranking
# of their ten labelers once as left out: 833 of 1,000, as the lab has twelve.
# The difference of two means over N rankings has a standard error of at most
# 19 * sqrt(2 / N) = 0.93 points, and 2.8 points are 3.0 of these, more than
# 2.78, the 97.5% quantile of Student's t over five folds.
NUM_VALIDATION = {'micro': 24, 'tiny': 1000}


def get_config(arg='tiny'):
  c = base.get_config(arg, ('reward',), base.ranking(LEFT_OUT))
  c.stages.reward.num_folds = NUM_FOLDS
  c.stages.reward.eval_every = 0  # only at the end: there are many rankings
  if 'rankings' in c.stages:
    wanted = NUM_VALIDATION.get(arg, 1000)
    c.stages.rankings.num_validation = wanted
  c.plot.x = FIELD
  c.plot.label = 'fold of labelers left out'
  c.plot.joined = False
  c.expected = (
    dict(
      statement='The reward model is worse on the labelers left out',
      paper='72.4 against 69.6%, 2.8 points',
      measure=base.ACCURACY,
      less=LEFT_OUT,
      quantity='accuracy, folds of the training data minus the fold left out',
      terms=((1, {}),),
      region='positive',
      unit='points',
      over=FIELD,
    ),
  )
  return c


def sweep(add, config):
  folds = 2 if config.size == 'micro' else config.stages.reward.num_folds
  for fold in range(folds):
    add({FIELD: fold})
