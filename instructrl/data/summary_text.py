"""Draws the counts of `summary` in 80 columns of text."""

from collections.abc import Mapping, Sequence
import textwrap
from typing import Any

WIDTH = 80
_BAR, _EIGHTHS = '█', ' ▏▎▍▌▋▊▉'


def bar(share: float, width: int) -> str:
  """Draws a share of `width` columns, in eighths of a column."""
  eighths = round(share * width * 8)
  whole, rest = divmod(eighths, 8)
  drawn = _BAR * whole + (_EIGHTHS[rest] if rest else '')
  return drawn or ('▏' if share else '')


def _short(number: float) -> str:
  """Formats a number in at most six characters: 1,234 or 12.3k."""
  if number < 10_000:
    return f'{number:,.0f}'
  return f'{number / 1e3:.3g}k' if number < 1e6 else f'{number / 1e6:.3g}M'


def draw_histogram(
  title: str, found: Mapping[str, Any], width: int
) -> list[str]:
  """Draws a histogram in lines of at most `width` columns."""
  total = sum(n for *_, n in found['bins'])
  most = max(n for *_, n in found['bins'])
  lines = [title]
  room = width - 20
  for low, high, n in found['bins']:
    label = f'{_short(low)}-{_short(high)}' if low < high else _short(low)
    lines.append(f'{label:>11} {bar(n / most, room):<{room}} {n / total:>6.1%}')
  ends = f'95% {_short(found["p95"])}, most {_short(found["longest"])}'
  last = f'median {_short(found["median"])}, {ends}'
  return [*lines, f'   {textwrap.shorten(last, width)}']


def side_by_side(
  left: Sequence[str], right: Sequence[str], width: int
) -> list[str]:
  """Puts two columns of lines beside each other, the left `width` wide."""
  height = max(len(left), len(right))
  pad = lambda lines: [*lines, *[''] * (height - len(lines))]
  return [f'{a:<{width}}{b}'.rstrip() for a, b in zip(pad(left), pad(right))]


def _wrapped(name: str, text: str) -> list[str]:
  """Puts `name` in a column of its own and the text beside it."""
  lines = textwrap.wrap(text, WIDTH - 14, break_on_hyphens=False) or ['']
  return [f'{name if not i else "":<13} {line}' for i, line in enumerate(lines)]


def _counts(found: Mapping[str, int]) -> str:
  return ', '.join(f'{name} {n:,}' for name, n in found.items())


def _people(found: Mapping[str, Any], noun: str = 'rows') -> str:
  if not found['count']:
    return 'not known'
  return f'{found["count"]:,}; most {noun}: {found["most"]} ({found["rows"]:,})'


def _ranking_lines(found: Mapping[str, Any]) -> list[str]:
  lines, ks = [], found['k']
  total, most = sum(ks.values()), max(ks.values())
  for i, (k, n) in enumerate(ks.items()):
    name = 'K' if not i else ''
    drawn = bar(n / most, 40)
    lines.append(f'{name:<13} {k:>2} {drawn:<40} {n:>8,} {n / total:>6.1%}')
  tied = f'{found["ties"]:.1%} of them ties'
  pairs = (
    f'{found["pairs"]:,}, {tied}; {found["all_tied"]:,} rankings are one tie'
  )
  lines += _wrapped('pairs', pairs)
  lines += _wrapped('writers', _people(found['writers'], 'responses'))
  return lines


def rule(title: str) -> str:
  """Returns a line of the page's width with a title in it."""
  room = WIDTH - 8
  if len(title) > room:  # the end of a path says more than its beginning
    head, end = title[: room // 3], title[len(title) + 3 + room // 3 - room :]
    title = f'{head}...{end}'
  return f'── {title} '.ljust(WIDTH, '─')


def render(found: Mapping[str, Any]) -> str:
  """Draws the result of `describe` in lines of at most 80 columns."""
  name = found.get('part', f'{found["kind"]}s')
  lines = [rule(f'{name} · {found["spec"]}')]
  dropped = sum(found['dropped'].values())
  lines += _wrapped(
    'rows',
    f'{found["read"]:,} read, {found["kept"]:,} kept, {dropped:,} dropped',
  )
  for reason, n in found['dropped'].items():
    lines += _wrapped('  dropped', f'{n:,}: {reason}')
    if found['first'].get(reason):
      lines += _wrapped('', f'first: {found["first"][reason]}')
  for note in found['notes']:
    lines += _wrapped('note', note)
  if not found['kept']:
    return '\n'.join(lines) + '\n'
  lines += _wrapped('splits', _counts(found['splits']))
  if 'prompts' in found:
    again = found['kept'] - found['prompts']
    prompts = f'{found["prompts"]:,} different; {again:,} rows repeat a prompt'
    if found['dialogues']:
      prompts += f'; {found["dialogues"]:,} are dialogues'
    lines += _wrapped('prompts', prompts)
    lines += _wrapped('users', _people(found['users']))
    lines += _wrapped('use cases', _counts(found['use_cases']))
  if 'labelers' in found:
    lines += _wrapped('labelers', _people(found['labelers']))
  if 'k' in found:
    lines += _ranking_lines(found)
  if found['personal_data']:
    kinds = _counts(found['personal_data'])
    lines += _wrapped('personal data', f'rows that seem to have any: {kinds}')
  if 'over' in found:
    over = [
      f'{over["count"]:,} {name}s over {over["limit"]:,} tokens'
      for name, over in found['over'].items()
    ]
    lines += _wrapped('too long', ', '.join(over))
  drawn = [
    draw_histogram(title, one, 39) for title, one in found['lengths'].items()
  ]
  for left, right in zip(drawn[::2], [*drawn[1::2], []]):
    lines += ['', *side_by_side(left, right, 41)]
  return '\n'.join(lines) + '\n'


def render_made(made: Mapping[str, Any]) -> str:
  """Draws the result of `describe_made` in lines of at most 80 columns."""
  lines = [rule('what was made of them')]
  for warning in made.get('warnings', ()):
    lines += _wrapped('WARNING', warning)
  for name, found in made['splits'].items():
    lines += _wrapped(name, _counts(found))
  if 'k' in made:
    lines += _ranking_lines(made)
  lines += _wrapped('packed rows', _counts(made['rows']) or 'none')
  lines += _wrapped('vocabulary', f'{made["vocab_size"]:,} tokens')
  for part, reasons in made['left_out'].items():
    for reason, found in reasons.items():
      text = f'{found["rows"]:,} {part}: {reason} (first: {found["first"]})'
      lines += _wrapped('counted', text)
  for note in made['notes']:
    lines += _wrapped('note', note)
  return '\n'.join(lines) + '\n'


def render_all(summary: Mapping[str, Any]) -> str:
  """Draws the sources one after the other, then what was made of them."""
  return '\n'.join(
    [*map(render, summary['sources']), render_made(summary['made'])]
  )
