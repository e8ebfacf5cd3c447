"""Rewards, advantages and returns from scores and log-probabilities.

Axis legend: B batch, R response. Responses are right-padded; column t belongs
to the t-th token of the response, and `values[:, t]` is read before it.
Everything is float32 from the reward model's score to the returns.
"""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from instructrl import masked

MissingEos = Literal['none', 'penalty', 'fixed']


def kl_estimate(
  logprobs: chex.Array,
  ref_logprobs: chex.Array,
  kind: Literal['k1', 'k2', 'k3'] = 'k1',
) -> jax.Array:
  """Estimates KL(policy || reference) from tokens the policy sampled.

  With d = log policy - log reference of the sampled token (Schulman 2020,
  "Approximating KL divergence"): k1 = d, unbiased; k2 = d^2 / 2, biased, of
  low variance; k3 = exp(-d) - 1 + d, unbiased and never negative. The reward
  uses k1 (Ouyang et al. 2022, equation 2).

  Args:
    logprobs: [...] float32, nats, of the policy.
    ref_logprobs: [...] float32, nats, of the reference.
    kind: the estimator.

  Returns:
    [...] float32, nats per token.

  Raises:
    ValueError: `kind` is not one of the three.
  """
  chex.assert_equal_shape([logprobs, ref_logprobs])
  chex.assert_type([logprobs, ref_logprobs], jnp.float32)
  difference = logprobs - ref_logprobs
  if kind == 'k1':
    return difference
  if kind == 'k2':
    return 0.5 * jnp.square(difference)
  if kind == 'k3':
    return jnp.expm1(-difference) + difference
  raise ValueError(f'kl estimator must be one of k1, k2, k3; got {kind!r}')


def missing_eos(
  scores: chex.Array,
  has_eos: chex.Array,
  *,
  mode: MissingEos = 'none',
  amount: float = 0.0,
) -> jax.Array:
  """Changes the scores of responses without an end.

  Args:
    scores: [B] float32, of the reward model.
    has_eos: [B] bool, whether the response has its EOS.
    mode: 'none' keeps the score, 'penalty' subtracts `amount` from it,
      'fixed' replaces it with `amount`.
    amount: in units of the score.

  Returns:
    [B] float32.

  Raises:
    ValueError: `mode` is not one of the three.
  """
  chex.assert_rank(scores, 1)
  chex.assert_equal_shape([scores, has_eos])
  chex.assert_type([scores, has_eos], [jnp.float32, bool])
  if mode == 'none':
    return scores
  if mode == 'penalty':
    return jnp.where(has_eos, scores, scores - amount)
  if mode == 'fixed':
    return jnp.where(has_eos, scores, jnp.float32(amount))
  raise ValueError(
    f"missing_eos mode must be 'none', 'penalty' or 'fixed', not {mode!r}"
  )


def shaped_rewards(
  scores: chex.Array,
  kl: chex.Array,
  response_mask: chex.Array,
  *,
  kl_coef: chex.Numeric,
) -> jax.Array:
  """Computes per-token rewards: a KL penalty, and the score on the last token.

  rewards[t] = -kl_coef * kl[t] + score * [t is the last response token]
  (Ouyang et al. 2022, equation 2 and section 3.5; kl_coef is their beta).

  Args:
    scores: [B] float32, of the reward model.
    kl: [B, R] float32, nats per token.
    response_mask: [B, R] bool, right-padded, up to and including the EOS.
    kl_coef: [] reward per nat.

  Returns:
    [B, R] float32; 0 in the padding.
  """
  chex.assert_rank([scores, kl, response_mask], [1, 2, 2])
  chex.assert_equal_shape([kl, response_mask])
  chex.assert_equal_shape_prefix([scores, kl], 1)
  chex.assert_type(
    [scores, kl, response_mask], [jnp.float32, jnp.float32, bool]
  )
  last = response_mask & ~_shift(response_mask)
  rewards = jnp.where(response_mask, -kl_coef * kl, 0)
  return rewards + jnp.where(last, scores[:, None], 0)


def gae(
  rewards: chex.Array,
  values: chex.Array,
  mask: chex.Array,
  *,
  discount: float,
  gae_lambda: float,
) -> tuple[jax.Array, jax.Array]:
  """Estimates advantages by GAE (Schulman et al. 2016, equation 16).

  delta[t] = rewards[t] + discount * values[t + 1] - values[t]
  advantages[t] = delta[t] + discount * gae_lambda * advantages[t + 1]
  returns[t] = advantages[t] + values[t]

  The episode ends with the response: the value after its last token is 0.

  Args:
    rewards: [B, R] float32.
    values: [B, R] float32, read before each token.
    mask: [B, R] bool, right-padded.
    discount: per token; 1 in the paper, whose gamma is the ptx coefficient.
    gae_lambda: 0 bootstraps from the next value, 1 gives return - value.

  Returns:
    (advantages, returns), each [B, R] float32; 0 in the padding.
  """
  chex.assert_rank(rewards, 2)
  chex.assert_equal_shape([rewards, values, mask])
  chex.assert_type([rewards, values, mask], [jnp.float32, jnp.float32, bool])
  values = jnp.where(mask, values, 0)
  deltas = jnp.where(mask, rewards + discount * _shift(values) - values, 0)

  def backwards(advantage, delta):
    advantage = delta + discount * gae_lambda * advantage
    return advantage, advantage

  _, advantages = jax.lax.scan(
    backwards, jnp.zeros_like(deltas[:, 0]), deltas.T, reverse=True
  )
  advantages = advantages.T
  return advantages, advantages + values


def whitened_advantages(advantages: chex.Array, mask: chex.Array) -> jax.Array:
  """Whitens advantages over the whole batch of an iteration.

  Args:
    advantages: [B, R] float32, all rows of the iteration.
    mask: [B, R] bool.

  Returns:
    [B, R] float32 of mean 0 and variance 1 under the mask; 0 outside it.
  """
  chex.assert_rank(advantages, 2)
  chex.assert_equal_shape([advantages, mask])
  chex.assert_type([advantages, mask], [jnp.float32, bool])
  return masked.whiten(advantages, mask)


def adaptive_kl_coef(
  kl_coef: chex.Numeric,
  kl: chex.Numeric,
  *,
  target: float,
  horizon: float,
  num_episodes: int,
) -> jax.Array:
  """Takes one step of the controller of Ziegler et al. 2019, (4)-(5).

  error = clip(kl / target - 1, -0.2, 0.2)
  kl_coef <- kl_coef * (1 + error * num_episodes / horizon)

  Args:
    kl_coef: [] float32, the current coefficient.
    kl: [] float32, the mean over responses of the summed KL, in nats.
    target: nats per response.
    horizon: episodes; a larger horizon adapts more slowly.
    num_episodes: episodes since the last step.

  Returns:
    [] float32, the new coefficient.
  """
  error = jnp.clip(jnp.asarray(kl, jnp.float32) / target - 1, -0.2, 0.2)
  return jnp.float32(kl_coef) * (1 + error * num_episodes / horizon)


def _shift(x):
  """Moves columns one to the left; the last column becomes 0."""
  return jnp.pad(x[:, 1:], ((0, 0), (0, 1)))
