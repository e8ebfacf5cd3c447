"""Scalar heads: the reward model and the value model.

Both are a transformer whose unembedding is replaced by a projection to one
number (Ouyang et al. 2022, section 3.5). The parameters are
`{'backbone': transformer tree, 'head': {'kernel': [D], 'bias': []}}`, so that
a value model starts as a copy of a reward model's dict.
"""

import jax
import jax.numpy as jnp

from instructrl.models.transformer import Model
from instructrl.types import Params


def init_head(key: jax.Array, d_model: int) -> Params:
  """Kernel N(0, 1 / (d + 1)), zero bias (Stiennon et al. 2020)."""
  kernel = jax.random.normal(key, (d_model,), jnp.float32)
  return {
    'kernel': kernel / (d_model + 1) ** 0.5,
    'bias': jnp.zeros((), jnp.float32),
  }


def head_axes() -> Params:
  """Logical axes of the head's parameters."""
  return {'kernel': ('norm',), 'bias': ()}


def apply_scalar(
  model: Model,
  params: Params,
  tokens: jax.Array,
  positions: jax.Array,
  segment_ids: jax.Array,
  *,
  shared_prefix: bool = False,
  dropout_key: jax.Array | None = None,
) -> jax.Array:
  """The head's output at every position; arguments as of `Model.apply`.

  Returns:
    [B, T] float32, whatever the compute dtype: a score of 0.7 stays 0.7.
  """
  hidden, _ = model.apply(
    params['backbone'],
    tokens,
    positions,
    segment_ids,
    shared_prefix=shared_prefix,
    dropout_key=dropout_key,
  )
  head = params['head']
  return (
    jnp.einsum(
      'btd,d->bt',
      hidden.astype(jnp.float32),
      head['kernel'].astype(jnp.float32),
    )
    + head['bias']
  )


def shift_bias(params: Params, amount: jax.Array) -> Params:
  """Adds a constant to every score (the paper's bias after RM training)."""
  head = params['head']
  return {**params, 'head': {**head, 'bias': head['bias'] + amount}}
