"""People's win rates, ratings and flags of policies, with intervals.

A label that ranks answers of two policies to a prompt is one outcome: 1 if the
policy is preferred to the reference, 1/2 for a tie, 0 otherwise (the mean over
pairs, if a policy has several answers). Equal answers are a tie. A prompt whose
answers are all equal is not shown; it counts if it comes before the last prompt
that is labeled. Intervals are 95%, and clustered by prompt. The screening set
does not count.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import statistics as means
from typing import Any

from instructrl.evaluators import results
from instructrl.evaluators import statistics
from instructrl.feedback import exports
from instructrl.feedback.desk import Desk
from instructrl.feedback.project import Task
from instructrl.lab.marking.judge import FLAGS
from instructrl.lab.marking.judge import QUALITY
from instructrl.runtime.errors import ConfigError


def measure(desk: Desk, reference: str) -> dict[str, Any]:
  """Returns the content of people.json, which reports read.

  Args:
    desk: of a project whose responses have the names of policies.
    reference: the policy that win rates are against.

  Returns:
    {'format_version', 'reference', 'groups': group -> {'win_rate': policy ->
    summary, 'likert': policy -> summary, 'metadata': policy -> row -> summary}}
    with summaries {'value', 'ci95', 'n'}, n labels.

  Raises:
    ConfigError: nobody labeled anything, or no response is of the reference.
  """
  models = {
    model
    for item in desk.items.values()
    for response in item.responses
    for model in response.models
  }
  if reference not in models:
    raise ConfigError(
      f'--reference must be one of {", ".join(sorted(models))}; got '
      f'{reference!r}'
    )
  labels: dict[str, list[tuple[Task, dict]]] = {}
  for item, person, label in exports.submitted(desk):
    if item.reference is None:
      labels.setdefault(person.group, []).append((item, label))
  if not labels:
    raise ConfigError(f'{desk.project.folder}: nobody has submitted a label')
  return {
    'format_version': results.PEOPLE_VERSION,
    'reference': reference,
    'groups': {
      group: _of_group(
        [*found, *_same(desk, found)], reference, desk.settings.seed
      )
      for group, found in labels.items()
    },
  }


def _same(desk: Desk, labels) -> Iterator[tuple[Task, dict]]:
  """Yields the prompts that need no label, with one rank for all policies."""
  last = max(desk.places[item.prompt.id] for item, _ in labels)
  ranked = any('ranks' in label for _, label in labels)
  for item in desk.project.items[:last] if ranked else ():
    if item.is_same:
      yield item, {'ranks': [1]}


def _of_group(labels, reference: str, seed: int) -> dict[str, dict]:
  wins: dict[str, list[tuple[str, float]]] = {}
  ratings: dict[str, list[tuple[str, float]]] = {}
  flags: dict[str, dict[str, list[tuple[str, float]]]] = {}
  for item, label in labels:
    key = item.prompt.id
    for policy, outcome in _outcomes(item, label.get('ranks'), reference):
      wins.setdefault(policy, []).append((key, outcome))
    for response, rating in zip(item.responses, label.get('ratings', ())):
      for model in response.models:
        ratings.setdefault(model, []).append((key, rating[QUALITY]))
        rows = flags.setdefault(model, {name: [] for name in FLAGS})
        for name in FLAGS:
          rows[name].append((key, rating[name]))
  found = {
    'win_rate': _summaries(wins, statistics.mean, seed),
    'likert': _summaries(ratings, statistics.mean_rating, seed),
    'metadata': {
      policy: _summaries(rows, statistics.mean, seed)
      for policy, rows in flags.items()
    },
  }
  return {name: tree for name, tree in found.items() if tree}


def _outcomes(
  item: Task, ranks: list[int] | None, reference: str
) -> Iterable[tuple[str, float]]:
  """Yields (policy, mean outcome against the reference) of one label."""
  if ranks is None:
    return
  by_model: dict[str, list[int]] = {}
  for response, rank in zip(item.responses, ranks):
    for model in response.models:
      by_model.setdefault(model, []).append(rank)
  theirs = by_model.pop(reference, [])
  for policy, ours in by_model.items() if theirs else ():
    yield (
      policy,
      means.mean((1 + (a < b) - (a > b)) / 2 for a in ours for b in theirs),
    )


def _summaries(
  values: Mapping[str, list[tuple[str, float]]], make, seed: int
) -> dict[str, dict]:
  """Returns name -> summary of (prompt, value) pairs."""
  return {
    name: statistics.summarize(
      dataclasses.replace(
        make([value for _, value in pairs]), clusters=[key for key, _ in pairs]
      ),
      seed=seed,
    )
    for name, pairs in values.items()
  }
