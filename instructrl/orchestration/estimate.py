"""Estimates how long the runs of a sweep take, before they start."""

from collections import Counter
from collections.abc import Iterable, Mapping

from instructrl.orchestration import commands
from instructrl.orchestration import graph
from instructrl.runtime import progress

# Fields that a stage's time is proportional to.
_WORK = ('num_epochs', 'num_steps', 'ppo.num_iterations', 'ppo.batch_size')


def work(node: graph.Node) -> float:
  """Returns the work of a run, relative to its experiment's recipe."""
  recipe = commands.recipe(f'experiments/{node.stage}.py:{node.config.size}')
  times = 1.0
  for field in _WORK:
    if recipe.get(field):
      wanted = node.config
      for name in field.split('.'):
        wanted = wanted[name]
      times *= wanted / recipe[field]
  if 'd_model' in node.config.get(
    'model', {}
  ):  # parameters grow with its square
    times *= (node.config.model.d_model / recipe['model.d_model']) ** 2
  return times


def describe(
  nodes: Iterable[graph.Node], workdir, seconds: Mapping[str, float]
) -> str:
  """Returns the number of runs of each stage that are left, and their time.

  Args:
    nodes: the runs.
    workdir: their folder.
    seconds: stage -> seconds of its recipe; empty if they are not known.
  """
  left = [node for node in nodes if not graph.finished(node, workdir)]
  counts = Counter(node.stage for node in left)
  text = ', '.join(f'{count} {stage}' for stage, count in counts.items())
  text = f'{len(left)} runs are left' + (f': {text}' if text else '')
  unknown = sorted({*counts} - {*seconds})
  if left and seconds:
    total = sum(work(n) * seconds[n.stage] for n in left if n.stage in seconds)
    text += f'. They take about {progress.format_seconds(total)}, one at a time'
    if unknown:
      text += f', without {", ".join(unknown)}, whose time is not known'
  return text
