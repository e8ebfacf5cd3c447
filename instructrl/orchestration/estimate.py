"""Estimates how long the runs of a study or sweep take, before they start."""

from collections import Counter
from collections.abc import Iterable, Mapping
import pathlib

from instructrl.orchestration import commands
from instructrl.orchestration import graph
from instructrl.orchestration import grid
from instructrl.runtime import progress

# Fields that a stage's time is proportional to.
_WORK = ('num_epochs', 'num_steps', 'ppo.num_iterations', 'ppo.batch_size')


def expected(node: graph.Node, seconds: Mapping[str, float]) -> float:
  """Returns the seconds that a run takes; 0 if they are not known.

  Args:
    node: the run.
    seconds: experiment -> seconds of its recipe. A stage that has no experiment
      of its own name, such as 'ppo_2', is compared with that of its kind.
  """
  for name in (node.key, node.stage):
    if name in seconds and pathlib.Path(f'experiments/{name}.py').is_file():
      return seconds[name] * _work(node, name)
  return 0.0


def _work(node: graph.Node, experiment: str) -> float:
  """Returns the work of a run, relative to an experiment's recipe."""
  recipe = commands.recipe(f'experiments/{experiment}.py:{node.config.size}')
  wanted, times = grid.flatten(node.config.to_dict()), 1.0
  for field in _WORK:
    if recipe.get(field):
      times *= wanted.get(field, recipe[field]) / recipe[field]
  if 'model.d_model' in wanted:  # parameters grow with its square
    times *= (wanted['model.d_model'] / recipe['model.d_model']) ** 2
  return times


def describe(
  nodes: Iterable[graph.Node], workdir, seconds: Mapping[str, float]
) -> str:
  """Returns the number of runs of each stage that are left, and their time.

  Args:
    nodes: the runs.
    workdir: their folder.
    seconds: see `expected`; empty if they are not known.
  """
  left = [node for node in nodes if not graph.finished(node, workdir)]
  counts = Counter(node.stage for node in left)
  text = ', '.join(f'{count} {stage}' for stage, count in counts.items())
  text = f'{len(left)} runs are left' + (f': {text}' if text else '')
  if left and seconds:
    known = [expected(node, seconds) for node in left]
    unknown = sorted({n.stage for n, took in zip(left, known) if not took})
    total = progress.format_seconds(sum(known))
    text += f'. They take about {total}, one at a time'
    if unknown:
      text += f', without {", ".join(unknown)}, whose time is not known'
  return text
