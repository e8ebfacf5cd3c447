r"""Runs one stage.

  python -m instructrl.main --config=experiments/ppo.py:tiny --workdir=DIR \
      --config.ppo.kl_coef=0.05

A stage that is finished (its folder has DONE) is not run again; one that was
interrupted goes on where its newest checkpoint stands.

On several machines the same command is started on each: on TPU VMs as it is,
elsewhere with --coordinator=HOST:PORT --num_processes=N --process_id=I (see
`processes`, also for the exit statuses).
"""

import functools

from absl import flags
from ml_collections import config_flags

from instructrl.runtime import command
from instructrl.runtime import processes
from instructrl.stages import runner


def _main(config_flag, workdir_flag, join):
  config, workdir = command.read_flags(
    config_flag, workdir_flag, 'stage', 'stage'
  )
  command.setup_jax()
  join()
  runner.check_same(config)
  result = runner.run_stage(config, workdir)['result']
  figures = [
    f'{name}={value:,}' if isinstance(value, int) else f'{name}={value:.4g}'
    for name, value in result.items()
    if isinstance(value, (int, float))
  ]
  if processes.primary():
    print(f'{workdir}: {"  ".join(figures)}', flush=True)


if __name__ == '__main__':
  command.run_door(
    functools.partial(
      _main,
      config_flags.DEFINE_config_file(
        'config',
        None,
        'A stage of experiments/ and its size, '
        'such as experiments/ppo.py:tiny.',
      ),
      flags.DEFINE_string('workdir', None, 'The run folder.'),
      command.define_processes(),
    )
  )
