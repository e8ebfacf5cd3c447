"""From the rows of many sources to data sets that share no prompt.

What is decided here is decided over all sources together: which prompts are
near duplicates, how many of a user are kept, which side of the split a prompt
is on, and which prompts only PPO sees (Ouyang et al. 2022, section 3.2 and
appendix A). Prompts are compared without regard to case and spacing
(`records.fold`). All that is random follows from the seed and the texts, not
from the order of the sources.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses

from instructrl.data.curate import personal
from instructrl.data.curate import splits
from instructrl.data.curate.parts import Curated
from instructrl.data.curate.parts import CurateError
from instructrl.data.curate.parts import draw
from instructrl.data.curate.parts import Drops
from instructrl.data.curate.parts import Item
from instructrl.data.curate.parts import PARTS
from instructrl.data.curate.parts import Settings
from instructrl.data.curate.parts import Source
from instructrl.data.curate.parts import unused
from instructrl.data.curate.parts import with_prompt
from instructrl.data.records import (
  Demonstration,
  Document,
  Prompt,
  prompt_of,
  Ranking,
)

# --- Near duplicates, users ---------------------------------------------------


def prefix_duplicates(keys: Iterable[str], prefix: int) -> dict[str, str]:
  """Near duplicates: prompts whose first characters are the same.

  The paper removes prompts that share a long common prefix. Here two folded
  prompts do so if their first `prefix` characters are equal and both have so
  many; shorter ones are duplicates only if they are equal. That is a relation
  of groups, found in one pass.

  Args:
    keys: folded prompts; the first of a group is kept.
    prefix: characters; 0 finds nothing.

  Returns:
    Duplicate -> the prompt that is kept for it.
  """
  kept, found = {}, {}
  for key in keys:
    if prefix and len(key) >= prefix:
      first = kept.setdefault(key[:prefix], key)
      if first != key:
        found[key] = first
  return found


def _deduplicated(
  items: list[Item],
  held_out: Callable[[Item], bool],
  settings: Settings,
  drops: Drops,
) -> list[Item]:
  # What a source holds out stays, or training would take its place.
  order = sorted(items, key=lambda item: not held_out(item))
  found = prefix_duplicates((i.key for i in order), settings.dedup_prefix)
  kept = []
  for item in items:
    if item.key in found:
      drops.add(
        item.part,
        f'prompt shares its first {settings.dedup_prefix} '
        'characters with another',
        item.prompt.id,
      )
    else:
      kept.append(item)
  return kept


def _limited_users(
  items: list[Item], settings: Settings, seed: int, drops: Drops
) -> list[Item]:
  """At most so many prompts of a user, drawn."""
  asked = {}
  for item in items:
    if item.prompt.user:
      asked.setdefault(item.prompt.user, set()).add(item.key)
  most = settings.max_per_user
  allowed = {
    user: set(sorted(keys, key=lambda k: draw(seed, 'user', user, k))[:most])
    for user, keys in asked.items()
    if most and len(keys) > most
  }
  kept = []
  for item in items:
    user = item.prompt.user
    if user in allowed and item.key not in allowed[user]:
      drops.add(
        item.part, f'more than {most} prompts of a user', item.prompt.id
      )
    else:
      kept.append(item)
  return kept


# --- Labelers, PPO's prompts -------------------------------------------------


def _grouped(
  items: list[Item], settings: Settings, seed: int, drops: Drops
) -> list[Item]:
  """Rankings by held-out labelers are kept for validation only."""
  labelers = {i.record.labeler: 1 for i in items if i.part == 'rankings'}
  held = splits.take_share(
    labelers, settings.heldout_labelers, seed, 'labelers'
  )
  kept = []
  for item in items:
    if item.part == 'rankings':
      group = 'heldout' if item.record.labeler in held else item.record.group
      if group == 'heldout' and item.prompt.split == 'train':
        drops.add(
          item.part,
          'training prompt ranked by a held-out labeler',
          item.prompt.id,
        )
        continue
      item = dataclasses.replace(
        item, record=dataclasses.replace(item.record, group=group)
      )
    kept.append(item)
  return kept


def _set_aside(
  items: list[Item], settings: Settings, seed: int, drops: Drops
) -> list[Item]:
  """Turns rankings of the prompts that only PPO sees into prompts."""
  shown = {i.key for i in items if i.part == 'demonstrations'}
  ranked = {
    i.key: 1
    for i in items
    if i.part == 'rankings' and i.prompt.split == 'train' and i.key not in shown
  }
  aside = splits.take_share(ranked, settings.ppo_fraction, seed, 'ppo')
  kept, found = [], {}
  for item in items:
    if item.part == 'rankings' and item.key in aside:
      drops.add(item.part, 'prompt is set aside for PPO', item.prompt.id)
      found.setdefault(
        item.key, dataclasses.replace(item, part='prompts', record=item.prompt)
      )
    else:
      kept.append(item)
  return [*kept, *found.values()]


def _with_ids(items: list[Item]) -> list[Item]:
  """One id for each prompt of a part, and one layout for each in all.

  Two sources may number theirs alike, and only one may know a dialogue's turns.
  Where a prompt is demonstrated and ranked, each part has its own source's id.
  """
  ids, taken, turns = {}, set(), {}
  for item in items:
    if (item.part, item.key) not in ids:
      ids[item.part, item.key] = unused(item.prompt.id, taken)
    turns[item.key] = turns.get(item.key) or item.prompt.turns
  return [
    dataclasses.replace(
      item,
      record=with_prompt(
        item.record, id=ids[item.part, item.key], turns=turns[item.key]
      ),
    )
    for item in items
  ]


def _prompts(items: list[Item], drops: Drops) -> dict[str, list[Prompt]]:
  """Split -> prompts, each once."""
  seen = {i.key: i.prompt for i in items if i.part != 'prompts'}
  train = {k: p for k, p in seen.items() if p.split == 'train'}
  ranked = {
    i.key: i.prompt
    for i in items
    if i.part == 'rankings' and i.prompt.split == 'train'
  }
  own, held = {}, {}
  for item in items:
    if item.part == 'prompts' and item.prompt.split == 'train':
      if item.key in own:
        drops.add('prompts', 'the same prompt again', item.prompt.id)
      own.setdefault(item.key, item.prompt)
    elif item.prompt.split != 'train':
      held.setdefault(item.prompt.split, {}).setdefault(item.key, item.prompt)
  # The same prompt in two splits of a data set has two ids.
  ppo = [
    dataclasses.replace(p, id=f'ppo/{p.id}')
    for p in (own or ranked or train).values()
  ]
  made = {
    'train': list(train.values()),
    'ppo': ppo,
    **{name: list(found.values()) for name, found in held.items()},
  }
  return {split: prompts for split, prompts in made.items() if prompts}


def _as_part(part: str, record):
  """A record of a source as one of the part that it was given for."""
  if part == 'prompts':
    return prompt_of(record)
  if part == 'demonstrations' and isinstance(record, Ranking):
    best = record.responses[record.ranks.index(0)]
    return Demonstration(
      prompt=record.prompt, response=best, labeler=record.labeler
    )
  return record


def _without_silence(items, drops):
  """Without demonstrations of a ranking whose best response is empty."""
  kept = []
  for item in items:
    if (
      isinstance(item.record, Demonstration)
      and not item.record.response.strip()
    ):
      drops.add(item.part, 'the best response is empty', item.prompt.id)
    else:
      kept.append(item)
  return kept


ACCEPTED = {  # part -> the types of record that a source for it may have
  'demonstrations': (Demonstration, Ranking),
  'rankings': (Ranking,),
  'prompts': (Prompt, Demonstration, Ranking),
  'documents': (Document,),
}


def check_kind(part: str, spec: str, kind: type) -> None:
  """Refuses a source that is given for the wrong part."""
  if kind not in ACCEPTED[part]:
    others = [p for p, kinds in ACCEPTED.items() if kinds[0] is kind]
    raise CurateError(
      f'{part}: {spec} has records of the type {kind.__name__}; it belongs '
      f'to {others[0]}'
    )


def curate(
  sources: Sequence[Source], *, settings: Settings, seed: int
) -> Curated:
  """Puts sources together: filters, limits, splits.

  A source of rankings that is given for demonstrations has its best-ranked
  response as one; for prompts, any source with prompts will do.

  Args:
    sources: in the order of preference: of two rows that cannot both stay, it
      is the first that does.
    settings: see there.
    seed: of the split and all other draws.

  Returns:
    The records, in the order of the sources.

  Raises:
    CurateError: a source of the wrong type, or whose own split leaks.
  """
  drops, notes, items = Drops(), [], []
  for source in sources:
    for kind in {type(record) for record in source.records}:
      check_kind(source.part, source.spec, kind)
      if source.part == 'demonstrations' and kind is Ranking:
        notes.append(
          f'demonstrations: {source.spec} has rankings: the best '
          'response of each was taken'
        )
  for part in PARTS:
    for number, source in enumerate(sources):
      if source.part == part:
        items += [
          Item(part, number, _as_part(part, record))
          for record in source.records
        ]
  items = _without_silence(items, drops)
  if settings.pii == 'drop':
    items = [
      item
      for item in items
      if not personal.counted(item.record, item.part, drops)
    ]
  own = lambda item: not settings.resplit and item.prompt.split != 'train'
  items = _deduplicated(items, own, settings, drops)
  items = _limited_users(items, settings, seed, drops)
  items = _with_ids(splits.split_prompts(items, sources, settings, seed, drops))
  items = _grouped(items, settings, seed, drops)
  items = _set_aside(items, settings, seed, drops)
  prompts = _prompts(items, drops)
  records = lambda part: [i.record for i in items if i.part == part]
  return Curated(
    demonstrations=records('demonstrations'),
    rankings=records('rankings'),
    prompts=prompts,
    drops=drops,
    notes=notes,
    documents=splits.split_documents(sources, settings, seed, drops, notes),
  )
