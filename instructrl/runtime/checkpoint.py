"""Reads checkpoints: finds a step, verifies it, restores all or a part of it.

A step is one folder:

  checkpoints/00000100/state/         the arrays, see `arrays`
  checkpoints/00000100/meta.json      tensors, environment, the caller's `meta`
  checkpoints/00000100/manifest.json  size and SHA-256 of every other file

`checkpointer` writes the steps. The manifest detects damage; Orbax would not
notice a flipped bit.
"""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp

from instructrl.runtime import arrays
from instructrl.runtime import contents
from instructrl.runtime import files
from instructrl.runtime import manifest
from instructrl.runtime import processes
from instructrl.runtime import storage
from instructrl.runtime import workers
from instructrl.runtime.errors import CheckpointError
from instructrl.runtime.run_folder import changed_fields
from instructrl.runtime.run_folder import CONFIG
from instructrl.runtime.run_folder import sealed_files

FORMAT_VERSION = 1
STATE, META = 'state', 'meta.json'
Subtree = Sequence[str] | Callable[[dict], Sequence[str]]


def restore_params(
  path,
  subtree: Subtree = ('ema_params',),
  abstract=None,
  *,
  cast: bool = False,
  only_newest: bool = False,
):
  """Restores one subtree, e.g. weights without the optimizer.

  Args:
    path: a run folder, a folder of steps, or one step; see `find`.
    subtree: the keys that lead to the subtree, e.g. `('params', 'policy')`; the
      subtree is a nested dict. Or a function from the `meta` to these keys,
      which may raise before any array is read.
    abstract: the wanted tree, with jax.ShapeDtypeStruct leaves, or a function
      from the `meta` to that tree. By default the saved shapes and dtypes, on
      the first device.
    cast: convert floating dtypes that differ, instead of raising.
    only_newest: see `find`.

  Returns:
    (params, meta): the subtree, and the `meta` that was saved with it.

  Raises:
    CheckpointError: there is no checkpoint, it is damaged, it has no such
      subtree, or it does not fit `abstract`.
  """
  path = find(path, only_newest=only_newest)
  about = read_about(path)
  subtree, tensors = _subtree(path, about, subtree)
  if callable(abstract):
    abstract = abstract(about['meta'])
  if abstract is None:
    wanted = arrays.nested(tensors)
  else:
    wanted = abstract
    for key in reversed(subtree):
      wanted = {key: wanted}
    check_same(tensors, arrays.tensors(wanted), path, cast=cast)
  restored = load(path, about, wanted)
  for key in subtree:
    restored = restored[key]
  return restored, about['meta']


def lazy_params(path, subtree: Subtree):
  """Returns a reader of single arrays of a subtree; reads no array itself.

  Args:
    path: see `restore_params`.
    subtree: see `restore_params`.

  Returns:
    (names, read, meta): `names` is {'a/b': [shape, dtype]} for each array of
    the subtree; `read('a/b')` returns that array on the first device.

  Raises:
    CheckpointError: there is no checkpoint, it is damaged, or it has no such
      subtree.
  """
  path = find(path)
  about = read_about(path)
  subtree, tensors = _subtree(path, about, subtree)
  prefix = '/'.join(subtree)

  def read(name):
    full = f'{prefix}/{name}'
    restored = load(path, about, arrays.nested({full: tensors[full]}))
    return jax.tree.leaves(restored)[0]

  names = {
    name.removeprefix(f'{prefix}/'): spec for name, spec in tensors.items()
  }
  return names, read, about['meta']


def _subtree(path, about, subtree):
  """Returns (keys, {'a/b/c': [shape, dtype]}) of a subtree."""
  subtree = subtree(about['meta']) if callable(subtree) else subtree
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
  return subtree, tensors


def load(path: pathlib.Path, about, wanted):
  """Reads the `wanted` tree of a step; see `arrays.load`."""
  in_leaves = about.get('in_leaves', False)

  def read():
    return arrays.load(path / STATE, wanted, in_leaves=in_leaves)

  # Several processes wait for each other in a read, so one cannot repeat it.
  return read() if jax.process_count() > 1 else storage.retrying(read, path)


def refuse_foreign(path) -> None:
  """Raises a CheckpointError if a path has weights of another tool."""
  path = pathlib.Path(path)
  if path.suffix == '.gguf' or any(path.glob('*.safetensors')):
    raise CheckpointError(
      f'{path} has weights of another tool: import them with '
      f'`python -m instructrl.convert import {path} FOLDER`'
    )


def find(path, *, only_newest: bool = False) -> pathlib.Path:
  """Returns the folder of the newest step that verifies.

  Args:
    path: a run folder, its `checkpoints`, or one step, which is returned.
    only_newest: raise if the newest step is damaged, instead of taking an older
      one.

  Raises:
    CheckpointError: no step verifies.
  """
  path = pathlib.Path(path).absolute()
  if not path.exists():
    raise CheckpointError(f'{path} does not exist')
  refuse_foreign(path)
  if (path / META).exists():
    fault = _verify(path)
    if fault:
      raise CheckpointError(f'{path}: {fault}')
    return path
  if (path / 'checkpoints').is_dir():
    path = path / 'checkpoints'
  for step in reversed(list_steps(path)):
    folder = path / f'{step:08d}'
    fault = _verify(folder)
    if not fault:
      return folder
    if only_newest:
      raise CheckpointError(
        f'{folder}: {fault}; run it again, or give the path of an older '
        'checkpoint'
      )
    logging.warning('checkpoint %s is skipped: %s', folder, fault)
  inside = ', '.join(sorted(p.parent.name for p in path.glob('*/checkpoints')))
  hint = 'give the folder of a stage that trains a model'
  hint = f'there are some in {inside}' if inside else hint
  raise CheckpointError(f'{path}: no checkpoint that verifies; {hint}')


def _verify(folder: pathlib.Path) -> str:
  """Calls `problem` in process 0 only, which reads every byte."""
  found = ''
  if processes.primary():
    found = problem(folder) or _foreign(folder)
  if processes.agree(bool(found)):
    return found or 'damaged; see the log of process 0'
  return ''


def problem(folder: pathlib.Path) -> str:
  """Returns what is wrong with the folder of a step; '' for nothing."""
  found = manifest.verify(folder)
  if found or not folder.name.isdecimal():
    return found
  step = files.read_json(folder / META).get('step')
  if step != int(folder.name):
    return f'it is step {step}: a folder must have the number of its step'
  return ''


def _foreign(folder: pathlib.Path) -> str:
  """Returns why a step is not one that its run folder wrote; '' if it is."""
  run = folder.parent.parent
  name = folder.relative_to(run).as_posix()
  if folder.parent.name != 'checkpoints' or not (run / CONFIG).is_file():
    return ''
  sealed = sealed_files(run)
  if sealed is not None:
    recorded = sealed.get(f'{name}/{manifest.NAME}', [])[:2]
    if recorded == manifest.digest(folder / manifest.NAME):
      return ''
    return f'it is not the checkpoint that {run} finished with: restore it'
  config = read_about(folder)['meta'].get('config')
  if config is None:
    return ''
  changed = changed_fields(files.read_json(run / CONFIG), config)
  if changed:
    return f'it is of another run ({"; ".join(changed[:5])})'
  return ''


def read_meta(path) -> dict[str, Any]:
  """Returns `step`, `environment`, `tensors` and `meta` of the newest step."""
  return read_about(find(path))


def abstract(state):
  """Returns a state's shapes, dtypes and shardings, for `restore`."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def environment() -> dict[str, Any]:
  """Returns what the bits of a result depend on besides config and data."""
  return {
    'jax': jax.__version__,
    'device_kind': jax.devices()[0].device_kind,
    'num_devices': jax.device_count(),
    'num_processes': jax.process_count(),
    'num_cores': workers.cores(),
  }


def list_steps(directory: pathlib.Path) -> list[int]:
  """Returns the steps in a folder, in order, without opening them."""
  return [int(name) for name in contents.steps(directory)]


def check_same(saved, wanted, where, *, cast: bool = False) -> None:
  """Raises a CheckpointError that names the first tensors that differ.

  Args:
    saved: {name: [shape, dtype]} of the checkpoint.
    wanted: {name: [shape, dtype]} of the tree to restore.
    where: the step's folder, for the message.
    cast: ignore a difference between two floating dtypes.
  """
  problems = [
    f'{name} is not in the checkpoint' for name in wanted if name not in saved
  ]
  problems += [
    f'{name} is in the checkpoint only' for name in saved if name not in wanted
  ]
  for name in wanted:
    new_shape, new_dtype = wanted[name]
    shape, dtype = saved.get(name, wanted[name])
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


def read_about(path: pathlib.Path) -> dict[str, Any]:
  """Returns the meta file of a step's folder."""
  about = files.read_json(path / META)
  if about['format_version'] != FORMAT_VERSION:
    raise CheckpointError(
      f'{path}: format_version {about["format_version"]}, this program reads '
      f'{FORMAT_VERSION}'
    )
  return about
