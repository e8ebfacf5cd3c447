"""Scalar heads of the reward model and the value model.

Both are a transformer with a projection to one number instead of the
unembedding (Ouyang et al. 2022, section 3.5). The parameters are `{'backbone':
transformer tree, 'head': {'kernel': [D], 'bias': []}}`, so a value model can
start as a copy of a reward model's dict.
"""

import jax
import jax.numpy as jnp

from instructrl.models.transformer import Model
from instructrl.types import Params


def init_head(key: jax.Array, d_model: int) -> Params:
  """Draws the kernel from N(0, 1 / (d + 1)); bias 0 (Stiennon et al. 2020)."""
  kernel = jax.random.normal(key, (d_model,), jnp.float32)
  return {
    'kernel': kernel / (d_model + 1) ** 0.5,
    'bias': jnp.zeros((), jnp.float32),
  }


def head_axes() -> Params:
  """Returns the logical axes of the head's parameters."""
  return {'kernel': ('norm',), 'bias': ()}


def apply_scalar(
  model: Model,
  params: Params,
  tokens: jax.Array,
  positions: jax.Array,
  segment_ids: jax.Array,
  *,
  shared_prefix: bool = False,
) -> jax.Array:
  """Computes the head's output at every position.

  Args:
    model: the backbone.
    params: {'backbone', 'head'}.
    tokens: this and the other arguments: see `Model.apply`.
    positions: see `Model.apply`.
    segment_ids: see `Model.apply`.
    shared_prefix: see `Model.apply`.

  Returns:
    [B, T] float32, whatever the compute dtype.
  """
  inputs = (params['backbone'], tokens, positions, segment_ids)
  hidden, _ = model.apply(*inputs, shared_prefix=shared_prefix)
  head = params['head']
  kernel = head['kernel'].astype(jnp.float32)
  product = jnp.einsum('btd,d->bt', hidden.astype(jnp.float32), kernel)
  return product + head['bias']


def shift_bias(params: Params, amount: jax.Array) -> Params:
  """Adds a constant to every score, as the paper does after RM training."""
  head = params['head']
  return {**params, 'head': {**head, 'bias': head['bias'] + amount}}
