"""Checks of config fields: an error names the field, its bounds and value."""

import functools
import math

import ml_collections

from instructrl.models import transformer
from instructrl.runtime import optimizer
from instructrl.runtime import trackers
from instructrl.runtime.errors import ConfigError
from instructrl.stages.field_settings import Bounds

DTYPES = ('float32', 'bfloat16')


def require(condition: bool, message: str):
  """Raises a ConfigError with the message unless the condition holds."""
  if not condition:
    raise ConfigError(message)


def within(config, *names: str, prefix: str = '', **bounds):
  """Raises a ConfigError if a field is out of bounds.

  Args:
    config: config or part of one.
    *names: names of fields.
    prefix: path of the part in the config, such as 'optimizer.'.
    **bounds: see `field_settings.Bounds`.
  """
  for name in names:
    fault = Bounds(**bounds).fault(prefix + name, config[name])
    require(not fault, fault)


def refuse_nan(config, prefix: str = ''):
  """Raises a ConfigError if a field is NaN, whatever its bounds."""
  for name, value in config.items():
    if isinstance(value, (dict, ml_collections.ConfigDict)):
      refuse_nan(value, f'{prefix}{name}.')
    values = value if isinstance(value, (tuple, list)) else [value]
    nan = any(isinstance(v, float) and math.isnan(v) for v in values)
    require(not nan, f'{prefix}{name} must be a number; got {value!r}')


def positive(config, *names: str):
  """Raises a ConfigError unless the fields are 1 or more."""
  within(config, *names, low=1)


def validate_common(config):
  """Checks the fields that stages have in common."""
  within(config.checkpoint, 'every', prefix='checkpoint.', low=0)
  within(config.checkpoint, 'keep', prefix='checkpoint.', low=1)
  within(config.log, 'every', prefix='log.', low=1)
  within(config.log, 'hang_seconds', prefix='log.', low=0, below=math.inf)
  text = trackers.fault(config.log.trackers)
  require(not text, f'log.trackers {text}')
  steps = config.log.profile
  require(
    not steps or (len(steps) == 2 and 1 <= steps[0] <= steps[1]),
    f'log.profile must be (), or (first, last) step from 1; got {steps}',
  )
  present = lambda *names: [name for name in names if name in config]
  counts = ('num_steps', 'num_epochs', 'eval_every', 'samples_every')
  seeds = ('world_seed', 'train_seed', 'eval_seed')
  within(config, *present(*seeds, *counts), low=0)
  within(config, *present('eval_batches', 'eval_batch_size'), low=1)
  for axis, size in config.mesh.items():
    require(
      size >= 1 or size == -1,
      f'mesh.{axis} must be at least 1, or -1 for the rest of the devices; got '
      f'{size}',
    )
  parts = [
    (name, c)
    for name, c in config.items()
    if isinstance(c, ml_collections.ConfigDict)
  ]
  for name, c in parts:
    if 'num_layers' in c:
      validate_model(name, c, config.rules)
  for name, c in parts:
    if 'peak_lr' in c:
      validate_optimizer(name, c)


def validate_microbatch(config):
  """Checks that microbatch_size divides batch_size."""
  size, micro = config.batch_size, config.microbatch_size
  within(config, 'microbatch_size', low=0)
  require(
    not micro or size % micro == 0,
    f'microbatch_size must divide batch_size={size}; got {micro}',
  )


def validate_model(name: str, c, rules):
  """Checks that the architecture c, the field `name`, can be built."""
  check = functools.partial(within, c, prefix=f'{name}.')
  check('num_layers', 'd_model', 'num_heads', 'max_len', low=1)
  check('scan_unroll', 'vocab_multiple', low=1)
  check('num_kv_heads', 'head_dim', 'd_ff', 'attention_block', low=0)
  check('vocab_rows', low=0)
  check('rope_theta_local', 'query_scale', low=0, below=math.inf)
  check('norm_offset', above=-math.inf, below=math.inf)
  check('init_std', 'norm_epsilon', 'rope_theta', above=0, below=math.inf)
  check('dropout', low=0, below=1)
  check('dtype', 'param_dtype', choices=DTYPES)
  try:  # make_model checks the other fields, and computes nothing
    transformer.make_model(vocab_size=1, rules=rules, **c.to_dict())
  except ValueError as error:
    raise ConfigError(str(error).replace('model.', f'{name}.')) from error


def validate_optimizer(name: str, c):
  """Checks the optimizer config c, the field `name`."""
  check = functools.partial(within, c, prefix=f'{name}.')
  finite = ('peak_lr', 'weight_decay', 'max_grad_norm')
  check(*finite, low=0, below=math.inf)
  check('schedule', choices=optimizer.SCHEDULES)
  check('b1', 'b2', low=0, below=1)
  check('eps', above=0, below=math.inf)
  check('warmup_steps', low=0)
  check('warmup_from', 'final_fraction', low=0, high=1)
