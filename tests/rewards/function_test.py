"""Python functions as rewards: their arguments and results."""

import itertools

import numpy as np
import pytest

from examples import my_reward
from instructrl.data.records import Prompt
from instructrl.rewards.function import FunctionReward
from instructrl.rewards.protocol import Episodes
from instructrl.runtime.errors import ConfigError

NUMBERS = itertools.count()  # Python imports a name once


class Words:
  """A tokenizer of numbered words, which counts what it decodes."""

  decoded = 0

  def decode(self, ids):
    self.decoded += 1
    return ' '.join(f'w{i}' for i in ids)


def episodes(tok=None):
  prompts = [Prompt(f'p{i}', f'say {i}', 'u', 'chat', 'ppo') for i in range(2)]
  return Episodes(
    prompts, [[1], [1, 2]], [[5, 6, 7, 8, 9], [4]], tok or Words()
  )


@pytest.fixture
def module(tmp_path, monkeypatch):
  """Source -> name of a module that has it."""
  monkeypatch.syspath_prepend(tmp_path)

  def write(source):
    name = f'own_reward_{next(NUMBERS)}'
    (tmp_path / f'{name}.py').write_text(source)
    return name

  return write


def test_a_function_reads_prompts_and_texts(module):
  name = module(
    'def score(prompts, responses):\n'
    '  return [len(p.text) + len(r) for p, r in zip(prompts, responses)]\n'
  )
  scores = FunctionReward('own', f'{name}:score')(episodes())
  assert scores.dtype == np.float32
  np.testing.assert_array_equal(scores, [5 + 14, 5 + 2])


def test_texts_are_decoded_once_and_only_when_read():
  tok = Words()
  batch = episodes(tok)
  assert tok.decoded == 0
  assert batch.responses == batch.responses == ['w5 w6 w7 w8 w9', 'w4']
  assert tok.decoded == 2


@pytest.mark.parametrize(
  'returned, message',
  [
    ('[1.0]', r'rewards.own must return .* each of 2 responses; got shape \(1'),
    ('0.5', 'rewards.own must return .* of 2 responses; got shape'),
    ("['a', 'b']", 'rewards.own must return one number for each response'),
    (
      "[0.0, float('nan')]",
      "rewards.own must return finite numbers; got nan for row 1: prompt 'p1'"
      ", response 'w4'",
    ),
  ],
)
def test_what_a_function_must_return(module, returned, message):
  name = module(f'def score(prompts, responses):\n  return {returned}\n')
  with pytest.raises(ValueError, match=message):
    FunctionReward('own', f'{name}:score')(episodes())


@pytest.mark.parametrize(
  'function, message',
  [
    ('brevity', "rewards.own.function must be 'module:name'; got 'brevity'"),
    (
      'no.such:f',
      'rewards.own.function: no.such cannot be imported: No module',
    ),
    ('examples.my_reward:no', "examples.my_reward has no function 'no'"),
  ],
)
def test_a_function_that_is_not_there(function, message):
  with pytest.raises(ConfigError, match=message):
    FunctionReward('own', function)


@pytest.mark.parametrize(
  'source, message',
  [
    ('def score(:\n', r'SyntaxError: .*py, line 1'),
    ('\nscore = 1 / 0\n', r'ZeroDivisionError: .*py, line 2'),
  ],
)
def test_a_module_that_cannot_be_imported_is_named(module, source, message):
  name = module(source)
  with pytest.raises(
    ConfigError,
    match=f'rewards.own.function: {name} cannot be imported: {message}',
  ):
    FunctionReward('own', f'{name}:score')


def test_a_function_without_source_is_refused():
  with pytest.raises(ConfigError, match='math has no Python source'):
    FunctionReward('own', 'math:fsum')


@pytest.mark.parametrize(
  'source, message',
  [
    ('max([])', 'ValueError: .*py, line 2'),
    ('{}[3]', 'KeyError: 3 .*py, line 2'),
  ],
)
def test_an_error_in_a_function_names_the_reward(module, source, message):
  name = module(f'def score(prompts, responses):\n  return {source}\n')
  with pytest.raises(
    ValueError, match=f'rewards.own.function={name}:score raised {message}'
  ):
    FunctionReward('own', f'{name}:score')(episodes())


def test_the_identity_is_that_of_the_source(module):
  source = 'def score(prompts, responses):\n  return [0.0] * len(responses)\n'
  identity = lambda text: FunctionReward('a', f'{module(text)}:score').identity
  one = FunctionReward('a', 'examples.my_reward:brevity')
  other = FunctionReward('b', 'examples.my_reward:brevity')
  assert one.identity == other.identity
  assert identity(source) != identity(source + '# changed\n')


def test_the_examples():
  texts = ['one two three four five', 'Red fish', 'redder']
  assert my_reward.brevity([None] * 3, texts) == [-2, 0, 0]
  assert my_reward.names_a_color([None] * 3, texts) == [0, 1, 0]
