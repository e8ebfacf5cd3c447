"""Moves rows between caches.

The rows of a cache are divided over the parts of the mesh (data x fsdp). No
function here sends the rows of one part to another.

Axis legend: S slots (rows) of the cache, G rows of another cache.
"""

import dataclasses

import jax
import jax.numpy as jnp

from instructrl.models.transformer import Cache
from instructrl.runtime import sharding


def map_rows(fn, cache: Cache, *others: Cache) -> Cache:
  """Applies `fn(x, *xs, axis)` to each array; `axis` is the axis of rows."""
  columns = lambda *xs: fn(*xs, xs[0].ndim - 4)  # [..., B, Hkv, C, Dh]
  trees = lambda name: [getattr(c, name) for c in (cache, *others)]
  return dataclasses.replace(
    cache,
    k=jax.tree.map(columns, *trees('k')),
    v=jax.tree.map(columns, *trees('v')),
    segment_ids=fn(*trees('segment_ids'), 0),
    positions=fn(*trees('positions'), 0),
  )


def shared(cache: Cache, rules: sharding.Rules) -> Cache:
  """Constrains a cache inside jit to have all of its rows in every part."""

  def share(x, axis):
    axes = ('act_heads', 'act_len', None)[: x.ndim - axis - 1]
    axes = axes if len(axes) == 3 else (None,)
    return sharding.constrain(x, (*[None] * (axis + 1), *axes), rules)

  return map_rows(share, cache)


def copy_row(cache: Cache, slot, source: Cache, row, parts: int) -> Cache:
  """Replaces the content of a slot with a row of another cache.

  Args:
    cache: S rows.
    slot: [] int32, the slot.
    source: G rows with at most as many columns, `shared`; they become the first
      columns of the slot.
    row: [] int32, the row.
    parts: the parts of the mesh.
  """

  def put(x, new, axis):
    new = jax.lax.dynamic_slice_in_dim(new, row, 1, axis)
    if new.ndim == 2:  # segment ids and positions: clear the other columns
      new = jnp.pad(new, ((0, 0), (0, x.shape[1] - new.shape[1])))
    # Every part writes one of its slots, all parts but one what is there.
    size = x.shape[axis] // parts
    split = x.reshape(*x.shape[:axis], parts, size, *x.shape[axis + 1 :])
    new = jnp.expand_dims(new, axis)
    start = [0] * split.ndim
    start[axis + 1] = slot % size
    shape = [*new.shape[:axis], parts, *new.shape[axis + 1 :]]
    old = jax.lax.dynamic_slice(split, start, shape)
    own = jnp.arange(parts) == slot // size
    own = own.reshape([-1 if i == axis else 1 for i in range(new.ndim)])
    new = jnp.where(own, new, old)
    return jax.lax.dynamic_update_slice(split, new, start).reshape(x.shape)

  return map_rows(put, cache, source)


def take(x: jax.Array, kept: jax.Array, axis: int = 0) -> jax.Array:
  """Returns the kept rows of an array.

  Args:
    x: an array with S rows on `axis`, divided into parts.
    kept: [parts, rows] int32, for each part, rows within the part.
    axis: the axis of rows.
  """
  parts, rows = kept.shape
  before, after = x.shape[:axis], x.shape[axis + 1 :]
  pick = jax.vmap(lambda x, i: jnp.take(x, i, axis), (axis, 0), axis)
  picked = pick(x.reshape(*before, parts, -1, *after), kept)
  return picked.reshape(*before, parts * rows, *after)
