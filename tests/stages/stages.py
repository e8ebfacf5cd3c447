"""The stages' configs, as small as the code allows, and a way to run them.

  python -m tests.stages.stages STAGE WORKDIR \\
      [CHANGES [COORDINATOR NUM_PROCESSES PROCESS_ID]]
"""

import json
import sys

from experiments import dpo
from experiments import ppo
from experiments import ppo_init
from experiments import ppo_ptx
from experiments import pretrain
from experiments import reward
from experiments import sft
from instructrl.runtime import processes
from instructrl.runtime.command import run_door
from instructrl.stages import registry


def configs():
  """Stage -> config. Inputs are found beside the run folder."""
  made = {
    c.stage: c
    for c in (
      module.get_config('micro')
      for module in (pretrain, sft, ppo_init, reward, dpo, ppo, ppo_ptx)
    )
  }
  for stage, c in made.items():
    for name in ('model', 'reward_model'):
      if name in c:
        c[name].update(num_layers=1, d_model=16, num_heads=2, max_len=16)
    if 'ppo' in c:
      c.ppo.update(
        batch_size=8,
        minibatch_size=4,
        num_iterations=4,
        prompt_len=8,
        response_len=4,
        warmup_iterations=2,
        ema_decay=0.5,
      )
      c.update(eval_every=2, eval_batch_size=8, eval_batches=1, samples_every=2)
    elif stage in ('reward', 'dpo'):
      c.update(
        batch_size=8,
        num_epochs=2,
        prompt_len=8,
        response_len=6,
        max_responses=4,
        eval_every=2,
      )
    else:
      c.update(batch_size=8, eval_batches=1)
  made['ppo'].checkpoint.every = made['ppo_ptx'].checkpoint.every = 1
  made['reward'].checkpoint.every = made['dpo'].checkpoint.every = 1
  made['pretrain'].update(num_steps=5, eval_every=2)
  made['pretrain'].checkpoint.every = 2
  made['pretrain'].optimizer.warmup_steps = 1
  made['ppo_init'].model.dropout = 0.1
  return made


def main(
  stage,
  workdir,
  changes='{}',
  coordinator='',
  num_processes='0',
  process_id='-1',
):
  """Runs a stage as `instructrl.main` would."""
  config = configs()[stage]
  config.update(json.loads(changes))

  def run():
    processes.initialize(coordinator, int(num_processes), int(process_id))
    registry.load(stage).run(config, workdir)

  sys.argv = sys.argv[:1]  # the flags of the door
  run_door(run)


if __name__ == '__main__':
  main(*sys.argv[1:])
