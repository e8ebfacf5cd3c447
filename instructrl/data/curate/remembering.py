"""A tokenizer that lays out each text once, also over several starts."""

from collections.abc import Iterable, Iterator, Sequence
import hashlib
import itertools
import os
import pathlib
import struct

import numpy as np

from instructrl.data.curate import parts
from instructrl.data.records import Document, prompt_of, Record
from instructrl.runtime import files

_BLOCK = 1024  # records whose texts are encoded at once
_DIGEST = 16  # bytes that identify a text
_HEAD = struct.Struct(f'<{_DIGEST}sI')  # digest of a text, number of its tokens
_COUNT_BITS = 32


class Remembering:
  """Encodes each text once, and keeps the tokens in a file.

  Counting, fitting, packing and the summary need the tokens of the same texts,
  and a stage that was killed needs them again. In memory is a digest and a
  number per text.

  The file is a sequence of texts: the digest, the number of tokens, the tokens.
  A text that was not written whole is at the end, and is written again.
  """

  def __init__(self, tok, folder: str | pathlib.Path):
    """Opens the file of an earlier start, or a new one.

    Args:
      tok: the tokenizer.
      folder: an existing folder, for the file.
    """
    self._tok = tok
    self.path = pathlib.Path(folder) / f'tokens.{tok.fingerprint[:16]}.partial'
    files.refuse_link(self.path)
    self._file = open(self.path, 'a+b', buffering=0)
    self._known: dict[bytes, int] = {}  # digest -> place and number of tokens
    self._end = self._read_known()
    self._file.truncate(self._end)

  def __getattr__(self, name):
    return getattr(self._tok, name)

  def _read_known(self) -> int:
    """Fills `_known`; returns where the last whole text ends."""
    end, size = 0, os.fstat(self._file.fileno()).st_size
    while True:
      head = os.pread(self._file.fileno(), _HEAD.size, end)
      if len(head) < _HEAD.size:
        return end
      digest, count = _HEAD.unpack(head)
      after = end + _HEAD.size + 4 * count
      if after > size:
        return end
      self._known[digest] = ((end + _HEAD.size) << _COUNT_BITS) + count
      end = after

  def forget(self) -> None:
    """Removes the file."""
    self._file.close()
    self.path.unlink(missing_ok=True)

  def learn(self, records: Iterable[Record]) -> Iterator[int]:
    """Encodes the texts of records, many at once.

    Yields:
      The number of records whose texts are known.
    """
    records, done = iter(records), 0
    while block := list(itertools.islice(records, _BLOCK)):
      asked, answered, pages = {}, {}, {}
      for record in block:
        if isinstance(record, Document):
          pages[_digest('document', record.text)] = record.text
          continue
        prompt = prompt_of(record)
        key = _digest('prompt', prompt.text, *prompt.turns)
        asked[key] = prompt.text, prompt.turns
        for text in parts.texts_of(record)[1:]:
          answered[_digest('response', text)] = text
      for wanted, encode in (
        (asked, self._tok.prompts),
        (answered, self._tok.responses),
        (pages, self._tok.documents),
      ):
        new = {k: text for k, text in wanted.items() if k not in self._known}
        self._keep(zip(new, encode(list(new.values())) if new else ()))
      done += len(block)
      yield done

  def prompt(self, text: str, turns: Sequence[str] = ()) -> list[int]:
    key = _digest('prompt', text, *turns)
    if key not in self._known:
      self._keep([(key, self._tok.prompt(text, turns))])
    return self._tokens(key)

  def response(self, text: str) -> list[int]:
    key = _digest('response', text)
    if key not in self._known:
      self._keep([(key, self._tok.response(text))])
    return self._tokens(key)

  def document(self, text: str) -> list[int]:
    key = _digest('document', text)
    if key not in self._known:
      self._keep([(key, self._tok.document(text))])
    return self._tokens(key)

  def _tokens(self, key: bytes) -> list[int]:
    start, count = divmod(self._known[key], 1 << _COUNT_BITS)
    found = os.pread(self._file.fileno(), 4 * count, start)
    return np.frombuffer(found, '<i4').tolist()

  def _keep(self, found: Iterable[tuple[bytes, Sequence[int]]]) -> None:
    """Writes texts with one call."""
    data, places = [], {}
    for key, tokens in found:
      place = self._end + _HEAD.size
      places[key] = (place << _COUNT_BITS) + len(tokens)
      data += [
        _HEAD.pack(key, len(tokens)),
        np.asarray(tokens, '<i4').tobytes(),
      ]
      self._end = place + 4 * len(tokens)
    whole = memoryview(b''.join(data))
    while whole:  # a write may be in parts
      whole = whole[self._file.write(whole) :]
    self._known |= places


def _digest(*names: str) -> bytes:
  # With the lengths, because a text may have any character.
  data = ''.join(f'{len(name)}:{name}' for name in names)
  return hashlib.blake2b(
    data.encode('utf-8', 'surrogatepass'), digest_size=_DIGEST
  ).digest()
