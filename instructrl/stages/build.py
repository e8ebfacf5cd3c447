"""Makes a model, an optimizer and their layout from a config."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from instructrl import rng
from instructrl.models import heads
from instructrl.models import transformer
from instructrl.runtime import optimizer
from instructrl.runtime import sharding
from instructrl.types import Params, TrainState


def make_model(
  config, vocab_size: int, name: str = 'model', rules: str | None = None
) -> transformer.Model:
  """Returns the model of a config's field.

  Args:
    config: config of a stage.
    vocab_size: number of tokens of the tokenizer.
    name: name of the field.
    rules: key of the model's own rules in `config.model_rules`; `name` by
      default.
  """
  own = config.get('model_rules', {}).get(rules or name, ())
  rules = dict(config.rules) | dict(own)
  return transformer.make_model(
    vocab_size=vocab_size, rules=tuple(rules.items()), **config[name].to_dict()
  )


def make_optimizer(
  c,
  num_steps: int,
  frozen: Params | None = None,
  warmup_steps: int | None = None,
):
  """Returns the optimizer and its schedule.

  Args:
    c: an optimizer config.
    num_steps: optimizer steps of the whole run.
    frozen: `Layout.frozen` of the model.
    warmup_steps: optimizer steps of the warmup; c.warmup_steps by default.
  """
  schedule = optimizer.make_schedule(
    peak_lr=c.peak_lr,
    num_steps=num_steps,
    kind=c.schedule,
    warmup_steps=c.warmup_steps if warmup_steps is None else warmup_steps,
    warmup_from=c.warmup_from,
    final_fraction=c.final_fraction,
  )
  tx = optimizer.make_optimizer(
    schedule,
    b1=c.b1,
    b2=c.b2,
    eps=c.eps,
    weight_decay=c.weight_decay,
    max_grad_norm=c.max_grad_norm,
    frozen=frozen,
  )
  return tx, schedule


def init_scalar(model: transformer.Model, seed: int):
  """Returns fresh reward-model parameters; the head has its own key."""
  return {
    'backbone': model.init(rng.key(seed, rng.Purpose.INIT)),
    'head': heads.init_head(
      rng.key(seed, rng.Purpose.HEAD_INIT), model.module.d_model
    ),
  }


@dataclasses.dataclass(frozen=True)
class Layout:
  """A model, and the shapes and shardings of its parameters."""

  model: transformer.Model
  shapes: Params  # of ShapeDtypeStruct
  shardings: Params
  frozen: Params | None = None  # see `transformer.Model.frozen`

  @property
  def abstract(self) -> Params:
    """The shapes with their shardings."""
    return abstract(self.shapes, self.shardings)

  @property
  def num_params(self) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(self.shapes))

  @property
  def num_bytes(self) -> int:
    """Returns the bytes of all parameters together."""
    return sum(
      math.prod(x.shape) * x.dtype.itemsize
      for x in jax.tree.leaves(self.shapes)
    )


def abstract(shapes, shardings):
  """Returns a tree of `ShapeDtypeStruct` with shardings."""
  return jax.tree.map(
    lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d),
    shapes,
    shardings,
  )


def abstract_rows(mesh, shapes):
  """Returns a tree of (shape, dtype) as abstract arrays, divided by rows."""
  rows = sharding.batch_sharding(mesh)
  return jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(*s, sharding=rows),
    shapes,
    is_leaf=lambda s: isinstance(s, tuple),
  )


@functools.lru_cache(maxsize=8)  # an evaluation opens each policy several times
def lm_layout(model: transformer.Model, mesh) -> Layout:
  """Returns the layout of a language model."""
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
  return Layout(
    model,
    shapes,
    sharding.tree_shardings(
      mesh, model.logical_axes(), shapes, model.module.rules
    ),
    model.frozen(),
  )


def scalar_layout(model: transformer.Model, mesh) -> Layout:
  """Returns the layout of a reward or value model."""
  shapes = jax.eval_shape(lambda: init_scalar(model, 0))
  axes = {'backbone': model.logical_axes(), 'head': heads.head_axes()}
  frozen = model.frozen()
  if frozen is not None:
    frozen = {'backbone': frozen, 'head': {'kernel': 0, 'bias': 0}}
  return Layout(
    model,
    shapes,
    sharding.tree_shardings(mesh, axes, shapes, model.module.rules),
    frozen,
  )


def fresh_state(params, tx, *, ema_params=None, kl_coef=None) -> TrainState:
  """Returns the state before the first step.

  Args:
    params: parameters, or {name: parameters} of several models.
    tx: their optimizer, or {name: optimizer}.
    ema_params: where the average of the parameters starts, if there is one.
    kl_coef: coefficient of the KL reward; PPO only.
  """
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=(
      {name: tx[name].init(params[name]) for name in params}
      if isinstance(tx, dict)
      else tx.init(params)
    ),
    ema_params=ema_params,
    kl_coef=None if kl_coef is None else jnp.float32(kl_coef),
  )


def state_shardings(
  mesh, tx, layouts, *, ema: Layout | None = None, kl_coef: bool = False
) -> TrainState:
  """Returns the shardings of `fresh_state`.

  Args:
    mesh: mesh of the run.
    tx: as for `fresh_state`.
    layouts: layout of the model, or {name: layout} with more names or the same.
    ema: layout of the average, if the state has one.
    kl_coef: whether the state has a `kl_coef`.
  """
  moments = lambda tx, layout: optimizer.state_shardings(
    tx, layout.shapes, layout.shardings, mesh
  )
  several = isinstance(tx, dict)
  return TrainState(
    step=sharding.replicated(mesh),
    params=(
      {name: layouts[name].shardings for name in tx}
      if several
      else layouts.shardings
    ),
    opt_state=(
      {name: moments(tx[name], layouts[name]) for name in tx}
      if several
      else moments(tx, layouts)
    ),
    ema_params=ema and ema.shardings,
    kl_coef=sharding.replicated(mesh) if kl_coef else None,
  )


class Program:
  """The state of a stage that trains one model.

  Attributes:
    layout: layout of the model.
    state_shardings: shardings of the `TrainState`.
  """

  def __init__(self, config, mesh, layout: Layout, tx):
    self._config, self._mesh, self._tx = config, mesh, tx
    self.layout = layout
    self.state_shardings = state_shardings(mesh, tx, layout)

  def fresh_state(self, params: Params) -> TrainState:
    """Returns the state before the first step."""
    return fresh_state(params, self._tx)

  @functools.cached_property
  def resident(self) -> TrainState:
    """Abstract arrays that stay on the devices between steps."""
    return abstract(
      jax.eval_shape(self.fresh_state, self.layout.abstract),
      self.state_shardings,
    )
