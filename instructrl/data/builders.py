"""TFDS builders, one per record type.

An example is the record as JSON (`records.to_dict`). The tokens of a ranking
are not in the JSON but in a buffer of little-endian int32, the prompt first,
because a value per token would be most of the time and of the space. TFDS keeps
neither the order of the fields of an example nor nested sequences, so JSON is
also what identifies the contents.
"""

from collections.abc import Iterable, Mapping
import hashlib
import itertools
import json
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
_TOKEN = '<i4'  # a token in a buffer


class RecordBuilder(tfds.core.GeneratorBasedBuilder):
  """Base class; a subclass names its record type."""

  VERSION = tfds.core.Version(f'{FORMAT_VERSION}.0.0')
  RECORD: type

  def __init__(
    self,
    *,
    records: Mapping[str, Iterable[Record]] | None = None,
    made_from: str = '',
    **kwargs,
  ):
    """Makes a builder.

    Args:
      records: split -> valid records; None to read only.
      made_from: fingerprint of what the records are made from.
      **kwargs: for the TFDS builder, such as `data_dir`.
    """
    self._records = records or {}
    self._made_from = made_from
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(self.features()),
      metadata=tfds.core.MetadataDict(made_from=self._made_from, contents={}),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split) for split in self._records}

  def _generate_examples(self, split):
    # The files' bytes are no fingerprint: an Example is a protocol buffer with
    # a map, whose order on disk differs between processes.
    digest = hashlib.sha256()
    for index, record in enumerate(self._records[split]):
      example = self.encode(record)
      for value in example.values():
        digest.update(value + b'\n')
      yield index, example
    self.info.metadata['contents'][split] = digest.hexdigest()

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

  def _generate_examples(self, split):
    columns = ranked.ColumnsWriter()
    rankings = self._records[split]

    def seen():
      for ranking in rankings:
        columns.add(ranking)
        yield ranking

    self._records = {**self._records, split: seen()}
    yield from super()._generate_examples(split)
    columns.save(self.columns_path(split))

  def columns_path(self, split: str):
    """Returns the file with the columns of a split (see `ranked`)."""
    return self.data_path / f'{split}.columns.npz'

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
