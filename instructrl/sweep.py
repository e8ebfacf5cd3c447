r"""Runs an ablation: one run per point, and a table and a figure.

  python -m instructrl.sweep --config=experiments/ablations/kl_coef.py:micro \
      --workdir=DIR [--parallel=2] [--set=ppo_ptx.ppo.kl_coef=0.1,0.3] [--print]

A run's folder is DIR/STAGE-HASH, by the hash of its config: what points share,
such as pretraining, is run once, also for other ablations with the same DIR.
The results are in DIR/NAME of the ablation: sweep.json, table.md, figure.png
and index.html. Started again it goes on: what is finished is skipped, what
failed is tried again. With --print the commands are written, in an order in
which they can be run, and nothing is run.
"""

import functools
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from instructrl.orchestration import graph
from instructrl.orchestration import outcomes
from instructrl.orchestration import sweep
from instructrl.orchestration.children import DONE
from instructrl.runtime import command
from instructrl.runtime import processes
from instructrl.stages import checks


def _finish(name: str, workdir, results) -> None:
  """Tells what was found; exits with a status other than 0 if not all is."""
  print(outcomes.markdown(results))
  for line in results['missing']:
    print(f'no {line}')
  print(f'{name}: {pathlib.Path(workdir) / name / outcomes.PAGE}', flush=True)
  unfinished = [p for p in results['points'] if p['status'] != DONE]
  for sweep.run, found in results['failed'].items():
    print(
      f'failed: {sweep.run}: {found["reason"]}; log: {found["log"]}',
      file=sys.stderr,
    )
  if results['failed']:
    sys.exit(
      f'error: {len(results["failed"])} runs failed'
      f' and {len(results["blocked"])} could not begin; '
      f'{len(unfinished)} of {len(results["points"])} points are not '
      'done. The same command tries them again'
    )
  if unfinished:
    print(
      f'{len(unfinished)} of {len(results["points"])} points are not done; '
      'the same command goes on',
      file=sys.stderr,
    )
    sys.exit(processes.EXIT_STOPPED)


def _main(config_flag, workdir_flag, parallel, print_flag, settings):
  config, workdir = command.read_flags(
    config_flag, workdir_flag, 'sweep', 'ends'
  )
  checks.require(
    parallel.value >= 1, f'--parallel={parallel.value} must be 1 or more'
  )
  path = config_flags.get_config_filename(flags.FLAGS['config'])
  path = path if pathlib.Path(path).is_file() else path.rpartition(':')[0]
  module, name = sweep.load_module(path), pathlib.Path(path).stem
  grid = graph.expand(
    graph.collect(module.sweep, config), config, settings.value
  )
  made = graph.make(config, grid, workdir)
  for label, same in made.merged:
    print(
      f'{name}: {label} is the same as {same}, and is run once', file=sys.stderr
    )
  if not print_flag.value:
    results = sweep.run(
      name,
      module.__doc__ or name,
      config,
      made,
      workdir,
      parallel=parallel.value,
    )
    _finish(name, workdir, results)
    return
  depth = sweep.levels(made)
  lines = [
    line
    for _, line in sorted(
      zip(depth, sweep.commands(made, workdir)), key=lambda pair: pair[0]
    )
  ]
  print('\n'.join(lines))
  ends = [sum(d <= level for d in depth) for level in sorted({*depth})]
  print(
    f'{name}: {len(made.points)} points, {len(lines)} lines. Those up to '
    f'line {", ".join(map(str, ends))} can run at once, after the ones '
    'before them; then this command without --print tells what they show',
    file=sys.stderr,
  )


if __name__ == '__main__':
  command.run_door(
    functools.partial(
      _main,
      config_flags.DEFINE_config_file(
        'config',
        None,
        'An ablation and its size, such as '
        'experiments/ablations/kl_coef.py:micro.',
      ),
      flags.DEFINE_string('workdir', None, 'Where all runs go.'),
      flags.DEFINE_integer(
        'parallel', 1, 'Runs at a time; 1 where they share an accelerator.'
      ),
      flags.DEFINE_bool('print', False, 'Write the commands, and run nothing.'),
      flags.DEFINE_multi_string(
        'set',
        [],
        'STAGE.field=a,b,c: what to sweep over instead of, or '
        'beside, what the ablation does. Can be given several times.',
      ),
    )
  )
