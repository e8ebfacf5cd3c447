"""TPU chips, and the devices of a TPU slice to compile for."""

import dataclasses
import os
import re

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Figures of one chip."""

  flops: float  # bf16, per second
  hbm: float  # bytes that a program can use
  hbm_bandwidth: float  # bytes per second
  ici_bandwidth: float  # bytes per second, out of the chip, all links
  config: str | None = None  # libtpu's name for one device per chip


# HBM is from libtpu 0.0.42's out-of-memory errors, the rest from
# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. The interconnect figures there
# (2,400, 1,600, 4,800 and 3,200 Gbps) are the sum of both directions.
CHIPS = {
  'v4': Chip(275e12, 30.75 * GIB, 1228e9, 150e9, config='megacore'),
  'v5e': Chip(197e12, 15.75 * GIB, 819e9, 100e9),
  'v5p': Chip(459e12, 95.74 * GIB, 2765e9, 300e9),
  'v6e': Chip(918e12, 31.25 * GIB, 1600e9, 200e9),
}


class TopologyError(ValueError):
  """The slice is unknown, or libtpu cannot compile for it."""


def devices(topology: str):
  """Returns (compile-only devices, one per chip; chip) of a slice.

  Args:
    topology: a slice such as 'v5p:4x4x4', or several: '2xv5p:4x4x4'.

  Raises:
    TopologyError: libtpu is not installed, or does not know the slice.
  """
  count, slice_name = re.fullmatch(r'(?:(\d+)x)?(.*)', topology).groups()
  kind = slice_name.partition(':')[0]
  if kind not in CHIPS or ':' not in slice_name:
    raise TopologyError(
      f'--topology must be CHIP:SHAPE, such as v5e:2x4, with one of the chips '
      f'{", ".join(CHIPS)}; got {topology!r}'
    )
  # No TPU is attached: skip the metadata server and the lock of the device.
  for name, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    ('TPU_ACCELERATOR_TYPE', 'v5litepod-4'),
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
  ):
    os.environ.setdefault(name, value)
  try:
    import libtpu  # noqa: F401
  except ImportError as error:
    raise TopologyError(
      'libtpu is not installed: pip install -e ".[aot]"'
    ) from error
  from jax.experimental import topologies

  chip = CHIPS[kind]
  options = {'chip_config_name': chip.config} if chip.config else {}
  try:
    found = topologies.get_topology_desc(
      platform='tpu',
      topology_name=slice_name,
      num_slices=int(count or 1),
      **options,
    ).devices
  except Exception as error:  # XLA's, of several types
    raise TopologyError(
      f'libtpu does not know --topology={topology}: '
      f'{str(error).splitlines()[0]}'
    ) from error
  return found, chip
