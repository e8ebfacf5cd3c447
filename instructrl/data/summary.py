"""Summaries of data: counts, which `summary_text` draws.

`describe` counts one source, and `describe_made` what the data stage made of
all sources.
"""

import array
import collections
from collections.abc import Iterable, Mapping, Sequence
import itertools
from typing import Any

import numpy as np

from instructrl.data import tasks
from instructrl.data.curate import fitting
from instructrl.data.curate import parts
from instructrl.data.curate import personal
from instructrl.data.digests import digest
from instructrl.data.digests import Digests
from instructrl.data.records import (
  Document,
  fold,
  Prompt,
  prompt_of,
  Ranking,
  Record,
)
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


class _Rankings:
  """Counts K, pairs, ties, writers of responses and groups of labelers."""

  def __init__(self):
    self._ranks, self._writers, self._groups = (
      collections.Counter() for _ in range(3)
    )

  def add(self, r: Ranking) -> None:
    self._ranks[r.ranks] += 1
    self._writers.update(r.sources)
    self._groups[r.group] += 1

  def result(self) -> dict[str, Any]:
    ks, ties = collections.Counter(), 0
    of_two = lambda n: n * (n - 1) // 2
    for ranks, count in self._ranks.items():
      ks[len(ranks)] += count
      equal = collections.Counter(ranks).values()
      ties += count * sum(map(of_two, equal))
    pairs = sum(of_two(k) * count for k, count in ks.items())
    tied = sum(n for ranks, n in self._ranks.items() if len({*ranks}) == 1)
    return {
      'k': {str(k): ks[k] for k in sorted(ks)},
      'pairs': pairs,
      'ties': ties / pairs if pairs else 0.0,
      'all_tied': tied,
      'writers': _most(self._writers),
      'groups': dict(self._groups),
    }


def _repeats(prompt: Prompt, response: str) -> bool:
  """Returns whether a response begins with its prompt."""
  bare = lambda text: text.strip().removeprefix(dialogue.HUMAN.strip()).lstrip()
  text = bare(response)
  return any(
    text.startswith(asked) and not text[len(asked) :][:1].isalnum()
    for asked in map(bare, (prompt.text, *prompt.turns[-1:]))
  )


class _Remarks:
  """Counts responses that repeat their prompt, and equal ones in rankings."""

  def __init__(self, response_len: int):
    self._most = response_len or _ANY
    self._responses, self._repeated, self._equal = 0, 0, 0

  def add(self, r: Record, tokens: Sequence[list[int]] | None) -> None:
    """Adds a record with the tokens of its responses."""
    texts = parts.texts_of(r)[1:]
    self._responses += len(texts)
    self._repeated += sum(_repeats(prompt_of(r), text) for text in texts)
    if isinstance(r, Ranking):
      seen = [text.strip() for text in texts]
      if tokens is not None:
        seen = [tuple(found[: self._most]) for found in tokens]
      if len({*seen}) < len(seen):
        self._equal += len(fitting.learnable(r.ranks, seen)) < len(seen)

  def result(self) -> list[str]:
    lines, repeated, total = [], self._repeated, self._responses
    if repeated:
      counted = 'all' if repeated == total else f'{repeated:,} of'
      lines.append(
        f'{counted} {total:,} responses begin with their prompt, which the '
        'layout writes too: leave it out of the responses'
      )
    if self._equal:
      lines.append(
        f'{self._equal:,} rankings have equal responses with different ranks, '
        'of which the data stage keeps one or none'
      )
    return lines


class _Lengths:
  """Measures each different prompt, each response and each document."""

  def __init__(self, tok):
    self._tok, self._prompts = tok, Digests()
    kinds = ('prompt', 'response', 'document')
    units = ('characters', 'tokens') if tok else ('characters',)
    self._found = {
      f'{kind} {unit}': array.array('q') for unit in units for kind in kinds
    }

  def _add(self, kind: str, text: str, tokens: Sequence[int]) -> None:
    self._found[f'{kind} characters'].append(len(text))
    if self._tok:
      self._found[f'{kind} tokens'].append(len(tokens))

  def add(self, r: Record, tokens: Sequence[list[int]] | None) -> None:
    """Adds a record with the tokens of its responses."""
    if isinstance(r, Document):
      page = self._tok.document(r.text) if self._tok else ()
      self._add('document', r.text, page)
      return
    p = prompt_of(r)
    if self._prompts.add(digest(p.text, *p.turns)):
      asked = tasks.chat_prompt(self._tok, p) if self._tok else ()
      self._add('prompt', p.text, asked)
    texts = parts.texts_of(r)[1:]
    for text, found in zip(texts, tokens or itertools.repeat(())):
      self._add('response', text, found)

  def result(self) -> dict[str, array.array]:
    """Returns name of a measure -> lengths; in tokens too, with a tokenizer."""
    return {name: lengths for name, lengths in self._found.items() if lengths}


class _Prompts:
  """Counts splits, prompts, who asked them and who answered or ranked."""

  def __init__(self):
    self._splits, self._use_cases, self._users, self._labelers = (
      collections.Counter() for _ in range(4)
    )
    self._personal = collections.Counter()
    self._texts, self._dialogues = Digests(), Digests()

  def add(self, r: Record) -> None:
    self._personal[personal.of_record(r)] += 1
    p = prompt_of(r)
    self._splits[p.split] += 1
    if isinstance(p, Document):
      return
    self._use_cases[p.use_case] += 1
    self._users[p.user] += 1
    self._labelers[getattr(r, 'labeler', '')] += 1
    self._texts.add(digest(fold(p.text)))
    if p.turns:
      self._dialogues.add(digest(*p.turns))

  def result(self, kind: type) -> dict[str, Any]:
    found = {
      'personal_data': {k: n for k, n in self._personal.items() if k},
      'splits': dict(self._splits),
    }
    if kind is Document:
      return found
    found |= {
      'prompts': len(self._texts),
      'dialogues': len(self._dialogues),
      'use_cases': dict(self._use_cases.most_common()),
      'users': _most(self._users),
    }
    if kind is not Prompt:
      found['labelers'] = _most(self._labelers)
    return found


def describe(
  loaded, tok=None, *, prompt_len: int = 0, response_len: int = 0
) -> dict[str, Any]:
  """Counts what a source has.

  Args:
    loaded: a `lookup.Loaded`.
    tok: tokenizer, to count tokens too.
    prompt_len: tokens; prompts above it are counted. 0 = no limit.
    response_len: tokens; responses above it are counted. 0 = no limit.

  Returns:
    Plain values, for `summary_text.render` and for JSON.
  """
  found = {'part': loaded.part} if loaded.part else {}
  found |= {
    'spec': loaded.spec,
    'kind': loaded.kind.__name__,
    'read': loaded.read,
    'kept': len(loaded.records),
    'dropped': dict(loaded.dropped),
    'first': dict(loaded.first),
    'notes': list(loaded.notes),
  }
  if not loaded.records:
    return found
  remarks, measured = _Remarks(response_len), _Lengths(tok)
  prompts, rankings = _Prompts(), _Rankings()
  for record in loaded.records:
    tokens = tok and [
      tasks.response_tokens(tok, text, _ANY)
      for text in parts.texts_of(record)[1:]
    ]
    remarks.add(record, tokens)
    measured.add(record, tokens)
    prompts.add(record)
    if loaded.kind is Ranking:
      rankings.add(record)
  found['notes'] += remarks.result()
  lengths = measured.result()
  found['lengths'] = {name: histogram(n) for name, n in lengths.items()}
  found |= prompts.result(loaded.kind)
  if loaded.kind is Ranking:
    found |= rankings.result()
  for name, limit in (('prompt', prompt_len), ('response', response_len)):
    tokens = lengths.get(f'{name} tokens')
    if limit and tokens and loaded.kind is not Document:
      found.setdefault('over', {})[name] = {
        'limit': limit,
        'count': sum(length > limit for length in tokens),
      }
  return found


def warnings(sources: Sequence, data: parts.Curated) -> list[str]:
  """Finds the parts that have lost more than half of their rows.

  Args:
    sources: `lookup.Loaded`, each with its part.
    data: the curated records of the sources.

  Returns:
    A line for each such part: how many rows were dropped, and why.
  """
  prompts = Digests()
  if any(loaded.part == 'prompts' for loaded in sources):
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
  data: parts.Curated,
  sets: Mapping[str, Mapping[str, Sequence[Record]]],
  tok,
  lost: Sequence[str] = (),
) -> dict[str, Any]:
  """Counts what the data stage made.

  Args:
    data: the records.
    sets: data set -> split -> the same records.
    tok: the tokenizer.
    lost: lines of `warnings`.

  Returns:
    Plain values, for `summary_text.render_made` and for JSON.
  """
  sides = {
    name: {split: len(records) for split, records in found.items()}
    for name, found in sets.items()
  }
  drops = {}
  for (part, reason), number in data.drops.counts.items():
    drops.setdefault(part, {})[reason] = {
      'rows': number,
      'first': data.drops.first[part, reason],
    }
  made = {
    'splits': {name: found for name, found in sides.items() if found},
    'rows': {},  # name of a file of packed rows -> its rows
    'vocab_size': tok.vocab_size,
    'left_out': drops,
    'notes': data.notes,
  }
  if lost:
    made['warnings'] = list(lost)
  if data.rankings:
    rankings = _Rankings()
    for ranking in data.rankings:
      rankings.add(ranking)
    made |= rankings.result()
  return made
