"""Prompts of simulated users: ten use cases in the paper's proportions.

Each prompt is written from a `Spec`, which `Prompt.spec` has as JSON. Users
differ widely in activity. Prompts are split by user, deduplicated by long
common prefixes and capped per user, as in Ouyang et al. 2022, section 3.2 and
appendix A.
"""

import collections
from collections.abc import Iterable
import dataclasses
import re
import zlib

import numpy as np

from instructrl.data import records
from instructrl.lab.people import forms
from instructrl.lab.people import prompt_writers
from instructrl.lab.world import prose
from instructrl.lab.world.facts import World

# Percent of the prompts (Ouyang et al. 2022, Table 1).
USE_CASES = {
  'generation': 45.6,
  'open_qa': 12.4,
  'brainstorming': 11.2,
  'chat': 8.4,
  'rewrite': 6.6,
  'summarization': 4.2,
  'classification': 3.5,
  'other': 3.5,
  'closed_qa': 2.6,
  'extract': 1.9,
}
# The share of prompts that labelers write, and their kinds (appendix A.1).
LABELER_SHARE = 0.15
LABELER_KINDS = {'plain': 0.4, 'few_shot': 0.2, 'user_based': 0.4}
# Shares of the forms among prompts to InstructGPT and to GPT-3; a use case
# without a form has instructions instead.
FORMS = {'instruction': 0.75, 'few_shot': 0.1, 'continuation': 0.15}
GPT3_FORMS = {'instruction': 0.1, 'few_shot': 0.45, 'continuation': 0.45}
MAX_PER_USER = 200
# A user's activity is proportional to its rank to minus this power.
ZIPF_EXPONENT = 1.0
PROMPTS_PER_USER = 20
# Lab prompts are short and share templates: drop only nearly equal texts.
MIN_SHARED_CHARS = 64
SPLITS = {'train': 0.8, 'validation': 0.1, 'test': 0.1}
# In words and marks; a word is about one token.
MAX_WORDS = 48
# Stop after a round in which a smaller fraction than this is new.
_MIN_NEW = 0.03

_WORD_OR_MARK = re.compile(r"\w+(?:'\w+)?|[^\w\s]|\n")


def generate_prompts(
  world: World, num_prompts: int, seed: int
) -> list[records.Prompt]:
  """Writes different prompts of all use cases.

  Args:
    world: the world of the prompts.
    num_prompts: the number of prompts, in the proportions of USE_CASES.
    seed: the seed of the prompts and users.

  Returns:
    Prompts in random order, a function of the arguments. Splits share no user
    and no text. Labelers' prompts have no user, and none is a test prompt.

  Raises:
    ValueError: the world has fewer different prompts.
  """
  rng = np.random.default_rng([seed, zlib.crc32(b'prompts')])
  users = _Users(seed, num_prompts)
  quotas = _quotas(num_prompts)
  kept = []
  missing = quotas
  while missing:
    new = [
      _write(world, rng, users, use_case)
      for use_case, count in missing.items()
      for _ in range(2 * count + 200)
    ]
    before = len(kept)
    kept = cap_per_user(
      dedup_long_prefix(
        kept + [p for p in new if p is not None], MIN_SHARED_CHARS
      ),
      MAX_PER_USER,
    )
    kept = _first_of_each(kept, quotas)
    have = collections.Counter(prompt.use_case for prompt in kept)
    missing = {c: q - have[c] for c, q in quotas.items() if q > have[c]}
    if missing and len(kept) - before < _MIN_NEW * len(new):
      raise ValueError(
        f'a world of size {world.size!r} has fewer than {num_prompts} '
        f'different prompts: {missing} are missing; ask for fewer'
      )
  order = rng.permutation(len(kept))
  return [
    dataclasses.replace(kept[j], id=f'{world.size}-{world.seed}-{seed}-{i}')
    for i, j in enumerate(order)
  ]


def generate_gpt3_prompts(
  world: World, num_prompts: int, seed: int, taken: Iterable[records.Prompt]
) -> list[records.Prompt]:
  """Writes test prompts like those to GPT-3, which instruct less (section 3.6).

  Args:
    world: the world of the prompts.
    num_prompts: the most prompts; fewer if new ones are rare.
    seed: the seed of the prompts.
    taken: prompts whose texts are not to be repeated.
  """
  rng = np.random.default_rng([seed, zlib.crc32(b'gpt3')])
  seen = {dedup_key(prompt.text) for prompt in taken}
  shares = {name: USE_CASES[name] for name in forms.WRITERS}
  found: list[records.Prompt] = []
  for _ in range(20 * num_prompts):
    text, spec, use_case = _of_forms(
      world, rng, prose.pick_by_share(rng, shares), GPT3_FORMS
    )
    key = dedup_key(text)
    if len(found) < num_prompts and key not in seen and _is_short(text):
      seen.add(key)
      i = len(found)
      found.append(
        records.Prompt(
          id=f'gpt3-{world.size}-{world.seed}-{seed}-{i}',
          text=text,
          user=f'gpt3-user-{seed}-{i // 2}',
          use_case=use_case,
          split='test',
          spec=spec.to_json(),
        )
      )
  return found


def dedup_long_prefix(
  prompts: Iterable[records.Prompt], min_chars: int
) -> list[records.Prompt]:
  """Keeps the first of all prompts with the same beginning.

  Two prompts are duplicates if their first `min_chars` characters are equal (or
  the whole texts, if one is shorter): users often send a long instruction with
  a changing end. Letter case and white space at the ends are ignored.

  Args:
    prompts: the prompts.
    min_chars: the length of a shared beginning that makes a duplicate.

  Returns:
    The remaining prompts, in order.

  Raises:
    ValueError: `min_chars` is not positive.
  """
  if min_chars < 1:
    raise ValueError(f'min_chars is {min_chars}; it must be 1 or more')
  seen, kept = set(), []
  for prompt in prompts:
    key = dedup_key(prompt.text)[:min_chars]
    if key not in seen:
      seen.add(key)
      kept.append(prompt)
  return kept


def dedup_key(text: str) -> str:
  """Returns the part of a text that decides whether two are duplicates."""
  return text.strip().lower()


def cap_per_user(
  prompts: Iterable[records.Prompt], cap: int
) -> list[records.Prompt]:
  """Keeps the first `cap` prompts of each user, in order.

  Prompts without a user are kept.

  Raises:
    ValueError: `cap` is not positive.
  """
  if cap < 1:
    raise ValueError(f'the cap per user is {cap}; it must be 1 or more')
  counts, kept = collections.Counter(), []
  for prompt in prompts:
    counts[prompt.user] += 1
    if not prompt.user or counts[prompt.user] <= cap:
      kept.append(prompt)
  return kept


class _Users:
  """Draws the user of each prompt; a user belongs to one split."""

  def __init__(self, seed: int, num_prompts: int):
    count = max(10, num_prompts // PROMPTS_PER_USER)
    activity = np.arange(1, count + 1) ** -ZIPF_EXPONENT
    self._limits = np.cumsum(activity / activity.sum())
    self._names = [f'user-{seed}-{i}' for i in range(count)]
    self._splits = _balanced_splits(_after_cap(activity, num_prompts))

  def draw(self, rng) -> tuple[str, str]:
    """Draws (user, split)."""
    i = min(
      int(np.searchsorted(self._limits, rng.random())), len(self._names) - 1
    )
    return self._names[i], self._splits[i]


def _after_cap(activity: np.ndarray, num_prompts: int) -> np.ndarray:
  """Returns the expected prompts of each user, with the busiest at the cap."""
  low, high = 0.0, float(num_prompts) * len(activity)
  for _ in range(60):
    scale = (low + high) / 2
    total = np.minimum(scale * activity, MAX_PER_USER).sum()
    low, high = (scale, high) if total < num_prompts else (low, scale)
  return np.minimum(low * activity, MAX_PER_USER)


def _balanced_splits(amounts: np.ndarray) -> list[str]:
  """Assigns each user, the busiest first, to the split that lacks most."""
  have = dict.fromkeys(SPLITS, 0.0)
  splits = []
  for amount in amounts:
    split = min(SPLITS, key=lambda name: (have[name] + amount) / SPLITS[name])
    have[split] += amount
    splits.append(split)
  return splits


def _quotas(num_prompts: int) -> dict[str, int]:
  """Returns counts in the proportions of Table 1 (largest remainders)."""
  exact = {
    c: num_prompts * share / sum(USE_CASES.values())
    for c, share in USE_CASES.items()
  }
  quotas = {c: int(x) for c, x in exact.items()}
  by_remainder = sorted(exact, key=lambda c: quotas[c] - exact[c])
  for use_case in by_remainder[: num_prompts - sum(quotas.values())]:
    quotas[use_case] += 1
  return quotas


def _write(world, rng, users: _Users, use_case: str) -> records.Prompt | None:
  user, split = users.draw(rng)
  shares, source = FORMS, 'customer'
  if split != 'test' and rng.random() < LABELER_SHARE:
    user, source = '', prose.pick_by_share(rng, LABELER_KINDS)
    if source == 'plain':
      shares = {'instruction': 1.0}
    elif source == 'few_shot':
      shares = {'few_shot': 1.0}
  text, spec, _ = _of_forms(world, rng, use_case, shares)
  if not _is_short(text):
    return None
  if source == 'few_shot' and spec.form != 'few_shot':
    source = 'plain'  # the use case has no examples
  return records.Prompt(
    id='',
    text=text,
    user=user,
    use_case=use_case,
    split=split,
    spec=dataclasses.replace(spec, source=source).to_json(),
  )


def _of_forms(world, rng, use_case: str, shares):
  """Returns (text, specification, use case) of a prompt of one of the forms."""
  form = prose.pick_by_share(rng, shares)
  written = forms.write(world, rng, use_case, form)
  if written is None:
    written, form = prompt_writers.write(world, rng, use_case), 'instruction'
  text, spec = written
  return text, dataclasses.replace(spec, form=form), use_case


def _is_short(text: str) -> bool:
  return len(_WORD_OR_MARK.findall(text)) <= MAX_WORDS


def _first_of_each(prompts, quotas) -> list[records.Prompt]:
  counts, kept = collections.Counter(), []
  for prompt in prompts:
    counts[prompt.use_case] += 1
    if counts[prompt.use_case] <= quotas[prompt.use_case]:
      kept.append(prompt)
  return kept
