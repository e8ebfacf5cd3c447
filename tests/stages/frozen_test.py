"""Layers that are not trained, in the stages that train."""

import functools

import jax
import numpy as np
import pytest

from instructrl.runtime import optimizer
from instructrl.runtime import sharding
from instructrl.stages import lm
from instructrl.stages import ppo_program
from instructrl.stages import reward
from tests import tiny


def programs(stage, config):
  """(layout, optimizer) of each model that a stage trains."""
  mesh = sharding.make_mesh({'data': -1})
  if stage == 'ppo':
    program = ppo_program.PPOProgram(
      config, mesh, vocab_size=50, eos_id=2, pad_id=0
    )
    return [
      (program.layouts[name], program._tx[name]) for name in ('policy', 'value')
    ]
  make = {'sft': lm.LMProgram, 'reward': reward.RewardProgram}[stage]
  program = make(config, mesh, vocab_size=50, num_steps=9)
  return [(program.layout, program._tx)]


@pytest.mark.parametrize(
  'stage',
  [
    pytest.param('sft', marks=pytest.mark.slow),
    'reward',
    pytest.param('ppo', marks=pytest.mark.slow),
  ],
)
def test_weight_decay_moves_what_is_trained_and_no_frozen_layer(configs, stage):
  """With gradients of 0, so that nothing else moves anything."""
  config = configs[stage]
  for name, field in config.items():
    if name.endswith('optimizer'):
      field.update(weight_decay=0.5, schedule='constant', peak_lr=0.1)
    elif name in ('model', 'reward_model', 'value_model'):
      field.update(num_layers=2, frozen_layers=1, positions='learned')
  for layout, tx in programs(stage, config):
    params = tiny.fill(layout.shapes)
    apply = tiny.jit(functools.partial(optimizer.apply, tx))
    moved, _, _ = apply(
      jax.tree.map(np.zeros_like, params), tiny.jit(tx.init)(params), params
    )
    same = jax.tree.map(lambda new, old: np.asarray(new) == old, moved, params)
    backbone = same.get('backbone', same)
    if 'head' in same:
      assert not same['head']['kernel'].any() and not same['head']['bias']
    assert backbone['embed'].all() and backbone['positions'].all()
    for leaf in jax.tree.leaves(backbone['blocks']):
      assert leaf[0].all() and not leaf[1].any()
    assert not backbone['final_norm']['scale'].any()
