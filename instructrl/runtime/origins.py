"""Records what a run is made from in inputs.json; refuses changed inputs.

An input has an identity, a hash of the configs that it follows from, and
contents, the digests of its files. A run records both when it starts. A later
start compares them, so a run never continues from, or counts as the result of,
other inputs than it began with.
"""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

from instructrl.runtime import contents
from instructrl.runtime import files
from instructrl.runtime import run_folder

INPUTS = 'inputs.json'
FORMAT_VERSION = 2  # version 1 has the identities only, without a digest


def read_inputs(folder) -> dict[str, dict]:
  """Returns {'identities', 'contents'} of a run; empty if it has no file."""
  path = pathlib.Path(folder) / INPUTS
  found = files.read_json(path) if path.exists() else {}
  if {'format_version', files.SEAL}.isdisjoint(found):
    return {'identities': found, 'contents': {}}
  return files.read_sealed(path, FORMAT_VERSION)


def _write(folder, found: Mapping[str, Mapping]) -> None:
  value = {'format_version': FORMAT_VERSION, **found}
  files.write_sealed(pathlib.Path(folder) / INPUTS, value)


def identity(path) -> str:
  """Returns a hash of all that a run folder, or a path in it, depends on.

  The hash covers the config of the run and, through its inputs, the configs of
  all runs before it. It is '' for a path outside of run folders.
  """
  path = pathlib.Path(os.path.abspath(path))
  folder = run_folder.find(path)
  if folder is None:
    return ''
  config = files.read_json(folder / run_folder.CONFIG)
  return files.fingerprint(
    {
      'config': run_folder.fixed_part(config),
      'inputs': read_inputs(folder)['identities'],
      'part': str(path.relative_to(folder)),
    }
  )


def digest(workdir) -> str:
  """Returns a hash of what a run was made from; '' if that is not recorded."""
  if not (pathlib.Path(workdir) / INPUTS).exists():
    return ''
  found = read_inputs(workdir)
  plain = {
    name: {file: entry[:2] for file, entry in listing.items()}
    for name, listing in found['contents'].items()
  }
  return files.fingerprint({'of': found['identities'], 'contents': plain})


def check(
  workdir,
  inputs: Mapping[str, Any],
  *,
  sources: Mapping[str, Any] | None = None,
  code: Mapping[str, str] | None = None,
) -> None:
  """Records what a run is made from; compares it on a later start.

  Args:
    workdir: the run folder.
    inputs: {name: path}; a name is that of an input, or a field such as
      'policies.sft'.
    sources: {name: path} of files that are not runs, such as data to import.
    code: {name: hash of its source} of Python code that the run calls.

  Raises:
    ValueError: something has changed since the run began, or an input since its
      own run finished, or an input was made from other data than the run uses.
      The message names the input and the file.
  """
  folder = pathlib.Path(workdir)
  recorded = read_inputs(folder)
  started = (folder / INPUTS).exists()
  finished = run_folder.read_done(folder) is not None
  paths = {name: pathlib.Path(os.path.abspath(p)) for name, p in inputs.items()}
  found = {name: identity(path) for name, path in paths.items()}
  if started:
    _check_identities(folder, recorded['identities'], found, paths)
  for name, value in (code or {}).items():
    _check_code(folder, name, recorded['identities'].get(name, value), value)
  listings = {}
  for name, path in {**paths, **(sources or {})}.items():
    known = recorded['contents'].get(name)
    sealed = run_folder.sealed_files(path) if known is None else known
    listings[name] = contents.listing(path, sealed)
    if known is not None:
      where = f'{field(name) if name in paths else name}: {path}'
      _check_contents(folder, where, known, listings[name], finished)
    elif started:
      files.warn_once(
        f'{folder / INPUTS} has no digests of {name}, so a change of it before '
        'this start is not noticed: an older version wrote the file'
      )
  if finished:
    return
  for name, path in paths.items():
    try:
      run_folder.check_files(path, by_date=started)
    except ValueError as error:
      raise ValueError(f'{field(name)}: {error}') from error
    _check_data(name, path, paths, found, listings)
  folder.mkdir(parents=True, exist_ok=True)
  merged = {
    'identities': recorded['identities'] | found | dict(code or {}),
    'contents': listings | recorded['contents'],
  }
  _write(folder, merged)


def field(name: str) -> str:
  """Returns the config field of an input, from its name in inputs.json."""
  return name if '.' in name else f'inputs.{name}'


def _check_identities(folder, old, found, paths) -> None:
  changed = sorted(name for name in found if old.get(name) != found[name])
  if changed:
    raise ValueError(
      f'{folder} was made from another {" and ".join(changed)} than '
      f'{paths[changed[0]]}: restore that folder, take another workdir, or '
      f'remove {folder} to make it again'
    )


def _check_code(folder, name, recorded: str, found: str) -> None:
  if recorded != found:
    raise ValueError(
      f'{folder} was made from other {name}, which have changed since '
      f'(recorded SHA-256 {recorded[:10]}, now {found[:10]}): restore it, take '
      f'another workdir, or remove {folder} to make it again'
    )


def _check_contents(folder, where, recorded, found, finished) -> None:
  """Refuses changed files of an input; a finished run may lose some."""
  changed, missing = contents.compare(recorded, found)
  if finished and missing and not changed:
    files.warn_once(
      f'{where}: files that {folder} was made from are gone: '
      f'{"; ".join(missing[:5])}'
    )
    return
  changed += missing
  if changed:
    raise ValueError(
      f'{where} has changed since {folder} was made from it: '
      f'{"; ".join(changed[:5])}; restore it, take another workdir, or remove '
      f'{folder} to make it again'
    )


def _check_data(name, path, paths, found, listings) -> None:
  """Refuses an input that was made from other data than the run uses."""
  own = run_folder.find(path)
  made_from = read_inputs(own) if own else {'identities': {}, 'contents': {}}
  identity_of = made_from['identities'].get('data')
  if identity_of and name == 'data':
    raise ValueError(
      f'inputs.data: {path} is not a data folder: it was itself made from one, '
      'which its config.json names as inputs.data'
    )
  other = identity_of and found.get('data') and identity_of != found['data']
  changed: list[str] = []
  recorded = made_from['contents'].get('data')
  if recorded and 'data' in listings:
    changed, missing = contents.compare(recorded, listings['data'])
    changed += missing
  if other or changed:
    raise ValueError(
      f'{field(name)}: {path} was made from other data than {paths["data"]}'
      + (f': {"; ".join(changed[:5])}' if changed else '')
    )


def add(workdir, name: str, value: str) -> None:
  """Records one more input, such as files that the config does not list.

  Args:
    workdir: the run folder.
    name: the key in inputs.json.
    value: the fingerprint of the input.

  Raises:
    ValueError: the run started with another fingerprint.
  """
  recorded = read_inputs(workdir)
  _check_code(
    workdir, name, recorded['identities'].setdefault(name, value), value
  )
  _write(workdir, recorded)
