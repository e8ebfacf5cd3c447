"""Tests of the manifest of a folder."""

import pytest

from instructrl.runtime import manifest


@pytest.fixture(name='folder')
def make_folder(tmp_path):
  (tmp_path / 'inner').mkdir()
  (tmp_path / 'a.bin').write_bytes(bytes(range(256)))
  (tmp_path / 'inner' / 'b.txt').write_text('text')
  (tmp_path / 'inner' / 'empty').touch()
  manifest.write(tmp_path)
  return tmp_path


def test_an_untouched_folder_verifies(folder):
  assert manifest.verify(folder) == ''
  (folder / '.DS_Store').touch()  # not of the folder's content
  assert manifest.verify(folder) == ''


def test_every_bit_of_every_file_counts(folder):
  for path in sorted(folder.rglob('*')):
    if path.is_dir() or not path.stat().st_size:
      continue
    content = path.read_bytes()
    for position in range(8 * len(content)):
      changed = bytearray(content)
      changed[position // 8] ^= 1 << position % 8
      path.write_bytes(changed)
      assert manifest.verify(folder), (path, position)
    path.write_bytes(content)
  assert manifest.verify(folder) == ''


@pytest.mark.parametrize(
  'damage, problem',
  [
    (lambda f: (f / 'a.bin').unlink(), 'a.bin is missing'),
    (lambda f: (f / 'a.bin').write_bytes(b'x'), 'a.bin is not what'),
    (lambda f: (f / 'inner' / 'empty').write_text('x'), 'inner/empty is not'),
    (lambda f: (f / 'manifest.json').unlink(), 'it has no manifest.json'),
    (lambda f: (f / 'manifest.json').write_text(''), 'cannot be read'),
    (lambda f: (f / 'manifest.json').write_text('[]'), 'cannot be read'),
    (
      lambda f: (f / 'manifest.json').write_text(
        '{"format_version": 1, "files": {}}'
      ),
      'lists nothing',
    ),
    (
      lambda f: (f / 'manifest.json').write_text(
        '{"format_version": 2, "files": {"a": 1}}'
      ),
      'format_version 2',
    ),
  ],
)
def test_damage_is_told(folder, damage, problem):
  damage(folder)
  assert problem in manifest.verify(folder)


def test_a_folder_that_is_not_there(tmp_path):
  assert manifest.verify(tmp_path / 'no') == 'there is no such folder'
  (tmp_path / 'empty').mkdir()
  assert manifest.verify(tmp_path / 'empty') == 'it has no manifest.json'
