"""Refuses fields of a config that make no sense, by name."""

import math

import ml_collections

from instructrl.models import transformer
from instructrl.runtime import optimizer
from instructrl.runtime.errors import ConfigError

DTYPES = ('float32', 'bfloat16')


def require(condition: bool, message: str):
  if not condition:
    raise ConfigError(message)


def validate_common(config):
  """Refuses what makes no sense for any stage, by field name."""
  require(config.checkpoint.every >= 0, 'checkpoint.every must be 0 or more')
  require(config.checkpoint.keep >= 1, 'checkpoint.keep must be 1 or more')
  require(config.log.every >= 1, 'log.every must be 1 or more')
  require(
    0 <= config.log.hang_seconds < math.inf,
    f'log.hang_seconds={config.log.hang_seconds} must be 0 or more',
  )
  for name in (
    'world_seed',
    'train_seed',
    'eval_seed',
    'num_steps',
    'num_epochs',
    'eval_every',
    'samples_every',
  ):
    require(config.get(name, 0) >= 0, f'{name}={config.get(name)} is negative')
  for axis, size in config.mesh.items():
    require(
      size >= 1 or size == -1,
      f'mesh.{axis}={size} must be 1 or more, or -1 for what is left',
    )
  validate_positive(
    config,
    *(name for name in ('eval_batches', 'eval_batch_size') if name in config),
  )
  for name, c in config.items():
    if isinstance(c, ml_collections.ConfigDict) and 'num_layers' in c:
      validate_model(name, c, config.rules)
  for name, c in config.items():
    if isinstance(c, ml_collections.ConfigDict) and 'peak_lr' in c:
      validate_optimizer(name, c)


def validate_positive(config, *names: str):
  for name in names:
    require(config[name] >= 1, f'{name}={config[name]} must be 1 or more')


def validate_model(name: str, c, rules):
  """Refuses an architecture that cannot be built."""
  for field in (
    'num_layers',
    'd_model',
    'num_heads',
    'max_len',
    'scan_unroll',
    'vocab_multiple',
  ):
    require(c[field] >= 1, f'{name}.{field}={c[field]} must be 1 or more')
  for field in (
    'num_kv_heads',
    'head_dim',
    'd_ff',
    'attention_block',
    'vocab_rows',
    'rope_theta_local',
    'query_scale',
  ):
    require(
      0 <= c[field] < math.inf,
      f'{name}.{field}={c[field]} is negative or not finite',
    )
  require(
    math.isfinite(c.norm_offset),
    f'{name}.norm_offset={c.norm_offset} is not finite',
  )
  for field in ('init_std', 'norm_epsilon', 'rope_theta'):
    require(
      0 < c[field] < math.inf,
      f'{name}.{field}={c[field]} must be positive and finite',
    )
  require(0 <= c.dropout < 1, f'{name}.dropout={c.dropout} is not in [0, 1)')
  for field in ('dtype', 'param_dtype'):
    require(
      c[field] in DTYPES, f'{name}.{field}={c[field]!r} is none of {DTYPES}'
    )
  try:  # It checks the rest, and computes nothing.
    transformer.make_model(vocab_size=1, rules=rules, **c.to_dict())
  except ValueError as error:
    raise ConfigError(str(error).replace('model.', f'{name}.')) from error


def validate_optimizer(name, c):
  for field in ('peak_lr', 'eps', 'weight_decay'):
    require(math.isfinite(c[field]), f'{name}.{field}={c[field]} is not finite')
  require(c.peak_lr >= 0, f'{name}.peak_lr={c.peak_lr} is negative')
  require(
    c.schedule in optimizer.SCHEDULES,
    f'{name}.schedule={c.schedule!r} is none of {optimizer.SCHEDULES}',
  )
  for field in ('b1', 'b2'):
    require(0 <= c[field] < 1, f'{name}.{field}={c[field]} is not in [0, 1)')
  require(c.eps > 0, f'{name}.eps={c.eps} must be positive')
  for field in ('warmup_steps', 'weight_decay', 'max_grad_norm'):
    require(c[field] >= 0, f'{name}.{field}={c[field]} is negative')
  for field in ('warmup_from', 'final_fraction'):
    require(0 <= c[field] <= 1, f'{name}.{field}={c[field]} is not in [0, 1]')
