"""What the kernels of a compiled program do, which XLA does not see into.

A Pallas kernel is one instruction, a `tpu_custom_call`. Some bring an estimate
of their costs along. Splash attention brings its blocks, and its work follows
from them and from the shapes of its operands.
"""

from collections.abc import Sequence
import math
import re
from typing import Any

TARGET = 'custom_call_target="tpu_custom_call"'


def costs(kernel: Any, operands: Sequence[Any]) -> tuple[float, float]:
  """(FLOPs, HBM bytes read and written) of a kernel.

  Args:
    kernel: the `hlo.Instruction`.
    operands: those of its operands.

  Raises:
    ValueError: what the kernel does is not known.
  """
  estimate = re.search(r'"cost_estimate":\{([^}]*)\}', kernel.attributes)
  if estimate:
    return tuple(
      float(re.search(rf'"{key}":"(\d+)"', estimate.group(1)).group(1))
      for key in ('flops', 'bytes_accessed')
    )
  name = re.search(r'op_name="([^"]*)"', kernel.attributes)
  found = name and re.search(
    r'/splash_mha_(fwd|dq|dkv)(_segmented)?_[^/]*/pallas_call$', name.group(1)
  )
  if not found:
    raise ValueError(
      f'the kernel {kernel.name} ({name.group(1) if name else "unnamed"}) '
      'has no cost estimate: give its pallas_call one'
    )
  return _splash(
    kernel,
    operands,
    *found.groups(),
    causal=bool(re.search(r'\bcausal\b', name.group(1))),
  )


def _splash(kernel, operands, phase, segmented, causal):
  """Costs of splash attention, forward ('fwd') and backward ('dq', 'dkv').

  Every pair of a block of queries and one of keys that a mask leaves something
  of is computed, whole. `fwd` and `dq` go through the keys for each block of
  queries, `dkv` through the queries for each block of keys; what they go
  through is read from HBM for each pair, and the other side once a head. In
  `dkv` heads change before blocks of keys do, so that what the key heads do
  not have apiece is read once.
  """
  q, k, v = (o.arrays[0].dims for o in operands[2:5])
  planes, length, width = math.prod(q[:-2]), q[-2], q[-1]
  block_q, block_k = (
    int(re.search(rf'\\"block_{side}\w*\\": (\d+)', kernel.attributes).group(1))
    for side in ('q', 'kv')
  )
  blocks_q, blocks_k = length // block_q, k[-2] // block_k
  pairs = (
    blocks_q * blocks_k
    if not causal
    else sum(
      min(blocks_k, -(-(i + 1) * block_q // block_k)) for i in range(blocks_q)
    )
  )
  products = {
    'fwd': width + v[-1],
    'dq': 2 * width + v[-1],
    'dkv': 2 * (width + v[-1]),
  }[phase]
  flops = 2.0 * planes * pairs * block_q * block_k * products

  moved = kernel.hbm_bytes + sum(o.hbm_bytes for o in operands[:2])
  for number, operand in enumerate(operands[2:]):
    if not operand.hbm_bytes:
      continue
    # After q, k and v stand the ids of queries and keys, if there are any, and
    # then what there is of queries.
    of_keys = number in (1, 2) or bool(segmented) and number == 4
    column = (
      operand.hbm_bytes
      / math.prod(operand.arrays[0].dims[:-2])
      / (k[-2] if of_keys else length)
    )
    if of_keys != (phase == 'dkv'):
      moved += planes * pairs * (block_k if of_keys else block_q) * column
    elif of_keys:
      moved += operand.hbm_bytes
    else:
      moved += planes * length * column
  return flops, moved
