"""Losses: functions of arrays and coefficients, never of models or configs.

Axis legend: B batch, T tokens, R response, K responses per prompt, D model
width, V vocabulary. Log-probabilities are natural, so every loss is in nats.

Each loss returns `(loss, metrics)`: a float32 scalar and a flat dict of float32
scalars. The means are per token (or, for rankings, per prompt) over the mask.
`count` replaces the number of tokens (prompts) in the mask as the denominator:
give every microbatch the count of the whole batch, and the losses, gradients
and metrics of the microbatches add up to those of the batch.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp

from instructrl import masked

Metrics = dict[str, jax.Array]

_NO_TOKEN = -1e30  # a logit without probability; -inf would give 0 * inf


def without_padding(logits: jax.Array, vocab_size: int) -> jax.Array:
  """Removes all probability from the tokens that pad a vocabulary.

  Args:
    logits: [..., V'] float32.
    vocab_size: the number of real tokens; the others get a logit of -1e30.
  """
  if logits.shape[-1] == vocab_size:
    return logits
  exists = jnp.arange(logits.shape[-1]) < vocab_size
  return jnp.where(exists, logits, _NO_TOKEN)


def token_logprobs(
  hidden: chex.Array,
  unembed: chex.Array,
  targets: chex.Array,
  *,
  chunk_size: int,
  vocab_size: int | None = None,
  temperature: chex.Numeric = 1.0,
  with_entropy: bool = False,
  mask: chex.Array | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
  """Computes log-probabilities of `targets`, a chunk of logits at a time.

  logprobs[b, t] = log softmax(hidden[b, t] @ unembed / temperature)[targets]

  Vocabulary-sized logits exist for at most `chunk_size` tokens at a time; the
  backward pass recomputes the logits of a chunk. If possible, each chunk takes
  a part of every row, so that sharded rows stay on their devices.

  Args:
    hidden: [..., T, D] any float dtype; the matmul multiplies in this dtype,
      accumulates in float32 and everything after it is float32.
    unembed: [D, V], cast to the dtype of `hidden`.
    targets: [..., T] integer.
    chunk_size: tokens per chunk. 0, or at least the number of tokens, means one
      chunk; the backward pass keeps its logits.
    vocab_size: columns of `unembed` from here on are padding; V by default.
    temperature: divides the logits, as the sampler's does; positive.
    with_entropy: whether to return the entropy of the distribution as well.
    mask: [..., T] bool; where false, the result and its gradient are 0.

  Returns:
    [..., T] float32 logprobs, nats; with `with_entropy` a pair of it and the
    entropies, [..., T] float32, nats.

  Raises:
    ValueError: `chunk_size` is negative.
  """
  chex.assert_rank(unembed, 2)
  chex.assert_equal_shape_prefix([hidden, targets], hidden.ndim - 1)
  chex.assert_axis_dimension(hidden, -1, unembed.shape[0])
  if chunk_size < 0:
    raise ValueError(f'chunk_size must be 0 or more; got {chunk_size}')
  unembed = unembed.astype(hidden.dtype)

  def chunk_logprobs(hidden, targets):
    logits = jnp.dot(hidden, unembed, preferred_element_type=jnp.float32)
    logits = without_padding(logits, vocab_size or logits.shape[-1])
    return _from_logits(logits / temperature, targets, with_entropy)

  if chunk_size == 0 or targets.size <= chunk_size:
    outputs = chunk_logprobs(hidden, targets)
  else:
    chunk_logprobs = jax.checkpoint(chunk_logprobs, prevent_cse=False)
    split, merge = _chunking(targets.shape, chunk_size)
    outputs = jax.lax.map(
      lambda chunk: chunk_logprobs(*chunk), (split(hidden), split(targets))
    )
    outputs = jax.tree.map(merge, outputs)
  if mask is not None:
    chex.assert_equal_shape([mask, targets])
    outputs = jax.tree.map(lambda x: jnp.where(mask, x, 0), outputs)
  return outputs if with_entropy else outputs[0]


def lm_loss(
  logprobs: chex.Array, mask: chex.Array, *, count: chex.Numeric | None = None
) -> tuple[jax.Array, Metrics]:
  """Computes the cross-entropy of a language model per token.

  Args:
    logprobs: [...] float32, of the targets.
    mask: [...] bool, which targets count.
    count: see the top of the file.

  Returns:
    (loss, metrics): nats per token, and `loss/lm`, the same.
  """
  chex.assert_equal_shape([logprobs, mask])
  chex.assert_type([logprobs, mask], [jnp.float32, bool])
  loss = masked.masked_mean(-logprobs, mask, count=count)
  return loss, {'loss/lm': loss}


def preference_pairs(ranks: chex.Array, valid: chex.Array) -> jax.Array:
  """Finds the ordered pairs of responses that state a preference.

  Args:
    ranks: [B, K] integer, 0 = best, equal = tie.
    valid: [B, K] bool, which responses exist.

  Returns:
    [B, K, K] bool; [b, i, j] is true where i is strictly preferred to j. Its
    sum is the number of pairs, the sum of `any` over the last two axes the
    number of prompts that count.
  """
  chex.assert_rank(ranks, 2)
  chex.assert_equal_shape([ranks, valid])
  better = ranks[:, :, None] < ranks[:, None, :]
  return better & valid[:, :, None] & valid[:, None, :]


def ranking_loss(
  scores: chex.Array,
  ranks: chex.Array,
  valid: chex.Array,
  *,
  count: chex.Numeric | None = None,
  pair_count: chex.Numeric | None = None,
) -> tuple[jax.Array, Metrics]:
  """K-wise comparison loss of the reward model.

  loss = -mean over prompts (1 / pairs) sum over pairs
           log sigmoid(scores[winner] - scores[loser])

  Ouyang et al. 2022, equation 1, which divides by C(K, 2). Here ties are
  dropped and the divisor is the number of remaining pairs, so every prompt has
  the same weight for any K and any ties. A prompt without a pair has no loss
  and does not count.

  Args:
    scores: [B, K] float32, of the reward model.
    ranks: [B, K] integer, 0 = best, equal = tie.
    valid: [B, K] bool, False where a prompt has fewer than K responses.
    count: the number of prompts with a pair, see the top of the file.
    pair_count: the number of pairs, for the metrics per pair; like `count`.

  Returns:
    (loss, metrics): nats per pair, averaged over prompts; `reward/accuracy`,
    the fraction of pairs in which the winner scores strictly higher,
    `reward/margin`, the mean of winner minus loser over pairs, and
    `reward/num_pairs`.
  """
  chex.assert_rank(scores, 2)
  chex.assert_equal_shape([scores, ranks, valid])
  chex.assert_type([scores, valid], [jnp.float32, bool])
  pairs = preference_pairs(ranks, valid)
  scores = jnp.where(valid, scores, 0)
  margins = scores[:, :, None] - scores[:, None, :]
  losses = masked.masked_mean(-jax.nn.log_sigmoid(margins), pairs, (1, 2))
  loss = masked.masked_mean(losses, jnp.any(pairs, (1, 2)), count=count)
  pair_mean = functools.partial(
    masked.masked_mean, mask=pairs, count=pair_count
  )
  return loss, {
    'loss/ranking': loss,
    'reward/accuracy': pair_mean(margins > 0),
    'reward/margin': pair_mean(margins),
    'reward/num_pairs': jnp.sum(pairs, dtype=jnp.float32),
  }


def dpo_loss(
  logprobs: chex.Array,
  ref_logprobs: chex.Array,
  ranks: chex.Array,
  valid: chex.Array,
  *,
  beta: chex.Numeric,
  count: chex.Numeric | None = None,
  pair_count: chex.Numeric | None = None,
) -> tuple[jax.Array, Metrics]:
  """Loss of direct preference optimization (DPO) on K-wise rankings.

  implicit_rewards = beta * (logprobs - ref_logprobs)
  loss = -mean over prompts (1 / pairs) sum over pairs
           log sigmoid(implicit_rewards[winner] - implicit_rewards[loser])

  Rafailov et al. 2023, equation 7, which has one pair per prompt. Here the loss
  covers all pairs of a ranking with the weights of `ranking_loss`: ties are
  dropped, the divisor is the number of pairs that remain, and a prompt without
  a pair gives no loss and does not count.

  Args:
    logprobs: [B, K] float32, nats, log-probability of each whole response
      under the policy that is trained: the sum over its tokens.
    ref_logprobs: [B, K] float32, nats, the same under the frozen reference.
    ranks: [B, K] integer, 0 = best, equal = tie.
    valid: [B, K] bool, False where a prompt has fewer than K responses.
    beta: strength of the KL constraint; reward per nat of log-ratio.
    count: the number of prompts with a pair, see the top of the file.
    pair_count: in the same way the number of pairs, for the metrics per pair.

  Returns:
    (loss, metrics): nats per pair, averaged over prompts; `reward/accuracy`,
    the fraction of pairs whose winner has the strictly higher implicit reward;
    `reward/margin`, `reward/chosen` and `reward/rejected`, means over pairs of
    winner minus loser, of the winner and of the loser; `reward/num_pairs`.
  """
  chex.assert_rank(logprobs, 2)
  chex.assert_equal_shape([logprobs, ref_logprobs, ranks, valid])
  chex.assert_type([logprobs, ref_logprobs], jnp.float32)
  rewards = beta * jnp.where(valid, logprobs - ref_logprobs, 0)
  loss, metrics = ranking_loss(
    rewards, ranks, valid, count=count, pair_count=pair_count
  )
  pairs = preference_pairs(ranks, valid)
  winners = jnp.broadcast_to(rewards[:, :, None], pairs.shape)
  losers = jnp.broadcast_to(rewards[:, None, :], pairs.shape)
  del metrics['loss/ranking']
  return loss, metrics | {
    'loss/dpo': loss,
    'reward/chosen': masked.masked_mean(winners, pairs, count=pair_count),
    'reward/rejected': masked.masked_mean(losers, pairs, count=pair_count),
  }


def ppo_policy_loss(
  logprobs: chex.Array,
  old_logprobs: chex.Array,
  advantages: chex.Array,
  mask: chex.Array,
  *,
  clip_eps: float,
  count: chex.Numeric | None = None,
) -> tuple[jax.Array, Metrics]:
  """Clipped surrogate loss of the policy, per token.

  ratio = exp(logprobs - old_logprobs)
  loss = -mean min(ratio * advantages,
                   clip(ratio, 1 - clip_eps, 1 + clip_eps) * advantages)

  Schulman et al. 2017, equation 7. An action is one token.

  Args:
    logprobs: [B, R] float32, nats, of the policy that is trained.
    old_logprobs: [B, R] float32, nats, of the policy that sampled.
    advantages: [B, R] float32, whitened over the iteration.
    mask: [B, R] bool, the response.
    clip_eps: how far the ratio may leave 1 before its gradient is cut.
    count: see the top of the file.

  Returns:
    (loss, metrics): `policy/clip_frac`, the fraction of tokens on which the
    clipped term is the larger loss; `policy/approx_kl`, the k3 estimate of
    KL(old || new) in nats per token; `policy/ratio`, its mean.
  """
  chex.assert_equal_shape([logprobs, old_logprobs, advantages, mask])
  chex.assert_type(
    [logprobs, old_logprobs, advantages, mask],
    [jnp.float32, jnp.float32, jnp.float32, bool],
  )
  mean = functools.partial(masked.masked_mean, mask=mask, count=count)
  # Padding may have any value, which must not overflow into the gradient.
  logprobs, old_logprobs, advantages = (
    jnp.where(mask, x, 0) for x in (logprobs, old_logprobs, advantages)
  )
  log_ratio = logprobs - old_logprobs
  ratio = jnp.exp(log_ratio)
  unclipped = -advantages * ratio
  clipped = -advantages * jnp.clip(ratio, 1 - clip_eps, 1 + clip_eps)
  loss = mean(jnp.maximum(unclipped, clipped))
  return loss, {
    'loss/policy': loss,
    'policy/clip_frac': mean(clipped > unclipped),
    'policy/approx_kl': mean(jnp.expm1(log_ratio) - log_ratio),
    'policy/ratio': mean(ratio),
  }


def value_loss(
  values: chex.Array,
  old_values: chex.Array,
  returns: chex.Array,
  mask: chex.Array,
  *,
  value_clip_eps: float,
  count: chex.Numeric | None = None,
) -> tuple[jax.Array, Metrics]:
  """Computes the squared error of values, clipped around the old values.

  clipped = old_values + clip(values - old_values, +-value_clip_eps)
  loss = mean 0.5 * max((values - returns)^2, (clipped - returns)^2)

  This is the form in the code of Ziegler et al. 2019 and OpenAI's baselines.

  Args:
    values: [B, R] float32, of the value model that is trained.
    old_values: [B, R] float32, at sampling.
    returns: [B, R] float32.
    mask: [B, R] bool, the response.
    value_clip_eps: in units of the reward; `float('inf')` does not clip.
    count: see the top of the file.

  Returns:
    (loss, metrics): `value/clip_frac`, the fraction of tokens on which the
    clipped term is the larger loss; `value/mean`; `value/error`, the mean
    squared error of the unclipped values.
  """
  chex.assert_equal_shape([values, old_values, returns, mask])
  chex.assert_type(
    [values, old_values, returns, mask],
    [jnp.float32, jnp.float32, jnp.float32, bool],
  )
  mean = functools.partial(masked.masked_mean, mask=mask, count=count)
  values, old_values, returns = (
    jnp.where(mask, x, 0) for x in (values, old_values, returns)
  )
  change = jnp.clip(values - old_values, -value_clip_eps, value_clip_eps)
  # The two terms differ by a rounding even without clipping.
  beyond = jnp.abs(values - old_values) > value_clip_eps
  unclipped = jnp.square(values - returns)
  clipped = jnp.square(old_values + change - returns)
  loss = 0.5 * mean(jnp.maximum(unclipped, clipped))
  return loss, {
    'loss/value': loss,
    'value/clip_frac': mean(beyond & (clipped > unclipped)),
    'value/mean': mean(values),
    'value/error': mean(unclipped),
  }


def _from_logits(logits, targets, with_entropy):
  """Returns (logprobs of `targets`, entropies or None) from float32 logits."""
  logprobs = _select_logprob(logits, targets)
  if not with_entropy:
    return logprobs, None
  normalizer = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  every = logits - normalizer
  return logprobs, -jnp.sum(jnp.exp(every) * every, axis=-1)


@jax.custom_vjp
def _select_logprob(logits, targets):
  """Computes log_softmax(logits)[targets] with a gradient in one pass.

  The automatic gradient scatters into an array of the size of the logits and
  adds it to a second one, which takes a CPU longer than the exponentials.
  """
  return _select_logprob_forward(logits, targets)[0]


def _select_logprob_forward(logits, targets):
  normalizer = jax.nn.logsumexp(logits, axis=-1)
  selected = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return selected - normalizer, (logits, targets, normalizer)


def _select_logprob_backward(residuals, gradient):
  logits, targets, normalizer = residuals
  gradient = gradient[..., None]
  hit = jnp.arange(logits.shape[-1]) == targets[..., None]
  probs = jnp.exp(logits - normalizer[..., None])
  return jnp.where(hit, gradient, 0) - probs * gradient, None


_select_logprob.defvjp(_select_logprob_forward, _select_logprob_backward)


def _chunking(shape, chunk_size):
  """Returns functions that split arrays [..., T] + rest into chunks, and back.

  Rows are split only if one column of all rows exceeds a chunk. Chunk c then
  takes the rows c, c + n, c + 2n, ..., so rows stay on their devices. Both axes
  are padded to a multiple.

  Args:
    shape: [..., T], the shape of the targets.
    chunk_size: the most tokens of a chunk.

  Returns:
    (split, merge): `split` maps [..., T] + rest to [n, b, t] + rest, and
    `merge` maps [n, b, t] back to [..., T].
  """
  num_columns = shape[-1]
  num_rows = math.prod(shape[:-1])
  row_cuts = -(-num_rows // chunk_size)
  rows = -(-num_rows // row_cuts)
  columns = min(num_columns, max(1, chunk_size // rows))
  column_cuts = -(-num_columns // columns)
  columns = -(-num_columns // column_cuts)
  pad = (
    (0, rows * row_cuts - num_rows),
    (0, columns * column_cuts - num_columns),
  )

  def split(x):
    rest = x.shape[len(shape) :]
    x = x.reshape((num_rows, num_columns) + rest)
    x = jnp.pad(x, pad + ((0, 0),) * len(rest))
    x = x.reshape((rows, row_cuts, column_cuts, columns) + rest)
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape((row_cuts * column_cuts, rows, columns) + rest)

  def merge(x):
    x = x.reshape(row_cuts, column_cuts, rows, columns)
    x = jnp.moveaxis(x, 2, 0)
    x = x.reshape(rows * row_cuts, columns * column_cuts)
    return x[:num_rows, :num_columns].reshape(shape)

  return split, merge
