"""Evaluators by name, and the checks of their configs."""

import pytest

from instructrl.evaluators import protocol
from instructrl.evaluators import reward_model
from instructrl.evaluators import statistics
from instructrl.runtime.errors import ConfigError


class Own:
  def __init__(self, context, *, size=1):
    self.size = size


def test_the_types_are_the_modules_with_an_evaluator():
  assert protocol.types() == [
    'nll',
    'preference',
    'probes',
    'ranking_accuracy',
    'reward_model',
  ]
  assert protocol.load('reward_model') is reward_model.Evaluator
  assert protocol.load(f'{__name__}:Own') is Own


@pytest.mark.parametrize(
  'fields, message',
  [
    ({}, "type must be one of nll, .*; got ''"),
    ({'type': 'statistics'}, "type must be one of .*; got 'statistics'"),
    ({'type': f'{__name__}:Other'}, 'cannot be loaded: .*Other'),
    ({'type': f'{__name__}:Own', 'length': 3}, "'length'"),
    ({'type': f'{__name__}:Own', 'every': -1}, 'every=-1 must be 0 or more'),
    ({'type': 'nll', 'num_rows': 0}, 'num_rows=0 must be 1 or more'),
  ],
)
def test_invalid_fields_are_named(fields, message):
  with pytest.raises(ConfigError, match=f'evals.x.*{message}'):
    protocol.validate('x', fields)


def test_valid_fields():
  fields = {'type': f'{__name__}:Own', 'every': 3, 'size': 2}
  protocol.validate('x', fields)
  assert protocol.arguments(fields) == {'size': 2}


def test_measures_are_compared_pairwise_and_found_as_summaries():
  mean = lambda *values: statistics.mean(values)
  tree = protocol.compared(
    {'a': {'one': mean(1, 0), 'two': mean(1, 1)}, 'b': {}}, seed=0
  )
  assert list(tree) == ['a']
  assert tree['a']['difference']['two']['one']['value'] == 0.5
  found = {path: s['value'] for path, s in protocol.summaries(tree)}
  assert found == {
    ('a', 'policies', 'one'): 0.5,
    ('a', 'policies', 'two'): 1.0,
    ('a', 'difference', 'two', 'one'): 0.5,
  }
