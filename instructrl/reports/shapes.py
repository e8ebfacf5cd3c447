"""Verdicts on the shape of an ablation: contrasts of its points, over seeds.

An ablation declares what the paper shows as data, one dict per statement:

  dict(
    statement='F1 rises with gamma',
    paper='52 to 61 (Fig. 33)',
    measure='reading, F1',  # a title of config.measures
    terms=((1, {FIELD: (20.0, 27.8)}), (-1, {FIELD: 0.46})),
    region='positive',  # or 'negative', or (low, high)
  )

The contrast of a seed is the sum of weight times value of its terms. A term's
value is the mean of the measure at the points that have one of the given values
of each field, or the largest with 'max' as third element; a text names a line
of the figure, such as 'GPT'. A fourth element is a measure of the term's own.
The verdict is that of the mean over the seeds, with Student's t interval.

Optional keys: `less`, a measure that is subtracted from `measure`; `over`, a
field whose values are the independent repetitions instead of the seeds (folds);
`each`, a field: the statement is about each of its values, and its row is the
weakest of theirs, so that it is shown only if it is shown at each value;
`ratio`, a measure of the second term's points in multiples of the first term's;
`diverged`, the value of a point with a run that stopped at a NaN; `unit`, a key
of `formats.UNITS`; `quantity`, words in the place of those that the terms give.
"""

from collections.abc import Collection, Mapping, Sequence
import math
import re
import statistics
from typing import Any

from scipy import stats

from instructrl.reports import formats
from instructrl.reports import verdicts
from instructrl.reports.verdicts import Verdict

REGIONS = {'positive': verdicts.POSITIVE, 'negative': verdicts.NEGATIVE}
KEYS = {'statement', 'paper', 'measure', 'terms', 'region'}
OPTIONAL = {'over', 'each', 'diverged', 'less', 'unit', 'ratio', 'quantity'}
_MEASURES = ('measure', 'less', 'ratio')  # keys whose value is a title
# Why repetitions that agree in every digit give no interval.
EQUAL = 'all repetitions have the same value, which gives no interval'
_COMBINE = {'mean': statistics.fmean, 'max': max, 'min': min}


def faults(
  expected: Sequence[Mapping], titles: Sequence[str], fields: Collection[str]
) -> list[str]:
  """Returns a message for each mistake in the statements of a sweep.

  Args:
    expected: the statements.
    titles: titles of the sweep's measures.
    fields: that differ between the sweep's points.
  """
  found = []
  for entry in expected:
    name = f'expected, {entry.get("statement", "a statement")!r}'
    keys = {*entry}
    if not KEYS <= keys <= KEYS | OPTIONAL:
      found.append(
        f'{name}: the keys must be {", ".join(sorted(KEYS))}, and may be '
        f'{", ".join(sorted(OPTIONAL))}; got {", ".join(sorted(keys))}'
      )
      continue
    found += [f'{name}: {fault}' for fault in _malformed(entry, fields)]
    measures = [(key, entry[key]) for key in _MEASURES if key in keys]
    measures += [('terms', term[3]) for term in entry['terms'] if term[3:]]
    for key, title in measures:
      if title not in titles:
        found.append(
          f'{name}: {key} must be one of {", ".join(titles)}; got {title!r}'
        )
    for key in ('over', 'each'):
      if key in keys and entry[key] not in fields:
        found.append(
          f'{name}: {key} must be a field of the points, one of '
          f'{", ".join(sorted(fields))}; got {entry[key]!r}'
        )
  return found


def _malformed(entry: Mapping, fields: Collection[str]) -> list[str]:
  """Returns what is wrong in the region, unit and terms of a statement."""
  found, region, unit = [], entry['region'], entry.get('unit', '')
  pair = isinstance(region, tuple) and len(region) == 2
  if region not in REGIONS and not (pair and region[0] < region[1]):
    found.append(
      f'region must be one of {", ".join(REGIONS)} or (low, high); got '
      f'{region!r}'
    )
  if unit not in formats.UNITS:
    found.append(
      f'unit must be one of {", ".join(map(repr, formats.UNITS))}; got {unit!r}'
    )
  if not entry['terms']:
    found.append('terms is empty')
  for term in entry['terms']:
    _, where, how, _ = _whole(term)
    if how not in _COMBINE:
      found.append(
        f'the third element of a term must be one of {", ".join(_COMBINE)}; '
        f'got {how!r}'
      )
    unknown = [] if isinstance(where, str) else sorted({*where} - {*fields})
    if unknown:
      found.append(
        f'a term names {unknown[0]!r}; the fields of the points are '
        f'{", ".join(sorted(fields))}'
      )
  if 'ratio' in entry and (
    len(entry['terms']) < 2
    or any(isinstance(where, str) for _, where, *_ in entry['terms'][:2])
  ):
    found.append('ratio needs two terms with fields')
  return found


def judge(
  expected: Sequence[Mapping],
  points: Sequence[Mapping],
  lines: Mapping[str, Mapping[str, float]],
) -> list[Verdict]:
  """Judges the statements of a sweep.

  Args:
    expected: the statements; see the module.
    points: of sweep.json, with 'overrides', 'seed', 'diverged' and 'measures'.
    lines: title of a measure -> label of a line -> its value.
  """
  return [
    min(
      (_judge(one, points, lines) for one in _at_each(entry, points)),
      key=_strength,
    )
    for entry in expected
  ]


def _at_each(entry: Mapping, points) -> list[Mapping]:
  """Returns the statement at each value of its field `each`, or itself."""
  field = entry.get('each')
  if field is None:
    return [entry]
  values = {p['overrides'][field] for p in points if field in p['overrides']}
  words = entry.get('quantity', '')
  return [
    {
      **entry,
      **({'quantity': f'{words}, {_place({field: value})}'} if words else {}),
      'terms': [
        (weight, where if isinstance(where, str) else {**where, field: value})
        + tuple(rest)
        for weight, where, *rest in entry['terms']
      ],
    }
    for value in sorted(values)
  ]


def _strength(row: Verdict) -> tuple[int, float]:
  """Returns a key that sorts verdicts on a statement, the weakest first."""
  order = (
    verdicts.NOT_MEASURED,
    verdicts.NOT_SHOWN,
    verdicts.UNDECIDED,
    verdicts.SHOWN,
  )
  low, high = row.region
  inside = -math.inf
  if row.ci95:
    inside = min(row.ci95[0] - low, high - row.ci95[1])
  return order.index(row.verdict), inside


def _judge(entry: Mapping, points, lines) -> Verdict:
  over = entry.get('over')
  groups: dict[Any, list] = {}
  for point in points:
    key = point['overrides'].get(over) if over else point['seed']
    groups.setdefault(key, []).append(point)
  values = [
    value
    for group in groups.values()
    if (value := _contrast(entry, group, lines)) is not None
  ]
  region = REGIONS.get(entry['region'], entry['region'])
  found = mean_of(values) if values else None
  note = ''
  if found and found['n'] > 1 and _equal(values):
    found, note = {**found, 'ci95': None}, EQUAL
  return verdicts.make_row(
    entry['measure'],
    entry['statement'],
    entry['paper'],
    entry.get('quantity', _words(entry)) + _ratio(entry, points),
    found,
    tuple(region),
    entry.get('unit', ''),
    note,
  )


def _equal(values: Sequence[float]) -> bool:
  """Returns whether values differ by no more than rounding."""
  return math.isclose(min(values), max(values), rel_tol=1e-12, abs_tol=1e-12)


def mean_of(values: Sequence[float]) -> dict:
  """Returns the mean of independent values with Student's t interval.

  Args:
    values: one per seed; a single value has no interval.
  """
  mean, n = statistics.fmean(values), len(values)
  if n == 1:
    return {'value': mean, 'ci95': None, 'n': 1}
  half = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n)
  return {'value': mean, 'ci95': [mean - half, mean + half], 'n': n}


def _contrast(entry: Mapping, points, lines) -> float | None:
  """Returns the contrast of one seed; None if a term has no value."""
  total = 0.0
  for weight, where, how, measure in map(_whole, entry['terms']):
    own = {**entry, 'measure': measure or entry['measure']}
    if isinstance(where, str):
      found = [lines.get(own['measure'], {}).get(where)]
    else:
      chosen = [p for p in points if _matches(p['overrides'], where)]
      found = [_value(point, own) for point in chosen]
      found += [None] * _lacks(chosen, where)
    if not found or None in found:
      return None
    total += weight * _COMBINE[how](found)
  return total


def _lacks(points: Sequence[Mapping], where: Mapping) -> bool:
  """Returns whether a value of a field has none of the points."""
  return not all(
    any(point['overrides'].get(field) == one for point in points)
    for field, wanted in where.items()
    for one in _several(wanted)
  )


def _whole(term: Sequence) -> tuple:
  """Returns (weight, where, how, measure or None) of a term."""
  return (*term, *('mean', None)[len(term) - 2 :])


def _value(point: Mapping, entry: Mapping) -> float | None:
  if point.get('diverged'):
    return entry.get('diverged')
  found = [
    point['measures'].get(entry[key])
    for key in ('measure', 'less')
    if key in entry
  ]
  return None if None in found else found[0] - sum(found[1:])


def _matches(overrides: Mapping, where: Mapping) -> bool:
  return all(
    any(overrides.get(field) == one for one in _several(wanted))
    for field, wanted in where.items()
  )


def _several(value) -> Sequence:
  return value if isinstance(value, (tuple, list)) else (value,)


def _ratio(entry: Mapping, points) -> str:
  """Returns '; parameters 1 : 15', of the points of the first two terms."""
  if 'ratio' not in entry:
    return ''
  first, second = (
    [
      point['measures'][entry['ratio']]
      for point in points
      if _matches(point['overrides'], where)
      and entry['ratio'] in point['measures']
    ]
    for _, where, *_ in entry['terms'][:2]
  )
  if not first or not second:
    return ''
  times = statistics.fmean(second) / statistics.fmean(first)
  return f'; {entry["ratio"]} 1 : {times:.3g}'


def _words(entry: Mapping) -> str:
  """Returns 'F1: largest at beta 0.1, 0.2 minus GPT'."""
  title = ' minus '.join(entry[k] for k in ('measure', 'less') if k in entry)
  text = ''
  for weight, where, how, measure in map(_whole, entry['terms']):
    sign = ' plus ' if weight > 0 else ' minus '
    times = '' if abs(weight) == 1 else f'{abs(weight):g} × '
    place = where if isinstance(where, str) else _place(where)
    chosen = {'max': 'largest at ', 'min': 'smallest at '}.get(how, '')
    own = f'{measure} ' if measure else ''
    text += f'{sign}{times}{chosen}{own}{place}'
  return f'{title}: {text.removeprefix(" plus ")}'


def _place(where: Mapping) -> str:
  if not where:
    return 'all points'
  return '; '.join(
    f'{field.split(".")[-1]} {", ".join(_short(v) for v in _several(wanted))}'
    for field, wanted in where.items()
  )


def _short(value) -> str:
  """'../ppo/checkpoints/00000040' -> '40', '../sft' -> 'sft', True -> 'on'."""
  if isinstance(value, bool):
    return 'on' if value else 'off'
  if isinstance(value, float):
    return f'{value:.3g}'
  return re.sub(r'.*/checkpoints/0*', '', str(value)).removeprefix('../')
