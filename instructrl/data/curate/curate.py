"""Combines the rows of all sources into data sets that share no prompt.

Curation decides over all sources together: which prompts are near duplicates,
how many prompts of a user are kept, the split of each prompt, and the prompts
that only PPO sees (Ouyang et al. 2022, section 3.2 and appendix A). Prompts are
compared without regard to case and spacing (`records.fold`). Draws depend on
the seed and the texts, not on the order of the sources.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses

from instructrl.data.curate import parts
from instructrl.data.curate import personal
from instructrl.data.curate import splits
from instructrl.data.digests import digest
from instructrl.data.digests import Digests
from instructrl.data.records import Prompt, prompt_of
from instructrl.data.sequences import Mapped
from instructrl.data.sources.lookup import Loaded


def curate(
  sources: Sequence[Loaded], *, settings: parts.CurateSettings, seed: int
) -> parts.Curated:
  """Filters, limits and splits the records of all sources.

  A source of rankings that is given for demonstrations gives its best-ranked
  responses. Prompts may come from any source with prompts.

  Args:
    sources: with their parts, in the order of preference; of two rows that
      exclude each other the first is kept.
    settings: see `Settings`.
    seed: seed of the split and of all other draws.

  Returns:
    The records, in the order of the sources.

  Raises:
    CurateError: a source has the wrong type, or its own split leaks.
  """
  drops, notes, items, keys = parts.Drops(), [], [], Digests()
  for part in parts.PARTS:
    for number, source in enumerate(sources):
      if source.part == part:
        found = [*parts.items_of(number, source, keys)]
        if part == 'demonstrations' and any(item.group for item in found):
          notes.append(
            f'demonstrations: {source.spec} has rankings: the best response of '
            'each was taken'
          )
        items += found
  items = drops.without(items, _silent, 'the best response is empty')
  if settings.pii == 'drop':
    items = drops.without(items, lambda item: personal.reason(item.record))
  own = lambda item: not settings.resplit and item.split != 'train'
  items = _deduplicated(items, own, settings.dedup_prefix, drops)
  items = _limited_users(items, settings.max_per_user, seed, drops)
  items = _with_ids(splits.split_prompts(items, sources, settings, seed, drops))
  items = _grouped(items, settings.heldout_labelers, seed, drops)
  items = _set_aside(items, settings.ppo_fraction, seed, drops)
  prompts = _prompts(items, drops)
  records = lambda part: parts.records_of([i for i in items if i.part == part])
  return parts.Curated(
    demonstrations=records('demonstrations'),
    rankings=records('rankings'),
    prompts=prompts,
    drops=drops,
    notes=notes,
    documents=splits.split_documents(sources, settings, seed, drops, notes),
  )


def _silent(item: parts.Item) -> bool:
  """Returns whether a ranking's best response is no demonstration: empty."""
  return item.part == 'demonstrations' and not item.record.response.strip()


# --- Near duplicates, users ---------------------------------------------------


def prefix_duplicates(
  prompts: Iterable[tuple[int, str]], prefix: int
) -> dict[int, int]:
  """Finds near duplicates: prompts whose first characters are the same.

  The paper removes prompts that share a long common prefix. Here two folded
  prompts are duplicates if both have at least `prefix` characters and the first
  `prefix` are equal; shorter ones only if they are equal. One pass finds them.

  Args:
    prompts: (number, folded text), the number being that of the text; the
      first of a group is kept.
    prefix: characters; 0 finds nothing.

  Returns:
    Number of a duplicate -> that of the prompt that is kept for it.
  """
  kept, found = Digests(), {}
  if not prefix:
    return found
  for key, text in prompts:
    if len(text) >= prefix:
      first = kept.setdefault(digest(text[:prefix]), key)
      if first != key:
        found[key] = first
  return found


def _deduplicated(
  items: list[parts.Item],
  held_out: Callable[[parts.Item], bool],
  prefix: int,
  drops: parts.Drops,
) -> list[parts.Item]:
  # Rows that a source holds out come first, or training would take their place.
  order = sorted(items, key=lambda item: not held_out(item))
  found = prefix_duplicates(((i.key, i.text) for i in order), prefix)
  reason = f'prompt shares its first {prefix} characters with another'
  return drops.without(items, lambda i: i.key in found, reason)


def _limited_users(
  items: list[parts.Item], most: int, seed: int, drops: parts.Drops
) -> list[parts.Item]:
  """Keeps at most `most` prompts of each user, drawn at random."""
  asked = {}
  for item in items:
    if item.user:
      asked.setdefault(item.user, {}).setdefault(item.key, item)
  number = lambda i: parts.draw(seed, 'user', i.user, i.text)
  allowed = {
    user: {item.key for item in sorted(found.values(), key=number)[:most]}
    for user, found in asked.items()
    if most and len(found) > most
  }
  reason = f'more than {most} prompts of a user'
  lost = lambda i: i.key not in allowed.get(i.user, (i.key,))
  return drops.without(items, lost, reason)


# --- Labelers, PPO's prompts -------------------------------------------------


def _grouped(
  items: list[parts.Item], fraction: float, seed: int, drops: parts.Drops
) -> list[parts.Item]:
  """Sets the labelers' groups; held-out labelers rank for validation only."""
  labelers = {i.labeler: 1 for i in items if i.part == 'rankings'}
  held = splits.take_share(labelers, fraction, seed, 'labelers')
  for item in items:
    if item.part == 'rankings' and item.labeler in held:
      item.group = 'heldout'

  def lost(item):
    ranked = item.part == 'rankings' and item.split == 'train'
    return ranked and item.group == 'heldout'

  reason = 'training prompt ranked by a held-out labeler'
  return drops.without(items, lost, reason)


def _set_aside(
  items: list[parts.Item], fraction: float, seed: int, drops: parts.Drops
) -> list[parts.Item]:
  """Turns rankings of the prompts that only PPO sees into prompts."""
  shown = {i.key for i in items if i.part == 'demonstrations'}
  ranked = {}
  for i in items:
    if i.part == 'rankings' and i.split == 'train' and i.key not in shown:
      ranked.setdefault(i.key, i)
  sizes = dict.fromkeys(ranked, 1)
  text = lambda key: ranked[key].text
  aside = splits.take_share(sizes, fraction, seed, 'ppo', text)
  chosen = lambda item: item.part == 'rankings' and item.key in aside
  found = {}
  for item in filter(chosen, items):
    prompt = dataclasses.replace(item, part='prompts')
    found.setdefault(item.key, prompt)
  kept = drops.without(items, chosen, parts.SET_ASIDE)
  return [*kept, *found.values()]


def _with_ids(items: list[parts.Item]) -> list[parts.Item]:
  """Gives each prompt of a part one id, and each prompt one layout.

  Two sources may use the same ids, and only one may know a dialogue's turns.
  A prompt that is demonstrated and ranked has an id in each part.
  """
  ids, taken, turns = {part: {} for part in parts.PARTS}, Digests(), {}
  for item in items:
    if item.key not in ids[item.part]:
      ids[item.part][item.key] = parts.unused(item.id, taken)
    if item.turns:
      turns.setdefault(item.key, item)
  for item in items:
    item.id = ids[item.part][item.key]
    item.turns = turns.get(item.key)
  return items


def _prompts(
  items: list[parts.Item], drops: parts.Drops
) -> dict[str, Sequence[Prompt]]:
  """Returns split -> prompts, each once."""
  train, ranked, own, held = {}, {}, {}, {}
  for item in items:
    if item.split != 'train':
      held.setdefault(item.split, {}).setdefault(item.key, item)
    elif item.part == 'prompts':
      if item.key in own:
        drops.add('prompts', 'the same prompt again', item.id)
      own.setdefault(item.key, item)
    else:
      train[item.key] = item
      if item.part == 'rankings':
        ranked[item.key] = item
  made = {'train': train, 'ppo': own or ranked or train, **held}
  return {
    split: Mapped(_ppo_prompt if split == 'ppo' else _prompt, [*found.values()])
    for split, found in made.items()
    if found
  }


def _prompt(item: parts.Item) -> Prompt:
  return prompt_of(item.record)


def _ppo_prompt(item: parts.Item) -> Prompt:
  """Returns the prompt with another id, because two splits have it."""
  return dataclasses.replace(_prompt(item), id=f'ppo/{item.id}')
