"""Reductions over the entries under a mask.

Every mean over tokens, pairs or prompts in the package is one of these, so no
denominator counts padding. Masked entries are replaced instead of multiplied by
zero, so a NaN or infinity in the padding does not reach a result. All functions
compute in float32 (or wider, if `x` is wider).
"""

import chex
import jax
import jax.numpy as jnp


def masked_sum(
  x: chex.Array, mask: chex.Array, axis: int | tuple[int, ...] | None = None
) -> jax.Array:
  """Sums `x` where `mask` is true.

  Args:
    x: any shape, any real dtype.
    mask: bool, of a shape that broadcasts to that of `x`.
    axis: the axes summed over; None is all of them.

  Returns:
    The sum, float32.
  """
  x, mask = _prepare(x, mask)
  return jnp.sum(jnp.where(mask, x, 0), axis=axis)


def masked_mean(
  x: chex.Array,
  mask: chex.Array,
  axis: int | tuple[int, ...] | None = None,
  *,
  count: chex.Numeric | None = None,
) -> jax.Array:
  """Averages `x` where `mask` is true; 0 for an empty mask.

  Args:
    x: any shape, any real dtype.
    mask: bool, of a shape that broadcasts to that of `x`.
    axis: the axes averaged over; None is all of them.
    count: the denominator; by default the number of true entries. With the
      count of the whole batch, the means of its microbatches, and their
      gradients, add up to those of the batch.

  Returns:
    The mean, float32. A count of zero gives 0 with a gradient of 0.
  """
  x, mask = _prepare(x, mask)
  if count is None:
    count = jnp.sum(mask, axis=axis)
  count = jnp.asarray(count, x.dtype)
  total = jnp.sum(jnp.where(mask, x, 0), axis=axis)
  return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), 0)


def masked_var(
  x: chex.Array, mask: chex.Array, axis: int | tuple[int, ...] | None = None
) -> jax.Array:
  """Returns the variance (over n, not n - 1) of `x` where `mask` is true.

  Args:
    x: any shape, any real dtype.
    mask: bool, of a shape that broadcasts to that of `x`.
    axis: the axes reduced over; None is all of them.

  Returns:
    The variance, float32; 0 for an empty mask.
  """
  x, mask = _prepare(x, mask)
  if axis is None:
    axis = tuple(range(x.ndim))
  mean = jnp.expand_dims(masked_mean(x, mask, axis), axis)
  return masked_mean(jnp.square(x - mean), mask, axis)


def whiten(
  x: chex.Array,
  mask: chex.Array,
  *,
  shift_mean: bool = True,
  epsilon: float = 1e-8,
) -> jax.Array:
  """Scales the entries under `mask` to variance 1 and, by default, mean 0.

  Call this on the whole batch of an iteration, as the code of Ziegler et al.
  2019
  does: whitening minibatches separately gives other numbers.

  Args:
    x: any shape, any real dtype.
    mask: bool, of a shape that broadcasts to that of `x`.
    shift_mean: False keeps the mean and scales only the deviations, as rewards
      need.
    epsilon: added to the variance; equal entries become 0.

  Returns:
    The whitened values, float32, of the shape of `x`; 0 outside the mask.
  """
  x, mask = _prepare(x, mask)
  mean = masked_mean(x, mask)
  whitened = (x - mean) * jax.lax.rsqrt(masked_var(x, mask) + epsilon)
  if not shift_mean:
    whitened += mean
  return jnp.where(mask, whitened, 0)


def _prepare(x, mask):
  """Widens `x` to at least float32 and gives `mask` its shape."""
  chex.assert_type(mask, bool)
  x = jnp.asarray(x)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return x, jnp.broadcast_to(mask, x.shape)
