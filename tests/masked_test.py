import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl import masked

X = np.array([[1.0, 2.0, 6.0], [4.0, 50.0, 60.0]], np.float32)
MASK = np.array([[True, True, True], [True, False, False]])


def test_sum_by_hand():
  assert masked.masked_sum(X, MASK) == 13
  np.testing.assert_array_equal(masked.masked_sum(X, MASK, 1), [9, 4])
  np.testing.assert_array_equal(masked.masked_sum(X, MASK, 0), [5, 2, 6])


def test_mean_divides_by_what_the_mask_holds():
  assert masked.masked_mean(X, MASK) == 13 / 4
  np.testing.assert_array_equal(masked.masked_mean(X, MASK, 1), [3, 4])
  np.testing.assert_array_equal(masked.masked_mean(X, MASK, (0, 1)), 13 / 4)


def test_mean_with_a_given_count():
  assert masked.masked_mean(X, MASK, count=10) == np.float32(1.3)
  assert masked.masked_mean(X, MASK, count=jnp.int32(10)) == np.float32(1.3)


def test_variance_by_hand():
  # Mean 3, deviations -2, -1, 3: (4 + 1 + 9) / 3.
  np.testing.assert_allclose(
    masked.masked_var(X, MASK, 1), [14 / 3, 0], rtol=1e-6
  )
  np.testing.assert_allclose(
    masked.masked_var(X, MASK), np.var([1, 2, 6, 4]), rtol=1e-6
  )


def test_a_mask_broadcasts():
  column = np.array([[True], [False]])
  assert masked.masked_sum(X, column) == 9
  assert masked.masked_mean(X, column) == 3


@pytest.mark.parametrize('axis', [None, 0, 1])
def test_an_empty_mask_gives_zero_and_a_zero_gradient(axis):
  empty = np.zeros_like(MASK)
  for function in (masked.masked_mean, masked.masked_var):
    assert not np.any(function(X, empty, axis))
    gradient = jax.grad(lambda x, f=function: jnp.sum(f(x, empty, axis)))(X)
    np.testing.assert_array_equal(gradient, np.zeros_like(X))
  assert masked.masked_mean(X, MASK, count=0) == 0
  gradient = jax.grad(lambda x: masked.masked_mean(x, MASK, count=0))(X)
  np.testing.assert_array_equal(gradient, np.zeros_like(X))
  np.testing.assert_array_equal(masked.whiten(X, empty), np.zeros_like(X))


@pytest.mark.parametrize('garbage', [np.nan, np.inf, -np.inf])
def test_garbage_in_the_padding_reaches_nothing(garbage):
  dirty = np.where(MASK, X, np.float32(garbage))
  for function in (
    masked.masked_sum,
    masked.masked_mean,
    masked.masked_var,
    masked.whiten,
  ):
    np.testing.assert_array_equal(function(dirty, MASK), function(X, MASK))
  gradient = jax.grad(lambda x: masked.masked_mean(x, MASK))(dirty)
  np.testing.assert_array_equal(gradient, MASK / np.float32(4))


def test_the_result_is_float32_whatever_the_input():
  low = jnp.asarray(X, jnp.bfloat16)
  for x in (low, X.astype(np.int32), X > 2):
    assert masked.masked_sum(x, MASK).dtype == jnp.float32
    assert masked.masked_mean(x, MASK).dtype == jnp.float32
    assert masked.whiten(x, MASK).dtype == jnp.float32
  # 256 + 1 is 256 in bfloat16.
  many = jnp.ones((300,), jnp.bfloat16)
  assert masked.masked_sum(many, jnp.ones((300,), bool)) == 300


def test_a_mask_that_is_not_bool_is_refused():
  with pytest.raises(AssertionError):
    masked.masked_mean(X, MASK.astype(np.float32))


def test_whiten_equals_numpy():
  entries = X[MASK]
  expected = (entries - entries.mean()) / entries.std()
  whitened = np.asarray(masked.whiten(X, MASK))
  np.testing.assert_allclose(whitened[MASK], expected, rtol=1e-5)
  np.testing.assert_array_equal(whitened[~MASK], 0)


def test_whiten_can_keep_the_mean():
  whitened = np.asarray(masked.whiten(X, MASK, shift_mean=False))
  np.testing.assert_allclose(whitened[MASK].mean(), X[MASK].mean(), rtol=1e-6)
  np.testing.assert_allclose(whitened[MASK].std(), 1, rtol=1e-5)
  np.testing.assert_array_equal(whitened[~MASK], 0)


def test_whitening_equal_entries_gives_zeros():
  whitened = masked.whiten(
    np.full((4, 3), 7.0, np.float32), np.ones((4, 3), bool)
  )
  np.testing.assert_array_equal(whitened, 0)


def test_microbatches_add_up_to_the_batch():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(8, 5)).astype(np.float32)
  lengths = rng.integers(0, 6, size=8)
  mask = np.arange(5) < lengths[:, None]
  whole = masked.masked_mean(x, mask)
  parts = [
    masked.masked_mean(x[i : i + 2], mask[i : i + 2], count=mask.sum())
    for i in range(0, 8, 2)
  ]
  np.testing.assert_allclose(sum(parts), whole, rtol=1e-6)
  # A mean of means would weigh tokens of short responses more.
  means = [
    masked.masked_mean(x[i : i + 2], mask[i : i + 2]) for i in range(0, 8, 2)
  ]
  assert abs(np.mean(means) - whole) > 1e-3


def test_whitening_parts_is_not_whitening_the_whole():
  whole = masked.whiten(X, MASK)
  parts = [masked.whiten(X[i : i + 1], MASK[i : i + 1]) for i in (0, 1)]
  assert np.max(np.abs(np.concatenate(parts) - whole)) > 0.3


def test_whitening_is_the_same_on_eight_devices():
  devices = np.array(jax.devices()[:8])
  mesh = jax.sharding.Mesh(devices, ('data',))
  rng = np.random.default_rng(0)
  x = rng.normal(3, 2, size=(16, 5)).astype(np.float32)
  mask = np.arange(5) < rng.integers(1, 6, size=16)[:, None]
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  sharded = jax.jit(masked.whiten)(
    jax.device_put(x, rows), jax.device_put(mask, rows)
  )
  assert len(sharded.sharding.device_set) == 8
  # Whitened values are of size 1; the order of the sums differs.
  np.testing.assert_allclose(sharded, masked.whiten(x, mask), atol=5e-6)
