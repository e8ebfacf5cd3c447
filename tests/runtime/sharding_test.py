"""Meshes, and the way from logical names to shardings."""

import dataclasses
import re
import types

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from experiments import common as experiment
from instructrl.models import heads
from instructrl.runtime import sharding
from tests import tiny

RULES = experiment.RULES


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))


# --- Meshes ------------------------------------------------------------------


@pytest.mark.parametrize(
  'shape, sizes',
  [
    (dict(data=2, fsdp=2, tensor=2), (2, 2, 2)),
    (dict(data=-1), (8, 1, 1)),
    (dict(fsdp=-1, tensor=4), (1, 2, 4)),
    (dict(tensor=8, data=-1), (1, 1, 8)),
  ],
)
def test_sizes_of_a_mesh(shape, sizes):
  mesh = sharding.make_mesh(shape)
  assert mesh.axis_names == sharding.MESH_AXES
  assert mesh.devices.shape == sizes
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_a_mesh_of_some_devices():
  mesh = sharding.make_mesh({}, jax.devices()[:1])
  assert mesh.devices.tolist() == [[[jax.devices()[0]]]]


@dataclasses.dataclass(frozen=True)
class Device:
  """What the order of devices in a mesh is made from."""

  id: int
  slice_index: int
  device_kind: str = 'a chip'
  platform: str = 'fake'
  process_index: int = 0


def devices_of(slices, each=4):
  return [Device(i, i // each) for i in range(slices * each)]


@pytest.mark.parametrize(
  'shape', [(2, 4, 1), (2, 2, 2), (2, 1, 4), (4, 2, 1), (8, 1, 1)]
)
def test_only_data_goes_from_one_slice_to_the_next(shape):
  devices = devices_of(slices=2)
  # Whatever the order in which the devices are listed.
  mesh = sharding._over_slices(shape, devices[::2] + devices[1::2])
  assert mesh.shape == shape
  assert sorted(d.id for d in mesh.ravel()) == list(range(8))
  half = shape[0] // 2
  for slice_index, block in enumerate((mesh[:half], mesh[half:])):
    assert {d.slice_index for d in block.ravel()} == {slice_index}


def test_data_that_does_not_reach_every_slice_is_refused():
  for data, slices in ((1, 2), (2, 4), (3, 2)):
    message = (
      f'mesh.data={data} is not a multiple of the {slices} slices '
      f'that the devices are in: set it to {slices}'
    )
    with pytest.raises(ValueError, match=message):
      sharding.make_mesh(dict(data=data, fsdp=-1), devices_of(slices, each=3))


def test_any_axis_goes_from_one_host_of_gpus_to_the_next():
  hosts = [dataclasses.replace(d, platform='gpu') for d in devices_of(slices=2)]
  mesh = sharding._over_slices((1, 8, 1), hosts)
  assert [d.id for d in mesh.ravel()] == list(range(8))


@pytest.mark.parametrize(
  'shape, message',
  [
    (dict(model=2), "no axis 'model'; the axes are"),
    (dict(data=-1, fsdp=-1), 'more than one -1'),
    (dict(data=0), 'sizes are positive'),
    (dict(data=-2), 'sizes are positive'),
    (dict(data=-1, fsdp=3), 'does not divide 8 devices'),
    (dict(data=2, fsdp=2), 'needs 4 devices, there are 8'),
  ],
)
def test_a_mesh_that_cannot_be_is_refused(shape, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    sharding.make_mesh(shape)


# --- From logical axes to mesh axes ------------------------------------------


@pytest.mark.parametrize(
  'axes, spec',
  [
    (('vocab', 'embed'), P('tensor', 'fsdp')),
    (('layers', 'embed', 'heads', 'kv'), P(None, 'fsdp', 'tensor', None)),
    (('norm',), P(None)),
    ((), P()),
    (('act_batch', 'act_len', None), P(('data', 'fsdp'), None, None)),
    # A mesh axis is used once; the first logical axis keeps it.
    (('heads', 'mlp'), P('tensor', None)),
    (('embed', 'act_batch'), P('fsdp', 'data')),
  ],
)
def test_logical_axes_become_mesh_axes(axes, spec):
  assert sharding.partition_spec(axes, RULES) == spec


def test_the_package_has_the_rules_of_experiments():
  assert dict(sharding.RULES) == dict(experiment.RULES)


def test_an_axis_without_a_rule_is_named():
  with pytest.raises(ValueError, match="no sharding rule .* 'width'"):
    sharding.partition_spec(('width',), RULES)


@pytest.mark.parametrize('name', tiny.VARIANTS)
def test_the_rules_name_every_axis_of_every_model(name, mesh):
  """And nothing large of a model is whole on every device."""
  model = tiny.model(**tiny.VARIANTS[name])
  axes = {'backbone': model.logical_axes(), 'head': heads.head_axes()}
  shapes = tiny.scalar_params(model)
  shardings = sharding.tree_shardings(mesh, axes, shapes, RULES)
  for (path, leaf), s in zip(
    jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings)
  ):
    if leaf.size > 512:
      assert not s.is_fully_replicated, jax.tree_util.keystr(path)


def test_axes_that_the_mesh_does_not_divide_stay_whole(mesh):
  shapes = {
    'even': np.zeros((50, 32)),
    'odd': np.zeros((51, 32)),
    'one': np.zeros((1,)),
    'batch': np.zeros((2, 7)),
  }
  axes = {
    'even': ('vocab', 'embed'),
    'odd': ('vocab', 'embed'),
    'one': ('mlp',),
    'batch': ('act_batch', None),
  }
  shardings = sharding.tree_shardings(mesh, axes, shapes, RULES)
  assert {name: s.spec for name, s in shardings.items()} == {
    'even': P('tensor', 'fsdp'),
    'odd': P(None, 'fsdp'),
    'one': P(None),
    'batch': P(None, None),
  }


def test_axes_that_do_not_fit_the_array_are_refused(mesh):
  with pytest.raises(ValueError, match=r'do not name the axes of \(3, 4\)'):
    sharding.tree_shardings(
      mesh, {'w': ('embed',)}, {'w': np.zeros((3, 4))}, RULES
    )


# --- Memory of the hosts ------------------------------------------------------


def test_what_waits_on_the_hosts_comes_back_the_same(mesh):
  here = jax.NamedSharding(mesh, P('fsdp'))
  x = np.arange(8.0)
  put = jax.device_put(x, sharding.on_host(mesh, here))
  assert put.sharding.memory_kind == sharding.HOST
  assert put.addressable_shards[0].data.shape == (4,)
  back = jax.jit(lambda x: sharding.to_device(x) * 2)(put)
  assert back.sharding == here
  np.testing.assert_array_equal(back, 2 * x)


def test_devices_without_memory_on_the_hosts_are_named():
  memory = types.SimpleNamespace(kind='device')
  device = types.SimpleNamespace(
    device_kind='abacus', addressable_memories=lambda: [memory]
  )
  mesh = types.SimpleNamespace(local_devices=[device])
  with pytest.raises(
    ValueError,
    match='^config.offload: abacus has no pinned_'
    'host memory, only device: set its fields to False',
  ):
    sharding.on_host(mesh, {})


# --- Activations and batches -------------------------------------------------


def test_activations_are_constrained_under_a_mesh_only(mesh):
  axes = ('act_batch', 'act_len', 'act_mlp')
  x = jnp.ones((8, 3, 4))
  fn = lambda x: sharding.constrain(x * 2, axes, RULES)
  assert sharding.constrain(x, axes, RULES) is x
  with jax.set_mesh(mesh):
    out = jax.jit(fn)(x)
  assert out.sharding.spec == P(('data', 'fsdp'), None, 'tensor')
  assert sharding.constrain(x, axes, ()) is x


def test_a_batch_is_split_over_data_and_fsdp(mesh):
  batch = {'x': np.arange(8), 'y': np.arange(16).reshape(8, 2)}
  put = sharding.put_batch(batch, mesh)
  for name, value in put.items():
    np.testing.assert_array_equal(value, batch[name])
    assert value.addressable_shards[0].data.shape[0] == 2
  assert sharding.replicated(mesh).is_fully_replicated


def test_a_batch_that_cannot_be_divided_is_refused(mesh):
  with pytest.raises(ValueError, match='6 rows cannot be divided over 4 parts'):
    sharding.put_batch({'x': np.arange(6)}, mesh)
