"""Writes checkpoints that survive a kill at any moment.

A step is written to `incomplete.00000100`: Orbax commits `state` (or each leaf
of it), the manifest follows, and a rename to `00000100` makes it a step. So
every folder of a step was complete once. `checkpoint` describes the files and
verifies them.
"""

from collections.abc import Callable
from concurrent import futures
import functools
import itertools
import json
import pathlib
import shutil
import time

from absl import logging
import jax

from instructrl.runtime import arrays
from instructrl.runtime import checkpoint
from instructrl.runtime import files
from instructrl.runtime import manifest
from instructrl.runtime import processes
from instructrl.runtime import storage
from instructrl.runtime.checkpoint import META
from instructrl.runtime.checkpoint import STATE
from instructrl.runtime.errors import CheckpointError
from instructrl.runtime.errors import StorageError

_TEMPORARY = 'temporary'  # the file that marks a temporary step
_MOST_FAILURES = 3  # saves in a row that may fail because of the storage
_INCOMPLETE, _TRASH, _DAMAGED = 'incomplete', 'trash', 'damaged'  # prefixes


class Checkpointer:
  """Saves and restores the steps of one run.

  Save inside `with`: if the program ended without waiting for Orbax's
  background writes, it would hang for five minutes and lose them.

  With several processes, all of them must call every method. Process 0 decides
  and writes the bookkeeping.
  """

  def __init__(
    self,
    directory,
    *,
    keep_latest: int = 2,
    keep_steps: Callable[[int], bool] | None = None,
  ):
    """Opens a folder of steps; the first save creates it.

    Args:
      directory: the folder, on a local or mounted file system.
      keep_latest: how many of the newest steps to keep. With two or more, an
        older step is left if the newest is damaged.
      keep_steps: step -> whether to keep it for good, e.g. ends of epochs.
    """
    if keep_latest < 1:
      raise ValueError(f'keep_latest must be at least 1; got {keep_latest}')
    if '://' in str(directory):
      raise ValueError(
        f'{directory}: checkpoints need a file system with atomic renames; '
        'mount the bucket and give its path'
      )
    self._directory = pathlib.Path(directory).absolute()
    self._keep_latest = keep_latest
    self._keep_steps = keep_steps or (lambda step: False)
    self._primary = processes.primary()
    self._executor = None  # open inside `with`
    self._pending = None  # (step, future) of the current save
    self._current = None  # the last step saved or restored here
    self._failures = 0  # saves in a row that the storage failed
    self._failed_saves = 0  # all of them; see `_begin`
    self._problems = {}  # step -> problem, '' if it verifies

  def save(
    self, step: int, state, meta: dict, *, temporary: bool = False
  ) -> None:
    """Copies `state` and starts to write it.

    The state may be donated as soon as this method returns. `wait`, `close` or
    the next `save` raises if the writing failed. A step that this process has
    just saved or restored is not written again.

    Args:
      step: the number of finished steps.
      state: a pytree of jax.Arrays; None is an absent subtree.
      meta: JSON that describes the run: config, fingerprints.
      temporary: the next save removes this step.

    Raises:
      CheckpointError: this or the previous save failed, or the folder has this
        step from another run. A failure of the storage is logged instead,
        unless several saves in a row fail.
      ValueError: a leaf cannot be saved, or `meta` is not JSON.
    """
    for _ in range(2):  # the first error may be that of the previous save
      try:
        self._start(step, state, meta, temporary)
        return
      except StorageError as error:
        self._failures += 1
        if self._failures > _MOST_FAILURES or jax.process_count() > 1:
          raise
        logging.warning('%s; the run goes on', error)

  def _start(self, step, state, meta, temporary) -> None:
    """Waits for the previous save, and starts one."""
    if self._executor is None:
      raise RuntimeError('call save inside `with Checkpointer(...)`')
    self.wait()
    step = int(step)
    begun = self._begin(step, arrays.tensors(state, arrays=True), meta)
    if begun is None:
      return
    work, about = begun
    try:
      response = arrays.save_async(work / STATE, state)
    except Exception as error:  # Orbax's errors have no common class.
      raise self._failed(step, error) from error
    self._current = step
    arguments = (step, work, about, response, temporary)
    self._pending = step, self._executor.submit(self._commit, *arguments)

  def save_and_wait(
    self, step: int, state, meta: dict, *, temporary: bool = False
  ) -> None:
    """Saves `state` like `save`, with several tries if the storage fails.

    Raises:
      CheckpointError: see `save`.
    """
    for delay in (*storage.DELAYS, None):
      try:
        self._start(step, state, meta, temporary)
        self.wait()
        return
      except StorageError as error:
        if delay is None:
          raise
        logging.warning('%s; next try in %g s', error, delay)
        time.sleep(delay)

  def save_leaves(
    self,
    step: int,
    abstract_state,
    make: Callable[[str], jax.Array],
    meta: dict,
  ) -> None:
    """Saves a state that does not fit into memory, leaf by leaf, and waits.

    The step is read like any other one.

    Args:
      step: the number of finished steps.
      abstract_state: nested dicts with jax.ShapeDtypeStruct leaves.
      make: 'a/b' -> that array, with its sharding. The array is released before
        the next one is made, so memory holds at most twice the largest.
      meta: see `save`.

    Raises:
      CheckpointError: see `save`.
      ValueError: an array from `make` does not match `abstract_state`.
    """
    self.wait()
    tensors = arrays.tensors(abstract_state)
    begun = self._begin(int(step), tensors, meta, in_leaves=True)
    if begun is None:
      return
    work, about = begun
    if self._primary:
      for name in tensors:
        (work / STATE / name).parent.mkdir(parents=True, exist_ok=True)
    processes.agree(0)  # the other processes write into these folders
    for name, spec in tensors.items():
      array = make(name)
      if [list(array.shape), str(array.dtype)] != spec:
        raise ValueError(
          f'{name} is {array.dtype}{list(array.shape)}, not {spec[1]}{spec[0]}'
        )
      try:
        arrays.save_leaf(work / STATE, name, array)
      except Exception as error:  # Orbax's errors have no common class.
        raise self._failed(step, error) from error
      num_bytes = array.nbytes
      del array
      arrays.release_memory(num_bytes)
    self._current = int(step)
    try:
      self._commit(int(step), work, about, None, False)
    except OSError as error:
      raise self._failed(step, error) from error
    processes.agree(0)  # the other processes see the renamed folder

  def _begin(self, step, tensors, meta, in_leaves=False):
    """Returns (work folder, text of the meta file); None if already saved."""
    about = {
      'format_version': checkpoint.FORMAT_VERSION,
      'step': step,
      'environment': checkpoint.environment(),
      'in_leaves': in_leaves,
      'tensors': tensors,
      'meta': meta,
    }
    about = json.dumps(about, indent=1, allow_nan=False)
    exists = self._primary and self._path(step).exists()
    exists = exists and not self._problem(step)
    if processes.agree(exists):
      if step == self._current:
        return None
      raise CheckpointError(
        f'{self._path(step)} is there already, from another run: use '
        'another folder'
      )
    work = self._path(step, _INCOMPLETE)
    # Threads of Orbax may still write into the folders of failed saves, so a
    # save after them has a folder of its own.
    failed = processes.largest(self._failed_saves)
    if failed:
      work = work.with_name(f'{work.name}.{failed}')
    try:
      if self._primary:
        work.parent.mkdir(parents=True, exist_ok=True)
        self._clear_away()
    except OSError as error:
      raise self._failed(step, error) from error
    return work, about

  def _commit(self, step, work, about, response, temporary) -> None:
    """Waits for Orbax and makes the work folder a step; runs in a thread."""
    if response is not None:
      response.result()
    if not self._primary:
      return
    files.atomic_write(work / META, about)
    if temporary:
      (work / _TEMPORARY).touch()
    manifest.write(work)
    work.rename(self._path(step))
    self._problems[step] = ''
    sync = functools.partial(files.sync_folder, self._directory)
    storage.retrying(sync, self._directory)
    kept = []
    for old in self.steps():
      if not (self._path(old) / _TEMPORARY).exists():
        kept.append(old)
      elif old < step:
        self._remove(old)
    for old in kept[: -self._keep_latest]:
      if not self._keep_steps(old):
        self._remove(old)

  def wait(self) -> None:
    """Waits for the current save; raises a CheckpointError if it failed."""
    if self._pending is None:
      return
    (step, future), self._pending = self._pending, None
    error = future.exception()
    transient = error is not None and storage.transient(error)
    fault = processes.largest(0 if error is None else 1 if transient else 2)
    if not fault:
      self._failures = 0
      return
    # The step may be whole, if only the last flush failed.
    whole = self._primary and self._path(step).exists()
    whole = processes.agree(bool(whole and not self._problem(step)))
    self._current = step if whole else None
    raise self._failed(step, error, transient=fault == 1) from error

  def close(self) -> None:
    """Waits for the current save and ends the background thread."""
    try:
      self.wait()
    finally:
      if self._executor is not None:
        self._executor.shutdown()
        self._executor = None

  def __enter__(self):
    self._executor = futures.ThreadPoolExecutor(1, 'checkpoint')
    return self

  def __exit__(self, exc_type, *exc_info):
    if exc_type is None:
      self.close()
      return
    # The exception may be in this process alone, so the processes cannot agree
    # on anything. An error of the save must not replace that exception.
    if self._pending is not None:
      (step, future), self._pending = self._pending, None
      error = future.exception()
      if error is not None:
        logging.error('%s', self._failed(step, error))
    self.close()

  def steps(self) -> list[int]:
    """Returns the steps in the folder, in order, without opening them."""
    return checkpoint.list_steps(self._directory)

  def latest(self) -> int | None:
    """Returns the newest step that verifies, or None; logs skipped steps."""
    self.wait()
    found = -1
    if self._primary:
      for step in reversed(self.steps()):
        if not self._problem(step):
          found = step
          break
    found = processes.agree(found)
    return None if found < 0 else found

  def restore(self, abstract_state, step: int | None = None):
    """Restores a step onto the shardings of `abstract_state`.

    Args:
      abstract_state: the state's tree with jax.ShapeDtypeStruct leaves; see
        `checkpoint.abstract`. A leaf without a sharding goes to the first
        device. The mesh may differ from that of the save.
      step: the step; by default the newest that verifies.

    Returns:
      (state, meta): the state in the structure of `abstract_state`, and the
      `meta` that was saved with it.

    Raises:
      CheckpointError: there is no such step, it is damaged, or a tensor is
        missing, unexpected, or of another shape or dtype (nothing is cast).
    """
    self.wait()
    if step is None:
      step = self.latest()
      if step is None:
        raise CheckpointError(f'{self._directory}: no checkpoint that verifies')
    elif processes.agree(bool(self._primary and self._problem(step))):
      raise CheckpointError(
        f'{self._path(step)}: {self._problem(step) or "damaged"}'
      )
    path = self._path(step)
    about = checkpoint.read_about(path)
    wanted = arrays.tensors(abstract_state)
    checkpoint.check_same(about['tensors'], wanted, path)
    here = checkpoint.environment()
    changed = [
      f'{name} {was} -> {here.get(name)}'
      for name, was in about['environment'].items()
      if was != here.get(name)
    ]
    if changed and self._primary:
      logging.warning(
        '%s was written in another environment (%s): the run resumes, but its '
        'results may differ in the last bits',
        path,
        ', '.join(changed),
      )
    state = checkpoint.load(path, about, abstract_state)
    self._current = step
    return state, about['meta']

  def _path(self, step: int, prefix: str = '') -> pathlib.Path:
    name = f'{step:08d}'
    return self._directory / (f'{prefix}.{name}' if prefix else name)

  def _problem(self, step: int) -> str:
    """Returns what is wrong with a step, '' for nothing; verifies it once."""
    if step not in self._problems:
      self._problems[step] = checkpoint.problem(self._path(step))
      if self._problems[step]:
        logging.warning(
          'checkpoint %s is skipped: %s', self._path(step), self._problems[step]
        )
    return self._problems[step]

  def _clear_away(self) -> None:
    """Removes interrupted saves and removals; moves damaged steps aside."""
    for trash in self._directory.glob(f'{_TRASH}.*'):
      _remove_folder(trash)
    for work in self._directory.glob(f'{_INCOMPLETE}.*'):
      logging.warning('removing %s, an interrupted save', work)
      if self._failed_saves:
        _remove_folder(work)  # a thread may write into it, see `_begin`
      else:
        shutil.rmtree(work)
    for step in self.steps():
      if self._problems.get(step):
        aside = _unused(self._path(step, _DAMAGED))
        logging.warning('moving %s to %s', self._path(step), aside.name)
        self._path(step).rename(aside)
        del self._problems[step]

  def _remove(self, step: int) -> None:
    """Renames a step and removes it, so that a kill leaves no half step."""
    trash = _unused(self._path(step, _TRASH))
    try:
      self._path(step).rename(trash)
    except OSError as error:
      logging.warning('the old %s is left: %s', self._path(step), error)
      return
    self._problems.pop(step, None)
    _remove_folder(trash)

  def _failed(self, step, error, *, transient=None) -> CheckpointError:
    self._failed_saves += 1
    reason = ' '.join(str(error).split())[:300] if error else 'see process 0'
    if transient is None:
      transient = storage.transient(error)
    return (StorageError if transient else CheckpointError)(
      f'checkpoint of step {step} could not be written to '
      f'{self._directory} ({reason}); earlier steps are unchanged'
    )


def _remove_folder(path: pathlib.Path) -> None:
  """Removes what no one reads; a failure is no error of the run."""
  try:
    shutil.rmtree(path)
  except OSError as error:
    logging.warning('%s is left, the next save removes it: %s', path, error)


def _unused(path: pathlib.Path) -> pathlib.Path:
  """Returns the first of `path`, `path.1`, ... that does not exist."""
  candidates = (
    path.with_name(f'{path.name}.{i}' if i else path.name)
    for i in itertools.count()
  )
  return next(c for c in candidates if not c.exists())
