"""Repeats steps 2 and 3 of the method: the stages of a study's rounds.

Ouyang et al. 2022, section 3.1: comparisons of the current best policy train a
new reward model, and then a new policy. A study with the field `rounds` has the
stages rankings_1, reward_1, ppo_1, rankings_2, ... beside those it names. Their
configs follow from the templates in `config.round`:

  rankings_r  samples ppo_(r-1), the policy that is the newest, and others; the
              prompts are others in each round
  reward_r    trains on rankings_1 ... rankings_r
  ppo_r       is trained against reward_r
"""

import copy

from instructrl.stages import checks

ROUND = ('rankings', 'reward', 'ppo')  # the templates, in order
CURRENT = 'policy'  # the input of `rankings` that is the newest policy
STARTS = ('first', 'last')
LABELERS = ('lab', 'people')


def expanded(config):
  """Returns a study's config with the stages of its rounds.

  Args:
    config: of a study; one without `rounds` is returned as it is.

  Raises:
    ConfigError: a field of `rounds` is invalid.
  """
  if 'rounds' not in config:
    return config
  rounds = config.rounds
  checks.within(rounds, 'count', prefix='rounds.', low=1)
  for name in ('policy', 'reward'):
    checks.within(rounds, name, prefix='rounds.', choices=STARTS)
  checks.within(rounds, 'labelers', prefix='rounds.', choices=LABELERS)
  config = copy.deepcopy(config)  # with the references between fields
  config.unlock()
  names = []
  for number in range(1, rounds.count + 1):
    for name in ROUND:
      config.stages[f'{name}_{number}'] = copy.deepcopy(config.round[name])
      names.append(f'{name}_{number}')
    _set_rankings(config, number)
    _set_reward(config, number)
    _set_policy(config, number)
  if 'evaluation' in config.stages:
    _set_evaluation(config)
  config.order = (*config.order, *names)
  return config


def _set_rankings(config, number: int) -> None:
  stage = config.stages[f'rankings_{number}']
  counts = {'train': stage.num_prompts, 'validation': stage.num_validation}
  stage.first = {split: (number - 1) * n for split, n in counts.items()}
  if config.rounds.labelers == 'people':
    stage.project = f'../people_{number}'
  if number > 1:
    stage.inputs[CURRENT] = f'../ppo_{number - 1}'
    stage.inputs.labelers = '../rankings_1'  # the same people in all rounds


def _set_reward(config, number: int) -> None:
  inputs = config.stages[f'reward_{number}'].inputs
  inputs.rankings = f'../rankings_{number}'
  for earlier in range(1, number):
    inputs[f'rankings_{earlier}'] = f'../rankings_{earlier}'
  if number > 1 and config.rounds.reward == 'last':
    inputs.init = f'../reward_{number - 1}'


def _set_policy(config, number: int) -> None:
  stage = config.stages[f'ppo_{number}']
  stage.rewards.reward_model.path = f'../reward_{number}'
  if number > 1 and config.rounds.policy == 'last':
    stage.inputs.policy = f'../ppo_{number - 1}'


def _set_evaluation(config) -> None:
  """Evaluates the policies of all rounds."""
  stage, last = config.stages.evaluation, config.rounds.count
  stage.inputs.rankings = f'../rankings_{last}'
  stage.inputs.reward_model = f'../reward_{last}'
  trained_against = {}
  for number in range(1, last + 1):
    stage.policies[f'ppo_{number}'] = f'../ppo_{number}'
    stage.inputs[f'reward_{number}'] = f'../reward_{number}'
    trained_against[f'ppo_{number}'] = f'reward_{number}'
  for fields in stage.evals.values():
    if fields.type == 'over_optimization':
      fields.rewards = trained_against
