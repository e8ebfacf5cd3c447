"""Eight devices do what one does, in whatever mesh, and wherever a run goes on.

That they hold an eighth of it each is in `sharded_test`.
"""

import json

import chex
import jax
import numpy as np
import pytest

from instructrl import checkpoint
from instructrl import metrics
from tests.trainers import stages

MESH = dict(data=2, fsdp=2, tensor=2)


def prepare(config, tmp_path, name):
  """On eight devices; with an Adam that does not blow up what is rounding."""
  for key in ('optimizer', 'value_optimizer'):
    if key in config:
      config[key].update(eps=1e-3, peak_lr=1e-2)
  if 'ppo' in config:
    config.ppo.num_iterations = 2
  return tmp_path / name


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['pretrain', 'ppo_init', 'reward', 'ppo_ptx'])
def test_eight_devices_equal_one(
    stage, configs, workdir, tmp_path, monkeypatch, request):
  config = configs[stage]
  prepare(config, tmp_path, stage)
  config.mesh.update(MESH)
  eight = tmp_path / 'eight'
  stages.TRAIN[stage](config, eight)
  config.mesh.update(data=1, fsdp=1, tensor=1)
  request.getfixturevalue('one_device')
  one = tmp_path / 'one'
  stages.TRAIN[stage](config, one)
  for a, b in zip(metrics.read_metrics(eight), metrics.read_metrics(one),
                  strict=True):
    for fraction in ('policy/clip_frac', 'value/clip_frac'):
      # One of 32 tokens may be on the other side of the border.
      assert abs(a.pop(fraction, 0) - b.pop(fraction, 0)) < 0.05
    assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
  samples = [[json.loads(line) for line in (
      folder / 'samples.jsonl').read_text().splitlines()]
             for folder in (eight, one)]
  for a, b in zip(*samples, strict=True):
    assert (a['prompt'], a['response']) == (b['prompt'], b['response'])
  assert bool(samples[0]) == ('ppo' in config)
  states = [checkpoint.restore_params(folder, ('params',))[0]
            for folder in (eight, one)]
  start, _ = checkpoint.restore_params(
      tmp_path / 'pretrain', ('params',))
  chex.assert_trees_all_close(*states, atol=1e-4)
  if stage == 'ppo_init':
    moved = np.abs(states[0]['embed'] - start['embed']).max()
    assert moved > 1e-3
