"""Runs all stages in order and writes the report.

  python -m instructrl.study --config=experiments/study.py:tiny --workdir=DIR

The same command resumes: finished stages are skipped, and an interrupted stage
continues from its newest checkpoint. On several machines start the same command
on each; --coordinator, --num_processes and --process_id are not needed on TPU
VMs.
"""

import functools

from absl import flags
from ml_collections import config_flags

from instructrl.runtime import command
from instructrl.runtime import typed


def _main(config_flag, source, workdir_flag, join):
  from instructrl.orchestration import study
  from instructrl.stages import runner

  config, workdir = command.read_flags(
    config_flag, workdir_flag, 'study', 'order'
  )
  command.setup_jax()
  join()
  runner.check_same(config)
  study.run(config, workdir, source.value and typed.path(source.value))


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
      command.define_processes(),
    )
  )
