"""The tokenizer that this package trains: sentencepiece, lossless."""

import collections
from collections.abc import Callable, Iterable, Sequence
import io
import pathlib
import re
import tempfile

from absl import logging
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from instructrl.tokenizers import hf_json
from instructrl.tokenizers import spm_files
from instructrl.tokenizers.protocol import AnyTokenizer
from instructrl.tokenizers.protocol import check_text

PAD_ID, BOS_ID, EOS_ID, UNK_ID, USER_ID, ASSISTANT_ID = range(6)
SPECIAL_PIECES = ('<pad>', '<s>', '</s>', '<unk>', '<|user|>', '<|assistant|>')
_NUM_SPECIAL = len(SPECIAL_PIECES)
_CHAT_TEMPLATE = (
  "{{ '<s>' }}{% for message in messages %}{% if message['role'] == "
  "'assistant' %}{{ message['content'] + '</s>' }}{% else %}{{ '<|user|>' + "
  "message['content'] + '<|assistant|>' }}{% endif %}{% endfor %}"
)
# Sentencepiece writes a space as this character. So the character itself is
# spelled in bytes.
_SPACE = '\u2581'
# The trainer drops lines with its own markers or NUL.
_UNTRAINABLE = re.compile('[\u2581\u2585\x00]')
Encode = Callable[[str], list[int]]
# Sentencepiece never splits letters and the space before them.
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
    vocab_size: maximal number of ids, including 6 special tokens, the newline,
      256 bytes and one id for each character. A short text gives fewer ids; see
      `Tokenizer.vocab_size`.
    model_type: 'word' is a unigram model with the whole words of the texts as
      candidates, for a closed world: each word is one token if there is room,
      and rare words are spelled otherwise. 'bpe' and 'unigram' learn parts of
      words, for open text.
    character_coverage: fraction of characters that get their own piece; other
      characters are spelled in bytes.

  Returns:
    The serialised model, for `Tokenizer`.

  Raises:
    ValueError: there is no text, `vocab_size` has no room for the bytes and
      characters, or `model_type` is unknown.
  """
  if model_type not in ('word', 'bpe', 'unigram'):
    raise ValueError(
      f"model_type must be 'word', 'bpe' or 'unigram'; got {model_type!r}"
    )
  lines = [
    ' ' + line
    for text in texts
    for line in text.split('\n')
    if line and not _UNTRAINABLE.search(line)
  ]
  if not lines:
    raise ValueError('cannot train a tokenizer: there is no text')
  try:
    with tempfile.TemporaryDirectory() as directory:
      options = {'model_type': model_type}
      if model_type == 'word':
        seeds = _write_word_seeds(lines, directory)
        options = {'model_type': 'unigram', 'seed_sentencepieces_file': seeds}
      model = _train(
        lines,
        vocab_size=vocab_size,
        character_coverage=character_coverage,
        **options,
      )
  except RuntimeError as error:
    raise ValueError(
      f'cannot train a tokenizer of vocab_size {vocab_size} on {len(lines)} '
      f'lines ({error}); special tokens, newline and bytes need '
      f'{_NUM_SPECIAL + 1 + 256} ids, and each character one more: raise '
      'vocab_size or lower character_coverage'
    ) from error
  got = Tokenizer(model).vocab_size
  if got != vocab_size:
    logging.info(
      'tokenizer: the text supports %d pieces, fewer than vocab_size=%d',
      got,
      vocab_size,
    )
  return model


def _parts(line: str) -> list[str]:
  """Splits a line at sentencepiece's own space, which is spelled in bytes."""
  return f' {line}'.split(_SPACE)


def _write_word_seeds(lines: Sequence[str], directory: str) -> str:
  """Writes each word of the lines with its count; returns the path."""
  counts = collections.Counter()
  for line in lines:
    counts.update(_WORD.findall(line))
  path = pathlib.Path(directory) / 'seeds.tsv'
  rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
  path.write_text(
    ''.join(f'{word.replace(" ", _SPACE)}\t{n}\n' for word, n in rows),
    encoding='utf-8',
  )
  return str(path)


def _train(lines: Iterable[str], **options) -> bytes:
  """Runs the sentencepiece trainer with the options of this package."""
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
    max_sentence_length=1 << 24,  # the trainer drops longer lines
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
    **options,
  )
  proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
  # Remove the name of a temporary file, which differs between runs.
  proto.trainer_spec.ClearField('seed_sentencepieces_file')
  return proto.SerializeToString(deterministic=True)


class Tokenizer(AnyTokenizer):
  """Encodes text with a sentencepiece model."""

  FILE = 'tokenizer.model'
  pad_id = PAD_ID
  bos_id = BOS_ID
  eos_id = EOS_ID
  document_eos_id = EOS_ID
  unk_id = UNK_ID
  user_id = USER_ID
  assistant_id = ASSISTANT_ID

  def __init__(self, model: bytes):
    """Wraps a model made by `train_tokenizer`.

    Raises:
      ValueError: `model` is not a sentencepiece model, or does not have this
        package's special tokens and newline.
    """
    super().__init__(model)
    try:
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
      raise ValueError(f'not a sentencepiece model: {error}') from error
    self.vocab_size = self._processor.get_piece_size()
    first = range(min(self.vocab_size, _NUM_SPECIAL))
    specials = tuple(map(self._processor.id_to_piece, first))
    id_of = self._processor.piece_to_id
    self._newline_id = id_of('\n')
    self._space_ids = [id_of(f'<0x{byte:02X}>') for byte in _SPACE.encode()]
    needed = (self._newline_id, *self._space_ids)
    if specials != SPECIAL_PIECES or UNK_ID in needed:
      raise ValueError(
        'this sentencepiece model was not made by train_tokenizer: its first '
        f'pieces must be {SPECIAL_PIECES}; got {specials}; and it must have '
        'newline and byte pieces'
      )

  def piece(self, token_id: int) -> str:
    return self._processor.id_to_piece(token_id)

  def encode(self, text: str) -> list[int]:
    return self._joined(text, self._processor.encode)

  def _joined(self, text: str, encode: Encode) -> list[int]:
    """Returns the ids of a text; `encode` is that of a part of a line."""
    check_text(text)
    ids = []
    for i, line in enumerate(text.split('\n')):
      if i:
        ids.append(self._newline_id)
      if line:
        first, *rest = _parts(line)
        ids.extend(encode(first))
        for part in rest:
          ids.extend(self._space_ids)
          ids.extend(encode(part))
    return ids

  def _encode_batch(self, texts: Iterable[str]) -> Encode:
    """Encodes texts on all cores; returns the function text -> ids."""
    texts = dict.fromkeys(texts)
    for text in texts:
      check_text(text)
    lines = (line for text in texts for line in text.split('\n') if line)
    parts = list(dict.fromkeys(part for line in lines for part in _parts(line)))
    known = dict(zip(parts, self._processor.encode(parts, num_threads=-1)))
    ids = {text: self._joined(text, known.__getitem__) for text in texts}
    return ids.__getitem__

  def continuation(self, text: str) -> list[int]:
    """Returns the ids of text that continues another at a word boundary.

    The first piece includes the space there, so a space at the start of the
    text is dropped.
    """
    return self.encode(text.removeprefix(' '))

  def prompt(self, text: str, turns: Sequence[str] = ()) -> list[int]:
    """Returns BOS USER text ASSISTANT; earlier turns, with EOS, follow BOS."""
    return self._laid_out(turns or (text,), self.encode)

  def prompts(self, asked):
    several = [turns or (text,) for text, turns in asked]
    encode = self._encode_batch(turn for turns in several for turn in turns)
    return [self._laid_out(turns, encode) for turns in several]

  def _laid_out(self, turns: Sequence[str], encode: Encode) -> list[int]:
    *earlier, last = turns
    ids = [BOS_ID]
    for asked, answered in zip(earlier[::2], earlier[1::2]):
      ids += [USER_ID, *encode(asked), ASSISTANT_ID]
      ids += [*encode(answered), EOS_ID]
    return [*ids, USER_ID, *encode(last), ASSISTANT_ID]

  def response(self, text: str) -> list[int]:
    """Returns text EOS."""
    return [*self.encode(text), EOS_ID]

  def responses(self, texts):
    return [[*ids, EOS_ID] for ids in map(self._encode_batch(texts), texts)]

  def documents(self, texts):
    return [[BOS_ID, *ids] for ids in self.responses(texts)]

  def decode(self, ids: Sequence[int]) -> str:
    ids = hf_json.checked_ids(ids, self.vocab_size)
    text = self._processor.decode([i for i in ids if i >= _NUM_SPECIAL])
    return '\n'.join(line.removeprefix(' ') for line in text.split('\n'))

  def generation_ids(self) -> dict[str, int | list[int] | None]:
    return {
      'bos_token_id': BOS_ID,
      'eos_token_id': [EOS_ID],
      'pad_token_id': PAD_ID,
    }

  def write_files(self, folder, vocab_rows: int) -> None:
    """Writes them, and the model.

    transformers matches typed special tokens, so those get other ids there.
    """
    hf_json.check_rows(self.vocab_size, vocab_rows)
    tokenizer = spm_files.exported(
      self._content, BOS_ID, range(_NUM_SPECIAL), UNK_ID
    )
    ids = {'bos': BOS_ID, 'eos': EOS_ID, 'unk': UNK_ID, 'pad': PAD_ID}
    roles = {f'{role}_token': SPECIAL_PIECES[i] for role, i in ids.items()}
    hf_json.write_files(folder, tokenizer, roles, _CHAT_TEMPLATE, {})
    self.save(pathlib.Path(folder) / self.FILE)
