"""Runs all stages in order and writes the report.

  python -m instructrl.study --config=experiments/study.py:tiny --workdir=DIR

Started again, it goes on where it was; finished stages are not run again.

On several machines the same command is started on each, elsewhere than on TPU
VMs with --coordinator=HOST:PORT --num_processes=N --process_id=I, as for
`main`.
"""

import functools

from absl import flags
from ml_collections import config_flags

from instructrl.orchestration import study
from instructrl.runtime import command
from instructrl.stages import runner


def _main(config_flag, workdir_flag, join):
  config, workdir = command.read_flags(
    config_flag, workdir_flag, 'study', 'order'
  )
  command.setup_jax()
  join()
  runner.check_same(config)
  study.run(config, workdir)


if __name__ == '__main__':
  command.run_door(
    functools.partial(
      _main,
      config_flags.DEFINE_config_file(
        'config',
        None,
        'A study and its size, such as '
        'experiments/study.py:tiny (or :micro, :small), or '
        'experiments/real.py:cpu (or :full).',
      ),
      flags.DEFINE_string('workdir', None, 'Where all stages go.'),
      command.define_processes(),
    )
  )
