"""Evaluators by name, and the checks of their configs."""

import pytest

from instructrl.evaluators import evaluator
from instructrl.evaluators import reward_model
from instructrl.evaluators import statistics
from instructrl.runtime.errors import ConfigError


class Own:
  def __init__(self, context, *, size=1):
    self.size = size

  def run(self, policies):
    return evaluator.Outcome({})


class Idle:
  def __init__(self, context):
    pass


def test_the_types_are_the_modules_with_an_evaluator():
  assert evaluator.types() == [
    'generalization',
    'nll',
    'over_optimization',
    'preference',
    'probes',
    'ranking_accuracy',
    'reward_model',
    'sentiment',
    'zero_shot',
  ]
  assert evaluator.load('reward_model') is reward_model.Evaluator
  assert evaluator.load(f'{__name__}:Own') is Own


@pytest.mark.parametrize(
  'fields, message',
  [
    ({}, "type must be one of .*, nll, .*; got ''"),
    ({'type': 'statistics'}, "type must be one of .*; got 'statistics'"),
    ({'type': f'{__name__}:Other'}, 'cannot be loaded: .*Other'),
    ({'type': f'{__name__}:Own', 'length': 3}, "'length'"),
    ({'type': f'{__name__}:Own', 'every': -1}, 'every=-1 must be an integer'),
    ({'type': f'{__name__}:Own', 'every': '2'}, "every='2' must be an integer"),
    ({'type': f'{__name__}:Idle'}, 'must be a class that has run'),
    ({'type': ':Own'}, "type must be one of .*; got ':Own'"),
    ({'type': 'nll', 'num_rows': 0}, 'num_rows=0 must be 1 or more'),
  ],
)
def test_invalid_fields_are_named(fields, message):
  with pytest.raises(ConfigError, match=f'evals.x.*{message}'):
    evaluator.validate('x', fields)


def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'own_broken.py').write_text('class Own\n')
  (tmp_path / 'own_raises.py').write_text('\nOwn = 1 / 0\n')
  with pytest.raises(
    ConfigError, match=r'SyntaxError: .*own_broken.py, line 1'
  ):
    evaluator.load('own_broken:Own')
  with pytest.raises(ConfigError, match='by zero .*own_raises.py, line 2'):
    evaluator.load('own_raises:Own')


def test_valid_fields():
  fields = {'type': f'{__name__}:Own', 'every': 3, 'size': 2}
  evaluator.validate('x', fields)
  assert evaluator.arguments(fields) == {'size': 2}


def test_measures_are_compared_pairwise_and_found_as_summaries():
  mean = lambda *values: statistics.mean(values)
  tree = evaluator.compared(
    {'a': {'one': mean(1, 0), 'two': mean(1, 1)}, 'b': {}}, seed=0
  )
  assert list(tree) == ['a']
  assert tree['a']['difference']['two']['one']['value'] == 0.5
  found = {path: s['value'] for path, s in evaluator.summaries(tree)}
  assert found == {
    ('a', 'policies', 'one'): 0.5,
    ('a', 'policies', 'two'): 1.0,
    ('a', 'difference', 'two', 'one'): 0.5,
  }
