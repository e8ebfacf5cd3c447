"""What every ablation shares: a study's stages, and what a sweep is told.

An ablation is a file with `get_config(arg)`, which derives from `get_config`
here, and `sweep(add, config)`, which calls `add({'STAGE.field': value, ...})`
once for each point. `config` is what `get_config` gave, with the flags'
overrides.
"""

from ml_collections import config_dict

from experiments import common
from experiments import ppo as ppo_config
from experiments import pretrain
from experiments import reward
from experiments import sft
from experiments import study

# The stages that there are at the paper's sizes.
TRAINED = ('pretrain', 'sft', 'ppo_init', 'reward', 'ppo', 'ppo_ptx')
# What is told of a reward model.
REWARD = (
  (
    'accuracy, its labelers',
    'reward',
    'DONE',
    'result.accuracy.in_group.accuracy',
  ),
  (
    'accuracy, held-out labelers',
    'reward',
    'DONE',
    'result.accuracy.heldout.accuracy',
  ),
  ('accuracy in training', 'reward', 'metrics.jsonl', 'accuracy/train'),
)


def get_config(arg, ends, measures):
  """The stages of a study at a size, and the fields of a sweep.

  At the paper's sizes there are only the stages that train; the folders of
  `lab` and `rankings` are given, as in `--config.given.lab=PATH`. Where the
  reward model has a size of its own, so have those it starts from.

  Args:
    arg: the size.
    ends: for the field of that name; those that the size lacks are left out.
    measures: likewise.
  """
  common.check_size(arg)
  c = config_dict.ConfigDict()
  c.size = arg
  # Seeds of all stages, but for those of `seeded`.
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
  # The stages whose results are wanted; what they start from is run as well,
  # once for all points that share it.
  c.ends = tuple(name for name in ends if name in c.stages)
  # Each point is run with each of these train seeds in the stages of `seeded`.
  c.seeds = (0, 1)
  c.seeded = c.ends[:1]
  # What is told of a point: its title, and the stage, file and place that it
  # stands at. Of metrics.jsonl it is the mean over the last fifth of the lines.
  c.measures = tuple(m for m in measures if m[1] in c.ends)
  c.plot = config_dict.ConfigDict()
  c.plot.x = ''  # the swept field of the horizontal axis
  c.plot.by = ''  # the swept field that has a line for each value; '' = none
  c.plot.log = False  # whether the axis is logarithmic
  return c


def ppo(arg, stage='ppo_ptx', measures=()):
  """An ablation of PPO or PPO-ptx, which is evaluated beside SFT.

  Args:
    arg: the size.
    stage: 'ppo' or 'ppo_ptx'.
    measures: more than those of the policy's text, reward and loss.
  """
  place = f'probes.{stage}'
  c = get_config(
    arg,
    (stage, 'evaluation'),
    (
      (
        'win rate against SFT',
        'evaluation',
        'results.json',
        f'preference.{stage}.win_rate',
      ),
      ('reward-model score', stage, 'metrics.jsonl', 'objective/scores'),
      ('KL to the reference, nats', stage, 'metrics.jsonl', 'objective/kl'),
      # The lab's stand-ins for Fr-En and SQuADv2.
      (
        'translation, BLEU',
        'evaluation',
        'results.json',
        f'{place}.translation.bleu.value',
      ),
      (
        'facts, accuracy',
        'evaluation',
        'results.json',
        f'{place}.facts.accuracy.value',
      ),
      ('loss on the corpus, nats', stage, 'metrics.jsonl', 'pretrain/nll'),
      *measures,
    ),
  )
  if 'evaluation' in c.stages:  # of this policy and SFT only
    compared = c.stages.evaluation.policies
    for name in {*compared} - {'sft', stage}:
      compared[name] = ''
  return c
