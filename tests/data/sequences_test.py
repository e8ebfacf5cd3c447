"""Records that are read when they are used."""

import os

import pytest

from instructrl.data import sequences
from tests.data import toys

ROWS = [
  toys.shown('a'),
  toys.ranked('b', turns=('x', 'y', 'b')),
  toys.page('c'),
]


def test_a_spool_has_the_records_in_their_order(tmp_path):
  spool = sequences.Spool(ROWS[:1], tmp_path)
  assert spool[0] == ROWS[0]
  for row in ROWS[1:]:  # also after it was read
    spool.append(row)
  assert spool == ROWS and len(spool) == 3 and spool[-1] == ROWS[2]
  assert spool[1:] == ROWS[1:] and spool != ROWS[:2] and spool != ROWS[::-1]
  assert spool[0] is not spool[0]
  with pytest.raises(IndexError):
    spool[3]
  assert not os.listdir(tmp_path)  # a kill leaves nothing


def test_chosen_records_are_read_when_they_are_used():
  read = []
  lazily = sequences.Mapped(lambda i: read.append(i) or ROWS[i], range(3))
  some = sequences.chosen(lazily, [2, 0])
  assert len(some) == 2 and not read
  assert some[1:] == ROWS[:1] and read == [0]
  assert some == [ROWS[2], ROWS[0]] and read == [0, 2, 0]
  assert sequences.where(lambda r: hasattr(r, 'text'), ROWS) == ROWS[2:]
