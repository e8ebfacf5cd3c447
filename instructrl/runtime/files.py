"""Files that are written whole or not at all, and JSON."""

from collections.abc import Mapping
import hashlib
import json
import os
import pathlib
from typing import Any


def atomic_write(path, content: str | bytes) -> None:
  """Replaces a file's contents durably; a kill leaves the old or the new.

  A file that has these contents is left alone: a finished run can be read-only.
  """
  path = pathlib.Path(path)
  content = content.encode() if isinstance(content, str) else content
  if path.is_file() and path.read_bytes() == content:
    return
  temporary = path.with_name(f'.{path.name}.tmp')
  try:
    with temporary.open('wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  sync_folder(path.parent)


def sync_folder(path) -> None:
  """Makes renames inside a folder durable."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def read_json(path) -> dict[str, Any]:
  """The object in a JSON file; ValueError names the file if there is none."""
  path = pathlib.Path(path)
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except RecursionError as error:
    raise ValueError(f'{path} is damaged: it is nested too deep') from error
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} is damaged: it holds no JSON object')
  return found


def fingerprint(config: Mapping[str, Any]) -> str:
  """SHA-256, in hex, of a configuration; the order of keys does not matter."""
  return hashlib.sha256(to_json(config).encode()).hexdigest()


def to_json(value) -> str:
  return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + '\n'
