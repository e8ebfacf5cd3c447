"""Counts the FLOPs and the traffic of a compiled program, from its text.

XLA's own cost analysis counts the body of a loop once and reports no
communication. Here every instruction counts each time it runs:

  FLOPs        matrix products, 2 per multiply-add, also inside kernels
  HBM bytes    reads and writes of each instruction outside a fusion; on-chip
               memory is free, and an array that is only sliced counts by slice
  collectives  bytes that a device sends, by kind, if each group is a ring
"""

import collections
from collections.abc import Iterator
import dataclasses
import functools
import math
import re

from instructrl.planning import hlo_kernels
from instructrl.planning.hlo_text import Computation
from instructrl.planning.hlo_text import Instruction
from instructrl.planning.hlo_text import parse

COLLECTIVES = frozenset(
  'all-gather reduce-scatter all-reduce all-to-all collective-permute'.split()
)
# Instructions that read and write nothing themselves.
_FREE = frozenset(
  'parameter constant tuple get-tuple-element bitcast after-all partition-id '
  'replica-id while conditional call opt-barrier async-update domain '
  'iota'.split()
)


@dataclasses.dataclass
class Costs:
  """Totals of one run of a program, for one device."""

  flops: float = 0.0
  hbm_bytes: float = 0.0
  collectives: dict[str, float] = dataclasses.field(
    default_factory=lambda: collections.defaultdict(float)
  )

  def add(self, other: 'Costs', times: float = 1):
    self.flops += times * other.flops
    self.hbm_bytes += times * other.hbm_bytes
    for kind, sent in other.collectives.items():
      self.collectives[kind] += times * sent


class HloProgram:
  """A parsed program.

  Args:
    text: `compiled.as_text()`.
    trips: trip count of loops whose count is not in the text.
  """

  def __init__(self, text: str, *, trips: int = 1):
    self._computations, self._entry = parse(text)
    self._trips = trips

  @functools.cached_property
  def costs(self) -> Costs:
    return self._costs(self._entry)

  def instructions(self) -> Iterator[Instruction]:
    for computation in self._computations.values():
      yield from computation.values()

  @functools.cache
  def _costs(self, name: str, fused: bool = False) -> Costs:
    computation, total = self._computations[name], Costs()
    for instruction in computation.values():
      opcode = instruction.opcode
      if hlo_kernels.TARGET in instruction.attributes:
        operands = _operands(instruction, computation)
        total.add(Costs(*hlo_kernels.costs(instruction, operands)))
        continue
      if opcode == 'while':
        times = self._trip_count(instruction)
        for called in instruction.called('body', 'condition'):
          total.add(self._costs(called), times)
      elif opcode == 'conditional':
        branches = instruction.called(
          'branch_computations', 'true_computation', 'false_computation'
        )
        found = map(self._costs, branches)
        total.add(max(found, key=lambda c: (c.flops, c.hbm_bytes)))
      elif opcode in ('fusion', 'call', 'async-start', 'custom-call'):
        inside = fused or opcode != 'call'
        for called in instruction.called(
          'calls', 'to_apply', 'called_computations'
        ):
          total.add(self._costs(called, inside))
      total.flops += _flops(instruction, computation)
      kind = opcode.removesuffix('-start')
      if name.startswith('all-reduce-scatter') and kind == 'all-reduce':
        kind = 'reduce-scatter'  # XLA's name for one that keeps its slice
      if kind in COLLECTIVES and not _goes_on(name, computation):
        total.collectives[kind] += _sent(instruction, computation, kind)
      if not fused:
        total.hbm_bytes += self._traffic(instruction, computation)
    return total

  def _trip_count(self, loop: Instruction) -> int:
    """Returns the trip count from XLA's note or from the loop's constants.

    A sharded product that overlaps with its communication counts in steps of 2.
    """
    count = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if count:
      return int(count.group(1))
    condition = self._computations[loop.called('condition')[0]]
    *_, root = condition.values()
    limits = _constants(root, condition)
    less = root.opcode == 'compare' and 'direction=LT' in root.attributes
    if not less or len(limits) != 1:
      return self._trips
    operands = [condition[name] for name in root.operands]
    counter = next(x for x in operands if x.opcode != 'constant')
    return -(-limits[0] // self._step(loop, counter))

  def _step(self, loop: Instruction, counter: Instruction) -> int:
    """Returns the constant added to a loop's counter; 1 if there is none."""
    index = re.search(r'index=(\d+)', counter.attributes)
    body = self._computations[loop.called('body')[0]]
    *_, root = body.values()
    if not index or root.opcode != 'tuple':
      return 1
    grown = body[root.operands[int(index.group(1))]]
    steps = _constants(grown, body)
    return steps[0] if grown.opcode == 'add' and len(steps) == 1 else 1

  def _traffic(
    self, instruction: Instruction, computation: Computation
  ) -> float:
    """Returns the HBM bytes that an instruction reads and writes."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith('-done'):
      return 0
    operands = _operands(instruction, computation)
    if opcode == 'dynamic-update-slice':
      return 2 * operands[1].hbm_bytes
    if opcode in ('dynamic-slice', 'gather', 'slice'):
      return 2 * instruction.hbm_bytes
    if opcode.endswith('-start'):  # the type repeats the operand
      return sum(a.num_bytes for a in instruction.arrays[:2] if a.in_hbm)
    if opcode == 'fusion':
      return self._fusion_traffic(instruction, operands)
    return instruction.hbm_bytes + sum(o.hbm_bytes for o in operands)

  def _fusion_traffic(self, instruction, operands) -> float:
    read, written = 0, instruction.hbm_bytes
    for number, operand in enumerate(operands):
      if operand.hbm_bytes:
        (called,) = instruction.called('calls')
        part, kept = self._part_used(called, number, operand.num_bytes)
        read += part
        written -= kept
    return read + max(0, written)

  @functools.cache
  def _part_used(self, name: str, number: int, whole: int) -> tuple[int, int]:
    """Follows a fusion's operand to its uses.

    Returns:
      (bytes that are read, bytes that stay unchanged because the result is
      written in the operand's place).
    """
    fused = self._computations[name]
    users = collections.defaultdict(list)
    for i in fused.values():
      for operand in set(i.operands):
        users[operand].append(i)
    parameters = [i for i in fused.values() if i.opcode == 'parameter']
    parameter = next(i for i in parameters if int(i.arguments) == number)
    pending, read, kept = [(parameter, u) for u in users[parameter.name]], 0, 0
    while pending:
      value, user = pending.pop()
      at = user.operands.index(value.name)
      if user.opcode == 'bitcast':
        pending += [(user, u) for u in users[user.name]]
      elif user.opcode in ('dynamic-slice', 'gather', 'slice') and at == 0:
        read += user.num_bytes
      elif user.opcode == 'dynamic-update-slice' and at == 0:
        update = fused[user.operands[1]].num_bytes
        read += update
        kept += user.num_bytes - update
      elif user.opcode == 'fusion':
        (called,) = user.called('calls')
        inner, passed = self._part_used(called, at, value.num_bytes)
        read, kept = read + inner, kept + passed
      else:
        return whole, 0
    return min(read, whole), kept


def _operands(
  instruction: Instruction, computation: Computation
) -> list[Instruction]:
  names = instruction.operands
  return [computation[name] for name in names if name in computation]


def _constants(instruction, computation: Computation) -> list[int]:
  """Returns the values of an instruction's operands that are constants."""
  operands = _operands(instruction, computation)
  return [int(o.arguments) for o in operands if o.opcode == 'constant']


def _goes_on(name: str, computation: Computation) -> bool:
  """Returns whether a computation continues a collective of another one.

  A TPU overlaps a collective with other work. Each of these fusions repeats the
  instruction, which counts only in the fusion that starts it.
  """
  return name.startswith('async_collective_fusion') or any(
    '"AsyncCollectiveDone"' in i.attributes for i in computation.values()
  )


def _flops(instruction: Instruction, computation: Computation) -> float:
  if instruction.opcode == 'dot':
    lhs = computation[instruction.operands[0]].arrays[0].dims
    key = r'lhs_contracting_dims=\{([\d,]*)\}'
    found = re.search(key, instruction.attributes).group(1)
    contracted = math.prod(lhs[int(d)] for d in found.split(',') if d)
    return 2.0 * math.prod(instruction.arrays[0].dims) * contracted
  if instruction.opcode == 'convolution':
    return _convolution_flops(instruction, computation)
  return 0.0


def _convolution_flops(instruction, computation) -> float:
  """Counts products outside the padding; on TPUs matrix products are these."""
  operands = _operands(instruction, computation)
  lhs, rhs = (operand.arrays[0].dims for operand in operands[:2])
  out = instruction.arrays[0].dims
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.attributes)
  lhs_at, rhs_at, out_at = (
    {c: i for i, c in enumerate(part)} for part in labels.groups()
  )
  window = re.search(r'window=\{([^}]*)\}', instruction.attributes)
  fields = dict(f.split('=') for f in window.group(1).split()) if window else {}
  spatial = sorted(c for c in lhs_at if c.isdigit())
  defaults = {'stride': 1, 'pad': 0, 'lhs_dilate': 1, 'rhs_dilate': 1}
  pairs = 1
  for i, c in enumerate(spatial):
    sizes = lhs[lhs_at[c]], rhs[rhs_at[c]], out[out_at[c]]
    of = lambda key: int(fields[key].split('x')[i].split('_')[0])
    values = {key: of(key) for key in defaults if key in fields}
    pairs *= _valid_pairs(*sizes, **{**defaults, **values})
  return 2.0 * out[out_at['b']] * out[out_at['f']] * rhs[rhs_at['i']] * pairs


@functools.cache
def _valid_pairs(size, window, out, stride, pad, lhs_dilate, rhs_dilate) -> int:
  """Counts the (output, window) positions inside the input."""
  count = 0
  for k in range(window):
    for o in range(out):
      where, hole = divmod(o * stride + k * rhs_dilate - pad, lhs_dilate)
      count += not hole and 0 <= where < size
  return count


def _group_size(attributes: str) -> int:
  """Returns the number of devices in a collective's group."""
  found = re.search(r'replica_groups=\[(\d+),(\d+)\]', attributes)
  if found:
    return int(found.group(2))
  # mesh['data'=2,'fsdp'=4], perhaps the order of the devices, {axes of a group}
  mesh = r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}'
  found = re.search(mesh, attributes)
  if found:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found.group(1)))
    whole = re.findall(r"'(\w+)'(?!:)", found.group(2))
    parts = re.findall(r"'\w+':\(\d+\)(\d+)", found.group(2))
    return math.prod(int(n) for n in [*(sizes[a] for a in whole), *parts])
  found = re.search(r'replica_groups=\{\{([\d,]*)\}', attributes)
  return found.group(1).count(',') + 1 if found else 1


def _sent(
  instruction: Instruction, computation: Computation, kind: str
) -> float:
  """Returns the bytes that a device sends in a collective, as a ring."""
  size = sum(o.num_bytes for o in _operands(instruction, computation))
  if kind == 'collective-permute':
    return size
  n = _group_size(instruction.attributes)
  factors = {'all-gather': n - 1, 'all-reduce': 2 * (n - 1) / n}
  return size * factors.get(kind, (n - 1) / n)
