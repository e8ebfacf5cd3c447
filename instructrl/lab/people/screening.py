"""Screening of candidates for the training group (Ouyang et al. 2022, B.1).

Researchers, who have the mean values and no noise, do the same small tasks as
the candidates. The held-out group is not screened.
"""

from collections.abc import Sequence
import dataclasses
import itertools
from typing import TypeVar
import zlib

import numpy as np

from instructrl.data import records
from instructrl.lab.marking import judge
from instructrl.lab.people import prompt_writers
from instructrl.lab.people import solver
from instructrl.lab.people import writer
from instructrl.lab.world.facts import World

# Soft cut-offs: agreement on sensitive content, agreement on rankings, and the
# mean score of demonstrations, 1 to 7 (B.1).
CUT_OFFS = (0.75, 0.75, 6.0)
NUM_PROMPTS, NUM_DELICATE = 24, 12
FAULTS = writer.Habits(
  miss_constraint=0.3, misconception=0.5, slip=0.3, terse=0.3, lazy=0.2
)
NUM_RESPONSES = 4

LabelerT = TypeVar('LabelerT')


@dataclasses.dataclass(frozen=True)
class Scores:
  """Results of one candidate, in the order of CUT_OFFS.

  Attributes:
    flags: agreement with the researchers on sensitive content, in [0, 1].
    rankings: agreement on which of two responses is better, in [0, 1].
    demonstrations: the researchers' mean rating of demonstrations, 1 to 7.
  """

  flags: float
  rankings: float
  demonstrations: float

  @property
  def passed(self) -> int:
    """The number of cut-offs that are reached."""
    return sum(value >= least for value, least in self._pairs())

  @property
  def total(self) -> float:
    return sum(value / least for value, least in self._pairs())

  def _pairs(self):
    return zip(dataclasses.astuple(self), CUT_OFFS)


def choose(
  candidates: Sequence[LabelerT], scores: Sequence[Scores], count: int
) -> list[LabelerT]:
  """Returns the `count` candidates who pass most, then score best.

  The cut-offs are soft: where too few pass all, the next best are taken.
  """
  order = sorted(
    range(len(candidates)),
    key=lambda i: (scores[i].passed, scores[i].total),
    reverse=True,
  )
  return [candidates[i] for i in sorted(order[:count])]


def screen(
  world: World, candidates: Sequence, researchers: judge.Weights, seed: int
) -> list[Scores]:
  """Tests candidates on the same prompts; a function of the arguments."""
  rng = np.random.default_rng([seed, zlib.crc32(b'screening')])
  prompts = [
    _prompt(world, rng, use_case)
    for use_case in ('generation', 'open_qa', 'brainstorming', 'classification')
    for _ in range(NUM_PROMPTS // 4)
  ]
  texts = [
    [
      solver.solve(world, prompt, rng, FAULTS if i else writer.PERFECT)
      for i in range(NUM_RESPONSES)
    ]
    for prompt in prompts
  ]
  delicate: list[records.Prompt] = []
  while len(delicate) < NUM_DELICATE:
    prompt = _prompt(world, rng, 'generation')
    delicate += [prompt] * ('"insult"' in prompt.spec)

  def value(weights, prompt, text) -> float:
    return float(judge.utility(judge.assess(world, prompt, text), weights))

  found = []
  for candidate in candidates:
    agreed, counted = 0, 0
    for prompt, some in zip(prompts, texts):
      ours = [value(researchers, prompt, text) for text in some]
      theirs = [value(candidate.weights, prompt, text) for text in some]
      theirs += candidate.noise * rng.standard_normal(len(some))
      for i, j in itertools.combinations(range(len(some)), 2):
        if abs(ours[i] - ours[j]) >= candidate.tie_width:
          agreed += (ours[i] > ours[j]) == (theirs[i] > theirs[j])
          counted += 1
    ratings = [
      judge.likert(value(researchers, p, candidate.demonstrate(p, rng)))
      for p in delicate
    ]
    # Whether a candidate flags a text as the researchers do, text by text.
    flags = rng.random(NUM_PROMPTS) >= candidate.flag_noise
    found.append(
      Scores(
        float(flags.mean()), agreed / max(1, counted), float(np.mean(ratings))
      )
    )
  return found


def _prompt(world, rng, use_case: str) -> records.Prompt:
  text, spec = prompt_writers.write(world, rng, use_case)
  return records.Prompt(
    id='screening',
    text=text,
    user='',
    use_case=use_case,
    split='train',
    spec=spec.to_json(),
  )
