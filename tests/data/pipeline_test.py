"""Batches as a function of the step."""

import itertools

import chex
import jax
import numpy as np
import pytest

from instructrl.data import pipeline
from instructrl.data import rows
from instructrl.data import tasks
from instructrl.data.ranked import RankingTokens
from instructrl.types import PromptBatch, RankingBatch


def numbered_rows(count, start=0):
  """Rows of one position whose token is their number."""
  return tasks.pack_rows(
    (tasks.lm_example([start + i, 1]) for i in range(count)), 1
  )


def numbers(batch):
  return batch.tokens[:, 0].tolist()


def test_every_epoch_is_another_permutation():
  batches = pipeline.lm_batches(numbered_rows(12), 4, seed=3)
  epochs = [
    list(itertools.chain(*(numbers(batches.at(3 * e + i)) for i in range(3))))
    for e in range(4)
  ]
  for epoch in epochs:
    assert sorted(epoch) == list(range(12))
  assert len({tuple(epoch) for epoch in epochs}) == 4
  assert pipeline.epoch_steps(12, 4) == 3


def test_a_batch_is_a_function_of_the_step_and_the_seed():
  make = lambda seed: pipeline.lm_batches(numbered_rows(50), 8, seed)
  first, again, other = make(1), make(1), make(2)
  chex.assert_trees_all_equal(first.at(1000), again.at(1000))
  assert numbers(first.at(0)) != numbers(other.at(0))


def test_the_order_of_the_data_stays_what_it_is():
  """A change here means that resumed runs see other data than before."""
  batches = pipeline.lm_batches(numbered_rows(1000), 5, seed=3)
  assert numbers(batches.at(0)) == [104, 380, 921, 363, 318]
  assert numbers(batches.at(200)) == [531, 982, 41, 185, 688]


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_the_rows_of_a_step_do_not_depend_on_the_processes(processes):
  whole = pipeline.lm_batches(numbered_rows(30), 8, seed=0)
  parts = [
    pipeline.lm_batches(numbered_rows(30), 8, seed=0, rows_read=rows)
    for rows in np.split(np.arange(8), processes)
  ]
  for step in (0, 3, 4, 77):
    joined = sum((numbers(part.at(step)) for part in parts), [])
    assert joined == numbers(whole.at(step))


def test_an_epoch_that_does_not_divide_goes_on_in_the_next():
  batches = pipeline.lm_batches(numbered_rows(5), 4, seed=0)
  stream = sum((numbers(batches.at(step)) for step in range(5)), [])
  for epoch in range(4):
    assert sorted(stream[5 * epoch : 5 * epoch + 5]) == list(range(5))
  # A batch may be larger than the data.
  big = pipeline.lm_batches(numbered_rows(2), 8, seed=0)
  assert sorted(numbers(big.at(0))) == [0] * 4 + [1] * 4


def test_epoch_steps():
  assert pipeline.epoch_steps(10, 4) == 3
  assert pipeline.epoch_steps(10, 4, 2) == 5
  assert pipeline.epoch_steps(10, 4, 0.1) == 1
  assert 1.1 * 50 > 55  # as floats
  assert pipeline.epoch_steps(50, 1, 1.1) == 55
  for bad in [(0, 4), (4, 0)]:
    with pytest.raises(ValueError, match='must be 1 or more'):
      pipeline.epoch_steps(*bad)


def test_without_shuffling_the_order_is_kept():
  batches = pipeline.lm_batches(numbered_rows(6), 4, seed=0, shuffle=False)
  assert numbers(batches.at(0)) == [0, 1, 2, 3]
  assert numbers(batches.at(1)) == [4, 5, 0, 1]


@pytest.mark.parametrize('fraction', [0.1, 0.5])
def test_mixing_in_pretraining_rows(fraction):
  batches = pipeline.lm_batches(
    numbered_rows(40),
    4,
    seed=0,
    mix=numbered_rows(30, start=1000),
    mix_fraction=fraction,
  )
  stream = sum((numbers(batches.at(step)) for step in range(50)), [])
  mixed = [n for n in stream if n >= 1000]
  own = [n for n in stream if n < 1000]
  assert abs(len(mixed) - 200 * fraction) <= 1
  assert sorted(own[:40]) == list(range(40))
  if fraction == 0.5:
    assert sorted(mixed[:30]) == list(range(1000, 1030))
  assert own[:40] != sorted(own[:40]) and batches.num_examples == 40
  for step in range(7):  # rows stay where the indices say
    expected = [i if i < 40 else 960 + i for i in batches.indices(step)]
    assert numbers(batches.at(step)) == expected


def demonstrations(count, prompt_len, targets, row_len):
  """Packed rows of demonstrations of one length."""
  tokens = [1] * (prompt_len + targets)
  example = tasks.lm_example(tokens, loss_from=prompt_len)
  return tasks.pack_rows(itertools.repeat(example, count), row_len)


def test_a_batch_counts_demonstrations_and_not_the_rows_that_pack_them():
  """Table 6 has 12,725; packed, 32 rows would be 145 of them (Table 11)."""
  shown = demonstrations(12_725, 9, 3, row_len=50)
  batches = pipeline.lm_batches(shown, 32, seed=0, unit='examples')
  assert batches.num_examples == 12_725
  assert pipeline.epoch_steps(batches.num_examples, 32) == 398
  batch = batches.at(0)
  assert (batch.segment_ids.max(axis=1) == 1).all()
  assert batch.loss_mask.sum() == 32 * 3
  packed = pipeline.lm_batches(shown, 32, seed=0)
  assert pipeline.epoch_steps(packed.num_examples, 32) == 100


def test_unpacked_examples_are_those_that_were_packed(tmp_path):
  lengths = (5, 3, 8, 2, 2, 7, 1)
  tokens = [[10 * n + i for i in range(k + 1)] for n, k in enumerate(lengths)]
  packed = tasks.pack_rows(
    (tasks.lm_example(t, loss_from=len(t) - 1) for t in tokens), 10
  )
  rows.write_rows(
    tmp_path / 'x.rows',
    packed,
    tokenizer_fingerprint='t',
    source_fingerprint='s',
  )
  for source in (packed, rows.read_rows(tmp_path / 'x.rows')):
    examples = pipeline.lm_examples(source, 'examples')
    batch = examples.gather(np.arange(len(examples)))
    found = [
      [*row[own], target[own][-1]]
      for row, target, own in zip(
        batch.tokens, batch.targets, batch.segment_ids == 1, strict=True
      )
    ]
    assert sorted(found) == sorted(tokens)
    assert batch.loss_mask.sum(axis=1).tolist() == [1] * len(lengths)
    for name in ('tokens', 'targets', 'positions'):
      assert not (getattr(batch, name) * (batch.segment_ids == 0)).any()


def test_once_gives_every_example_once():
  batches = pipeline.lm_batches(numbered_rows(6), 4, seed=0)
  first, last = batches.once()
  assert numbers(first) == [0, 1, 2, 3] and first.loss_mask.all()
  assert numbers(last) == [4, 5, 5, 5]
  assert last.loss_mask[:, 0].tolist() == [True, True, False, False]
  parts = [
    list(
      pipeline.lm_batches(numbered_rows(6), 4, seed=0, rows_read=rows).once()
    )
    for rows in ([0, 1], [2, 3])
  ]
  assert [numbers(p[0]) for p in parts] == [[0, 1], [2, 3]]
  assert [p[1].loss_mask.all() for p in parts] == [True, False]


@pytest.mark.parametrize(
  'kwargs, reason',
  [
    (dict(batch_size=0), 'batch_size is 0'),
    (dict(rows_read=[2, 4]), r'rows_read \[2, 4\] are not rows of a batch of'),
    (dict(rows_read=[]), r'rows_read \[\] are not rows'),
    (dict(mix_fraction=1.0), r'mix_fraction is 1.0: it must be in \[0, 1\)'),
    (dict(mix_fraction=0.5), 'needs rows to mix in'),
  ],
)
def test_bad_arguments(kwargs, reason):
  with pytest.raises(ValueError, match=reason):
    pipeline.lm_batches(
      numbered_rows(4), **{'batch_size': 4, 'seed': 0, **kwargs}
    )


def test_no_examples_and_negative_steps():
  with pytest.raises(ValueError, match='no examples'):
    pipeline.prompt_batches([], 2, seed=0, prompt_len=4)
  with pytest.raises(ValueError, match='step is -1'):
    pipeline.lm_batches(numbered_rows(4), 4, seed=0).at(-1)


@pytest.mark.parametrize('limit', [0, 2**28])
def test_rows_in_a_file_give_the_same_batches(tmp_path, monkeypatch, limit):
  monkeypatch.setattr(pipeline, '_IN_MEMORY_BYTES', limit)
  packed = numbered_rows(20)
  path = tmp_path / 'rows.array_record'
  rows.write_rows(
    path, packed, tokenizer_fingerprint='t', source_fingerprint='s'
  )
  in_file = pipeline.lm_batches(rows.read_rows(path), 4, seed=1)
  in_memory = pipeline.lm_batches(packed, 4, seed=1)
  for a, b in ((in_file.at(i), in_memory.at(i)) for i in range(3, 7)):
    chex.assert_trees_all_equal(a, b)
    assert [x.dtype for x in jax.tree.leaves(a)] == [
      x.dtype for x in jax.tree.leaves(b)
    ]


def test_ranking_batches():
  responses = ((10, 2), (11, 2), (12, 2))
  elements = [
    RankingTokens((1, 4, *[6] * i, 5), responses, (1, 0, 1))
    for i in range(1, 5)
  ]
  batches = pipeline.ranking_batches(
    elements, 2, seed=0, max_k=4, seq_len=13, eos_id=2
  )
  batch = batches.at(0)
  assert isinstance(batch, RankingBatch)
  chex.assert_shape(batch.tokens, (2, 13))
  chex.assert_shape((batch.last, batch.ranks, batch.valid), (2, 4))
  for row, i in enumerate(batches.indices(0)):  # prompt i has i + 4 tokens
    prompt = [1, 4] + [6] * (i + 1) + [5]
    responses = sum([[10 + k, 2] for k in range(3)], [])
    assert batch.tokens[row].tolist() == (prompt + responses + [0] * (3 - i))
    assert batch.last[row].tolist() == [i + 5, i + 7, i + 9, 0]
    assert batch.ranks[row].tolist() == [1, 0, 1, 0]
    assert batch.valid[row].tolist() == [True] * 3 + [False]
  assert [
    b.valid.sum()
    for b in pipeline.ranking_batches(
      elements[:3], 2, seed=0, max_k=4, seq_len=13, eos_id=2
    ).once()
  ] == [6, 3]


def test_prompt_batches():
  prompts = [[1] + [6] * i for i in range(5)]
  batches = pipeline.prompt_batches(prompts, 2, seed=0, prompt_len=5)
  batch = batches.at(1)
  assert isinstance(batch, PromptBatch)
  assert batch.index.tolist() == batches.indices(1).tolist()
  assert batch.index.dtype == np.int32
  for tokens, mask, index in zip(batch.tokens, batch.mask, batch.index):
    assert tokens[mask].tolist() == prompts[index]
    assert mask.tolist() == sorted(mask.tolist())
  *_, last = batches.once()
  assert last.index.tolist() == [4, -1]
  with pytest.raises(ValueError, match='prompt 4 has 5 tokens'):
    list(pipeline.prompt_batches(prompts, 2, seed=0, prompt_len=4).once())


def test_trimmed_columns_are_padding():
  rankings = [
    RankingTokens((1, 6), ((7,) * n + (2,), (8, 2)), (0, 1)) for n in (1, 2, 9)
  ]
  batches = pipeline.ranking_batches(
    rankings, 2, seed=0, max_k=3, seq_len=16, eos_id=2, shuffle=False
  )
  assert batches.all_indices(0).tolist() == [0, 1]
  batch = batches.at(0)
  short = pipeline.trim_columns(batch, 8)
  assert short.tokens.shape == short.positions.shape == (2, 8)
  assert not batch.segment_ids[:, 8:].any() and short.segment_ids.any()
  np.testing.assert_array_equal(short.last, batch.last)


def numbers_batches(count, **kwargs):
  source = pipeline.BuiltExamples(
    range(count), lambda i, element: np.int64(element)
  )
  return pipeline.Batches(source, 4, seed=3, **kwargs)


def test_like_lengths_share_a_batch_and_every_example_comes_once_an_epoch():
  lengths = np.random.default_rng(0).integers(1, 100, 64)
  plain = numbers_batches(len(lengths))
  grouped = numbers_batches(len(lengths), lengths=lengths, window=4)
  spread = lambda batches: np.mean(
    [np.ptp(lengths[batches.at(step)]) for step in range(16)]
  )
  assert spread(grouped) < spread(plain) / 2
  for epoch in range(2):
    seen = [grouped.at(16 * epoch + step) for step in range(16)]
    assert sorted(np.concatenate(seen).tolist()) == list(range(64))
  # A window has the examples it would have had, and its batches come in a
  # random order: not always from short to long.
  for window in range(4):
    steps = range(4 * window, 4 * window + 4)
    assert sorted(np.concatenate([grouped.at(s) for s in steps])) == sorted(
      np.concatenate([plain.at(s) for s in steps])
    )
  means = np.asarray([lengths[grouped.at(s)].mean() for s in range(64)])
  orders = {tuple(np.argsort(m)) for m in means.reshape(16, 4)}
  assert len(orders) > 4


@pytest.mark.parametrize('count', [3, 20, 64, 70, 101])
def test_grouping_keeps_to_the_epochs(count):
  lengths = np.random.default_rng(0).integers(1, 100, count)
  grouped = numbers_batches(count, lengths=lengths, window=4)
  plain = numbers_batches(count)
  steps = 3 * -(-count // 4)
  seen = np.concatenate([grouped.at(step) for step in range(steps)])
  for epoch in range(3):
    # The step that an epoch ends in has what it would have had.
    np.testing.assert_array_equal(
      np.sort(seen[epoch * count : (epoch + 1) * count]), np.arange(count)
    )
  for step in range(steps):
    if step * 4 // count != (step * 4 + 3) // count:
      np.testing.assert_array_equal(grouped.at(step), plain.at(step))
  # The same whatever was asked before.
  anew = numbers_batches(count, lengths=lengths, window=4)
  for step in (steps - 1, 0, steps // 2):
    np.testing.assert_array_equal(anew.at(step), grouped.at(step))


def test_grouped_batches_are_divided_among_processes():
  lengths = np.arange(32)[::-1]
  whole = numbers_batches(len(lengths), lengths=lengths, window=3)
  parts = [
    numbers_batches(len(lengths), lengths=lengths, window=3, rows_read=rows)
    for rows in ([0, 1], [2, 3])
  ]
  for step in range(20):
    np.testing.assert_array_equal(
      whole.at(step), np.concatenate([p.at(step) for p in parts])
    )
    np.testing.assert_array_equal(
      whole.all_indices(step), parts[0].all_indices(step)
    )


def test_lengths_must_be_those_of_the_examples():
  with pytest.raises(ValueError, match='3 lengths for 5 examples'):
    numbers_batches(5, lengths=np.ones(3), window=2)


def test_only_batches_can_be_silenced():
  with pytest.raises(TypeError, match='ndarray is not a batch'):
    pipeline.silence(np.zeros(3), np.ones(3, bool))
