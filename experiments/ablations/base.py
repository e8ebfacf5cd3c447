"""The base of every ablation: the stages of a study, and the fields of a sweep.

An ablation is a file with two functions. `get_config(arg)` derives its config
from `get_config` here. `sweep(add, config)` calls
`add({'STAGE.field': value, ...})` once per point; `config` is the result of
`get_config` with the overrides of the command line.
"""

from ml_collections import config_dict

from experiments import common
from experiments import ppo as ppo_config
from experiments import pretrain
from experiments import reward
from experiments import sft
from experiments import study

# The stages that have configs at the paper's sizes.
TRAINED = ('pretrain', 'sft', 'ppo_init', 'reward', 'ppo', 'ppo_ptx')


def _accuracy(group):
  return f'result.accuracy.{group}.accuracy'


# Measures of a reward model: title, stage, file, place.
REWARD = (
  ('accuracy, its labelers', 'reward', 'DONE', _accuracy('in_group')),
  ('accuracy, held-out labelers', 'reward', 'DONE', _accuracy('heldout')),
  ('accuracy in training', 'reward', 'metrics.jsonl', 'accuracy/train'),
)


def get_config(arg, ends, measures):
  """Returns the stages of a study at a size, and the fields of a sweep.

  At the paper's sizes only the stages that train have configs; the folders of
  `lab` and `rankings` must be given, as in `--config.given.lab=PATH`. If the
  reward model has its own size, so do the models that it starts from.

  Args:
    arg: the size.
    ends: value of the field `ends`, without the stages that the size lacks.
    measures: value of the field `measures`, without those of other stages.
  """
  common.check_size(arg)
  c = config_dict.ConfigDict()
  c.size = arg
  # Seeds of all stages except those in `seeded`.
  c.world_seed = 0  # the lab: facts, texts, labelers
  c.train_seed = 0  # initial weights, order of the data, sampling in training
  c.eval_seed = 0  # sampling and bootstrap of evaluations
  c.stages = config_dict.ConfigDict()
  c.given = config_dict.ConfigDict()  # folder of a stage that is not run here
  for experiment in study.STAGES:
    name = experiment.__name__.split('.')[-1]
    if arg in common.LAB_SIZES or name in TRAINED:
      c.stages[name] = experiment.get_config(arg)
  if arg in ppo_config.REWARD_MODEL:  # one reward model for all policies (C.2)
    size = ppo_config.REWARD_MODEL[arg]
    c.stages.reward_pretrain = pretrain.get_config(size)
    c.stages.reward_sft = sft.get_config(size)
    c.stages.reward_sft.inputs.init = '../reward_pretrain'
    c.stages.reward = reward.get_config(size)
    c.stages.reward.inputs.init = '../reward_sft'
  for name in (*c.stages, 'lab', 'rankings'):
    c.given[name] = ''
  # The stages whose results are wanted. The stages that they start from run
  # too, once for all points that share them.
  c.ends = tuple(name for name in ends if name in c.stages)
  # Each point is run with each of these train seeds in the stages of `seeded`.
  c.seeds = (0, 1)
  c.seeded = c.ends[:1]
  # Numbers of a point: (title, stage, file, place in the file). In
  # metrics.jsonl the number is the mean over the last fifth of the lines.
  c.measures = tuple(m for m in measures if m[1] in c.ends)
  c.plot = config_dict.ConfigDict()
  c.plot.x = ''  # the swept field of the horizontal axis
  c.plot.by = ''  # the swept field with a line per value; '' = none
  c.plot.log = False  # whether the axis is logarithmic
  return c


def ppo(arg, stage='ppo_ptx', measures=()):
  """Returns the config of an ablation of PPO, with an evaluation against SFT.

  Args:
    arg: the size.
    stage: 'ppo' or 'ppo_ptx'.
    measures: measures in addition to win rate, score, KL, probes and loss.
  """
  trained, found = (stage, 'metrics.jsonl'), ('evaluation', 'results.json')
  wins = f'evals.preference.results.preference.{stage}.win_rate'
  probes = f'evals.probes.results.probes.{stage}'
  c = get_config(
    arg,
    (stage, 'evaluation'),
    (
      ('win rate against SFT', *found, wins),
      ('reward-model score', *trained, 'objective/scores'),
      ('KL to the reference, nats', *trained, 'objective/kl'),
      # The lab's stand-ins for Fr-En and SQuADv2.
      ('translation, BLEU', *found, f'{probes}.translation.bleu.value'),
      ('facts, accuracy', *found, f'{probes}.facts.accuracy.value'),
      ('loss on the corpus, nats', *trained, 'pretrain/nll'),
      *measures,
    ),
  )
  if 'evaluation' in c.stages:  # compare this policy with SFT only
    compared = c.stages.evaluation.policies
    for name in {*compared} - {'sft', stage}:
      compared[name] = ''
  return c
