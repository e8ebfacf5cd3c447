"""Converts sentencepiece models to a tokenizer.json with the same ids.

The pieces (text, score, type) and a few options define what a sentencepiece
model computes. `exported` converts the models that this package trains,
`imported` those of Llama and Gemma.

Sentencepiece's BPE merges the pair whose union has the best score; the
`tokenizers` library needs the pairs in order (`merges_of`).
"""

from collections.abc import Iterable, Sequence
import enum
from typing import Any, NamedTuple

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from instructrl.tokenizers import hf_json
from instructrl.tokenizers.hf_json import SPACE

# Cuts typed text that looks like a byte piece, so that it does not become one.
_TYPED_BYTE = '(?<=<)(?=0x[0-9A-F]{2}>)'
_UNIGRAM, _BPE = 1, 2  # of trainer_spec.model_type


class Type(enum.IntEnum):
  """Type of a piece, in sentencepiece and in GGUF."""

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
  """Parses a model file; ValueError if the bytes are not a model."""
  try:
    return sentencepiece_model_pb2.ModelProto.FromString(model)
  except Exception as error:  # protobuf's own type of error
    raise ValueError(f'not a sentencepiece model: {error}') from error


def pieces_of(proto) -> list[Piece]:
  """Returns the pieces of a parsed model, by id."""
  return [Piece(p.piece, p.score, p.type) for p in proto.pieces]


def merges_of(pieces: Sequence[Piece]) -> list[list[str]]:
  """Returns the pairs whose union is a piece, in the order of merging."""
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
  """Returns the model of a tokenizer.json."""
  if unigram:
    return {
      'type': 'Unigram',
      'unk_id': [p.text for p in pieces].index(unknown),
      'byte_fallback': True,
      'vocab': [[p.text, p.score] for p in pieces],
    }
  vocab = {p.text: i for i, p in enumerate(pieces)}
  return hf_json.bpe(
    vocab,
    merges_of(pieces),
    unk_token=unknown,
    fuse_unk=True,
    byte_fallback=True,
  )


def exported(
  model: bytes, bos_id: int, specials: Iterable[int], unk_id: int
) -> dict[str, Any]:
  """Returns a tokenizer.json for a model that this package trained.

  The ids are the same except for typed special tokens, which the library
  matches. Pieces have plain spaces, because U+2581 in a text must stay
  different from a space.

  Args:
    model: made by `trained.train_tokenizer`.
    bos_id: id of the token that begins a text.
    specials: ids of the special tokens.
    unk_id: id of the unknown token.
  """
  proto = read_proto(model)
  pieces = [
    p._replace(text=p.text.replace(SPACE, ' ')) for p in pieces_of(proto)
  ]
  unigram = proto.trainer_spec.model_type == _UNIGRAM
  return hf_json.tokenizer(
    added_tokens=[
      hf_json.added_token(i, pieces[i].text, True) for i in sorted(specials)
    ],
    # A space before each line that is not empty.
    normalizer=hf_json.replace({'Regex': '(?<![^\\n])(?=[^\\n])'}, ' '),
    pre_tokenizer=hf_json.sequence(
      'pretokenizers', hf_json.split('\\n'), hf_json.split(_TYPED_BYTE)
    ),
    post_processor=hf_json.bos_first(pieces[bos_id].text, bos_id),
    decoder=hf_json.sequence(
      'decoders',
      {'type': 'ByteFallback'},
      {'type': 'Fuse'},
      hf_json.replace({'Regex': '(?<![^\\n]) '}, ''),
    ),
    model=_model(pieces, unigram, pieces[unk_id].text),
  )


def imported(
  pieces: Sequence[Piece], *, unigram: bool, dummy_prefix: bool, bos: str | None
) -> dict[str, Any]:
  """Returns a tokenizer.json for pieces such as Llama's and Gemma's.

  Args:
    pieces: by id.
    unigram: whether the model is unigram; otherwise BPE.
    dummy_prefix: whether a space goes before a text.
    bos: token that goes before a text, or None.

  Raises:
    ValueError: the pieces cannot write every text.
  """
  texts = {p.text: i for i, p in enumerate(pieces)}
  if len(texts) != len(pieces):
    raise ValueError('the vocabulary has a piece twice')
  unknown = next((p.text for p in pieces if p.type == Type.UNKNOWN), None)
  num_bytes = sum(p.type == Type.BYTE for p in pieces)
  if unknown is None or num_bytes != 256:
    kind = 'no' if unknown is None else 'an'
    raise ValueError(
      f'the vocabulary has {num_bytes} of 256 bytes and {kind} unknown piece, '
      'so it cannot write every text'
    )
  prefix, strip = None, None
  if dummy_prefix:
    prefix = {'type': 'Prepend', 'prepend': SPACE}
    strip = {'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0}
  return hf_json.tokenizer(
    added_tokens=[
      hf_json.added_token(
        i, p.text.replace(SPACE, ' '), p.type != Type.USER_DEFINED
      )
      for i, p in enumerate(pieces)
      if p.type in (Type.UNKNOWN, Type.CONTROL, Type.USER_DEFINED)
    ],
    normalizer=hf_json.sequence(
      'normalizers', prefix, hf_json.replace({'String': ' '}, SPACE)
    ),
    pre_tokenizer=hf_json.split(_TYPED_BYTE) if unigram else None,
    post_processor=hf_json.bos_first(bos, texts[bos]) if bos else None,
    decoder=hf_json.sequence(
      'decoders',
      hf_json.replace({'String': SPACE}, ' '),
      {'type': 'ByteFallback'},
      {'type': 'Fuse'},
      strip,
    ),
    model=_model(pieces, unigram, unknown),
  )


# Texts whose ids differ between programs that differ in a detail.
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
  """Returns a tokenizer.json for another program's model file.

  Args:
    model: contents of the file.
    bos: token that goes before a text, or None.

  Raises:
    ValueError: the model cannot be converted, or a probe gives other ids.
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
  # Sentencepiece also puts a space after a user-defined token.
  defined = [
    f'a{p.text}b' for p in pieces_of(proto) if p.type == Type.USER_DEFINED
  ]
  for text in (*_PROBES, *defined[:1]):
    if theirs.encode(text) != ours.encode(text, add_special_tokens=False).ids:
      raise ValueError(
        'this sentencepiece model cannot be used: the library gives other ids '
        f'for {text!r}'
      )
  return tokenizer
