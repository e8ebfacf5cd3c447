"""Stores records of each type with TFDS, as ArrayRecord files.

A data set NAME in a folder is `NAME/<builder>/<version>/`. One process writes
it once; then it is only read. The order of the records is kept (TFDS would
shuffle them by a hash of the key).
"""

import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
import operator
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from instructrl.data import ranked
from instructrl.data.builders import BUILDERS
from instructrl.data.builders import MakeRecords
from instructrl.data.builders import Rankings
from instructrl.data.builders import RecordBuilder
from instructrl.data.digests import digest
from instructrl.data.digests import Digests
from instructrl.data.records import (
  FORMAT_VERSION,
  prompt_of,
  Record,
  RecordError,
  SPLITS,
  validate,
)
from instructrl.data.sequences import chosen

_BLOCK = 1024  # records read at once when iterating
_SHARD = 8192  # records of a shard, which TFDS keeps in memory


@dataclasses.dataclass(frozen=True)
class Shards:
  """Records of a split that are made shard by shard, also on other machines.

  Attributes:
    record_type: of all records.
    makers: functions without arguments that return the records of a shard.
      Apache Beam pickles them.
  """

  record_type: type
  makers: Sequence[MakeRecords]


def write_records(
  directory: str | pathlib.Path,
  name: str,
  records_by_split: Mapping[str, Iterable[Record] | Shards],
  *,
  fingerprint: str = '',
  beam: Mapping[str, Any] | None = None,
) -> pathlib.Path:
  """Writes a data set, or does nothing if it is finished.

  Removes the remains of a killed preparation. Only one process may write a data
  set at a time.

  Args:
    directory: the folder that holds data sets.
    name: the data set's name.
    records_by_split: split -> records, all of one type. Iterables are read
      once, and not at all if the data set is finished. A sequence is written in
      shards of `_SHARD` records, so that few of them are in memory.
    fingerprint: what the records are made from, such as a hash of the config.
    beam: `beam_runner` and `beam_options` of `tfds.download.DownloadConfig`,
      to write shards on the workers of Apache Beam. An id that is in two shards
      is then not noticed.

  Returns:
    The folder with the ArrayRecord files.

  Raises:
    RecordError: a malformed record; the message has the data set, the split,
      the index and the reason. Nothing is kept.
    ValueError: there are no splits, a split is empty, or the finished data set
      has another fingerprint.
  """
  folder = pathlib.Path(directory) / name
  finished = _find(folder)
  if finished is not None:
    known = finished.info.metadata['made_from']
    if fingerprint and fingerprint != known:
      raise ValueError(
        f'{folder} was made from {known[:12] or "something else"}, this run '
        f'makes {fingerprint[:12]}: choose another folder, or delete it'
      )
    return pathlib.Path(finished.data_dir)
  if not records_by_split:
    raise ValueError(f'data set {name!r} has no splits')
  splits_of = {
    split: _in_shards(records, f'split {split!r} of data set {name!r}')
    for split, records in records_by_split.items()
  }
  record_type = next(iter(splits_of.values())).record_type
  found = [cls for cls in BUILDERS if cls.RECORD is record_type]
  if not found:
    raise RecordError(name, 0, f'{record_type.__name__} is not a record type')
  seen = Digests(), [*splits_of]
  checked = {
    split: [
      functools.partial(
        _checked, make, record_type, name, split, seen, i * _SHARD
      )
      for i, make in enumerate(shards.makers)
    ]
    for split, shards in splits_of.items()
  }
  for leftover in folder.glob('*/incomplete.*'):
    shutil.rmtree(leftover)
  tfds.disable_progress_bar()  # the caller shows the progress
  builder = found[0](data_dir=folder, shards=checked, made_from=fingerprint)
  with tempfile.TemporaryDirectory() as no_downloads:
    builder.download_and_prepare(
      download_dir=no_downloads,
      file_format='array_record',
      download_config=tfds.download.DownloadConfig(**(beam or {})),
    )
  return pathlib.Path(builder.data_dir)


def _in_shards(records: Iterable[Record] | Shards, of: str) -> Shards:
  """Divides records into shards; raises a ValueError if there are none."""
  if isinstance(records, Shards):
    return records
  if isinstance(records, Sequence) and len(records) > _SHARD:
    starts = range(0, len(records), _SHARD)
    return Shards(
      type(records[0]),
      [
        functools.partial(records.__getitem__, slice(start, start + _SHARD))
        for start in starts
      ],
    )
  iterator = iter(records)
  first = next(iterator, None)
  if first is None:
    raise ValueError(f'{of} has no records')
  whole = itertools.chain([first], iterator)
  return Shards(type(first), [lambda: whole])


def by_split(records: Iterable[Record]) -> dict[str, Sequence[Record]]:
  """Returns split -> its records, for `write_records`."""
  rows: dict[str, array.array] = {}
  if not isinstance(records, Sequence):
    records = list(records)
  for row, record in enumerate(records):
    rows.setdefault(prompt_of(record).split, array.array('q')).append(row)
  return {split: chosen(records, found) for split, found in rows.items()}


def _checked(make, record_type, name, split, seen, first):
  """Yields valid records that belong to the split, each id once.

  `seen` has the ids of all splits, and the names of the splits.
  """
  source, (ids, names) = f'{name}/{split}', seen
  for index, record in enumerate(make(), first):
    refused = functools.partial(RecordError, source, index)
    if not isinstance(record, record_type):
      found, kind = type(record).__name__, record_type.__name__
      raise refused(f'{found} among records of the type {kind}')
    validate(record, source=source, index=index)
    prompt = prompt_of(record)
    if split in SPLITS and prompt.split != split:
      raise refused(f'belongs to the split {prompt.split!r}')
    if prompt is record:  # many labelers may rank one prompt
      place = index * len(names) + names.index(split)
      known = ids.setdefault(digest(record.id), place)
      if known != place:
        row, number = divmod(known, len(names))
        raise refused(
          f'id {record.id!r} is already that of {name}/{names[number]}[{row}]'
        )
    yield record


def read_records(
  directory: str | pathlib.Path, name: str, split: str = 'train'
) -> 'RecordSequence':
  """Opens a finished data set for random access.

  Args:
    directory: the folder that holds data sets.
    name: the data set's name.
    split: a split, or a part of one as TFDS writes it: 'train[:10%]'.

  Returns:
    A sequence of records. Each is validated when it is read.

  Raises:
    FileNotFoundError: the data set is missing or not finished.
    ValueError: the data set does not have the split.
    RecordError: a file is damaged.
  """
  builder = _require(directory, name)
  if split.partition('[')[0] not in builder.info.splits:
    raise ValueError(
      f'data set {name!r} in {directory} has no split {split!r}; it has '
      f'{", ".join(sorted(builder.info.splits))}'
    )
  try:
    return RecordSequence(builder, split)
  except RuntimeError as error:
    reason = f'cannot be read: {error}'
    raise RecordError(str(builder.data_dir), None, reason) from error


def read_ranked(
  directory: str | pathlib.Path, name: str, split: str
) -> ranked.RankedTokens:
  """Opens a split of rankings in tokens; see `ranked`.

  Raises:
    FileNotFoundError, ValueError: see `read_records`.
    RecordError: a file is damaged; or a ranking is not in tokens.
  """
  records = read_records(directory, name, split)
  path = _require(directory, name).columns_path(split)
  try:
    columns = ranked.Columns.load(path)
  except (OSError, ValueError) as error:
    raise RecordError(str(path), None, f'cannot be read: {error}') from error
  if len(columns.k) != len(records):
    reason = f'has {len(columns.k)} rankings, the split {len(records)}'
    raise RecordError(str(path), None, reason)
  (bare,) = np.nonzero(columns.prompt == 0)
  if len(bare):
    raise ValueError(
      f'the ranking of prompt {records[bare[0]].prompt.id!r} has no tokens '
      'yet: make a data folder of its source first (the stage `data`)'
    )
  return ranked.RankedTokens(records, columns)


def splits(directory: str | pathlib.Path, name: str) -> dict[str, int]:
  """Returns split -> number of records, for a finished data set."""
  info = _require(directory, name).info
  return {split: info.splits[split].num_examples for split in info.splits}


def dataset_fingerprint(directory: str | pathlib.Path, name: str) -> str:
  """Returns the sha256 (hex) of a finished data set's records and splits."""
  contents = _require(directory, name).info.metadata['contents']
  text = json.dumps(contents, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


class RecordSequence(Sequence[Any]):
  """The records of a split, read and validated one by one."""

  def __init__(self, builder: RecordBuilder, split: str):
    self._decode = builder.decode
    self._split = split.partition('[')[0]
    self._examples = builder.as_data_source(split)
    self._parts = []  # (index of its first record here, file, index there)
    first = 0
    for part in builder.info.splits[split].file_instructions:
      self._parts.append((first, str(part.filename), part.skip))
      first += part.examples_in_shard

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self._read(range(len(self))[index])
    index = operator.index(index)
    if not -len(self) <= index < len(self):
      raise IndexError(f'record {index} of {len(self)}')
    return self._read([index % len(self)])[0]

  def __iter__(self) -> Iterator[Any]:  # the records of one kind
    for start in range(0, len(self), _BLOCK):
      yield from self._read(range(start, min(start + _BLOCK, len(self))))

  def _place(self, index: int) -> tuple[str, int]:
    """Returns the file of a record and its index in the file."""
    first, name, skip = [p for p in self._parts if p[0] <= index][-1]
    return name, index - first + skip

  def tokens(self, indices: Sequence[int]) -> list[np.ndarray]:
    """Returns the tokens of rankings, which were validated when written."""
    return list(map(Rankings.tokens, self._found(indices)))

  def _found(self, indices: Sequence[int]) -> list[dict[str, bytes]]:
    """Reads examples; a damaged one is an error that names its place."""
    try:
      examples = self._examples.__getitems__(list(indices))
    except (RuntimeError, ValueError) as error:  # ArrayRecord's, and TFDS's
      reason = f'this record or a later one is damaged: {error}'
      raise RecordError(*self._place(indices[0]), reason) from error
    for index, example in zip(indices, examples):
      lost = [field for field, value in example.items() if value is None]
      if lost:  # ArrayRecord reads what was cut off as None
        reason = f'is damaged: it has no {lost[0]}'
        raise RecordError(*self._place(index), reason)
    return examples

  def _read(self, indices: Sequence[int]) -> list[Record]:
    examples = self._found(indices)
    return [self._decoded(i, example) for i, example in zip(indices, examples)]

  def _decoded(self, index: int, example: dict[str, bytes]) -> Record:
    name, where = self._place(index)
    refused = functools.partial(RecordError, name, where)
    try:
      record = self._decode(example)
    except UnicodeDecodeError as error:
      raise refused(f'text is not UTF-8: {error}') from error
    except ValueError as error:
      raise refused(f'is malformed: {error}') from error
    validate(record, source=name, index=where)
    own = prompt_of(record).split
    if self._split in SPLITS and own != self._split:
      raise refused(f'belongs to the split {own!r}')
    return record


def other_versions(directory: str | pathlib.Path, name: str) -> list[str]:
  """Returns the versions of a data set that this program does not read."""
  infos = (pathlib.Path(directory) / name).glob('*/*/dataset_info.json')
  own = {str(cls.VERSION) for cls in BUILDERS}
  return sorted({info.parent.name for info in infos} - own)


def _find(folder: pathlib.Path) -> RecordBuilder | None:
  """Returns a builder of the finished data set in a folder, or None."""
  for cls in BUILDERS:
    info = folder / cls.name / str(cls.VERSION) / 'dataset_info.json'
    if not info.is_file():
      continue
    refused = functools.partial(RecordError, str(info), None)
    try:
      about = json.loads(info.read_bytes())
    except ValueError as error:
      raise refused(f'cannot be read: {error}') from error
    needed = {'name', 'version', 'fileFormat', 'splits'}
    if (
      not isinstance(about, dict)
      or needed - about.keys()
      or about['name'] != cls.name
    ):
      raise refused(f'is not that of {cls.name}')
    return cls(data_dir=folder)
  return None


def _require(directory: str | pathlib.Path, name: str) -> RecordBuilder:
  builder = _find(pathlib.Path(directory) / name)
  if builder is None:
    raise FileNotFoundError(
      f'no finished data set {name!r} of format version {FORMAT_VERSION} in '
      f'{directory}'
    )
  return builder
