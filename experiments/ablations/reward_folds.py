r"""The reward model on labelers that it did not train on (appendix E.2).

python -m instructrl.sweep --config=experiments/ablations/reward_folds.py:tiny \
    --workdir=DIR

The paper divides the training labelers into five groups and holds out each
group once. The accuracy is 72.4 +- 0.4% on the labelers of the training data
and 69.6 +- 0.9% on the held-out labelers.
"""

from experiments.ablations import base

FIELD = 'reward.fold'


def get_config(arg='tiny'):
  c = base.get_config(arg, ('reward',), base.REWARD)
  c.stages.reward.num_folds = 5
  c.seeds = (0,)  # only the folds vary
  c.plot.x = FIELD
  return c


def sweep(add, config):
  for fold in range(config.stages.reward.num_folds):
    add({FIELD: fold})
