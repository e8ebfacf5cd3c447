"""Digests of texts, and a map of them that takes little memory."""

import hashlib

_DIGEST = 16  # bytes that identify a text
_SHARED = 2  # first bytes, which the entries of a buffer share
_NUMBER = 8  # bytes of a number
_REST = _DIGEST - _SHARED


def digest(*texts: str) -> bytes:
  """Returns 16 bytes that identify texts in their order."""
  # With the lengths, because a text may have any character.
  data = ''.join(f'{len(text)}:{text}' for text in texts)
  return hashlib.blake2b(
    data.encode('utf-8', 'surrogatepass'), digest_size=_DIGEST
  ).digest()


class Digests:
  """Maps digests to numbers from 0 to 2**64 - 1, with 22 bytes an entry.

  A dict takes 200 bytes an entry.
  """

  def __init__(self):
    self._buffers: dict[bytes, bytearray] = {}  # first bytes -> entries
    self._count = 0

  def __len__(self) -> int:
    return self._count

  def get(self, key: bytes) -> int | None:
    """Returns the number of a digest, or None."""
    buffer = self._buffers.get(key[:_SHARED])
    if buffer is None:
      return None
    rest, entry = key[_SHARED:], _REST + _NUMBER
    at = buffer.find(rest)
    while at % entry and at > 0:  # the bytes of two entries
      at = buffer.find(rest, at + 1)
    if at < 0:
      return None
    return int.from_bytes(buffer[at + _REST : at + entry], 'little')

  def setdefault(self, key: bytes, number: int) -> int:
    """Returns the number of a digest; a new digest gets the given number."""
    known = self.get(key)
    if known is not None:
      return known
    buffer = self._buffers.setdefault(key[:_SHARED], bytearray())
    buffer += key[_SHARED:] + number.to_bytes(_NUMBER, 'little')
    self._count += 1
    return number

  def add(self, key: bytes) -> bool:
    """Adds a digest to use this map as a set; returns whether it is new."""
    before = self._count
    self.setdefault(key, 0)
    return self._count > before
