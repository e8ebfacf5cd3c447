"""What is in a source, in numbers and as 80 columns of text.

`describe` counts, `render` draws; `python -m instructrl.data` and the data
stage show the same.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import textwrap
from typing import Any

import numpy as np

from instructrl.data import tasks
from instructrl.data.curate import parts
from instructrl.data.curate import personal
from instructrl.data.records import Document, fold, Prompt, prompt_of, Ranking
from instructrl.data.sources import fields

WIDTH = 80
_BAR, _EIGHTHS = '█', ' ▏▎▍▌▋▊▉'
_MOST_BINS = 8
_ANY = 2**31  # tokens: more than any response has


def histogram(lengths: Iterable[int]) -> dict[str, Any]:
  """Counts in bins that double, and where the middle and the end are.

  Returns:
    'bins': [[least, most, count], ...], the first from 0 and not more than
    eight; 'median', 'p95', 'longest', 'total'. {} of nothing.
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


def _most(names: Iterable[str]) -> dict[str, Any]:
  """How many different names there are and the most frequent one's rows."""
  counts = collections.Counter(
    name for name in names if name and name != fields.UNKNOWN
  )
  if not counts:
    return {'count': 0}
  name, rows = min(counts.items(), key=lambda item: (-item[1], item[0]))
  return {'count': len(counts), 'most': name, 'rows': rows}


def describe_rankings(rankings: Sequence[Ranking]) -> dict[str, Any]:
  """K, pairs, ties, and how often each writer is best."""
  ks = collections.Counter(len(r.responses) for r in rankings)
  pairs = ties = 0
  for ranking in rankings:
    k = len(ranking.ranks)
    pairs += k * (k - 1) // 2
    ties += sum(
      n * (n - 1) // 2 for n in collections.Counter(ranking.ranks).values()
    )
  return {
    'k': {str(k): ks[k] for k in sorted(ks)},
    'pairs': pairs,
    'ties': ties / pairs if pairs else 0.0,
    'all_tied': sum(len(set(r.ranks)) == 1 for r in rankings),
    'writers': _most(name for r in rankings for name in r.sources),
    'groups': dict(collections.Counter(r.group for r in rankings)),
  }


def _measure(records, tok) -> dict[str, list[int]]:
  """What is measured -> lengths: of each prompt once and of all responses.

  In characters, and in tokens with a tokenizer.
  """
  if isinstance(records[0], Document):
    found = {'document characters': [len(r.text) for r in records]}
    if tok is not None:
      found['document tokens'] = [
        len(tasks.document_tokens(tok, r.text)) for r in records
      ]
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
    loaded: what `sources.load` gave.
    tok: lengths are in tokens too where there is one.
    prompt_len, response_len: limits in tokens; 0 = none to compare with.

  Returns:
    Plain values, for `render` and for JSON.
  """
  records = loaded.records
  found = {
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
  lengths = _measure(records, tok)
  found['lengths'] = {name: histogram(n) for name, n in lengths.items()}
  found['personal_data'] = dict(
    collections.Counter(filter(None, map(personal.of_record, records)))
  )
  if loaded.kind is Document:
    found['splits'] = dict(collections.Counter(r.split for r in records))
    return found
  prompts = [prompt_of(r) for r in records]
  found |= {
    'splits': dict(collections.Counter(p.split for p in prompts)),
    'prompts': len({fold(p.text) for p in prompts}),
    'dialogues': len({p.turns for p in prompts if p.turns}),
    'use_cases': dict(
      collections.Counter(p.use_case for p in prompts).most_common()
    ),
    'users': _most(p.user for p in prompts),
  }
  if loaded.kind is not Prompt:
    found['labelers'] = _most(r.labeler for r in records)
  if loaded.kind is Ranking:
    found |= describe_rankings(records)
  for name, limit in (('prompt', prompt_len), ('response', response_len)):
    if limit and f'{name} tokens' in lengths:
      found.setdefault('over', {})[name] = {
        'limit': limit,
        'count': sum(length > limit for length in lengths[f'{name} tokens']),
      }
  return found


def describe_made(
  data: parts.Curated, rows: Mapping[str, int], tok
) -> dict[str, Any]:
  """Counts what the data stage made; for `render_made`, JSON and DONE."""
  count = lambda splits: dict(collections.Counter(splits))
  sides = {
    'prompts': {split: len(p) for split, p in data.prompts.items()},
    'demonstrations': count(d.prompt.split for d in data.demonstrations),
    'rankings': count(r.prompt.split for r in data.rankings),
    'corpus': count(d.split for d in data.documents),
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
  if data.rankings:
    made |= describe_rankings(data.rankings)
  return made


# --- Drawing -----------------------------------------------------------------


def bar(share: float, width: int) -> str:
  """A bar of a share of `width` columns, in eighths of a column."""
  eighths = round(share * width * 8)
  whole, rest = divmod(eighths, 8)
  drawn = _BAR * whole + (_EIGHTHS[rest] if rest else '')
  return drawn or ('▏' if share else '')


def _short(number: float) -> str:
  """1,234 or 12.3k: at most six characters."""
  if number < 10_000:
    return f'{number:,.0f}'
  return f'{number / 1e3:.3g}k' if number < 1e6 else f'{number / 1e6:.3g}M'


def draw_histogram(
  title: str, found: Mapping[str, Any], width: int
) -> list[str]:
  """Lines of at most `width` columns."""
  total = sum(n for *_, n in found['bins'])
  most = max(n for *_, n in found['bins'])
  lines = [title]
  room = width - 20
  for low, high, n in found['bins']:
    label = f'{_short(low)}-{_short(high)}' if low < high else _short(low)
    lines.append(f'{label:>11} {bar(n / most, room):<{room}} {n / total:>6.1%}')
  lines.append(
    textwrap.shorten(
      f'{"":11} median {_short(found["median"])}, 95% '
      f'{_short(found["p95"])}, most {_short(found["longest"])}',
      width,
    )
  )
  lines[-1] = f'{"":>3}{lines[-1].strip()}'
  return lines


def side_by_side(
  left: Sequence[str], right: Sequence[str], width: int
) -> list[str]:
  """Two columns of lines, the left one `width` wide."""
  height = max(len(left), len(right))
  pad = lambda lines: [*lines, *[''] * (height - len(lines))]
  return [f'{a:<{width}}{b}'.rstrip() for a, b in zip(pad(left), pad(right))]


def _wrapped(name: str, text: str) -> list[str]:
  """`name` in a column of its own, the text beside it."""
  lines = textwrap.wrap(text, WIDTH - 14, break_on_hyphens=False) or ['']
  return [f'{name if not i else "":<13} {line}' for i, line in enumerate(lines)]


def _counts(found: Mapping[str, int]) -> str:
  return ', '.join(f'{name} {n:,}' for name, n in found.items())


def _people(found: Mapping[str, Any], noun: str = 'rows') -> str:
  if not found['count']:
    return 'not known'
  return f'{found["count"]:,}; most {noun}: {found["most"]} ({found["rows"]:,})'


def _ranking_lines(found: Mapping[str, Any]) -> list[str]:
  lines = []
  total = sum(found['k'].values())
  for i, (k, n) in enumerate(found['k'].items()):
    lines.append(
      f'{"K" if not i else "":<13} {k:>2} '
      f'{bar(n / max(found["k"].values()), 40):<40} '
      f'{n:>8,} {n / total:>6.1%}'
    )
  lines += _wrapped(
    'pairs',
    f'{found["pairs"]:,}, {found["ties"]:.1%} of them '
    f'ties; {found["all_tied"]:,} rankings are one tie',
  )
  lines += _wrapped('writers', _people(found['writers'], 'responses'))
  return lines


def rule(title: str) -> str:
  """A line of the page's width with a title in it."""
  room = WIDTH - 8
  if len(title) > room:  # the end of a path says more than its beginning
    title = (
      f'{title[: room // 3]}...{title[len(title) + 3 + room // 3 - room :]}'
    )
  return f'── {title} '.ljust(WIDTH, '─')


def render(found: Mapping[str, Any]) -> str:
  """What `describe` found, as lines of at most 80 columns."""
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
    dialogues = found['dialogues']
    lines += _wrapped(
      'prompts',
      f'{found["prompts"]:,} different; {again:,} '
      'rows repeat a prompt'
      + (f'; {dialogues:,} are dialogues' * bool(dialogues)),
    )
    lines += _wrapped('users', _people(found['users']))
    lines += _wrapped('use cases', _counts(found['use_cases']))
  if 'labelers' in found:
    lines += _wrapped('labelers', _people(found['labelers']))
  if 'k' in found:
    lines += _ranking_lines(found)
  if found['personal_data']:
    lines += _wrapped(
      'personal data',
      'rows that seem to have any: ' + _counts(found['personal_data']),
    )
  if 'over' in found:
    lines += _wrapped(
      'too long',
      ', '.join(
        f'{over["count"]:,} {name}s over {over["limit"]:,} tokens'
        for name, over in found['over'].items()
      ),
    )
  drawn = [
    draw_histogram(title, one, 39) for title, one in found['lengths'].items()
  ]
  for i in range(0, len(drawn), 2):
    lines += [
      '',
      *side_by_side(drawn[i], [] if i + 1 == len(drawn) else drawn[i + 1], 41),
    ]
  return '\n'.join(lines) + '\n'


def render_made(made: Mapping[str, Any]) -> str:
  """What `describe_made` found, as lines of at most 80 columns."""
  lines = [rule('what was made of them')]
  for name, found in made['splits'].items():
    lines += _wrapped(name, _counts(found))
  if 'k' in made:
    lines += _ranking_lines(made)
  lines += _wrapped('packed rows', _counts(made['rows']) or 'none')
  lines += _wrapped('vocabulary', f'{made["vocab_size"]:,} tokens')
  for part, reasons in made['left_out'].items():
    for reason, found in reasons.items():
      lines += _wrapped(
        'counted',
        f'{found["rows"]:,} {part}: {reason} (first: {found["first"]})',
      )
  for note in made['notes']:
    lines += _wrapped('note', note)
  return '\n'.join(lines) + '\n'


def render_all(summary: Mapping[str, Any]) -> str:
  """The sources one after the other, then what was made of them."""
  return '\n'.join(
    [*map(render, summary['sources']), render_made(summary['made'])]
  )
