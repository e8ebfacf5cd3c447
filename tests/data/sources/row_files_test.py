"""Files: every form is read with its places, and damage has a name."""

import gzip
import json

import pyarrow
from pyarrow import parquet
import pytest

from instructrl.data.sources import row_files
from instructrl.data.sources.row_files import File
from instructrl.data.sources.row_files import SourceError

ROWS = [{'a': 1}, {'a': 'è'}, {'a': [1, 2]}]
LINES = '\n'.join(map(json.dumps, ROWS)).encode()


def rows(path):
  return list(row_files.read_rows(File(path)))


def packed(data: bytes) -> bytes:
  """The same bytes in every process: they are in names of tests."""
  return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
  'name, content',
  [
    ('a.jsonl', LINES),
    ('a.json', LINES),
    ('a.jsonl', LINES + b'\n'),
    ('a.jsonl', b'\xef\xbb\xbf' + LINES.replace(b'\n', b'\r\n')),
    ('a.jsonl.gz', packed(LINES)),
    ('a.jsonl', packed(LINES)),
    ('a.json', json.dumps(ROWS).encode()),
    ('a.json.gz', packed(b' ' + json.dumps(ROWS).encode())),
  ],
)
def test_json_of_every_form_is_read(tmp_path, name, content):
  path = tmp_path / name
  path.write_bytes(content)
  got = rows(path)
  assert [row.value for row in got] == ROWS
  assert [row.line for row in got] == [1, 2, 3]
  assert got[1].place == f'{path}:2'


def test_empty_lines_are_no_rows_but_count_as_lines(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'\n{}\n  \n{"a": 1}\n')
  assert [(row.line, row.value) for row in rows(path)] == [
    (2, {}),
    (4, {'a': 1}),
  ]


def test_a_line_that_begins_with_a_list_is_a_row(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('[1, 2]\n[3]\n')
  assert [row.value for row in rows(path)] == [[1, 2], [3]]


def test_parquet_is_read_under_any_name(tmp_path):
  table = pyarrow.Table.from_pylist([{'a': [{'b': 1}]}] * 2500)
  for name in ('a.parquet', 'a.bin'):
    parquet.write_table(table, tmp_path / name)
    got = rows(tmp_path / name)
    assert len(got) == 2500 and got[-1].line == 2500
    assert got[0].value == {'a': [{'b': 1}]}


@pytest.mark.parametrize(
  'line, fault',
  [
    (b'{"a": ', 'is not JSON: Expecting value (column 7)'),
    (b'{"a": "\xff"}', 'is not UTF-8 (byte 7)'),
    (b'{"a": ' + b'7' * 5000 + b'}', 'is not JSON: Exceeds the limit'),
    (b'[' * 100_000, 'is not JSON: it is nested too deep'),
  ],
)
def test_a_line_that_cannot_be_read_is_a_row_with_a_fault(
  tmp_path, line, fault
):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'{}\n' + line + b'\n{}\n')
  got = rows(path)
  assert len(got) == 3 and not got[0].fault and not got[2].fault
  assert got[1].fault.startswith(fault) and got[1].value is None


@pytest.mark.parametrize(
  'name, content, reason',
  [
    ('a.jsonl.gz', packed(LINES * 99)[:-9], 'ends early'),
    ('a.jsonl.gz', packed(LINES)[:-8] + b'\0' * 8, 'is damaged'),
    ('a.jsonl.gz', LINES, 'named .gz and is not a gzip file'),
    ('a.parquet', LINES, 'not a whole parquet file'),
    ('a.parquet', b'PAR1' + LINES, 'not a whole parquet file'),
    ('a.json', b'[{}, {]', 'a.json:1: is not JSON: .* .column 7'),
  ],
)
def test_a_damaged_file_is_an_error_that_names_it(
  tmp_path, name, content, reason
):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(SourceError, match=f'{name}.*{reason}|{reason}') as error:
    rows(tmp_path / name)
  assert str(error.value).startswith(str(tmp_path / name))


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
  with pytest.raises(SourceError, match='there is no .*nope'):
    row_files.find(tmp_path / 'nope', row_files.ROW_SUFFIXES)
  with pytest.raises(SourceError, match='has no files of the kind .jsonl'):
    row_files.find(tmp_path, row_files.ROW_SUFFIXES)
  with pytest.raises(SourceError, match='nope.jsonl: cannot be read: No such'):
    rows(tmp_path / 'nope.jsonl')


def test_texts_keep_their_ends_and_refuse_other_encodings(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes(b'\xef\xbb\xbfa\n\nb')
  assert [row.value for row in row_files.read_texts(File(path))] == [
    'a\n',
    '\n',
    'b',
  ]
  path.write_bytes(b'a\n\xff\n')
  with pytest.raises(SourceError, match=':2: is not UTF-8'):
    list(row_files.read_texts(File(path)))


def test_a_folder_is_searched_in_order_without_hidden_files(tmp_path):
  for name in (
    'b/2.jsonl',
    'b/1.jsonl.gz',
    'a.parquet',
    '.git/3.jsonl',
    'README.md',
  ):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  found = row_files.find(tmp_path, row_files.ROW_SUFFIXES)
  assert [str(path.relative_to(tmp_path)) for path in found] == [
    'a.parquet',
    'b/1.jsonl.gz',
    'b/2.jsonl',
  ]


@pytest.mark.parametrize(
  'name, split',
  [
    ('train.jsonl.gz', 'train'),
    ('test.jsonl', 'test'),
    ('x', 'train'),
    ('validation-00000-of-00001-134b8fd0c89408b6.parquet', 'validation'),
    ('c4-validation.00000-of-00008.json.gz', 'validation'),
    ('valid1.jsonl', 'validation'),
    ('latest.jsonl', 'train'),
  ],
)
def test_the_split_a_name_tells(name, split):
  assert row_files.split_in_name(name) == split
