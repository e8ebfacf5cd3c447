r"""Plans runs on TPU slices without a TPU: memory, time, cost.

  python -m instructrl.aot --config=experiments/ppo_ptx.py:1.3b \
      --topology=v5e:4x8,v5e:8x8 [--json] [--workdir=DIR]
  python -m instructrl.aot --config=experiments/plans.py --workdir=DIR

Compiles the functions that the trainer runs for each slice, and reads the
compiled programs (see `plan` and `hlo`). Of several slices it says which fit,
and what the whole run would cost; experiments/plans.py names several runs and
their slices. With --workdir it writes a page there, and what has been read is
not compiled again: stopped, the same command goes on. Exit status 1 if a run
fits none of its slices. Needs `pip install -e ".[aot]"`.
"""

from collections.abc import Sequence
import contextlib
import functools
import importlib.metadata
import json
import os
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from instructrl.planning import plan_report
from instructrl.planning import planner
from instructrl.runtime import command
from instructrl.runtime import files
from instructrl.runtime import run_folder
from instructrl.stages import registry


def _tell(text: str):
  print(text, file=sys.stderr, flush=True)  # stdout is for what was asked


def write_report(workdir: pathlib.Path, plans: Sequence[planner.Plan]):
  """index.html for people, plans.json for programs, table.md for a README."""
  versions = {
    name: importlib.metadata.version(name) for name in ('jax', 'libtpu')
  }
  for name, text in (
    ('index.html', plan_report.render(plans, versions)),
    (
      'plans.json',
      json.dumps(
        {
          'format_version': 1,
          'versions': versions,
          'plans': [planner.to_json(p) for p in plans],
        },
        indent=1,
      ),
    ),
    ('table.md', plan_report.markdown(plan_report.summary(plans)) + '\n'),
  ):
    files.atomic_write(workdir / name, text)


def make_plans(
  runs,
  vocab_size: int,
  workdir: pathlib.Path | None = None,
  shown=lambda plan: None,
) -> list[planner.Plan]:
  """Plans of each run on each of its slices; the report grows with each.

  Args:
    runs: (name, config of a stage, slices) of each.
    vocab_size: tokens of the tokenizer.
    workdir: where the report goes, and what has been read is kept.
    shown: is given each plan as soon as it is there.
  """
  for _, config, topologies in runs:  # before anything is compiled
    registry.validate(config)
    for topology in topologies:
      planner.laid_out(config, topology)
  plans = []
  for name, config, topologies in runs:
    for topology in topologies:
      plans.append(
        planner.plan(
          config,
          topology,
          vocab_size,
          name=name,
          say=_tell,
          folder=workdir and workdir / 'functions',
        )
      )
      shown(plans[-1])
      if workdir:
        write_report(workdir, plans)
  return plans


def runs_of(config, topologies: Sequence[str]):
  """(name, config, slices) of each run, from the flags."""
  if config is None:
    sys.exit(
      'error: --config is missing: give a stage of experiments/ and its '
      'size, such as experiments/ppo_ptx.py:1.3b, or '
      'experiments/plans.py'
    )
  try:
    has_plans = 'plans' in config
  except OSError as error:  # ml_collections', for a file that is not there
    sys.exit(f'error: --config: {command.missing_file(error)}')
  if has_plans:
    if topologies:
      sys.exit(
        'error: --topology does not go with a config of plans: the '
        'slices are in its fields'
      )
    plans = [config.plans[key] for key in config.order]
    return [(p.name, p.config, p.slices) for p in plans]
  if 'stage' not in config:
    sys.exit(
      'error: --config is of no stage that trains: it has neither a '
      'field stage nor plans'
    )
  if not topologies:
    sys.exit(
      'error: --topology is missing: name a slice, such as v5p:4x4x4, '
      'or several, with commas'
    )
  return [(f'{config.stage}:{config.size}', config, topologies)]


def _main(config_flag, topology_flag, vocab_flag, workdir_flag, json_flag):
  runs = runs_of(config_flag.value, topology_flag.value)
  workdir = pathlib.Path(workdir_flag.value) if workdir_flag.value else None
  if workdir:
    workdir.mkdir(parents=True, exist_ok=True)
  elif sum(len(topologies) for *_, topologies in runs) > 1:
    _tell('without --workdir nothing that is compiled here is kept')
  with (
    run_folder.only_process(workdir) if workdir else contextlib.nullcontext()
  ):
    plans = make_plans(
      runs,
      vocab_flag.value,
      workdir,
      (lambda p: None)
      if json_flag.value
      else lambda p: print(plan_report.describe(p), end='\n\n', flush=True),
    )
  if json_flag.value:
    print(json.dumps([planner.to_json(p) for p in plans], indent=1))
  elif len(plans) > 1:
    print(plan_report.markdown(plan_report.summary(plans)), end='\n\n')
    for found in plan_report.growing(plans).values():
      print(plan_report.markdown(plan_report.scaling(found)), end='\n\n')
    print('\n'.join(plan_report.smallest(plans)))
  if workdir:
    _tell(f'report: {workdir / "index.html"}')
  if {p.name for p in plans} > {p.name for p in plans if p.fits}:
    sys.exit(1)


if __name__ == '__main__':
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  command.run_door(
    functools.partial(
      _main,
      config_flags.DEFINE_config_file(
        'config',
        None,
        'A stage that trains, and its size, such as '
        'experiments/ppo_ptx.py:1.3b; or experiments/plans.py.',
      ),
      flags.DEFINE_list(
        'topology',
        [],
        'A slice, such as v5p:4x4x4, two of '
        'them as one, 2xv5p:4x4x4, or several, with commas.',
      ),
      flags.DEFINE_integer(
        'vocab', planner.GPT_VOCAB, 'Tokens of the tokenizer.'
      ),
      flags.DEFINE_string(
        'workdir',
        None,
        'Where a report is written, and what was compiled is found again.',
      ),
      flags.DEFINE_boolean('json', False, 'Print all figures as JSON.'),
    )
  )
