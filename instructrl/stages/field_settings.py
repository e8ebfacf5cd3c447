"""Fields of a config with bounds: their declaration and their check.

Imports the standard library only, so that the experiments can import modules
that declare fields.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Bounds:
  """The values that a field may have.

  Attributes:
    low: the least value.
    high: the largest value.
    above: a value that the field must be greater than.
    below: a value that the field must be less than.
    choices: the only values, if there are any.
  """

  low: float | None = None
  high: float | None = None
  above: float | None = None
  below: float | None = None
  choices: Sequence[Any] = ()

  def fault(self, name: str, value) -> str:
    """Returns a message if a value is out of bounds, else ''. NaN is."""
    if self.choices:
      right = value in self.choices
      wanted = [f'one of {", ".join(map(str, self.choices))}']
    else:
      tests = [
        (self.low, 'at least', lambda bound: value >= bound),
        (self.high, 'at most', lambda bound: value <= bound),
        (self.above, 'greater than', lambda bound: value > bound),
        (self.below, 'less than', lambda bound: value < bound),
      ]
      tests = [test for test in tests if test[0] is not None]
      right = all(holds(bound) for bound, _, holds in tests)
      wanted = [
        'finite' if bound == math.inf else f'{words} {bound}'
        for bound, words, _ in tests
        if bound != -math.inf
      ]
      if self.low is not None and self.low == self.high:
        wanted = [str(self.low)]
    if right:
      return ''
    return f'{name} must be {" and ".join(wanted)}; got {value!r}'


def declare(default, doc: str, **bounds):
  """Declares a field of a dataclass.

  Args:
    default: the default.
    doc: meaning, unit and source.
    **bounds: see `Bounds`.
  """
  return dataclasses.field(
    default=default, metadata=dict(doc=doc, bounds=Bounds(**bounds))
  )
