"""Parses the text of a compiled program (HLO)."""

import dataclasses
import functools
import math
import re

_ARRAY = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,<= ]*)\](\{[^}]*\})?')
_NAME = re.compile(r'%([\w.\-]+)')


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's type."""

  dtype: str
  dims: tuple[int, ...]
  in_hbm: bool

  @property
  def num_bytes(self) -> int:
    digits = re.search(r'\d+', self.dtype)  # a token has none: size 0
    bits = 8 if self.dtype == 'pred' else int(digits.group()) if digits else 0
    return math.prod(self.dims) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation."""

  name: str
  arrays: tuple[Array, ...]  # the arrays of its type, in order
  opcode: str
  arguments: str  # between the parentheses
  attributes: str  # after them

  @functools.cached_property
  def operands(self) -> tuple[str, ...]:
    return tuple(_NAME.findall(self.arguments))

  @property
  def num_bytes(self) -> int:
    return sum(a.num_bytes for a in self.arrays)

  @property
  def hbm_bytes(self) -> int:
    return sum(a.num_bytes for a in self.arrays if a.in_hbm)

  def called(self, *keys: str) -> list[str]:
    """Returns the names of the computations that attributes refer to."""
    names = []
    for key in keys:
      found = re.search(rf'\b{key}=(\{{[^}}]*\}}|%[\w.\-]+)', self.attributes)
      names += _NAME.findall(found.group(1)) if found else []
    return names


Computation = dict[str, Instruction]


def parse(text: str) -> tuple[dict[str, Computation], str]:
  """Returns ({name: computation}, name of the entry) of a program's text.

  Raises:
    ValueError: the text has no entry computation.
  """
  found, entry, current = {}, None, None
  # The metadata of a kernel is on its own line.
  for line in re.sub(r'\n(?="|}})', '', text).splitlines():
    head = re.match(r'(ENTRY )?%([\w.\-]+) \(.*\{$', line)
    if head:
      current = found.setdefault(head.group(2), {})
      if head.group(1):
        entry = head.group(2)
    elif current is not None and ' = ' in line:
      instruction = _parse_line(line)
      current[instruction.name] = instruction
  if entry is None:
    raise ValueError('the program has no entry computation')
  return found, entry


def _parse_line(line: str) -> Instruction:
  left, _, right = line.strip().partition(' = ')
  name = left.removeprefix('ROOT ').lstrip('%')
  kind, rest = _split_type(right)
  opcode, _, rest = rest.partition('(')
  end = _closing(rest)
  sizes = lambda dims: tuple(map(int, re.findall(r'\d+', dims)))
  in_hbm = lambda layout: not re.search(r'S\([1-9]', layout)
  found = _ARRAY.findall(kind)
  arrays = tuple(Array(t, sizes(dims), in_hbm(at)) for t, dims, at in found)
  return Instruction(name, arrays, opcode.strip(), rest[:end], rest[end + 1 :])


def _split_type(text: str) -> tuple[str, str]:
  """Splits a text into the type at its start and the rest."""
  if text.startswith('('):
    end = _closing(text[1:]) + 2
    return text[:end], text[end:].lstrip()
  kind, _, rest = text.partition(' ')
  return kind, rest


def _closing(text: str) -> int:
  """Returns the index that closes the parenthesis opened before `text`."""
  depth = 1
  for i, c in enumerate(text):
    depth += (c == '(') - (c == ')')
    if not depth:
      return i
  raise ValueError(f'a parenthesis is not closed: {text[:80]!r}')
