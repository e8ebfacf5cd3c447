"""Pools the same tree of numbers over the studies of several worlds and seeds.

A pooled number is the mean over the runs. Two things make it uncertain: another
seed trains other models, and another world has other prompts and questions,
which the seeds of one world share. Its 95% interval is the wider of

- Student's t interval over the runs, and
- the interval of the items: the mean interval of a run, divided by the square
  root of the number of worlds.
"""

from collections.abc import Mapping, Sequence
import math
import statistics
from typing import Any

from instructrl.reports import shapes

VALUES = ('value', 'win_rate', 'accuracy')  # the names of a summary's number


def pool(trees: Sequence[Any], worlds: int) -> Any:
  """Returns one tree in the place of several of the same form.

  Args:
    trees: of the runs. A leaf is a summary, a mapping with 'ci95' and a number
      under one of the names in `VALUES`. What a run lacks, the result lacks.
    worlds: the number of different worlds.

  Returns:
    The tree. Summaries have the mean as number, and 'n' of the first run.
    Numbers without an interval become their mean. All else is the first run's.
  """
  first = trees[0]
  if len(trees) == 1 or any(tree is None for tree in trees):
    return first if len(trees) == 1 else None
  if isinstance(first, Mapping):
    found = {
      key: pool([tree[key] for tree in trees], worlds)
      for key in first
      if all(key in tree for tree in trees)
    }
    name = next((name for name in VALUES if name in first), None)
    if name and 'ci95' in first:
      found['ci95'] = _interval(trees, name, worlds)
      found |= {'n': first['n']} if 'n' in first else {}
    return found
  if isinstance(first, (list, tuple)):
    return [pool(parts, worlds) for parts in zip(*trees)]
  if isinstance(first, (int, float)) and not isinstance(first, bool):
    return first if len({*trees}) == 1 else statistics.fmean(trees)
  return first


def _interval(trees, name: str, worlds: int) -> list[float] | None:
  """Returns the interval of a pooled summary; None if a run has none."""
  values = [tree[name] for tree in trees]
  if None in values or any(tree['ci95'] is None for tree in trees):
    return None
  low, high = shapes.mean_of(values)['ci95']
  widths = [tree['ci95'][1] - tree['ci95'][0] for tree in trees]
  items = statistics.fmean(widths) / 2 / math.sqrt(worlds)
  half = max((high - low) / 2, items)
  mean = statistics.fmean(values)
  return [mean - half, mean + half]
