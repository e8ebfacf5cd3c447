"""Cost of a study's stages in FLOP, beside pretraining (paper, section 5.1).

The counting is the usual one: with N parameters of a model, embeddings
included, a token costs 2 N in a forward pass and 6 N in training (a forward and
a backward pass). Tokens are what the device computes: rows and episodes at
their full width, padding included. In PPO an episode is sampled by the policy,
read by the reference, by every reward model and by the value model, and then
trained on by the policy and the value model in every inner epoch; pretraining
rows are trained on by the policy. The training of the reward model is not
counted, which one run does for all policies.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from instructrl.reports.study_files import Study

FORWARD, TRAINING = 2, 6  # FLOP per parameter and token
PRETRAINING = 'pretrain'
# The paper's cost of 175B models in petaflop/s-days, by stage (section 5.1).
PAPER = {PRETRAINING: 3640.0, 'sft': 4.9, 'ppo_ptx': 60.0}


@dataclasses.dataclass(frozen=True)
class StageCost:
  """Cost of a stage.

  Attributes:
    stage: its name.
    flop: in the counting of this module.
    share: of the FLOP of pretraining.
  """

  stage: str
  flop: float
  share: float


def costs(study: Study) -> list[StageCost]:
  """Returns the costs of the stages that train a policy, pretraining first.

  A study that imports its weights has no pretraining, and no rows.
  """
  whole = study.result(PRETRAINING)
  if 'num_params' not in whole:
    return []
  config = study.header['config']
  row_len = whole['tokens_per_step'] / config[PRETRAINING]['batch_size']
  flops = {}
  for stage in study.done:
    result = study.result(stage)
    if 'value_params' in result:
      flops[stage] = ppo(config[stage], result, row_len)
    elif 'tokens_per_step' in result:
      tokens = result['num_steps'] * result['tokens_per_step']
      flops[stage] = TRAINING * result['num_params'] * tokens
  return [
    StageCost(stage, flop, flop / flops[PRETRAINING])
    for stage, flop in flops.items()
  ]


def ppo(
  config: Mapping[str, Any], result: Mapping[str, Any], row_len: float
) -> float:
  """Returns the FLOP of a PPO stage.

  Args:
    config: of the stage.
    result: with 'episodes', 'num_params' and 'value_params'; a reward model has
      the parameters of the value model.
    row_len: tokens of a pretraining row.
  """
  p = config['ppo']
  tokens = result['episodes'] * (p['prompt_len'] + p['response_len'])
  num_rewards = sum(
    term['kind'] == 'model' and term['weight'] != 0
    for term in config['rewards'].values()
  )
  epochs = p['num_ppo_epochs']
  ptx_tokens = (
    result['episodes'] * p['ptx_examples_per_episode'] * row_len
    if p['ptx_coef']
    else 0
  )
  of_policy = tokens * (2 * FORWARD + epochs * TRAINING)
  of_policy += epochs * TRAINING * ptx_tokens
  of_value = tokens * ((1 + num_rewards) * FORWARD + epochs * TRAINING)
  return result['num_params'] * of_policy + result['value_params'] * of_value
