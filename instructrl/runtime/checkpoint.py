"""Checkpoints that survive a kill at any moment.

A step is one folder:

  checkpoints/00000100/state/         the arrays, see `arrays`
  checkpoints/00000100/meta.json      tensors, environment, the caller's `meta`
  checkpoints/00000100/manifest.json  size and SHA-256 of every other file

It is written as `incomplete.00000100`: Orbax commits `state` (or each leaf of
it), the manifest follows, and a rename makes it a step. So a step's folder was
whole, and the manifest tells whether it still is; Orbax would not notice a
flipped bit.
"""

from collections.abc import Callable, Sequence
from concurrent import futures
import itertools
import json
import os
import pathlib
import shutil
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp

from instructrl.runtime import arrays
from instructrl.runtime import files
from instructrl.runtime import manifest
from instructrl.runtime import processes

FORMAT_VERSION = 1
_STATE, _META, _TEMPORARY = 'state', 'meta.json', 'temporary'
_INCOMPLETE, _TRASH, _DAMAGED = 'incomplete', 'trash', 'damaged'


class CheckpointError(RuntimeError):
  """A checkpoint cannot be written, is damaged, or does not fit."""


class Checkpointer:
  """Saves and restores the steps of one run.

  Saving needs `with`: what Orbax writes in the background would hang for five
  minutes, and be lost, if the program ended without waiting for it.

  With several processes every method must be called by all of them; process 0
  decides and writes the bookkeeping.
  """

  def __init__(
    self,
    directory,
    *,
    keep_latest: int = 2,
    keep_steps: Callable[[int], bool] | None = None,
  ):
    """Opens a folder of steps; it is created with the first save.

    Args:
      directory: the folder, on a local or mounted file system.
      keep_latest: how many of the newest steps to keep. Two or more, so that
        there is one to fall back on when the newest is damaged.
      keep_steps: which further steps to keep for good, e.g. ends of epochs.
    """
    if keep_latest < 1:
      raise ValueError(f'keep_latest must be at least 1, not {keep_latest}')
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
    self._pending = None  # (step, future) of the save under way
    self._current = None  # the step this process saved or restored last
    self._problems = {}  # step -> what is wrong with it, '' for nothing

  def save(
    self,
    step: int,
    state,
    meta: dict,
    *,
    force: bool = False,
    temporary: bool = False,
  ) -> None:
    """Saves `state`; returns when its arrays are copied, not yet written.

    `wait`, `close` or the next `save` tells whether the writing succeeded. The
    state may be donated as soon as this returns. The step that was saved or
    restored last is left as it is.

    Args:
      step: the number of finished steps.
      state: a pytree of jax.Arrays; None stands for an absent subtree.
      meta: what else the run is, as JSON: config, fingerprints.
      force: replace the step if there is one; a kill in the instant between
        the two renames loses this step, and no other.
      temporary: the next save removes this step, as if it had never been.

    Raises:
      CheckpointError: this or the previous save failed, e.g. the disk is full,
        or another run's step is there.
      ValueError: a leaf cannot be saved, or `meta` is no JSON.
    """
    if self._executor is None:
      raise RuntimeError('save inside `with Checkpointer(...)`')
    self.wait()
    step = int(step)
    begun = self._begin(step, arrays.tensors(state, arrays=True), meta, force)
    if begun is None:
      return
    work, about = begun
    try:
      response = arrays.save_async(work / _STATE, state)
    except Exception as error:  # Orbax has no common class for its errors.
      raise self._failed(step, error) from error
    self._current = step
    self._pending = (
      step,
      self._executor.submit(
        self._commit, step, work, about, response, temporary
      ),
    )

  def save_leaves(
    self,
    step: int,
    abstract_state,
    make: Callable[[str], jax.Array],
    meta: dict,
  ) -> None:
    """Saves a state that is too large to be in memory, leaf by leaf.

    What is written is read like any other step. Returns when it is there.

    Args:
      step: the number of finished steps.
      abstract_state: nested dicts with jax.ShapeDtypeStruct leaves.
      make: 'a/b' -> that array, with its sharding. It is let go of before the
        next one is made: at most twice the largest is in memory.
      meta: as for `save`.

    Raises:
      CheckpointError: as for `save`.
      ValueError: what `make` returned is not what `abstract_state` says.
    """
    self.wait()
    tensors = arrays.tensors(abstract_state)
    begun = self._begin(int(step), tensors, meta, False, in_leaves=True)
    if begun is None:
      return
    work, about = begun
    if self._primary:
      for name in tensors:
        (work / _STATE / name).parent.mkdir(parents=True, exist_ok=True)
    processes.agree(0)  # the others' parts go into these folders
    for name, spec in tensors.items():
      array = make(name)
      if [list(array.shape), str(array.dtype)] != spec:
        raise ValueError(
          f'{name} is {array.dtype}{list(array.shape)}, not {spec[1]}{spec[0]}'
        )
      try:
        arrays.save_leaf(work / _STATE, name, array)
      except Exception as error:  # as above
        raise self._failed(step, error) from error
      num_bytes = array.nbytes
      del array
      arrays.release_memory(num_bytes)
    self._current = int(step)
    try:
      self._commit(int(step), work, about, None, False)
    except OSError as error:
      raise self._failed(step, error) from error
    processes.agree(0)  # the others read what process 0 has renamed

  def _begin(self, step, tensors, meta, force, in_leaves=False):
    """(work folder, text of the meta file) of a save, None if it is done."""
    about = json.dumps(
      {
        'format_version': FORMAT_VERSION,
        'step': step,
        'environment': environment(),
        'in_leaves': in_leaves,
        'tensors': tensors,
        'meta': meta,
      },
      indent=1,
      allow_nan=False,
    )
    exists = (
      self._primary and self._path(step).exists() and not (self._problem(step))
    )
    if processes.agree(exists) and not force:
      if step == self._current:
        return None
      raise CheckpointError(
        f'{self._path(step)} is there already, and not from this run: take '
        'another folder, or save with force=True'
      )
    work = self._path(step, _INCOMPLETE)
    try:
      if self._primary:
        work.parent.mkdir(parents=True, exist_ok=True)
        self._clear_away()
    except OSError as error:
      raise self._failed(step, error) from error
    return work, about

  def _commit(self, step, work, about, response, temporary) -> None:
    """Waits for Orbax, in the background, then makes it a step."""
    if response is not None:
      response.result()
    if not self._primary:
      return
    files.atomic_write(work / _META, about)
    if temporary:
      (work / _TEMPORARY).touch()
    manifest.write(work)
    replaced = self._trash(step) if self._path(step).exists() else None
    work.rename(self._path(step))
    files.sync_folder(self._directory)
    self._problems[step] = ''
    if replaced:
      shutil.rmtree(replaced)
    kept = []
    for old in self.steps():
      if not (self._path(old) / _TEMPORARY).exists():
        kept.append(old)
      elif old < step:
        shutil.rmtree(self._trash(old))
    for old in kept[: -self._keep_latest]:
      if not self._keep_steps(old):
        shutil.rmtree(self._trash(old))

  def wait(self) -> None:
    """Waits for the save under way; raises CheckpointError if it failed."""
    if self._pending is None:
      return
    (step, future), self._pending = self._pending, None
    error = future.exception()
    if processes.largest(error is not None):
      self._current = None
      raise self._failed(step, error) from error

  def close(self) -> None:
    """Waits for the save under way and ends the background thread."""
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
    # What stopped the run may have stopped this process alone: nothing is
    # agreed upon, and no error of the save takes the place of that one.
    if self._pending is not None:
      (step, future), self._pending = self._pending, None
      error = future.exception()
      if error is not None:
        logging.error('%s', self._failed(step, error))
    self.close()

  def steps(self) -> list[int]:
    """The steps there are, in order, without a look at their contents."""
    return _steps(self._directory)

  def latest(self) -> int | None:
    """The newest step that verifies, or None. Warns of those it skips."""
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
      abstract_state: the tree of the state with jax.ShapeDtypeStruct leaves
        (see `abstract`); a leaf without sharding goes to the first device. The
        mesh may differ from the one that saved.
      step: which step; the newest that verifies by default.

    Returns:
      (state, meta): the state in the structure of `abstract_state`, and the
      `meta` it was saved with.

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
    about = _read_about(path)
    _check_same(about['tensors'], arrays.tensors(abstract_state), path)
    here = environment()
    changed = [
      f'{name} {was} -> {here.get(name)}'
      for name, was in about['environment'].items()
      if was != here.get(name)
    ]
    if changed and self._primary:
      logging.warning(
        '%s was written elsewhere (%s): the run goes on, but not '
        'bit for bit as it would have',
        path,
        ', '.join(changed),
      )
    state = _load(path, about, abstract_state)
    self._current = step
    return state, about['meta']

  def _path(self, step: int, prefix: str = '') -> pathlib.Path:
    name = f'{step:08d}'
    return self._directory / (f'{prefix}.{name}' if prefix else name)

  def _problem(self, step: int) -> str:
    """What is wrong with a step, '' for nothing; looked at once."""
    if step not in self._problems:
      self._problems[step] = manifest.verify(self._path(step))
      if self._problems[step]:
        logging.warning(
          'checkpoint %s is skipped: %s', self._path(step), self._problems[step]
        )
    return self._problems[step]

  def _clear_away(self) -> None:
    """Ends interrupted removals, removes unfinished saves, moves damage."""
    for trash in self._directory.glob(f'{_TRASH}.*'):
      shutil.rmtree(trash)
    for work in self._directory.glob(f'{_INCOMPLETE}.*'):
      logging.warning('%s, a save that was interrupted, is removed', work)
      shutil.rmtree(work)
    for step in self.steps():
      if self._problems.get(step):
        aside = _unused(self._path(step, _DAMAGED))
        logging.warning('%s is moved to %s', self._path(step), aside.name)
        self._path(step).rename(aside)
        del self._problems[step]

  def _trash(self, step: int) -> pathlib.Path:
    """Renames a step before its removal, so that a kill leaves no half."""
    trash = _unused(self._path(step, _TRASH))
    self._path(step).rename(trash)
    self._problems.pop(step, None)
    return trash

  def _failed(self, step, error) -> CheckpointError:
    reason = ' '.join(str(error).split())[:300] if error else 'see process 0'
    return CheckpointError(
      f'checkpoint of step {step} could not be written to '
      f'{self._directory} ({reason}); earlier steps are as they were'
    )


def restore_params(
  path,
  subtree: Sequence[str] | Callable[[dict], Sequence[str]] = ('ema_params',),
  abstract=None,
  *,
  cast: bool = False,
  only_newest: bool = False,
):
  """Restores one subtree, e.g. weights without the optimizer. Only reads.

  Args:
    path: a step's folder, a folder of steps (the newest that verifies is
      taken), or a run's folder, which has `checkpoints`.
    subtree: where the subtree is, e.g. `('params', 'policy')`. It must be a
      nested dict. Or a function that tells it by the `meta`, and may refuse
      before anything is read.
    abstract: as for `Checkpointer.restore`; by default what was saved, on the
      first device. Or a function that makes it from the `meta`.
    cast: whether floating dtypes may differ, and are converted.
    only_newest: as for `find`.

  Returns:
    (params, meta): the subtree, and the `meta` it was saved with.

  Raises:
    CheckpointError: no checkpoint there, it is damaged, it has no such
      subtree, or `abstract` does not fit.
  """
  path = find(path, only_newest=only_newest)
  about = _read_about(path)
  if callable(subtree):
    subtree = subtree(about['meta'])
  if callable(abstract):
    abstract = abstract(about['meta'])
  _, tensors = _subtree(path, about, subtree)
  if abstract is None:
    wanted = arrays.nested(tensors)
  else:
    wanted = abstract
    for key in reversed(subtree):
      wanted = {key: wanted}
    _check_same(tensors, arrays.tensors(wanted), path, cast=cast)
  restored = _load(path, about, wanted)
  for key in subtree:
    restored = restored[key]
  return restored, about['meta']


def lazy_params(
  path,
  subtree: Sequence[str] | Callable[[dict], Sequence[str]],
  *,
  only_newest: bool = False,
):
  """One subtree whose arrays are read one by one, each when it is asked for.

  Args:
    path: as for `restore_params`.
    subtree: as for `restore_params`.
    only_newest: as for `find`.

  Returns:
    (names, read, meta): names is `{'a/b': [shape, dtype]}` of the subtree's
    arrays, `read('a/b')` that array on the first device, as it was saved.

  Raises:
    CheckpointError: as for `restore_params`; nothing is read before.
  """
  path = find(path, only_newest=only_newest)
  about = _read_about(path)
  if callable(subtree):
    subtree = subtree(about['meta'])
  prefix, tensors = _subtree(path, about, subtree)

  def read(name):
    full = f'{prefix}/{name}'
    restored = _load(path, about, arrays.nested({full: tensors[full]}))
    return jax.tree.leaves(restored)[0]

  names = {
    name.removeprefix(f'{prefix}/'): spec for name, spec in tensors.items()
  }
  return names, read, about['meta']


def _subtree(path, about, subtree):
  """('a/b', {'a/b/c': [shape, dtype]}) of a subtree, which must be there."""
  prefix = '/'.join(subtree)
  tensors = {
    name: spec
    for name, spec in about['tensors'].items()
    if f'{name}/'.startswith(f'{prefix}/')
  }
  if not tensors:
    there = sorted(
      {'/'.join(name.split('/')[: len(subtree)]) for name in about['tensors']}
    )
    raise CheckpointError(f'{path} has no {prefix!r}, only {there}')
  return prefix, tensors


def _load(path: pathlib.Path, about, wanted):
  return arrays.load(
    path / _STATE, wanted, in_leaves=about.get('in_leaves', False)
  )


def refuse_foreign(path) -> None:
  """Refuses weights of another tool, which are no run folder."""
  path = pathlib.Path(path)
  if path.suffix == '.gguf' or any(path.glob('*.safetensors')):
    raise CheckpointError(
      f'{path} has weights of another tool: make a run folder of them with '
      f'`python -m instructrl.convert import {path} FOLDER`'
    )


def find(path, *, only_newest: bool = False) -> pathlib.Path:
  """The folder of the newest step that verifies in `path`, or of that step.

  Args:
    path: a run folder, its checkpoints, or one step of them.
    only_newest: refuse where the newest step is damaged.

  Raises:
    CheckpointError: there is none, or `path` is a step and damaged.
  """
  path = pathlib.Path(path).absolute()
  if not path.exists():
    raise CheckpointError(f'{path} does not exist')
  refuse_foreign(path)
  if (path / _META).exists():
    problem = _verify(path)
    if problem:
      raise CheckpointError(f'{path}: {problem}')
    return path
  if (path / 'checkpoints').is_dir():
    path = path / 'checkpoints'
  for step in reversed(_steps(path)):
    folder = path / f'{step:08d}'
    problem = _verify(folder)
    if not problem:
      return folder
    if only_newest:
      raise CheckpointError(
        f'{folder}: {problem}; run it again, or give the path of an older '
        'checkpoint'
      )
    logging.warning('checkpoint %s is skipped: %s', folder, problem)
  inside = ', '.join(sorted(p.parent.name for p in path.glob('*/checkpoints')))
  raise CheckpointError(
    f'{path}: no checkpoint that verifies'
    f'{inside and "; there are some in " + inside}'
  )


def _verify(folder: pathlib.Path) -> str:
  """`manifest.verify`, by process 0: not all of them read all bytes."""
  problem = manifest.verify(folder) if processes.primary() else ''
  if processes.agree(bool(problem)):
    return problem or 'damaged; process 0 says how'
  return ''


def read_meta(path) -> dict[str, Any]:
  """`{'step', 'environment', 'tensors', 'meta'}` of what `find` finds."""
  return _read_about(find(path))


def abstract(state):
  """The tree of a state's shapes, dtypes and shardings, for `restore`."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def environment() -> dict[str, Any]:
  """What the bits of a result depend on, besides config and data."""
  affinity = getattr(os, 'sched_getaffinity', None)  # not on a Mac
  return {
    'jax': jax.__version__,
    'device_kind': jax.devices()[0].device_kind,
    'num_devices': jax.device_count(),
    'num_processes': jax.process_count(),
    'num_cores': len(affinity(0)) if affinity else os.cpu_count(),
  }


def _steps(directory: pathlib.Path) -> list[int]:
  if not directory.is_dir():
    return []
  return sorted(
    int(entry.name)
    for entry in directory.iterdir()
    if entry.name.isdigit() and entry.is_dir()
  )


def _check_same(saved, wanted, where, *, cast: bool = False) -> None:
  """Raises CheckpointError naming the first tensors that differ."""
  problems = [
    f'{name} is not in the checkpoint' for name in wanted if name not in saved
  ]
  problems += [
    f'{name} is in the checkpoint only' for name in saved if name not in wanted
  ]
  for name in wanted:
    (shape, dtype), (new_shape, new_dtype) = (
      saved.get(name, wanted[name]),
      wanted[name],
    )
    if cast and _both_floating(dtype, new_dtype):
      dtype = new_dtype
    if (shape, dtype) != (new_shape, new_dtype):
      problems.append(f'{name} is {dtype}{shape}, not {new_dtype}{new_shape}')
  if problems:
    raise CheckpointError(
      f'{where} does not fit in {len(problems)} tensors: '
      f'{"; ".join(problems[:5])}'
    )


def _both_floating(*dtypes) -> bool:
  return all(jnp.issubdtype(jnp.dtype(d), jnp.floating) for d in dtypes)


def _read_about(path: pathlib.Path) -> dict[str, Any]:
  about = json.loads((path / _META).read_text(encoding='utf-8'))
  if about['format_version'] != FORMAT_VERSION:
    raise CheckpointError(
      f'{path}: format_version {about["format_version"]}, this program reads '
      f'{FORMAT_VERSION}'
    )
  return about


def _unused(path: pathlib.Path) -> pathlib.Path:
  """`path`, or `path` with the first number that is not taken."""
  candidates = (
    path.with_name(f'{path.name}.{i}' if i else path.name)
    for i in itertools.count()
  )
  return next(c for c in candidates if not c.exists())
