"""Padded episodes, pass by pass: what packed rows are compared with.

Prompts are left-padded to P, responses right-padded to R, and all P + R columns
of a row are computed.
"""

import jax
import jax.numpy as jnp

from instructrl import losses
from instructrl.models import heads
from instructrl.models.transformer import Model
from instructrl.types import Params


def sequence_inputs(
  prompt_mask: jax.Array, response_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns (positions, segment_ids) of the rows, each [B, P + R] int32."""
  segments = jnp.concatenate([prompt_mask, response_mask], axis=1).astype(
    jnp.int32
  )
  return jnp.maximum(jnp.cumsum(segments, axis=1) - 1, 0), segments


def response_logprobs(
  model: Model,
  params: Params,
  tokens: jax.Array,
  prompt_mask: jax.Array,
  response_mask: jax.Array,
  *,
  chunk_size: int,
  temperature: float = 1.0,
  with_entropy: bool = False,
):
  """Computes the log-probability of each response token.

  Args:
    tokens: [B, P + R] int32.
    prompt_mask: [B, P] bool.
    response_mask: [B, R] bool.
    chunk_size: tokens whose vocabulary-sized logits are in memory at once.
    temperature: that of the sampler, for equal log-probabilities.
    with_entropy: also return the entropy of each distribution, in nats.

  Returns:
    [B, R] float32, or a pair of them; 0 in the padding.
  """
  prompt_len = prompt_mask.shape[1]
  positions, segments = sequence_inputs(prompt_mask, response_mask)
  hidden, _ = model.apply(params, tokens, positions, segments)
  out = losses.token_logprobs(
    hidden[:, prompt_len - 1 : -1],
    model.unembedding(params).T,
    tokens[:, prompt_len:],
    vocab_size=model.vocab_size,
    chunk_size=chunk_size,
    temperature=temperature,
    with_entropy=with_entropy,
  )
  clean = lambda x: jnp.where(response_mask, x, 0.0)
  return tuple(map(clean, out)) if with_entropy else clean(out)


def response_values(
  model: Model,
  params: Params,
  tokens: jax.Array,
  prompt_mask: jax.Array,
  response_mask: jax.Array,
) -> jax.Array:
  """Returns the values [B, R] float32 at the position *before* each action."""
  prompt_len = prompt_mask.shape[1]
  values = _scalars(model, params, tokens, prompt_mask, response_mask)
  return jnp.where(response_mask, values[:, prompt_len - 1 : -1], 0.0)


def response_scores(
  model: Model,
  params: Params,
  tokens: jax.Array,
  prompt_mask: jax.Array,
  response_mask: jax.Array,
) -> jax.Array:
  """Returns the scores [B] float32, read at the last response token."""
  prompt_len = prompt_mask.shape[1]
  scores = _scalars(model, params, tokens, prompt_mask, response_mask)
  last = prompt_len + response_mask.sum(axis=1) - 1
  return jnp.take_along_axis(scores, last[:, None], axis=1)[:, 0]


def _scalars(model: Model, params: Params, tokens, prompt_mask, response_mask):
  """Returns the head's output at every column, [B, P + R] float32."""
  positions, segments = sequence_inputs(prompt_mask, response_mask)
  return heads.apply_scalar(model, params, tokens, positions, segments)
