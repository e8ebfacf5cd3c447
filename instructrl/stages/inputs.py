"""What a stage reads of a data folder, and one line where it is not there.

A lab has all parts. A folder made of public data has those that its sources
gave: a stage that cannot do without one names the field to set.
"""

from collections.abc import Callable
import os
import pathlib

from instructrl.data import store
from instructrl.data.rows import read_rows
from instructrl.data.rows import RowFile
from instructrl.runtime import checkpoint
from instructrl.runtime import run_folder
from instructrl.stages import checks
from instructrl.types import Params

# Data set or rows -> the field of the data stage whose sources give them.
_FIELDS = {
  'corpus': 'documents',
  'demonstrations': 'demonstrations',
  'rankings': 'rankings',
  'prompts': 'prompts or rankings',
}


def has(folder: str | pathlib.Path, name: str, split: str = 'train') -> bool:
  """Whether a folder has a data set with a split.

  Raises:
    ConfigError: it has one of another format version.
  """
  try:
    return split in store.splits(folder, name)
  except FileNotFoundError as error:
    other = store.other_versions(folder, name)
    checks.require(
      not other,
      f'{error}, but one of {", ".join(other)}, which '
      'another version of this program wrote: make it again',
    )
    return False


def records(run, source: str, name: str, split: str) -> store.RecordSequence:
  """A split of a data set of an input.

  Args:
    run: a `runs.Run` or a `policies.Opener`.
    source: the input.
    name: of the data set.
    split: of it.

  Raises:
    ConfigError: there is none; says what to do.
  """
  folder = run.input(source)
  checks.require(
    has(folder, name, split),
    f'inputs.{source}: {folder} has no {name} of the split {split!r}: give '
    f'the data stage a source for {_FIELDS[name]}, or set inputs.{source}',
  )
  return store.read_records(folder, name, split)


def rows(run, name: str, remedy: str) -> RowFile:
  """Packed rows of inputs.data.

  Args:
    run: of the stage.
    name: of the file.
    remedy: what to set where there are none.

  Raises:
    ConfigError: there are none; says what to do.
  """
  folder = run.input('data')
  part = name.partition('.')[0].removesuffix('_validation')
  checks.require(
    bool(name) and (folder / name).exists(),
    f'inputs.data: {folder} has no {name or "such rows"}: give the data '
    f'stage a source for {_FIELDS.get(part, part)}, or {remedy}',
  )
  return read_rows(
    folder / name, tokenizer_fingerprint=run.tokenizer().fingerprint
  )


def tell(run, text: str) -> None:
  """Says, once, that a run goes without something."""
  if run.primary:
    print(f'{run.label} {run.config.stage}: {text}'.strip(), flush=True)


def input_path(config, workdir, name: str) -> pathlib.Path:
  """The path of an input; relative ones start at the run folder."""
  value = config.inputs[name]
  checks.require(bool(value), f'inputs.{name} is empty: give it a path')
  path = pathlib.Path(os.path.normpath(pathlib.Path(workdir) / value))
  checks.require(
    path.exists(),
    f'inputs.{name}: {path} does not exist; run the stage that makes '
    'it first, or set the field',
  )
  try:
    checkpoint.refuse_foreign(path)
  except checkpoint.CheckpointError as error:
    raise checks.ConfigError(f'inputs.{name}: {error}') from error
  checks.require(
    not (path / run_folder.CONFIG).exists()
    or run_folder.read_done(path) is not None,
    f'inputs.{name}: {path} is not finished; run it to its end, or name '
    'one of its checkpoints',
  )
  return path


def exported(
  path,
  wanted: Params | Callable[[dict], Params] | None = None,
  check: Callable[[dict], None] = lambda meta: None,
):
  """The parameters that a run exports, and the checkpoint's meta.

  Args:
    path: a run folder, its checkpoints, or one step of them.
    wanted: abstract parameters, with shardings; another floating dtype than
      what was saved is converted to. Or a function that makes them from the
      meta. What was saved by default, on the first device.
    check: is given the meta first, and may refuse it.

  Raises:
    CheckpointError: there is none, or the newest is damaged: an older one
      would be another result. It can be given by its own path.
  """

  def subtree(meta):
    check(meta)
    return meta['export']

  return checkpoint.restore_params(
    path, subtree, wanted, cast=True, only_newest=True
  )
