"""Summaries of data: counts, which `summary_text` draws.

`describe` counts one source, and `describe_made` what the data stage made of
all sources.
"""

import array
import collections
from collections.abc import Iterable, Mapping, Sequence
import functools
import itertools
from typing import Any

import numpy as np

from instructrl.data import tasks
from instructrl.data.curate import fitting
from instructrl.data.curate import parts
from instructrl.data.curate import personal
from instructrl.data.digests import digest
from instructrl.data.digests import Digests
from instructrl.data.records import Document, fold, Prompt, prompt_of, Ranking
from instructrl.data.sources import fields
from instructrl.tokenizers import dialogue

_MOST_BINS = 8
_ANY = 2**31  # tokens: more than any response has


def histogram(lengths: Iterable[int]) -> dict[str, Any]:
  """Counts lengths in bins that double.

  Returns:
    'bins': at most eight [least, most, count], the first from 0; 'median',
    'p95', 'longest' and 'total'. {} without lengths.
  """
  lengths = np.fromiter(lengths, np.int64)
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


def _most(counts: Mapping[str, int]) -> dict[str, Any]:
  """Counts different names, and the rows of the most frequent one.

  Args:
    counts: name -> its rows.
  """
  unknown = ('', fields.UNKNOWN)
  counts = {name: n for name, n in counts.items() if name not in unknown}
  if not counts:
    return {'count': 0}
  name, rows = min(counts.items(), key=lambda item: (-item[1], item[0]))
  return {'count': len(counts), 'most': name, 'rows': rows}


def describe_rankings(rankings: Iterable[Ranking]) -> dict[str, Any]:
  """Counts K, pairs, ties, writers of responses and groups of labelers."""
  ranks, writers, groups = (collections.Counter() for _ in range(3))
  for r in rankings:
    ranks[r.ranks] += 1
    writers.update(r.sources)
    groups[r.group] += 1
  ks, ties = collections.Counter(), 0
  of_two = lambda n: n * (n - 1) // 2
  for found, count in ranks.items():
    ks[len(found)] += count
    equal = collections.Counter(found).values()
    ties += count * sum(map(of_two, equal))
  pairs = sum(of_two(k) * count for k, count in ks.items())
  return {
    'k': {str(k): ks[k] for k in sorted(ks)},
    'pairs': pairs,
    'ties': ties / pairs if pairs else 0.0,
    'all_tied': sum(n for found, n in ranks.items() if len({*found}) == 1),
    'writers': _most(writers),
    'groups': dict(groups),
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
  found = collections.Counter(
    _repeats(prompt_of(r), text)
    for r in records
    for text in parts.texts_of(r)[1:]
  )
  lines, repeated, total = [], found[True], found.total()
  if repeated:
    counted = 'all' if repeated == total else f'{repeated:,} of'
    lines.append(
      f'{counted} {total:,} responses begin with their prompt, which the '
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


def _measure(records, tok) -> dict[str, array.array]:
  """Measures each different prompt, each response and each document.

  Returns:
    Name of a measure -> lengths. With a tokenizer, in tokens too.
  """
  kinds = ('prompt', 'response', 'document')
  found = {f'{kind} characters': array.array('q') for kind in kinds}
  if tok is not None:
    found |= {f'{kind} tokens': array.array('q') for kind in kinds}

  def add(kind, text, encode):
    found[f'{kind} characters'].append(len(text))
    if tok is not None:
      found[f'{kind} tokens'].append(len(encode()))

  different = Digests()
  for r in records:
    if isinstance(r, Document):
      add('document', r.text, lambda text=r.text: tok.document(text))
      continue
    p = prompt_of(r)
    if different.add(digest(p.text, *p.turns)):
      add('prompt', p.text, lambda p=p: tasks.chat_prompt(tok, p))
    for text in parts.texts_of(r)[1:]:
      encode = functools.partial(tasks.response_tokens, tok, text, _ANY)
      add('response', text, encode)
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
    Plain values, for `summary_text.render` and for JSON.
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
  splits, use_cases, users, labelers = (collections.Counter() for _ in range(4))
  texts, dialogues = Digests(), Digests()
  for r in records:
    p = prompt_of(r)
    splits[p.split] += 1
    if isinstance(p, Prompt):
      use_cases[p.use_case] += 1
      users[p.user] += 1
      texts.add(digest(fold(p.text)))
      if p.turns:
        dialogues.add(digest(*p.turns))
      labelers[getattr(r, 'labeler', '')] += 1
  found['splits'] = dict(splits)
  if loaded.kind is Document:
    return found
  found |= {
    'prompts': len(texts),
    'dialogues': len(dialogues),
    'use_cases': dict(use_cases.most_common()),
    'users': _most(users),
  }
  if loaded.kind is not Prompt:
    found['labelers'] = _most(labelers)
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
  prompts = Digests()
  for p in itertools.chain(*data.prompts.values()):
    prompts.add(digest(p.text))
  kept = collections.Counter(
    demonstrations=len(data.demonstrations),
    rankings=len(data.rankings),
    documents=len(data.documents),
    prompts=len(prompts),
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
    Plain values, for `summary_text.render_made` and for JSON.
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
