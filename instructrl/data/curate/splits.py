"""Which side of the split a prompt, a user or a document is on.

A prompt that any source holds out is held out in all; nothing is held out and
trained on. What is random follows from the seed and the texts (`parts.draw`).
"""

from collections.abc import Sequence
import dataclasses

from instructrl.data.curate import personal
from instructrl.data.curate.parts import CurateError
from instructrl.data.curate.parts import draw
from instructrl.data.curate.parts import Drops
from instructrl.data.curate.parts import Item
from instructrl.data.curate.parts import PARTS
from instructrl.data.curate.parts import Settings
from instructrl.data.curate.parts import Source
from instructrl.data.curate.parts import unused
from instructrl.data.curate.parts import with_prompt
from instructrl.data.records import Document, fold, prompt_of

_GRAVITY = {'train': 0, 'validation': 1, 'test': 2}


def take_share(
  sizes: dict[str, int], fraction: float, seed: int, purpose: str
) -> set[str]:
  """Draws units until they hold a share of all.

  Args:
    sizes: unit -> its size.
    fraction: the share; above 0 at least one unit is taken where there are two.
    seed: of the draw.
    purpose: of the draw.

  Returns:
    The units; they hold at most the share, rounded, unless one unit is more.
  """
  target = max(1, round(fraction * sum(sizes.values())))
  if not fraction or len(sizes) < 2:
    return set()
  taken, held = set(), 0
  order = sorted(sizes, key=lambda unit: draw(seed, purpose, unit))
  for unit in order:
    if held + sizes[unit] <= target:
      taken.add(unit)
      held += sizes[unit]
  return taken or {min(order, key=lambda unit: sizes[unit])}


def _own_sides(
  items: list[Item], sources: Sequence[Source], own: set[int], by_user: bool
):
  """(prompt -> split, user -> split), of sources with a split of their own."""
  prompts, users = {}, {}
  for item in items:
    if item.source not in own:
      continue
    split, user = item.prompt.split, item.prompt.user
    # A prompt that one source holds out is held out in all.
    prompts[item.key] = max(
      split, prompts.get(item.key, split), key=_GRAVITY.__getitem__
    )
    if by_user and user and users.setdefault(user, split) != split:
      spec = sources[item.source].spec
      raise CurateError(
        f'{item.part}: the split of {spec} itself leaks: user {user!r} is in '
        f'{users[user]!r} and in {split!r}; set resplit=True to split it by '
        "user, or split_by='prompt' to compare prompts only"
      )
  return prompts, users


def _sides(
  items: list[Item], sources: Sequence[Source], settings: Settings, seed: int
) -> tuple[dict[str, str], dict[str, str]]:
  """(prompt -> split, user -> split).

  A user's prompts go together. A prompt of several users goes where its first
  user goes: were they to go together, a greeting would join all users into
  one. Each part holds out its share, so that a small one is not without.
  """
  by_user = settings.split_by == 'user'
  own = {
    i
    for i, source in enumerate(sources)
    if not settings.resplit
    and source.part in PARTS
    and any(prompt_of(r).split != 'train' for r in source.records)
  }
  prompt_side, user_side = _own_sides(items, sources, own, by_user)
  owner, part_of = {}, {}
  for item in items:
    user = item.prompt.user if by_user else ''
    unit = f'user\0{user}' if user else f'prompt\0{item.key}'
    owner.setdefault(item.key, unit)
    part_of.setdefault(owner[item.key], item.part)
  sizes = {part: {} for part in PARTS}
  for key, unit in owner.items():
    free = (
      unit[5:] not in user_side
      if unit.startswith('user')
      else key not in prompt_side
    )
    if free:
      part = sizes[part_of[unit]]
      part[unit] = part.get(unit, 0) + 1
  held = set().union(
    *(
      take_share(units, settings.validation_fraction, seed, 'split')
      for units in sizes.values()
    )
  )
  for item in items:
    user = item.prompt.user if by_user else ''
    if user:
      user_side.setdefault(
        user, 'validation' if f'user\0{user}' in held else 'train'
      )
  for key, unit in owner.items():
    if key not in prompt_side:
      prompt_side[key] = (
        user_side[unit[5:]]
        if unit.startswith('user')
        else 'validation'
        if unit in held
        else 'train'
      )
  return prompt_side, user_side


def split_prompts(
  items: list[Item],
  sources: Sequence[Source],
  settings: Settings,
  seed: int,
  drops: Drops,
) -> list[Item]:
  """The rows with their split; those whose user is elsewhere are dropped."""
  prompt_side, user_side = _sides(items, sources, settings, seed)
  kept = []
  for item in items:
    side = prompt_side[item.key]
    if user_side.get(item.prompt.user, side) != side:
      drops.add(
        item.part, 'prompt is on the other side than its user', item.prompt.id
      )
    else:
      kept.append(
        dataclasses.replace(item, record=with_prompt(item.record, split=side))
      )
  return kept


def split_documents(
  sources: Sequence[Source],
  settings: Settings,
  seed: int,
  drops: Drops,
  notes: list[str],
) -> list[Document]:
  """The documents of all sources; each source holds out its share."""
  found, ids = [], set()
  for source in sources:
    if source.part != 'documents':
      continue
    records = list(source.records)
    if settings.pii == 'drop':
      records = [
        record
        for record in records
        if not personal.counted(record, 'documents', drops)
      ]
    own = not settings.resplit and any(r.split != 'train' for r in records)
    # The same text on both sides would be a leak here too.
    unit = lambda record: fold(record.text)
    held = (
      set()
      if own
      else take_share(
        dict.fromkeys(map(unit, records), 1),
        settings.validation_fraction,
        seed,
        'documents',
      )
    )
    if not own and not held and records:
      notes.append(
        f'documents: {source.spec} is a single text, all of it '
        'for training: nothing of it is held out'
      )
    for record in records:
      if not own:
        side = 'validation' if unit(record) in held else 'train'
        record = dataclasses.replace(record, split=side)
      found.append(dataclasses.replace(record, id=unused(record.id, ids)))
  held = {fold(r.text) for r in found if r.split != 'train'}
  kept = []
  for record in found:
    if record.split == 'train' and fold(record.text) in held:
      drops.add('documents', 'text is held out elsewhere', record.id)
    else:
      kept.append(record)
  return kept
