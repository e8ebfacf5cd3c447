"""Verdicts on statements: does a measured interval support them?

A row is a statement about a quantity that a run measured with a 95% interval,
and a region for that quantity. The verdict is arithmetic:

  shown         the whole interval is inside the region
  not shown     the whole interval is outside
  undecided     the interval crosses the border, or both policies of a
                difference have the best possible value
  not measured  the run has no such number

No verdict depends on a seed or is written by hand.
"""

from collections.abc import Mapping
import dataclasses
import math

SHOWN, NOT_SHOWN = 'shown', 'not shown'
UNDECIDED, NOT_MEASURED = 'undecided', 'not measured'

INF = math.inf
POSITIVE, NEGATIVE = (0, INF), (-INF, 0)
NO_NUMBER = 'no number in the paper'
BY_DEFINITION = '50% by definition'


@dataclasses.dataclass(frozen=True)
class Verdict:
  """One checked statement.

  Attributes:
    topic: part of the paper's results that it belongs to.
    statement: the expected result, in words.
    paper: the paper's own number.
    quantity: the number that is compared with the region, in words.
    value: the run's number; None if it was not measured.
    ci95: its interval, or None.
    region: (low, high), open, in the value's unit.
    unit: '%', 'points', 'bits', 'BLEU', 'nats', 'epochs' or '' (plain).
    verdict: one of the four.
    n: number of items (pairs, prompts, questions), or None.
    values: policy -> its own value, if the quantity is a difference.
    note: why the verdict is not the interval's; '' if it is.
  """

  topic: str
  statement: str
  paper: str
  quantity: str
  value: float | None
  ci95: tuple[float, float] | None
  region: tuple[float, float]
  unit: str
  verdict: str
  n: int | None = None
  values: Mapping[str, float] = dataclasses.field(default_factory=dict)
  note: str = ''

  @property
  def of_paper(self) -> bool:
    """Whether the paper reports this result."""
    return self.paper not in (NO_NUMBER, BY_DEFINITION)


def judge_interval(measure: Mapping | None, region: tuple[float, float]) -> str:
  """Returns the verdict for a summary and an open region (low, high).

  A value without an interval shows nothing by itself: inside the region it is
  'undecided', outside 'not shown'.
  """
  if measure is None or measure.get('value') is None:
    return NOT_MEASURED
  low, high = region
  if measure.get('ci95') is None:
    return UNDECIDED if low < measure['value'] < high else NOT_SHOWN
  start, end = measure['ci95']
  if low < start and end < high:
    return SHOWN
  return NOT_SHOWN if end <= low or high <= start else UNDECIDED


def make_row(
  topic, statement, paper, quantity, measure, region, unit='%'
) -> Verdict:
  """Returns the row of a summary; its verdict is the interval's."""
  measure = measure or {}
  ci95 = measure.get('ci95')
  return Verdict(
    topic,
    statement,
    paper,
    quantity,
    measure.get('value'),
    tuple(ci95) if ci95 else None,
    region,
    unit,
    judge_interval(measure, region),
    measure.get('n'),
  )


def get(tree, *path):
  """Returns tree[path[0]][path[1]]..., or None if the run has no such key."""
  for key in path:
    if not isinstance(tree, Mapping) or key not in tree:
      return None
    tree = tree[key]
  return tree
