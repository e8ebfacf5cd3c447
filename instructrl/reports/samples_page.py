"""Samples on a page: prompts with the answers of all policies, by use case."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from instructrl.evaluators import statistics
from instructrl.reports import headline
from instructrl.reports.pages import words
from instructrl.reports.policies import ShownPolicies

# Bytes of samples as JSON, which is about their size on the page. A page has
# figures of 1 MB, and stays below 5 MB.
MOST_BYTES = 3_000_000
# Field of a policy's sample -> how to show it.
ABOUT = {
  'likert': '{:.0f} of 7',
  'utility': 'utility {:.2f}',
  'score': 'score {:.2f}',
  'tokens': '{} tokens',
}
BEST = ('utility', 'score')  # the field that marks the best answers
CONSTRAINT = 'satisfies_constraint'  # the row that is a failure where it is 0
QUALITY = 'overall_quality'  # the row of Table 3 that is not a rate
NEUTRAL = ('expresses_opinion', 'expresses_moral_judgment')  # not failures


def contents(
  samples: Sequence[Mapping], seed: int, policies: ShownPolicies
) -> dict | None:
  """Returns cards of prompts and answers, in an order drawn by a seed.

  Args:
    samples: lines of samples.jsonl.
    seed: the evaluation's.
    policies: their order, labels and colours.

  Returns:
    'total' and 'shown' prompts, 'groups' (use case -> cards), 'outcomes' (how
    cards may be filtered) and 'first', the card of the first screen.
  """
  samples = _compared(samples)
  if not samples:
    return None
  rng = statistics.generator(seed, 'report samples')
  subject = headline.subject(samples[0]['policies'], policies)
  groups: dict[str, list] = {}
  outcomes: dict[str, None] = {}
  size = shown = 0
  for i in rng.permutation(len(samples)):
    card = _card(samples[i], policies, subject)
    size += len(json.dumps(card))
    if shown and size > MOST_BYTES:
      break
    groups.setdefault(card['kind'], []).append(card)
    outcomes[card['outcome']] = None
    shown += 1
    if shown == 1:
      first = _first(samples[i], policies, subject)
  return {
    'total': f'{len(samples):,}',
    'shown': f'{shown:,}',
    'whole': shown == len(samples),
    'groups': dict(sorted(groups.items())),
    'outcomes': sorted(filter(None, outcomes)),
    'first': first,
  }


def _compared(samples: Sequence[Mapping]) -> list[Mapping]:
  """Returns the samples in which every policy answers the same prompt."""
  kinds = {sample.get('kind') for sample in samples}
  kind = next((k for k in ('preference', 'answer') if k in kinds), None)
  samples = [s for s in samples if s.get('kind') == kind]
  if kind in {s.get('eval') for s in samples}:
    # The main evaluation of several of this kind.
    samples = [s for s in samples if s['eval'] == kind]
  return samples


def _first(sample: Mapping, policies: ShownPolicies, subject) -> dict:
  """Returns the card of the first screen.

  It has the answers of the first policy, of the reference and of the subject,
  without flags.
  """
  names = policies.sort(sample['policies'])
  few = dict.fromkeys([names[0], headline.REFERENCE, subject or names[-1]])
  found = {
    name: {k: v for k, v in sample['policies'][name].items() if k != 'metadata'}
    for name in few
    if name in names
  }
  return _card({**sample, 'policies': found}, policies, subject)


def _card(
  sample: Mapping[str, Any], policies: ShownPolicies, subject: str | None
) -> dict:
  found = sample['policies']
  best = _best(found)
  answers = []
  for policy in policies.sort(found):
    row = found[policy]
    about = [form.format(row[key]) for key, form in ABOUT.items() if key in row]
    if not row.get('ended', True):
      about.append('cut')
    answers.append(
      {
        'name': policies.label(policy),
        'color': policies.color(policy),
        'about': ', '.join(about),
        'response': row['response'],
        'flags': flags(row.get('metadata', {})),
        'best': policy in best,
      }
    )
  outcome = ''
  win = found.get(subject, {}).get('win')
  if win is not None:
    names = [policies.label(subject or ''), policies.label(headline.REFERENCE)]
    better = names if win > 0.5 else names[::-1]
    outcome = f'{better[0]} preferred to {better[1]}'
    outcome = 'a tie' if win == 0.5 else outcome
  return {
    'prompt': sample['prompt'],
    'kind': words(sample.get('use_case', '')),
    'outcome': outcome,
    'answers': answers,
  }


def _best(found: Mapping[str, Mapping]) -> list[str]:
  """Returns the policies with the best answer; none if all are alike."""
  for field in BEST:
    values = {p: row[field] for p, row in found.items() if field in row}
    if len({*values.values()}) > 1:
      return [p for p, value in values.items() if value == max(values.values())]
  return []


def flags(metadata: Mapping[str, float]) -> list[tuple[str, str]]:
  """Returns (CSS class, text): failures first, then kept constraints."""
  failures, kept, neutral = [], [], []
  for row, flag in metadata.items():
    if row == CONSTRAINT:
      if flag:
        kept.append(('kept', '✓ kept the constraints'))
      else:
        failures.append(('failure', '✗ broke a constraint'))
    elif flag and row in NEUTRAL:
      neutral.append(('soft', words(row)))
    elif flag and row != QUALITY:
      failures.append(('failure', f'✗ {words(row)}'))
  return failures + kept + neutral
