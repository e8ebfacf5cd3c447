"""Counts the FLOPs and HBM traffic of Pallas kernels in a compiled program.

A Pallas kernel is one opaque instruction, a `tpu_custom_call`. Some kernels
contain an estimate of their costs. Splash attention contains its block sizes;
its costs follow from these and from the shapes of its operands.
"""

from collections.abc import Sequence
import math
import re
from typing import Any

TARGET = 'custom_call_target="tpu_custom_call"'


def costs(kernel: Any, operands: Sequence[Any]) -> tuple[float, float]:
  """Returns (FLOPs, HBM bytes read and written) of a kernel.

  Args:
    kernel: its `hlo_text.Instruction`.
    operands: the instructions of its operands.

  Raises:
    ValueError: the kernel is unknown and has no cost estimate.
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
  causal = bool(re.search(r'\bcausal\b', name.group(1)))
  return _splash(kernel, operands, *found.groups(), causal)


def _splash(kernel, operands, phase, segmented, causal):
  """Returns the costs of splash attention.

  Each pair of a query block and a key block that the mask does not hide fully
  is computed in full. 'fwd' and 'dq' loop over the keys of each query block,
  'dkv' over the queries of each key block. The inner side is read from HBM for
  each pair, the outer side once per head. In 'dkv' the heads change before the
  key blocks, so arrays that heads share are read once.

  Args:
    kernel: the kernel's instruction.
    operands: the instructions of its operands.
    phase: 'fwd' (forward), 'dq' or 'dkv' (backward).
    segmented: not None if the kernel has segment ids.
    causal: whether the mask is causal.
  """
  q, k, v = (o.arrays[0].dims for o in operands[2:5])
  planes, length, width = math.prod(q[:-2]), q[-2], q[-1]
  block_q, block_k = (
    int(re.search(rf'\\"block_{side}\w*\\": (\d+)', kernel.attributes).group(1))
    for side in ('q', 'kv')
  )
  blocks_q, blocks_k = length // block_q, k[-2] // block_k
  pairs = blocks_q * blocks_k
  if causal:
    pairs = sum(
      min(blocks_k, -(-(i + 1) * block_q // block_k)) for i in range(blocks_q)
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
    # The operands are q, k, v, then the segment ids of queries and of keys if
    # there are any, then arrays of queries.
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
