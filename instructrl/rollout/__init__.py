"""Samples responses, and computes what PPO needs to know about them.

Prompts are left-padded to P, responses right-padded to R, so the response
starts at column P whatever the prompt's length. Positions and attention leave
padding out (see `models.transformer`).
"""

from typing import cast

import chex
import jax
import jax.numpy as jnp

from instructrl import advantages
from instructrl import losses
from instructrl import sampling
from instructrl.models.transformer import Cache
from instructrl.models.transformer import Model
from instructrl.types import LMBatch, Params, PromptBatch, pytree, Rollout

PIECES = 4  # of the columns of a row; see `packed_logprobs`


@pytree
class Responses:
  """Sampled responses."""

  tokens: jax.Array  # [B, R] int32, pad after EOS
  logprobs: jax.Array  # [B, R] float32, of the behaviour policy; 0 in padding
  mask: jax.Array  # [B, R] bool, up to and including EOS


def generate(
  model: Model,
  params: Params,
  prompts: PromptBatch,
  key: jax.Array,
  *,
  response_len: int,
  eos_id: int,
  pad_id: int,
  temperature: chex.Numeric = 1.0,
  top_p: float = 1.0,
  rows: jax.Array | None = None,
  max_tokens: jax.Array | None = None,
  stop_id: jax.Array | int = -1,
) -> Responses:
  """Samples a response to each prompt with a KV cache, in one jittable loop.

  The loop ends when every response has ended. The tokens of a row depend only
  on the key, its global row number and the position, not on the other rows.

  Args:
    model: the architecture.
    params: its parameters.
    prompts: [B, P], left-padded.
    key: [] typed key, see `rng.key`.
    response_len: R.
    eos_id: the token that ends a response, and is part of it.
    pad_id: the token after the end.
    temperature: divides the logits; 0 is greedy. May be traced.
    top_p: see `sampling.sample_tokens`; PPO needs 1.
    rows: [B] int32 global row numbers; 0..B-1 by default.
    max_tokens: [] or [B] int32, a limit below R; R by default.
    stop_id: [] int32, another token that ends a response; -1 for none.
  """
  batch, prompt_len = prompts.tokens.shape
  rows = jnp.arange(batch) if rows is None else rows
  limits = response_len if max_tokens is None else max_tokens
  limits = jnp.broadcast_to(limits, batch)
  segments = prompts.mask.astype(jnp.int32)
  lengths = segments.sum(axis=1)
  # Outside of the loop, which would repeat this for every token.
  params, unembedding = model.prepared(params), model.unembedding(params).T

  def draw(hidden, position):
    logits = last_logits(model, hidden, unembedding)
    keys = sampling.row_keys(key, rows, position)
    return sampling.sample_tokens(
      logits, keys, temperature=temperature, top_p=top_p
    )

  cache: Cache | None = model.init_cache(batch, prompt_len + response_len)
  positions = jnp.maximum(jnp.cumsum(segments, axis=1) - 1, 0)
  hidden, cache = model.apply(
    params, prompts.tokens, positions, segments, cache
  )
  token, logprob = draw(hidden, 0)
  is_end = lambda token, t: (
    (token == eos_id) | (token == stop_id) | (t >= limits)
  )
  out = no_responses(batch, response_len, pad_id)
  out = _written(out, 0, token, logprob, jnp.ones(batch, bool))

  def body(carry):
    t, token, done, cache, out = carry
    hidden, cache = model.apply(
      params,
      token[:, None],
      (lengths + t - 1)[:, None],
      jnp.where(done, 0, 1)[:, None],
      cache,
    )
    token, logprob = draw(hidden, t)
    token = jnp.where(done, pad_id, token)
    out = _written(out, t, token, jnp.where(done, 0.0, logprob), ~done)
    return t + 1, token, done | is_end(token, t + 1), cache, out

  carry = jnp.ones((), jnp.int32), token, is_end(token, 1), cache, out
  unfinished = lambda carry: ~carry[2].all()  # `done`
  *_, out = jax.lax.while_loop(unfinished, body, carry)
  return out


def no_responses(batch: int, response_len: int, pad_id: int) -> Responses:
  """Returns responses [B, R] without a token."""
  full = lambda value, dtype: jnp.full((batch, response_len), value, dtype)
  return Responses(
    tokens=full(pad_id, jnp.int32),
    logprobs=full(0.0, jnp.float32),
    mask=full(False, bool),
  )


def _written(out: Responses, t, token, logprob, mask) -> Responses:
  """Returns responses with column `t` replaced; the new columns are [B]."""
  put = lambda x, column: jax.lax.dynamic_update_index_in_dim(
    x, column, t, axis=1
  )
  return Responses(
    tokens=put(out.tokens, token),
    logprobs=put(out.logprobs, logprob),
    mask=put(out.mask, mask),
  )


def last_logits(model: Model, hidden, unembedding) -> jax.Array:
  """Returns the logits [B, V] float32 of the tokens after the last column."""
  logits = jnp.matmul(
    hidden[:, -1], unembedding, preferred_element_type=jnp.float32
  )
  return losses.without_padding(logits, model.vocab_size)


def make_rollout(
  tokens: jax.Array,
  prompt_mask: jax.Array,
  response_mask: jax.Array,
  old_logprobs: jax.Array,
  ref_logprobs: jax.Array,
  old_values: jax.Array,
  scores: jax.Array,
  *,
  kl_coef: jax.Array,
  discount: float,
  gae_lambda: float,
  whiten_advantages: bool,
  eos_id: int,
  missing_eos: advantages.MissingEos = 'none',
  missing_eos_amount: float = 0.0,
) -> Rollout:
  """Computes rewards, advantages and returns of a whole iteration's batch.

  `kl_coef` is a traced scalar (an adaptive one is part of the state). Shapes
  are those of `types.Rollout`; `scores` stays the raw score in the result,
  while the reward uses it after missing-EOS handling.
  """
  prompt_len = prompt_mask.shape[1]
  kl = jnp.where(
    response_mask, advantages.kl_estimate(old_logprobs, ref_logprobs), 0.0
  )
  has_eos = ((tokens[:, prompt_len:] == eos_id) & response_mask).any(axis=1)
  final = advantages.missing_eos(
    scores, has_eos, mode=missing_eos, amount=missing_eos_amount
  )
  rewards = advantages.shaped_rewards(final, kl, response_mask, kl_coef=kl_coef)
  estimates, returns = advantages.gae(
    rewards, old_values, response_mask, discount=discount, gae_lambda=gae_lambda
  )
  if whiten_advantages:
    estimates = advantages.whitened_advantages(estimates, response_mask)
  return Rollout(
    tokens=tokens,
    prompt_mask=prompt_mask,
    response_mask=response_mask,
    old_logprobs=old_logprobs,
    ref_logprobs=ref_logprobs,
    old_values=old_values,
    kl=kl,
    rewards=rewards,
    advantages=estimates,
    returns=returns,
    scores=scores,
  )


def in_microbatches(fn, batch, size: int):
  """Applies `fn` to parts of `batch` with `size` rows, one after another.

  Args:
    fn: tree of [b, ...] -> tree of [b, ...], each row on its own.
    batch: tree of [B, ...].
    size: rows at once; 0 or B means all.
  """
  rows = jax.tree.leaves(batch)[0].shape[0]
  size = size or rows
  if size >= rows:
    return fn(batch)
  if rows % size:
    raise ValueError(f'a microbatch of {size} does not divide {rows} rows')
  parts = jax.tree.map(
    lambda x: x.reshape(size, rows // size, *x.shape[1:]).swapaxes(0, 1), batch
  )
  out = jax.lax.map(fn, parts)
  return jax.tree.map(
    lambda x: x.swapaxes(0, 1).reshape(rows, *x.shape[2:]), out
  )


def packed_logprobs(
  model: Model,
  params: Params,
  batch: LMBatch,
  chunk_size: int,
  dropout_key=None,
  *,
  temperature: float = 1.0,
  skip: bool = False,
) -> jax.Array:
  """Returns the log-probabilities of the targets of packed rows.

  Args:
    model: the language model.
    params: its parameters.
    batch: packed rows [B, T].
    chunk_size: see `losses.token_logprobs`.
    dropout_key: draws the dropout; None for none.
    temperature: divides the logits.
    skip: compute few logits beyond those of `batch.loss_mask`. Worth it if many
      columns have no target, as those of prompts.

  Returns:
    [B, T] float32, nats; undefined outside `batch.loss_mask`.
  """
  hidden, _ = model.apply(
    params,
    batch.tokens,
    batch.positions,
    batch.segment_ids,
    dropout_key=dropout_key,
  )
  unembedding = model.unembedding(params).T

  def logprobs(hidden, targets):
    found = losses.token_logprobs(
      hidden,
      unembedding,
      targets,
      vocab_size=model.vocab_size,
      chunk_size=chunk_size,
      temperature=temperature,
    )
    return cast(jax.Array, found)  # a pair only with the entropy

  if not skip:
    return logprobs(hidden, batch.targets)
  return _of_counted(logprobs, batch.loss_mask, hidden, batch.targets)


def _of_counted(fn, mask, *columns):
  """Applies `fn` to the columns under a mask, and to few others.

  Columns that count move to the left of their row. Of `PIECES` parts of the
  rows, those without a column that counts are skipped.

  Args:
    fn: arrays [B, t, ...] -> [B, t] float32, each column on its own.
    mask: [B, T] bool.
    *columns: [B, T, ...].

  Returns:
    [B, T] float32, 0 in skipped columns.
  """
  order = jnp.argsort(~mask, axis=1, stable=True)

  def take(x, order):
    order = order.reshape(order.shape + (1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, order, axis=1)

  pieces = lambda x: jnp.array_split(take(x, order), PIECES, axis=1)
  found = [
    jax.lax.cond(
      counted.any(), fn, lambda *_: jnp.zeros(counted.shape), *inputs
    )
    for counted, *inputs in zip(pieces(mask), *map(pieces, columns))
  ]
  return take(jnp.concatenate(found, axis=1), jnp.argsort(order, axis=1))
