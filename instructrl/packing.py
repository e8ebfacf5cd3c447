"""Packs episodes into rows with little padding, inside a jitted program.

Most episodes are far shorter than the longest that is allowed. Packed rows save
a model from computing the padding. Lengths are known on the device only, after
sampling. So packing is part of the program: no step waits for the host, and one
program serves all lengths.

Axis legend: B episodes, P prompt, R response, N rows (N = B, most of them
empty), L columns of a row (L = P + R).
"""

import math

import chex
import jax
import jax.numpy as jnp

from instructrl.types import LMBatch, pytree

# The fewest columns that a device computes at once. Fewer make the products of
# matrices slower, more make the last part of a batch emptier.
MIN_COLUMNS = 512


@pytree
class Packing:
  """The rows of B episodes, and the place of each action in them.

  An action is predicted at the column before it, as every target.
  """

  rows: LMBatch  # [N, L]; the targets that count are the responses' tokens
  actions: jax.Array  # [N, L] int32, index in [B * R] of each such target
  columns: jax.Array  # [B, R] int32, index in [N * L] of what predicts it
  mask: jax.Array  # [B, R] bool, the response mask
  num_rows: jax.Array  # [] int32; the first rows have all episodes

  def spread(self, x: jax.Array) -> jax.Array:
    """Returns values of actions [B, R] as [N, L]; 0 where there is none."""
    counted = self.rows.loss_mask
    return jnp.where(counted, x.reshape(-1)[self.actions], 0)

  def collect(self, x: jax.Array) -> jax.Array:
    """Returns values of columns [N, L] as those of actions, [B, R]."""
    return jnp.where(self.mask, x.reshape(-1)[self.columns], 0)

  def collect_last(self, x: jax.Array) -> jax.Array:
    """Returns values of columns [N, L] at each last response token, [B]."""
    last = self.columns[:, 0] + self.mask.sum(axis=1)
    return x.reshape(-1)[last]


def pack(
  tokens: jax.Array, prompt_mask: jax.Array, response_mask: jax.Array
) -> Packing:
  """Packs episodes; best fit, the longest first.

  Args:
    tokens: [B, P + R] int32; prompts end at column P, responses start there.
    prompt_mask: [B, P] bool, at least one token of each row.
    response_mask: [B, R] bool, at least one token of each row.
  """
  chex.assert_rank([tokens, prompt_mask, response_mask], 2)
  batch, length = tokens.shape
  prompt_len, response_len = prompt_mask.shape[1], response_mask.shape[1]
  prompts, responses = prompt_mask.sum(axis=1), response_mask.sum(axis=1)
  row, start, num_rows = _best_fit(prompts + responses, length)

  # For each column: the episode that it belongs to, and its place there.
  column = jnp.arange(length)
  starts = jnp.zeros((batch, length), jnp.int32)
  starts = starts.at[row, start].set(1 + jnp.arange(batch))
  first = jax.lax.cummax(jnp.where(starts > 0, column, 0), axis=1)
  episode = jnp.take_along_axis(starts, first, axis=1) - 1
  position = column - first
  inside = (episode >= 0) & (position < (prompts + responses)[episode])
  source = prompt_len - prompts[episode] + position
  action = source + 1 - prompt_len  # that the target is
  counted = inside & (action >= 0) & (action < responses[episode])
  zero = lambda keep, x: jnp.where(keep, x, 0)
  first_action = row * length + start + prompts - 1
  return Packing(
    rows=LMBatch(
      tokens=zero(inside, tokens[episode, zero(inside, source)]),
      targets=zero(counted, tokens[episode, zero(counted, source + 1)]),
      loss_mask=counted,
      positions=zero(inside, position),
      segment_ids=zero(inside, jnp.cumsum(starts > 0, axis=1)),
    ),
    actions=zero(counted, episode * response_len + action),
    columns=first_action[:, None] + jnp.arange(response_len),
    mask=response_mask,
    num_rows=num_rows,
  )


def _best_fit(lengths, row_len: int):
  """Returns (row, first column) of each episode, and the number of rows."""
  order = jnp.argsort(-lengths, stable=True)

  def place(free, length):
    # Unused rows are the emptiest: one is taken only if no other has room.
    row = jnp.argmin(jnp.where(free >= length, free, row_len + 1))
    return free.at[row].add(-length), (row, row_len - free[row])

  free = jnp.full(lengths.shape, row_len, lengths.dtype)
  free, placed = jax.lax.scan(place, free, lengths[order])
  row, start = (jnp.zeros_like(order).at[order].set(x) for x in placed)
  return row, start, (free < row_len).sum()


def rows_at_once(rows: int, row_len: int, size: int = 0) -> int:
  """Returns how many packed rows are computed at once.

  Args:
    rows: N.
    row_len: L.
    size: the number that the config asks for. 0 = the smallest divisor of N
      that gives each device a row, and `MIN_COLUMNS` columns.
  """
  if size:
    return size
  mesh = jax.sharding.get_abstract_mesh()
  devices = math.prod(mesh.shape.get(axis, 1) for axis in ('data', 'fsdp'))
  least = devices * -(-MIN_COLUMNS // row_len)
  divisors = (n for n in range(1, rows + 1) if rows % n == 0)
  return next((n for n in divisors if n >= least and n % devices == 0), rows)


def split(tree, size: int):
  """Reshapes each leaf [N, ...] to [N / size, size, ...], rows in order."""
  return jax.tree.map(
    lambda x: x.reshape(x.shape[0] // size, size, *x.shape[1:]), tree
  )


def map_rows(fn, rows, num_rows: jax.Array, size: int):
  """Applies `fn` to `size` rows after `size` rows, up to `num_rows`.

  Args:
    fn: tree of [size, ...] -> tree of [size, ...], each row on its own.
    rows: tree of [N, ...].
    num_rows: [] int32, the rows that are used.
    size: divides N.

  Returns:
    A tree of [N, ...]; 0 beyond the parts that were computed.
  """
  parts = split(rows, size)
  part = lambda i: jax.tree.map(lambda x: x[i], parts)
  count = jax.tree.leaves(parts)[0].shape[0]
  if count == 1:
    return fn(part(0))
  out = jax.tree.map(
    lambda x: jnp.zeros((count, *x.shape), x.dtype), jax.eval_shape(fn, part(0))
  )
  put = lambda x, new, i: jax.lax.dynamic_update_index_in_dim(x, new, i, 0)
  out = jax.lax.fori_loop(
    0,
    num_parts(num_rows, size),
    lambda i, out: jax.tree.map(lambda x, y: put(x, y, i), out, fn(part(i))),
    out,
  )
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)


def num_parts(num_rows: jax.Array, size: int) -> jax.Array:
  """Returns the number of parts of `size` rows that have a used row."""
  return (num_rows + size - 1) // size
