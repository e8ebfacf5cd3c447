"""Summaries of data: counts, and the counts as 80 columns of text.

`describe` counts and `render` draws one source, `describe_made` and
`render_made` what the data stage made of all sources.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import textwrap
from typing import Any

import numpy as np

from instructrl.data import tasks
from instructrl.data.curate import fitting
from instructrl.data.curate import parts
from instructrl.data.curate import personal
from instructrl.data.records import Document, fold, Prompt, prompt_of, Ranking
from instructrl.data.sources import fields
from instructrl.tokenizers import dialogue

WIDTH = 80
_BAR, _EIGHTHS = '█', ' ▏▎▍▌▋▊▉'
_MOST_BINS = 8
_ANY = 2**31  # tokens: more than any response has


def histogram(lengths: Iterable[int]) -> dict[str, Any]:
  """Counts lengths in bins that double.

  Returns:
    'bins': at most eight [least, most, count], the first from 0; 'median',
    'p95', 'longest' and 'total'. {} without lengths.
  """
  lengths = np.asarray(list(lengths), np.int64)
  if not len(lengths):
    return {}
  # Bin b holds 2 ** (b - 1) .. 2 ** b - 1, and bin 0 the empty ones.
  bins = np.frexp(lengths.astype(np.float64))[1]
  lowest = max(int(bins.min()), int(bins.max()) - _MOST_BINS + 1)
  counts = np.bincount(np.maximum(bins, lowest) - lowest)
  least = [2 ** (lowest + i) // 2 for i in range(len(counts))]
  if lowest > bins.min():
    least[0] = 0  # with all that are shorter
  return {
    'bins': [
      [low, 2 ** (lowest + i) - 1, int(n)]
      for i, (low, n) in enumerate(zip(least, counts))
    ],
    'median': int(np.median(lengths)),
    'p95': int(np.percentile(lengths, 95)),
    'longest': int(lengths.max()),
    'total': int(lengths.sum()),
  }


def _count(values: Iterable[str]) -> dict[str, int]:
  return dict(collections.Counter(values))


def _most(names: Iterable[str]) -> dict[str, Any]:
  """Counts different names, and the rows of the most frequent one."""
  counts = collections.Counter(
    name for name in names if name and name != fields.UNKNOWN
  )
  if not counts:
    return {'count': 0}
  name, rows = min(counts.items(), key=lambda item: (-item[1], item[0]))
  return {'count': len(counts), 'most': name, 'rows': rows}


def describe_rankings(rankings: Sequence[Ranking]) -> dict[str, Any]:
  """Counts K, pairs, ties, writers of responses and groups of labelers."""
  ks = collections.Counter(len(r.responses) for r in rankings)
  of_two = lambda n: n * (n - 1) // 2
  pairs = sum(of_two(len(r.ranks)) for r in rankings)
  ties = sum(
    of_two(n) for r in rankings for n in collections.Counter(r.ranks).values()
  )
  return {
    'k': {str(k): ks[k] for k in sorted(ks)},
    'pairs': pairs,
    'ties': ties / pairs if pairs else 0.0,
    'all_tied': sum(len(set(r.ranks)) == 1 for r in rankings),
    'writers': _most(name for r in rankings for name in r.sources),
    'groups': _count(r.group for r in rankings),
  }


def _repeats(prompt: Prompt, response: str) -> bool:
  """Returns whether a response begins with its prompt."""
  bare = lambda text: text.strip().removeprefix(dialogue.HUMAN.strip()).lstrip()
  text = bare(response)
  return any(
    text.startswith(asked) and not text[len(asked) :][:1].isalnum()
    for asked in map(bare, (prompt.text, *prompt.turns[-1:]))
  )


def _remarks(records: Sequence, tok, response_len: int) -> list[str]:
  """Counts responses that repeat their prompt, and equal ones in rankings."""
  found = [
    _repeats(prompt_of(r), text)
    for r in records
    for text in parts.texts_of(r)[1:]
  ]
  lines, repeated = [], sum(found)
  if repeated:
    counted = 'all' if repeated == len(found) else f'{repeated:,} of'
    lines.append(
      f'{counted} {len(found):,} responses begin with their prompt, which the '
      'layout writes too: leave it out of the responses'
    )
  most = response_len or _ANY
  form = lambda text: (
    text.strip()
    if tok is None
    else tuple(tasks.response_tokens(tok, text, most))
  )
  equal = sum(
    len(fitting.learnable(r.ranks, [*map(form, r.responses)])) < len(r.ranks)
    for r in records
    if isinstance(r, Ranking)
  )
  if equal:
    lines.append(
      f'{equal:,} rankings have equal responses with different ranks, of which '
      'the data stage keeps one or none'
    )
  return lines


def _measure(records, tok) -> dict[str, list[int]]:
  """Measures each different prompt, each response and each document.

  Returns:
    Name of a measure -> lengths. With a tokenizer, in tokens too.
  """
  if isinstance(records[0], Document):
    found = {'document characters': [len(r.text) for r in records]}
    if tok is not None:
      found['document tokens'] = [len(tok.document(r.text)) for r in records]
    return found
  prompts = {(p.text, p.turns): p for p in map(prompt_of, records)}
  responses = [text for r in records for text in parts.texts_of(r)[1:]]
  found = {
    'prompt characters': [len(text) for text, _ in prompts],
    'response characters': list(map(len, responses)),
  }
  if tok is not None:
    found['prompt tokens'] = [
      len(tasks.chat_prompt(tok, p)) for p in prompts.values()
    ]
    found['response tokens'] = [
      len(tasks.response_tokens(tok, text, _ANY)) for text in responses
    ]
  return {name: lengths for name, lengths in found.items() if lengths}


def describe(
  loaded, tok=None, *, prompt_len: int = 0, response_len: int = 0
) -> dict[str, Any]:
  """Counts what a source has.

  Args:
    loaded: a `registry.Loaded`.
    tok: tokenizer, to count tokens too.
    prompt_len: tokens; prompts above it are counted. 0 = no limit.
    response_len: tokens; responses above it are counted. 0 = no limit.

  Returns:
    Plain values, for `render` and for JSON.
  """
  records = loaded.records
  found = {'part': loaded.part} if loaded.part else {}
  found |= {
    'spec': loaded.spec,
    'kind': loaded.kind.__name__,
    'read': loaded.read,
    'kept': len(records),
    'dropped': dict(loaded.dropped),
    'first': dict(loaded.first),
    'notes': list(loaded.notes),
  }
  if not records:
    return found
  found['notes'] += _remarks(records, tok, response_len)
  lengths = _measure(records, tok)
  found['lengths'] = {name: histogram(n) for name, n in lengths.items()}
  found['personal_data'] = _count(
    filter(None, map(personal.of_record, records))
  )
  prompts = [prompt_of(r) for r in records]
  found['splits'] = _count(p.split for p in prompts)
  if loaded.kind is Document:
    return found
  use_cases = collections.Counter(p.use_case for p in prompts)
  found |= {
    'prompts': len({fold(p.text) for p in prompts}),
    'dialogues': len({p.turns for p in prompts if p.turns}),
    'use_cases': dict(use_cases.most_common()),
    'users': _most(p.user for p in prompts),
  }
  if loaded.kind is not Prompt:
    found['labelers'] = _most(r.labeler for r in records)
  if loaded.kind is Ranking:
    found |= describe_rankings(records)
  for name, limit in (('prompt', prompt_len), ('response', response_len)):
    tokens = lengths.get(f'{name} tokens')
    if limit and tokens:
      found.setdefault('over', {})[name] = {
        'limit': limit,
        'count': sum(length > limit for length in tokens),
      }
  return found


def warnings(sources: Sequence, data: parts.Curated) -> list[str]:
  """Finds the parts that have lost more than half of their rows.

  Args:
    sources: `registry.Loaded`, each with its part.
    data: the curated records of the sources.

  Returns:
    A line for each such part: how many rows were dropped, and why.
  """
  kept = collections.Counter(
    demonstrations=len(data.demonstrations),
    rankings=len(data.rankings),
    documents=len(data.documents),
    prompts=len({p.text for found in data.prompts.values() for p in found}),
  )
  lines = []
  for part in dict.fromkeys(loaded.part for loaded in sources):
    reasons = collections.Counter()
    for loaded in sources:
      reasons.update(loaded.dropped if loaded.part == part else {})
    reasons.update(data.drops.of(part))
    kept[part] += reasons.pop(parts.SET_ASIDE, 0)  # such rows have a use
    lost = reasons.total()
    if lost > kept[part]:
      counts = '; '.join(f'{n:,} {reason}' for reason, n in reasons.items())
      total = lost + kept[part]
      lines.append(
        f'{part}: {lost:,} of {total:,} rows were dropped ({counts})'
      )
  return lines


def describe_made(
  data: parts.Curated, rows: Mapping[str, int], tok, lost: Sequence[str] = ()
) -> dict[str, Any]:
  """Counts what the data stage made.

  Args:
    data: the records.
    rows: name of a file of packed rows -> its rows.
    tok: the tokenizer.
    lost: lines of `warnings`.

  Returns:
    Plain values, for `render_made` and for JSON.
  """
  sides = {
    'prompts': {split: len(p) for split, p in data.prompts.items()},
    'demonstrations': _count(d.prompt.split for d in data.demonstrations),
    'rankings': _count(r.prompt.split for r in data.rankings),
    'corpus': _count(d.split for d in data.documents),
  }
  drops = {}
  for (part, reason), number in data.drops.counts.items():
    drops.setdefault(part, {})[reason] = {
      'rows': number,
      'first': data.drops.first[part, reason],
    }
  made = {
    'splits': {name: found for name, found in sides.items() if found},
    'rows': dict(rows),
    'vocab_size': tok.vocab_size,
    'left_out': drops,
    'notes': data.notes,
  }
  if lost:
    made['warnings'] = list(lost)
  if data.rankings:
    made |= describe_rankings(data.rankings)
  return made


# --- Drawing -----------------------------------------------------------------


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
