"""Slices that are not there are refused; those that are have their chips."""

import sys

import pytest

from instructrl import chips
from tests import slices


@pytest.mark.parametrize('topology, message', [
    ('v9:2x2', 'the chips are v4, v5e, v5p, v6e'),
    pytest.param('v5e:3x1x7', 'is no slice that libtpu knows',
                 marks=slices.needs_libtpu)])
def test_a_slice_that_is_not_there_is_refused(topology, message):
  with pytest.raises(chips.TopologyError, match=message):
    chips.devices(topology)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'libtpu', None)
  with pytest.raises(chips.TopologyError, match=r'instructrl\[aot\]'):
    chips.devices('v5e:2x2')


@slices.needs_libtpu
@pytest.mark.parametrize('topology, count, kind', [
    ('v5e:2x4', 8, 'v5e'), ('v4:2x2x2', 16, 'v4')])
def test_a_slice_has_as_many_devices_as_its_chips_have(topology, count, kind):
  found, chip = chips.devices(topology)
  assert (len(found), chip) == (count, chips.CHIPS[kind])
