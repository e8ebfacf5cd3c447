"""Types of curation: settings, sources, rows under way, counts of drops."""

from collections.abc import Callable, Iterable
import dataclasses
import functools
import hashlib

from instructrl.data.records import (
  Demonstration,
  Document,
  fold,
  Prompt,
  prompt_of,
  Ranking,
  Record,
)

PARTS = ('demonstrations', 'rankings', 'prompts')
SET_ASIDE = 'prompt is set aside for PPO'


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

  demonstrations: list[Demonstration]
  rankings: list[Ranking]
  prompts: dict[str, list[Prompt]]
  documents: list[Document]
  drops: Drops
  notes: list[str]


@dataclasses.dataclass(frozen=True)
class Item:
  """A row with a prompt, during curation."""

  part: str
  source: int  # index of the source
  record: Prompt | Demonstration | Ranking

  @functools.cached_property
  def prompt(self) -> Prompt:
    return prompt_of(self.record)

  @functools.cached_property
  def key(self) -> str:
    return fold(self.prompt.text)

  def with_record(self, record) -> 'Item':
    """Returns the item with another record of the same prompt."""
    item = Item(self.part, self.source, record)
    vars(item)['key'] = self.key  # folding a text again takes time
    return item


def with_prompt(record, **changes):
  """Returns the record with some fields of its prompt changed."""
  prompt = dataclasses.replace(prompt_of(record), **changes)
  if isinstance(record, Prompt):
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


def unused(name: str, taken: set[str]) -> str:
  """Returns `name`, numbered if it is taken; adds the result to `taken`."""
  found, number = name, 1
  while found in taken:
    number += 1
    found = f'{name}#{number}'
  taken.add(found)
  return found


def draw(seed: int, *names: str) -> float:
  """Returns a number in [0, 1) that depends on the seed and the names only."""
  digest = hashlib.sha256('\0'.join([str(seed), *names]).encode()).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64
