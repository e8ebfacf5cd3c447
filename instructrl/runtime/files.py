"""Reads and writes small files: atomic writes, JSON, JSON lines, hashes."""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import functools
import hashlib
import json
import os
import pathlib
from typing import Any, BinaryIO

from absl import logging

from instructrl.runtime import storage

MAX_LINE = 1 << 26  # bytes; the longest record has fewer
MAX_DEPTH = 100  # of nested JSON; code that visits a value recurses
SEAL = 'sha256'  # the key of a digest


def atomic_write(path, content: str | bytes) -> None:
  """Replaces a file durably; after a kill it has the old contents or the new.

  A file that has these contents already is not touched, so a finished run may
  be read-only.

  Raises:
    ValueError: a symbolic link is in the place of the temporary file.
    OSError: the file cannot be written, also after several tries.
  """
  path = pathlib.Path(path)
  content = content.encode() if isinstance(content, str) else content
  if path.is_file() and read_bytes(path) == content:
    return
  storage.retrying(functools.partial(_replace, path, content), path)


def _replace(path: pathlib.Path, content: bytes) -> None:
  temporary = path.with_name(f'.{path.name}.tmp')
  refuse_link(temporary)
  temporary.unlink(missing_ok=True)  # of a process that was killed
  try:
    with temporary.open('xb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  sync_folder(path.parent)


def refuse_link(path) -> None:
  """Raises a ValueError if a path is a symbolic link.

  The program would overwrite the file that the link points to.
  """
  if os.path.islink(path):
    raise ValueError(
      f'{path} is a symbolic link to {os.readlink(path)}, which would be '
      'overwritten: remove the link'
    )


def open_new_or_own(path, flags: int) -> int:
  """Opens a file for writing, creates it if missing, and follows no link.

  Returns:
    The file descriptor.

  Raises:
    ValueError: the path is a symbolic link, or not a regular file.
  """
  refuse_link(path)
  if os.path.exists(path) and not os.path.isfile(path):
    raise ValueError(f'{path} is in the way: it is not a file; remove it')
  return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def read_bytes(path) -> bytes:
  """Reads a file, with several tries.

  Raises:
    ValueError: the path is a device, a pipe or a folder.
  """
  path = pathlib.Path(path)

  def read():
    refuse_special(path)
    return path.read_bytes()

  return storage.retrying(read, path)


def sync_folder(path) -> None:
  """Makes renames inside a folder durable."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def named(path) -> Iterator[None]:
  """Puts a file's name before the message of a ValueError that lacks it."""
  try:
    yield
  except ValueError as error:
    if str(path) in str(error):
      raise
    raise ValueError(f'{path}: {error}') from error


def lines(file: BinaryIO, name) -> Iterator[bytes]:
  """Yields the lines of a file, with their ends.

  Args:
    file: an open binary file.
    name: of the file, for messages.

  Raises:
    ValueError: a line is longer than `MAX_LINE`: it would fill the memory.
  """
  number = 0
  while line := file.readline(MAX_LINE + 1):
    number += 1
    if len(line) > MAX_LINE:
      raise ValueError(
        f'{name}:{number}: the line has more than {MAX_LINE >> 20} MiB'
      )
    yield line


def parse_json(text: str | bytes) -> Any:
  """Returns the value of a JSON text.

  Raises:
    ValueError: the text is not JSON, or nested deeper than `MAX_DEPTH`.
  """
  try:
    found = json.loads(text)
  except RecursionError as error:
    raise ValueError('it is nested too deep') from error
  level: list[Any] = [[found]]
  for _ in range(MAX_DEPTH + 1):
    level = [
      part
      for value in level
      for part in (value.values() if isinstance(value, dict) else value)
      if isinstance(part, (dict, list))
    ]
    if not level:
      return found
  raise ValueError('it is nested too deep')


def refuse_special(path) -> None:
  """Raises a ValueError for a device or a pipe, whose end may never come."""
  path = pathlib.Path(path)
  if path.exists() and not path.is_file():
    raise ValueError(f'{path} is not a regular file')


def refuse_pointer(path) -> None:
  """Raises a ValueError for a file that git-lfs has not fetched, or a pipe."""
  refuse_special(path)
  with open(path, 'rb') as file:
    if file.read(64).startswith(b'version https://git-lfs'):
      raise ValueError(f'{path} is a pointer of git-lfs: run `git lfs pull`')


def read_text(path) -> str:
  """Returns the text of a file in UTF-8, with several tries.

  Raises:
    ValueError: the path is a device, a pipe or a folder, or the file is a
      pointer of git-lfs or not UTF-8; the message names it.
  """
  refuse_pointer(path)
  try:
    return read_bytes(path).decode('utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is damaged: {error}') from error


def read_json(path) -> dict[str, Any]:
  """Returns the object in a JSON file.

  Raises:
    ValueError: the file does not contain a JSON object; the message names it.
  """
  path = pathlib.Path(path)
  text = read_text(path)
  try:
    found = parse_json(text)
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} is damaged: it holds no JSON object')
  return found


def read_jsonl(path) -> list[dict[str, Any]]:
  """Returns the objects of a file with one JSON object a line.

  A last line without a newline is skipped: its writer was killed.

  Raises:
    ValueError: a line is not a JSON object; the message names file and line.
  """
  with named(path):
    texts = read_bytes(path).decode('utf-8').split('\n')[:-1]
  records = []
  for number, line in enumerate(texts, 1):
    try:
      record = parse_json(line)
    except ValueError as error:
      raise ValueError(f'{path}:{number}: not a record ({error})') from error
    if not isinstance(record, dict):
      raise ValueError(f'{path}:{number}: not a record (no JSON object)')
    records.append(record)
  return records


def write_json(path, value, indent: int | None = 1) -> None:
  """Writes a JSON file atomically; keys keep their order.

  With `indent=None` the file has one line and takes a quarter of the time.
  """
  atomic_write(path, json.dumps(value, indent=indent, allow_nan=False) + '\n')


def write_sealed(
  path, value: Mapping[str, Any], indent: int | None = 1
) -> None:
  """Writes a JSON file that has a digest of itself; see `read_sealed`."""
  write_json(path, {**value, SEAL: _digest(value)}, indent)


def read_sealed(path, version: int) -> dict[str, Any]:
  """Returns the object in a file of `write_sealed`, without the digest.

  Args:
    path: the file.
    version: the first `format_version` that has a digest. An older file is read
      with a warning.

  Raises:
    ValueError: the file is not what was written.
  """
  found = read_json(path)
  seal, own = found.pop(SEAL, None), found.get('format_version')
  if seal is None and own in (None, *range(version)):
    warn_once(f'{path} has no digest: an older version wrote it')
  elif own != version:
    raise ValueError(
      f'{path} is damaged, or of another version: format_version {own}, this '
      f'program reads {version}'
    )
  elif seal != _digest(found):
    raise ValueError(f'{path} is damaged: it is not what was written')
  return found


def _digest(value: Mapping[str, Any]) -> str:
  """Returns the SHA-256 of a JSON object; the order of keys counts."""
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@functools.cache
def warn_once(text: str) -> None:
  """Logs a warning, once in a process."""
  logging.warning('%s', text)


def write_jsonl(path, records: Iterable[Mapping[str, Any]]) -> None:
  """Writes a file with one JSON object a line, atomically."""
  lines = (json.dumps(record, ensure_ascii=False) + '\n' for record in records)
  atomic_write(path, ''.join(lines))


def to_json(value) -> str:
  """Returns the canonical JSON text of a value: sorted keys, no NaN."""
  return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + '\n'


def fingerprint(config: Mapping[str, Any]) -> str:
  """Returns the SHA-256, in hex, of a config; the order of keys is ignored."""
  return hashlib.sha256(to_json(config).encode()).hexdigest()
