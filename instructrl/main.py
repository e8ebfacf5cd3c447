r"""Runs one stage.

  python -m instructrl.main --config=experiments/ppo.py:tiny --workdir=DIR \
      --config.ppo.kl_coef=0.05

A finished stage (its folder has a DONE file) does not run again. An interrupted
stage continues from its newest checkpoint. On several machines start the same
command on each; --coordinator, --num_processes and --process_id are not needed
on TPU VMs. runtime/processes.py explains the exit statuses.
"""

import functools

from absl import flags
from ml_collections import config_flags

from instructrl.runtime import command


def _main(config_flag, workdir_flag, join):
  config, workdir = command.read_flags(
    config_flag, workdir_flag, 'stage', 'stage'
  )
  # After the flags: a mistake in them does not wait for the imports.
  from instructrl.runtime import processes
  from instructrl.stages import runner

  command.setup_jax()
  join()
  runner.check_same(config)
  result = runner.run_stage(config, workdir)['result']
  values = [
    f'{name}={value:,}' if isinstance(value, int) else f'{name}={value:.4g}'
    for name, value in result.items()
    if isinstance(value, (int, float))
  ]
  if processes.primary():
    print(f'{workdir}: {"  ".join(values)}', flush=True)
    if config.stage == 'evaluation':
      print(f'win rates and page: python -m instructrl.report {workdir}')


if __name__ == '__main__':
  command.run_door(
    functools.partial(
      _main,
      config_flags.DEFINE_config_file(
        'config',
        None,
        'A stage of experiments/ and its size, such as '
        'experiments/ppo.py:tiny.',
      ),
      flags.DEFINE_string('workdir', None, 'The run folder.'),
      command.define_processes(),
    )
  )
