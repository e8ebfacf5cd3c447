"""The base class of sources: reads, counts and refuses rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import json
import pathlib
import re
from typing import Any, ClassVar

from instructrl.data.digests import digest
from instructrl.data.digests import Digests
from instructrl.data.records import Excess, problems, Record, SPLITS, to_dict
from instructrl.data.sequences import Spool
from instructrl.data.sources import fields
from instructrl.data.sources import row_files
from instructrl.data.sources.row_files import File
from instructrl.data.sources.row_files import Row
from instructrl.data.sources.row_files import SourceError

HUB = 'https://huggingface.co/datasets/'

_FILE_BITS = 24  # of the number of a file
_MAX_REASONS = 50  # different ones that are counted
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
  if value.lower() in ('true', 'yes', '1'):
    return True
  if value.lower() in ('false', 'no', '0'):
    return False
  raise ValueError('true or false')


TIE_MARGIN = Option(0.0, at_least(0.0), 'scores less than this apart are ties')


@dataclasses.dataclass(frozen=True)
class Remote:
  """A file of a source on the network."""

  url: str
  name: str  # path in the source's folder, such as 'part/train.jsonl.gz'
  split: str = 'train'
  part: str = ''


class Source:
  """A source of records: its files, and how a row becomes a record.

  A subclass sets the names and implements `remotes` and `record`; and `rows` if
  a row of the file is not a row of the source. A source with `PUBLIC = False`
  is read from a path only and needs no `remotes`.
  """

  NAME: ClassVar[str]
  RECORD: ClassVar[type]
  ABOUT: ClassVar[str]  # one line, with the licence
  SUBSETS: ClassVar[tuple[str, ...]] = ()  # the first is the default
  OPTIONS: ClassVar[Mapping[str, Option]] = {}
  SUFFIXES: ClassVar[tuple[str, ...]] = row_files.ROW_SUFFIXES
  STRICT: ClassVar[bool] = False  # whether a malformed row is an error
  PUBLIC: ClassVar[bool] = True  # whether it can be downloaded

  def __init__(
    self, subset: str = '', options: Mapping[str, Any] | None = None
  ):
    self.subset = subset or (self.SUBSETS[0] if self.SUBSETS else '')
    defaults = {name: option.default for name, option in self.OPTIONS.items()}
    self.options = defaults | dict(options or {})

  def kind(self) -> type:
    """Returns the record type; some sources know it after the first row."""
    return self.RECORD

  def remotes(self) -> tuple[Remote, ...]:
    """Returns the files to download, under the publishers' names.

    None of these downloads has been tried. Tests write files of the same form,
    and try the downloader with a local server.
    """
    raise NotImplementedError

  def find(self, path: pathlib.Path) -> list[File]:
    """Returns the source's own files at a path that a user gave."""
    root = path if path.is_dir() else path.parent
    found = [
      File(p, row_files.split_in_name(p.name), self.part_of(p, root))
      for p in sorted(row_files.find(path, self.SUFFIXES), key=self._order)
    ]
    return [
      file for file in found if not file.part or file.part in self.parts()
    ]

  def parts(self) -> tuple[str, ...]:
    """Returns the parts of `SUBSETS` that the subset includes."""
    return self.SUBSETS[1:] if self.subset == 'all' else (self.subset,)

  def _order(self, path):
    return (SPLITS.index(row_files.split_in_name(path.name)), path)

  def part_of(self, path: pathlib.Path, root: pathlib.Path) -> str:
    """Returns the part of the source that a file of a user's folder has.

    '' if the part is unknown or the source has no parts; the file is then read.
    """
    del path, root
    return ''

  def rows(self, found: Sequence[File]) -> Iterator[Row]:
    """Yields the rows of the files, in order."""
    for file in found:
      yield from row_files.read_rows(file)

  def record(self, row: Row) -> Record:
    """Makes a record of a row.

    Raises:
      fields.Malformed: the row has no record.
    """
    raise NotImplementedError

  def notes(self) -> list[str]:
    """Returns remarks for the reader of the summary."""
    return []


@dataclasses.dataclass
class Read:
  """Records of a source, and counts of dropped rows."""

  records: Sequence[Record] = ()
  read: int = 0  # rows
  dropped: dict[str, int] = dataclasses.field(default_factory=dict)
  first: dict[str, str] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)

  def drop(self, row: Row, reason: str) -> None:
    # Reasons that differ only in a place or a length are one.
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
  folder: str | pathlib.Path | None = None,
) -> Read:
  """Reads a source's files.

  Args:
    source: makes records of the rows.
    found: the files.
    limit: number of rows to read from the beginning; 0 is all.
    strict: whether a malformed row is an error; None uses the source's default.
    folder: where the records are stored; see `Spool`.

  Returns:
    The valid records in the files' order, and counts of the dropped rows:
    read = records + dropped.

  Raises:
    SourceError: a file cannot be read; or, if strict, the first malformed row
      as 'file:line: reason'; or there is no record at all.
  """
  strict = source.STRICT if strict is None else strict
  records, seen = Spool(folder=folder), _Seen()
  result = Read(records)
  rows = source.rows(found)
  for row in itertools.islice(rows, limit) if limit else rows:
    result.read += 1
    try:
      if row.fault:
        raise fields.Malformed(row.fault)
      record = source.record(row)
      for reason in problems(record):
        excess = isinstance(reason, Excess)
        raise (fields.Unusable if excess else fields.Malformed)(reason)
      seen.check(record, row)
    except fields.Malformed as error:
      if strict and not isinstance(error, fields.Unusable):
        raise SourceError(f'{row.place}: {error}') from error
      result.drop(row, str(error))
    else:
      records.append(record)
  result.notes = source.notes()
  if not records:
    _refuse_nothing(result, found)
  return result


def _refuse_nothing(result: Read, found: Iterable[File]) -> None:
  where = ', '.join(str(file.path) for file in itertools.islice(found, 3))
  if not result.read:
    raise SourceError(f'{where}: there are no rows')
  reason = max(result.dropped, key=result.dropped.get)
  raise SourceError(
    f'no row of {result.read:,} can be used; the most frequent reason, of '
    f'{result.dropped[reason]:,} rows: {result.first[reason]}'
  )


class _Seen:
  """Finds rows that came before."""

  def __init__(self):
    self._records = Digests()
    self._ids = Digests()  # -> number of the file and line
    self._files: list[File] = []

  def check(self, record: Record, row: Row) -> None:
    values = to_dict(record)
    # A copy in another split is a copy too, and a leak.
    values.get('prompt', values)['split'] = ''
    text = json.dumps(values, sort_keys=True)
    own = digest(text)
    if self._records.get(own) is not None:
      raise fields.Unusable('is an exact duplicate of an earlier row')
    if not hasattr(record, 'prompt'):  # many records may have one prompt
      if row.file not in self._files[-1:]:
        self._files.append(row.file)
      name, before = digest(record.id), len(self._ids)
      place = (row.line << _FILE_BITS) + len(self._files) - 1
      line, number = divmod(self._ids.setdefault(name, place), 1 << _FILE_BITS)
      if len(self._ids) == before:
        first = Row(self._files[number], line).place
        raise fields.Malformed(f'has the id {record.id!r} of {first}')
    self._records.add(own)
