"""What all trainers share: configs, models and where their parameters lie.

Fields are refused by name, architectures are filled in, and a config becomes a
model, an optimizer and a layout. `runs` opens the run folder and has the loop.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from instructrl.models import heads
from instructrl.models import transformer
from instructrl import rng
from instructrl.runtime import checkpoint
from instructrl.runtime import files
from instructrl.runtime import optimizer
from instructrl.runtime import run_folder
from instructrl.runtime import sharding
from instructrl.types import Params
from instructrl.types import TrainState












































DTYPES = ('float32', 'bfloat16')
# Fields of a model that say how it is computed, and not what: they may differ
# from those that its parameters were trained with.
HOW_COMPUTED = ('attention', 'attention_block', 'dropout', 'dtype',
                'frozen_layers', 'init_std', 'param_dtype', 'remat',
                'scan_unroll')

# Fields of a model that came later than some run's config, as they were then.
_FIELDS = {
    f.name: f.default for f in dataclasses.fields(transformer.Transformer)
    if f.default is not dataclasses.MISSING
    and f.name not in ('dtype', 'param_dtype', 'rules', 'parent', 'name')}


class ConfigError(ValueError):
  """A config field that makes no sense; the message names it."""


def require(condition: bool, message: str):
  if not condition:
    raise ConfigError(message)


def validate_common(config):
  """Refuses what makes no sense for any stage, by field name."""
  require(config.checkpoint.every >= 0, 'checkpoint.every must be 0 or more')
  require(config.checkpoint.keep >= 1, 'checkpoint.keep must be 1 or more')
  require(config.log.every >= 1, 'log.every must be 1 or more')
  require(0 <= config.log.hang_seconds < math.inf,
          f'log.hang_seconds={config.log.hang_seconds} must be 0 or more')
  for name in ('world_seed', 'train_seed', 'eval_seed', 'num_steps',
               'num_epochs', 'eval_every', 'samples_every'):
    require(config.get(name, 0) >= 0,
            f'{name}={config.get(name)} is negative')
  for axis, size in config.mesh.items():
    require(size >= 1 or size == -1,
            f'mesh.{axis}={size} must be 1 or more, or -1 for what is left')
  validate_positive(config, *(
      name for name in ('eval_batches', 'eval_batch_size') if name in config))
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
  for field in ('num_layers', 'd_model', 'num_heads', 'max_len',
                'scan_unroll', 'vocab_multiple'):
    require(c[field] >= 1, f'{name}.{field}={c[field]} must be 1 or more')
  for field in ('num_kv_heads', 'head_dim', 'd_ff', 'attention_block',
                'vocab_rows', 'rope_theta_local', 'query_scale'):
    require(0 <= c[field] < math.inf,
            f'{name}.{field}={c[field]} is negative or not finite')
  require(math.isfinite(c.norm_offset),
          f'{name}.norm_offset={c.norm_offset} is not finite')
  for field in ('init_std', 'norm_epsilon', 'rope_theta'):
    require(0 < c[field] < math.inf,
            f'{name}.{field}={c[field]} must be positive and finite')
  require(0 <= c.dropout < 1, f'{name}.dropout={c.dropout} is not in [0, 1)')
  for field in ('dtype', 'param_dtype'):
    require(c[field] in DTYPES,
            f'{name}.{field}={c[field]!r} is none of {DTYPES}')
  try:  # It checks the rest, and computes nothing.
    transformer.make_model(vocab_size=1, rules=rules, **c.to_dict())
  except ValueError as error:
    raise ConfigError(str(error).replace('model.', f'{name}.')) from error


def validate_optimizer(name, c):
  for field in ('peak_lr', 'eps', 'weight_decay'):
    require(math.isfinite(c[field]), f'{name}.{field}={c[field]} is not finite')
  require(c.peak_lr >= 0, f'{name}.peak_lr={c.peak_lr} is negative')
  require(c.schedule in optimizer.SCHEDULES,
          f'{name}.schedule={c.schedule!r} is none of '
          f'{optimizer.SCHEDULES}')
  for field in ('b1', 'b2'):
    require(0 <= c[field] < 1, f'{name}.{field}={c[field]} is not in [0, 1)')
  require(c.eps > 0, f'{name}.eps={c.eps} must be positive')
  for field in ('warmup_steps', 'weight_decay', 'max_grad_norm'):
    require(c[field] >= 0, f'{name}.{field}={c[field]} is negative')
  for field in ('warmup_from', 'final_fraction'):
    require(0 <= c[field] <= 1, f'{name}.{field}={c[field]} is not in [0, 1]')


def resolve(config, workdir, known: Mapping[str, Any] | None = None):
  """The config with the architectures filled in that are an input's.

  A model whose field `like` names an input, as those of imported weights do,
  is of the architecture of what that run trained; its other fields say how it
  is computed (see `HOW_COMPUTED`).

  Args:
    config: of a stage.
    workdir: of the stage.
    known: path of a run folder -> its resolved config, for folders that are
      not there yet.

  Returns:
    The config itself where there is nothing to fill in, else a copy.

  Raises:
    ConfigError: there is no such input, or it has no model.
  """
  if resolved(config):
    return config
  config = config.copy_and_resolve_references()
  likes = {name: c.like for name, c in config.items()
           if isinstance(c, ml_collections.ConfigDict) and c.get('like')}
  for name, source in likes.items():
    require(source in config.inputs,
            f'{name}.like={source!r} is none of inputs: '
            f'{", ".join(config.inputs)}')
    found = _architecture(config, workdir, source, known or {})
    fields = {**_FIELDS, **found, **config[name].to_dict()}
    fields = {field: tuple(value) if isinstance(value, list) else value
              for field, value in fields.items() if field != 'like'}
    config[name] = ml_collections.ConfigDict(fields)
  return config


def _architecture(config, workdir, source: str, known) -> dict:
  """The fields of the model that an input trained."""
  path = os.path.normpath(os.path.join(workdir, config.inputs[source]))
  above = [str(p) for p in (pathlib.Path(path), *pathlib.Path(path).parents)]
  planned = [known[p] for p in above if p in known]
  if planned:
    trained = planned[0].to_dict()
  else:
    folder = run_folder.find(input_path(config, workdir, source))
    require(folder is not None,
            f'inputs.{source}: {path} is in no run folder')
    trained = files.read_json(folder / run_folder.CONFIG)
  require('num_layers' in trained.get('model', {}),
          f'inputs.{source}: {path} trained no model')
  return {name: _plain(value) for name, value in trained['model'].items()}


def _plain(value):
  """A field's value as configs have it: JSON has lists for tuples."""
  return tuple(value) if isinstance(value, list) else value


def resolved(config) -> bool:
  """Whether no architecture of the config is still to be filled in."""
  return not any(isinstance(c, ml_collections.ConfigDict) and c.get('like')
                 for c in config.values())


def make_model(config, vocab_size: int, name: str = 'model',
               rules: str | None = None) -> transformer.Model:
  """The model of a config's field.

  Args:
    config: of a stage.
    vocab_size: V.
    name: of the field.
    rules: which of `config.model_rules` are its own; `name` by default.
  """
  own = config.get('model_rules', {}).get(rules or name, ())
  rules = dict(config.rules) | dict(own)
  return transformer.make_model(
      vocab_size=vocab_size, rules=tuple(rules.items()),
      **config[name].to_dict())


def make_optimizer(c, num_steps: int, frozen: Params | None = None):
  """The optimizer and its schedule from an optimizer config.

  Args:
    c: the config.
    num_steps: optimizer steps of the whole run.
    frozen: `Layout.frozen` of what it is for.
  """
  schedule = optimizer.make_schedule(
      peak_lr=c.peak_lr, num_steps=num_steps, kind=c.schedule,
      warmup_steps=c.warmup_steps, warmup_from=c.warmup_from,
      final_fraction=c.final_fraction)
  tx = optimizer.make_optimizer(
      schedule, b1=c.b1, b2=c.b2, eps=c.eps, weight_decay=c.weight_decay,
      max_grad_norm=c.max_grad_norm, frozen=frozen)
  return tx, schedule


def init_scalar(model: transformer.Model, seed: int):
  """Fresh reward-model parameters; the head has its own key."""
  return {
      'backbone': model.init(rng.key(seed, rng.Purpose.INIT)),
      'head': heads.init_head(rng.key(seed, rng.Purpose.HEAD_INIT),
                              model.module.d_model)}


@dataclasses.dataclass(frozen=True)
class Layout:
  """A model and where its parameters lie, before there are any."""

  model: transformer.Model
  shapes: Params  # of ShapeDtypeStruct
  shardings: Params
  frozen: Params | None = None  # see `transformer.Model.frozen`

  @property
  def abstract(self) -> Params:
    """The shapes with their shardings."""
    return abstract(self.shapes, self.shardings)

  @property
  def num_bytes(self) -> int:
    """Of all parameters together."""
    return sum(math.prod(x.shape) * x.dtype.itemsize
               for x in jax.tree.leaves(self.shapes))


def abstract(shapes, shardings):
  """A tree of `ShapeDtypeStruct` with shardings."""
  return jax.tree.map(
      lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d),
      shapes, shardings)


def abstract_rows(mesh, shapes):
  """A tree of (shape, dtype) as abstract arrays of the global batch's rows."""
  rows = sharding.batch_sharding(mesh)
  return jax.tree.map(
      lambda s: jax.ShapeDtypeStruct(*s, sharding=rows), shapes,
      is_leaf=lambda s: isinstance(s, tuple))


def lm_layout(model: transformer.Model, mesh) -> Layout:
  """Of a language model."""
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
  return Layout(model, shapes, sharding.tree_shardings(
      mesh, model.logical_axes(), shapes, model.module.rules), model.frozen())


def scalar_layout(model: transformer.Model, mesh) -> Layout:
  """Of a reward or value model."""
  shapes = jax.eval_shape(lambda: init_scalar(model, 0))
  axes = {'backbone': model.logical_axes(), 'head': heads.head_axes()}
  frozen = model.frozen()
  if frozen is not None:
    frozen = {'backbone': frozen, 'head': {'kernel': 0, 'bias': 0}}
  return Layout(model, shapes, sharding.tree_shardings(
      mesh, axes, shapes, model.module.rules), frozen)


def input_path(config, workdir, name: str) -> pathlib.Path:
  """The path of an input; relative ones start at the run folder."""
  value = config.inputs[name]
  require(bool(value), f'inputs.{name} is empty: give it a path')
  path = pathlib.Path(os.path.normpath(pathlib.Path(workdir) / value))
  require(path.exists(),
          f'inputs.{name}: {path} does not exist; run the stage that makes '
          'it first, or set the field')
  try:
    checkpoint.refuse_foreign(path)
  except checkpoint.CheckpointError as error:
    raise ConfigError(f'inputs.{name}: {error}') from error
  require(not (path / run_folder.CONFIG).exists()
          or run_folder.read_done(path) is not None,
          f'inputs.{name}: {path} is not finished; run it to its end, or name '
          'one of its checkpoints')
  return path


def exported(path, wanted: Params | Callable[[dict], Params] | None = None,
             check: Callable[[dict], None] = lambda meta: None):
  """The parameters that a run exports, and the checkpoint's meta.

  Args:
    path: a run folder, its checkpoints, or one step of them.
    wanted: abstract parameters, with shardings; another floating dtype than
      what was saved is converted to. Or a function that makes them from the
      meta. What was saved by default, on the first device.
    check: is given the meta first, and may refuse it.

  Raises:
    CheckpointError: there is none, or the newest is damaged: an older one
      would be another result. It can be given by its own path.
  """
  def subtree(meta):
    check(meta)
    return meta['export']

  return checkpoint.restore_params(
      path, subtree, wanted, cast=True, only_newest=True)


def compared(trained: dict, model):
  """(field, theirs, ours) of each field that says what a model computes.

  Args:
    trained: the config of a model, as a checkpoint has it: lists for tuples,
      and without the fields that came later, which were as by default.
    model: another one's.
  """
  defaults = {f.name: f.default
              for f in dataclasses.fields(transformer.Transformer)}
  for field in sorted({*trained, *(model if trained else ())}):
    if field in model and field not in HOW_COMPUTED:
      yield (field, _plain(trained.get(field, defaults.get(field))),
             _plain(model[field]))


def fresh_state(params, tx, *, ema: bool = False, kl_coef=None) -> TrainState:
  return TrainState(
      step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params),
      ema_params=params if ema else None, kl_coef=kl_coef)


def state_shardings(mesh, tx, layout: Layout, *, ema=False) -> TrainState:
  """The tree of shardings of `fresh_state`."""
  return TrainState(
      step=sharding.replicated(mesh), params=layout.shardings,
      opt_state=optimizer.state_shardings(
          tx, layout.shapes, layout.shardings, mesh),
      ema_params=layout.shardings if ema else None)


class Program:
  """The state of a stage that trains one model, before there are parameters.

  Attributes:
    layout: of the model.
    state_shardings: of the `TrainState`.
  """

  def __init__(self, config, mesh, layout: Layout, tx):
    self._config, self._mesh, self._tx = config, mesh, tx
    self.layout = layout
    self.state_shardings = state_shardings(mesh, tx, layout)

  def fresh_state(self, params: Params) -> TrainState:
    return fresh_state(params, self._tx)

  @functools.cached_property
  def resident(self) -> TrainState:
    """All that stays on the devices between steps, abstract."""
    return abstract(jax.eval_shape(self.fresh_state, self.layout.abstract),
                    self.state_shardings)
