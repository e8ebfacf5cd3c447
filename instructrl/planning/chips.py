"""TPU slices: figures of their chips, and devices to compile for."""

import dataclasses
import os
import re

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Figures of one chip."""

  flops: float  # bf16, per second
  hbm: float  # bytes that a program can have, a little less than there are
  hbm_bandwidth: float  # bytes per second
  ici_bandwidth: float  # bytes per second, out of the chip, all links
  config: str | None = None  # of libtpu, where a chip is to be one device


# HBM is what libtpu 0.0.42 says there is when a program needs more; the rest is
# from cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. Interconnects are printed as
# the sum of both directions (2,400, 1,600, 4,800 and 3,200 Gbps); half goes out.
CHIPS = {
  'v4': Chip(275e12, 30.75 * GIB, 1228e9, 150e9, config='megacore'),
  'v5e': Chip(197e12, 15.75 * GIB, 819e9, 100e9),
  'v5p': Chip(459e12, 95.74 * GIB, 2765e9, 300e9),
  'v6e': Chip(918e12, 31.25 * GIB, 1600e9, 200e9),
}


class TopologyError(ValueError):
  """A slice that is not there, or that cannot be compiled for."""


def devices(topology: str):
  """(compile-only devices, one a chip; chip) of a slice such as 'v5p:4x4x4'.

  '2xv5p:4x4x4' is two of them.

  Raises:
    TopologyError: libtpu is not installed, or knows no such slice.
  """
  count, slice_name = re.fullmatch(r'(?:(\d+)x)?(.*)', topology).groups()
  kind = slice_name.partition(':')[0]
  if kind not in CHIPS or ':' not in slice_name:
    raise TopologyError(
      f'--topology={topology} is no CHIP:SHAPE, such as v5e:2x4; the chips '
      f'are {", ".join(CHIPS)}'
    )
  # There is no TPU here to ask for its surroundings, or to keep to one process.
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
      f'--topology={topology} is no slice that libtpu knows: '
      f'{str(error).splitlines()[0]}'
    ) from error
  return found, chip
