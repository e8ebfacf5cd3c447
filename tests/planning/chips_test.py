"""Known slices have a device per chip; unknown slices are refused."""

import sys

import pytest

from instructrl.planning import chips
from instructrl.runtime import sharding
from tests import slices


@pytest.mark.parametrize(
  'topology, message',
  [
    ('v9:2x2', 'one of the chips v4, v5e, v5p, v6e; got'),
    ('2xv9:2x2', 'one of the chips v4, v5e, v5p, v6e; got'),
    ('v5litepod-4', 'must be CHIP:SHAPE, such as v5e:2x4'),
    ('v5e', 'must be CHIP:SHAPE, such as v5e:2x4'),
    pytest.param(
      'v5e:3x1x7',
      'libtpu does not know --topology=v5e:3x1x7',
      marks=slices.needs_libtpu,
    ),
  ],
)
def test_a_slice_that_is_not_there_is_refused(topology, message):
  with pytest.raises(chips.TopologyError, match=message):
    chips.devices(topology)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'libtpu', None)
  with pytest.raises(chips.TopologyError, match=r'pip install -e .\.\[aot\]'):
    chips.devices('v5e:2x2')


@slices.needs_libtpu
@pytest.mark.parametrize(
  'topology, count',
  [('v4:2x2x2', 8), ('v5e:2x4', 8), ('v5p:2x2x1', 4), ('v6e:2x2', 4)],
)
def test_a_slice_has_a_device_for_each_chip(topology, count):
  """A mesh can be laid over the devices."""
  found, chip = chips.devices(topology)
  assert (len(found), chip) == (count, chips.CHIPS[topology.partition(':')[0]])
  mesh = sharding.make_mesh(dict(fsdp=-1, tensor=2), found)
  assert dict(mesh.shape) == dict(data=1, fsdp=count // 2, tensor=2)


@slices.needs_libtpu
def test_two_slices_are_one_mesh_along_data():
  found, _ = chips.devices('2xv5e:2x2')
  mesh = sharding.make_mesh(dict(data=2, fsdp=-1), found)
  assert [{d.slice_index for d in row.ravel()} for row in mesh.devices] == [
    {0},
    {1},
  ]
