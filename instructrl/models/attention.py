"""Attention and rotary positions: functions of arrays.

Axis legend: B batch, T queries, C keys, H heads, Hkv key heads (H is a
multiple), Dh width of a head.
"""

import jax
import jax.numpy as jnp
import numpy as np


def frequencies(width: int, theta: float, scaling: tuple = ()) -> np.ndarray:
  """Radians per position of each pair that is rotated, [width / 2] float64.

  Args:
    width: of what is rotated.
    theta: wavelengths are 2 pi times its powers from 0 to 1.
    scaling: () for none; ('linear', factor) divides all frequencies;
      ('llama3', factor, low, high, original) divides those of which fewer than
      `low` waves fit into `original` positions, leaves those of which more
      than `high` do, and goes from one to the other between (Llama 3.1).
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
  """Cosine and sine of `rotary`'s angles, each [B, T, 1, width / 2] float32.

  Read from a table, which all layers share: a CPU would compute them again
  for every head of every layer.

  Args:
    positions: [B, T] int32, below `columns`.
    columns: rows of the table.
    width: of what is rotated: a head, or the first part of it.
    theta: see `frequencies`.
    scaling: see `frequencies`.
  """
  angles = np.arange(columns)[:, None] * frequencies(width, theta, scaling)
  return tuple(
    jnp.take(f(angles).astype(np.float32), positions, axis=0)[:, :, None]
    for f in (np.cos, np.sin)
  )


def rotary(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotary embedding of x [B, T, H, Dh] (Su et al. 2021), half-split form.

  What is wider than the angles are for stays as it is.
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
  """Contracts one axis each of two arrays with two batch axes."""
  return jax.lax.dot_general(
    a,
    b,
    (((axis_a,), (axis_b,)), ((0, 1), (0, 1))),
    preferred_element_type=dtype,
  )


@jax.custom_vjp
def softmax_attention(q, k, v, mask):
  """softmax(q k^T where mask) v, batch axes first.

  The weights are divided by their sum after they have met the values, and the
  sum in softmax's gradient is taken over the width of a head, not over keys
  (Dao et al. 2022, B.2), so that few passes over queries x keys are left.
  Each product of the gradient has the operand order that a CPU is fast at.

  Args:
    q: [B, H, T, Dh], scaled.
    k: [B, H, C, Dh].
    v: [B, H, C, Dh].
    mask: [B, 1, T, C] bool.

  Returns:
    [B, H, T, Dh] in the dtype of q; 0 for a query that sees nothing. Logits and
    softmax are float32.
  """
  return _attention_forward(q, k, v, mask)[0]


def _attention_forward(q, k, v, mask):
  logits = _batched(q, k, 3, 3, jnp.float32)
  lowest = jnp.finfo(jnp.float32).min
  logits = jnp.where(mask, logits, lowest)
  # Above `lowest`, so that the weights of a query that sees nothing are 0. Of
  # all others the largest weight is 1, and the total no less.
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
  """Softmax attention; grouped heads where k has fewer heads than q.

  Args:
    q: [B, T, H, Dh].
    k: [B, Hkv, C, Dh].
    v: [B, Hkv, C, Dh].
    mask: [B, T, C] bool, True where a query sees a key.
    block: queries whose logits are in memory at once, also in the backward
      pass, which computes them again; 0, or what does not divide T, is all.
    scale: of the logits; 0 is Dh ** -0.5.

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
  # The query heads of a group are folded into its queries, so that all that
  # follows is plain batched matrix products.
  q = q.reshape(batch, length, groups, share, width).transpose(0, 2, 3, 1, 4)
  q = q.reshape(batch, groups, share * length, width)
  q = q * jnp.asarray(scale or width**-0.5, q.dtype)
  out = softmax_attention(q, k, v, jnp.tile(mask, (1, share, 1))[:, None])
  out = out.reshape(batch, groups, share, length, width)
  return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)
