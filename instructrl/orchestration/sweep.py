"""Runs the points of a sweep, and what they share once."""

from collections.abc import Sequence
import importlib.util
import pathlib
import shlex
import sys

from instructrl.orchestration import graph
from instructrl.orchestration import outcomes
from instructrl.orchestration import study
from instructrl.orchestration.children import Children
from instructrl.orchestration.children import DONE
from instructrl.orchestration.children import Job
from instructrl.runtime import files
from instructrl.runtime import run_folder
from instructrl.stages import checks

PROGRAM = ('-m', 'instructrl.main')


def load_module(path: str):
  """The ablation's file, which has `sweep(add, config)`."""
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  checks.require(
    callable(getattr(module, 'sweep', None)),
    f'{path} has no sweep(add, config), which says what varies',
  )
  return module


def commands(sweep: graph.Sweep, workdir) -> list[str]:
  """A line for a shell for each run, those that others start from first."""
  return [
    shlex.join(['python', *PROGRAM, *graph.arguments(run, workdir)])
    for run in sweep.runs.values()
  ]


def levels(sweep: graph.Sweep) -> list[int]:
  """Of each run, how many must be run before it, one after another."""
  depth = {}
  for name, run in sweep.runs.items():
    depth[name] = 1 + max((depth[need] for need in run.needs), default=-1)
  return list(depth.values())


def needed(sweep: graph.Sweep, config, workdir) -> list[str]:
  """Runs that are not done, or are needed by one that is not; and all ends.

  What a finished end started from may have been removed.
  """
  wanted = set()

  def visit(name):
    if name not in wanted:
      wanted.add(name)
      if run_folder.read_done(pathlib.Path(workdir) / name) is None:
        for need in sweep.runs[name].needs:
          visit(need)

  for point in sweep.points:
    for end in config.ends:
      visit(point.runs[end])
  return [name for name in sweep.runs if name in wanted]


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
  """Runs what is not finished; returns what sweep.json says.

  Args:
    name: of the sweep; its results go to the folder of that name.
    title: what it is about: a line, and more after it.
    config: of the sweep.
    sweep: its points and runs.
    workdir: where the runs go.
    parallel: runs at a time.
    program: what is run, after the name of the interpreter.
  """
  workdir = pathlib.Path(workdir)
  for stage, path in config.given.items():
    checks.require(
      not path or pathlib.Path(path).expanduser().is_dir(),
      f'given.{stage}: there is no folder {path}',
    )
  names = needed(sweep, config, workdir)
  runs = [sweep.runs[run] for run in names]
  jobs = [
    Job(
      run.name,
      run.stage,
      [sys.executable, *program, *graph.arguments(run, workdir)],
      workdir / run.name,
      tuple(need for need in run.needs if need in names),
    )
    for run in runs
  ]
  for made in runs:  # before anything is written
    run_folder.check_config(workdir / made.name, made.config.to_dict())
  folder = workdir / name
  folder.mkdir(parents=True, exist_ok=True)
  with run_folder.only_process(folder):
    versions = study.versions()
    collect = lambda: (
      outcomes.collect(
        name, config, sweep, workdir, children.status, children.reasons
      )
      | {'versions': versions}
    )
    children = Children(
      jobs, parallel, lambda: outcomes.write_json(folder, collect())
    )
    _tell_before(name, folder, sweep, children.status)
    try:
      children.run()
    finally:
      results = collect()
      outcomes.write(folder, results, title)
  return results | {'blocked': children.blocked()}


def _tell_before(name: str, folder: pathlib.Path, sweep: graph.Sweep, status):
  path = folder / outcomes.JSON
  before = files.read_json(path) if path.exists() else {}
  for run in before.get('failed', {}):
    if run in sweep.runs:
      print(f'{name}: {run} failed before, and is tried again', flush=True)
  done = sum(s == DONE for s in status.values())
  print(
    f'{name}: {len(sweep.points)} points; of {len(status)} runs {done} are '
    'done',
    flush=True,
  )
