"""Parts of a batch of rankings against the whole batch."""

import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrl import packing
from instructrl.data import tasks
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import dpo
from instructrl.stages import ranking_parts
from instructrl.stages import reward
from tests import tiny

MODEL = tiny.model()
PARAMS = {
  'backbone': tiny.params(MODEL),
  'head': {'kernel': jnp.full(32, 0.1), 'bias': jnp.zeros(())},
}
MOST = 32
WIDTHS = (12, 20, MOST)
LENGTHS = (9, 31, 12, 18, 26, 11, 21, 13)  # of the prompt and all responses


def make_batch(k: int):
  """Rankings of 2 to `k` responses, with a tie in every third one."""
  rng = np.random.default_rng(k)
  built = []
  for i, length in enumerate(LENGTHS):
    own = min(k, 2 + i % 8)
    responses = [1] * own  # tokens of each
    for j in rng.integers(0, own, max(0, (length - own) // 2)):
      responses[j] += 1
    # Without equal responses, whose order would be a matter of rounding.
    tokens = iter(rng.permutation(np.arange(3, tiny.VOCAB)).tolist())
    draw = lambda n: list(itertools.islice(tokens, n))
    ranks = [0, 0, *range(1, own)][:own] if i % 3 == 0 else range(own)
    built.append(
      tasks.ranking_example(
        draw(length - sum(responses)),
        [draw(n) for n in responses],
        ranks,
        max_k=k,
        seq_len=MOST,
        eos_id=tiny.EOS,
      )
    )
  return jax.tree.map(lambda *x: np.stack(x), *built)


def test_few_widths_with_little_padding():
  widths = [ranking_parts.width(n) for n in range(1, 20_000)]
  assert sorted(set(widths))[:8] == [32, 64, 96, 128, 192, 256, 384, 512]
  assert len(set(widths)) == 19  # two for each doubling
  for length, width in enumerate(widths, 1):
    assert length <= width < 1.5 * max(length + 1, 64)
  assert 1.1 < sum(widths) / sum(range(1, 20_000)) < 1.25


def test_the_widths_of_a_data_set():
  """The longest ranking needs 416 columns, a tenth at most less than 96."""
  lengths = np.asarray([10, 80, 100, 101, 140, 150, 200, 300, 390, 401])
  assert ranking_parts.widths(lengths) == (96, 128, 192, 256, 384, 416)
  assert ranking_parts.widths(np.asarray([7, 7])) == (32,)


def test_the_columns_of_parts():
  widths = ranking_parts.part_widths(np.asarray(LENGTHS), WIDTHS, 2)
  assert widths == [32, 32, 20, 12]  # of 31 and 26, 21 and 18, 13, 12, 11 and 9
  assert ranking_parts.part_widths(np.asarray(LENGTHS), WIDTHS, 8) == [32]


def test_parts_of_lognormal_lengths_have_little_padding():
  """Table 9's prompts and Table 11's demonstrations, K = 4, 64 rankings."""
  rng = np.random.default_rng(0)
  draw = lambda mean, ratio, shape: rng.lognormal(
    np.log(mean) - np.log1p(ratio**2) / 2, np.log1p(ratio**2) ** 0.5, shape
  )
  lengths = draw(199, 334 / 199, 4096) + draw(88, 179 / 88, (4096, 4)).sum(1)
  lengths = np.ceil(lengths[lengths < 4096]).astype(int)[:3072]
  widths = ranking_parts.widths(lengths)
  rows = ranking_parts.rows(64, widths, 0)
  computed = sum(
    rows * sum(ranking_parts.part_widths(batch, widths, rows))
    for batch in np.sort(lengths)
    .reshape(3, 16, 64)
    .swapaxes(0, 1)
    .reshape(-1, 64)
  )
  assert 1.1 < computed / lengths.sum() < 1.3
  assert len(widths) < 12


@functools.cache
def descended(k: int, widths: tuple, size: int):
  """Returns the gradient and the metrics of a step of the reward model."""
  step = reward.make_step(
    MODEL, optax.sgd(1.0), lambda step: 0.5, microbatch_size=size, widths=widths
  )
  state = build.fresh_state(PARAMS, optax.sgd(1.0))
  after, metrics = tiny.jit(step)(state, make_batch(k))
  return jax.tree.map(jnp.subtract, state.params, after.params), metrics


@pytest.mark.parametrize(
  'k, size',
  [
    pytest.param(2, 0, marks=pytest.mark.slow),
    pytest.param(2, 4, marks=pytest.mark.slow),
    pytest.param(6, 2, marks=pytest.mark.slow),
    (9, 1),
  ],
)
def test_a_step_in_parts_equals_that_of_the_whole_batch(k, size, monkeypatch):
  monkeypatch.setattr(packing, 'MIN_COLUMNS', 24)  # two rankings are enough
  expected, metrics = descended(k, (), 0)
  grads, found = descended(k, WIDTHS, size)
  chex.assert_trees_all_close(grads, expected, atol=1e-6)
  chex.assert_trees_all_close(found, metrics, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_four_devices_equal_one():
  """Two parts, each with a ranking on every device."""
  expected, metrics = descended(4, (), 0)
  mesh = sharding.make_mesh({'data': 4}, jax.devices()[:4])
  with jax.set_mesh(mesh):
    step = jax.jit(
      reward.make_step(
        MODEL,
        optax.sgd(1.0),
        lambda step: 0.5,
        microbatch_size=4,
        widths=WIDTHS,
      )
    )
    state = build.fresh_state(PARAMS, optax.sgd(1.0))
    after, found = step(state, sharding.put_batch(make_batch(4), mesh))
  grads = jax.tree.map(np.subtract, state.params, after.params)
  chex.assert_trees_all_close(grads, expected, atol=1e-6)
  chex.assert_trees_all_close(found, metrics, rtol=1e-5, atol=1e-6)


def test_a_part_computes_its_own_columns_only():
  shapes = []

  def fn(params, part):
    del params
    shapes.append(part.tokens.shape)
    return part.tokens.sum(axis=1) + 0 * part.tokens.shape[1]

  batch = make_batch(4)
  found = ranking_parts.mapped(fn, None, batch, WIDTHS, 2)
  assert sorted(set(shapes)) == [(2, n) for n in WIDTHS]
  np.testing.assert_array_equal(found, batch.tokens.sum(axis=1))
  # The width is that of the longest ranking of each part.
  columns = ranking_parts.mapped(
    lambda params, part: jnp.full(2, part.tokens.shape[1]),
    None,
    batch,
    WIDTHS,
    2,
  )
  assert columns.tolist() == [12, 32, 20, 32, 32, 12, 32, 20]


def test_logprobs_in_parts_keep_the_order_of_the_batch():
  batch = make_batch(4)
  logprobs = lambda params, batch: dpo.ranked_logprobs(MODEL, params, batch, 0)
  params = PARAMS['backbone']
  np.testing.assert_allclose(
    tiny.jit(
      lambda batch: ranking_parts.mapped(logprobs, params, batch, WIDTHS, 2)
    )(batch),
    tiny.jit(logprobs)(params, batch),
    atol=1e-5,
  )


def test_the_fields_of_other_batches_move_too():
  batch = make_batch(4)
  batch = dpo.with_reference(batch, np.arange(8.0)[:, None] + np.zeros(4))
  parts, order = ranking_parts.split(batch, 2)
  assert isinstance(parts, dpo.ReferenceBatch)
  by_part = parts.ref_logprobs[:, :, 0]
  assert by_part.tolist() == [[1, 4], [6, 3], [7, 2], [5, 0]]
  assert dataclasses.asdict(parts).keys() == dataclasses.asdict(batch).keys()
  assert sorted(order.tolist()) == list(range(8))
