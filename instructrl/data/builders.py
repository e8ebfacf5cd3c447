"""TFDS builders, one per record type.

An example is the record as JSON (`records.to_dict`). The tokens of a ranking
are not in the JSON but in a buffer of little-endian int32, the prompt first,
because a value per token would be most of the time and of the space. TFDS keeps
neither the order of the fields of an example nor nested sequences, so JSON is
also what identifies the contents.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import hashlib
import itertools
import json
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from instructrl.data import ranked
from instructrl.data.records import (
  Demonstration,
  Document,
  FORMAT_VERSION,
  from_dict,
  Prompt,
  Ranking,
  Record,
  to_dict,
)

_JSON = json.JSONEncoder(sort_keys=True)
_DIGEST, _COLUMNS = '.digest', '.columns'
_TOKEN = '<i4'  # a token in a buffer

MakeRecords = Callable[[], Iterable[Record]]


@dataclasses.dataclass(frozen=True)
class _Shard:
  """Makes the examples of a shard, and files of what the builder says of them.

  Attributes:
    builder: class of the builder.
    make: makes the records.
    path: of the files, without a suffix.
  """

  builder: type['RecordBuilder']
  make: MakeRecords
  path: str

  def __call__(self):
    # The files' bytes are no fingerprint: an Example is a protocol buffer with
    # a map, whose order on disk differs between processes.
    digest, columns = hashlib.sha256(), ranked.ColumnsWriter()
    for index, record in enumerate(self.make()):
      example = self.builder.encode(record)
      for value in example.values():
        digest.update(value + b'\n')
      if isinstance(record, Ranking):
        columns.add(record)
      yield index, example
    pathlib.Path(self.path + _DIGEST).write_text(digest.hexdigest())
    if self.builder.RECORD is Ranking:
      columns.save(self.path + _COLUMNS)


class _Info(tfds.core.DatasetInfo):
  """The description of a data set, without a search for one online."""

  def initialize_from_bucket(self):
    """Does nothing; TFDS would leave an empty temporary folder."""


class RecordBuilder(tfds.core.ShardBasedBuilder):
  """Base class; a subclass names its record type.

  A shard is a file, and is made from one function without arguments. Shards are
  written one after the other, or by the workers of Apache Beam.
  """

  VERSION = tfds.core.Version(f'{FORMAT_VERSION}.0.0')
  RECORD: type

  def __init__(
    self,
    *,
    shards: Mapping[str, Sequence[MakeRecords]] | None = None,
    made_from: str = '',
    **kwargs,
  ):
    """Makes a builder.

    Args:
      shards: split -> functions that make the valid records of each shard; None
        to read only.
      made_from: fingerprint of what the records are made from.
      **kwargs: for the TFDS builder, such as `data_dir`.
    """
    self._shards = shards or {}
    self._made_from = made_from
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return _Info(
      builder=self,
      features=tfds.features.FeaturesDict(self.features()),
      metadata=tfds.core.MetadataDict(made_from=self._made_from, contents={}),
    )

  def _shard_iterators_per_split(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {
      split: [
        _Shard(type(self), make, str(self.data_path / f'{split}.{i}'))
        for i, make in enumerate(makers)
      ]
      for split, makers in self._shards.items()
    }

  def _download_and_prepare(self, *args, **kwargs):
    super()._download_and_prepare(*args, **kwargs)
    for split, makers in self._shards.items():
      paths = [
        self.data_path / f'{split}.{i}{_DIGEST}' for i in range(len(makers))
      ]
      self.info.metadata['contents'][split] = [p.read_text() for p in paths]
      for path in paths:
        path.unlink()
      if self.RECORD is Ranking:
        ranked.merge(
          [path.with_suffix(_COLUMNS) for path in paths],
          self.columns_path(split),
        )

  def columns_path(self, split: str):
    """Returns the file with the columns of a split (see `ranked`)."""
    return self.data_path / f'{split}{_COLUMNS}'

  # TFDS would print the size of a download; nothing is downloaded.
  def _log_download_bytes(self):
    pass

  def _log_download_done(self):
    pass

  @staticmethod
  def features() -> dict[str, Any]:
    return {'record': tfds.features.Text(doc='JSON')}

  @staticmethod
  def encode(record: Record) -> dict[str, bytes]:
    return {'record': _JSON.encode(to_dict(record)).encode()}

  @staticmethod
  def decode(example: Mapping[str, bytes]) -> Record:
    """Reverses `encode`; raises ValueError if it cannot."""
    return from_dict(json.loads(example['record']))


class Documents(RecordBuilder):
  """Pages of the pretraining corpus."""

  RECORD = Document


class Prompts(RecordBuilder):
  """Prompts without a response."""

  RECORD = Prompt


class Demonstrations(RecordBuilder):
  """Prompts with the response that a labeler wrote."""

  RECORD = Demonstration


class Rankings(RecordBuilder):
  """Prompts with K responses as one labeler ranked them."""

  RECORD = Ranking

  @staticmethod
  def features():
    tokens = tfds.features.Text(doc='int32: the prompt, then the responses')
    return {**RecordBuilder.features(), 'tokens': tokens}

  @staticmethod
  def encode(record):
    values = to_dict(record)
    parts = [values.pop('prompt_tokens'), *values.pop('response_tokens')]
    values['token_counts'] = list(map(len, parts))
    tokens = np.asarray([*itertools.chain(*parts)], _TOKEN)
    return {'record': _JSON.encode(values).encode(), 'tokens': tokens.tobytes()}

  @staticmethod
  def tokens(example: Mapping[str, bytes]) -> np.ndarray:
    """Returns the tokens of an example, the prompt first."""
    return np.frombuffer(example['tokens'], _TOKEN)

  @staticmethod
  def decode(example):
    values = json.loads(example['record'])
    tokens = iter(Rankings.tokens(example).tolist())
    parts = [[*itertools.islice(tokens, n)] for n in values.pop('token_counts')]
    values['prompt_tokens'], *values['response_tokens'] = parts
    return from_dict(values)


BUILDERS = (Documents, Prompts, Demonstrations, Rankings)
