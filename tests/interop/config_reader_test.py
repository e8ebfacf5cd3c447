"""Typed access to tables of metadata: kinds of values, and their errors."""

import pytest

from instructrl.interop.config_reader import Reader


def reader(**table):
  return Reader(table, 'llama', 'a.json')


def test_absent_and_null_fields_are_the_default():
  for found in (reader(), reader(size=None)):
    assert 'size' not in found
    assert found.whole('size', 3) == 3 and found.raw('size', 3) == 3
    assert found.table('size') == {}
    with pytest.raises(ValueError, match='a.json: llama needs size'):
      found.whole('size')


@pytest.mark.parametrize(
  'kind, right, wrong',
  [
    ('whole', 1, [0, -1, 1.0, True, '1', 2**31, [1]]),
    ('number', 0.5, [0, -0.5, float('inf'), float('nan'), True, '1']),
    ('truth', False, [0, 1, 'no']),
    ('text', 'a', [1, ['a']]),
    ('items', ['a'], ['a', {}]),
    ('table', {'a': 1}, [[], 'a']),
  ],
)
def test_a_getter_takes_its_kind_only(kind, right, wrong):
  assert getattr(reader(field=right), kind)('field') == right
  for value in wrong:
    with pytest.raises(ValueError, match='a.json: field=.* is not '):
      getattr(reader(field=value), kind)('field')


def test_a_table_inside_is_named_with_the_outer_one():
  rope = reader(rope={'theta': 2, 'none': None}).part('rope')
  assert rope.number('theta') == 2.0 and 'none' not in rope
  with pytest.raises(ValueError, match='a.json: rope of llama needs factor'):
    rope.number('factor')


def test_only_and_choose_name_what_is_allowed():
  found = reader(bias=1, act='relu')
  found.only('scale', True, True)
  with pytest.raises(ValueError, match='bias=1 is not .* only True, False'):
    found.only('bias', True, True, False)  # 1 is not true
  with pytest.raises(ValueError, match="act='relu' .* only 'silu', 'gelu'"):
    found.choose('act', {'silu': 1, 'gelu': 2}, 'silu')
  assert found.choose('other', {'silu': 1}, 'silu') == 1
