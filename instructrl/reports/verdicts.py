"""Verdicts on statements: does a measured interval support them?

A row is a statement about a quantity that a run measured with a 95% interval,
and an open region for that quantity. The verdict is arithmetic:

  shown         the whole interval is inside the region
  not shown     the whole interval is outside, and does not touch the border
  undecided     the interval crosses or touches the border; or there is no
                interval; or both policies of a difference have the best
                possible value
  not measured  the run has no such number

No verdict depends on a seed or is written by hand. The regions are directions;
only "alike" has a width.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

SHOWN, NOT_SHOWN = 'shown', 'not shown'
UNDECIDED, NOT_MEASURED = 'undecided', 'not measured'

INF = math.inf
POSITIVE, NEGATIVE = (0, INF), (-INF, 0)  # of a difference
WINS, LOSES = (0.5, INF), (-INF, 0.5)  # of a win rate or an accuracy
ALIKE, NOT_MORE = (-0.05, 0.05), (-INF, 0.05)  # of a difference of two rates
ALIKE_WINS = (0.45, 0.55)  # of a win rate
ALIKE_RATINGS = (-0.3, 0.3)  # of a difference: 5% of the scale from 1 to 7
ALIKE_ENTROPY = (-0.1, 0.1)  # of a difference, in bits

NO_NUMBER = 'no number in the paper'
BY_DEFINITION = '50% by definition'
# Policies whose values are shown with those of every pair: where PPO starts, so
# that what is lost or won before RL is seen, and a pretrained model that was
# asked well.
BESIDE = ('ppo_init', 'prompted')
AT_CEILING = (
  'both policies have the best possible value, so this measure cannot tell '
  'them apart'
)


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
    verdict: one of the four above.
    n: number of items (pairs, prompts, questions), or None.
    values: policy -> its own value, if the quantity is a difference: of its two
      policies and of `BESIDE`.
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
    return of_paper(self.paper)


def of_paper(number: str) -> bool:
  """Returns whether a `Verdict.paper` is a result of the paper."""
  return number not in (NO_NUMBER, BY_DEFINITION)


def to_json(row: Verdict) -> dict[str, Any]:
  """Returns a verdict as JSON holds it: an open end is null."""
  return {
    **dataclasses.asdict(row),
    'ci95': row.ci95 and [*row.ci95],
    'region': [x if math.isfinite(x) else None for x in row.region],
  }


def from_json(row: Mapping[str, Any]) -> Verdict:
  """Returns the verdict that `to_json` wrote."""
  low, high = row['region']
  region = -INF if low is None else low, INF if high is None else high
  ci95 = row['ci95'] and tuple(row['ci95'])
  return Verdict(**{**row, 'region': region, 'ci95': ci95})


def judge_interval(measure: Mapping | None, region: tuple[float, float]) -> str:
  """Returns the verdict for a summary and an open region (low, high).

  A value without an interval decides nothing.
  """
  if measure is None or measure.get('value') is None:
    return NOT_MEASURED
  low, high = region
  start, end = measure.get('ci95') or (-INF, INF)
  if low < start and end < high:
    return SHOWN
  return NOT_SHOWN if end < low or high < start else UNDECIDED


def make_row(
  topic, statement, paper, quantity, measure, region, unit='%', note=''
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
    note=note,
  )


def of_policies(
  row: Verdict, own: Mapping[str, Mapping], pair: tuple[str, str], best
) -> Verdict:
  """Adds the policies' own values to the row of a difference.

  Args:
    row: the row.
    own: policy -> its summary.
    pair: the two policies of the difference.
    best: the best value of the measure; None if it has no bound. If both have
      it, the row is undecided and says why.
  """
  values = {
    policy: found['value']
    for policy, found in own.items()
    if policy in (*pair, *BESIDE) and found.get('value') is not None
  }
  n = own.get(pair[0], {}).get('n')
  row = dataclasses.replace(row, n=n, values=values)
  ends = [values.get(policy) for policy in pair]
  if row.verdict != NOT_MEASURED and at_ceiling(*ends, best):
    row = dataclasses.replace(row, verdict=UNDECIDED, note=AT_CEILING)
  return row


def at_ceiling(
  left: float | None, right: float | None, best: float | None
) -> bool:
  """Returns whether both values are the best possible (None: no bound)."""
  if left is None or right is None or best is None:
    return False
  return all(math.isclose(x, best, abs_tol=1e-9) for x in (left, right))


def get(tree, *path):
  """Returns tree[path[0]][path[1]]..., or None if the run has no such key."""
  for key in path:
    if not isinstance(tree, Mapping) or key not in tree:
      return None
    tree = tree[key]
  return tree
