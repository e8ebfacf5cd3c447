"""Meshes, and shardings from logical axis names.

Models name the axes of their arrays ('embed', 'mlp', 'act_batch', ...). One
table of rules in the experiment maps those names to mesh axes: `data` (batch
only), `fsdp` (batch, and parameters split by `embed`) and `tensor` (heads, mlp,
vocabulary). Only `data` crosses the slow links between slices.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

MESH_AXES = ('data', 'fsdp', 'tensor')
HOST = 'pinned_host'  # host memory that devices copy from and to

Rules = tuple[tuple[str, Any], ...]
_DIVIDED = ('vocab', 'mlp', 'heads', 'act_heads', 'act_mlp')
_WHOLE = ('layers', 'kv', 'norm', 'positions', 'act_len', 'act_embed')
# The rules of experiments/common.py, for commands without a config, such as an
# import. The package must not import experiments.
RULES: Rules = (
  ('embed', 'fsdp'),
  ('act_batch', ('data', 'fsdp')),
  *((name, 'tensor') for name in _DIVIDED),
  *((name, None) for name in _WHOLE),
)


def make_mesh(
  shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Builds the mesh.

  Args:
    shape: {axis of MESH_AXES: size}; a missing axis has size 1, and one size
      may be -1, for all remaining devices.
    devices: the devices; all by default.

  Raises:
    ValueError: the product of the sizes is not the number of devices, or `data`
      is not a multiple of the number of slices.
  """
  devices = list(jax.devices() if devices is None else devices)
  unknown = set(shape) - set(MESH_AXES)
  if unknown:
    raise ValueError(
      f'mesh has no axis {sorted(unknown)[0]!r}; the axes are {MESH_AXES}'
    )
  sizes = [int(shape.get(name, 1)) for name in MESH_AXES]
  if sizes.count(-1) > 1:
    raise ValueError(f'mesh {dict(shape)} has more than one -1')
  if any(size < 1 and size != -1 for size in sizes):
    raise ValueError(f'mesh {dict(shape)}: sizes are positive, or one is -1')
  known = int(np.prod([size for size in sizes if size != -1]))
  if -1 in sizes:
    if len(devices) % known:
      raise ValueError(
        f'mesh {dict(shape)} does not divide {len(devices)} devices'
      )
    sizes[sizes.index(-1)] = len(devices) // known
  if int(np.prod(sizes)) != len(devices):
    raise ValueError(
      f'mesh {dict(zip(MESH_AXES, sizes))} needs {int(np.prod(sizes))} '
      f'devices, there are {len(devices)}'
    )
  types = (AxisType.Auto,) * len(sizes)
  if num_slices(devices) > 1:
    return Mesh(_over_slices(sizes, devices), MESH_AXES, axis_types=types)
  try:
    return jax.make_mesh(
      tuple(sizes), MESH_AXES, axis_types=types, devices=devices
    )
  except NotImplementedError as error:  # JAX's, about a slice's topology
    raise ValueError(
      f'mesh {dict(zip(MESH_AXES, sizes))} does not fit the slice: '
      'each size must be a product of some of its sides; change config.mesh'
    ) from error


def num_slices(devices: Sequence[jax.Device]) -> int:
  """Returns the number of groups of devices connected by fast links (ICI)."""
  return len({getattr(device, 'slice_index', 0) for device in devices})


def _over_slices(
  sizes: Sequence[int], devices: Sequence[jax.Device]
) -> np.ndarray:
  """Returns devices [data, fsdp, tensor]; a slice is a part of `data`."""
  slices = num_slices(devices)
  data, *rest = sizes
  if data % slices and devices[0].platform in ('cpu', 'gpu'):
    # The 'slices' of CPUs and GPUs are hosts; any axis may cross them.
    return np.asarray(devices).reshape(sizes)
  if data % slices:
    raise ValueError(
      f'mesh.data={data} is not a multiple of the {slices} slices that the '
      f'devices are in: set it to {slices}; fsdp and tensor stay inside a '
      'slice'
    )
  return mesh_utils.create_hybrid_device_mesh(
    (data // slices, *rest),
    (slices, *(1 for _ in rest)),
    devices,
    allow_split_physical_axes=True,
  )


def partition_spec(axes: Sequence[str | None], rules: Rules) -> PartitionSpec:
  """Maps the logical axes of one array to mesh axes.

  If two logical axes map to the same mesh axis, the first one uses it.
  """
  table = dict(rules)
  used = set()
  out = []
  for name in axes:
    if name is None:
      out.append(None)
      continue
    if name not in table:
      raise ValueError(f'no sharding rule for the logical axis {name!r}')
    target = table[name]
    target = (target,) if isinstance(target, str) else tuple(target or ())
    target = tuple(axis for axis in target if axis not in used)
    used.update(target)
    out.append(target if len(target) > 1 else target[0] if target else None)
  return PartitionSpec(*out)


def constrain(x: jax.Array, axes: Sequence[str | None], rules: Rules):
  """Constrains an activation inside jit; does nothing without a mesh."""
  if not rules or jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, partition_spec(axes, rules))


def whole(tree, rules: Rules):
  """Constrains arrays inside jit to be whole on every device."""
  return jax.tree.map(lambda x: constrain(x, (None,) * x.ndim, rules), tree)


def batch_parts(rules: Rules) -> int:
  """Returns the number of parts that the mesh divides a batch into."""
  mesh = jax.sharding.get_abstract_mesh()
  if not rules or mesh.empty:
    return 1
  return mesh.shape['data'] * mesh.shape['fsdp']


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array whose first axis is the batch."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def tree_shardings(mesh: Mesh, axes_tree, shapes_tree, rules: Rules):
  """Returns the shardings of a parameter tree.

  An axis whose size the mesh does not divide is not sharded: a head of width 1
  or a vocabulary of 517 tokens is no reason to refuse a mesh.

  Args:
    mesh: the mesh.
    axes_tree: tree with tuples of logical names as leaves.
    shapes_tree: the same tree, with `ShapeDtypeStruct` leaves.
    rules: logical axis -> mesh axis (or tuple of them, or None).
  """
  spec = lambda x, axes: _dividing_spec(mesh, x.shape, axes, rules)
  fit = lambda x, axes: NamedSharding(mesh, spec(x, axes))
  return jax.tree.map(fit, shapes_tree, axes_tree)


def constrain_params(params, axes_tree, rules: Rules):
  """Constrains a parameter tree to the shardings of `tree_shardings`."""
  mesh = jax.sharding.get_abstract_mesh()
  if not rules or mesh.empty:
    return params
  spec = lambda x, axes: _dividing_spec(mesh, x.shape, axes, rules)
  fit = lambda x, axes: jax.lax.with_sharding_constraint(x, spec(x, axes))
  return jax.tree.map(fit, params, axes_tree)


def _dividing_spec(mesh, shape, axes, rules: Rules) -> PartitionSpec:
  if len(axes) != len(shape):
    raise ValueError(f'axes {axes} do not name the axes of {shape}')
  spec = []
  for size, entry in zip(shape, partition_spec(axes, rules)):
    names = (entry,) if isinstance(entry, str) else tuple(entry or ())
    parts = int(np.prod([mesh.shape[name] for name in names]))
    spec.append(entry if size % parts == 0 else None)
  return PartitionSpec(*spec)


def on_host(mesh: Mesh, shardings):
  """Returns the same shardings in host memory.

  Raises:
    ValueError: the devices cannot use pinned host memory.
  """
  device = (mesh.local_devices or list(mesh.devices.flat))[0]
  kinds = [memory.kind for memory in device.addressable_memories()]
  if HOST not in kinds:
    raise ValueError(
      f'config.offload: {device.device_kind} has no {HOST} memory, only '
      f'{", ".join(kinds)}: set its fields to False'
    )
  return jax.tree.map(lambda s: s.with_memory_kind(HOST), shardings)


def to_device(tree):
  """Copies arrays in host memory to the devices; for use inside jit.

  The memory space is part of an array's type, so other arrays are unchanged.
  """
  return jax.device_put(tree, jax.memory.Space.Device)


def process_rows(mesh: Mesh, num_rows: int) -> np.ndarray:
  """Returns the rows of a global batch on this process's devices, in order.

  Raises:
    ValueError: the devices do not divide the rows.
  """
  parts = mesh.shape['data'] * mesh.shape['fsdp']
  if num_rows % parts:
    raise ValueError(
      f'{num_rows} rows cannot be divided over {parts} parts of the mesh '
      '(data x fsdp): change the batch size, or the sizes in config.mesh'
    )
  slices = (
    batch_sharding(mesh).addressable_devices_indices_map((num_rows,)).values()
  )
  return np.unique([np.arange(num_rows)[rows] for (rows,) in slices])


def put_batch(batch, mesh: Mesh):
  """Assembles the global batch from each process's `process_rows`.

  Args:
    batch: tree of numpy arrays [rows of this process, ...].
    mesh: the mesh.

  Returns:
    The tree as global arrays with `batch_sharding`.

  Raises:
    ValueError: the devices do not divide the rows.
  """
  parts = mesh.shape['data'] * mesh.shape['fsdp']
  own = len(process_rows(mesh, parts))  # parts of this process
  local = jax.tree.leaves(batch)[0].shape[0]
  if local % own:
    process_rows(mesh, local * parts // own)
  num_rows = local // own * parts
  rows = process_rows(mesh, num_rows)

  def put(x):
    x = np.asarray(x)
    return jax.make_array_from_callback(
      (num_rows, *x.shape[1:]),
      batch_sharding(mesh),
      lambda index: x[np.searchsorted(rows, np.arange(num_rows)[index[0]])],
    )

  return jax.tree.map(put, batch)
