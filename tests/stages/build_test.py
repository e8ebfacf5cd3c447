"""Configs: what is refused by name, and what is made of the rest."""

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from experiments import common as experiments
from instructrl.runtime import optimizer
from instructrl.runtime import run_folder
from instructrl.stages import architecture
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import inputs


@pytest.mark.parametrize('name', ['model', 'value_model'])
@pytest.mark.parametrize(
  'field, value, message',
  [
    ('num_layers', 0, 'num_layers must be at least 1; got 0'),
    ('scan_unroll', 0, 'scan_unroll must be at least 1; got 0'),
    ('num_kv_heads', -1, 'num_kv_heads must be at least 0.*; got -1'),
    ('head_dim', -1, 'head_dim must be at least 0.*; got -1'),
    ('d_ff', -1, 'd_ff must be at least 0.*; got -1'),
    ('init_std', 0.0, 'init_std must be greater than 0 .*; got 0.0'),
    ('init_std', float('nan'), 'init_std must be greater than 0 .*; got nan'),
    ('norm_epsilon', 0.0, 'norm_epsilon must be greater than 0 .*; got 0.0'),
    ('rope_theta', -1.0, 'rope_theta must be greater than 0 .*; got -1.0'),
    ('dropout', 1.0, 'dropout must be at least 0 and less than 1; got 1.0'),
    ('dtype', 'nonsense', "dtype must be one of .*; got 'nonsense'"),
    ('param_dtype', 'int32', "param_dtype must be one of .*; got 'int32'"),
    ('head_dim', 5, "positions='rotary' needs heads of an even width"),
    ('num_heads', 3, 'd_model=16 is not a multiple of NAME.num_heads=3'),
    ('num_kv_heads', 4, 'num_heads=2 is not a multiple of NAME.num_kv_heads=4'),
    ('mlp', 'relu', "mlp must be one of .*; got 'relu'"),
    ('norm', 'batch', "norm must be one of .*; got 'batch'"),
    ('positions', 'none', "positions must be one of .*; got 'none'"),
    ('remat', 'some', "remat must be one of .*; got 'some'"),
    ('attention', 'flash', "attention must be one of .*; got 'flash'"),
    ('frozen_layers', 2, 'frozen_layers=2 is not from 0 to NAME.num_layers=1'),
    ('windows', (-3,), r'windows=\(-3,\) must be whole numbers'),
    (
      'rope_scaling',
      ('yarn', 2.0),
      r"rope_scaling must be .*got \('yarn', 2.0\)",
    ),
    (
      'rope_theta_local',
      -1.0,
      'rope_theta_local must be at least 0.*; got -1.0',
    ),
    ('query_scale', float('inf'), 'query_scale must be at least 0 .*; got inf'),
    ('norm_offset', float('nan'), 'norm_offset must be .*; got nan'),
    ('vocab_rows', -1, 'vocab_rows must be at least 0.*; got -1'),
  ],
)
def test_an_architecture_that_cannot_be_built_is_refused(
  configs, name, field, value, message
):
  config = configs['ppo']
  checks.validate_common(config)
  config[name][field] = value
  message = f'^{name}.' + message.replace('NAME', name)
  with pytest.raises(checks.ConfigError, match=message):
    checks.validate_common(config)


@pytest.mark.parametrize(
  'changes',
  [
    {'head_dim': 6},
    {'head_dim': 5, 'positions': 'learned'},
    {'num_kv_heads': 1},
    {'dtype': 'bfloat16'},
    {'remat': 'full'},
    {'attention': 'xla'},
    {'mlp': 'swiglu', 'norm': 'rmsnorm', 'd_ff': 10},
  ],
)
def test_an_architecture_that_can_be_built(configs, changes):
  configs['ppo'].value_model.update(changes)
  checks.validate_common(configs['ppo'])


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('mesh.tensor', 0, 'mesh.tensor must be at least 1, or -1 .*; got 0'),
    ('mesh.data', -2, 'mesh.data must be at least 1, or -1 .*; got -2'),
    (
      'optimizer.peak_lr',
      float('nan'),
      'optimizer.peak_lr must be .*; got nan',
    ),
    ('optimizer.eps', float('inf'), 'optimizer.eps must be .*; got inf'),
    (
      'optimizer.weight_decay',
      float('inf'),
      'optimizer.weight_decay must .*; got inf',
    ),
  ],
)
def test_a_mesh_or_an_optimizer_that_makes_no_sense_is_refused(
  configs, field, value, message
):
  config = configs['pretrain']
  config.update_from_flattened_dict({field: value})
  with pytest.raises(checks.ConfigError, match=f'^{message}'):
    checks.validate_common(config)


@pytest.mark.parametrize(
  'field, value',
  [
    ('num_steps', -1),
    ('num_epochs', -1),
    ('train_seed', -1),
    ('world_seed', -1),
    ('eval_seed', -1),
    ('eval_every', -1),
  ],
)
def test_negative_numbers_are_refused_by_name(configs, field, value):
  config = configs['pretrain']
  config[field] = value
  with pytest.raises(
    checks.ConfigError, match=f'^{field} must be at least 0.*; got -1'
  ):
    checks.validate_common(config)


# --- Architectures of inputs -------------------------------------------------


def like(config, source, name='model'):
  """The config with a model of the architecture of an input."""
  config[name] = experiments.imported_model(source)
  return config


def test_an_architecture_is_the_inputs(configs, workdir):
  own = configs['pretrain'].model
  own.update(num_layers=3, rope_theta=7.0, dropout=0.5, remat='full')
  folder = workdir.parent / 'own'
  run_folder.write_config(folder, configs['pretrain'].to_dict())
  run_folder.write_done(folder, {'result': {}})
  config = like(configs['sft'], 'init')
  config.inputs.init = '../own'
  config.model.scan_unroll = 2
  assert not architecture.resolved(config)
  found = architecture.resolve(config, workdir)
  assert architecture.resolved(found) and not architecture.resolved(config)
  for name, value in own.items():
    if name not in architecture.HOW_COMPUTED:
      assert found.model[name] == value, name
  # How it is computed is the stage's own.
  assert (found.model.dropout, found.model.remat) == (0.0, 'none')
  assert found.model.scan_unroll == 2
  assert architecture.resolve(found, workdir) is found
  checks.validate_common(found)
  build.make_model(found, 10)


def test_a_run_from_before_a_field_is_as_by_default(configs, workdir):
  config = configs['pretrain'].to_dict()
  for name in ('windows', 'norm_offset', 'vocab_rows', 'frozen_layers'):
    config['model'].pop(name, None)
  run_folder.write_config(workdir.parent / 'old', config)
  run_folder.write_done(workdir.parent / 'old', {'result': {}})
  stage = like(configs['sft'], 'init')
  stage.inputs.init = '../old'
  found = architecture.resolve(stage, workdir)
  checks.validate_common(found)
  assert (found.model.windows, found.model.norm_offset) == ((), 0.0)
  assert found.model.num_layers == config['model']['num_layers']


def test_a_plan_knows_what_is_not_there_yet(configs):
  config = like(configs['sft'], 'init')
  found = architecture.resolve(
    config, 'study/sft', {'study/pretrain': configs['pretrain']}
  )
  assert found.model.num_layers == configs['pretrain'].model.num_layers
  config.inputs.init = '../pretrain/checkpoints/00000004'
  assert (
    found.model
    == architecture.resolve(
      config, 'study/sft', {'study/pretrain': configs['pretrain']}
    ).model
  )


def test_an_architecture_that_is_nowhere_is_refused(configs, workdir):
  with pytest.raises(
    checks.ConfigError, match="model.like must be one of data, init; got 'base'"
  ):
    architecture.resolve(like(configs['sft'], 'base'), workdir)
  config = like(configs['sft'], 'init')
  config.inputs.init = '../nowhere'
  with pytest.raises(checks.ConfigError, match='inputs.init: .* not exist'):
    architecture.resolve(config, workdir)
  config.inputs.init = '../lab'
  with pytest.raises(checks.ConfigError, match='inputs.init: .* trained no'):
    architecture.resolve(
      config,
      workdir,
      {str(workdir.parent / 'lab'): ml_collections.ConfigDict({'size': 'x'})},
    )


# --- Inputs and what is exported ---------------------------------------------


def test_an_input_that_is_not_there_is_named(configs, workdir):
  config = configs['sft']
  with pytest.raises(
    checks.ConfigError,
    match='inputs.data: .*/nowhere does '
    'not exist; run the stage that makes it first',
  ):
    config.inputs.data = '../nowhere'
    inputs.input_path(config, workdir, 'data')
  with pytest.raises(checks.ConfigError, match='inputs.init is empty'):
    config.inputs.init = ''
    inputs.input_path(config, workdir, 'init')


def test_relative_inputs_start_at_the_run_folder(configs, workdir, tmp_path):
  config = configs['sft']
  assert inputs.input_path(config, workdir, 'data') == tmp_path / 'lab'
  config.inputs.data = str(tmp_path / 'lab')
  assert inputs.input_path(config, '/elsewhere', 'data') == tmp_path / 'lab'


def test_the_optimizer_is_that_of_the_config(configs):
  c = configs['pretrain'].optimizer
  c.update(
    peak_lr=0.5,
    schedule='constant',
    warmup_steps=4,
    warmup_from=0.1,
    b1=0.0,
    b2=0.0,
    eps=1e-8,
    max_grad_norm=0.0,
    weight_decay=0.25,
  )
  tx, schedule = build.make_optimizer(c, 10)
  np.testing.assert_allclose(
    [schedule(s) for s in (0, 2, 4, 9)], [0.05, 0.275, 0.5, 0.5], rtol=1e-6
  )
  params = {'w': jnp.float32(2.0)}
  after, *_ = optimizer.apply(
    tx, {'w': jnp.float32(-3.0)}, tx.init(params), params
  )
  # Without memory Adam's step is the sign; the decay is of the parameter.
  np.testing.assert_allclose(after['w'], 2 - 0.05 * (-1 + 0.25 * 2), rtol=1e-6)
