"""Types of curation: settings, sources, rows under way, counts of drops."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import hashlib
import operator
import sys

from instructrl.data.digests import digest
from instructrl.data.digests import Digests
from instructrl.data.records import (
  Demonstration,
  Document,
  fold,
  Prompt,
  prompt_of,
  Ranking,
  Record,
)
from instructrl.data.sequences import Mapped
from instructrl.data.sources.lookup import Loaded

PARTS = ('demonstrations', 'rankings', 'prompts')
SET_ASIDE = 'prompt is set aside for PPO'
# Part -> the types of record that its sources may have.
ACCEPTED = {
  'demonstrations': (Demonstration, Ranking),
  'rankings': (Ranking,),
  'prompts': (Prompt, Demonstration, Ranking),
  'documents': (Document,),
}


class CurateError(ValueError):
  """The sources cannot be combined as the settings ask."""


@dataclasses.dataclass(frozen=True)
class CurateSettings:
  """Settings of `curate`: fields of the data stage's config.

  Attributes:
    validation_fraction: share of each part's prompts, and of the documents,
      that is held out. For sources without a split of their own.
    resplit: whether to split sources again that have a split of their own.
    split_by: 'user' keeps a user's prompts on one side, 'prompt' does not.
    ppo_fraction: share of the ranked training prompts that only PPO sees.
    dedup_prefix: characters; keeps one of the prompts that share a prefix of
      this length. 0 keeps all.
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


@dataclasses.dataclass
class Drops:
  """Counts dropped rows, and remembers the first for each reason.

  Attributes:
    counts: (part, reason) -> number of rows.
    first: (part, reason) -> id of the first row.
  """

  counts: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
  first: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

  def add(self, part: str, reason: str, which: str, count: int = 1) -> None:
    self.counts[part, reason] = self.counts.get((part, reason), 0) + count
    self.first.setdefault((part, reason), which)

  def of(self, part: str) -> dict[str, int]:
    """Returns reason -> number of rows, for a part."""
    return {reason: n for (p, reason), n in self.counts.items() if p == part}

  def update(self, others: 'Drops') -> None:
    """Adds the counts of others, whose rows came later."""
    for (part, reason), count in others.counts.items():
      self.add(part, reason, others.first[part, reason], count)

  def without(
    self,
    rows: Iterable,
    lost: Callable[..., bool | str],
    reason: str = '',
    part: str = '',
  ) -> list:
    """Drops and counts rows.

    Args:
      rows: `Item`s, or records of one part.
      lost: row -> whether it is dropped, or why.
      reason: why a row is dropped; '' takes the result of `lost`.
      part: the part of records.

    Returns:
      The rows that are kept, in order.
    """
    kept = []
    for row in rows:
      why = lost(row)
      if why:
        self.add(part or row.part, reason or why, prompt_of(row).id)
      else:
        kept.append(row)
    return kept


@dataclasses.dataclass
class Curated:
  """Curated records, each with its split.

  Attributes:
    prompts: split -> prompts. Labelers saw those of 'train', PPO is trained on
      those of 'ppo', the others are held out.
    drops: counts of what was dropped.
    notes: remarks for the reader of the summary.
  """

  demonstrations: Sequence[Demonstration]
  rankings: Sequence[Ranking]
  prompts: dict[str, Sequence[Prompt]]
  documents: Sequence[Document]
  drops: Drops
  notes: list[str]


@dataclasses.dataclass(slots=True, eq=False)
class Item:
  """A row with a prompt, or a document, during curation.

  The record is read when it is used. In memory is only what curation compares
  and changes: it may have millions of rows.

  Attributes:
    part: the part that the row is for.
    source: index of the source.
    records: of the source.
    row: index of the record there.
    key: number of the text; texts that `fold` makes equal share it.
    id, split: of the prompt or document.
    user: who asks; '' if unknown.
    labeler: '' without one.
    group: of the labeler; '' without one.
    turns: the item whose prompt has the turns of this one's; None if none has.
  """

  part: str
  source: int
  records: Sequence[Record]
  row: int
  key: int
  id: str
  split: str
  user: str
  labeler: str
  group: str
  turns: 'Item | None'

  @property
  def read(self) -> Record:
    """The record as it was read."""
    return self.records[self.row]

  @property
  def text(self) -> str:
    """The text to compare by: folded."""
    return fold(prompt_of(self.read).text)

  @property
  def record(self) -> Record:
    """The record as a record of its part, with all changes."""
    record = as_part(self.part, self.read)
    changes = {'id': self.id, 'split': self.split}
    if self.turns not in (None, self):
      changes['turns'] = prompt_of(self.turns.read).turns
    prompt = prompt_of(record)
    if any(getattr(prompt, name) != new for name, new in changes.items()):
      record = with_prompt(record, **changes)
    if getattr(record, 'group', '') != self.group and self.part == 'rankings':
      record = dataclasses.replace(record, group=self.group)
    return record


def check_kind(part: str, spec: str, kind: type) -> None:
  """Raises CurateError if a source has the wrong type of record for a part."""
  if kind not in ACCEPTED[part]:
    others = [p for p, kinds in ACCEPTED.items() if kinds[0] is kind]
    raise CurateError(
      f'{part}: {spec} has records of the type {kind.__name__}; it belongs '
      f'to {others[0]}'
    )


def items_of(number: int, source: Loaded, keys: Digests) -> Iterator[Item]:
  """Yields an item for each record of a source.

  Args:
    number: index of the source.
    source: with its part.
    keys: folded texts -> `Item.key`, for all sources; new texts are added.

  Raises:
    CurateError: a record is of the wrong type for the part.
  """
  kind = None
  for row, record in enumerate(source.records):
    if type(record) is not kind:
      kind = type(record)
      check_kind(source.part, source.spec, kind)
    found = prompt_of(record)
    item = Item(
      part=source.part,
      source=number,
      records=source.records,
      row=row,
      key=keys.setdefault(digest(fold(found.text)), len(keys)),
      id=found.id,
      split=sys.intern(found.split),
      user=sys.intern(getattr(found, 'user', '')),
      labeler=sys.intern(getattr(record, 'labeler', '')),
      group=sys.intern(getattr(record, 'group', '')),
      turns=None,
    )
    if getattr(found, 'turns', ()):
      item.turns = item
    yield item


def records_of(items: Sequence[Item]) -> Mapped:
  """Returns the records of items, read when they are used."""
  return Mapped(operator.attrgetter('record'), items)


def as_part(part: str, record: Record) -> Record:
  """Turns a record into one of the part that its source is given for."""
  if part == 'prompts':
    return prompt_of(record)
  if part == 'demonstrations' and isinstance(record, Ranking):
    best = record.responses[record.ranks.index(0)]
    return Demonstration(record.prompt, best, record.labeler)
  return record


def with_prompt(record, **changes):
  """Returns the record with some fields of its prompt, or its own, changed."""
  prompt = dataclasses.replace(prompt_of(record), **changes)
  if prompt_of(record) is record:
    return prompt
  return dataclasses.replace(record, prompt=prompt)


def texts_of(record: Record) -> list[str]:
  """Returns all texts of a record, its prompt first."""
  match record:
    case Ranking():
      return [record.prompt.text, *record.responses]
    case Demonstration():
      return [record.prompt.text, record.response]
    case _:
      return [record.text]


def unused(name: str, taken: Digests) -> str:
  """Returns `name`, numbered if it is taken; adds the result to `taken`."""
  found, number = name, 1
  while not taken.add(digest(found)):
    number += 1
    found = f'{name}#{number}'
  return found


def draw(seed: int, *names: str) -> float:
  """Returns a number in [0, 1) that depends on the seed and the names only."""
  digest = hashlib.sha256('\0'.join([str(seed), *names]).encode()).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64
