"""Runs the whole system: corpus -> ... -> PPO-ptx -> evaluation -> report.

python -m instructrl.study --config=experiments/study.py:tiny --workdir=DIR

Each stage has a config; flags override any field:
--config.stages.ppo.ppo.kl_coef=0.05.
"""

from ml_collections import config_dict

from experiments import common
from experiments import dpo
from experiments import evaluation
from experiments import lab
from experiments import nlp
from experiments import ppo
from experiments import ppo_init
from experiments import ppo_ptx
from experiments import pretrain
from experiments import rankings
from experiments import reward
from experiments import select_nlp
from experiments import select_sft
from experiments import sft

# The longest of the stages that can run at the same time come first.
STAGES = (
  lab,
  pretrain,
  sft,
  ppo_init,
  nlp,
  rankings,
  reward,
  ppo_ptx,
  dpo,
  ppo,
  select_sft,
  select_nlp,
  evaluation,
)
# Seconds of each stage at :tiny, one at a time, for estimates: measured by
# scripts/quickstart.sh on two idle cores of an AMD EPYC server CPU.
SECONDS = dict(
  lab=10,
  pretrain=108,
  sft=53,
  ppo_init=49,
  nlp=19,
  rankings=49,
  reward=51,
  ppo_ptx=48,
  dpo=43,
  ppo=23,
  select_sft=12,
  select_nlp=3,
  evaluation=112,
)


def get_config(arg='tiny'):
  common.check_size(arg, common.LAB_SIZES)
  c = config_dict.ConfigDict()
  # Seeds of all stages; a study ignores the seed fields of its stages.
  c.world_seed = 0  # the lab: facts, texts, labelers
  c.train_seed = 0  # initial weights, order of the data, sampling in training
  c.eval_seed = 0  # sampling and bootstrap of evaluations
  # The stages run in this order, each in a folder of its name.
  c.order = tuple(stage.__name__.split('.')[-1] for stage in STAGES)
  c.stages = config_dict.ConfigDict(
    {name: stage.get_config(arg) for name, stage in zip(c.order, STAGES)}
  )
  c.stages.evaluation.policies.dpo = '../dpo'
  c.seconds = config_dict.ConfigDict(SECONDS if arg == 'tiny' else {})
  return c
