"""Splits of prompts, users and documents.

A prompt that one source holds out is held out in all. Nothing is both held out
and trained on. Draws depend on the seed and the texts (`parts.draw`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from instructrl.data.curate import parts
from instructrl.data.curate import personal
from instructrl.data.digests import Digests
from instructrl.data.records import Document, prompt_of, SPLITS
from instructrl.data.sources.lookup import Loaded

Unit = TypeVar('Unit', str, int)


def take_share(
  sizes: Mapping[Unit, int],
  fraction: float,
  seed: int,
  purpose: str,
  name: Callable[[Unit], str] = str,
) -> set[Unit]:
  """Draws units until they hold a share of all.

  Args:
    sizes: unit -> its size.
    fraction: the share. Above 0, at least one of two or more units is taken.
    seed: seed of the parts.draw.
    purpose: name of the parts.draw.
    name: unit -> its name in the parts.draw.

  Returns:
    The units. They hold at most the share, rounded, or are a single unit.
  """
  target = max(1, round(fraction * sum(sizes.values())))
  if not fraction or len(sizes) < 2:
    return set()
  taken, held = set(), 0
  order = sorted(sizes, key=lambda unit: parts.draw(seed, purpose, name(unit)))
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
    split, user = item.split, item.user
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
  owner = {}  # prompt -> its first item, whose user the prompt goes with
  for item in items:
    owner.setdefault(item.key, item)
  # The unit of a split: a user's name, or the key of a prompt without one.
  unit_of = lambda item: item.user if by_user and item.user else item.key
  part_of, sizes = {}, {part: {} for part in parts.PARTS}
  for item in items:
    part_of.setdefault(unit_of(owner[item.key]), item.part)
  for item in owner.values():
    unit = unit_of(item)
    if unit not in (user_side if isinstance(unit, str) else prompt_side):
      part = sizes[part_of[unit]]
      part[unit] = part.get(unit, 0) + 1

  def name(unit):
    if isinstance(unit, str):
      return f'user\0{unit}'
    return f'prompt\0{owner[unit].text}'

  held = set()
  for units in sizes.values():
    held |= take_share(units, settings.validation_fraction, seed, 'split', name)
  side = lambda unit: 'validation' if unit in held else 'train'
  for item in items:
    if by_user and item.user:
      user_side.setdefault(item.user, side(item.user))
  for key, item in owner.items():
    unit = unit_of(item)
    found = user_side[unit] if isinstance(unit, str) else side(unit)
    prompt_side.setdefault(key, found)
  return prompt_side, user_side


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
    return user_side.get(item.user, side) != side

  reason = 'prompt is on the other side than its user'
  items = drops.without(items, apart, reason)
  for item in items:
    item.split = prompt_side[item.key]
  return items


def split_documents(
  sources: Sequence[Loaded],
  settings: parts.CurateSettings,
  seed: int,
  drops: parts.Drops,
  notes: list[str],
) -> Sequence[Document]:
  """Splits the documents of all sources; each source holds out its share."""
  found, ids, keys = [], Digests(), Digests()
  for number, source in enumerate(sources):
    if source.part != 'documents':
      continue
    items = [*parts.items_of(number, source, keys)]
    if settings.pii == 'drop':
      items = drops.without(items, lambda item: personal.reason(item.record))
    if settings.resplit or all(item.split == 'train' for item in items):
      # The same text must not be on both sides, so texts are drawn.
      first = {item.key: item for item in reversed(items)}
      sizes = {item.key: 1 for item in items}
      text = lambda key, first=first: first[key].text
      share = settings.validation_fraction
      held = take_share(sizes, share, seed, 'documents', text)
      if not held and items:
        notes.append(
          f'documents: {source.spec} is a single text, all of it for '
          'training: nothing of it is held out'
        )
      for item in items:
        item.split = 'validation' if item.key in held else 'train'
    for item in items:
      item.id = parts.unused(item.id, ids)
    found += items
  held = {item.key for item in found if item.split != 'train'}
  leaks = lambda item: item.split == 'train' and item.key in held
  reason = 'text is held out elsewhere'
  return parts.records_of(drops.without(found, leaks, reason))
