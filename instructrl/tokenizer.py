"""Subword tokenizer: text <-> token ids, without loss.

A sentencepiece model with byte fallback, so every text can be encoded and
`decode(encode(text)) == text`. Three choices matter to training:

* Special tokens (pad, bos, eos, unk and the two roles) are control symbols,
  which sentencepiece never matches in text: a typed `<|user|>` or `</s>` is
  spelled out. The ids are inserted by whoever lays out a sequence.
* A newline is a piece of its own and never part of another one.
* Each non-empty line is encoded with a space before it. A word is the same
  piece at the start of a line and inside it, and encoding composes:
  `encode(a) + encode(b)` equals `encode(a + ' ' + b)` at a word boundary, and
  `encode(a + '\\n') + encode(b)` equals `encode(a + '\\n' + b)`.
"""

import collections
from collections.abc import Iterable, Sequence
import hashlib
import io
import pathlib
import re
import tempfile

from absl import logging
from instructrl import metrics
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

PAD_ID, BOS_ID, EOS_ID, UNK_ID, USER_ID, ASSISTANT_ID = range(6)
SPECIAL_PIECES = (
    '<pad>', '<s>', '</s>', '<unk>', '<|user|>', '<|assistant|>')
_NUM_SPECIAL = len(SPECIAL_PIECES)
# sentencepiece writes a space as this character, so the character itself has
# to be spelled in bytes.
_SPACE = '\u2581'
# The trainer drops whole lines with these: its own markers and NUL.
_UNTRAINABLE = re.compile('[\u2581\u2585\x00]')
# What sentencepiece's own splitting leaves in one part: letters, with the
# space before them.
_WORD = re.compile(r' ?[^\W\d_]+')


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    model_type: str = 'word',
    character_coverage: float = 0.9995,
) -> bytes:
  """Trains a sentencepiece model; the same texts give the same bytes.

  Args:
    texts: training texts, read once and held in memory.
    vocab_size: number of ids wanted, including 6 specials, the newline, 256
      bytes and one for each character. A text that does not support so many
      pieces gives fewer: `Tokenizer.vocab_size` is what counts.
    model_type: 'word' is a unigram model whose candidates are the whole words
      of the texts, for a closed world: with room for all words each is one
      token, otherwise rare words are spelled. 'bpe' and 'unigram' learn parts
      of words, for open text.
    character_coverage: fraction of characters that get their own piece; the
      rest is spelled in bytes.

  Returns:
    The serialised model, for `Tokenizer`.

  Raises:
    ValueError: there is no text, `vocab_size` has no room for the bytes and
      characters, or `model_type` is unknown.
  """
  if model_type not in ('word', 'bpe', 'unigram'):
    raise ValueError(
        f"model_type must be 'word', 'bpe' or 'unigram', not {model_type!r}")
  lines = [' ' + line for text in texts for line in text.split('\n')
           if line and not _UNTRAINABLE.search(line)]
  if not lines:
    raise ValueError('cannot train a tokenizer: there is no text')
  try:
    with tempfile.TemporaryDirectory() as directory:
      if model_type == 'word':
        seeds = {
            'seed_sentencepieces_file': _write_word_seeds(lines, directory)}
      else:
        seeds = {}
      model = _train(
          lines,
          vocab_size=vocab_size,
          model_type='unigram' if model_type == 'word' else model_type,
          character_coverage=character_coverage,
          **seeds)
  except RuntimeError as error:
    raise ValueError(
        f'cannot train a tokenizer of vocab_size {vocab_size} on {len(lines)} '
        f'lines ({error}); {_NUM_SPECIAL + 1 + 256} ids are specials, newline '
        'and bytes, and each character needs one more: ask for more ids or '
        'lower character_coverage') from error
  got = Tokenizer(model).vocab_size
  if got != vocab_size:
    logging.info('tokenizer: the text supports %d pieces, not the %d asked for',
                 got, vocab_size)
  return model


def _write_word_seeds(lines: Sequence[str], directory: str) -> str:
  """Writes each word of the lines with its count; returns the file's name."""
  counts = collections.Counter()
  for line in lines:
    counts.update(_WORD.findall(line))
  path = pathlib.Path(directory) / 'seeds.tsv'
  rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
  path.write_text(
      ''.join(f'{word.replace(" ", _SPACE)}\t{n}\n' for word, n in rows),
      encoding='utf-8')
  return str(path)


def _train(lines: Iterable[str], **options) -> bytes:
  """Runs the sentencepiece trainer with what this package always wants."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      hard_vocab_limit=False,
      byte_fallback=True,
      normalization_rule_name='identity',
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      split_digits=True,
      max_sentence_length=1 << 24,  # longer lines would be dropped
      num_threads=1,  # more threads change the order of float sums
      pad_id=PAD_ID,
      bos_id=BOS_ID,
      eos_id=EOS_ID,
      unk_id=UNK_ID,
      pad_piece=SPECIAL_PIECES[PAD_ID],
      bos_piece=SPECIAL_PIECES[BOS_ID],
      eos_piece=SPECIAL_PIECES[EOS_ID],
      unk_piece=SPECIAL_PIECES[UNK_ID],
      control_symbols=list(SPECIAL_PIECES[USER_ID:]),
      user_defined_symbols=['\n'],
      minloglevel=2,
      **options)
  proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
  # The name of a temporary file, which would make each model different.
  proto.trainer_spec.ClearField('seed_sentencepieces_file')
  return proto.SerializeToString(deterministic=True)


class Tokenizer:
  """Encodes plain text and decodes ids. Immutable and picklable."""

  pad_id = PAD_ID
  bos_id = BOS_ID
  eos_id = EOS_ID
  unk_id = UNK_ID
  user_id = USER_ID
  assistant_id = ASSISTANT_ID

  def __init__(self, model: bytes):
    """Wraps a model made by `train_tokenizer`.

    Raises:
      ValueError: `model` is no sentencepiece model, or its special tokens or
        its newline are not where this package has them.
    """
    self._model = bytes(model)
    try:
      self._processor = sentencepiece.SentencePieceProcessor(
          model_proto=self._model)
    except RuntimeError as error:
      raise ValueError(f'not a sentencepiece model: {error}') from error
    size = self._processor.get_piece_size()
    specials = tuple(
        self._processor.id_to_piece(i) for i in range(min(size, _NUM_SPECIAL)))
    self._newline_id = self._processor.piece_to_id('\n')
    self._space_ids = [
        self._processor.piece_to_id(f'<0x{byte:02X}>')
        for byte in _SPACE.encode()]
    if (specials != SPECIAL_PIECES
        or UNK_ID in (self._newline_id, *self._space_ids)):
      raise ValueError(
          'this sentencepiece model was not made by train_tokenizer: its first '
          f'pieces are {specials}, not {SPECIAL_PIECES}, or it has no newline '
          'or byte pieces')

  def __reduce__(self):
    return Tokenizer, (self._model,)

  @classmethod
  def load(cls, path) -> 'Tokenizer':
    """Reads a model file."""
    path = pathlib.Path(path)
    try:
      return cls(path.read_bytes())
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error

  def save(self, path) -> None:
    """Writes the model file, whole or not at all."""
    metrics.atomic_write(path, self._model)

  @property
  def vocab_size(self) -> int:
    """Number of ids; ids are 0 to vocab_size - 1."""
    return self._processor.get_piece_size()

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the model, in hex: equal means the same tokenizer."""
    return hashlib.sha256(self._model).hexdigest()

  def piece(self, token_id: int) -> str:
    """The piece as sentencepiece writes it, for tables and debugging."""
    return self._processor.id_to_piece(token_id)

  def encode(self, text: str) -> list[int]:
    """Ids of plain text; never a special id, whatever was typed.

    Raises:
      ValueError: the text holds a lone surrogate, which UTF-8 cannot write.
    """
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise ValueError(f'text cannot be written as UTF-8: {error}') from error
    ids = []
    for i, line in enumerate(text.split('\n')):
      if i:
        ids.append(self._newline_id)
      if line:
        ids.extend(self._encode_line(' ' + line))
    return ids

  def _encode_line(self, line: str) -> list[int]:
    first, *rest = line.split(_SPACE)
    ids = self._processor.encode(first)
    for part in rest:
      ids.extend(self._space_ids)
      ids.extend(self._processor.encode(part))
    return ids

  def decode(self, ids: Sequence[int]) -> str:
    """Text of the ids. Specials are dropped; stray bytes become U+FFFD.

    Raises:
      ValueError: an id is outside the vocabulary.
    """
    ids = [int(i) for i in ids]
    wrong = [i for i in ids if not 0 <= i < self.vocab_size]
    if wrong:
      raise ValueError(
          f'token id {wrong[0]} is outside 0..{self.vocab_size - 1}')
    text = self._processor.decode([i for i in ids if i >= _NUM_SPECIAL])
    return '\n'.join(line.removeprefix(' ') for line in text.split('\n'))


def load(path) -> Tokenizer:
  path = pathlib.Path(path)
  return Tokenizer.load(path / 'tokenizer.model' if path.is_dir() else path)
