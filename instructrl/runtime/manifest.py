"""Manifests: size and SHA-256 of every file of a folder, to detect damage."""

from collections.abc import Iterable
import hashlib
import json
import os
import pathlib

from instructrl.runtime import files
from instructrl.runtime import storage

FORMAT_VERSION = 1
NAME = 'manifest.json'


def write(folder, names: Iterable[str] | None = None) -> None:
  """Flushes files of a folder to the disk, and lists them in NAME.

  Args:
    folder: the folder.
    names: of the files; all by default.
  """
  folder = pathlib.Path(folder)
  paths = folder.rglob('*') if names is None else map(folder.joinpath, names)
  listed = {
    path.relative_to(folder).as_posix(): digest(path, durable=True)
    for path in sorted(paths)
    if path.is_file() and path != folder / NAME
  }
  content = {'format_version': FORMAT_VERSION, 'files': listed}
  files.atomic_write(folder / NAME, json.dumps(content, indent=1))


def verify(folder) -> str:
  """Compares a folder with its manifest; files not listed are ignored.

  Returns:
    What is wrong, in words; '' for a whole folder.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    return 'there is no such folder'
  try:
    manifest = files.read_json(folder / NAME)
    version, listed = manifest['format_version'], manifest['files']
    if version != FORMAT_VERSION:
      return f'format_version {version}, this program reads {FORMAT_VERSION}'
    if not listed:
      return f'{NAME} lists nothing'
    for name, recorded in listed.items():
      if not (folder / name).is_file():
        return f'{name} is missing'
      if digest(folder / name) != recorded:
        return f'{name} is not what was written'
  except FileNotFoundError:
    return f'it has no {NAME}'
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    return f'{NAME} cannot be read ({error})'
  return ''


def digest(path: pathlib.Path, *, durable: bool = False) -> list:
  """Returns [size in bytes, SHA-256 in hex]; `durable` flushes the file."""

  def read():
    with path.open('rb') as file:
      found = hashlib.file_digest(file, 'sha256').hexdigest()
      if durable:
        os.fsync(file.fileno())
      return [file.tell(), found]

  # A second fsync may succeed although the first one lost data.
  return read() if durable else storage.retrying(read, path)
