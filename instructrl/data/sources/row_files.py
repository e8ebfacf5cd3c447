"""Reads the rows of data files, each with its place.

Reads JSON lines, a JSON list, parquet and plain text, each also gzipped. The
first bytes of a file decide more than its name, because public files named
`.json` often have JSON lines. A row that cannot be read becomes a row with a
fault; a file that cannot be read, or that ends early, raises a SourceError.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import gzip
import json
import pathlib
import re
from typing import Any
import zlib

import pyarrow
from pyarrow import parquet

from instructrl.runtime import files

TEXT_SUFFIXES = ('.txt', '.text', '.md')
ROW_SUFFIXES = ('.jsonl', '.json', '.ndjson', '.parquet')
_PARQUET_ROWS = 1024  # read at once
_PARQUET_BYTES = 1 << 27  # of a column in memory at once
_MAX_LIST = 1 << 28  # bytes of a JSON list, which is parsed as a whole
_MAX_VALUES = 1 << 20  # in a row of parquet, and in the rows read at once
_MAX_RATIO = 1000  # of unpacked to packed bytes; that of text is below 100
# First bytes of other files -> what they are.
_OTHERS = {
  b'PK\x03\x04': 'a zip file, such as .xlsx',
  b'\x28\xb5\x2f\xfd': 'a zstd file',
  b'BZh': 'a bzip2 file',
  b'\xfd7zXZ': 'an xz file',
  b'ARROW1': 'an Arrow file',
  b'SQLite': 'a database',
  b'\x80': 'a pickle',
  b'\xff\xfe': 'text in UTF-16',
  b'\xfe\xff': 'text in UTF-16',
  b'<': 'a web page or XML',
}
_READ = (
  'files of rows are JSON lines, a JSON list (.json) or parquet; pandas writes '
  "JSON lines with to_json(FILE, orient='records', lines=True)"
)


class SourceError(ValueError):
  """A file or a row that cannot be used: 'file:line: reason'."""


@dataclasses.dataclass(frozen=True)
class File:
  """A file of a source on this machine."""

  path: pathlib.Path
  split: str = 'train'  # of the rows that name none
  part: str = ''  # the source's part that the file belongs to, if any


@dataclasses.dataclass(frozen=True)
class Row:
  """One row and its place."""

  file: File
  line: int  # from 1; the number of the row in a list or a parquet file
  value: Any = None
  fault: str = ''  # why the row cannot be read; `value` is then None

  @property
  def place(self) -> str:
    return f'{self.file.path}:{self.line}'


def suffix_of(path: pathlib.Path) -> str:
  """Returns the suffix of a name in lower case, without '.gz'."""
  return pathlib.Path(path.name.lower().removesuffix('.gz')).suffix


def read_rows(file: File) -> Iterator[Row]:
  """Yields the rows of a file: JSON lines, a JSON list, or parquet.

  Skips empty lines.

  Raises:
    SourceError: the file is missing, ends early, or is damaged.
  """
  with _reading(file.path):
    if _starts_with(file.path) == b'PAR1' or suffix_of(file.path) == '.parquet':
      yield from _parquet_rows(file)
      return
    first = _first_bytes(file.path)
    for start, kind in _OTHERS.items():
      if first.startswith(start):
        raise SourceError(f'{file.path}: is {kind}; {_READ}')
    if suffix_of(file.path) == '.json' and first.startswith(b'['):
      yield from _list_rows(file)
    else:
      for number, line in enumerate(_lines(file.path), 1):
        if line.strip():
          yield _json_row(file, number, line)


def read_texts(file: File) -> Iterator[Row]:
  """Yields the lines of a plain text file, with their line ends.

  Raises:
    SourceError: the file is missing, ends early, is damaged, or is not UTF-8.
  """
  with _reading(file.path):
    for number, line in enumerate(_lines(file.path), 1):
      try:
        yield Row(
          file, number, line.decode('utf-8-sig' if number == 1 else 'utf-8')
        )
      except UnicodeDecodeError as error:
        raise SourceError(
          f'{file.path}:{number}: is not UTF-8 text (byte {error.start} of '
          'the line)'
        ) from error


@contextlib.contextmanager
def _reading(path):
  """Turns the libraries' errors about a file into a SourceError."""
  try:
    yield
  except EOFError as error:
    raise SourceError(
      f'{path}: the gzip file ends early; it was not copied whole: fetch it '
      'again'
    ) from error
  except (gzip.BadGzipFile, zlib.error) as error:
    raise SourceError(
      f'{path}: the gzip file is damaged ({error}): fetch it again'
    ) from error
  except pyarrow.ArrowException as error:
    reason = str(error).partition('\n')[0]
    raise SourceError(
      f'{path}: is not a whole parquet file ({reason})'
    ) from error
  except OSError as error:
    raise SourceError(
      f'{path}: cannot be read: {error.strerror or error}'
    ) from error


def _starts_with(path) -> bytes:
  with path.open('rb') as file:
    return file.read(4)


def _open(path):
  files.refuse_pointer(path)
  is_gzip = _starts_with(path)[:2] == b'\x1f\x8b'
  if path.suffix.lower() == '.gz' and not is_gzip:
    raise SourceError(f'{path}: is named .gz and is not a gzip file')
  return gzip.open(path, 'rb') if is_gzip else path.open('rb')


def _first_bytes(path) -> bytes:
  with _open(path) as file:
    return file.read(64).removeprefix(b'\xef\xbb\xbf').lstrip()


def _lines(path) -> Iterator[bytes]:
  with _open(path) as file:
    yield from files.lines(file, path)


def _parsed(data: bytes) -> tuple[Any, str, int]:
  """Returns (value, why the data are not JSON or '', line of the fault)."""
  try:
    return files.parse_json(data.decode('utf-8-sig')), '', 0
  except UnicodeDecodeError as error:
    return None, f'is not UTF-8 (byte {error.start})', 0
  except json.JSONDecodeError as error:
    fault = f'is not JSON: {error.msg} (column {error.colno})'
    return None, fault, error.lineno
  except ValueError as error:  # nesting, or a number of thousands of digits
    return None, f'is not JSON: {error}', 0


def _json_row(file, number, line) -> Row:
  value, fault, _ = _parsed(line.rstrip(b'\r\n'))
  if number == 1 and '(column' in fault:  # the file may be of another kind
    fault = f'{fault}; {_READ}'
  return Row(file, number, value, fault)


def _list_rows(file) -> Iterator[Row]:
  with _open(file.path) as stream:
    data = stream.read(_MAX_LIST + 1)
  if len(data) > _MAX_LIST:
    raise SourceError(
      f'{file.path}: a JSON list of more than {_MAX_LIST >> 20} MiB is not '
      'read: write a row a line'
    )
  values, fault, line = _parsed(data)
  if fault:
    place = f'{file.path}:{line}' if line else file.path
    raise SourceError(f'{place}: {fault}')
  for number, value in enumerate(values, 1):
    yield Row(file, number, value)


def _parquet_rows(file) -> Iterator[Row]:
  with parquet.ParquetFile(file.path) as table:
    number = 0
    for i in range(table.num_row_groups):
      at_once = _rows_at_once(table.metadata.row_group(i), file.path)
      for batch in table.iter_batches(batch_size=at_once, row_groups=[i]):
        for value in batch.to_pylist():
          number += 1
          yield Row(file, number, value)


def _rows_at_once(group: parquet.RowGroupMetaData, path) -> int:
  """Returns the number of rows of a group that fit in memory.

  A dictionary has a value once that many rows may repeat, so a file may be a
  million times larger in memory.

  Raises:
    SourceError: a row is too large, by the sizes that the file declares.
  """
  rows, found = max(group.num_rows, 1), _PARQUET_ROWS
  for column in map(group.column, range(group.num_columns)):
    size, packed = column.total_uncompressed_size, column.total_compressed_size
    values = column.num_values
    if (
      size > rows * files.MAX_LINE
      or values > rows * _MAX_VALUES
      or size > max(files.MAX_LINE, _MAX_RATIO * packed)
    ):
      raise SourceError(
        f'{path}: column {column.path_in_schema} has {size:,} bytes and '
        f'{values:,} values in {rows:,} rows, packed in {packed:,} bytes: that '
        'is not data'
      )
    if any('DICTIONARY' in encoding for encoding in column.encodings):
      found = min(found, _PARQUET_BYTES // max(size, 1))
    found = min(found, _MAX_VALUES * rows // max(values, 1))
  return max(found, 1)


_SPLIT_WORDS = {word: word for word in ('train', 'test', 'validation')}
_SPLIT_WORDS |= dict.fromkeys(('valid', 'val', 'dev', 'eval'), 'validation')


def split_named(word: str) -> str | None:
  """Returns the split that a word such as 'valid1' names, or None."""
  return _SPLIT_WORDS.get(re.sub(r'[\W\d_]+', '', word).lower())


def split_in_name(name: str) -> str:
  """Returns the split in a name such as 'test.jsonl.gz'; else 'train'."""
  named = map(split_named, re.split(r'[\W_]', name))
  return next((split for split in named if split), 'train')


def find(path: pathlib.Path, suffixes: tuple[str, ...]) -> list[pathlib.Path]:
  """Returns `path`, or the files in it that have one of the suffixes.

  Raises:
    SourceError: the path is missing, or the folder has no such file.
  """
  if path.is_file():
    return [path]
  if not path.exists():
    raise SourceError(f'there is no {path}')
  if not path.is_dir():  # its end may never come
    raise SourceError(f'{path}: is a device or a pipe, not a file or folder')
  found = sorted(
    p
    for p in path.rglob('*')
    if p.is_file()
    and suffix_of(p) in suffixes
    and not any(part.startswith('.') for part in p.relative_to(path).parts)
  )
  if not found:
    raise SourceError(
      f'{path}: the folder has no files of the kind '
      f'{", ".join(suffixes)} (or with .gz)'
    )
  return found
