"""Formats numbers for people: units, signs, intervals, durations."""

from collections.abc import Mapping, Sequence

# Unit -> (scale, decimals). '%' and 'points' are shown of fractions.
UNITS = {
  '%': (100, 1),
  'points': (100, 1),
  'bits': (1, 2),
  'BLEU': (1, 1),
  'nats': (1, 3),
  'epochs': (1, 0),
  's': (1, 0),
  '': (1, 3),
}
_MOST_DIGITS = 6


def fixed(value: float, digits: int, *, signed: bool = False) -> str:
  """Formats a number with a fixed number of decimals; 0 has no minus."""
  sign = '+' if signed else ''
  return f'{round(value, digits) + 0.0:{sign}.{digits}f}'.replace('-', '−')


def measured(summary: Mapping, unit: str, *, signed: bool = False) -> str:
  """Formats a measured value with its interval.

  Small values get enough decimals to tell them from 0.

  Args:
    summary: {'value', 'ci95'}; both may be None or absent.
    unit: key of `UNITS`.
    signed: whether to write a plus, for differences.

  Returns:
    '66.0% (61.0 to 71.0)', '+0.12 (+0.05 to +0.20) bits', or '–'.
  """
  value, ci95 = summary.get('value'), summary.get('ci95')
  if value is None:
    return '–'
  scale, digits = UNITS[unit]
  while value and digits < _MOST_DIGITS and not round(scale * value, digits):
    digits += 1
  text = fixed(scale * value, digits, signed=signed)
  text += '%' if unit == '%' else ''
  if ci95:
    text += f' ({interval([scale * x for x in ci95], digits, signed=signed)})'
  return text if unit in ('', '%') else f'{text} {unit}'


def level(value: float, unit: str) -> str:
  """Formats one policy's value, where `unit` belongs to a difference.

  '57.1%' for 'points'; otherwise the number alone.
  """
  scale, digits = UNITS[unit]
  return fixed(scale * value, digits) + ('%' if unit == 'points' else '')


def interval(
  ends: Sequence[float], digits: int, *, signed: bool = False
) -> str:
  """Formats an interval: '0.61 to 0.71'."""
  return ' to '.join(fixed(x, digits, signed=signed) for x in ends)


def count_items(summaries: Mapping[str, Mapping]) -> str:
  """Returns 'n = 1,500', a range if policies differ, '' if unknown."""
  counts = {found['n'] for found in summaries.values() if found.get('n')}
  if not counts:
    return ''
  ends = sorted({min(counts), max(counts)})
  return 'n\xa0=\xa0' + ' to '.join(f'{n:,}' for n in ends)


def duration(seconds: float) -> str:
  """Formats a time: '2 h 5 min', '3 min 20 s', '7 s'."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'
