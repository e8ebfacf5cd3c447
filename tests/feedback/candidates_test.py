"""Samples of policies become prompts to rank."""

import pytest

from instructrl.data.folder import DataFolder
from instructrl.data.records import Demonstration, Prompt
from instructrl.feedback import candidates
from instructrl.runtime.errors import ConfigError


class Policy:
  """Answers with the name, the prompt and the number of the answer."""

  def __init__(self, path):
    self.name = path.name

  def generate(self, prompts, *, n, temperature, **_):
    if not temperature:  # greedy: all samples are equal
      return [[f'{self.name} {prompt}'] * n for prompt in prompts]
    return [
      [f'{self.name} {temperature} {prompt} {i}' for i in range(n)]
      for prompt in prompts
    ]


def request(folder, **changes):
  flags = dict(
    policies='sft=runs/sft,ppo=runs/ppo',
    prompts=str(folder),
    split='train',
    limit=0,
    k='4..6',
    temperatures='1.0',
    demonstrations=False,
    max_tokens=8,
    seed=0,
  )
  return candidates.Request.parse(**flags | changes)


def make(folder, **changes):
  return candidates.make(request(folder, **changes), Policy)


@pytest.fixture
def folder(tmp_path):
  prompts = [
    Prompt(f'p{i}', f'ask {i}', '', 'other', 'train') for i in range(9)
  ]
  data = DataFolder(tmp_path / 'data')
  data.write_records('prompts', {'train': prompts}, 'x')
  shown = [Demonstration(p, f'shown {p.id}', 'Ada') for p in prompts]
  data.write_records('demonstrations', {'train': shown}, 'x')
  return tmp_path / 'data'


def test_k_answers_of_several_policies_per_prompt(folder):
  items = make(folder, temperatures='1.0,0.7')
  assert len(items) == 9
  assert {len(item.responses) for item in items} == {4, 5, 6}
  found = {(r.model, r.temperature) for item in items for r in item.responses}
  assert found == {('sft', 1.0), ('ppo', 1.0), ('sft', 0.7), ('ppo', 0.7)}
  assert items == make(folder, temperatures='1.0,0.7')
  assert len(make(folder, limit=2)) == 2


def test_a_demonstration_is_one_of_the_answers(folder):
  for item in make(folder, k='3', demonstrations=True):
    (shown,) = [r for r in item.responses if r.model == 'demonstration']
    assert (shown.text, shown.temperature) == (f'shown {item.prompt.id}', 0.0)
    assert len(item.responses) == 3


def test_equal_answers_keep_the_names_of_their_policies(folder):
  class Brief(Policy):
    def generate(self, prompts, *, n, **_):
      last = self.name if self.name == 'c' else ''
      return [[f'{prompt}{last}'] * n for prompt in prompts]

  policies = lambda names: ','.join(f'{name}=runs/{name}' for name in names)
  make = lambda names: candidates.make(
    request(folder, policies=policies(names), k='3'), Brief
  )
  for item in make('abc'):
    assert sorted(r.models for r in item.responses)[0][0] in 'ab'
    assert {len(r.also) for r in item.responses} == {0, 1}
    assert {m for r in item.responses for m in r.models} == {*'abc'}
    assert not item.is_same
  with pytest.raises(ConfigError, match='two different answers'):
    make('ab')


def test_equal_answers_are_one(folder):
  items = make(folder, temperatures='0')
  assert {len(item.responses) for item in items} == {2}
  with pytest.raises(ConfigError, match='two different answers'):
    make(folder, policies='a=runs/a', temperatures='0')


@pytest.mark.parametrize(
  'flag, value, fault',
  [
    ('policies', 'sft', 'NAME=RUN'),
    ('k', '9..4', 'from 2 to 26'),
    ('k', 'many', 'from 2 to 26'),
    ('temperatures', '-1', 'from 0 up'),
    ('temperatures', 'warm', 'from 0 up'),
    ('limit', -1, 'from 0 up'),
    ('max_tokens', 0, 'from 1 up'),
  ],
)
def test_flags_that_cannot_be_used_are_named(folder, flag, value, fault):
  with pytest.raises(ConfigError, match=f'--{flag} must be .*{fault}'):
    request(folder, **{flag: value})


def test_prompts_that_are_missing_are_one_error(folder):
  with pytest.raises(ConfigError, match='no data folder .*/missing; a file'):
    make(folder.parent / 'missing')
  with pytest.raises(ConfigError, match='validation'):
    make(folder, split='validation')
