"""Eight devices do what one does, in whatever mesh, and wherever a run goes on.

That they hold an eighth of it each is in `sharded_test`.
"""

import json

import chex
import numpy as np
import pytest

from instructrl.runtime import checkpoint
from instructrl.runtime import metrics
from instructrl.stages import registry
from tests.stages.resume_test import stop_after
from tests.stages.resume_test import Stopped

MESH = dict(data=2, fsdp=2, tensor=2)


def prepare(config, tmp_path, name):
  """On eight devices; with an Adam that does not blow up what is rounding."""
  for key in ('optimizer', 'value_optimizer'):
    if key in config:
      config[key].update(eps=1e-3, peak_lr=1e-2)
  if 'ppo' in config:
    config.ppo.num_iterations = 2
  return tmp_path / name


def texts(folder):
  """The prompts and responses that a run wrote."""
  lines = (folder / 'samples.jsonl').read_text().splitlines()
  return [(s['prompt'], s['response']) for s in map(json.loads, lines)]


@pytest.mark.slow
@pytest.mark.parametrize(
  'stage', ['pretrain', 'ppo_init', 'reward', 'dpo', 'ppo_ptx']
)
def test_eight_devices_equal_one(
  stage, configs, workdir, tmp_path, monkeypatch, request
):
  config = configs[stage]
  prepare(config, tmp_path, stage)
  config.mesh.update(MESH)
  eight = tmp_path / 'eight'
  registry.load(stage).run(config, eight)
  config.mesh.update(data=1, fsdp=1, tensor=1)
  request.getfixturevalue('one_device')
  one = tmp_path / 'one'
  registry.load(stage).run(config, one)
  for a, b in zip(
    metrics.read_metrics(eight), metrics.read_metrics(one), strict=True
  ):
    for fraction in ('policy/clip_frac', 'value/clip_frac'):
      # One of 32 tokens may be on the other side of the border.
      assert abs(a.pop(fraction, 0) - b.pop(fraction, 0)) < 0.05
    assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
  assert texts(eight) == texts(one)
  assert bool(texts(one)) == ('ppo' in config)
  states = [
    checkpoint.restore_params(folder, ('params',))[0] for folder in (eight, one)
  ]
  start, _ = checkpoint.restore_params(tmp_path / 'pretrain', ('params',))
  chex.assert_trees_all_close(*states, atol=1e-4)
  if stage == 'ppo_init':
    moved = np.abs(states[0]['embed'] - start['embed']).max()
    assert moved > 1e-3


@pytest.fixture
def short_ptx(configs):
  """PPO-ptx of four iterations, of which every one is saved."""
  configs['ppo_ptx'].mesh.update(data=8, fsdp=1, tensor=1)
  return configs['ppo_ptx']


@pytest.mark.slow
@pytest.mark.parametrize('offload', [False, True])
def test_a_run_goes_on_in_another_mesh(
  offload, short_ptx, workdir, tmp_path, monkeypatch
):
  """Half of it divided along `data`, half by `fsdp` and `tensor`."""
  train, expected = registry.load('ppo_ptx').run, tmp_path / 'expected'
  train(short_ptx, expected)
  with monkeypatch.context() as patch:
    stop_after(patch, 2)
    with pytest.raises(Stopped):
      train(short_ptx, workdir)
  short_ptx.mesh.update(data=1, fsdp=4, tensor=2)
  short_ptx.offload.update(reference=offload, ema=offload)
  train(short_ptx, workdir)
  for a, b in zip(
    metrics.read_metrics(workdir), metrics.read_metrics(expected), strict=True
  ):
    # The policy's loss is a mean of whitened advantages: terms of size 1 that
    # cancel to about 0.001.
    assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
  assert texts(workdir) == texts(expected)


@pytest.mark.slow
def test_what_waits_on_the_hosts_changes_no_bit(short_ptx, tmp_path, workdir):
  """The reference and the average, from one checkpoint to the next."""
  short_ptx.ppo.num_iterations = 2
  short_ptx.ppo.ema_decay = 0.3
  short_ptx.mesh.update(data=1, fsdp=4, tensor=2)
  folders = workdir, tmp_path / 'offloaded'
  for folder in folders:
    registry.load('ppo_ptx').run(short_ptx, folder)
    short_ptx.offload.update(reference=True, ema=True)
  for name in ('metrics.jsonl', 'samples.jsonl'):
    a, b = ((folder / name).read_bytes() for folder in folders)
    assert a == b
  chex.assert_trees_all_equal(
    *(
      checkpoint.restore_params(folder, ('ema_params',))[0]
      for folder in folders
    )
  )
