"""The interface of all tokenizers, and the parts that they share."""

import abc
from collections.abc import Sequence
import hashlib

from instructrl.runtime import files


def check_text(text: str) -> None:
  """Refuses text with a lone surrogate, which UTF-8 cannot write."""
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(f'text cannot be written as UTF-8: {error}') from error


class AnyTokenizer(abc.ABC):
  """A tokenizer with special tokens and a prompt layout.

  Immutable and picklable.

  Attributes:
    FILE: name of the tokenizer's file in a run folder.
    vocab_size: number of token ids, which are 0 to vocab_size - 1.
    pad_id: fills up rows; never ends a text.
    bos_id: begins a text; None if the model has no such token.
    eos_id: ends a response.
    document_eos_id: ends a document; in most cases `eos_id`.
  """

  FILE: str
  vocab_size: int
  pad_id: int
  bos_id: int | None
  eos_id: int
  document_eos_id: int

  def __init__(self, content: bytes):
    """Keeps the contents of the tokenizer's file."""
    self._content = bytes(content)

  def __reduce__(self):
    return type(self), (self._content,)

  @classmethod
  def load(cls, path) -> 'AnyTokenizer':
    """Reads a file written by `save`; errors name the file."""
    with files.named(path):
      return cls(files.read_bytes(path))

  def save(self, path) -> None:
    """Writes the file, whole or not at all."""
    files.atomic_write(path, self._content)

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the file, in hex: equal means the same ids and layouts."""
    return hashlib.sha256(self._content).hexdigest()

  @abc.abstractmethod
  def encode(self, text: str) -> list[int]:
    """Returns the ids of typed text, which never gives a special token.

    Raises:
      ValueError: the text holds a lone surrogate, which UTF-8 cannot write.
    """

  @abc.abstractmethod
  def continuation(self, text: str) -> list[int]:
    """Returns the ids of text, with the space before it, inside a text."""

  @abc.abstractmethod
  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids without special tokens.

    Bytes that are not UTF-8 become U+FFFD.

    Raises:
      ValueError: an id is outside the vocabulary.
    """

  @abc.abstractmethod
  def piece(self, token_id: int) -> str:
    """Returns a token as the vocabulary writes it, for tables."""

  def plain(self, text: str) -> list[int]:
    """Returns text that a base model continues: BOS, if any, and the text."""
    return [*self._begin(), *self.encode(text)]

  def document(self, text: str) -> list[int]:
    """Returns a page of a corpus: BOS, if any, the text, and EOS."""
    return [*self.plain(text), self.document_eos_id]

  @abc.abstractmethod
  def prompt(self, text: str, turns: Sequence[str] = ()) -> list[int]:
    """Returns a prompt, laid out up to the start of the response.

    Args:
      text: of the user; for a dialogue, the whole text.
      turns: of a dialogue, for layouts that mark turns.
    """

  @abc.abstractmethod
  def response(self, text: str) -> list[int]:
    """Returns the response to a prompt, with `eos_id`."""

  # Many texts at once: a tokenizer may use all cores, and returns what it would
  # return for each alone.

  def documents(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns `document` of each text."""
    return [self.document(text) for text in texts]

  def prompts(
    self, asked: Sequence[tuple[str, Sequence[str]]]
  ) -> list[list[int]]:
    """Returns `prompt` of each (text, turns)."""
    return [self.prompt(text, turns) for text, turns in asked]

  def responses(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns `response` of each text."""
    return [self.response(text) for text in texts]

  @abc.abstractmethod
  def generation_ids(self) -> dict[str, int | list[int] | None]:
    """Returns the token ids in generation_config.json."""

  @abc.abstractmethod
  def write_files(self, folder, vocab_rows: int) -> None:
    """Writes the files from which transformers makes the same ids.

    Args:
      folder: an existing folder.
      vocab_rows: rows of the model's embedding.

    Raises:
      ValueError: the embedding has too few rows.
    """

  def _begin(self) -> list[int]:
    return [] if self.bos_id is None else [self.bos_id]
