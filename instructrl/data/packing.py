"""Packs examples into rows: best fit, the longest first.

A corpus may be larger than memory. The examples are written to a file, their
lengths decide where each has its place, and rows are read from the file in
their order.
"""

from collections.abc import Iterable, Iterator
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np

Rows = dict[str, np.ndarray]  # the fields of LMBatch, [rows, T] each

_BLOCK = 1024  # rows that are made at once


class Example(NamedTuple):
  """One shifted sequence, not yet packed."""

  tokens: np.ndarray  # [N] int32
  targets: np.ndarray  # [N] int32
  loss_mask: np.ndarray  # [N] bool


_POSITION = np.dtype(
  [('tokens', '<i4'), ('targets', '<i4'), ('loss_mask', '?')]
)


class Packed:
  """Packed rows that are made when they are read.

  An example longer than a row is split; each piece is a segment of its own, and
  no target is lost. All others stay whole.

  Attributes:
    shape: (rows, T).
  """

  def __init__(
    self,
    examples: Iterable[Example],
    row_len: int,
    folder: str | pathlib.Path | None = None,
  ):
    """Reads the examples once, and decides the place of each.

    Args:
      examples: shifted sequences.
      row_len: T, positions per row.
      folder: where the examples are stored, in a file without a name; by
        default that of temporary files.

    Raises:
      ValueError: there are no examples, or T is not 1 or more.
    """
    if row_len < 1:
      raise ValueError(f'row_len is {row_len}, it must be 1 or more')
    lengths = []
    with tempfile.TemporaryFile(dir=folder) as file:
      for example in examples:
        positions = np.empty(len(example.tokens), _POSITION)
        for name, values in zip(Example._fields, example):
          positions[name] = values
        file.write(positions.tobytes())
        whole, rest = divmod(len(positions), row_len)
        lengths += [row_len] * whole + [rest] * (rest > 0)
      if not lengths:
        raise ValueError('there is nothing to pack')
      file.flush()
      self._stream = np.memmap(file, _POSITION, 'r')
    self._lengths = np.asarray(lengths)
    self._starts = np.cumsum(self._lengths) - self._lengths
    self._row, self._offset, self._segment = _best_fit(self._lengths, row_len)
    self._order = np.lexsort((self._offset, self._row))
    self.shape = int(self._row.max()) + 1, row_len

  def blocks(self) -> Iterator[Rows]:
    """Yields the rows in order, some at once.

    Segments are numbered from 1 in each row, positions restart with each
    segment, and padding is 0 everywhere. Rows are in the order of their longest
    examples, so the first rows are as good a sample as the first examples.
    """
    num_rows, row_len = self.shape
    rows = self._row[self._order]
    for first in range(0, num_rows, _BLOCK):
      last = min(first + _BLOCK, num_rows)
      pieces = self._order[slice(*np.searchsorted(rows, (first, last)))]
      lengths = self._lengths[pieces]
      of_each = lambda values: np.repeat(values, lengths)
      positions = np.arange(lengths.sum()) - of_each(
        np.cumsum(lengths) - lengths
      )
      place = (self._row[pieces] - first) * row_len + self._offset[pieces]
      place = of_each(place) + positions
      found = self._stream[of_each(self._starts[pieces]) + positions]
      values = {name: found[name] for name in Example._fields}
      values |= {
        'positions': positions,
        'segment_ids': of_each(self._segment[pieces]),
      }
      block = {}
      for name, column in values.items():
        dtype = bool if name == 'loss_mask' else np.int32
        block[name] = np.zeros((last - first, row_len), dtype)
        block[name].reshape(-1)[place] = column
      yield block


def pack_rows(examples: Iterable[Example], row_len: int) -> Rows:
  """Packs examples into rows in memory; see `Packed`.

  Returns:
    The fields of `LMBatch`, [rows, T] each.
  """
  blocks = [*Packed(examples, row_len).blocks()]
  return {
    name: np.concatenate([block[name] for block in blocks])
    for name in blocks[0]
  }


def _best_fit(lengths, row_len):
  """Returns the row, the offset there and the segment number of each piece.

  Args:
    lengths: [pieces] int, 1 to `row_len`.
    row_len: T.

  Returns:
    [3, pieces] int64.
  """
  rows_with = [[] for _ in range(row_len + 1)]  # by free positions
  rooms = 0  # bit r is set where rows_with[r] is not empty
  used, segments, longest = [], [], []  # of each row
  places = np.zeros((3, len(lengths)), np.int64)
  for i in np.argsort(-lengths, kind='stable').tolist():
    length = int(lengths[i])
    fitting = rooms >> length
    if fitting:
      room = length + (fitting & -fitting).bit_length() - 1
      row = rows_with[room].pop()
      if not rows_with[room]:
        rooms ^= 1 << room
    else:
      room, row = row_len, len(used)
      used.append(0)
      segments.append(0)
      longest.append(i)
    segments[row] += 1
    places[:, i] = row, used[row], segments[row]
    used[row] += length
    if room > length:
      rows_with[room - length].append(row)
      rooms |= 1 << (room - length)
  places[0] = np.argsort(np.argsort(longest))[places[0]]
  return places
