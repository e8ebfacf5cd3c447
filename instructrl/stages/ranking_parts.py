"""Parts of a batch of rankings, each as wide as its own rankings need.

A step sorts the rankings of its batch by length and computes a few at a time.
Each part takes the narrowest of a few widths that holds its longest ranking.
The widths are branches of one program: lengths are read on the device, no step
waits for the host, and nothing is compiled after the first step. The batch and
its loss stay the same; sums are in another order.

B rankings, T columns, K responses per prompt.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from instructrl import packing
from instructrl.data import pipeline
from instructrl.runtime import optimizer
from instructrl.types import Params, RankingBatch

COLUMNS = 32  # the number of columns of a batch is a multiple of this
# Rankings shorter than this share of all take the same width: they are a small
# part of the work, and each width is compiled.
SHORT = 0.1


def columns(length: int) -> int:
  """Returns `length`, rounded up to a multiple of COLUMNS."""
  return COLUMNS * -(-int(length) // COLUMNS)


def width(length: int) -> int:
  """Returns the columns of a batch whose longest element has `length` tokens.

  A width is a power of two, or three quarters of one. Each width is compiled,
  so there are two per doubling; about a seventh of a batch is padding.
  """
  most = COLUMNS << max(0, (int(length) - 1) // COLUMNS).bit_length()
  less = most * 3 // 4
  return less if length <= less and less % COLUMNS == 0 else most


def widths(lengths: np.ndarray) -> tuple[int, ...]:
  """Returns the widths for rankings of these lengths, in rising order.

  Args:
    lengths: [N] tokens of the prompt and all responses.
  """
  most, least = columns(lengths.max()), np.quantile(lengths, SHORT)
  return tuple(
    sorted({min(most, width(n)) for n in np.unique(lengths) if n >= least})
  )


def rows(batch_size: int, widths: Sequence[int], size: int) -> int:
  """Returns the number of rankings in a part.

  Args:
    batch_size: B, over all processes.
    widths: from `widths`.
    size: the number that the config asks for; 0 = few, see
      `packing.rows_at_once`.
  """
  return packing.rows_at_once(batch_size, widths[0], size)


def part_widths(
  lengths: np.ndarray, widths: Sequence[int], num_rows: int
) -> list[int]:
  """Returns the columns that each part of a batch computes for each ranking.

  Args:
    lengths: [B] tokens of the prompt and all responses.
    widths: from `widths`.
    num_rows: rankings of a part.
  """
  longest = -np.sort(-lengths)[::num_rows]
  return np.take(widths, np.searchsorted(widths, longest)).tolist()


def split(batch: RankingBatch, num_rows: int) -> tuple[RankingBatch, jax.Array]:
  """Divides a batch into parts of rankings of similar length.

  Args:
    batch: B rankings.
    num_rows: rankings of a part; divides B.

  Returns:
    A batch with leaves [B / num_rows, num_rows, ...], the longest rankings
    first, and the index in B of each row before it was divided, [B] int32.
  """
  lengths = (jnp.asarray(batch.segment_ids) != 0).sum(axis=1)
  order = jnp.argsort(-lengths, stable=True)
  # `split_microbatches` takes every n-th row for a part.
  order = order.reshape(-1, num_rows).T.reshape(-1)
  ordered = jax.tree.map(lambda x: jnp.asarray(x)[order], batch)
  return optimizer.split_microbatches(ordered, num_rows), order


def at_width(fn: Callable, widths: Sequence[int]) -> Callable:
  """Makes a function compute only the columns that its rankings need.

  Args:
    fn: (params, RankingBatch) -> tree; columns of padding change nothing.
    widths: in rising order; the last one holds every ranking. Empty = all
      columns.
  """
  if not widths:
    return fn

  def narrowest(params: Params, part: RankingBatch):
    longest = (part.segment_ids != 0).sum(axis=1).max()
    branches = [
      lambda params, part, n=n: fn(params, pipeline.trim_columns(part, n))
      for n in widths
    ]
    index = jnp.searchsorted(jnp.asarray(widths), longest)
    return jax.lax.switch(index, branches, params, part)

  return narrowest


def mapped(
  fn: Callable,
  params: Params,
  batch: RankingBatch,
  widths: Sequence[int],
  size: int,
) -> jax.Array:
  """Computes a function of each ranking, part after part.

  Args:
    fn: (params, RankingBatch of b) -> [b, ...].
    params: the parameters.
    batch: B rankings.
    widths: from `widths`; empty = compute the whole batch at once.
    size: rankings of a part; 0 = few.

  Returns:
    [B, ...], in the order of the batch.
  """
  if not widths:
    return fn(params, batch)
  num_rows = rows(len(batch.ranks), widths, size)
  parts, order = split(batch, num_rows)
  narrowest = at_width(fn, widths)
  found = jax.lax.map(lambda part: narrowest(params, part), parts)
  found = found.swapaxes(0, 1).reshape(-1, *found.shape[2:])
  return jnp.zeros_like(found).at[order].set(found)
