"""Runs the stages of a study, and makes its report."""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import sys

import jax

from instructrl.orchestration import children
from instructrl.orchestration import estimate
from instructrl.orchestration import graph
from instructrl.orchestration import taken
from instructrl.orchestration.versions import versions
from instructrl.planning import budget
from instructrl.planning import flops
from instructrl.reports import study_files
from instructrl.runtime import exits
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.stages import checks
from instructrl.stages import registry
from instructrl.stages import runner


def run(
  config,
  workdir,
  source: str = '',
  *,
  parallel: int = 1,
  command: Sequence[str] = (),
) -> pathlib.Path:
  """Runs the stages that are not finished.

  Args:
    config: a study's config; see experiments/study.py.
    workdir: the folder of the study; each stage has a folder in it.
    source: folder of finished runs, which are taken where they are the same.
    parallel: stages at a time; each is a process of its own if more than 1.
    command: the program that runs the stage --stage=NAME of this study.

  Returns:
    The path of the report, or `workdir` if no stage has results to report.
  """
  if parallel > 1:
    _check_parallel(parallel)
  nodes = graph.of_study(config, workdir)
  workdir = pathlib.Path(workdir)
  graph.check_folders(nodes.values(), workdir)
  for node in nodes.values():  # before anything is written
    if not graph.finished(node, workdir):
      registry.check_mesh(node.resolved)
  finished = taken.Finished(source) if source else None
  workdir.mkdir(parents=True, exist_ok=True)
  with runner.alone(workdir):
    if processes.primary():
      seeds = {seed: config[seed] for seed in graph.SEEDS}
      files.write_sealed(workdir / 'study.json', _record(seeds, nodes))
    if parallel > 1:
      jobs = _jobs(nodes, workdir, command, config.get('seconds', {}))
      _run_jobs(jobs, parallel, nodes, workdir, finished)
    else:
      _run_in_order(nodes, workdir, finished)
    if not processes.primary():
      return workdir
    if study_files.EVALUATION not in nodes:
      print('no report: the study has no evaluation stage', flush=True)
      return workdir
    from instructrl.reports import headline  # a stage's process needs no plots
    from instructrl.reports import report

    path = report.make_report(workdir)
  print(headline.ending(path), flush=True)
  return path


def run_stage(config, workdir, name: str) -> None:
  """Runs one stage of a study; what it starts from must be finished."""
  nodes = graph.of_study(config, workdir)
  checks.require(
    name in nodes, f'--stage must be one of {", ".join(nodes)}; got {name!r}'
  )
  _run_stage(nodes, name, pathlib.Path(workdir))


def _run_stage(nodes, name: str, workdir: pathlib.Path) -> None:
  node = nodes[name]
  runner.run_stage(node.resolved, workdir / name, _label(nodes, name))
  if node.stage == 'data' and processes.primary():
    _print_budget(nodes, workdir)


def _label(nodes, name: str) -> str:
  """Returns what the console shows for a stage, such as '[3/12] nlp'."""
  return f'[{[*nodes].index(name) + 1}/{len(nodes)}] {name}'


def _run_in_order(nodes, workdir: pathlib.Path, finished) -> None:
  """Runs the stages one after another, in this process."""
  for name, node in nodes.items():
    same = None
    if finished and processes.primary():
      same = finished.take(node, workdir)
    if processes.agree(same is not None):
      if processes.primary():
        print(f'{_label(nodes, name)}: taken from {same}', flush=True)
      continue
    _run_stage(nodes, name, workdir)


def _check_parallel(parallel: int) -> None:
  """Raises a ConfigError if several stages cannot run at a time."""
  checks.require(
    jax.process_count() == 1,
    f'--parallel={parallel} needs a study of one process; this one has '
    f'{jax.process_count()}, and they run one stage at a time',
  )
  checks.require(
    jax.default_backend() != 'tpu',
    f'--parallel={parallel}: a TPU serves one process at a time; leave it out',
  )


def _jobs(
  nodes, workdir: pathlib.Path, command: Sequence[str], seconds: Mapping
) -> list[children.Job]:
  return [
    children.Job(
      name,
      name,
      [*command, f'--stage={name}'],
      workdir / name,
      node.needs,
      _label(nodes, name),
      estimate.expected(node, seconds),
    )
    for name, node in nodes.items()
  ]


def _run_jobs(jobs, parallel: int, nodes, workdir, finished) -> None:
  """Runs stages that do not need each other at the same time.

  Raises:
    exits.Waiting: a stage waits for people, and no other stage failed.
    SystemExit: a stage failed or was interrupted.
  """

  def take(name):
    return str(finished.take(nodes[name], workdir) or '') if finished else ''

  for name, node in nodes.items():
    if graph.finished(node, workdir):
      _run_stage(nodes, name, workdir)  # checks its files
  runs = children.Children(jobs, parallel, take=take, follow=True)
  runs.run()
  if runs.reasons:
    failed = [f'{name}: {why}' for name, why in runs.reasons.items()]
    sys.exit(
      f'error: {"; ".join(failed)}; the same command tries again. Not begun: '
      f'{", ".join(runs.blocked()) or "none"}'
    )
  for name, code in runs.codes.items():
    last = children.last_line(workdir / name / children.LOG)
    if code == exits.EXIT_WAITING:
      raise exits.Waiting(last)
    print(f'{name}: {last}', file=sys.stderr)
    sys.exit(code if code > 0 else 128 - code)


def report_point(
  point: graph.Point, sweep: graph.Sweep, workdir, folder
) -> pathlib.Path:
  """Makes the report of a finished point of a sweep that is a whole study.

  Args:
    point: the point.
    sweep: its sweep.
    workdir: the folder of the runs.
    folder: becomes the folder of the study, with links to the runs.

  Returns:
    The path of the report.
  """
  from instructrl.reports import report

  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  nodes = {stage: sweep.nodes[name] for stage, name in point.runs.items()}
  for link in folder.iterdir():
    if link.is_symlink():  # to a run of an earlier config
      link.unlink()
  for stage, node in nodes.items():
    run = (pathlib.Path(workdir) / node.name).absolute()
    (folder / stage).symlink_to(os.path.relpath(run, folder.absolute()))
  found = nodes[study_files.EVALUATION].config
  seeds = {seed: found[seed] for seed in graph.SEEDS}
  seeds['train_seed'] = point.seed
  files.write_sealed(folder / 'study.json', _record(seeds, nodes))
  return report.make_report(folder)


def _record(seeds, nodes) -> dict:
  """Returns the content of study.json."""
  configs = {
    n: json.loads(node.resolved.to_json()) for n, node in nodes.items()
  }
  return {
    'format_version': study_files.FORMAT_VERSION,
    'config': configs,
    'seeds': seeds,
    'versions': versions(),
    'stages': list(nodes),
  }


def _print_budget(nodes, workdir) -> None:
  """Prints how much the stages will compute, now that their data are there."""
  configs = {name: node.resolved for name, node in nodes.items()}
  found = budget.costs(configs, workdir)
  if found:
    peak = flops.measure_peak('float32')
    print(budget.table(found, workdir, peak), flush=True)
