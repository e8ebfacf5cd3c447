"""Tiles of attention against attention over all keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.models import attention
from instructrl.models import sparse
from instructrl.types import PREFIX
from tests import tiny

S, WIDTH = sparse.SIZE, 4


def row(*parts):
  """Returns the ids of (id, length) parts."""
  return np.concatenate([np.full(n, i, np.int32) for i, n in parts])


# A prompt with responses, and one that no tile divides, with padding inside.
LENGTH = 3 * S + 10
IDS = np.stack(
  [
    row((PREFIX, S - 8), (1, S + 20), (2, S - 7), (0, 5)),
    row((0, 5), (PREFIX, 2), (1, 2 * S), (0, LENGTH - 2 * S - 7)),
  ]
)


def mask_of(ids):
  same = (ids[:, :, None] == ids[:, None]) | (ids[:, None] == PREFIX)
  causal = np.tri(ids.shape[1], dtype=bool)
  return jnp.asarray(same & causal & (ids != 0)[:, :, None])


def inputs(heads, kv_heads, dtype='float32'):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  keys = len(IDS), kv_heads, LENGTH, WIDTH
  return draw(len(IDS), LENGTH, heads, WIDTH), draw(*keys), draw(*keys)


@pytest.mark.parametrize(
  'heads, kv_heads, scale, dtype, tolerance',
  [
    (3, 3, 0, 'float32', 1e-5),
    (4, 2, 0.3, 'float32', 1e-5),
    (2, 1, 0, 'bfloat16', 0.1),
  ],
)
def test_values_and_gradients_are_those_of_attention(
  heads, kv_heads, scale, dtype, tolerance
):
  arrays, mask = inputs(heads, kv_heads, dtype), mask_of(IDS)
  tiles = sparse.needed_tiles(mask)
  out, pull = jax.vjp(
    functools.partial(sparse.attention, tiles=tiles, scale=scale), *arrays
  )
  expected, expected_pull = jax.vjp(
    functools.partial(attention.attention, mask=mask, scale=scale), *arrays
  )
  assert out.dtype == dtype
  close = functools.partial(np.testing.assert_allclose, atol=tolerance)
  as_float = lambda x: np.asarray(x, np.float32)
  close(as_float(out), as_float(expected))
  assert not as_float(out)[IDS == 0].any()
  grad = jnp.cos(jnp.arange(out.size)).reshape(out.shape).astype(dtype)
  for found, wanted in zip(pull(grad), expected_pull(grad)):
    assert found.dtype == dtype
    close(as_float(found), as_float(wanted))


def test_tiles_that_no_query_needs_are_not_computed():
  """Keys of tiles without a pair may have any value, also in the gradient."""
  q, k, v = inputs(2, 2)
  ids = np.stack([row((1, S), (2, S), (3, S), (0, 10))] * 2)
  tiles = sparse.needed_tiles(mask_of(ids))
  assert tiles.count.tolist() == [[1, 1, 1, 0]] * 2
  k, v = (x.at[:, :, S : 2 * S].set(jnp.nan) for x in (k, v))

  def loss(q, k, v):
    out = sparse.attention(q, k, v, tiles=tiles)
    return jnp.where((ids == 2)[:, :, None, None], 0, out).sum()

  _, (dq, dk, dv) = jax.value_and_grad(loss, (0, 1, 2))(q, k, v)
  others = np.arange(LENGTH) // S != 1
  assert np.isfinite(dq[:, others]).all()
  assert np.isfinite(dk[:, :, others]).all()
  assert np.isfinite(dv[:, :, others]).all()


def test_the_count_is_that_of_tiles_with_a_pair():
  tiles = sparse.needed_tiles(mask_of(IDS))
  assert tiles.count.tolist() == [[1, 2, 3, 3], [1, 2, 3, 0]]
  # The second response begins in tile 2: tile 1 has only the first one.
  assert tiles.keys[0, 3, :3].tolist() == [0, 2, 3]


@pytest.mark.parametrize(
  'remat', ['none', pytest.param('full', marks=pytest.mark.slow)]
)
@pytest.mark.parametrize('shared_prefix', [False, True])
def test_a_model_learns_the_same(remat, shared_prefix):
  ids = row((PREFIX if shared_prefix else 9, 100), (1, 80), (2, 90), (0, 10))
  ids = ids[None]
  positions = np.arange(ids.shape[1], dtype=np.int32)[None]
  tokens = positions % tiny.VOCAB

  def found(**fields):
    m = tiny.model(max_len=ids.shape[1], remat=remat, **fields)

    def loss(params):
      hidden, _ = m.apply(
        params, tokens, positions, ids, shared_prefix=shared_prefix
      )
      return jnp.where(ids[:, :, None] != 0, hidden, 0).std()

    return jax.jit(jax.value_and_grad(loss))(tiny.params(m))

  assert ids.shape[1] >= sparse.MIN_LENGTH
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    found(),
    found(attention='xla'),
  )
