"""What a source of data is, and how its rows are read, counted and refused."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import itertools
import json
import pathlib
import re
from typing import Any, ClassVar

from instructrl.data.records import Limits, problems, Record, SPLITS, to_dict
from instructrl.data.sources import fields
from instructrl.data.sources import files
from instructrl.data.sources.files import File
from instructrl.data.sources.files import Row
from instructrl.data.sources.files import SourceError

_MAX_REASONS = 50  # told apart
_NUMBER = r'(?<=\[)\d+(?=\])|(?<=column )\d+|(?<=byte )\d+|\d[\d,]{2,}'


@dataclasses.dataclass(frozen=True)
class Option:
  """A setting of a source, given as text in a spec."""

  default: Any
  parse: Callable[[str], Any]  # raises ValueError with what is expected
  about: str


def one_of(*choices: str) -> Callable[[str], str]:
  def parse(value):
    if value not in choices:
      raise ValueError(f'one of {", ".join(choices)}')
    return value

  return parse


def at_least(least: float, kind: type = float) -> Callable[[str], Any]:
  def parse(value):
    try:
      parsed = kind(value)
    except ValueError:
      parsed = None
    if parsed is None or not least <= parsed < float('inf'):
      what = 'whole number' if kind is int else 'number'
      raise ValueError(f'a {what} from {least:g} up')
    return parsed

  return parse


def yes_or_no(value: str) -> bool:
  words = {
    'true': True,
    'yes': True,
    '1': True,
    'false': False,
    'no': False,
    '0': False,
  }
  if value.lower() not in words:
    raise ValueError('true or false')
  return words[value.lower()]


@dataclasses.dataclass(frozen=True)
class Remote:
  """A file of a source on the network."""

  url: str
  name: str  # where it stands in the source's folder, 'part/train.jsonl.gz'
  split: str = 'train'
  part: str = ''


class Source:
  """A source of records: its files, and how one of its rows becomes a record.

  A subclass says the names and implements `remotes` and `record`; where a row
  of the file is not a row of the source, also `rows`.
  """

  NAME: ClassVar[str]
  RECORD: ClassVar[type]
  ABOUT: ClassVar[str]  # one line, with the licence
  SUBSETS: ClassVar[tuple[str, ...]] = ()  # the first is the default
  OPTIONS: ClassVar[Mapping[str, Option]] = {}
  SUFFIXES: ClassVar[tuple[str, ...]] = files.ROW_SUFFIXES
  STRICT: ClassVar[bool] = False  # whether a malformed row is an error
  PUBLIC: ClassVar[bool] = True  # whether it can be downloaded

  def __init__(
    self, subset: str = '', options: Mapping[str, Any] | None = None
  ):
    self.subset = subset or (self.SUBSETS[0] if self.SUBSETS else '')
    self.options = {
      name: option.default for name, option in self.OPTIONS.items()
    } | dict(options or {})

  def kind(self) -> type:
    """The record type; of some sources known only once a row was read."""
    return self.RECORD

  def remotes(self) -> tuple[Remote, ...]:
    """The files to download, as the publishers name them.

    None of these downloads has been tried: what is tested is the form of the
    files, written by the tests, and the downloader, with a server of its own.
    """
    raise NotImplementedError

  def find(self, path: pathlib.Path) -> list[File]:
    """The source's own files at a path that a user gave."""
    root = path if path.is_dir() else path.parent
    found = [
      File(p, files.split_in_name(p.name), self.part_of(p, root))
      for p in sorted(files.find(path, self.SUFFIXES), key=self._order)
    ]
    return [
      file for file in found if not file.part or file.part in self.parts()
    ]

  def parts(self) -> tuple[str, ...]:
    """What the subset has of `SUBSETS`."""
    return self.SUBSETS[1:] if self.subset == 'all' else (self.subset,)

  def _order(self, path):
    return (SPLITS.index(files.split_in_name(path.name)), path)

  def part_of(self, path: pathlib.Path, root: pathlib.Path) -> str:
    """The part of the source that a file of a user's folder belongs to.

    '' where that is not known, or there are none: the file is read then.
    """
    del path, root
    return ''

  def rows(self, found: Sequence[File]) -> Iterator[Row]:
    """The rows of the files, in order."""
    for file in found:
      yield from files.read_rows(file)

  def record(self, row: Row) -> Record:
    """Makes a record of a row.

    Raises:
      fields.Malformed: it cannot be made.
    """
    raise NotImplementedError

  def notes(self) -> list[str]:
    """What a reader of the summary should know."""
    return []


@dataclasses.dataclass
class Read:
  """What was read of a source, and what was not."""

  records: list[Record] = dataclasses.field(default_factory=list)
  read: int = 0  # rows
  dropped: dict[str, int] = dataclasses.field(default_factory=dict)
  first: dict[str, str] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)

  def drop(self, row: Row, reason: str) -> None:
    # Reasons that differ in a place or a length only are one.
    kind = re.sub(_NUMBER, 'N', reason)
    if kind not in self.dropped and len(self.dropped) >= _MAX_REASONS:
      kind = 'other reasons'
    self.dropped[kind] = self.dropped.get(kind, 0) + 1
    self.first.setdefault(kind, f'{row.place}: {reason}')


def read(
  source: Source,
  found: Sequence[File],
  *,
  limit: int = 0,
  strict: bool | None = None,
  limits: Limits = Limits(),
) -> Read:
  """Reads a source's files: valid records, and why the others are none.

  Args:
    source: what the rows mean.
    found: its files.
    limit: how many rows to read from the beginning; 0 is all.
    strict: whether a malformed row is an error; None as the source has it.
    limits: what is too long to be a record.

  Returns:
    The records in the files' order; read = records + dropped.

  Raises:
    SourceError: a file that cannot be read, or, if strict, the first malformed
      row as 'file:line: reason'; or there is no record at all.
  """
  strict = source.STRICT if strict is None else strict
  result, seen = Read(), _Seen()
  rows = source.rows(found)
  for row in itertools.islice(rows, limit) if limit else rows:
    result.read += 1
    try:
      if row.fault:
        raise fields.Malformed(row.fault)
      record = source.record(row)
      _validate(record, limits)
      seen.check(record, row)
    except fields.Malformed as error:
      if strict and not isinstance(error, fields.Unusable):
        raise SourceError(f'{row.place}: {error}') from error
      result.drop(row, str(error))
    else:
      result.records.append(record)
  result.notes = source.notes()
  if not result.records:
    _refuse_nothing(result, found)
  return result


def _validate(record: Record, limits: Limits) -> None:
  reason = next(problems(record, limits), None)
  if reason is not None:
    raise fields.Malformed(reason)


def _refuse_nothing(result: Read, found: Iterable[File]) -> None:
  where = ', '.join(str(file.path) for file in itertools.islice(found, 3))
  if not result.read:
    raise SourceError(f'{where}: there are no rows')
  reason = max(result.dropped, key=result.dropped.get)
  raise SourceError(
    f'none of {result.read:,} rows is a record; {result.dropped[reason]:,} '
    f'are like the first of them: {result.first[reason]}'
  )


class _Seen:
  """Finds rows that came before."""

  def __init__(self):
    self._records = set()
    self._ids = {}

  def check(self, record: Record, row: Row) -> None:
    values = to_dict(record)
    # A copy in another split is a copy too, and a leak.
    values.get('prompt', values)['split'] = ''
    digest = hashlib.sha256(
      json.dumps(values, sort_keys=True).encode()
    ).digest()[:16]
    if digest in self._records:
      raise fields.Unusable('is an exact duplicate of an earlier row')
    if not hasattr(record, 'prompt'):  # many records may have one prompt
      if record.id in self._ids:
        raise fields.Malformed(
          f'has the id {record.id!r} of {self._ids[record.id]}'
        )
      self._ids[record.id] = row.place
    self._records.add(digest)
