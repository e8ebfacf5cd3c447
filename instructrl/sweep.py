r"""Runs an ablation: many points, each an ordinary run, and what they show.

  python -m instructrl.sweep --config=experiments/ablations/kl_coef.py:micro \
      --workdir=DIR [--parallel=2] [--set=ppo_ptx.ppo.kl_coef=0.1,0.3] [--print]

A run's folder is DIR/STAGE-HASH, by the hash of its config: what points share,
such as pretraining, is run once, also for other ablations with the same DIR.
The results are in DIR/NAME of the ablation: sweep.json, table.md, figure.png
and index.html. Started again it goes on: what is finished is skipped, what
failed is tried again. With --print the commands are written, in an order in
which they can be run, and nothing is run.
"""

from collections.abc import Sequence
import functools
import importlib.util
import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from instructrl import study
from instructrl.orchestration import graph
from instructrl.orchestration import outcomes
from instructrl.orchestration.children import Children
from instructrl.orchestration.children import DONE
from instructrl.orchestration.children import Job
from instructrl.runtime import command
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.stages import checks

PROGRAM = ('-m', 'instructrl.main')


def load_module(path: str):
  """The ablation's file, which has `sweep(add, config)`."""
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  checks.require(callable(getattr(module, 'sweep', None)),
                 f'{path} has no sweep(add, config), which says what varies')
  return module


def commands(sweep: graph.Sweep, workdir) -> list[str]:
  """A line for a shell for each run, those that others start from first."""
  return [shlex.join(['python', *PROGRAM,
                      *graph.arguments(run, workdir)])
          for run in sweep.runs.values()]


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


def run(name: str, title: str, config, sweep: graph.Sweep, workdir, *,
        parallel: int = 1, program: Sequence[str] = PROGRAM) -> dict:
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
    checks.require(not path or pathlib.Path(path).expanduser().is_dir(),
                   f'given.{stage}: there is no folder {path}')
  names = needed(sweep, config, workdir)
  runs = [sweep.runs[run] for run in names]
  jobs = [Job(
      run.name, run.stage,
      [sys.executable, *program, *graph.arguments(run, workdir)],
      workdir / run.name, tuple(need for need in run.needs if need in names))
          for run in runs]
  for made in runs:  # before anything is written
    run_folder.check_config(workdir / made.name, made.config.to_dict())
  folder = workdir / name
  folder.mkdir(parents=True, exist_ok=True)
  with run_folder.only_process(folder):
    versions = study.versions()
    collect = lambda: outcomes.collect(
        name, config, sweep, workdir, children.status, children.reasons
    ) | {'versions': versions}
    children = Children(
        jobs, parallel,
        lambda: outcomes.write_json(folder, collect()))
    _tell_before(name, folder, sweep, children.status)
    try:
      children.run()
    finally:
      results = collect()
      outcomes.write(folder, results, title)
  return results | {'blocked': children.blocked()}


def _tell_before(name: str, folder: pathlib.Path, sweep: graph.Sweep,
                 status):
  path = folder / outcomes.JSON
  before = files.read_json(path) if path.exists() else {}
  for run in before.get('failed', {}):
    if run in sweep.runs:
      print(f'{name}: {run} failed before, and is tried again', flush=True)
  done = sum(s == DONE for s in status.values())
  print(f'{name}: {len(sweep.points)} points; of {len(status)} runs {done} are '
        'done', flush=True)


def _finish(name: str, workdir, results) -> None:
  """Tells what was found; exits with a status other than 0 if not all is."""
  print(outcomes.markdown(results))
  for line in results['missing']:
    print(f'no {line}')
  print(f'{name}: {pathlib.Path(workdir) / name / outcomes.PAGE}',
        flush=True)
  unfinished = [p for p in results['points']
                if p['status'] != DONE]
  for run, found in results['failed'].items():
    print(f'failed: {run}: {found["reason"]}; log: {found["log"]}',
          file=sys.stderr)
  if results['failed']:
    sys.exit(f'error: {len(results["failed"])} runs failed'
             f' and {len(results["blocked"])} could not begin; '
             f'{len(unfinished)} of {len(results["points"])} points are not '
             'done. The same command tries them again')
  if unfinished:
    print(f'{len(unfinished)} of {len(results["points"])} points are not done; '
          'the same command goes on', file=sys.stderr)
    sys.exit(processes.EXIT_STOPPED)


def _main(config_flag, workdir_flag, parallel, print_flag, settings):
  config, workdir = command.read_flags(
      config_flag, workdir_flag, 'sweep', 'ends')
  checks.require(parallel.value >= 1,
                 f'--parallel={parallel.value} must be 1 or more')
  path = config_flags.get_config_filename(flags.FLAGS['config'])
  path = path if pathlib.Path(path).is_file() else path.rpartition(':')[0]
  module, name = load_module(path), pathlib.Path(path).stem
  grid = graph.expand(
      graph.collect(module.sweep, config), config, settings.value)
  sweep = graph.make(config, grid, workdir)
  for label, same in sweep.merged:
    print(f'{name}: {label} is the same as {same}, and is run once',
          file=sys.stderr)
  if not print_flag.value:
    results = run(name, module.__doc__ or name, config, sweep, workdir,
                  parallel=parallel.value)
    _finish(name, workdir, results)
    return
  depth = levels(sweep)
  lines = [line for _, line in sorted(
      zip(depth, commands(sweep, workdir)), key=lambda pair: pair[0])]
  print('\n'.join(lines))
  ends = [sum(d <= level for d in depth) for level in sorted({*depth})]
  print(f'{name}: {len(sweep.points)} points, {len(lines)} lines. Those up to '
        f'line {", ".join(map(str, ends))} can run at once, after the ones '
        'before them; then this command without --print tells what they show',
        file=sys.stderr)


if __name__ == '__main__':
  command.run_door(functools.partial(
      _main,
      config_flags.DEFINE_config_file(
          'config', None, 'An ablation and its size, such as '
          'experiments/ablations/kl_coef.py:micro.'),
      flags.DEFINE_string('workdir', None, 'Where all runs go.'),
      flags.DEFINE_integer(
          'parallel', 1, 'Runs at a time; 1 where they share an accelerator.'),
      flags.DEFINE_bool(
          'print', False, 'Write the commands, and run nothing.'),
      flags.DEFINE_multi_string(
          'set', [], 'STAGE.field=a,b,c: what to sweep over instead of, or '
          'beside, what the ablation does. Can be given several times.')))
