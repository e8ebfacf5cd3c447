"""The records every data source is turned into.

A record is text; tokens are made in `tasks.py`. The same four types serve the
simulated lab and real data.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Document:
  id: str
  text: str
  source: str  # what kind of page, e.g. 'forum'
  split: str  # 'train' or 'validation'


@dataclasses.dataclass(frozen=True)
class Prompt:
  id: str
  text: str
  user: str
  use_case: str  # a name of PAPER Table 1, e.g. 'open_qa'
  split: str  # 'train', 'validation' or 'test'; split by user
  spec: str = ''  # JSON, what a checker needs; '' for real data


@dataclasses.dataclass(frozen=True)
class Demonstration:
  prompt: Prompt
  response: str
  labeler: str


@dataclasses.dataclass(frozen=True)
class Ranking:
  prompt: Prompt
  labeler: str
  group: str  # 'train' or 'heldout'; which group the labeler belongs to
  responses: tuple[str, ...]  # K texts
  response_tokens: tuple[tuple[int, ...], ...]  # K; as sampled, EOS included
  sources: tuple[str, ...]  # K; which policy wrote it
  temperatures: tuple[float, ...]  # K; 0 for a human's demonstration
  ranks: tuple[int, ...]  # K; dense, 0 = best, equal = tie
  metadata: tuple[dict[str, int], ...] = ()  # K; Table 3: Likert and flags
