"""TFDS builders, one per record type, with the features spelled out.

TFDS without TensorFlow cannot store a sequence of ragged sequences, so the
tokens of all responses are one sequence, beside their lengths. An Example holds
float32 only, so temperatures are text, and come back exactly.
"""

from collections.abc import Iterable, Mapping
import hashlib
import itertools
import json
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from instructrl.data.records import (
  Demonstration,
  Document,
  FORMAT_VERSION,
  Prompt,
  Ranking,
  Record,
  to_dict,
)


class RecordBuilder(tfds.core.GeneratorBasedBuilder):
  """Base class; a subclass defines the features and the mapping to records."""

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
      line = json.dumps(to_dict(record), sort_keys=True)
      digest.update(f'{line}\n'.encode())
      yield index, self.encode(record)
    self.info.metadata['contents'][split] = digest.hexdigest()

  # TFDS would print the size of a download; nothing is downloaded.
  def _log_download_bytes(self):
    pass

  def _log_download_done(self):
    pass

  @staticmethod
  def features() -> dict[str, Any]:
    raise NotImplementedError

  @staticmethod
  def encode(record: Record) -> dict[str, Any]:
    raise NotImplementedError

  @staticmethod
  def decode(example: dict[str, Any]) -> Record:
    raise NotImplementedError


def _text_features(*names: str) -> dict[str, Any]:
  return {name: tfds.features.Text() for name in names}


def _values(record: Record, names: Iterable[str]) -> dict[str, Any]:
  return {name: getattr(record, name) for name in names}


def _text(example: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
  return {name: example[name].decode('utf-8') for name in names}


def _texts(values: Iterable[bytes]) -> tuple[str, ...]:
  return tuple(value.decode('utf-8') for value in values)


_PROMPT_FIELDS = ('id', 'text', 'user', 'use_case', 'split', 'spec')
_DOCUMENT_FIELDS = ('id', 'text', 'source', 'split')


class Documents(RecordBuilder):
  """Pages of the pretraining corpus."""

  RECORD = Document

  @staticmethod
  def features():
    return _text_features(*_DOCUMENT_FIELDS)

  @staticmethod
  def encode(record):
    return _values(record, _DOCUMENT_FIELDS)

  @staticmethod
  def decode(example):
    return Document(**_text(example, _DOCUMENT_FIELDS))


class Prompts(RecordBuilder):
  """Prompts without a response."""

  RECORD = Prompt

  @staticmethod
  def features():
    turns = tfds.features.Sequence(tfds.features.Text())
    return {**_text_features(*_PROMPT_FIELDS), 'turns': turns}

  @staticmethod
  def encode(record):
    return {**_values(record, _PROMPT_FIELDS), 'turns': list(record.turns)}

  @staticmethod
  def decode(example):
    turns = _texts(example['turns'])
    return Prompt(**_text(example, _PROMPT_FIELDS), turns=turns)


class Demonstrations(RecordBuilder):
  """Prompts with the response that a labeler wrote."""

  RECORD = Demonstration

  @staticmethod
  def features():
    return {
      'prompt': Prompts.features(),
      **_text_features('response', 'labeler'),
    }

  @staticmethod
  def encode(record):
    return {
      'prompt': Prompts.encode(record.prompt),
      **_values(record, ('response', 'labeler')),
    }

  @staticmethod
  def decode(example):
    return Demonstration(
      prompt=Prompts.decode(example['prompt']),
      **_text(example, ('response', 'labeler')),
    )


class Rankings(RecordBuilder):
  """Prompts with K responses as one labeler ranked them."""

  RECORD = Ranking

  @staticmethod
  def features():
    texts = lambda: tfds.features.Sequence(tfds.features.Text())
    integers = lambda: tfds.features.Sequence(np.int32)
    return {
      'prompt': Prompts.features(),
      **_text_features('labeler', 'group'),
      'responses': texts(),
      'response_lengths': integers(),
      'response_tokens': integers(),
      'sources': texts(),
      'temperatures': texts(),
      'ranks': integers(),
      'metadata': tfds.features.Text(),  # JSON
    }

  @staticmethod
  def encode(record):
    return {
      'prompt': Prompts.encode(record.prompt),
      **_values(record, ('labeler', 'group')),
      'responses': list(record.responses),
      'response_lengths': [len(t) for t in record.response_tokens],
      'response_tokens': list(itertools.chain(*record.response_tokens)),
      'sources': list(record.sources),
      'temperatures': [repr(float(value)) for value in record.temperatures],
      'ranks': list(record.ranks),
      'metadata': json.dumps(to_dict(record)['metadata']),
    }

  @staticmethod
  def decode(example):
    ends = np.cumsum(example['response_lengths']).tolist()
    tokens = np.asarray(example['response_tokens']).tolist()
    return Ranking(
      prompt=Prompts.decode(example['prompt']),
      **_text(example, ('labeler', 'group')),
      responses=_texts(example['responses']),
      response_tokens=tuple(
        tuple(tokens[start:end]) for start, end in zip([0, *ends], ends)
      ),
      sources=_texts(example['sources']),
      temperatures=tuple(float(text) for text in example['temperatures']),
      ranks=tuple(np.asarray(example['ranks']).tolist()),
      metadata=tuple(json.loads(example['metadata'])),
    )


BUILDERS = (Documents, Prompts, Demonstrations, Rankings)
