"""The table of policies, and runs opened as policies."""

import pytest

from experiments import evaluation
from experiments import select_sft
from instructrl.data import tasks
from instructrl.stages import checks
from instructrl.stages import policies


def test_prompts_are_those_of_the_split_that_fit(study, tok):
  opened = policies.Opener(select_sft.get_config('micro'), study / 'run')
  everything = opened.prompts('validation', 48)
  assert everything and {p.split for p in everything} == {'validation'}
  lengths = [len(tasks.chat_prompt(tok, p.text)) for p in everything]
  limit = sorted(lengths)[len(lengths) // 2]
  assert opened.prompts('validation', limit) == [
    p for p, n in zip(everything, lengths) if n <= limit
  ]
  with pytest.raises(
    checks.ConfigError, match="no prompt of 'validation' fits prompt_len=1"
  ):
    opened.prompts('validation', 1)


def test_a_model_of_another_tokenizer_is_not_opened(study, tok, monkeypatch):
  opened = policies.Opener(select_sft.get_config('micro'), study / 'run')
  assert opened.open('reward_model').is_reward_model
  monkeypatch.setattr(type(opened.tok), 'fingerprint', 'another')
  with pytest.raises(
    checks.ConfigError,
    match='inputs.reward_model: .* was trained with another tokenizer',
  ):
    opened.open('reward_model')


# --- The table ---------------------------------------------------------------


def test_known_policies_come_in_the_order_of_the_table_and_others_last():
  names = ['mine', 'ppo', 'base', 'another', 'sft']
  assert policies.ordered(names) == ['base', 'sft', 'ppo', 'mine', 'another']
  assert policies.kind('mine') == policies.Kind('mine')
  shown = policies.shown(['ppo', 'mine', 'another'])
  assert [found['label'] for found in shown.values()] == [
    'PPO',
    'mine',
    'another',
  ]
  assert len({found['color'] for found in shown.values()}) == 3
  config = evaluation.get_config('micro')
  config.policies.mine = '../mine'
  config.policies.ppo = ''
  assert policies.named(config) == [
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
  assert policies.template_of(name, stage) == template
