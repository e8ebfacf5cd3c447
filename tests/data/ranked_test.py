"""Rankings in tokens: columns and tokens on disk are those of the records."""

import dataclasses

import numpy as np
import pytest

from instructrl.data import pipeline
from instructrl.data import ranked
from instructrl.data import store
from instructrl.data.records import pick, RecordError
from tests.data import store_test

RANKS = ((1, 0, 1, 2), (0, 1), (0, 0, 0), (2, 0, 2, 1))


def make(i, ranks=None):
  """A ranking whose prompt and responses have lengths of their own."""
  ranks = ranks or RANKS[i % len(RANKS)]
  k = len(ranks)
  return dataclasses.replace(
    store_test.make_ranking(2),  # K = 4
    prompt=store_test.make_prompt(i),
    labeler=f'labeler\n{i % 3}',
    group='heldout' if i % 3 == 2 else 'train',
    prompt_tokens=(1, *range(i + 1), 5),
    responses=('a', 'b', 'c', 'd')[:k],
    response_tokens=tuple((100 + i,) * j + (2,) for j in range(k)),
    sources=('s',) * k,
    temperatures=(0.0,) * k,
    ranks=ranks,
    metadata=(),
  )


def of(ranking):
  return ranked.RankingTokens(
    ranking.prompt_tokens, ranking.response_tokens, ranking.ranks
  )


@pytest.fixture(scope='module', name='folder')
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  store.write_records(folder, 'rankings', {'train': map(make, range(20))})
  return folder


@pytest.fixture(name='found')
def _found(folder):
  return store.read_ranked(folder, 'rankings', 'train')


def test_the_tokens_are_those_of_the_records(folder, found):
  written = [make(i) for i in range(20)]
  assert list(store.read_records(folder, 'rankings')) == written
  assert list(found) == list(map(of, written))
  assert found.__getitems__([7, 3, 7]) == [of(written[i]) for i in (7, 3, 7)]
  assert found[-1] == of(written[-1])


def test_the_columns_are_those_of_the_records(found):
  written = [make(i) for i in range(20)]
  for view, rows in (
    (found, written),
    (found.where(found.groups == 'train'), None),
    (found[3:9], written[3:9]),
    (found.where(np.zeros(20, bool)), []),
  ):
    if rows is None:
      rows = [r for r in written if r.group == 'train']
    counts = [[len(t) for t in r.response_tokens] for r in rows]
    prompts = [len(r.prompt_tokens) for r in rows]
    assert view.prompt_lengths.tolist() == prompts
    assert view.lengths.tolist() == [
      n + sum(own) for n, own in zip(prompts, counts)
    ]
    assert view.longest.tolist() == list(map(max, counts))
    assert view.strict.tolist() == [len(set(r.ranks)) > 1 for r in rows]
    assert view.groups.tolist() == [r.group for r in rows]
    assert list(view) == list(map(of, rows))
  values = found.by_labeler({found.labelers[0]: 'x'}, 'y')
  assert values.tolist() == ['y' if i % 3 else 'x' for i in range(20)]


def test_pairs_are_those_that_are_not_ties(found):
  pairs = found.pairs()
  wanted = [
    of(pick(ranking, (i, j)))
    for ranking in map(make, range(20))
    for i in range(len(ranking.ranks))
    for j in range(i + 1, len(ranking.ranks))
    if ranking.ranks[i] != ranking.ranks[j]
  ]
  assert list(pairs) == wanted
  assert len(found.where(np.asarray([3])).pairs()) == 5  # one of six is a tie
  assert len(found.where(np.asarray([2])).pairs()) == 0
  assert pairs.lengths.tolist() == [
    len(w.prompt) + sum(map(len, w.responses)) for w in wanted
  ]
  assert pairs.strict.all()
  fewer = pairs.where(pairs.longest <= 2)
  assert list(fewer) == [w for w in wanted if max(map(len, w.responses)) <= 2]


def test_a_batch_is_read_with_one_call(found, monkeypatch):
  calls = []
  own = store.RecordSequence.tokens
  monkeypatch.setattr(
    store.RecordSequence,
    'tokens',
    lambda self, indices: calls.append(len(indices)) or own(self, indices),
  )
  batches = pipeline.ranking_batches(
    found, 5, seed=0, max_k=4, seq_len=64, eos_id=2
  )
  assert batches.at(0).tokens.shape == (5, 64) and calls == [5]


def test_rankings_without_tokens_are_refused(tmp_path):
  bare = dataclasses.replace(make(1), response_tokens=(), prompt_tokens=())
  store.write_records(tmp_path, 'rankings', {'train': [make(0), bare]})
  with pytest.raises(ValueError, match="prompt 'p1' has no tokens yet"):
    store.read_ranked(tmp_path, 'rankings', 'train')


@pytest.mark.parametrize('damage', ['cut', 'flip', 'other', 'gone'])
def test_damaged_columns_are_refused(folder, tmp_path, damage):
  path = store.write_records(
    tmp_path, 'rankings', {'train': map(make, range(20))}
  )
  path /= 'train.columns'
  data = bytearray(path.read_bytes())
  if damage == 'cut':
    path.write_bytes(data[: len(data) // 2])
  elif damage == 'flip':
    place = data.index(np.asarray([4, 2, 3, 4], 'i2').tobytes())
    data[place] ^= 1
    path.write_bytes(data)
  elif damage == 'other':
    store.write_records(folder, 'fewer', {'train': map(make, range(9))})
    path.write_bytes(
      next((folder / 'fewer').rglob('train.columns')).read_bytes()
    )
  else:
    path.unlink()
  with pytest.raises(RecordError, match='train.columns: '):
    store.read_ranked(tmp_path, 'rankings', 'train')


def test_columns_that_do_not_fit_the_tokens_are_refused(found):
  found.columns.lengths[0] += 1
  with pytest.raises(ValueError, match='ranking 0 has .* its columns say'):
    found[0]


def test_a_union_has_the_rankings_of_all_data_sets_in_order(
  folder, found, tmp_path
):
  more = [make(i, (1, 0)) for i in (4, 1)]
  store.write_records(tmp_path, 'rankings', {'train': more})
  other = store.read_ranked(tmp_path, 'rankings', 'train')
  both = ranked.RankedTokens.union([found, other])
  assert list(both) == [*found, *map(of, more)]
  assert both.__getitems__([20, 3, 21]) == [of(more[0]), found[3], of(more[1])]
  assert both.labelers.tolist()[-2:] == ['labeler 1', 'labeler 1']
  for name in ('groups', 'lengths', 'longest', 'prompt_lengths', 'strict'):
    parts = [getattr(part, name) for part in (found, other)]
    np.testing.assert_array_equal(getattr(both, name), np.concatenate(parts))
  assert ranked.RankedTokens.union([found]) is found
