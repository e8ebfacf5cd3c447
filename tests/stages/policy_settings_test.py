"""The table of policies."""

import pytest

from experiments import evaluation
from instructrl.stages import policy_settings


def test_known_policies_come_in_the_order_of_the_table_and_others_last():
  names = ['mine', 'ppo', 'base', 'another', 'sft']
  assert policy_settings.ordered(names) == [
    'base',
    'sft',
    'ppo',
    'mine',
    'another',
  ]
  assert policy_settings.kind('mine') == policy_settings.Kind('mine')
  shown = policy_settings.shown(['ppo', 'mine', 'another'])
  assert [found['label'] for found in shown.values()] == [
    'PPO',
    'mine',
    'another',
  ]
  assert len({found['color'] for found in shown.values()}) == 3
  config = evaluation.get_config('micro')
  config.policies.mine = '../mine'
  config.policies.ppo = ''
  assert policy_settings.named(config) == [
    'base',
    'prompted',
    'nlp',
    'sft',
    'ppo_init',
    'ppo_ptx',
    'mine',
  ]


@pytest.mark.parametrize(
  'name, stage, template',
  [
    ('base', 'pretrain', 'plain'),
    ('base', 'import', 'plain'),
    ('imported', 'import', 'chat'),
    ('prompted', 'pretrain', 'few_shot'),
    ('ppo', 'ppo', 'chat'),
    ('mine', 'dpo', 'chat'),
    ('mine', 'pretrain', 'plain'),
  ],
)
def test_how_a_policy_is_asked(name, stage, template):
  assert policy_settings.template_of(name, stage) == template
