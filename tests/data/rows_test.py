"""Packed rows on disk."""

import numpy as np
import pytest

from instructrl.data import rows as rows_lib
from instructrl.data import tasks

MADE_OF = dict(tokenizer_fingerprint='t' * 64, source_fingerprint='s' * 64)


@pytest.fixture(name='rows')
def make_rows():
  rng = np.random.default_rng(0)
  return tasks.pack_rows(
    (
      tasks.lm_example(rng.integers(3, 70_000, n), n // 2)
      for n in rng.integers(2, 9, 300)
    ),
    8,
  )


def test_what_is_written_is_read(tmp_path, rows):
  path = tmp_path / 'new' / 'rows.array_record'
  rows_lib.write_rows(path, rows, **MADE_OF)
  assert [p.name for p in path.parent.iterdir()] == ['rows.array_record']
  got = rows_lib.read_rows(path, row_len=8, **MADE_OF)
  assert len(got) == len(rows['tokens'])
  loaded = got.load()
  assert loaded.keys() == rows.keys()
  for name, values in rows.items():
    np.testing.assert_array_equal(loaded[name], values)
    assert loaded[name].dtype == values.dtype
  indices = np.asarray([5, 0, 5, len(got) - 1])
  np.testing.assert_array_equal(
    got.gather(indices).targets, rows['targets'][indices]
  )


@pytest.mark.parametrize(
  'wanted, reason',
  [
    (dict(row_len=16), 'has row_len 8, this run needs 16: delete the file'),
    (dict(tokenizer_fingerprint='x' * 64), 'has tokenizer_fingerprint tttttt'),
    (dict(source_fingerprint='x' * 64), 'has source_fingerprint ssssssssssss'),
  ],
)
def test_rows_made_of_something_else_are_refused(
  tmp_path, rows, wanted, reason
):
  path = tmp_path / 'rows.array_record'
  rows_lib.write_rows(path, rows, **MADE_OF)
  with pytest.raises(ValueError, match=reason):
    rows_lib.read_rows(path, **wanted)


def test_another_format_is_refused(tmp_path, rows, monkeypatch):
  path = tmp_path / 'rows.array_record'
  monkeypatch.setattr(rows_lib, 'FORMAT_VERSION', 99)
  rows_lib.write_rows(path, rows, **MADE_OF)
  monkeypatch.undo()
  with pytest.raises(ValueError, match='format version 99, this program reads'):
    rows_lib.read_rows(path)


def test_a_damaged_file_is_refused(tmp_path, rows):
  path = tmp_path / 'rows.array_record'
  with pytest.raises(FileNotFoundError, match='no packed rows'):
    rows_lib.read_rows(path)
  rows_lib.write_rows(path, rows, **MADE_OF)
  data = bytearray(path.read_bytes())
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(ValueError, match='is not a file of packed rows'):
    rows_lib.read_rows(path)
  # Somewhere in the rows, behind the header and before the file's own index.
  tokens = np.flatnonzero(np.frombuffer(bytes(data), np.uint8))
  data[tokens[len(tokens) // 2]] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError, match='damaged|is not a file of packed rows'):
    rows_lib.read_rows(path).load()


def test_another_array_record_file_is_refused(tmp_path):
  path = tmp_path / 'other.array_record'
  writer = rows_lib.array_record_module.ArrayRecordWriter(
    str(path), 'group_size:1'
  )
  writer.write(b'["no header"]')
  writer.close()
  with pytest.raises(ValueError, match='is not a file of packed rows'):
    rows_lib.read_rows(path)
