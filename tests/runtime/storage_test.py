"""Errors of a storage that may pass are told from others, and tried again."""

import errno
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.runtime import arrays
from instructrl.runtime import checkpoint
from instructrl.runtime import errors
from instructrl.runtime import files
from instructrl.runtime import manifest
from instructrl.runtime import metrics
from instructrl.runtime import storage
from instructrl.runtime.checkpointer import Checkpointer


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setattr(storage, 'DELAYS', (0.0,) * 4)


class Failing:
  """Replaces a function by one that fails some times first."""

  def __init__(self, monkeypatch, owner, name, times, number=errno.EIO):
    self._function, self._times = getattr(owner, name), times
    self._number, self.calls = number, 0
    monkeypatch.setattr(owner, name, self)

  def __call__(self, *args, **kwargs):
    self.calls += 1
    if self.calls <= self._times:
      raise OSError(self._number, os.strerror(self._number))
    return self._function(*args, **kwargs)


def caused(outer, inner):
  outer.__cause__ = inner
  return outer


@pytest.mark.parametrize(
  'error, passes',
  [
    (OSError(errno.EIO, 'x'), True),
    (OSError(errno.ESTALE, 'x'), True),
    (OSError(errno.ENOSPC, 'x'), True),
    (RuntimeError('INTERNAL: write: No space left on device; x'), True),
    (caused(ValueError('x'), OSError(errno.EIO, 'x')), True),
    (errors.StorageError('x'), True),
    (errors.CheckpointError('x'), False),
    (OSError(errno.ENOENT, 'x'), False),
    (OSError(errno.EACCES, 'x'), False),
    (ValueError('x'), False),
    (None, False),
  ],
)
def test_which_errors_may_pass(error, passes):
  assert bool(storage.transient(error)) == passes


def test_an_error_that_replaces_another_does_not_pass_for_it():
  """A lock that is taken raises BlockingIOError, whose number is EAGAIN."""
  try:
    try:
      raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    except BlockingIOError:
      raise ValueError('another process is at work') from None
  except ValueError as error:
    assert not storage.transient(error)


def test_sizes():
  found = [storage.size(n) for n in (0, 12_300, 5e7, 3.2e9, 1e12)]
  assert found == ['0.0 kB', '12.3 kB', '50.0 MB', '3.2 GB', '1,000.0 GB']


@pytest.mark.parametrize('times', [0, 1, 4, 5])
def test_a_file_is_written_after_errors_that_pass(tmp_path, monkeypatch, times):
  path = tmp_path / 'file'
  files.atomic_write(path, 'old')
  Failing(monkeypatch, os, 'fsync', times)
  if times < 5:
    files.atomic_write(path, 'new')
  else:
    with pytest.raises(OSError, match=f'{path}') as caught:
      files.atomic_write(path, 'new')
    assert storage.transient(caught.value)
  assert path.read_text() == ('new' if times < 5 else 'old')
  assert os.listdir(tmp_path) == ['file']


def test_a_file_is_read_after_errors_that_pass(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('{}')
  calls, read = [], files.pathlib.Path.read_bytes

  def stale(path):
    calls.append(path)
    if len(calls) < 3:
      raise OSError(errno.ESTALE, 'Stale file handle')
    return read(path)

  monkeypatch.setattr(files.pathlib.Path, 'read_bytes', stale)
  assert files.read_json(tmp_path / 'file') == {} and len(calls) == 3


class Short:
  """A file of a disk that gets full: it takes a part, and fails."""

  def __init__(self, file, errors):
    self._file, self._errors = file, errors

  def fileno(self):
    return self._file.fileno()

  def write(self, content):
    if self._errors:
      self._errors -= 1
      self._file.write(content[:3])
      raise OSError(errno.ENOSPC, 'No space left on device')
    return self._file.write(content[:5])

  def close(self):
    self._file.close()


def test_a_line_is_whole_or_absent(tmp_path):
  with metrics.RunWriter(tmp_path) as writer:
    writer.scalars(1, {'loss': 1.0})
    own = writer._files[metrics.METRICS]
    writer._files[metrics.METRICS] = Short(own, errors=3)
    writer.scalars(2, {'loss': 2.0})
    writer._files[metrics.METRICS] = Short(own, errors=9)
    with pytest.raises(OSError, match=str(tmp_path / 'metrics.jsonl')):
      writer.scalars(3, {'loss': 3.0})
    writer._files[metrics.METRICS] = own
  assert [l['loss'] for l in metrics.read_metrics(tmp_path)] == [1.0, 2.0]


def save(checkpointer, step):
  checkpointer.save(step, {'w': jnp.full(3, step)}, {})


def saved(folder, step):
  """The content of a step that verifies."""
  path = checkpoint.find(folder / f'{step:08d}')
  restored = checkpoint.load(
    path, checkpoint.read_about(path), arrays.nested({'w': [[3], 'int32']})
  )
  np.testing.assert_array_equal(restored['w'], [step] * 3)


def test_a_save_that_fails_is_made_up_by_the_next(tmp_path, monkeypatch):
  with Checkpointer(tmp_path) as checkpointer:
    save(checkpointer, 1)
    checkpointer.wait()
    failing = Failing(monkeypatch, manifest, 'write', 1, errno.ENOSPC)
    for step in (2, 3):
      save(checkpointer, step)
    checkpointer.wait()
    assert checkpointer.steps() == [1, 3] and failing.calls == 2
  saved(tmp_path, 3)


def test_a_save_after_a_failed_one_has_a_folder_of_its_own(
  tmp_path, monkeypatch
):
  # Threads of Orbax may still write into the folder of the failed save.
  folders, write = [], manifest.write

  def fail_once(folder):
    folders.append(folder)
    if len(folders) == 1:
      raise OSError(errno.ENOSPC, 'No space left on device')
    write(folder)

  monkeypatch.setattr(manifest, 'write', fail_once)
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save_and_wait(4, {'w': jnp.full(3, 4)}, {})
  assert [folder.name for folder in folders] == [
    'incomplete.00000004',
    'incomplete.00000004.1',
  ]
  assert os.listdir(tmp_path) == ['00000004']
  saved(tmp_path, 4)


def test_a_storage_that_does_not_recover_ends_the_run(tmp_path, monkeypatch):
  with pytest.raises(errors.StorageError, match='could not be written'):
    with Checkpointer(tmp_path) as checkpointer:
      save(checkpointer, 1)
      checkpointer.wait()
      Failing(monkeypatch, manifest, 'write', 99)
      for step in range(2, 9):
        save(checkpointer, step)
  saved(tmp_path, 1)


@pytest.mark.parametrize('name', ['write', 'sync'])
def test_the_last_save_is_tried_again(tmp_path, monkeypatch, name):
  with Checkpointer(tmp_path) as checkpointer:
    if name == 'write':
      Failing(monkeypatch, manifest, 'write', 3)
    else:
      # A step that is there counts, although its folder was not flushed.
      monkeypatch.setattr(
        files, 'sync_folder', Sync(files.sync_folder, tmp_path)
      )
    checkpointer.save_and_wait(4, {'w': jnp.full(3, 4)}, {})
  saved(tmp_path, 4)


class Sync:
  """Fails six times to flush one folder."""

  def __init__(self, function, folder):
    self._function, self._folder, self._left = function, folder, 6

  def __call__(self, folder):
    if folder == self._folder and self._left:
      self._left -= 1
      raise OSError(errno.EIO, 'Input/output error')
    self._function(folder)


def test_an_old_step_that_cannot_be_removed_is_no_error(
  tmp_path, monkeypatch, caplog
):
  with Checkpointer(tmp_path, keep_latest=1) as checkpointer:
    save(checkpointer, 1)
    checkpointer.wait()
    Failing(monkeypatch, shutil, 'rmtree', 1, errno.EBUSY)
    save(checkpointer, 2)
    checkpointer.wait()
    assert 'trash.00000001 is left' in caplog.text
    save(checkpointer, 3)
  assert sorted(os.listdir(tmp_path)) == ['00000003']


def test_arrays_are_read_after_errors_that_pass(tmp_path, monkeypatch):
  with Checkpointer(tmp_path) as checkpointer:
    save(checkpointer, 1)
  Failing(monkeypatch, arrays, 'load', 2)
  saved(tmp_path, 1)
