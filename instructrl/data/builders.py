"""TFDS builders, one per record type, with the features spelled out.

Known of TFDS without TensorFlow: a sequence of ragged sequences cannot be
stored, so the responses' tokens lie end to end beside their lengths; an Example
holds float32 only, so temperatures are stored as text and come back exactly.
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
  """What the builders share; a subclass says the features and the mapping."""

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
      records: the valid records of each split; None to read only.
      made_from: a fingerprint of what the records were made from.
      **kwargs: of the TFDS builder, such as `data_dir`.
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
    # The files' own bytes are no fingerprint: an Example is a protocol buffer
    # with a map, whose order on disk differs from one process to the next.
    digest = hashlib.sha256()
    for index, record in enumerate(self._records[split]):
      digest.update(
        json.dumps(to_dict(record), sort_keys=True).encode() + b'\n'
      )
      yield index, self.encode(record)
    self.info.metadata['contents'][split] = digest.hexdigest()

  # TFDS prints how much it will download; here there is nothing to tell.
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


def _text(example: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
  return {name: example[name].decode('utf-8') for name in names}


_PROMPT_FIELDS = ('id', 'text', 'user', 'use_case', 'split', 'spec')
_DOCUMENT_FIELDS = ('id', 'text', 'source', 'split')


class Documents(RecordBuilder):
  """Pages of the pretraining corpus."""

  RECORD = Document

  @staticmethod
  def features():
    return {
      'id': tfds.features.Text(),
      'text': tfds.features.Text(),
      'source': tfds.features.Text(),
      'split': tfds.features.Text(),
    }

  @staticmethod
  def encode(record):
    return {name: getattr(record, name) for name in _DOCUMENT_FIELDS}

  @staticmethod
  def decode(example):
    return Document(**_text(example, _DOCUMENT_FIELDS))


class Prompts(RecordBuilder):
  """What users ask, without an answer."""

  RECORD = Prompt

  @staticmethod
  def features():
    return {
      'id': tfds.features.Text(),
      'text': tfds.features.Text(),
      'user': tfds.features.Text(),
      'use_case': tfds.features.Text(),
      'split': tfds.features.Text(),
      'spec': tfds.features.Text(),
      'turns': tfds.features.Sequence(tfds.features.Text()),
    }

  @staticmethod
  def encode(record):
    return {
      **{name: getattr(record, name) for name in _PROMPT_FIELDS},
      'turns': list(record.turns),
    }

  @staticmethod
  def decode(example):
    return Prompt(
      **_text(example, _PROMPT_FIELDS),
      turns=tuple(turn.decode('utf-8') for turn in example['turns']),
    )


class Demonstrations(RecordBuilder):
  """Prompts with the answer a labeler wrote."""

  RECORD = Demonstration

  @staticmethod
  def features():
    return {
      'prompt': Prompts.features(),
      'response': tfds.features.Text(),
      'labeler': tfds.features.Text(),
    }

  @staticmethod
  def encode(record):
    return {
      'prompt': Prompts.encode(record.prompt),
      'response': record.response,
      'labeler': record.labeler,
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
    return {
      'prompt': Prompts.features(),
      'labeler': tfds.features.Text(),
      'group': tfds.features.Text(),
      'responses': tfds.features.Sequence(tfds.features.Text()),
      'response_lengths': tfds.features.Sequence(np.int32),
      'response_tokens': tfds.features.Sequence(np.int32),
      'sources': tfds.features.Sequence(tfds.features.Text()),
      'temperatures': tfds.features.Sequence(tfds.features.Text()),
      'ranks': tfds.features.Sequence(np.int32),
      'metadata': tfds.features.Text(),  # JSON
    }

  @staticmethod
  def encode(record):
    return {
      'prompt': Prompts.encode(record.prompt),
      'labeler': record.labeler,
      'group': record.group,
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
      responses=tuple(text.decode('utf-8') for text in example['responses']),
      response_tokens=tuple(
        tuple(tokens[start:end]) for start, end in zip([0, *ends], ends)
      ),
      sources=tuple(text.decode('utf-8') for text in example['sources']),
      temperatures=tuple(float(text) for text in example['temperatures']),
      ranks=tuple(np.asarray(example['ranks']).tolist()),
      metadata=tuple(json.loads(example['metadata'])),
    )


BUILDERS = (Documents, Prompts, Demonstrations, Rankings)
