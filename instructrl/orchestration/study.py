"""Runs the stages of a study one after another, and makes its report."""

import json
import os
import pathlib
import platform

from instructrl.planning import budget
from instructrl.planning import flops
from instructrl.reports import report
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.stages import checks
from instructrl.stages import registry
from instructrl.stages import runner

SEEDS = ('world_seed', 'train_seed', 'eval_seed')
_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'grain',
  'numpy',
  'sentencepiece',
  'tensorflow-datasets',
  'instructrl',
)


def versions() -> dict[str, str]:
  """What the study ran with."""
  import importlib.metadata

  found = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = 'not installed'
  return found


def stage_configs(config, workdir) -> dict:
  """Each stage's config with the study's seeds, all validated."""
  configs, folders = {}, {}
  for name in config.order:
    checks.require(
      name in config.stages, f'order names {name!r}, which is none of stages'
    )
    stage = config.stages[name].copy_and_resolve_references()
    for seed in SEEDS:
      stage[seed] = config[seed]
    folder = os.path.normpath(os.path.join(workdir, name))
    try:
      stage = registry.resolve(stage, folder, folders)
      registry.validate(stage)
    except ValueError as error:
      shared = [
        f'; --config.{field} sets it in all stages'
        for field in config
        if f'.{field}=' in str(error)
      ]
      raise ValueError(f'stages.{name}: {error}{"".join(shared)}') from error
    configs[name] = folders[folder] = stage
  check_together(configs)
  return configs


def check_together(configs) -> None:
  """Refuses stages of which one cannot read what another writes."""
  if 'rankings' in configs and 'reward' in configs:
    most, read = (
      configs[name].max_responses for name in ('rankings', 'reward')
    )
    checks.require(
      most <= read,
      f'stages.rankings.max_responses={most} is more than '
      f'stages.reward.max_responses={read}',
    )


def run(config, workdir) -> pathlib.Path:
  """Runs what is not finished; returns the path of the report, if there is an
  evaluation to report, or else the study's folder.
  """
  configs = stage_configs(config, workdir)
  workdir = pathlib.Path(workdir)
  for name, stage in configs.items():  # before anything is written
    run_folder.check_config(workdir / name, stage.to_dict())
    if run_folder.read_done(workdir / name) is None:
      registry.check_mesh(stage)
      registry.check_sources(stage)
  workdir.mkdir(parents=True, exist_ok=True)
  with runner.alone(workdir):
    if processes.primary():
      files.atomic_write(
        workdir / 'study.json',
        json.dumps(
          {
            'format_version': 1,
            'config': {
              name: json.loads(c.to_json()) for name, c in configs.items()
            },
            'seeds': {seed: config[seed] for seed in SEEDS},
            'versions': versions(),
            'stages': list(configs),
          },
          indent=1,
        ),
      )
    for number, (name, stage) in enumerate(configs.items(), 1):
      runner.run_stage(stage, workdir / name, f'[{number}/{len(configs)}]')
      if stage.stage == 'data' and processes.primary():
        found = budget.costs(configs, workdir)
        if found:
          print(
            budget.table(found, workdir, flops.measure_peak('float32')),
            flush=True,
          )
    if not processes.primary():
      return workdir
    if not report.REPORTED.intersection(configs):
      print('no report: the stages have no evaluation', flush=True)
      return workdir
    path = report.make_report(workdir)
  print(f'report: {path}', flush=True)
  return path
