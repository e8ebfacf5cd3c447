"""What the rest of the package knows of a tokenizer."""

from collections.abc import Sequence
from typing import Protocol


class AnyTokenizer(Protocol):
  """What the package knows of a tokenizer.

  Attributes:
    FILE: the name of its file in a run folder.
    vocab_size: number of token ids; ids are 0 to vocab_size - 1.
    pad_id: fills up, and is no end.
    bos_id: begins a text; None where the model has nothing such.
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
    """Ids of plain text; never a special id, whatever was typed."""

  def continuation(self, text: str) -> list[int]:
    """Ids of text, with the space before it, that goes on inside another."""

  def decode(self, ids: Sequence[int]) -> str:
    """Text of the ids, without specials."""

  def piece(self, token_id: int) -> str:
    """A token as the vocabulary writes it."""

  def document(self, text: str) -> list[int]:
    """A page of a corpus: BOS text EOS."""

  def prompt(self, text: str, turns: Sequence[str] = ()) -> list[int]:
    """What a user asks, up to where the response begins.

    Args:
      text: of a dialogue, all of it.
      turns: of a dialogue, for layouts that mark them.
    """

  def plain(self, text: str) -> list[int]:
    """Text that a base model continues: BOS text."""

  def response(self, text: str) -> list[int]:
    """What answers a prompt, `eos_id` included."""

  def save(self, path) -> None:
    """Writes the file, whole or not at all."""

  def generation_ids(self) -> dict[str, int | list[int] | None]:
    """The fields of a generation_config.json that are token ids."""

  def write_files(self, folder, vocab_rows: int) -> None:
    """Writes what transformers reads, for an embedding of so many rows."""
