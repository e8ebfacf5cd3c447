"""A map of digests is a dict of texts, in less memory."""

import random

from instructrl.data.digests import digest
from instructrl.data.digests import Digests


def test_texts_have_digests_of_their_own():
  texts = [('a',), ('a', ''), ('', 'a'), ('ab',), ('a', 'b'), ('1:a',), ()]
  assert len({digest(*names) for names in texts}) == len(texts)
  assert len(digest('\ud800')) == 16  # a lone surrogate, which UTF-8 has not


def test_a_map_is_what_a_dict_is():
  """Many entries share a buffer; the first number of a digest stays."""
  rng, found, expected = random.Random(0), Digests(), {}
  keys = [b'ab' + digest(str(i))[2:] for i in range(300)]
  for number in range(900):
    key = rng.choice(keys)
    assert found.get(key) == expected.get(key)
    assert found.setdefault(key, number) == expected.setdefault(key, number)
  assert len(found) == len(expected)
  assert found.setdefault(digest('largest'), 2**64 - 1) == 2**64 - 1


def test_bytes_across_two_entries_are_not_an_entry():
  """The end of one entry and the start of the next spell a third digest."""
  found = Digests()
  for n in range(3):
    found.setdefault(bytes(2) + bytes(13) + bytes([n + 1]), 0)
  entries = b''.join(bytes(13) + bytes([n + 1]) + bytes(8) for n in range(3))
  inside = {entries[i : i + 14] for i in range(len(entries) - 13) if i % 22}
  whole = {bytes(13) + bytes([n + 1]) for n in range(3)}
  assert {
    rest for rest in inside | whole if found.get(bytes(2) + rest) == 0
  } == (whole)


def test_a_set():
  found = Digests()
  assert [found.add(digest(text)) for text in 'abab'] == [1, 1, 0, 0]
  assert len(found) == 2
