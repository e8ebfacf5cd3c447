r"""Runs an ablation: one run per point, and a table and a figure.

  python -m instructrl.sweep --config=experiments/ablations/kl_coef.py:micro \
      --workdir=DIR [--parallel=2] [--set=ppo_ptx.ppo.kl_coef=0.1,0.3] [--print]

The folder of a run is DIR/STAGE-HASH, with the hash of its config. Points that
share a stage, such as pretraining, share its folder; so do other ablations with
the same DIR. The results are in DIR/NAME, with the ablation's name: sweep.json,
table.md, figure.png and index.html. The same command resumes: finished runs are
skipped, failed runs are tried again.
"""

import functools
import pathlib

from absl import flags
from ml_collections import config_flags

from instructrl.runtime import command
from instructrl.runtime import typed


def _main(config_flag, source, workdir_flag, parallel, print_flag, settings):
  config, workdir = command.read_flags(
    config_flag, workdir_flag, 'sweep', 'ends', 'parts'
  )
  # After the flags: a mistake in them does not wait for the imports.
  from instructrl.orchestration import sweep
  from instructrl.stages import checks

  checks.require(
    parallel.value >= 1, f'--parallel={parallel.value} must be 1 or more'
  )
  path = config_flags.get_config_filename(flags.FLAGS['config'])
  path = path if pathlib.Path(path).is_file() else path.rpartition(':')[0]
  parts, page = sweep.load(path, config, settings.value, workdir)
  seconds = config.get('seconds', {})
  if print_flag.value:
    sweep.print_commands(parts, workdir, seconds)
    return
  results = sweep.run(
    parts,
    workdir,
    page=page,
    parallel=parallel.value,
    source=source.value and typed.path(source.value),
  )
  sweep.finish(workdir, results)


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
      flags.DEFINE_string(
        'from',
        '',
        'A folder of finished runs, of a study or sweep. Equal runs are taken '
        'instead of run.',
      ),
      flags.DEFINE_string('workdir', None, 'The folder of all runs.'),
      flags.DEFINE_integer(
        'parallel', 1, 'Runs at a time; 1 if the runs share an accelerator.'
      ),
      flags.DEFINE_bool(
        'print', False, 'Print the commands of all runs, and run nothing.'
      ),
      flags.DEFINE_multi_string(
        'set',
        [],
        'STAGE.field=a,b,c: values to sweep over. They replace those of the '
        'ablation or are combined with them',
      ),
    )
  )
