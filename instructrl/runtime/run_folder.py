"""The bookkeeping of a run folder.

config.json  the config; a resume with another config is refused
inputs.json  what the run was made from, see `origins`
lock         held by the process that works in the folder
DONE         the result of a finished run, and the digests of its files
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import fcntl
import json
import os
import pathlib
from typing import Any

from instructrl.runtime import contents
from instructrl.runtime import exits
from instructrl.runtime import files

FORMAT_VERSION = 2  # of DONE; files of version 1 have no digests
CONFIG, LOCK, DONE = 'config.json', 'lock', 'DONE'
SEALED = 'sealed'  # the key in DONE of the digests of other files


def write_done(workdir, result: Mapping[str, Any]) -> None:
  """Marks a run as finished, with its result and the digests of its files."""
  folder = pathlib.Path(workdir)
  sealed = {'config': _config_digest(folder), 'files': contents.listing(folder)}
  files.write_sealed(
    folder / DONE, {'format_version': FORMAT_VERSION, **result, SEALED: sealed}
  )


def read_done(workdir) -> dict[str, Any] | None:
  """Returns the result of a finished run; None if it is not finished.

  Raises:
    ValueError: DONE is damaged.
  """
  found = _read_done(workdir)
  if found is not None:
    for name in ('format_version', SEALED):
      found.pop(name, None)
  return found


def _read_done(workdir) -> dict[str, Any] | None:
  path = pathlib.Path(workdir) / DONE
  try:
    return files.read_sealed(path, FORMAT_VERSION) if path.exists() else None
  except ValueError as error:
    raise ValueError(
      f'{error}; restore the file, or remove {path.parent} to make it again'
    ) from error


def sealed_files(workdir) -> contents.Listing | None:
  """Returns the listing of a run when it finished; None if there is none.

  The run is not finished, or an older version finished it.
  """
  return ((_read_done(workdir) or {}).get(SEALED) or {}).get('files')


def check_files(
  workdir,
  names: Iterable[str] | None = None,
  *,
  may_miss: bool = False,
  by_date: bool = False,
) -> list[str]:
  """Compares the files of a finished run with what it wrote.

  A run that is not finished, or that an older version finished, passes.

  Args:
    workdir: the run folder.
    names: the files to compare; by default all that the run wrote.
    may_miss: return the files that are missing, instead of raising.
    by_date: do not read a large file again if its size and mtime are those
      that were recorded.

  Returns:
    One text for each file that is missing.

  Raises:
    ValueError: a file is not what the run wrote; the message names it.
  """
  folder = pathlib.Path(workdir)
  sealed = (_read_done(folder) or {}).get(SEALED)
  if sealed is None:
    return []
  recorded = sealed['files']
  if names is not None:
    names = [name for name in names if name in recorded]
    recorded = {name: recorded[name] for name in names}
  found = contents.listing(folder, recorded if by_date else None, names)
  changed, missing = contents.compare(recorded, found)
  if sealed['config'] != _config_digest(folder):
    changed.append(f'{CONFIG} has other fields')
  changed += [] if may_miss else missing
  if changed:
    raise ValueError(
      f'{folder} is not what its run wrote: {"; ".join(changed[:5])}; restore '
      f'it, or remove {folder} to make it again'
    )
  return missing


# Config sections that do not change what a run computes.
MAY_CHANGE = (
  'checkpoint',
  'log',
  'mesh',
  'model_rules',
  'offload',
  'people',  # when a run waits for them
  'rules',
  'workers',
)


def fixed_part(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config, as JSON has it, without the sections that may change."""
  config = json.loads(files.to_json(config))
  return {name: x for name, x in config.items() if name not in MAY_CHANGE}


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Returns 'field: old -> new' for each difference outside `MAY_CHANGE`."""
  one, two = _flat(fixed_part(old)), _flat(fixed_part(new))
  return [
    f'{key}: {one.get(key, "absent")} -> {two.get(key, "absent")}'
    for key in sorted({*one, *two})
    if one.get(key) != two.get(key)
  ]


def _config_digest(folder: pathlib.Path) -> str:
  path = folder / CONFIG
  if not path.exists():
    return ''
  return files.fingerprint(fixed_part(files.read_json(path)))


def check_config(workdir, config: Mapping[str, Any]) -> None:
  """Refuses a run folder that was made with another config.

  Raises:
    ValueError: config.json differs outside `MAY_CHANGE`; the message names the
      fields.
  """
  path = pathlib.Path(workdir) / CONFIG
  old = files.read_json(path) if path.exists() else config
  changed = changed_fields(old, config)
  if changed:
    raise ValueError(
      f'{path.parent} was made with another configuration '
      f'({"; ".join(changed[:5])}): take another workdir, or remove that '
      'folder and those that were made from it'
    )


def write_config(workdir, config: Mapping[str, Any]) -> None:
  """Writes config.json, after `check_config`."""
  check_config(workdir, config)
  pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
  files.atomic_write(pathlib.Path(workdir) / CONFIG, files.to_json(config))


def find(path: pathlib.Path) -> pathlib.Path | None:
  """Returns the run folder that contains a path (or is it), or None."""
  folders = (f for f in (path, *path.parents) if (f / CONFIG).is_file())
  return next(folders, None)


@contextlib.contextmanager
def only_process(workdir, primary: bool = True) -> Iterator[None]:
  """Locks a run folder; the kernel releases the lock when the process dies.

  Args:
    workdir: the run folder.
    primary: whether this is process 0 of the run; the others take no lock.

  Raises:
    ValueError: another process works in the folder.
  """
  exits.at_work()
  if not primary:
    yield
    return
  path = pathlib.Path(workdir) / LOCK
  with open(files.open_new_or_own(path, os.O_RDWR), 'r+b') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      number = f.read().decode(errors='replace').strip()
      raise ValueError(
        f'{path.parent}: {f"process {number}" if number else "a process"} is '
        'at work in this folder; wait for its end, or take another folder'
      ) from None
    f.truncate(0)
    f.write(f'{os.getpid()}\n'.encode())
    f.flush()
    yield


def holder(workdir) -> str | None:
  """Returns the id of the process that works in a run folder, or None.

  The id is '' while that process starts.
  """
  try:
    path = pathlib.Path(workdir) / LOCK
    files.refuse_link(path)
    with open(path, 'rb') as f:
      try:
        fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
      except BlockingIOError:
        return f.read().decode(errors='replace').strip()
  except FileNotFoundError:
    pass
  return None


def _flat(tree, prefix='') -> dict[str, str]:
  """{'a': {'b': 1}} -> {'a.b': '1'}."""
  if not isinstance(tree, dict) or not tree:
    return {prefix: json.dumps(tree)}
  flat = {}
  for key, value in tree.items():
    flat.update(_flat(value, f'{prefix}.{key}' if prefix else key))
  return flat
