"""Saves and loads a tree of arrays in a folder. Only this file uses Orbax.

A tree is saved whole, as one Orbax checkpoint, or in leaves, each array as a
small Orbax checkpoint under its name. Trees that do not fit into memory are
written and read leaf by leaf.
"""

import ctypes
import gc
import pathlib

import jax
import jax.numpy as jnp
from orbax.checkpoint.experimental import v1 as ocp

_LEAF = 'leaf'  # the only key of a leaf's own checkpoint
_CHUNK_BYTES = 64 << 20
_RELEASED = 16 << 20  # bytes; a garbage collection may take a second


def _context() -> ocp.Context:
  """Returns the context of saves, without compression.

  The bits of weights and moments are close to random, and a CPU core compresses
  them more slowly than a disk writes them.
  """
  context = ocp.Context()
  context.array.saving.use_compression = False
  return context


def save_async(folder: pathlib.Path, state):
  """Starts to save a whole tree; `result()` of the returned future waits."""
  with _context():
    return ocp.save_async(folder, state)


def save_leaf(folder: pathlib.Path, name: str, array: jax.Array) -> None:
  """Saves one array of a tree in leaves, and waits.

  Args:
    folder: the folder of the tree; the parent of `folder / name` must exist.
    name: the path of the array in the tree, 'a/b'.
    array: the array, the same in all processes. Host memory holds a second copy
      during the save.
  """
  # The sources of the array can be freed only after it is computed.
  array.block_until_ready()
  release_memory(array.nbytes)
  context = _context()
  # A reader of a part of the array reads only the chunks of that part.
  context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
  with context:
    ocp.save(folder / name, {_LEAF: array})


def release_memory(num_bytes: int) -> None:
  """Collects garbage, and returns freed memory to the system.

  Otherwise the freed memory of several large arrays adds up: Orbax's copies are
  in reference cycles, JAX frees copies to a device only in a garbage
  collection, and glibc keeps what is freed.

  Args:
    num_bytes: the size of the released arrays; small ones are ignored.
  """
  if num_bytes < _RELEASED:
    return
  gc.collect()
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if trim is not None:
    trim(0)


def load(folder: pathlib.Path, wanted, *, in_leaves: bool):
  """Reads the wanted part of a saved tree.

  Args:
    folder: the folder that `save_async` or `save_leaf` wrote.
    wanted: the tree, or nested dicts with a part of it, with `ShapeDtypeStruct`
      leaves. Floating arrays are converted to the wanted dtype. A leaf without
      a sharding goes to the first device.
    in_leaves: whether the tree was saved in leaves.
  """
  wanted = _placed(wanted)
  if in_leaves:
    return jax.tree_util.tree_map_with_path(
      lambda path, leaf: ocp.load(folder / name_of(path), {_LEAF: leaf})[_LEAF],
      wanted,
    )
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context:
    return ocp.load(folder, wanted)


def name_of(path) -> str:
  """Returns the name 'a/b' of a leaf from its path in a tree."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def tensors(tree, *, arrays: bool = False) -> dict[str, list]:
  """Returns {name: [shape, dtype]} of a tree.

  Args:
    tree: arrays, or `ShapeDtypeStruct`s.
    arrays: require every leaf to be a jax.Array.

  Raises:
    ValueError: a leaf cannot be saved; the message names it.
  """
  found = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = name_of(path)
    if name in found or name.count('/') != max(len(path) - 1, 0):
      raise ValueError(f"{name}: a key of the state has a '/' in it")
    if arrays and not isinstance(leaf, jax.Array):
      raise ValueError(
        f'{name} is {type(leaf).__name__}, not a jax.Array: convert it, e.g. '
        'with jnp.int32'
      )
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
      raise ValueError(
        f'{name} has dtype {leaf.dtype}: save the seed, not the key'
      )
    found[name] = [list(leaf.shape), str(leaf.dtype)]
  return found


def nested(found: dict[str, list]):
  """Turns {'a/b': [shape, dtype]} into {'a': {'b': ShapeDtypeStruct}}."""
  tree = {}
  for name, (shape, dtype) in found.items():
    *parents, last = name.split('/')
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
  return tree


def _placed(abstract_state):
  """Puts leaves without a sharding on the first device."""
  default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=getattr(x, 'sharding', None) or default
    ),
    abstract_state,
  )
