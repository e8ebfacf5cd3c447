"""Runs the stages of a study one after another, and makes its report."""

import json
import os
import pathlib

from instructrl.orchestration import graph
from instructrl.orchestration import taken
from instructrl.orchestration.versions import versions
from instructrl.planning import budget
from instructrl.planning import flops
from instructrl.reports import headline
from instructrl.reports import report
from instructrl.reports import study_files
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.stages import registry
from instructrl.stages import runner


def run(config, workdir, source: str = '') -> pathlib.Path:
  """Runs the stages that are not finished.

  Args:
    config: a study's config; see experiments/study.py.
    workdir: the folder of the study; each stage has a folder in it.
    source: folder of finished runs, which are taken where they are the same.

  Returns:
    The path of the report, or `workdir` if no stage has results to report.
  """
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
    for number, (name, node) in enumerate(nodes.items(), 1):
      place = f'[{number}/{len(nodes)}]'
      same = None
      if finished and processes.primary():
        same = finished.take(node, workdir)
      if processes.agree(same is not None):
        if processes.primary():
          print(f'{place} {name}: taken from {same}', flush=True)
        continue
      # Several folders may be of one stage: `nlp` is of the stage `sft`.
      label = place if name == node.stage else f'{place} {name}:'
      runner.run_stage(node.resolved, workdir / name, label)
      if node.stage == 'data' and processes.primary():
        _print_budget(nodes, workdir)
    if not processes.primary():
      return workdir
    if study_files.EVALUATION not in nodes:
      print('no report: the study has no evaluation stage', flush=True)
      return workdir
    path = report.make_report(workdir)
  print(headline.ending(path), flush=True)
  return path


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
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  nodes = {stage: sweep.nodes[name] for stage, name in point.runs.items()}
  for stage, node in nodes.items():
    link = folder / stage
    if not link.is_symlink():
      run = (pathlib.Path(workdir) / node.name).absolute()
      link.symlink_to(os.path.relpath(run, folder.absolute()))
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
