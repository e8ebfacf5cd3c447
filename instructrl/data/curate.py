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
import functools
import hashlib

from instructrl.data import personal
from instructrl.data import records as records_lib
from instructrl.data.records import Demonstration, Document, Prompt, Ranking

PARTS = ('demonstrations', 'rankings', 'prompts')
_GRAVITY = {'train': 0, 'validation': 1, 'test': 2}


class CurateError(ValueError):
  """The sources cannot be put together as the settings ask."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the data sets are made by; the fields of the stage's config.

  Attributes:
    validation_fraction: share of each part's prompts that is held out, where
      its sources have no split of their own; of the documents too.
    resplit: whether sources that have a split of their own are split again.
    split_by: 'user', that no user is on two sides, or 'prompt'.
    ppo_fraction: share of the ranked training prompts that only PPO sees.
    dedup_prefix: characters; of prompts whose first so many are the same only
      one is kept. 0 keeps all.
    max_per_user: prompts of one user, at most; 0 = all.
    pii: 'drop' or 'keep' rows with personal data (see `personal`).
    heldout_labelers: share of the labelers who only rank for validation.
  """

  validation_fraction: float = 0.05
  resplit: bool = False
  split_by: str = 'user'
  ppo_fraction: float = 0.0
  dedup_prefix: int = 0
  max_per_user: int = 200
  pii: str = 'keep'
  heldout_labelers: float = 0.0


@dataclasses.dataclass(frozen=True)
class Source:
  """The rows of one source: what `sources.load` gave, for one part."""

  part: str  # of PARTS, or 'documents'
  spec: str
  records: Sequence[records_lib.Record]


@dataclasses.dataclass
class Drops:
  """Counts rows that are left out, and remembers the first for each reason.

  Attributes:
    counts: (part, reason) -> rows.
    first: (part, reason) -> which row that was.
  """

  counts: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
  first: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

  def add(self, part: str, reason: str, which: str, count: int = 1) -> None:
    self.counts[part, reason] = self.counts.get((part, reason), 0) + count
    self.first.setdefault((part, reason), which)

  def of(self, part: str) -> dict[str, int]:
    """Reason -> rows, of a part."""
    return {reason: n for (p, reason), n in self.counts.items() if p == part}


@dataclasses.dataclass
class Curated:
  """What is left, each record with its split.

  Attributes:
    prompts: split -> prompts. 'train' are those that labelers saw, 'ppo' those
      PPO is trained on, the others are held out.
    drops: what was left out.
    notes: what a reader of the summary should know.
  """

  demonstrations: list[Demonstration]
  rankings: list[Ranking]
  prompts: dict[str, list[Prompt]]
  documents: list[Document]
  drops: Drops
  notes: list[str]


@dataclasses.dataclass(frozen=True)
class _Item:
  """A row with a prompt, under way."""

  part: str
  source: int  # of the sources
  record: Prompt | Demonstration | Ranking

  @functools.cached_property
  def prompt(self) -> Prompt:
    return prompt_of(self.record)

  @functools.cached_property
  def key(self) -> str:
    return records_lib.fold(self.prompt.text)


def prompt_of(record: Prompt | Demonstration | Ranking) -> Prompt:
  return record if isinstance(record, Prompt) else record.prompt


def with_prompt(record, **changes):
  """The record with fields of its prompt changed."""
  prompt = dataclasses.replace(prompt_of(record), **changes)
  return (prompt if isinstance(record, Prompt)
          else dataclasses.replace(record, prompt=prompt))


def draw(seed: int, *names: str) -> float:
  """A number in [0, 1) that follows from the seed and the names."""
  digest = hashlib.sha256('\0'.join([str(seed), *names]).encode()).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


# --- Personal data, near duplicates, users -----------------------------------


def texts_of(record: records_lib.Record) -> list[str]:
  """All texts of a record, its prompt first."""
  match record:
    case Ranking():
      return [record.prompt.text, *record.responses]
    case Demonstration():
      return [record.prompt.text, record.response]
    case _:
      return [record.text]


def _without_personal_data(records, part_of, drops: Drops):
  for record in records:
    inner = getattr(record, 'record', record)
    kind = next(filter(None, map(
        personal.personal_data, texts_of(inner))), '')
    if kind:
      name = inner.id if isinstance(inner, Document) else prompt_of(inner).id
      drops.add(part_of(record), f'pii: {kind}', name)
    else:
      yield record


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


def _deduplicated(items: list[_Item], held_out: Callable[[_Item], bool],
                  settings: Settings, drops: Drops) -> list[_Item]:
  # What a source holds out stays, or training would take its place.
  order = sorted(items, key=lambda item: not held_out(item))
  found = prefix_duplicates((i.key for i in order), settings.dedup_prefix)
  kept = []
  for item in items:
    if item.key in found:
      drops.add(item.part, f'prompt shares its first {settings.dedup_prefix} '
                'characters with another', item.prompt.id)
    else:
      kept.append(item)
  return kept


def _limited_users(items: list[_Item], settings: Settings, seed: int,
                   drops: Drops) -> list[_Item]:
  """At most so many prompts of a user, drawn."""
  asked = {}
  for item in items:
    if item.prompt.user:
      asked.setdefault(item.prompt.user, set()).add(item.key)
  most = settings.max_per_user
  allowed = {
      user: set(sorted(keys, key=lambda k: draw(seed, 'user', user, k))[:most])
      for user, keys in asked.items() if most and len(keys) > most}
  kept = []
  for item in items:
    user = item.prompt.user
    if user in allowed and item.key not in allowed[user]:
      drops.add(item.part, f'more than {most} prompts of a user',
                item.prompt.id)
    else:
      kept.append(item)
  return kept


# --- The split ---------------------------------------------------------------


def take_share(sizes: dict[str, int], fraction: float, seed: int,
               purpose: str) -> set[str]:
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


def _own_sides(items: list[_Item], sources: Sequence[Source],
               own: set[int], by_user: bool):
  """(prompt -> split, user -> split), of sources with a split of their own."""
  prompts, users = {}, {}
  for item in items:
    if item.source not in own:
      continue
    split, user = item.prompt.split, item.prompt.user
    # A prompt that one source holds out is held out in all.
    prompts[item.key] = max(
        split, prompts.get(item.key, split), key=_GRAVITY.__getitem__)
    if by_user and user and users.setdefault(user, split) != split:
      spec = sources[item.source].spec
      raise CurateError(
          f'{item.part}: the split of {spec} itself leaks: user {user!r} is in '
          f"{users[user]!r} and in {split!r}; set resplit=True to split it by "
          "user, or split_by='prompt' to compare prompts only")
  return prompts, users


def _sides(items: list[_Item], sources: Sequence[Source], settings: Settings,
           seed: int) -> tuple[dict[str, str], dict[str, str]]:
  """(prompt -> split, user -> split).

  A user's prompts go together. A prompt of several users goes where its first
  user goes: were they to go together, a greeting would join all users into
  one. Each part holds out its share, so that a small one is not without.
  """
  by_user = settings.split_by == 'user'
  own = {i for i, source in enumerate(sources) if not settings.resplit
         and source.part in PARTS
         and any(prompt_of(r).split != 'train' for r in source.records)}
  prompt_side, user_side = _own_sides(items, sources, own, by_user)
  owner, part_of = {}, {}
  for item in items:
    user = item.prompt.user if by_user else ''
    unit = f'user\0{user}' if user else f'prompt\0{item.key}'
    owner.setdefault(item.key, unit)
    part_of.setdefault(owner[item.key], item.part)
  sizes = {part: {} for part in PARTS}
  for key, unit in owner.items():
    free = (unit[5:] not in user_side if unit.startswith('user')
            else key not in prompt_side)
    if free:
      part = sizes[part_of[unit]]
      part[unit] = part.get(unit, 0) + 1
  held = set().union(*(
      take_share(units, settings.validation_fraction, seed, 'split')
      for units in sizes.values()))
  for item in items:
    user = item.prompt.user if by_user else ''
    if user:
      user_side.setdefault(
          user, 'validation' if f'user\0{user}' in held else 'train')
  for key, unit in owner.items():
    if key not in prompt_side:
      prompt_side[key] = (user_side[unit[5:]] if unit.startswith('user')
                          else 'validation' if unit in held else 'train')
  return prompt_side, user_side


def _split(items: list[_Item], sources: Sequence[Source], settings: Settings,
           seed: int, drops: Drops) -> list[_Item]:
  prompt_side, user_side = _sides(items, sources, settings, seed)
  kept = []
  for item in items:
    side = prompt_side[item.key]
    if user_side.get(item.prompt.user, side) != side:
      drops.add(item.part, 'prompt is on the other side than its user',
                item.prompt.id)
    else:
      kept.append(dataclasses.replace(
          item, record=with_prompt(item.record, split=side)))
  return kept


# --- Labelers, PPO's prompts -------------------------------------------------


def _grouped(items: list[_Item], settings: Settings, seed: int,
             drops: Drops) -> list[_Item]:
  """Rankings by held-out labelers are kept for validation only."""
  labelers = {i.record.labeler: 1 for i in items if i.part == 'rankings'}
  held = take_share(labelers, settings.heldout_labelers, seed, 'labelers')
  kept = []
  for item in items:
    if item.part == 'rankings':
      group = 'heldout' if item.record.labeler in held else item.record.group
      if group == 'heldout' and item.prompt.split == 'train':
        drops.add(item.part, 'training prompt ranked by a held-out labeler',
                  item.prompt.id)
        continue
      item = dataclasses.replace(
          item, record=dataclasses.replace(item.record, group=group))
    kept.append(item)
  return kept


def _set_aside(items: list[_Item], settings: Settings, seed: int,
               drops: Drops) -> list[_Item]:
  """Turns rankings of the prompts that only PPO sees into prompts."""
  shown = {i.key for i in items if i.part == 'demonstrations'}
  ranked = {i.key: 1 for i in items if i.part == 'rankings'
            and i.prompt.split == 'train' and i.key not in shown}
  aside = take_share(ranked, settings.ppo_fraction, seed, 'ppo')
  kept = []
  for item in items:
    if item.part == 'rankings' and item.key in aside:
      drops.add(item.part, 'prompt is set aside for PPO', item.prompt.id)
      item = dataclasses.replace(item, part='prompts', record=item.prompt)
    kept.append(item)
  return kept


def _with_ids(items: list[_Item]) -> list[_Item]:
  """One id for each prompt; two sources may have numbered theirs alike."""
  ids, taken = {}, set()
  for item in items:
    if item.key not in ids:
      name, number = item.prompt.id, 1
      while name in taken:
        number += 1
        name = f'{item.prompt.id}#{number}'
      ids[item.key] = name
      taken.add(name)
  return [dataclasses.replace(
      item, record=with_prompt(item.record, id=ids[item.key]))
          for item in items]


def _prompts(items: list[_Item], drops: Drops) -> dict[str, list[Prompt]]:
  """Split -> prompts, each once."""
  seen = {i.key: i.prompt for i in items if i.part != 'prompts'}
  train = {k: p for k, p in seen.items() if p.split == 'train'}
  ranked = {i.key: i.prompt for i in items
            if i.part == 'rankings' and i.prompt.split == 'train'}
  own, held = {}, {}
  for item in items:
    if item.part == 'prompts' and item.prompt.split == 'train':
      if item.key in own:
        drops.add('prompts', 'the same prompt again', item.prompt.id)
      own.setdefault(item.key, item.prompt)
    elif item.prompt.split != 'train':
      held.setdefault(item.prompt.split, {}).setdefault(item.key, item.prompt)
  # The same prompt in two splits of a data set has two ids.
  ppo = [dataclasses.replace(p, id=f'ppo/{p.id}')
         for p in (own or ranked or train).values()]
  splits = {'train': list(train.values()), 'ppo': ppo,
            **{name: list(found.values()) for name, found in held.items()}}
  return {name: prompts for name, prompts in splits.items() if prompts}


# --- Documents, all together -------------------------------------------------


def split_documents(sources: Sequence[Source], settings: Settings, seed: int,
                    drops: Drops, notes: list[str]) -> list[Document]:
  """The documents of all sources; each source holds out its share."""
  found, ids = [], set()
  for source in sources:
    if source.part != 'documents':
      continue
    records = list(source.records)
    if settings.pii == 'drop':
      records = list(_without_personal_data(
          records, lambda record: 'documents', drops))
    own = not settings.resplit and any(r.split != 'train' for r in records)
    # The same text on both sides would be a leak here too.
    unit = lambda record: records_lib.fold(record.text)
    held = set() if own else take_share(
        dict.fromkeys(map(unit, records), 1), settings.validation_fraction,
        seed, 'documents')
    if not own and not held and records:
      notes.append(f'documents: {source.spec} is a single text, all of it '
                   'for training: nothing of it is held out')
    for record in records:
      if not own:
        side = 'validation' if unit(record) in held else 'train'
        record = dataclasses.replace(record, split=side)
      name, number = record.id, 1
      while name in ids:
        number += 1
        name = f'{record.id}#{number}'
      ids.add(name)
      found.append(dataclasses.replace(record, id=name))
  held = {records_lib.fold(r.text) for r in found if r.split != 'train'}
  kept = []
  for record in found:
    if record.split == 'train' and records_lib.fold(record.text) in held:
      drops.add('documents', 'text is held out elsewhere', record.id)
    else:
      kept.append(record)
  return kept


def _as_part(part: str, record):
  """A record of a source as one of the part that it was given for."""
  if part == 'prompts':
    return prompt_of(record)
  if part == 'demonstrations' and isinstance(record, Ranking):
    best = record.responses[record.ranks.index(0)]
    return Demonstration(
        prompt=record.prompt, response=best, labeler=record.labeler)
  return record


ACCEPTED = {  # part -> the types of record that a source for it may have
    'demonstrations': (Demonstration, Ranking),
    'rankings': (Ranking,),
    'prompts': (Prompt, Demonstration, Ranking),
    'documents': (Document,)}


def check_kind(part: str, spec: str, kind: type) -> None:
  """Refuses a source that is given for the wrong part."""
  if kind not in ACCEPTED[part]:
    others = [p for p, kinds in ACCEPTED.items() if kinds[0] is kind]
    raise CurateError(
        f'{part}: {spec} has records of the type {kind.__name__}; it belongs '
        f'to {others[0]}')


def curate(sources: Sequence[Source], *, settings: Settings, seed: int
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
        notes.append(f'demonstrations: {source.spec} has rankings: the best '
                     'response of each was taken')
  for part in PARTS:
    for number, source in enumerate(sources):
      if source.part == part:
        items += [_Item(part, number, _as_part(part, record))
                  for record in source.records]
  if settings.pii == 'drop':
    items = list(_without_personal_data(items, lambda i: i.part, drops))
  own = lambda item: not settings.resplit and item.prompt.split != 'train'
  items = _deduplicated(items, own, settings, drops)
  items = _limited_users(items, settings, seed, drops)
  items = _with_ids(_split(items, sources, settings, seed, drops))
  items = _grouped(items, settings, seed, drops)
  items = _set_aside(items, settings, seed, drops)
  prompts = _prompts(items, drops)
  records = lambda part: [i.record for i in items if i.part == part]
  return Curated(
      demonstrations=records('demonstrations'), rankings=records('rankings'),
      prompts=prompts, drops=drops, notes=notes,
      documents=split_documents(sources, settings, seed, drops, notes))
