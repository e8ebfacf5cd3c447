"""Agreement of labelers on rankings, and B.1's scores of the screening set.

Agreement is counted as the simulated labelers' is (`lab.people.labelers`): over
pairs of responses on which both labelers state a strict preference. The paper
does not print how it counts pairs and ties (Ouyang et al. 2022, section 3.4).
The share of pairs that a labeler ties is reported beside it.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
from typing import Any

from instructrl.evaluators import statistics
from instructrl.feedback import questions
from instructrl.feedback.desk import Desk
from instructrl.feedback.desk import Person
from instructrl.lab.people.screening import CUT_OFFS


def compared(left: Sequence, right: Sequence) -> Iterator[bool]:
  """Yields, for each pair that both prefer strictly, whether they agree."""
  for i, j in itertools.combinations(range(len(left)), 2):
    if left[i] != left[j] and right[i] != right[j]:
      yield (left[i] < left[j]) == (right[i] < right[j])


def agreement(desk: Desk, group: str) -> dict[str, Any]:
  """Measures how often two labelers of a group prefer the same response.

  Returns:
    {'agreement': {'value', 'ci95', 'n'}, clustered by prompt, with n pairs, or
    None if no pair counts; 'prompts': number of prompts that two or more
    ranked; 'ties': the fraction of pairs that a labeler tied, or None}.
  """
  outcomes: list[float] = []
  clusters: list[str] = []
  prompts, tied, pairs = 0, 0, 0
  for key in desk.items:
    rankings = [label['ranks'] for _, label in labels_of(desk, key, group)]
    for ranks in rankings:
      both = [*itertools.combinations(ranks, 2)]
      pairs, tied = pairs + len(both), tied + sum(a == b for a, b in both)
    prompts += len(rankings) > 1
    for left, right in itertools.combinations(rankings, 2):
      found = [float(same) for same in compared(left, right)]
      outcomes += found
      clusters += [key] * len(found)
  measured = None
  if outcomes:
    measure = statistics.mean(outcomes, clusters=clusters)
    measured = statistics.summarize(measure, seed=desk.settings.seed)
    measured['n'] = len(outcomes)
  ties = tied / pairs if pairs else None
  return {'agreement': measured, 'prompts': prompts, 'ties': ties}


def labels_of(
  desk: Desk, key: str, group: str = '', field: str = 'ranks'
) -> list[tuple[Person, dict[str, Any]]]:
  """Returns the newest label of each labeler of a prompt that has a field."""
  return [
    (person, work.label)
    for person in desk.people.values()
    if (not group or person.group == group)
    and (work := person.items.get(key)) is not None
    and work.label is not None
    and field in work.label
  ]


def disagreements(desk: Desk) -> list[tuple[str, float]]:
  """Returns (prompt, agreement), where labelers disagree, the worst first."""
  found = []
  for key in desk.items:
    rankings = [label['ranks'] for _, label in labels_of(desk, key)]
    same = [
      outcome
      for left, right in itertools.combinations(rankings, 2)
      for outcome in compared(left, right)
    ]
    if same and not all(same):
      found.append((key, sum(same) / len(same)))
  return sorted(found, key=lambda pair: pair[1])


@dataclasses.dataclass(frozen=True)
class Screened:
  """B.1's scores of a labeler; None where nothing was measured.

  Attributes:
    done: prompts of the screening set that the labeler labeled.
    flags: agreement with the researchers on sensitive content, in [0, 1].
    rankings: agreement with the researchers on rankings, in [0, 1].
    demonstrations: the owner's mean rating of demonstrations, 1 to 7.
  """

  done: int
  flags: float | None
  rankings: float | None
  demonstrations: float | None

  @property
  def passes(self) -> tuple[bool | None, ...]:
    """Whether each score reaches the paper's soft cut-off."""
    values = (self.flags, self.rankings, self.demonstrations)
    return tuple(
      None if value is None else value >= least
      for value, least in zip(values, CUT_OFFS)
    )


def screen(desk: Desk, person: Person) -> Screened:
  """Compares a labeler with the references of the screening set."""
  flags: list[bool] = []
  rankings: list[bool] = []
  ratings: list[int] = []
  done = 0
  for key, work in person.items.items():
    reference = desk.items[key].reference
    if reference is None or work.label is None:
      continue
    done += 1
    if 'ranks' in reference and 'ranks' in work.label:
      rankings += compared(reference['ranks'], work.label['ranks'])
    ours, theirs = reference.get('ratings', []), work.label.get('ratings', [])
    flags += [
      bool(mine[name]) == bool(yours[name])
      for mine, yours in zip(ours, theirs)
      for name in questions.SENSITIVE
      if name in mine
    ]
    if (person.id, key) in desk.scores:
      ratings.append(desk.scores[person.id, key])
  mean = lambda values: sum(values) / len(values) if values else None
  return Screened(done, mean(flags), mean(rankings), mean(ratings))
