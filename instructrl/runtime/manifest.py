"""A folder's manifest: size and SHA-256 of every file, to know it is whole."""

import hashlib
import json
import os
import pathlib

from instructrl.runtime.files import atomic_write

FORMAT_VERSION = 1
NAME = 'manifest.json'


def write(folder) -> None:
  """Flushes all files of a folder to the disk, then lists them in NAME."""
  folder = pathlib.Path(folder)
  files = {
    path.relative_to(folder).as_posix(): _digest(path, durable=True)
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path != folder / NAME
  }
  atomic_write(
    folder / NAME,
    json.dumps({'format_version': FORMAT_VERSION, 'files': files}, indent=1),
  )


def verify(folder) -> str:
  """Compares a folder with its manifest; says in words what is wrong, or ''.

  Files that the manifest does not list do no harm.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    return 'there is no such folder'
  try:
    manifest = json.loads((folder / NAME).read_text(encoding='utf-8'))
    version, files = manifest['format_version'], manifest['files']
    if version != FORMAT_VERSION:
      return f'format_version {version}, this program reads {FORMAT_VERSION}'
    if not files:
      return f'{NAME} lists nothing'
    for name, digest in files.items():
      if not (folder / name).is_file():
        return f'{name} is missing'
      if _digest(folder / name) != digest:
        return f'{name} is not what was written'
  except FileNotFoundError:
    return f'it has no {NAME}'
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    return f'{NAME} cannot be read ({error})'
  return ''


def _digest(path: pathlib.Path, *, durable: bool = False) -> list:
  """[size in bytes, SHA-256 in hex]; `durable` also flushes to the disk."""
  with path.open('rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
    if durable:
      os.fsync(file.fileno())
    return [file.tell(), digest]
