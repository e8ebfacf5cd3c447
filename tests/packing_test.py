"""Packing moves every episode whole, and computes few rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl import packing
from instructrl.data import tasks
from tests import tiny

P, R = 6, 5
pack = tiny.jit(packing.pack)


def episodes(lengths, seed=0):
  """Tokens and masks of prompts and responses with these lengths."""
  draw = np.random.default_rng(seed)
  prompts = tiny.prompt_batch(
    [draw.integers(1, 50, p).tolist() for p, _ in lengths], P
  )
  responses, mask = tiny.response_arrays(
    [draw.integers(1, 50, r).tolist() for _, r in lengths], R
  )
  tokens = np.concatenate([prompts.tokens, responses], axis=1)
  return tokens, prompts.mask, mask


def random_lengths(count, seed=0):
  draw = np.random.default_rng(seed)
  prompts, responses = (draw.integers(1, n + 1, count) for n in (P, R))
  return list(zip(prompts, responses))


def test_the_longest_are_first_and_the_fullest_row_is_taken():
  """Eleven columns a row: 11; 7 + 4; 6 + 3 + 2."""
  where = episodes([(2, 2), (6, 5), (1, 1), (4, 3), (1, 2), (3, 3)])
  found = jax.device_get(pack(*where))
  assert found.num_rows == 3
  np.testing.assert_array_equal(
    found.rows.segment_ids[:4],
    [[1] * 11, [1] * 7 + [2] * 4, [1] * 6 + [2] * 3 + [3] * 2, [0] * 11],
  )
  np.testing.assert_array_equal(found.rows.positions[1], [*range(7), *range(4)])
  tokens = where[0]
  np.testing.assert_array_equal(
    found.rows.tokens[1], [*tokens[3, 2:9], *tokens[0, 4:8]]
  )
  # The last token of a prompt predicts the first action.
  np.testing.assert_array_equal(
    found.rows.loss_mask[1], [c in (3, 4, 5, 8, 9) for c in range(11)]
  )
  np.testing.assert_array_equal(
    found.rows.targets[1][[3, 4, 5, 8, 9]], [*tokens[3, 6:9], *tokens[0, 6:8]]
  )


@pytest.mark.parametrize('seed', range(3))
def test_values_of_actions_go_to_the_rows_and_back(seed):
  tokens, prompt_mask, mask = episodes(random_lengths(20, seed), seed)
  found = pack(tokens, prompt_mask, mask)
  values = np.where(mask, np.arange(20 * R).reshape(20, R), 0)
  there = found.spread(jnp.asarray(values))
  np.testing.assert_array_equal(found.collect(there), values)
  assert (there != 0).sum() == (values != 0).sum()
  # Each action is at the column whose target it is.
  np.testing.assert_array_equal(
    found.collect(found.rows.targets), np.where(mask, tokens[:, P:], 0)
  )
  last = P + mask.sum(axis=1) - 1
  np.testing.assert_array_equal(
    found.collect_last(found.rows.tokens),
    np.take_along_axis(tokens, last[:, None], axis=1)[:, 0],
  )


def test_values_are_read_before_each_action():
  """Of a model whose value is the token that it stands on."""
  where = episodes([(2, 3), (1, 1), (3, 2)])
  tokens, _, mask = where
  packed = pack(*where)
  np.testing.assert_array_equal(
    packed.collect(packed.rows.tokens), np.where(mask, tokens[:, P - 1 : -1], 0)
  )


def test_rows_are_as_few_as_those_that_are_packed_on_the_host():
  lengths = random_lengths(40)
  where = episodes(lengths)
  found = jax.device_get(pack(*where))
  examples = [tasks.lm_example(np.arange(1 + p + r)) for p, r in lengths]
  assert found.num_rows == len(tasks.pack_rows(examples, P + R)['tokens'])
  used = found.rows.segment_ids > 0
  assert used.sum() == where[1].sum() + where[2].sum()
  assert not found.rows.segment_ids[found.num_rows :].any()


@pytest.mark.parametrize('used, parts', [(1, 1), (4, 1), (5, 2), (12, 3)])
def test_only_used_rows_are_computed(used, parts):
  calls = []

  def double(x):
    jax.debug.callback(lambda: calls.append(1))
    return 2 * x

  rows = np.arange(24).reshape(12, 2)
  run = tiny.jit(functools.partial(packing.map_rows, double, size=4))
  got = run(rows, jnp.int32(used))
  jax.effects_barrier()
  assert len(calls) == parts
  np.testing.assert_array_equal(got[:used], 2 * rows[:used])
  assert not got[4 * parts :].any()


@pytest.mark.parametrize(
  'rows, row_len, expected', [(64, 80, 8), (8, 512, 1), (12, 100, 6), (4, 8, 4)]
)
def test_rows_at_once(rows, row_len, expected):
  """The smallest divisor with at least 512 columns; all rows if none has."""
  assert packing.rows_at_once(rows, row_len) == expected
  assert packing.rows_at_once(rows, row_len, 2) == 2


def test_each_device_has_a_row_of_those_at_once():
  mesh = jax.make_mesh((2, 2, 2), ('data', 'fsdp', 'tensor'))
  with jax.set_mesh(mesh):
    assert packing.rows_at_once(64, 512) == 4
    assert packing.rows_at_once(64, 300) == 8
    assert packing.rows_at_once(12, 512) == 4
