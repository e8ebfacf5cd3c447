"""Digests of the files of a run folder, to notice a change of them.

A listing maps the path of each file in a folder to [size in bytes, SHA-256,
mtime in nanoseconds]. The files of a checkpoint are not listed: their manifest
is, which has their digests. Files that say how a run went, not what it made,
are not listed either.
"""

from collections.abc import Iterable, Iterator, Mapping
import pathlib
import re

from instructrl.runtime import files
from instructrl.runtime import manifest

Listing = Mapping[str, list]

CHECKPOINTS = 'checkpoints'
# A larger file with a known size and mtime is not read again.
_LARGE = 1 << 20  # bytes
_STEP = re.compile('[0-9]{8}|[1-9][0-9]{8,}')  # the name of a step's folder
# config.json has sections that may change, so `run_folder` compares it.
_NOT_LISTED = frozenset(
  ('DONE', 'config.json', 'lock', 'log.txt', 'seconds')
  + ('timings.jsonl', 'tensorboard', 'wandb', 'profile', 'parts')
)


def listing(
  path, known: Listing | None = None, names: Iterable[str] | None = None
) -> dict[str, list]:
  """Lists a run folder, one step of its checkpoints, or another folder.

  Args:
    path: the folder, or a file.
    known: a listing whose digests of large files are still true if their size
      and mtime are.
    names: lists only these, if they are there.
  """
  path = pathlib.Path(path)
  if path.is_file():
    path, names = path.parent, [path.name]
  elif names is None:
    names = _names(path)
  found = {}
  for name in sorted(name for name in names if (path / name).is_file()):
    about = (path / name).stat()
    now = [about.st_size, about.st_mtime_ns]
    size, digest, mtime = (known or {}).get(name, [None, '', None])
    if about.st_size < _LARGE or [size, mtime] != now:
      digest = manifest.digest(path / name)[1]
    found[name] = [about.st_size, digest, about.st_mtime_ns]
  return found


def steps(path: pathlib.Path) -> list[str]:
  """Returns the names of the folders of steps in a folder, in order."""
  found = []
  for folder in path.iterdir() if path.is_dir() else ():
    if _STEP.fullmatch(folder.name):
      found += [folder.name] * folder.is_dir()
    elif folder.name.isdecimal():
      files.warn_once(f'{folder} is skipped: the name of a step has 8 digits')
  return sorted(found, key=int)


def _names(path: pathlib.Path) -> Iterator[str]:
  if (path / manifest.NAME).is_file() and (path / 'meta.json').is_file():
    yield manifest.NAME
    return
  for folder in (path, path / CHECKPOINTS):
    for step in steps(folder):
      file = folder / step / manifest.NAME
      yield file.relative_to(path).as_posix()
  for entry in _entries(path):
    if entry.name in _NOT_LISTED or entry.name == CHECKPOINTS:
      continue
    if entry.is_file():
      yield entry.name
    elif entry.is_dir() and not _STEP.fullmatch(entry.name):
      yield from _below(entry, f'{entry.name}/', {entry.stat().st_ino})


def _below(folder: pathlib.Path, prefix: str, above: set[int]) -> Iterator[str]:
  """Yields the files below a folder; `above` stops at a circle of links."""
  for entry in _entries(folder):
    if entry.is_file():
      yield prefix + entry.name
    elif entry.is_dir() and entry.stat().st_ino not in above:
      inner = above | {entry.stat().st_ino}
      yield from _below(entry, f'{prefix}{entry.name}/', inner)


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns what is in a folder, if it exists, without temporary files."""
  return [
    entry
    for entry in (folder.iterdir() if folder.is_dir() else ())
    if not entry.name.startswith('.') and not entry.name.endswith('.partial')
  ]


def compare(recorded: Listing, found: Listing) -> tuple[list[str], list[str]]:
  """Compares two listings of a folder; a new file that is no step is ignored.

  Returns:
    (changed, missing): one text for each file that differs, or that is only
    in `recorded`.
  """
  changed, missing = [], []
  for name, (size, digest, *_) in recorded.items():
    was = f'recorded {_describe(size, digest)}'
    if name not in found:
      missing.append(f'{name} is missing ({was})')
    elif found[name][:2] != [size, digest]:
      changed.append(f'{name} ({was}; now {_describe(*found[name][:2])})')
  for name in found:
    if name not in recorded and name.endswith(f'/{manifest.NAME}'):
      step = name.removesuffix(f'/{manifest.NAME}')
      changed.append(f'{step} was added')
  return changed, missing


def _describe(size: int, digest: str) -> str:
  return f'{size:,} bytes, SHA-256 {digest[:10]}'
