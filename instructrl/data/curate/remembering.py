"""A tokenizer that lays out each text once, also over several starts."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent import futures
import itertools
import os
import pathlib
import struct
from typing import Any

import numpy as np

from instructrl.data.curate import parts
from instructrl.data.digests import digest
from instructrl.data.digests import Digests
from instructrl.data.records import Document, prompt_of, Record
from instructrl.runtime import files

_BLOCK = 1024  # records whose texts are encoded at once
_HEAD = struct.Struct('<16sI')  # digest of a text, number of its tokens
_READ = 1024  # bytes that have the tokens of most texts


class Remembering:
  """Encodes each text once, and keeps the tokens in a file.

  Counting, fitting, packing and the summary need the tokens of the same texts,
  and a stage that was killed needs them again. In memory are 22 bytes a text.

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
    self._known = Digests()  # -> the place of a text in the file
    self._end = self._read_known()
    self._file.truncate(self._end)

  def __getattr__(self, name):
    return getattr(self._tok, name)

  def __reduce__(self):  # to a process that reads the same file
    return _reader, (self._tok, self.path, self._known)

  def _read_known(self) -> int:
    """Fills `_known`; returns where the last whole text ends."""
    end, size = 0, os.fstat(self._file.fileno()).st_size
    while True:
      head = os.pread(self._file.fileno(), _HEAD.size, end)
      if len(head) < _HEAD.size:
        return end
      key, count = _HEAD.unpack(head)
      after = end + _HEAD.size + 4 * count
      if after > size:
        return end
      self._known.setdefault(key, end)
      end = after

  def forget(self) -> None:
    """Removes the file."""
    self._file.close()
    self.path.unlink(missing_ok=True)

  def learn(self, records: Iterable[Record]) -> Iterator[int]:
    """Encodes the texts of records, many at once.

    A thread encodes a block while the next one is read and the last one is
    written.

    Yields:
      The number of records whose texts are known.
    """
    records, done = iter(records), 0
    with futures.ThreadPoolExecutor(1) as thread:
      size, keys, encoding = 0, [], None
      while True:
        block = list(itertools.islice(records, _BLOCK))
        new = self._new(block, frozenset(keys))
        following = thread.submit(_encoded, new)
        if encoding is not None:
          self._keep(zip(keys, encoding.result()))
          done += size
          yield done
        if not block:
          return
        keys = [key for texts, _ in new for key in texts]
        size, encoding = len(block), following

  def _new(
    self, block: Sequence[Record], begun: Set[bytes]
  ) -> list[tuple[dict[bytes, Any], Callable]]:
    """Returns (digest -> text, how to encode) of texts to encode.

    Args:
      block: the records of the texts.
      begun: digests of texts that are being encoded.
    """
    asked, answered, pages = {}, {}, {}
    for record in block:
      if isinstance(record, Document):
        pages[digest('document', record.text)] = record.text
        continue
      prompt = prompt_of(record)
      key = digest('prompt', prompt.text, *prompt.turns)
      asked[key] = prompt.text, prompt.turns
      for text in parts.texts_of(record)[1:]:
        answered[digest('response', text)] = text
    known = lambda key: key in begun or self._known.get(key) is not None
    return [
      ({key: text for key, text in texts.items() if not known(key)}, encode)
      for texts, encode in (
        (asked, self._tok.prompts),
        (answered, self._tok.responses),
        (pages, self._tok.documents),
      )
    ]

  def prompt(self, text: str, turns: Sequence[str] = ()) -> list[int]:
    key = digest('prompt', text, *turns)
    return self._tokens(key, self._tok.prompt, text, turns)

  def response(self, text: str) -> list[int]:
    return self._tokens(digest('response', text), self._tok.response, text)

  def document(self, text: str) -> list[int]:
    return self._tokens(digest('document', text), self._tok.document, text)

  def _tokens(self, key: bytes, encode, *texts) -> list[int]:
    """Returns the tokens of a digest; encodes its texts if it is new."""
    place = self._known.get(key)
    if place is None:
      tokens = encode(*texts)
      if self._end is None:
        return tokens
      place = self._end
      self._keep([(key, tokens)])
    found = os.pread(self._file.fileno(), _READ, place)
    end = _HEAD.size + 4 * _HEAD.unpack_from(found)[1]
    if end > len(found):
      found = os.pread(self._file.fileno(), end, place)
    return np.frombuffer(found[_HEAD.size : end], '<i4').tolist()

  def _keep(self, found: Iterable[tuple[bytes, Sequence[int]]]) -> None:
    """Writes texts with one call."""
    data, places = [], {}
    for key, tokens in found:
      places[key] = self._end
      data += [
        _HEAD.pack(key, len(tokens)),
        np.asarray(tokens, '<i4').tobytes(),
      ]
      self._end += _HEAD.size + 4 * len(tokens)
    whole = memoryview(b''.join(data))
    while whole:  # a write may be in parts
      whole = whole[self._file.write(whole) :]
    for key, place in places.items():
      self._known.setdefault(key, place)


def _encoded(
  new: Sequence[tuple[dict[bytes, Any], Callable]],
) -> list[Sequence[int]]:
  """Returns the tokens of all texts, in order."""
  found = []
  for texts, encode in new:
    found += encode(list(texts.values())) if texts else ()
  return found


def _reader(tok, path: pathlib.Path, known: Digests) -> Remembering:
  """Returns a tokenizer that reads the file of another process."""
  made = Remembering.__new__(Remembering)
  made._tok, made.path, made._known = tok, path, known
  made._file, made._end = open(path, 'rb', buffering=0), None
  return made
