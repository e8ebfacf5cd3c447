"""The fields of config.rewards."""

import pytest

from instructrl.rewards import rewards_settings

MODEL = {'kind': 'model', 'path': '../reward'}
FUNCTION = {'kind': 'function', 'function': 'm:f', 'weight': 0.5}


def test_terms_without_weight_are_left_out():
  terms = rewards_settings.read(
    {'a': MODEL, 'b': FUNCTION, 'c': {**MODEL, 'weight': 0.0}}
  )
  assert {name: term.weight for name, term in terms.items()} == {
    'a': 1.0,
    'b': 0.5,
  }


@pytest.mark.parametrize(
  'rewards, message',
  [
    ({}, 'rewards must have a term with a weight other than 0; got no term'),
    ({'a': {**MODEL, 'weight': 0}}, 'rewards must have a term .*; got a'),
    (
      {'a': {'kind': 'modle'}},
      'rewards.a.kind must be one of model, function;',
    ),
    ({'a': {'kind': 'model'}}, "rewards.a.path must be set with kind='model'"),
    ({'a': {'kind': 'function'}}, 'rewards.a.function must be set'),
    ({'a': {**FUNCTION, 'path': 'x'}}, "rewards.a.path must be empty .*'x'"),
    ({'a': {'function': 'm:f'}}, "got 'm:f'; or set rewards.a.kind=function"),
    (
      {'a': {**MODEL, 'weight': float('nan')}},
      'rewards.a.weight must be finit',
    ),
    ({'a': {**MODEL, 'wieght': 1}}, 'rewards.a must have the fields .*wieght'),
  ],
)
def test_terms_that_make_no_sense(rewards, message):
  with pytest.raises(ValueError, match=message):
    rewards_settings.read(rewards)
