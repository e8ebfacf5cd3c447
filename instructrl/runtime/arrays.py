"""How a tree of arrays lies in a folder. Only this file knows Orbax.

Whole, as one Orbax checkpoint, or in leaves: each array as a small Orbax
checkpoint of its own, under its name. What is too large to be in memory at
once is written and read leaf by leaf.
"""

import ctypes
import gc
import pathlib

import jax
import jax.numpy as jnp
from orbax.checkpoint.experimental import v1 as ocp

_LEAF = 'leaf'  # the only key of a leaf's own checkpoint
_CHUNK_BYTES = 64 << 20
_RELEASED = 16 << 20  # a collection takes up to a second in a large process


def _context() -> ocp.Context:
  """Of saves: nothing is compressed.

  The bits of weights and moments are close to random, and a core compresses
  fewer of them in a second than a disk takes.
  """
  context = ocp.Context()
  context.array.saving.use_compression = False
  return context


def save_async(folder: pathlib.Path, state):
  """Begins to save a tree whole; `result()` of what it returns waits."""
  with _context():
    return ocp.save_async(folder, state)


def save_leaf(folder: pathlib.Path, name: str, array: jax.Array) -> None:
  """Saves one array of a tree in leaves, and waits until it is there.

  Args:
    folder: of the tree; the leaf's own one must have a parent already.
    name: 'a/b' of the array in the tree.
    array: of this and all other processes. The memory of the hosts holds it
      once more meanwhile.
  """
  # Only then is what it was copied from let go of.
  array.block_until_ready()
  release_memory(array.nbytes)
  context = _context()
  # Who wants a part of the array reads no more than the chunks it is in.
  context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
  with context:
    ocp.save(folder / name, {_LEAF: array})


def release_memory(num_bytes: int) -> None:
  """Gives freed memory back to the system, where glibc would keep it.

  Without it what was freed between large arrays adds up to several of them.
  Orbax's copies hang in reference cycles, and what JAX has copied to a device
  waits for Python's garbage collection.

  Args:
    num_bytes: of what was let go of; for little nothing is done.
  """
  if num_bytes < _RELEASED:
    return
  gc.collect()
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if trim is not None:
    trim(0)


def load(folder: pathlib.Path, wanted, *, in_leaves: bool):
  """Reads what is wanted of a saved tree.

  Args:
    folder: that `save_async` or `save_leaf` wrote.
    wanted: nested dicts (or, of a whole tree, all that was saved) with
      `ShapeDtypeStruct` leaves; floating dtypes are converted to theirs. One
      without a sharding goes to the first device.
    in_leaves: whether the tree was saved so.
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
  """'a/b' of a leaf, from its path in a tree."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def tensors(tree, *, arrays: bool = False) -> dict[str, list]:
  """Tensor name -> [shape, dtype]; `arrays` refuses what cannot be saved.

  Raises:
    ValueError: a leaf cannot be saved; it is named.
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
  """`{'a/b': [shape, dtype]}` -> `{'a': {'b': ShapeDtypeStruct}}`."""
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
