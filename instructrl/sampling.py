"""From logits to tokens.

What row b samples at a position is a function of (seed, purpose, step, global
row, position) alone: see `rng.key` and `row_keys`. It does not change with the
batch it is computed in, the mesh, or the number of processes.

Axis legend: B batch, V vocabulary, N candidates left by top_k.
"""

import chex
import jax
import jax.numpy as jnp


def row_keys(
    key: chex.PRNGKey, rows: chex.Array, position: chex.Numeric
) -> jax.Array:
  """Makes one key per row.

  Args:
    key: [] typed key, of the seed, the purpose and the step.
    rows: [B] integer, indices of the rows in the whole iteration's batch.
    position: [] integer, which token of the response is sampled.

  Returns:
    [B] typed keys.
  """
  chex.assert_rank(rows, 1)
  return jax.vmap(
      lambda row: jax.random.fold_in(jax.random.fold_in(key, row), position)
  )(rows)


def sample_tokens(
    logits: chex.Array,
    keys: chex.PRNGKey,
    *,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Samples one token per row.

  The token is the inverse of the cumulative distribution at one uniform number
  per row, which needs one random number a row where Gumbel noise needs V.

  Args:
    logits: [B, V] any float dtype.
    keys: [B] typed keys, see `row_keys`.
    temperature: divides the logits; 0 takes the most likely token.
    top_p: keeps the fewest most likely tokens whose probability reaches this
      much (Holtzman et al. 2020); 1 keeps all. PPO needs 1.
    top_k: keeps this many most likely tokens; 0 keeps all. PPO needs 0.

  Returns:
    (tokens, logprobs): [B] int32, and [B] float32, the log-probability, in
    nats, under the distribution that was sampled from, after temperature,
    top_k and top_p. A greedy token comes with its log-probability at
    temperature 1, since that of the point mass would always be 0.

  Raises:
    ValueError: if a setting is out of its range.
  """
  chex.assert_rank([logits, keys], [2, 1])
  chex.assert_equal_shape_prefix([logits, keys], 1)
  if temperature < 0:
    raise ValueError(f'temperature must be 0 or more, not {temperature}')
  if not 0 < top_p <= 1:
    raise ValueError(f'top_p must be in (0, 1], not {top_p}')
  if top_k < 0:
    raise ValueError(f'top_k must be 0 or more, not {top_k}')
  logits = logits.astype(jnp.float32)
  if temperature == 0:
    tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return tokens, _take(logits, tokens) - jax.nn.logsumexp(logits, axis=-1)
  logits = logits / temperature
  uniform = jax.vmap(jax.random.uniform)(keys)
  if top_p == 1 and not top_k:
    return _invert_cdf(logits, uniform)
  sorted_logits, sorted_tokens = _truncate(logits, top_p, top_k)
  ranks, logprobs = _invert_cdf(sorted_logits, uniform)
  return _take(sorted_tokens, ranks), logprobs


def _truncate(logits, top_p, top_k):
  """The kept logits, best first ([B, N], -inf if dropped), and their ids."""
  vocab_size = logits.shape[-1]
  values, tokens = jax.lax.top_k(logits, min(top_k or vocab_size, vocab_size))
  probs = jax.nn.softmax(values)
  before = jnp.cumsum(probs, axis=-1) - probs
  # The best token stays even if rounding says otherwise.
  keep = (before < top_p).at[:, 0].set(True)
  return jnp.where(keep, values, -jnp.inf), tokens.astype(jnp.int32)


def _invert_cdf(logits, uniform):
  """Samples from softmax(logits) [B, V] by `uniform` [B] in [0, 1)."""
  peak = jnp.max(logits, axis=-1, keepdims=True)
  weights = jnp.exp(logits - peak)
  cumulative = jnp.cumsum(weights, axis=-1)
  total = cumulative[:, -1]
  # A parallel cumulative sum need not be monotonic to the last bit, so a token
  # of weight 0 is excluded by name. If rounding leaves no token above the
  # threshold, the most likely one is taken.
  hit = (cumulative > (uniform * total)[:, None]) & (weights > 0)
  tokens = jnp.where(
      jnp.any(hit, axis=-1), jnp.argmax(hit, axis=-1), jnp.argmax(logits, -1)
  ).astype(jnp.int32)
  logprobs = _take(logits, tokens) - peak[:, 0] - jnp.log(total)
  return tokens, logprobs


def _take(x, index):
  """x[b, index[b]] for every row b."""
  return jnp.take_along_axis(x, index[:, None], axis=-1)[:, 0]
