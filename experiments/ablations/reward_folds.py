"""The reward model on labelers that it was not trained on (appendix E.2).

python -m instructrl.sweep --config=experiments/ablations/reward_folds.py:tiny --workdir=DIR

The paper: the training labelers are divided into five groups, and each is held
out once. The accuracy is 72.4 +- 0.4% on the labelers that the model was
trained on, and 69.6 +- 0.9% on those that were held out.
"""

from experiments.ablations import base

FIELD = 'reward.fold'


def get_config(arg='tiny'):
  c = base.get_config(arg, ('reward',), base.REWARD)
  c.stages.reward.num_folds = 5
  c.seeds = (0,)  # the folds are what varies
  c.plot.x = FIELD
  return c


def sweep(add, config):
  for fold in range(config.stages.reward.num_folds):
    add({FIELD: fold})
