"""Accuracy of a reward model on rankings, of pairs by hand."""

import numpy as np
import pytest

from instructrl.data.records import Prompt, Ranking
from instructrl.evaluators import ranking_accuracy


def ranking(ranks, name='own/1'):
  k = len(ranks)
  return Ranking(
    prompt=Prompt(
      id=name, text=name, user='', use_case='other', split='validation'
    ),
    labeler='l',
    group='train',
    responses=('x',) * k,
    response_tokens=(),
    sources=('s',) * k,
    temperatures=(1.0,) * k,
    ranks=tuple(ranks),
  )


@pytest.mark.parametrize(
  'scores, ranks, expected',
  [
    ([2, 1], [0, 1], (1, 1)),
    ([1, 2], [0, 1], (0, 1)),
    ([1, 1], [0, 1], (0.5, 1)),
    ([3, 1], [0, 0], (0, 0)),
    # Best first, then a tie, then the worst: five pairs, of which the scores
    # have (0, 1), (0, 3), (2, 3) right and (1, 3) half.
    ([3, 1, 4, 1], [0, 1, 1, 2], (3.5, 5)),
  ],
)
def test_pairs_by_hand(scores, ranks, expected):
  assert ranking_accuracy.pair_counts(scores, ranks) == expected


def test_accuracies_are_by_data_set_and_ties_do_not_count():
  rankings = [
    ranking([0, 1], 'a/1'),
    ranking([1, 0, 2], 'a/2'),
    ranking([0, 0], 'a/3'),
    ranking([0, 1], 'b/1'),
  ]
  right = [-np.asarray(r.ranks) for r in rankings]
  wrong = [np.asarray(r.ranks) for r in rankings]
  found = ranking_accuracy.accuracies(
    rankings, {'worst': wrong, 'best': right}, seed=0
  )
  assert set(found) == {'all', 'a', 'b'}
  assert {
    name: (part['pairs'], part['prompts']) for name, part in found.items()
  } == {'all': (5, 3), 'a': (4, 2), 'b': (1, 1)}
  for part in found.values():
    assert part['judges']['best']['value'] == 1
    assert part['judges']['worst']['value'] == 0
    assert part['difference']['worst']['value'] == 1
  assert set(
    ranking_accuracy.accuracies(rankings[:2], {'best': right[:2]}, seed=0)
  ) == {'a'}
  assert ranking_accuracy.data_set(ranking([0, 1], 'hh/base/12ab')) == 'hh/base'
