"""What a stage reads of a data folder, and one line where it is not there.

A lab has all parts. A folder made of public data has those that its sources
gave: a stage that cannot do without one names the field to set.
"""

import pathlib

from instructrl.data import store
from instructrl.trainers import common
from instructrl.trainers import runs
from instructrl.data.rows import RowFile
from instructrl.data.rows import read_rows




















# Data set or rows -> the field of the data stage whose sources give them.
_FIELDS = {'corpus': 'documents', 'demonstrations': 'demonstrations',
           'rankings': 'rankings', 'prompts': 'prompts or rankings'}


def has(folder: str | pathlib.Path, name: str, split: str = 'train') -> bool:
  """Whether a folder has a data set with a split.

  Raises:
    ConfigError: it has one of another format version.
  """
  try:
    return split in store.splits(folder, name)
  except FileNotFoundError as error:
    other = store.other_versions(folder, name)
    common.require(not other, f'{error}, but one of {", ".join(other)}, which '
                   'another version of this program wrote: make it again')
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
  common.require(
      has(folder, name, split),
      f'inputs.{source}: {folder} has no {name} of the split {split!r}: give '
      f'the data stage a source for {_FIELDS[name]}, or set inputs.{source}')
  return store.read_records(folder, name, split)


def rows(run: runs.Run, name: str, remedy: str) -> RowFile:
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
  common.require(
      bool(name) and (folder / name).exists(),
      f'inputs.data: {folder} has no {name or "such rows"}: give the data '
      f'stage a source for {_FIELDS.get(part, part)}, or {remedy}')
  return read_rows(
      folder / name, tokenizer_fingerprint=run.tokenizer().fingerprint)


def tell(run: runs.Run, text: str) -> None:
  """Says, once, that a run goes without something."""
  if run.primary:
    print(f'{run.label} {run.config.stage}: {text}'.strip(), flush=True)
