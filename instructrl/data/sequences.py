"""Sequences of records that are read or made when they are used."""

import array
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import reduction
import operator
import os
import pathlib
import pickle
import tempfile
from typing import Any


class _Lazy(Sequence[Any]):
  """A sequence that equals any sequence with equal elements."""

  def __eq__(self, other):
    if not isinstance(other, Sequence):
      return NotImplemented
    return len(self) == len(other) and all(map(operator.eq, self, other))

  __hash__ = None


class Mapped(_Lazy):
  """A function of each of some records, called when the record is used."""

  def __init__(self, function: Callable[[Any], Any], records: Sequence[Any]):
    self._function, self._records = function, records

  def __len__(self) -> int:
    return len(self._records)

  def __iter__(self):
    return map(self._function, self._records)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return Mapped(self._function, self._records[index])
    return self._function(self._records[index])


def chosen(records: Sequence[Any], rows: Iterable[int]) -> Mapped:
  """Returns the records with the given indices."""
  return Mapped(records.__getitem__, array.array('q', rows))


def where(wanted: Callable[[Any], bool], records: Sequence[Any]) -> Mapped:
  """Returns the records for which `wanted` is true; it is called at once."""
  return chosen(records, (i for i, r in enumerate(records) if wanted(r)))


class Spool(_Lazy):
  """Records in a temporary file; in memory are 8 bytes for each."""

  def __init__(
    self, records: Iterable[Any] = (), folder: str | pathlib.Path | None = None
  ):
    """Writes records.

    Args:
      records: the first records.
      folder: where the file is, which has no name; by default that of
        temporary files.
    """
    self._file = tempfile.TemporaryFile(dir=folder)
    self._ends = array.array('q', [0])
    for record in records:
      self.append(record)

  def __reduce__(self):  # to a process that reads the same file
    self._file.flush()
    return _opened, (reduction.DupFd(self._file.fileno()), self._ends)

  def append(self, record: Any) -> None:
    size = self._file.write(pickle.dumps(record, pickle.HIGHEST_PROTOCOL))
    self._ends.append(self._ends[-1] + size)

  def __len__(self) -> int:
    return len(self._ends) - 1

  def __getitem__(self, index):
    if isinstance(index, slice):
      return Mapped(self.__getitem__, range(len(self))[index])
    index = range(len(self))[index]
    self._file.flush()
    start, end = self._ends[index], self._ends[index + 1]
    return pickle.loads(os.pread(self._file.fileno(), end - start, start))


def _opened(file, ends: array.array) -> Spool:
  """Returns a spool of a file that another process has written."""
  spool = Spool.__new__(Spool)
  spool._file, spool._ends = os.fdopen(file.detach(), 'rb'), ends
  return spool
