import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl import advantages


def ragged(lengths, width):
  return np.arange(width) < np.asarray(lengths)[:, None]


# --- KL estimators -----------------------------------------------------------


@pytest.mark.parametrize('kind', ['k1', 'k2', 'k3'])
def test_kl_of_equal_policies_is_zero(kind):
  logprobs = np.array([-0.1, -3.0, -20.0], np.float32)
  np.testing.assert_array_equal(
    advantages.kl_estimate(logprobs, logprobs, kind), 0
  )


def test_kl_estimators_by_hand():
  policy = np.log(np.array([0.5, 0.1], np.float32))
  reference = np.log(np.array([0.25, 0.4], np.float32))
  # d = log 2 and -log 4; exp(-d) = 1/2 and 4.
  for kind, expected in {
    'k1': [np.log(2), -np.log(4)],
    'k2': [np.log(2) ** 2 / 2, np.log(4) ** 2 / 2],
    'k3': [0.5 - 1 + np.log(2), 4 - 1 - np.log(4)],
  }.items():
    np.testing.assert_allclose(
      advantages.kl_estimate(policy, reference, kind), expected, rtol=1e-5
    )


def test_kl_estimators_against_the_exact_divergence():
  policy = np.array([0.5, 0.3, 0.15, 0.05])
  reference = np.array([0.4, 0.3, 0.1, 0.2])
  exact = np.sum(policy * np.log(policy / reference))
  logs = np.log(policy).astype(np.float32)
  reference_logs = np.log(reference).astype(np.float32)
  mean = {}
  for kind in ('k1', 'k2', 'k3'):
    estimates = advantages.kl_estimate(logs, reference_logs, kind)
    mean[kind] = np.sum(policy * estimates)
  np.testing.assert_allclose(mean['k1'], exact, rtol=1e-5)
  np.testing.assert_allclose(mean['k3'], exact, rtol=1e-5)
  # k2 is biased.
  biased = np.sum(policy * np.log(policy / reference) ** 2) / 2
  np.testing.assert_allclose(mean['k2'], biased, rtol=1e-5)
  assert abs(biased - exact) > 0.02
  assert np.all(advantages.kl_estimate(logs, reference_logs, 'k3') >= 0)


def test_the_default_estimator_is_the_one_of_the_reward():
  np.testing.assert_array_equal(
    advantages.kl_estimate(np.float32([-1.0]), np.float32([-3.0])), [2.0]
  )


def test_an_unknown_estimator_is_refused():
  with pytest.raises(ValueError, match="'k4'"):
    advantages.kl_estimate(np.float32([0]), np.float32([0]), 'k4')


# --- Scores and rewards ------------------------------------------------------


def test_missing_eos():
  scores = np.array([1.5, 0.7], np.float32)
  has_eos = np.array([True, False])
  for mode, expected in {
    'none': [1.5, 0.7],
    'penalty': [1.5, -1.3],
    'fixed': [1.5, 2.0],
  }.items():
    changed = advantages.missing_eos(scores, has_eos, mode=mode, amount=2.0)
    np.testing.assert_allclose(changed, expected, rtol=1e-6)
    assert changed.dtype == jnp.float32
  with pytest.raises(ValueError, match="'drop'"):
    advantages.missing_eos(scores, has_eos, mode='drop')


def test_the_score_stands_on_the_last_response_token_and_nowhere_else():
  # A short response, one of full length, and the empty one, which is [EOS].
  mask = ragged([2, 4, 1], 4)
  rewards = advantages.shaped_rewards(
    np.array([0.7, -2.0, 5.0], np.float32),
    np.full((3, 4), 3.0, np.float32),
    mask,
    kl_coef=0.0,
  )
  np.testing.assert_array_equal(
    rewards, np.array([[0, 0.7, 0, 0], [0, 0, 0, -2], [5, 0, 0, 0]], np.float32)
  )


def test_the_kl_penalty_by_hand():
  kl = np.array([[1.0, -2.0, 99.0]], np.float32)
  rewards = advantages.shaped_rewards(
    np.array([0.7], np.float32), kl, ragged([2], 3), kl_coef=0.1
  )
  np.testing.assert_allclose(rewards, [[-0.1, 0.2 + 0.7, 0]], rtol=1e-6)


def test_a_fraction_of_a_score_survives_to_the_returns():
  score = np.array([0.7], np.float32)
  mask = ragged([3], 4)
  rewards = advantages.shaped_rewards(
    score, np.zeros((1, 4), np.float32), mask, kl_coef=0.02
  )
  advantage, returns = advantages.gae(
    rewards, np.zeros((1, 4), np.float32), mask, discount=1.0, gae_lambda=1.0
  )
  for array in (rewards, advantage, returns):
    assert array.dtype == jnp.float32
  assert returns[0, 0] == score[0]
  # A score of the tokens' dtype or of half precision is refused, not rounded.
  for dtype in (np.int32, jnp.bfloat16, np.float16):
    with pytest.raises(AssertionError):
      advantages.shaped_rewards(
        jnp.asarray(score, dtype),
        np.zeros((1, 4), np.float32),
        mask,
        kl_coef=0.02,
      )


# --- Advantages --------------------------------------------------------------


def gae_by_loop(rewards, values, lengths, discount, gae_lambda):
  result = np.zeros(rewards.shape)
  for row, length in enumerate(lengths):
    following_advantage = following_value = 0.0
    for t in reversed(range(length)):
      delta = rewards[row, t] + discount * following_value - values[row, t]
      following_advantage = delta + discount * gae_lambda * following_advantage
      following_value = values[row, t]
      result[row, t] = following_advantage
  return result


def random_episodes(seed=0, batch=6, width=7):
  rng = np.random.default_rng(seed)
  lengths = np.array([width, 1, 3, 5, width, 2])[:batch]
  rewards, values = rng.normal(size=(2, batch, width)).astype(np.float32)
  return rewards, values, lengths, ragged(lengths, width)


@pytest.mark.parametrize(
  'discount,gae_lambda', [(1.0, 0.95), (0.9, 0.8), (1.0, 0.0)]
)
def test_gae_equals_the_loop(discount, gae_lambda):
  # The padding holds numbers, which must not be read.
  rewards, values, lengths, mask = random_episodes()
  advantage, returns = jax.jit(
    advantages.gae, static_argnames=('discount', 'gae_lambda')
  )(rewards, values, mask, discount=discount, gae_lambda=gae_lambda)
  expected = gae_by_loop(rewards, values, lengths, discount, gae_lambda)
  np.testing.assert_allclose(advantage, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    returns, np.where(mask, expected + values, 0), rtol=1e-5, atol=1e-6
  )


def test_with_lambda_one_it_is_return_minus_value():
  rewards, values, _, mask = random_episodes(1)
  clean = np.where(mask, rewards, 0).astype(np.float64)
  to_go = np.cumsum(clean[:, ::-1], axis=1)[:, ::-1]
  advantage, returns = advantages.gae(
    rewards, values, mask, discount=1.0, gae_lambda=1.0
  )
  np.testing.assert_allclose(
    advantage, np.where(mask, to_go - values, 0), rtol=1e-5, atol=1e-5
  )
  np.testing.assert_allclose(
    returns, np.where(mask, to_go, 0), rtol=1e-5, atol=1e-5
  )


def test_three_tokens_by_hand():
  # Values are read before each action: the first delta looks from the value
  # before token 0 to the value before token 1.
  half = fractions.Fraction(1, 2)
  rewards = [fractions.Fraction(r) for r in (1, 0, 4)]
  values = [fractions.Fraction(v) for v in (2, 3, 5)]
  deltas = [
    rewards[0] + values[1] - values[0],  # 2
    rewards[1] + values[2] - values[1],  # 2
    rewards[2] - values[2],
  ]  # -1: nothing follows the last token
  expected = [
    deltas[0] + half * (deltas[1] + half * deltas[2]),
    deltas[1] + half * deltas[2],
    deltas[2],
  ]
  assert expected == [2.75, 1.5, -1]
  advantage, returns = advantages.gae(
    np.array([[1, 0, 4]], np.float32),
    np.array([[2, 3, 5]], np.float32),
    np.ones((1, 3), bool),
    discount=1.0,
    gae_lambda=0.5,
  )
  np.testing.assert_array_equal(advantage, [[2.75, 1.5, -1.0]])
  np.testing.assert_array_equal(returns, [[4.75, 4.5, 4.0]])


def test_more_padding_changes_nothing():
  rewards, values, _, mask = random_episodes(2)
  narrow = advantages.gae(rewards, values, mask, discount=1.0, gae_lambda=0.95)
  pad = lambda x, value: np.pad(x, ((0, 0), (0, 3)), constant_values=value)
  wide = advantages.gae(
    pad(rewards, 7),
    pad(values, np.nan),
    pad(mask, False),
    discount=1.0,
    gae_lambda=0.95,
  )
  for before, after in zip(narrow, wide):
    np.testing.assert_array_equal(before, after[:, :7])
    np.testing.assert_array_equal(after[:, 7:], 0)


def test_a_perfect_critic_leaves_no_advantage():
  rewards, _, _, mask = random_episodes(3)
  clean = np.where(mask, rewards, 0)
  to_go = np.cumsum(clean[:, ::-1], axis=1)[:, ::-1].astype(np.float32)
  advantage, _ = advantages.gae(
    rewards, to_go, mask, discount=1.0, gae_lambda=0.95
  )
  np.testing.assert_allclose(advantage, 0, atol=1e-5)


def test_whitening_is_over_the_whole_iteration():
  rewards, _, _, mask = random_episodes(4)
  whole = np.asarray(advantages.whitened_advantages(rewards, mask))
  entries = rewards[mask]
  np.testing.assert_allclose(
    whole[mask],
    (entries - entries.mean()) / entries.std(),
    rtol=1e-4,
    atol=1e-5,
  )
  np.testing.assert_array_equal(whole[~mask], 0)


# --- Adaptive KL coefficient -------------------------------------------------


def test_the_kl_controller_by_hand():
  step = lambda coef, kl: advantages.adaptive_kl_coef(
    coef, kl, target=6.0, horizon=1000, num_episodes=100
  )
  # Errors: 0; +0.1; 1 clipped to 0.2; -1 clipped to -0.2.
  for kl, factor in ((6.0, 1.0), (6.6, 1.01), (12.0, 1.02), (0.0, 0.98)):
    np.testing.assert_allclose(
      step(0.2, np.float32(kl)), 0.2 * factor, rtol=1e-6
    )


def test_the_kl_controller_over_a_golden_sequence():
  coef = np.float32(0.2)
  history = []
  for kl in (20.0, 9.0, 6.0, 5.4, 0.1):
    coef = advantages.adaptive_kl_coef(
      coef, np.float32(kl), target=6.0, horizon=10_000, num_episodes=512
    )
    history.append(float(coef))
  growth, small = 1 + 0.2 * 0.0512, 1 - 0.1 * 0.0512
  expected = np.cumprod([growth, growth, 1.0, small, 2 - growth]) * 0.2
  np.testing.assert_allclose(history, expected, rtol=1e-6)
  assert coef.dtype == jnp.float32
