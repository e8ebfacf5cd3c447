"""The interface of all tokenizers."""

from collections.abc import Sequence
from typing import Protocol


class AnyTokenizer(Protocol):
  """A tokenizer with its special tokens and prompt layout.

  Attributes:
    FILE: name of the tokenizer's file in a run folder.
    vocab_size: number of token ids, which are 0 to vocab_size - 1.
    pad_id: fills up rows; never ends a text.
    bos_id: begins a text; None if the model has no such token.
    eos_id: ends a response.
    document_eos_id: ends a document; in most cases `eos_id`.
    fingerprint: hash of the file: equal means the same ids and layouts.
  """

  FILE: str
  vocab_size: int
  pad_id: int
  bos_id: int | None
  eos_id: int
  document_eos_id: int
  fingerprint: str

  def encode(self, text: str) -> list[int]:
    """Returns the ids of typed text, which never gives a special token."""

  def continuation(self, text: str) -> list[int]:
    """Returns the ids of text, with the space before it, inside a text."""

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids without special tokens."""

  def piece(self, token_id: int) -> str:
    """Returns a token as the vocabulary writes it."""

  def document(self, text: str) -> list[int]:
    """Returns a page of a corpus: BOS text EOS."""

  def prompt(self, text: str, turns: Sequence[str] = ()) -> list[int]:
    """Returns a prompt, laid out up to the start of the response.

    Args:
      text: of the user; for a dialogue, the whole text.
      turns: of a dialogue, for layouts that mark turns.
    """

  def plain(self, text: str) -> list[int]:
    """Returns text that a base model continues: BOS text."""

  def response(self, text: str) -> list[int]:
    """Returns the response to a prompt, with `eos_id`."""

  def save(self, path) -> None:
    """Writes the file, whole or not at all."""

  def generation_ids(self) -> dict[str, int | list[int] | None]:
    """Returns the token ids in generation_config.json."""

  def write_files(self, folder, vocab_rows: int) -> None:
    """Writes the files that transformers reads.

    Args:
      folder: an existing folder.
      vocab_rows: rows of the model's embedding.
    """
