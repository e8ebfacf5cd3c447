"""Sentencepiece models as a tokenizer.json of the `tokenizers` library.

What a sentencepiece model computes is given by its pieces (text, score, type)
and a few options, so a tokenizer.json can be written that gives the same ids.
Two kinds are: those that this package trains (`exported`), and those of Llama
and Gemma, which bring nothing else or stand in a GGUF file (`imported`).

BPE in sentencepiece merges the pair whose union has the best score; the
library wants the pairs in order (`merges_of`).
"""

from collections.abc import Iterable, Sequence
import enum
from typing import Any, NamedTuple

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from instructrl.tokenizers import hf_json
from instructrl.tokenizers.hf_json import SPACE

# What was typed and looks like a byte piece is cut, or it would be one.
_TYPED_BYTE = '(?<=<)(?=0x[0-9A-F]{2}>)'
_UNIGRAM, _BPE = 1, 2  # of trainer_spec.model_type


class Type(enum.IntEnum):
  """Of a piece, as in sentencepiece and in GGUF."""

  NORMAL = 1
  UNKNOWN = 2
  CONTROL = 3
  USER_DEFINED = 4
  UNUSED = 5
  BYTE = 6


class Piece(NamedTuple):
  text: str
  score: float
  type: int


def read_proto(model: bytes):
  """The parsed model; ValueError if it is none."""
  try:
    return sentencepiece_model_pb2.ModelProto.FromString(model)
  except Exception as error:  # of protobuf, which is not imported here
    raise ValueError(f'not a sentencepiece model: {error}') from error


def pieces_of(proto) -> list[Piece]:
  return [Piece(p.piece, p.score, p.type) for p in proto.pieces]


def merges_of(pieces: Sequence[Piece]) -> list[list[str]]:
  """The pairs of pieces whose union is a piece, in the order of merging."""
  ids = {
    p.text: i
    for i, p in enumerate(pieces)
    if p.type in (Type.NORMAL, Type.UNUSED)
  }
  merges = []
  for text, i in ids.items():
    pairs = [
      (text[:k], text[k:])
      for k in range(1, len(text))
      if text[:k] in ids and text[k:] in ids
    ]
    pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    merges += [(-pieces[i].score, *pair) for pair in pairs]
  merges.sort(key=lambda merge: merge[0])  # stable
  return [list(pair) for _, *pair in merges]


def _model(
  pieces: Sequence[Piece], unigram: bool, unknown: str
) -> dict[str, Any]:
  if unigram:
    unk_id = [p.text for p in pieces].index(unknown)
    return {
      'type': 'Unigram',
      'unk_id': unk_id,
      'byte_fallback': True,
      'vocab': [[p.text, p.score] for p in pieces],
    }
  return {
    'type': 'BPE',
    'dropout': None,
    'unk_token': unknown,
    'continuing_subword_prefix': None,
    'end_of_word_suffix': None,
    'fuse_unk': True,
    'byte_fallback': True,
    'ignore_merges': False,
    'vocab': {p.text: i for i, p in enumerate(pieces)},
    'merges': merges_of(pieces),
  }


def exported(
  model: bytes, bos_id: int, specials: Iterable[int], unk_id: int
) -> dict[str, Any]:
  """A tokenizer.json for a model that this package trained.

  The ids are the same for all text but special tokens, which the libraries
  match wherever they are typed. A space is a space in its pieces, since U+2581
  in a text has to stay apart from it.

  Args:
    model: made by `tokenizer.train_tokenizer`.
    bos_id: of what begins a text.
    specials: ids of the special tokens.
    unk_id: of the unknown token.
  """
  proto = read_proto(model)
  pieces = [
    p._replace(text=p.text.replace(SPACE, ' ')) for p in pieces_of(proto)
  ]
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': [
      hf_json.added_token(i, pieces[i].text, True) for i in sorted(specials)
    ],
    # A space before each line that is not empty.
    'normalizer': hf_json.replace({'Regex': '(?<![^\\n])(?=[^\\n])'}, ' '),
    'pre_tokenizer': hf_json.sequence(
      'pretokenizers', [hf_json.split('\\n'), hf_json.split(_TYPED_BYTE)]
    ),
    'post_processor': hf_json.bos_first(pieces[bos_id].text, bos_id),
    'decoder': hf_json.sequence(
      'decoders',
      [
        {'type': 'ByteFallback'},
        {'type': 'Fuse'},
        hf_json.replace({'Regex': '(?<![^\\n]) '}, ''),
      ],
    ),
    'model': _model(
      pieces, proto.trainer_spec.model_type == _UNIGRAM, pieces[unk_id].text
    ),
  }


def imported(
  pieces: Sequence[Piece], *, unigram: bool, dummy_prefix: bool, bos: str | None
) -> dict[str, Any]:
  """A tokenizer.json for pieces as those of Llama and Gemma.

  Args:
    pieces: by id.
    unigram: the kind of the model; else BPE.
    dummy_prefix: whether a space is put before a text.
    bos: what is put before a text, or None.

  Raises:
    ValueError: the pieces cannot write every text.
  """
  texts = {p.text: i for i, p in enumerate(pieces)}
  if len(texts) != len(pieces):
    raise ValueError('the vocabulary has one piece twice')
  unknown = next((p.text for p in pieces if p.type == Type.UNKNOWN), None)
  num_bytes = sum(p.type == Type.BYTE for p in pieces)
  if unknown is None or num_bytes != 256:
    raise ValueError(
      f'the vocabulary has {num_bytes} of 256 bytes and '
      f'{"no " if unknown is None else "an "}unknown piece: it cannot write '
      'every text'
    )
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': [
      hf_json.added_token(
        i, p.text.replace(SPACE, ' '), p.type != Type.USER_DEFINED
      )
      for i, p in enumerate(pieces)
      if p.type in (Type.UNKNOWN, Type.CONTROL, Type.USER_DEFINED)
    ],
    'normalizer': hf_json.sequence(
      'normalizers',
      [
        {'type': 'Prepend', 'prepend': SPACE} if dummy_prefix else None,
        hf_json.replace({'String': ' '}, SPACE),
      ],
    ),
    'pre_tokenizer': hf_json.split(_TYPED_BYTE) if unigram else None,
    'post_processor': hf_json.bos_first(bos, texts[bos]) if bos else None,
    'decoder': hf_json.sequence(
      'decoders',
      [
        hf_json.replace({'String': SPACE}, ' '),
        {'type': 'ByteFallback'},
        {'type': 'Fuse'},
        {'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0}
        if dummy_prefix
        else None,
      ],
    ),
    'model': _model(pieces, unigram, unknown),
  }


# What could be told apart by two programs that differ in a detail.
_PROBES = (
  '',
  ' ',
  'a',
  ' a',
  '  a b  c ',
  'The quick brown fox, 1984!',
  'line\nline\n\n  line\t',
  '\u00e9\u4e16\u754c \U0001f600 \u0301x',
  "it's <0x41> \r\n\x00",
  'www.example.org/a_b?c=d&e=%20',
  'def f(x):\n    return x ** 2  # square',
  '\u0434\u043e\u043c',
)


def from_proto(model: bytes, bos: str | None) -> dict[str, Any]:
  """A tokenizer.json for a model file of another program, tried on probes.

  Args:
    model: the file.
    bos: what is put before a text, or None.

  Raises:
    ValueError: it is none, or the same ids cannot be had.
  """
  proto = read_proto(model)
  spec, normalizer = proto.trainer_spec, proto.normalizer_spec
  for wrong, fault in (
    (spec.model_type not in (_UNIGRAM, _BPE), 'it is neither BPE nor unigram'),
    (
      normalizer.precompiled_charsmap,
      'it changes characters '
      f'({normalizer.name or "a normalisation of its own"})',
    ),
    (normalizer.remove_extra_whitespaces, 'it drops white space'),
    (not normalizer.escape_whitespaces, 'it does not mark spaces'),
    (spec.treat_whitespace_as_suffix, 'it marks spaces at the ends of words'),
  ):
    if wrong:
      raise ValueError(f'this sentencepiece model cannot be used: {fault}')
  tokenizer = imported(
    pieces_of(proto),
    unigram=spec.model_type == _UNIGRAM,
    dummy_prefix=normalizer.add_dummy_prefix,
    bos=bos,
  )
  theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
  ours = hf_json.build(tokenizer)
  # The library also puts a space before what follows a token of the user's.
  defined = [
    f'a{p.text}b' for p in pieces_of(proto) if p.type == Type.USER_DEFINED
  ]
  for text in (*_PROBES, *defined[:1]):
    if theirs.encode(text) != ours.encode(text, add_special_tokens=False).ids:
      raise ValueError(
        'this sentencepiece model cannot be used: its ids for '
        f'{text!r} cannot be had otherwise'
      )
  return tokenizer
