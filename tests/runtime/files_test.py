"""Small files are written whole, and damage is named."""

import math
import os

import pytest

from instructrl.runtime import files


def test_json_keeps_the_order_of_keys(tmp_path):
  value = {'b': [1, None, 'é'], 'a': {'x': 0.1}}
  files.write_json(tmp_path / 'file', value)
  found = files.read_json(tmp_path / 'file')
  assert found == value and list(found) == ['b', 'a']
  assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_json_of_a_number_that_is_not_finite_is_refused(tmp_path):
  with pytest.raises(ValueError):
    files.write_json(tmp_path / 'file', {'a': math.nan})
  assert not (tmp_path / 'file').exists()


def test_json_lines_come_back(tmp_path):
  records = [{'a': 'one\u2028line'}, {'b': [1, 2]}]
  files.write_jsonl(tmp_path / 'file', records)
  assert files.read_jsonl(tmp_path / 'file') == records


def test_an_incomplete_last_line_is_skipped(tmp_path):
  (tmp_path / 'file').write_text('{"a": 1}\n{"a": 2')
  assert files.read_jsonl(tmp_path / 'file') == [{'a': 1}]


@pytest.mark.parametrize('line', ['', '{"a": 1', '[]', '3'])
def test_another_line_that_is_no_object_is_named(tmp_path, line):
  (tmp_path / 'file').write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
  with pytest.raises(ValueError, match='file:2: not a record'):
    files.read_jsonl(tmp_path / 'file')


@pytest.mark.parametrize('there', [True, False])
def test_a_link_in_the_place_of_a_temporary_file_is_refused(tmp_path, there):
  """Its target, a file of someone else, stays as it is."""
  target = tmp_path / 'target'
  if there:
    target.write_text('precious')
  (tmp_path / '.file.tmp').symlink_to(target)
  with pytest.raises(ValueError, match='file.tmp is a symbolic link to .*targ'):
    files.atomic_write(tmp_path / 'file', 'text')
  assert not (tmp_path / 'file').exists() and target.exists() == there
  assert not there or target.read_text() == 'precious'
  (tmp_path / '.file.tmp').unlink()
  (tmp_path / '.file.tmp').write_text('of a process that was killed')
  files.atomic_write(tmp_path / 'file', 'text')
  # A link in the place of the file itself is replaced, not followed.
  (tmp_path / 'link').symlink_to(target)
  files.atomic_write(tmp_path / 'link', 'text')
  assert not (tmp_path / 'link').is_symlink() and target.exists() == there


def test_a_file_with_the_same_contents_is_not_touched(tmp_path):
  files.atomic_write(tmp_path / 'file', 'text')
  (tmp_path / 'file').chmod(0o400)
  # All but the time of the last access: the comparison reads the file.
  found = lambda s: (s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns)
  before = found((tmp_path / 'file').stat())
  files.atomic_write(tmp_path / 'file', b'text')
  assert found((tmp_path / 'file').stat()) == before
  files.atomic_write(tmp_path / 'file', 'other')
  assert (tmp_path / 'file').read_text() == 'other'


@pytest.mark.parametrize('read', [files.read_json, files.read_jsonl])
def test_a_device_is_not_read(tmp_path, read):
  (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
  with pytest.raises(ValueError, match='metrics.jsonl is not a regular file'):
    read(tmp_path / 'metrics.jsonl')


def test_a_pointer_of_git_lfs_is_named(tmp_path):
  path = tmp_path / 'config.json'
  path.write_text('version https://git-lfs.github.com/spec/v1\nsize 12\n')
  with pytest.raises(ValueError, match='config.json is a pointer of git-lfs'):
    files.read_json(path)


def test_a_pipe_and_text_that_is_not_utf_8_are_named(tmp_path):
  path = tmp_path / 'chat_template.jinja'
  path.write_bytes(b'\xe9')
  with pytest.raises(ValueError, match='template.jinja is damaged: .*utf-8'):
    files.read_text(path)
  path.unlink()
  os.mkfifo(path)  # reading it would not end
  for read in (files.read_text, files.refuse_pointer):
    with pytest.raises(ValueError, match='jinja is not a regular file'):
      read(path)


@pytest.mark.parametrize(
  'text, value', [('{"a": [{}, 1]}', {'a': [{}, 1]}), ('2', 2), ('"["', '[')]
)
def test_json_is_parsed(text, value):
  assert files.parse_json(text) == value


def test_json_has_a_greatest_depth():
  nested = '[' * files.MAX_DEPTH + ']' * files.MAX_DEPTH
  assert files.parse_json(nested)
  with pytest.raises(ValueError, match='nested too deep'):
    files.parse_json(f'[{nested}]')
