"""Attention that computes only the tiles of the logits that a mask needs.

A row with several segments, such as a prompt with its responses, needs few of
its T x T logits. The logits are cut into tiles. Tiles in which no query may see
a key are left out. The others are computed one after another, in loops whose
lengths depend on the mask, so one program serves all masks. The softmax is
computed tile by tile (Dao et al. 2022, algorithm 1), and the backward pass
computes the logits again (algorithm 4).

The loops suit a CPU. GPUs and TPUs need larger products.

Axis legend: B batch, T tokens, H heads, Hkv key heads, Dh width of a head, S
columns of a tile, N = T / S tiles of a row, rounded up.
"""

import jax
import jax.numpy as jnp

from instructrl.types import pytree

SIZE = 64  # S
MIN_LENGTH = 256  # columns; with fewer the loops cost what the tiles save


@pytree
class Tiles:
  """The tiles of a mask, in the order of their queries."""

  keys: jax.Array  # [B, N, N] int32, tiles of keys; the needed ones come first
  count: jax.Array  # [B, N] int32, the number of needed ones
  mask: jax.Array  # [B, N, N, S, S] bool; tile of queries, tile of keys


def needed_tiles(mask: jax.Array) -> Tiles:
  """Finds the tiles with a query that sees a key.

  Args:
    mask: [B, T, T] bool, True where a query sees a key.
  """
  batch, length, _ = mask.shape
  n = -(-length // SIZE)
  rest = 0, n * SIZE - length
  mask = jnp.pad(mask, ((0, 0), rest, rest))
  mask = mask.reshape(batch, n, SIZE, n, SIZE).swapaxes(2, 3)
  needed = mask.any(axis=(3, 4))
  return Tiles(
    keys=jnp.argsort(~needed, axis=2, stable=True).astype(jnp.int32),
    count=needed.sum(axis=2, dtype=jnp.int32),
    mask=mask,
  )


def attention(q, k, v, *, tiles: Tiles, scale: float = 0.0):
  """Computes the same as `attention.attention` with the mask of the tiles.

  Args:
    q: [B, T, H, Dh].
    k: [B, Hkv, T, Dh].
    v: [B, Hkv, T, Dh].
    tiles: from `needed_tiles`.
    scale: factor of the logits; 0 means Dh ** -0.5.

  Returns:
    [B, T, H, Dh] in the dtype of q; 0 for a query that sees no key. Logits and
    softmax are float32.
  """
  batch, length, heads, width = q.shape
  n = tiles.count.shape[1]
  rest = 0, n * SIZE - length

  def split(x):  # [B, T, Hkv, Dh] -> [B * N, H, S, Dh]
    x = jnp.pad(x, ((0, 0), rest, (0, 0), (0, 0)))
    x = jnp.repeat(x, heads // x.shape[2], axis=2)
    return x.reshape(batch * n, SIZE, heads, width).swapaxes(1, 2)

  q = q * jnp.asarray(scale or width**-0.5, q.dtype)
  k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
  out = _attention(split(q), split(k), split(v), tiles).swapaxes(1, 2)
  return out.reshape(batch, n * SIZE, heads, width)[:, :length]


@jax.custom_vjp
def _attention(q, k, v, tiles):
  """Returns the outputs of tiles of queries, from arrays [B * N, H, S, Dh]."""
  return _attention_forward(q, k, v, tiles)[0]


def _attention_forward(q, k, v, tiles):
  lowest = jnp.finfo(jnp.float32).min / 2  # above the logits of hidden keys

  def of_queries(i, carry):
    out, log_total = carry
    own = _at(q, i)

    def add(found, key, mask):
      """Adds a tile of keys to the softmax of a tile of queries."""
      peak, total, out = found
      logits = _logits(own, _at(k, key), mask)
      higher = jnp.maximum(peak, logits.max(axis=2, keepdims=True))
      weights, kept = jnp.exp(logits - higher), jnp.exp(peak - higher)
      total = kept * total + weights.sum(axis=2, keepdims=True)
      product = _dot(weights.astype(v.dtype), _at(v, key), 2, 1)
      return higher, total, kept * out + product

    column = jnp.zeros((*own.shape[:2], 1), jnp.float32)
    start = column + lowest, column, jnp.zeros(own.shape, jnp.float32)
    peak, total, found = _over_keys(tiles, i, add, start)
    # A query that sees a key has a largest weight of 1, so its total is 1 or
    # more.
    total = jnp.maximum(total, 1)
    put = _put(out, (found / total).astype(out.dtype), i)
    return put, _put(log_total, peak + jnp.log(total), i)

  log_total = jnp.zeros((*q.shape[:3], 1), jnp.float32)
  start = jnp.zeros_like(q), log_total
  out, log_total = jax.lax.fori_loop(0, q.shape[0], of_queries, start)
  return out, (q, k, v, tiles, out, log_total)


def _attention_backward(saved, grad):
  q, k, v, tiles, out, log_total = saved
  mean = (grad.astype(jnp.float32) * out).sum(axis=3, keepdims=True)

  def of_queries(i, carry):
    dq, dk, dv = carry
    own, own_grad, own_mean, own_total = (
      _at(x, i) for x in (q, grad, mean, log_total)
    )

    def add(found, key, mask):
      dq, dk, dv = found
      keys, values = _at(k, key), _at(v, key)
      weights = jnp.exp(_logits(own, keys, mask) - own_total)
      dlogits = weights * (_dot(own_grad, values, 2, 2) - own_mean)
      dlogits, weights = dlogits.astype(q.dtype), weights.astype(v.dtype)
      dk = _put(dk, _at(dk, key) + _dot(dlogits, own, 1, 1), key)
      dv = _put(dv, _at(dv, key) + _dot(weights, own_grad, 1, 1), key)
      return dq + _dot(dlogits, keys, 2, 1), dk, dv

    start = jnp.zeros(own.shape, jnp.float32), dk, dv
    own_dq, dk, dv = _over_keys(tiles, i, add, start)
    return _put(dq, own_dq, i), dk, dv

  zeros = jnp.zeros(q.shape, jnp.float32)
  found = jax.lax.fori_loop(0, q.shape[0], of_queries, (zeros, zeros, zeros))
  return *(dx.astype(x.dtype) for dx, x in zip(found, (q, k, v))), None


_attention.defvjp(_attention_forward, _attention_backward)


def _over_keys(tiles: Tiles, i, body, carry):
  """Applies a body to the tiles of keys that a tile of queries needs.

  Args:
    tiles: of the mask.
    i: index of the tile of queries, below B * N.
    body: (carry, index of the tile of keys, its mask [S, S]) -> carry.
    carry: the first one.
  """
  n = tiles.count.shape[1]
  keys = _at(tiles.keys.reshape(-1, n), i)
  masks = _at(tiles.mask.reshape(-1, *tiles.mask.shape[2:]), i)

  def step(j, carry):
    return body(carry, i // n * n + keys[j], _at(masks, keys[j]))

  return jax.lax.fori_loop(0, tiles.count.reshape(-1)[i], step, carry)


def _logits(q, k, mask):
  return jnp.where(mask, _dot(q, k, 2, 2), jnp.finfo(jnp.float32).min)


def _dot(a, b, axis_a, axis_b):
  """Contracts `axis_a` of a with `axis_b` of b; the first axis is a batch."""
  axes = ((axis_a,), (axis_b,)), ((0,), (0,))
  return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _at(x, i):
  return jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False)


def _put(x, new, i):
  return jax.lax.dynamic_update_index_in_dim(x, new, i, 0)
