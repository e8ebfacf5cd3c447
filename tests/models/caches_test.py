"""Moving rows between caches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.models import caches
from instructrl.models.transformer import Cache

S, G, C, P = 6, 3, 5, 2


def make(rows, columns, scanned, seed):
  draw = np.random.default_rng(seed)
  floats = lambda *shape: draw.normal(size=shape).astype(np.float32)
  layer = (rows, 2, columns, 4)
  kv = lambda: floats(3, *layer) if scanned else (floats(*layer),) * 2
  ints = lambda: draw.integers(1, 9, (rows, columns)).astype(np.int32)
  return Cache(
    k=kv(), v=kv(), segment_ids=ints(), positions=ints(), index=jnp.int32(4)
  )


@pytest.mark.parametrize('scanned', [True, False])
@pytest.mark.parametrize('parts', [1, 2])
def test_a_row_is_copied_into_a_slot(scanned, parts):
  cache, source = make(S, C, scanned, 0), make(G, P, scanned, 1)
  for slot, row in ((0, 2), (4, 0)):
    got = caches.copy_row(cache, jnp.int32(slot), source, jnp.int32(row), parts)
    wanted = jax.tree.map(np.copy, cache)
    for name in ('k', 'v'):
      for x, new in zip(
        jax.tree.leaves(getattr(wanted, name)),
        jax.tree.leaves(getattr(source, name)),
      ):
        x[..., slot, :, :P, :] = new[..., row, :, :, :]
    for name in ('segment_ids', 'positions'):
      line = getattr(wanted, name)[slot]
      line[:P], line[P:] = getattr(source, name)[row], 0
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_rows_are_kept_within_their_part():
  x = np.arange(S * 2).reshape(S, 2)
  kept = jnp.array([[2, 0], [1, 2]])
  np.testing.assert_array_equal(caches.take(x, kept), x[[2, 0, 4, 5]])
  np.testing.assert_array_equal(
    caches.take(x.T, kept, axis=1), x.T[:, [2, 0, 4, 5]]
  )
