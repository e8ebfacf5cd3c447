"""The bookkeeping of a run folder.

config.json  the config; a resume with another config is refused
inputs.json  the identity of each input, to refuse changed inputs
lock         held by the process that works in the folder
DONE         the result of a finished run
"""

from collections.abc import Iterator, Mapping
import contextlib
import fcntl
import json
import os
import pathlib
from typing import Any

from instructrl.runtime import files

FORMAT_VERSION = 1
CONFIG, INPUTS, LOCK = 'config.json', 'inputs.json', 'lock'


def write_done(workdir, result: Mapping[str, Any]) -> None:
  """Marks a run as finished, with its result."""
  files.atomic_write(
    pathlib.Path(workdir) / 'DONE',
    files.to_json({'format_version': FORMAT_VERSION, **result}),
  )


def read_done(workdir) -> dict[str, Any] | None:
  """Returns the result of a finished run; None if it is not finished."""
  path = pathlib.Path(workdir) / 'DONE'
  if not path.exists():
    return None
  result = files.read_json(path)
  version = result.pop('format_version', None)
  if version != FORMAT_VERSION:
    raise ValueError(
      f'{path}: format_version {version}, this program reads {FORMAT_VERSION}'
    )
  return result


# Config sections that do not change what a run computes.
MAY_CHANGE = ('checkpoint', 'log', 'mesh', 'model_rules', 'offload', 'rules')


def check_config(workdir, config: Mapping[str, Any]) -> None:
  """Refuses a run folder that was made with another config.

  Raises:
    ValueError: config.json differs outside `MAY_CHANGE`; the message names the
      fields.
  """
  path = pathlib.Path(workdir) / CONFIG
  if not path.exists():
    return
  old = _flat(files.read_json(path))
  new = _flat(json.loads(files.to_json(config)))
  changed = [
    f'{key}: {old.get(key, "absent")} -> {new.get(key, "absent")}'
    for key in sorted({*old, *new})
    if old.get(key) != new.get(key) and key.split('.')[0] not in MAY_CHANGE
  ]
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


def identity(path) -> str:
  """Returns a hash of all that a run folder, or a path in it, depends on.

  The hash covers the config of the run and, through its inputs, the configs of
  all runs before it. It is '' for a path outside of run folders.
  """
  path = pathlib.Path(os.path.abspath(path))
  folder = find(path)
  if folder is None:
    return ''
  config = files.read_json(folder / CONFIG)
  for name in MAY_CHANGE:
    config.pop(name, None)
  part = str(path.relative_to(folder))
  return files.fingerprint(
    {'config': config, 'inputs': _made_from(folder), 'part': part}
  )


def find(path: pathlib.Path) -> pathlib.Path | None:
  """Returns the run folder that contains a path (or is it), or None."""
  folders = (f for f in (path, *path.parents) if (f / CONFIG).is_file())
  return next(folders, None)


def _made_from(folder: pathlib.Path) -> dict[str, str]:
  """Returns {input: identity} of a run."""
  path = folder / INPUTS
  return files.read_json(path) if path.exists() else {}


def write_inputs(workdir, inputs: Mapping[str, Any]) -> None:
  """Records the identity of each input; on a resume, compares instead.

  Args:
    workdir: the run folder.
    inputs: {name: path}; a name is that of an input, or a field such as
      'policies.sft'.

  Raises:
    ValueError: an input has changed since the run started, or it was made from
      other data than the run uses. The message names the input.
  """
  path = pathlib.Path(workdir) / INPUTS
  found = {name: identity(value) for name, value in inputs.items()}
  for name, value in inputs.items():
    folder = find(pathlib.Path(os.path.abspath(value)))
    data = _made_from(folder).get('data') if folder else None
    if data and name == 'data':
      raise ValueError(
        f'inputs.data: {value} is not a data folder: it was itself made from '
        'one, which its config.json names as inputs.data'
      )
    if data and found.get('data') and data != found['data']:
      field = name if '.' in name else f'inputs.{name}'
      raise ValueError(
        f'{field}: {value} was made from other data than {inputs["data"]}'
      )
  if path.exists():
    old = files.read_json(path)
    changed = sorted(k for k in found if old.get(k) != found[k])
    if changed:
      raise ValueError(
        f'{path.parent} was made from another {" and ".join(changed)} than '
        f'{inputs[changed[0]]}: remove {path.parent} to make it again'
      )
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  files.atomic_write(path, files.to_json(found))


def add_input(workdir, name: str, identity: str) -> None:
  """Records one more input, such as files that the config does not list.

  Args:
    workdir: the run folder.
    name: the key in inputs.json.
    identity: the fingerprint of the input.

  Raises:
    ValueError: the run started with another fingerprint.
  """
  path = pathlib.Path(workdir) / INPUTS
  found = files.read_json(path) if path.exists() else {}
  if found.setdefault(name, identity) != identity:
    raise ValueError(
      f'{path.parent} was made from other {name}, which have since changed: '
      f'remove {path.parent} to make it again'
    )
  files.atomic_write(path, files.to_json(found))


@contextlib.contextmanager
def only_process(workdir, primary: bool = True) -> Iterator[None]:
  """Locks a run folder; the kernel releases the lock when the process dies.

  Args:
    workdir: the run folder.
    primary: whether this is process 0 of the run; the others take no lock.

  Raises:
    ValueError: another process works in the folder.
  """
  if not primary:
    yield
    return
  path = pathlib.Path(workdir) / LOCK
  if path.exists() and not path.is_file():
    raise ValueError(f'{path} is in the way: remove it')
  with open(path, 'r+b' if path.exists() else 'w+b') as f:
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
    with open(pathlib.Path(workdir) / LOCK, 'rb') as f:
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
