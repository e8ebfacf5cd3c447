"""Files: every form is read with its places, and damage has a name."""

import gzip
import json

import pyarrow
from pyarrow import parquet
import pytest

from instructrl.data.sources import row_files
from instructrl.data.sources.row_files import File
from instructrl.data.sources.row_files import SourceError
from instructrl.runtime import files

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


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('a.csv', b'prompt,response\na,b\n', ':1: is not JSON: .* files of rows'),
    ('a.json', b'{\n "prompt": "a"\n}\n', ':1: is not JSON: .* pandas writes'),
    ('a.xlsx', b'PK\x03\x04...', 'is a zip file, such as .xlsx; files of rows'),
    ('a.jsonl', '{}'.encode('utf-16'), 'is text in UTF-16; files'),
    ('a.jsonl.gz', packed(b'<!DOCTYPE html>'), 'is a web page or XML'),
    (
      'a.jsonl',
      b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n',
      'is a pointer of git-lfs: run `git lfs pull`',
    ),
  ],
)
def test_other_files_are_told_what_is_read(tmp_path, name, content, message):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message):
    for row in row_files.read_rows(File(path)):
      raise SourceError(f'{row.place}: {row.fault}')


@pytest.mark.parametrize('depth', [files.MAX_DEPTH + 1, 100_000])
def test_json_that_is_nested_too_deep_is_a_fault(tmp_path, depth):
  path = tmp_path / 'a.jsonl'
  path.write_text('{}\n{"a": ' + '[' * depth + ']' * depth + '}\n')
  assert [row.fault for row in rows(path)] == [
    '',
    'is not JSON: it is nested too deep',
  ]


def test_a_line_or_a_list_that_would_fill_the_memory_is_refused(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(files, 'MAX_LINE', 1 << 20)
  monkeypatch.setattr(row_files, '_MAX_LIST', 1 << 20)
  bomb = tmp_path / 'bomb.jsonl.gz'
  bomb.write_bytes(packed(b'{}\n"' + b'x' * (1 << 24)))
  with pytest.raises(ValueError, match='bomb.jsonl.gz:2: .* more than 1 MiB'):
    rows(bomb)
  bomb = tmp_path / 'bomb.json.gz'
  bomb.write_bytes(packed(b'[' + b'0,' * (1 << 20)))
  with pytest.raises(ValueError, match='JSON list of more than 1 MiB'):
    rows(bomb)


def test_parquet_that_repeats_a_value_is_read_in_parts(tmp_path, monkeypatch):
  """A thousand rows of a dictionary with one value: 1 MiB in memory each."""
  text = 'a' * (1 << 20)
  column = pyarrow.DictionaryArray.from_arrays(
    pyarrow.array([0] * 1000, pyarrow.int32()), [text]
  )
  path = tmp_path / 'a.parquet'
  parquet.write_table(pyarrow.table({'text': column}), path)
  assert path.stat().st_size < 1 << 17
  monkeypatch.setattr(row_files, '_PARQUET_BYTES', 1 << 24)
  found, seen = parquet.ParquetFile.iter_batches, []

  def batches(table, **kwargs):
    for batch in found(table, **kwargs):
      seen.append(batch.num_rows)
      yield batch

  monkeypatch.setattr(parquet.ParquetFile, 'iter_batches', batches)
  for row in row_files.read_rows(File(path)):
    if row.line == 40:
      break
  assert row.value == {'text': text}
  assert seen[0] < 17


@pytest.mark.parametrize(
  'column', [['a' * (1 << 24)] * 2, [[None] * (1 << 21)]]
)
def test_parquet_of_huge_rows_is_refused(tmp_path, monkeypatch, column):
  monkeypatch.setattr(files, 'MAX_LINE', 1 << 20)
  path = tmp_path / 'a.parquet'
  parquet.write_table(
    pyarrow.table({'text': column}), path, use_dictionary=False
  )
  with pytest.raises(SourceError, match='column text.* that is not data'):
    rows(path)


def test_a_device_is_not_read(tmp_path):
  (tmp_path / 'a.jsonl').symlink_to('/dev/zero')
  with pytest.raises(SourceError, match='a.jsonl: is a device or a pipe'):
    row_files.find(tmp_path / 'a.jsonl', row_files.ROW_SUFFIXES)
