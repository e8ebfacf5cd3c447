r"""Runs all stages in order and writes the report.

  python -m instructrl.study --config=experiments/study.py:tiny --workdir=DIR \
      [--parallel=2]

The same command resumes: finished stages are skipped, and an interrupted stage
continues from its newest checkpoint. On several machines start the same command
on each; --coordinator, --num_processes and --process_id are not needed on TPU
VMs.
"""

import functools
import sys

from absl import flags
from ml_collections import config_flags

from instructrl.runtime import command
from instructrl.runtime import typed


def _main(config_flag, source, workdir_flag, parallel, stage, join):
  config, workdir = command.read_flags(
    config_flag, workdir_flag, 'study', 'order'
  )
  # After the flags: a mistake in them does not wait for the imports.
  from instructrl.orchestration import study
  from instructrl.stages import checks
  from instructrl.stages import runner

  checks.require(
    parallel.value >= 1, f'--parallel={parallel.value} must be 1 or more'
  )
  command.setup_jax()
  join()
  runner.check_same(config)
  if stage.value:
    study.run_stage(config, workdir, stage.value)
    return
  study.run(
    config,
    workdir,
    source.value and typed.path(source.value),
    parallel=parallel.value,
    command=(sys.executable, '-m', 'instructrl.study', *sys.argv[1:]),
  )


if __name__ == '__main__':
  command.run_door(
    functools.partial(
      _main,
      config_flags.DEFINE_config_file(
        'config',
        None,
        'A study and its size, such as experiments/study.py:tiny (or :micro, '
        ':small), or experiments/real.py:cpu (or :full).',
      ),
      flags.DEFINE_string(
        'from',
        '',
        'A folder of finished runs, of a study or sweep. Equal runs are taken '
        'instead of run.',
      ),
      flags.DEFINE_string('workdir', None, 'The folder of all stages.'),
      flags.DEFINE_integer(
        'parallel',
        1,
        'Stages at a time, each in a process; 1 if they share an accelerator.',
      ),
      flags.DEFINE_string(
        'stage',
        '',
        'Run this stage only; the stages that it starts from must be finished.',
      ),
      command.define_processes(),
    )
  )
