"""Splits of prompts, users and documents.

A prompt that one source holds out is held out in all. Nothing is both held out
and trained on. Draws depend on the seed and the texts (`parts.draw`).
"""

from collections.abc import Sequence
import dataclasses

from instructrl.data.curate import parts
from instructrl.data.curate import personal
from instructrl.data.records import Document, fold, prompt_of, SPLITS
from instructrl.data.sources.lookup import Loaded


def take_share(
  sizes: dict[str, int], fraction: float, seed: int, purpose: str
) -> set[str]:
  """Draws units until they hold a share of all.

  Args:
    sizes: unit -> its size.
    fraction: the share. Above 0, at least one of two or more units is taken.
    seed: seed of the parts.draw.
    purpose: name of the parts.draw.

  Returns:
    The units. They hold at most the share, rounded, or are a single unit.
  """
  target = max(1, round(fraction * sum(sizes.values())))
  if not fraction or len(sizes) < 2:
    return set()
  taken, held = set(), 0
  order = sorted(sizes, key=lambda unit: parts.draw(seed, purpose, unit))
  for unit in order:
    if held + sizes[unit] <= target:
      taken.add(unit)
      held += sizes[unit]
  return taken or {min(order, key=lambda unit: sizes[unit])}


def _own_sides(
  items: list[parts.Item],
  sources: Sequence[Loaded],
  own: set[int],
  by_user: bool,
):
  """Reads the splits of the sources that have a split of their own.

  Returns:
    (prompt -> split, user -> split).
  """
  prompts, users = {}, {}
  for item in items:
    if item.source not in own:
      continue
    split, user = item.prompt.split, item.prompt.user
    # The later split wins: a prompt that one source holds out is held out.
    known = prompts.get(item.key, split)
    prompts[item.key] = max(split, known, key=SPLITS.index)
    if by_user and user and users.setdefault(user, split) != split:
      spec = sources[item.source].spec
      raise parts.CurateError(
        f'{item.part}: the split of {spec} itself leaks: user {user!r} is in '
        f'{users[user]!r} and in {split!r}; set resplit=True to split it by '
        "user, or split_by='prompt' to compare prompts only"
      )
  return prompts, users


def _sides(
  items: list[parts.Item],
  sources: Sequence[Loaded],
  settings: parts.CurateSettings,
  seed: int,
) -> tuple[dict[str, str], dict[str, str]]:
  """Chooses the splits of prompts and users.

  A user's prompts go together. A prompt of several users goes with its first
  user: if all of them went together, a greeting would join all users into one.
  Each part holds out its share, so that a small part has held-out prompts too.

  Returns:
    (prompt -> split, user -> split).
  """
  by_user = settings.split_by == 'user'
  own = {
    i
    for i, source in enumerate(sources)
    if not settings.resplit
    and source.part in parts.PARTS
    and any(prompt_of(r).split != 'train' for r in source.records)
  }
  prompt_side, user_side = _own_sides(items, sources, own, by_user)
  owner, part_of = {}, {}  # prompt -> (user, prompt), the unit of its split
  for item in items:
    user = item.prompt.user if by_user else ''
    unit = (user, '' if user else item.key)
    owner.setdefault(item.key, unit)
    part_of.setdefault(owner[item.key], item.part)
  sizes = {part: {} for part in parts.PARTS}
  for user, key in owner.values():
    if user not in user_side if user else key not in prompt_side:
      part = sizes[part_of[user, key]]
      name = _name(user, key)
      part[name] = part.get(name, 0) + 1
  held = set()
  for units in sizes.values():
    held |= take_share(units, settings.validation_fraction, seed, 'split')
  side = lambda *unit: 'validation' if _name(*unit) in held else 'train'
  for item in items:
    if by_user and item.prompt.user:
      user_side.setdefault(item.prompt.user, side(item.prompt.user, ''))
  for key, (user, prompt) in owner.items():
    found = user_side[user] if user else side(user, prompt)
    prompt_side.setdefault(key, found)
  return prompt_side, user_side


def _name(user: str, key: str) -> str:
  """Names a unit of the split: a user, or a prompt without a known user."""
  return f'user\0{user}' if user else f'prompt\0{key}'


def split_prompts(
  items: list[parts.Item],
  sources: Sequence[Loaded],
  settings: parts.CurateSettings,
  seed: int,
  drops: parts.Drops,
) -> list[parts.Item]:
  """Sets the splits; drops rows whose prompt and user are on two sides."""
  prompt_side, user_side = _sides(items, sources, settings, seed)

  def apart(item):
    side = prompt_side[item.key]
    return user_side.get(item.prompt.user, side) != side

  def split(item):
    record = parts.with_prompt(item.record, split=prompt_side[item.key])
    return item.with_record(record)

  reason = 'prompt is on the other side than its user'
  return list(map(split, drops.without(items, apart, reason)))


def split_documents(
  sources: Sequence[Loaded],
  settings: parts.CurateSettings,
  seed: int,
  drops: parts.Drops,
  notes: list[str],
) -> list[Document]:
  """Splits the documents of all sources; each source holds out its share."""
  found, ids = [], set()
  for source in sources:
    if source.part != 'documents':
      continue
    records = list(source.records)
    if settings.pii == 'drop':
      records = drops.without(records, personal.reason, part='documents')
    if settings.resplit or all(r.split == 'train' for r in records):
      # The same text must not be on both sides, so texts are drawn.
      texts = dict.fromkeys((fold(r.text) for r in records), 1)
      held = take_share(texts, settings.validation_fraction, seed, 'documents')
      if not held and records:
        notes.append(
          f'documents: {source.spec} is a single text, all of it for '
          'training: nothing of it is held out'
        )
      sides = ['train', 'validation']
      records = [
        dataclasses.replace(r, split=sides[fold(r.text) in held])
        for r in records
      ]
    found += [
      dataclasses.replace(r, id=parts.unused(r.id, ids)) for r in records
    ]
  held = {fold(r.text) for r in found if r.split != 'train'}
  leaks = lambda r: r.split == 'train' and fold(r.text) in held
  reason = 'text is held out elsewhere'
  return drops.without(found, leaks, reason, 'documents')
