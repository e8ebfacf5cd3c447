"""What curating knows of: settings, sources, rows under way, and counts."""

from collections.abc import Sequence
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
  records: Sequence[Record]


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
class Item:
  """A row with a prompt, under way."""

  part: str
  source: int  # of the sources
  record: Prompt | Demonstration | Ranking

  @functools.cached_property
  def prompt(self) -> Prompt:
    return prompt_of(self.record)

  @functools.cached_property
  def key(self) -> str:
    return fold(self.prompt.text)


def with_prompt(record, **changes):
  """The record with fields of its prompt changed."""
  prompt = dataclasses.replace(prompt_of(record), **changes)
  return (
    prompt
    if isinstance(record, Prompt)
    else dataclasses.replace(record, prompt=prompt)
  )


def texts_of(record: Record) -> list[str]:
  """All texts of a record, its prompt first."""
  match record:
    case Ranking():
      return [record.prompt.text, *record.responses]
    case Demonstration():
      return [record.prompt.text, record.response]
    case _:
      return [record.text]


def unused(name: str, taken: set[str]) -> str:
  """An id, numbered where it is taken already; it is taken from now on."""
  found, number = name, 1
  while found in taken:
    number += 1
    found = f'{name}#{number}'
  taken.add(found)
  return found


def draw(seed: int, *names: str) -> float:
  """A number in [0, 1) that follows from the seed and the names."""
  digest = hashlib.sha256('\0'.join([str(seed), *names]).encode()).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64
