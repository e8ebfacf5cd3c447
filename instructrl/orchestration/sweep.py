"""Runs the points of a sweep; stages that points share run once."""

from collections.abc import Sequence
import importlib.util
import pathlib
import shlex
import sys

from instructrl.orchestration import commands
from instructrl.orchestration import graph
from instructrl.orchestration import grid
from instructrl.orchestration import outcomes
from instructrl.orchestration.children import Children
from instructrl.orchestration.children import DONE
from instructrl.orchestration.children import Job
from instructrl.orchestration.versions import versions
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime import typed
from instructrl.stages import checks

PROGRAM = ('-m', 'instructrl.main')


def load(path: str, config, settings: Sequence[str], workdir):
  """Reads an ablation's file and builds its points.

  Args:
    path: a Python file with `get_config` and `sweep(add, config)`.
    config: the sweep's config.
    settings: 'STAGE.field=a,b,c' of the command line.
    workdir: the folder of the runs.

  Returns:
    (title, graph.Sweep); the title is the file's docstring.
  """
  name = pathlib.Path(path).stem
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  checks.require(
    callable(getattr(module, 'sweep', None)),
    f'{path} has no sweep(add, config); this function adds the points',
  )
  points = grid.expand(grid.collect(module.sweep, config), config, settings)
  sweep = graph.of_sweep(config, points, workdir)
  for label, same in sweep.merged:
    print(f'{name}: {label} equals {same}; it runs once', file=sys.stderr)
  return module.__doc__ or name, sweep


def print_commands(name: str, sweep: graph.Sweep, workdir) -> None:
  """Prints a shell command for each run; runs that others need come first."""
  depth = {}  # runs that must finish before, one after another
  for node in sweep.nodes.values():
    depth[node.name] = 1 + max((depth[n] for n in node.needs), default=-1)
  for node in sorted(sweep.nodes.values(), key=lambda node: depth[node.name]):
    print(shlex.join(['python', *PROGRAM, *commands.arguments(node, workdir)]))
  levels = sorted(depth.values())
  groups = []
  for level in sorted({*levels}):
    first, count = levels.index(level) + 1, levels.count(level)
    groups.append(f'{first}-{first + count - 1}' if count > 1 else f'{first}')
  print(
    f'{name}: {len(sweep.points)} points, {len(levels)} commands. Commands of '
    'one group can run at the same time, after all groups before it; the '
    f'groups are the lines {", ".join(groups)}. Then run this command without '
    '--print to collect the results',
    file=sys.stderr,
  )


def run(
  name: str,
  title: str,
  config,
  sweep: graph.Sweep,
  workdir,
  *,
  parallel: int = 1,
  program: Sequence[str] = PROGRAM,
) -> dict:
  """Runs what is not finished.

  Args:
    name: name of the sweep and of the folder with its results.
    title: the first line is the heading of the results page; text follows.
    config: the sweep's config.
    sweep: its points and nodes.
    workdir: the folder of the runs.
    parallel: runs at a time.
    program: arguments of the interpreter before the flags of a run.

  Returns:
    The content of sweep.json, and 'blocked': runs that could not begin.
  """
  workdir = pathlib.Path(workdir)
  for stage, path in config.given.items():
    checks.require(
      not path or typed.path(path).is_dir(),
      f'given.{stage}: there is no folder {path}',
    )
  ends = [point.runs[end] for point in sweep.points for end in config.ends]
  nodes = graph.needed(sweep.nodes, ends, workdir)
  jobs = [_job(node, nodes, workdir, program) for node in nodes]
  graph.check_folders(nodes, workdir)  # before anything is written
  folder = workdir / name
  folder.mkdir(parents=True, exist_ok=True)
  with run_folder.only_process(folder):
    ran_with = versions()

    def collect():
      found = outcomes.collect(
        name, config, sweep, workdir, children.status, children.reasons
      )
      return found | {'versions': ran_with}

    children = Children(
      jobs, parallel, lambda: outcomes.write_json(folder, collect())
    )
    _print_start(name, folder, sweep, children.status)
    try:
      children.run()
    finally:
      results = collect()
      outcomes.write(folder, results, title)
  return results | {'blocked': children.blocked()}


def _job(node: graph.Node, nodes, workdir: pathlib.Path, program) -> Job:
  names = {other.name for other in nodes}
  return Job(
    node.name,
    node.stage,
    [sys.executable, *program, *commands.arguments(node, workdir)],
    workdir / node.name,
    tuple(need for need in node.needs if need in names),
  )


def _print_start(name: str, folder: pathlib.Path, sweep, status) -> None:
  path = folder / outcomes.JSON
  before = files.read_json(path) if path.exists() else {}
  for failed in before.get('failed', {}):
    if failed in sweep.nodes:
      print(f'{name}: {failed} failed before; trying again', flush=True)
  done = sum(s == DONE for s in status.values())
  print(
    f'{name}: {len(sweep.points)} points; {done} of {len(status)} runs are '
    'done',
    flush=True,
  )


def finish(name: str, workdir, results) -> None:
  """Prints the results; exits with a status other than 0 if a point is left."""
  print(outcomes.text(results))
  for line in results['missing']:
    print(f'missing: {line}')
  print(f'{name}: {pathlib.Path(workdir) / name / outcomes.PAGE}', flush=True)
  for failed, found in results['failed'].items():
    print(
      f'failed: {failed}: {found["reason"]}; log: {found["log"]}',
      file=sys.stderr,
    )
  points = results['points']
  unfinished = sum(point['status'] != DONE for point in points)
  left = f'{unfinished} of {len(points)} points are not done'
  if results['failed']:
    sys.exit(
      f'error: {len(results["failed"])} runs failed and '
      f'{len(results["blocked"])} could not begin; {left}. Run the same '
      'command to try again'
    )
  if unfinished:
    print(f'{left}; run the same command to go on', file=sys.stderr)
    sys.exit(processes.EXIT_STOPPED)
