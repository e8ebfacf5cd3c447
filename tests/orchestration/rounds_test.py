"""The stages of the rounds of a study, and what each starts from."""

import pytest

from experiments import rounds as rounds_config
from instructrl.orchestration import graph
from instructrl.stages import checks


def nodes_of(**fields):
  config = rounds_config.get_config('micro')
  config.update_from_flattened_dict(fields)
  config.lock()  # as a command's flags do
  return graph.of_study(config, '/somewhere')


def inputs_of(node):
  return node.config.inputs.to_dict()


@pytest.mark.parametrize('size', ['micro', 'tiny', 'small'])
def test_each_round_ranks_trains_and_optimizes_in_turn(size):
  config = rounds_config.get_config(size)
  nodes = graph.of_study(config, '/somewhere')
  wanted = ['lab', 'pretrain', 'sft', 'ppo_init']
  for number in range(1, config.rounds.count + 1):
    wanted += [f'{name}_{number}' for name in ('rankings', 'reward', 'ppo')]
  assert list(nodes) == [*wanted, 'evaluation']
  assert 'rankings_1' not in config.stages  # the caller's config is unchanged


def test_a_round_starts_from_the_newest_policy_and_all_rankings():
  nodes = nodes_of(**{'rounds.count': 3})
  assert inputs_of(nodes['rankings_1'])['policy'] == '../ppo_init'
  ranked = inputs_of(nodes['rankings_3'])
  assert (ranked['policy'], ranked['sft']) == ('../ppo_2', '../sft')
  assert 'labelers' not in inputs_of(nodes['rankings_1'])
  assert ranked['labelers'] == '../rankings_1'
  assert nodes['rankings_3'].config.first.to_dict() == {
    'train': 96,
    'validation': 32,
  }
  assert {*nodes['reward_3'].needs} == {
    'lab', 'sft', 'rankings_1', 'rankings_2', 'rankings_3',
  }  # fmt: skip
  assert {*nodes['reward_1'].needs} == {'lab', 'sft', 'rankings_1'}
  ppo = nodes['ppo_3'].config
  assert ppo.rewards.reward_model.path == '../reward_3'
  assert (ppo.inputs.policy, ppo.inputs.reference) == ('../ppo_init',) * 2
  evaluation = nodes['evaluation'].config
  assert evaluation.inputs.reward_model == '../reward_3'
  assert evaluation.evals.over_optimization.rewards.to_dict() == {
    f'ppo_{number}': f'reward_{number}' for number in (1, 2, 3)
  }


def test_policies_and_reward_models_can_go_on_from_the_round_before():
  nodes = nodes_of(**{'rounds.policy': 'last', 'rounds.reward': 'last'})
  assert inputs_of(nodes['reward_1'])['init'] == '../sft'
  assert inputs_of(nodes['reward_2'])['init'] == '../reward_1'
  assert inputs_of(nodes['ppo_1'])['policy'] == '../ppo_init'
  assert inputs_of(nodes['ppo_2'])['policy'] == '../ppo_1'
  assert inputs_of(nodes['ppo_2'])['reference'] == '../ppo_init'


def test_a_field_of_the_template_is_that_of_every_round():
  nodes = nodes_of(
    **{'round.reward.num_epochs': 3, 'round.ppo.ppo.ptx_coef': 0.0}
  )
  for number in (1, 2):
    assert nodes[f'reward_{number}'].config.num_epochs == 3
    assert nodes[f'ppo_{number}'].config.ppo.ptx_coef == 0


def test_people_have_a_project_in_each_round():
  nodes = nodes_of(**{'rounds.labelers': 'people'})
  projects = [nodes[f'rankings_{n}'].config.project for n in (1, 2)]
  assert projects == ['../people_1', '../people_2']
  assert 'project' not in nodes_of()['rankings_1'].config


@pytest.mark.parametrize(
  'field, value, said',
  [
    ('rounds.count', 0, 'rounds.count must be'),
    ('rounds.policy', 'newest', 'rounds.policy must be one of first, last'),
    ('rounds.reward', '', 'rounds.reward must be one of'),
    ('rounds.labelers', 'me', 'rounds.labelers must be one of lab, people'),
    ('round.rankings.max_responses', 10, 'is more than stages.reward_1'),
    ('round.reward.num_folds', 1, 'stages.reward_1: num_folds must'),
  ],
)
def test_a_field_that_cannot_be_used_is_named(field, value, said):
  with pytest.raises(checks.ConfigError, match=said):
    nodes_of(**{field: value})
