r"""Plans runs on TPU slices without a TPU: memory, speed and cost.

  python -m instructrl.aot --config=experiments/ppo_ptx.py:1.3b \
      --topology=v5e:4x8,v5e:8x8 [--json] [--workdir=DIR]
  python -m instructrl.aot --config=experiments/plans.py --workdir=DIR

Compiles the functions of the run for each slice and reads the compiled
programs. experiments/plans.py names several runs and their slices. With
--workdir the command writes a report there, and resumes where it stopped. Exit
status 1 if a run fits no slice. Needs `pip install -e ".[aot]"`.
"""

import contextlib
import functools
import json
import os
import sys

from absl import flags
from ml_collections import config_flags

from instructrl.runtime import command


def _message(text: str):
  print(text, file=sys.stderr, flush=True)  # stdout has the results only


def _main(config_flag, topology_flag, vocab_flag, workdir_flag, json_flag):
  from instructrl.planning import plan_report
  from instructrl.planning import planner
  from instructrl.planning import plans as planning
  from instructrl.runtime import run_folder
  from instructrl.runtime import typed

  config = command.read_config(config_flag, 'plan', 'stage', 'plans')
  runs = planning.runs_of(config, topology_flag.value)
  workdir = typed.path(workdir_flag.value) if workdir_flag.value else None
  lock = contextlib.nullcontext()
  if workdir:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = run_folder.only_process(workdir)
  elif sum(len(topologies) for *_, topologies in runs) > 1:
    _message('without --workdir the compiled programs are not kept')

  def show(plan):
    if not json_flag.value:
      print(plan_report.describe(plan), end='\n\n', flush=True)

  with lock:
    plans = planning.make_plans(
      runs, vocab_flag.value, workdir, show=show, say=_message
    )
  if json_flag.value:
    print(json.dumps([planner.to_json(p) for p in plans], indent=1))
  elif len(plans) > 1:
    planning.print_comparison(plans)
  if workdir:
    _message(f'report: {workdir / "index.html"}')
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
        'A stage that trains and its size, such as '
        'experiments/ppo_ptx.py:1.3b, or experiments/plans.py.',
      ),
      flags.DEFINE_list(
        'topology',
        [],
        'Slices, separated by commas: v5p:4x4x4, or two of them, 2xv5p:4x4x4.',
      ),
      flags.DEFINE_integer('vocab', 50_257, 'Tokens of the tokenizer.'),
      flags.DEFINE_string(
        'workdir',
        None,
        'The folder of the report and of the figures of compiled functions.',
      ),
      flags.DEFINE_boolean('json', False, 'Print all figures as JSON.'),
    )
  )
