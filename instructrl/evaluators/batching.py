"""Batches of token lists: items of like length together, results in order."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar('T')


def by_length(
  compute: Callable[[list[T]], Sequence],
  items: Sequence[T],
  batch_size: int,
  length: Callable[[T], Any],
) -> list:
  """Computes a result for each item, in batches that pad little.

  Args:
    compute: takes up to `batch_size` items of like length; returns at least
      one result per item, in the order of the items. Results of padding rows
      may follow.
    items: N items.
    batch_size: the largest number of items in a batch.
    length: the key that items are sorted by.

  Returns:
    N results, in the order of `items`.
  """
  results = [None] * len(items)
  order = sorted(range(len(items)), key=lambda i: length(items[i]))
  for start in range(0, len(order), batch_size):
    part = order[start : start + batch_size]
    for i, result in zip(part, compute([items[i] for i in part])):
      results[i] = result
  return results


def right_padded(
  rows: Sequence[Sequence[int]], shape: tuple[int, int], pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns rows as an array, and the mask of their tokens.

  Args:
    rows: up to B token lists of at most T tokens.
    shape: (B, T).
    pad_id: fills what follows a row.

  Returns:
    (tokens [B, T] int32, mask [B, T] bool).
  """
  tokens = np.full(shape, pad_id, np.int32)
  mask = np.zeros(shape, bool)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
    mask[i, : len(row)] = True
  return tokens, mask
