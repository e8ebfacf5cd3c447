"""Numbers of several runs become one number with an honest interval."""

import math

import pytest

from instructrl.reports import pooling


def summary(value, half, name='value'):
  return {name: value, 'ci95': [value - half, value + half], 'n': 100}


def test_the_runs_differ_more_than_the_items_explain():
  found = pooling.pool([summary(v, 0.01) for v in (0.4, 0.5, 0.6)], worlds=1)
  # Student's t with two degrees of freedom: 4.303 * 0.1 / sqrt(3).
  half = 4.302653 * 0.1 / math.sqrt(3)
  assert found['value'] == pytest.approx(0.5)
  assert found['ci95'] == pytest.approx([0.5 - half, 0.5 + half])
  assert found['n'] == 100


def test_seeds_of_one_world_share_their_items():
  runs = [summary(v, 0.04) for v in (0.5, 0.501, 0.499, 0.5)]
  one = pooling.pool(runs, worlds=1)
  two = pooling.pool(runs, worlds=2)
  assert one['ci95'] == pytest.approx([0.46, 0.54])
  half = 0.04 / math.sqrt(2)
  assert two['ci95'] == pytest.approx([0.5 - half, 0.5 + half])


def test_trees_keep_their_form():
  runs = [
    {
      'ppo': {**summary(v, 0.1, 'win_rate'), 'train': summary(v + 0.1, 0.1)},
      'rise': None if v > 0.5 else summary(v, 0.1),
      'epochs': [{'epoch': 1, 'loss': v}, {'epoch': 2, 'loss': None}],
      'label': 'PPO',
    }
    for v in (0.4, 0.6)
  ]
  found = pooling.pool(runs, worlds=2)
  assert found['ppo']['win_rate'] == pytest.approx(0.5)
  assert found['ppo']['train']['value'] == pytest.approx(0.6)
  assert found['rise'] is None  # one of the runs has none
  assert found['epochs'][0] == {'epoch': 1, 'loss': pytest.approx(0.5)}
  assert found['epochs'][1] == {'epoch': 2, 'loss': None}
  assert found['label'] == 'PPO'


def test_a_number_that_a_run_lacks_is_not_pooled():
  undefined = {'value': None, 'ci95': None, 'n': 0}
  assert pooling.pool([summary(0.5, 0.1), undefined], worlds=1) == {
    'value': None,
    'ci95': None,
    'n': 100,
  }
  assert pooling.pool([{'a': 1.0}, {}], worlds=1) == {}
  one = summary(0.3, 0.2)
  assert pooling.pool([one], worlds=1) == one
