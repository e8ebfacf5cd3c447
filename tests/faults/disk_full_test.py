"""A full disk ends a stage with one line and status 74; room lets it go on."""

import os
import pathlib
import subprocess

import pytest

from instructrl.runtime import storage
from tests.stages.resume_test import assert_same_run

SIZE = 24 << 20  # bytes of the disk
# Bytes that are free when a stage starts.
ROOM = {'pretrain': (4096, 40_000, 300_000), 'lab': (4096, 60_000, 400_000)}


@pytest.fixture
def disk(tmp_path):
  """A small disk of its own; skips where none can be mounted."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  command = ['mount', '-t', 'tmpfs', '-o', f'size={SIZE}', 'tmpfs', folder]
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
  except FileNotFoundError:
    pytest.skip('there is no program `mount`')
  if done.returncode:
    pytest.skip(f'no tmpfs can be mounted here: {done.stderr.strip()}')
  yield folder
  subprocess.run(['umount', '-l', folder], check=True)


def fill(folder: pathlib.Path, room: int) -> pathlib.Path:
  """Leaves some bytes of the disk."""
  free = os.statvfs(folder)
  filler = folder / 'filler'
  with filler.open('wb') as file:
    file.write(bytes(max(0, free.f_bavail * free.f_frsize - room)))
  return filler


def same_lab(found, expected):
  files = sorted(
    path.relative_to(expected)
    for path in expected.rglob('*')
    if path.is_file() and path.name not in ('DONE', 'seconds', 'lock')
  )
  assert len(files) > 10
  for name in files:
    assert (found / name).is_file(), name


@pytest.mark.slow
@pytest.mark.parametrize('stage', ROOM)
def test_a_full_disk(server, workdir, tmp_path, disk, stage, report_counts):
  same = same_lab if stage == 'lab' else assert_same_run
  expected = tmp_path / 'expected'
  server.finish(stage, expected)
  for link in tmp_path.iterdir():
    if link.is_symlink():
      (disk / link.name).symlink_to(link.resolve())
  ended = 0
  for room in ROOM[stage]:
    run = disk / f'run{room}'
    filler = fill(disk, room)
    result, output = server.run(stage, run)
    where = f'{room}: {output[-2000:]}'
    assert result['status'] in (0, storage.EXIT_STORAGE), where
    if result['status']:
      ended += 1
      # Orbax's threads may log tracebacks of their own before this line.
      last = output.splitlines()[-1]
      assert last.startswith('error: ') and str(disk) in last, where
    filler.unlink()
    server.finish(stage, run)
    same(run, expected)
  assert ended
  report_counts(
    f'full disk: {stage}: {len(ROOM[stage])} tried, {ended} ended with status '
    '74, all resumed'
  )
