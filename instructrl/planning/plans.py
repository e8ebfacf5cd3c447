"""Plans several runs on several slices, and keeps a report up to date."""

from collections.abc import Callable, Sequence
import importlib.metadata
import json
import pathlib

from instructrl.planning import compiling
from instructrl.planning import plan_report
from instructrl.planning import planner
from instructrl.runtime import files
from instructrl.stages import checks
from instructrl.stages import registry


def runs_of(config, topologies: Sequence[str]) -> list[tuple]:
  """Returns (name, config, slices) of each run that a config names.

  Args:
    config: config of a stage, or of experiments/plans.py.
    topologies: slices for a stage; a config of plans names its own.

  Raises:
    ConfigError: the config and `topologies` do not go together.
  """
  if 'plans' in config:
    checks.require(
      not topologies,
      '--topology cannot be used with a config of plans: its fields name the '
      'slices',
    )
    plans = [config.plans[key] for key in config.order]
    return [(p.name, p.config, p.slices) for p in plans]
  checks.require(
    bool(topologies),
    '--topology is missing: name a slice, such as v5p:4x4x4, or several, '
    'separated by commas',
  )
  return [(f'{config.stage}:{config.size}', config, topologies)]


def make_plans(
  runs: Sequence[tuple],
  vocab_size: int,
  workdir: pathlib.Path | None = None,
  *,
  show: Callable[[planner.Plan], None] = lambda plan: None,
  say: compiling.Say = lambda text: None,
) -> list[planner.Plan]:
  """Plans each run on each of its slices.

  Args:
    runs: (name, config of a stage, slices) of each run.
    vocab_size: tokens of the tokenizer.
    workdir: where the report is written after each plan, and the figures of
      functions are kept.
    show: is called with each plan.
    say: is called with messages about the progress.

  Raises:
    ValueError: a run is invalid; nothing was compiled.
  """
  for _, config, topologies in runs:
    registry.validate(config)
    for topology in topologies:
      planner.laid_out(config, topology)
  plans = []
  folder = workdir and workdir / 'functions'
  for name, config, topologies in runs:
    for topology in topologies:
      plan = planner.plan(
        config, topology, vocab_size, name=name, say=say, folder=folder
      )
      plans.append(plan)
      show(plan)
      if workdir:
        _write_report(workdir, plans)
  return plans


def _write_report(workdir: pathlib.Path, plans: Sequence[planner.Plan]):
  """Writes index.html, plans.json and table.md (for a README)."""
  version = importlib.metadata.version
  versions = {name: version(name) for name in ('jax', 'libtpu')}
  found = {
    'format_version': 1,
    'versions': versions,
    'plans': [planner.to_json(p) for p in plans],
  }
  table = plan_report.markdown(plan_report.summary(plans))
  for name, text in (
    ('index.html', plan_report.render(plans, versions)),
    ('plans.json', json.dumps(found, indent=1)),
    ('table.md', f'{table}\n'),
  ):
    files.atomic_write(workdir / name, text)


def print_comparison(plans: Sequence[planner.Plan]) -> None:
  """Prints tables that compare the plans, and the smallest slices that fit."""
  print(plan_report.markdown(plan_report.summary(plans)), end='\n\n')
  for found in plan_report.growing(plans).values():
    print(plan_report.markdown(plan_report.scaling(found)), end='\n\n')
  print('\n'.join(plan_report.smallest(plans)))
