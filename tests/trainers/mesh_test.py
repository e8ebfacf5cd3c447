"""Eight devices do what one does, and hold an eighth of it."""

import json

import chex
import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from instructrl import checkpoint
from instructrl import metrics
from instructrl.trainers import common
from instructrl.trainers import ppo
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


def spec_of(leaf):
  return leaf.sharding.spec


def test_the_state_of_ppo_is_divided_as_the_rules_say(configs, workdir):
  """Parameters, both moments of Adam, and the average."""
  config = configs['ppo_ptx']
  config.mesh.update(MESH)
  with common.Run(config, workdir) as run:
    tok = run.tokenizer()
    state, reference, reward_model = ppo._load(run, ppo.Program(
        config, run.mesh, vocab_size=tok.vocab_size, eos_id=tok.eos_id,
        pad_id=tok.pad_id))
  trees = [state.params['policy'], state.ema_params, reference,
           state.params['value']['backbone'], reward_model['backbone']]
  for name in ('policy', 'value'):
    for leaf in jax.tree.leaves(
        state.opt_state[name], is_leaf=lambda x: hasattr(x, 'mu')):
      if hasattr(leaf, 'mu'):
        trees += [tree.get('backbone', tree) for tree in (leaf.mu, leaf.nu)]
  assert len(trees) == 9
  for tree in trees:
    blocks = tree['blocks']
    assert spec_of(tree['embed']) in (P('tensor', 'fsdp'), P(None, 'fsdp'))
    assert spec_of(blocks['q']['kernel']) == P(None, 'fsdp', 'tensor', None)
    assert spec_of(blocks['out']['kernel']) == P(None, 'tensor', None, 'fsdp')
    assert spec_of(blocks['up']['kernel']) == P(None, 'fsdp', 'tensor')
    assert spec_of(blocks['down']['kernel']) == P(None, 'tensor', 'fsdp')
  large = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(
      (state, reference, reward_model)):
    shard = leaf.addressable_shards[0].data
    if leaf.size >= 256:
      large += 1
      assert shard.size <= leaf.size / 2, jax.tree_util.keystr(path)
  assert large > 9 * 6
