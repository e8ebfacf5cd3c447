"""A run that is killed and started again ends as one that is not.

All leaves of the final state, bit for bit, and the bytes of metrics.jsonl and
samples.jsonl. `tests/faults` kills processes.
"""

import os
import signal
import warnings

import jax
import numpy as np
from orbax.checkpoint.experimental import v1 as ocp
import pytest

from instructrl.runtime import checkpoint
from instructrl.runtime import metrics
from instructrl.runtime import processes
from instructrl.stages import registry
from instructrl.stages import run

FILES = ('metrics.jsonl', 'samples.jsonl', 'config.json', 'tokenizer.model')


def final_state(workdir):
  """Every leaf of the newest checkpoint by name, and its step."""
  step = checkpoint.find(workdir)
  with warnings.catch_warnings():
    # The arrays go to the devices of the run, on this machine.
    warnings.filterwarnings('ignore', 'Sharding info not provided')
    tree = ocp.load(step / 'state')
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }, step.name


def assert_same_run(workdir, expected):
  for name in FILES:
    assert (workdir / name).read_bytes() == (expected / name).read_bytes(), name
  state, step = final_state(workdir)
  expected_state, expected_step = final_state(expected)
  assert step == expected_step and state.keys() == expected_state.keys()
  assert len(state) > 20 and any('mu' in name for name in state)
  for name, leaf in state.items():
    np.testing.assert_array_equal(leaf, expected_state[name], err_msg=name)


# --- Stopped by an exception, in this process --------------------------------


class Stopped(Exception):
  pass


def stop_after(monkeypatch, steps):
  """Runs end by an exception before they take their step number `steps`."""
  loop = run.Run.loop

  def stopping(self, state, step_fn, num_steps, **kwargs):
    def step(state, number):
      if number == steps:
        raise Stopped
      return step_fn(state, number)

    return loop(self, state, step, num_steps, **kwargs)

  monkeypatch.setattr(run.Run, 'loop', stopping)


# Where to stop; every run is 4 to 6 steps. Step 3 of pretraining is after the
# evaluation and checkpoint of step 2, and one step more.
STOPS = {
  'pretrain': (3,),
  'ppo_init': (1,),
  'reward': (4,),
  'dpo': (3,),
  'ppo_ptx': (3,),
}


@pytest.mark.parametrize(
  'stage',
  [
    'pretrain',
    *(
      pytest.param(stage, marks=pytest.mark.slow)
      for stage in ('ppo_init', 'reward', 'dpo', 'ppo_ptx')
    ),
  ],
)
def test_a_run_that_is_stopped_ends_as_one_that_is_not(
  stage, configs, workdir, tmp_path, one_device, monkeypatch
):
  config = configs[stage]
  train = registry.load(stage).run
  expected = tmp_path / 'expected'
  result = train(config, expected)
  for steps in STOPS[stage]:
    with monkeypatch.context() as patch:
      stop_after(patch, steps)
      with pytest.raises(Stopped):
        train(config, workdir)
  assert train(config, workdir) == result
  assert_same_run(workdir, expected)
  lines = metrics.read_metrics(workdir)
  assert len(lines) == len({(l['step'], *l) for l in lines})


@pytest.mark.parametrize(
  'stage, steps',
  [
    ('pretrain', 1),
    *(
      pytest.param(stage, steps, marks=pytest.mark.slow)
      for stage, steps in (
        ('pretrain', 2),
        ('reward', 3),
        ('dpo', 3),
        ('ppo_ptx', 3),
      )
    ),
  ],
)
def test_sigterm_saves_after_the_step_under_way(
  stage, steps, configs, workdir, tmp_path, one_device, monkeypatch
):
  """Step 2 of pretraining is saved anyway; what is saved for SIGTERM alone is
  gone in the end.
  """
  config, train = configs[stage], registry.load(stage).run
  config.checkpoint.every = 2
  expected = tmp_path / 'expected'
  result = train(config, expected)
  loop = run.Run.loop

  def interrupted(self, state, step_fn, num_steps, **kwargs):
    def step(state, number):
      if number == steps - 1:
        os.kill(os.getpid(), signal.SIGTERM)
      return step_fn(state, number)

    return loop(self, state, step, num_steps, **kwargs)

  before = signal.getsignal(signal.SIGTERM)
  processes.handle_sigterm()
  try:
    with monkeypatch.context() as patch:
      patch.setattr(run.Run, 'loop', interrupted)
      with pytest.raises(processes.Stopped):
        train(config, workdir)
  finally:
    processes.handle_sigterm()  # as a new process, which nobody has stopped
    signal.signal(signal.SIGTERM, before)
  assert checkpoint.find(workdir).name == f'{steps:08d}'
  assert train(config, workdir) == result
  assert_same_run(workdir, expected)
  saved = lambda folder: sorted(os.listdir(folder / 'checkpoints'))
  assert saved(workdir) == saved(expected)
