"""Sources: options, counting, and many different reasons."""

import pytest

from instructrl.data.records import Prompt
from instructrl.data.sources import base
from instructrl.data.sources import fields
from instructrl.data.sources.row_files import File
from instructrl.data.sources.row_files import Row
from instructrl.data.sources.row_files import SourceError


class Words(base.Source):
  """Rows that are made without a file."""

  NAME = 'words'
  RECORD = Prompt

  def __init__(self, words):
    super().__init__()
    self.words = words
    self.taken = 0

  def rows(self, found):
    for line, word in enumerate(self.words, 1):
      self.taken += 1
      yield Row(found[0], line, word)

  def record(self, row):
    if row.value.startswith('!'):
      raise fields.Malformed(row.value[1:])
    return fields.prompt(row.value, split=row.file.split)


def read(words, tmp_path, **kwargs):
  return base.read(Words(words), [File(tmp_path / 'w')], **kwargs)


def test_reasons_that_differ_in_a_place_are_one(tmp_path):
  got = read(
    [
      'a',
      '!responses[0] is empty',
      '!responses[12] is empty',
      '!has 70,000 characters',
      '!has 80,001 characters',
    ],
    tmp_path,
  )
  assert got.dropped == {'responses[N] is empty': 2, 'has N characters': 2}
  assert got.first['responses[N] is empty'] == (
    f'{tmp_path}/w:2: responses[0] is empty'
  )


def test_there_are_not_too_many_reasons(tmp_path):
  got = read(
    ['a']
    + [f'!is {chr(97 + i)}{chr(97 + j)}' for i in range(20) for j in range(20)],
    tmp_path,
  )
  assert len(got.dropped) == 51 and got.dropped['other reasons'] == 350
  assert sum(got.dropped.values()) == 400 == got.read - 1


def test_strictness_and_limits(tmp_path):
  words = ['a', 'a', '!bad', 'b']
  with pytest.raises(SourceError, match='w:3: bad'):
    read(words, tmp_path, strict=True)
  got = read(words, tmp_path, strict=True, limit=2)
  assert len(got.records) == 1 and got.read == 2
  endless = Words(iter(['a', 'b'] * 10))
  assert base.read(endless, [File(tmp_path)], limit=3).read == 3
  assert endless.taken == 3


def test_a_row_that_cannot_be_a_record_is_refused_by_its_validation(tmp_path):
  got = read(['a', 'b' * 70_000], tmp_path)
  assert got.dropped == {'text has N characters, the limit is N': 1}
  with pytest.raises(
    SourceError, match='no row of 2 can be used; .* of 2 rows: '
  ):
    read(['!bad', '!bad'], tmp_path)


@pytest.mark.parametrize(
  'parse, good, bad',
  [
    (base.one_of('a', 'b'), {'a': 'a'}, ['c', '']),
    (base.at_least(1, int), {'1': 1, '20': 20}, ['0', '1.5', 'x', '']),
    (base.at_least(0.0), {'0': 0.0, '1e3': 1000.0}, ['-1', 'inf', 'nan']),
    (base.yes_or_no, {'True': True, 'no': False, '1': True}, ['2', '']),
  ],
)
def test_options(parse, good, bad):
  for text, value in good.items():
    assert parse(text) == value
  for text in bad:
    with pytest.raises(ValueError):
      parse(text)
