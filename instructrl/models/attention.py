"""Attention and rotary positions: functions of arrays.

Axis legend: B batch, T queries, C keys, H heads, Hkv key heads (H is a multiple
of Hkv), Dh width of a head.
"""

import jax
import jax.numpy as jnp
import numpy as np


def frequencies(width: int, theta: float, scaling: tuple = ()) -> np.ndarray:
  """Returns the radians per position of each rotated pair.

  Args:
    width: the number of rotated elements of a head.
    theta: wavelengths are 2 pi times the powers 0 to 1 of theta.
    scaling: () for none; ('linear', factor) divides all frequencies by the
      factor; ('llama3', factor, low, high, original) divides frequencies with
      fewer than `low` waves in `original` positions, keeps those with more than
      `high` waves, and interpolates in between (Llama 3.1).

  Returns:
    [width / 2] float64.
  """
  half = width // 2
  found = theta ** (-np.arange(half) / half)
  if not scaling:
    return found
  if scaling[0] == 'linear':
    return found / scaling[1]
  _, factor, low, high, original = scaling
  waves = original * found / (2 * np.pi)
  kept = np.clip((waves - low) / (high - low), 0, 1)
  return found * (kept + (1 - kept) / factor)


def rotations(
  positions: jax.Array,
  columns: int,
  width: int,
  theta: float,
  scaling: tuple = (),
) -> tuple[jax.Array, jax.Array]:
  """Returns cosine and sine of the angles of `rotary`.

  All layers share one table; without it a CPU would compute the angles for
  every head of every layer.

  Args:
    positions: [B, T] int32, below `columns`.
    columns: the number of rows of the table.
    width: the number of rotated elements of a head.
    theta: see `frequencies`.
    scaling: see `frequencies`.

  Returns:
    (cos, sin), each [B, T, 1, width / 2] float32.
  """
  angles = np.arange(columns)[:, None] * frequencies(width, theta, scaling)
  return tuple(
    jnp.take(f(angles).astype(np.float32), positions, axis=0)[:, :, None]
    for f in (np.cos, np.sin)
  )


def rotary(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates x [B, T, H, Dh] by positions (Su et al. 2021), half-split form.

  Elements of a head beyond the width of the angles are unchanged.
  """
  width = 2 * cos.shape[-1]
  if width < x.shape[-1]:
    return jnp.concatenate(
      [rotary(x[..., :width], cos, sin), x[..., width:]], axis=-1
    )
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate(
    [a * cos - b * sin, b * cos + a * sin], axis=-1
  ).astype(x.dtype)


def _batched(a, b, axis_a, axis_b, dtype):
  """Contracts `axis_a` of a with `axis_b` of b; both have two batch axes."""
  return jax.lax.dot_general(
    a,
    b,
    (((axis_a,), (axis_b,)), ((0, 1), (0, 1))),
    preferred_element_type=dtype,
  )


@jax.custom_vjp
def softmax_attention(q, k, v, mask):
  """Computes softmax(q k^T where mask) v, batch axes first.

  Normalizes after the product with the values, and computes the sum of
  softmax's gradient over the width of a head instead of the keys (Dao et al.
  2022, B.2). This saves passes over queries x keys. Each product of the
  gradient has the operand order that is fast on a CPU.

  Args:
    q: [B, H, T, Dh], scaled.
    k: [B, H, C, Dh].
    v: [B, H, C, Dh].
    mask: [B, 1, T, C] bool.

  Returns:
    [B, H, T, Dh] in the dtype of q; 0 for a query that sees no key. Logits and
    softmax are float32.
  """
  return _attention_forward(q, k, v, mask)[0]


def _attention_forward(q, k, v, mask):
  logits = _batched(q, k, 3, 3, jnp.float32)
  lowest = jnp.finfo(jnp.float32).min
  logits = jnp.where(mask, logits, lowest)
  # The peak is above `lowest`, so the weights of a query that sees no key are
  # 0. Every other query has a largest weight of 1, so its total is at least 1.
  peak = jnp.maximum(logits.max(axis=-1, keepdims=True), lowest / 2)
  weights = jnp.exp(logits - peak)
  total = jnp.maximum(weights.sum(axis=-1, keepdims=True), 1)
  weights = weights.astype(v.dtype)
  out = (_batched(weights, v, 3, 2, jnp.float32) / total).astype(q.dtype)
  return out, (q, k, v, weights, total, out)


def _attention_backward(saved, grad):
  q, k, v, weights, total, out = saved
  grad = grad.astype(jnp.float32) / total
  mean = (grad * out).sum(axis=-1, keepdims=True)
  grad = grad.astype(v.dtype)
  dlogits = _batched(grad, v, 3, 3, jnp.float32) - mean
  dlogits = (weights * dlogits).astype(q.dtype)
  dq = _batched(dlogits, k, 3, 2, q.dtype)
  dk = _batched(q, dlogits, 2, 2, k.dtype).swapaxes(2, 3)
  dv = _batched(grad, weights, 2, 2, v.dtype).swapaxes(2, 3)
  return dq, dk, dv, None


softmax_attention.defvjp(_attention_forward, _attention_backward)


def attention(q, k, v, mask, *, block: int = 0, scale: float = 0.0):
  """Computes softmax attention; grouped if k has fewer heads than q.

  Args:
    q: [B, T, H, Dh].
    k: [B, Hkv, C, Dh].
    v: [B, Hkv, C, Dh].
    mask: [B, T, C] bool, True where a query sees a key.
    block: the number of queries whose logits are in memory at once; the
      backward pass recomputes them. 0, or a number that does not divide T,
      means all.
    scale: factor of the logits; 0 means Dh ** -0.5.

  Returns:
    [B, T, H, Dh] in the dtype of q. Logits and softmax are float32.
  """
  batch, length, heads, width = q.shape
  if 0 < block < length and length % block == 0:
    blocks = lambda x: x.reshape(
      batch, length // block, block, *x.shape[2:]
    ).swapaxes(0, 1)
    part = jax.checkpoint(lambda q, mask: attention(q, k, v, mask, scale=scale))
    out = jax.lax.map(lambda inputs: part(*inputs), (blocks(q), blocks(mask)))
    return out.swapaxes(0, 1).reshape(q.shape)
  groups = k.shape[1]
  share = heads // groups
  # Fold the query heads of a group into its queries: the rest is plain batched
  # matrix products.
  q = q.reshape(batch, length, groups, share, width).transpose(0, 2, 3, 1, 4)
  q = q.reshape(batch, groups, share * length, width)
  q = q * jnp.asarray(scale or width**-0.5, q.dtype)
  out = softmax_attention(q, k, v, jnp.tile(mask, (1, share, 1))[:, None])
  out = out.reshape(batch, groups, share, length, width)
  return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)
