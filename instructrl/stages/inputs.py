"""The inputs of a stage: data folders, and what other runs export."""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib
from typing import TYPE_CHECKING

from instructrl.runtime import checkpoint
from instructrl.runtime import errors
from instructrl.runtime import files
from instructrl.runtime import run_folder
from instructrl.runtime import typed
from instructrl.stages import checks
from instructrl.types import Params

if TYPE_CHECKING:  # tensorflow-datasets takes a second; `sample` needs none
  from instructrl.data import store
  from instructrl.data.folder import DataFolder
  from instructrl.data.ranked import RankedTokens
  from instructrl.data.rows import RowFile


def data_folder(run, source: str = 'data') -> DataFolder:
  """Opens a data folder that is an input of a stage.

  Args:
    run: a `Run` or a `policies.Opener`.
    source: name of the input.
  """
  from instructrl.data.folder import DataFolder

  return DataFolder(run.input(source), f'inputs.{source}')


def records(run, source: str, name: str, split: str) -> store.RecordSequence:
  """Opens a split of a data set; see `DataFolder.records`."""
  return data_folder(run, source).records(name, split)


def rankings(run) -> list[DataFolder]:
  """Opens inputs.rankings, and each input whose name begins with rankings_."""
  return [
    data_folder(run, name)
    for name, path in sorted(run.config.inputs.items())
    if name == 'rankings' or (name.startswith('rankings_') and path)
  ]


def ranked(run, split: str, tok) -> RankedTokens:
  """Opens a split of all `rankings` of a stage as one; see `DataFolder.ranked`.

  Each of them must have the split 'train'; another split may be in some only.
  """
  from instructrl.data.ranked import RankedTokens

  folders = rankings(run)
  if split != 'train':
    folders = [f for f in folders if f.has('rankings', split)] or folders[:1]
  return RankedTokens.union([f.ranked(split, tok) for f in folders])


def rows(run, name: str, remedy: str) -> RowFile:
  """Opens packed rows of inputs.data; see `DataFolder.rows`."""
  return data_folder(run).rows(name, run.tokenizer(), remedy)


def tell(run, text: str) -> None:
  """Prints, in one process, what a run leaves out."""
  if run.primary:
    print(f'{run.label or run.config.stage}: {text}', flush=True)


def paths(config) -> dict[str, tuple[str, str]]:
  """Returns the fields that name what a stage starts from.

  Returns:
    {key: (group, name)} of each path `config[group][name]` that is not empty.
    The key is its name in inputs.json: 'data' for inputs.data, 'policies.sft'
    for policies.sft, 'rewards.helpful' for rewards.helpful.path.
  """
  found = {
    name if group == 'inputs' else f'{group}.{name}': (group, name)
    for group in ('inputs', 'policies')
    for name, path in config.get(group, {}).items()
    if path
  }
  for name, term in config.get('rewards', {}).items():
    if term.get('path') and term.get('weight', 1):  # 0 leaves the term out
      found[f'rewards.{name}'] = (f'rewards.{name}', 'path')
  return found


def locate(workdir, value) -> pathlib.Path:
  """Returns the path that a field names; relative ones start at `workdir`."""
  return pathlib.Path(
    os.path.normpath(os.path.join(workdir, typed.path(value)))
  )


def selected(path) -> pathlib.Path:
  """Returns the step that a run of `select_sft` selected; other paths as given.

  Raises:
    ConfigError: the run of `select_sft` is not finished.
  """
  path = pathlib.Path(path)
  if not (path / run_folder.CONFIG).is_file():
    return path
  config = files.read_json(path / run_folder.CONFIG)
  if config.get('stage') != 'select_sft':
    return path
  done = run_folder.read_done(path)
  checks.require(done is not None, f'{path} is not finished; run it to its end')
  step = done['result']['selected_step']
  sft = locate(path, config['inputs']['sft'])
  return sft / 'checkpoints' / f'{step:08d}'


def input_path(
  config, workdir, name: str, group: str = 'inputs'
) -> pathlib.Path:
  """Returns the path of an input; relative ones start at the run folder.

  A run of `select_sft` is the step of SFT that it selected.

  Args:
    config: of the stage.
    workdir: of the stage.
    name: of the input or policy.
    group: field of the config that has it; see `paths`.

  Raises:
    ConfigError: the field is empty, or the path does not exist, belongs to
      another tool, or is an unfinished run.
  """
  field, value = f'{group}.{name}', config[group][name]
  checks.require(bool(value), f'{field} is empty: give it a path')
  path = locate(workdir, value)
  checks.require(
    path.exists(),
    f'{field}: {path} does not exist; run the stage that makes '
    'it first, or set the field',
  )
  try:
    checkpoint.refuse_foreign(path)
  except errors.CheckpointError as error:
    raise checks.ConfigError(f'{field}: {error}') from error
  checks.require(
    not (path / run_folder.CONFIG).exists()
    or run_folder.read_done(path) is not None,
    f'{field}: {path} is not finished; run it to its end, or name '
    'one of its checkpoints',
  )
  return selected(path)


def exported(
  path,
  wanted: Params | Callable[[dict], Params] | None = None,
  check: Callable[[dict], None] = lambda meta: None,
):
  """Loads the parameters that a run exports, and the checkpoint's meta.

  Args:
    path: a run folder, its checkpoints, or one step of them.
    wanted: abstract parameters with shardings, or a function that makes them
      from the meta; the saved ones are converted to their floating dtype. None
      keeps the saved dtypes, on the first device.
    check: called with the meta first; may raise.

  Raises:
    CheckpointError: there is no checkpoint, or the newest is damaged. An older
      one would be another result; it can be named by its own path.
  """

  def subtree(meta):
    check(meta)
    return meta['export']

  return checkpoint.restore_params(
    path, subtree, wanted, cast=True, only_newest=True
  )
