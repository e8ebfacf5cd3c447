import itertools

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from instructrl import losses


def ragged(lengths, width):
  return np.arange(width) < np.asarray(lengths)[:, None]


def normal(*shape, seed=0):
  rng = np.random.default_rng([seed, *shape])
  return rng.normal(size=shape).astype(np.float32)


# --- Language-model loss -----------------------------------------------------


def test_lm_loss_by_hand():
  logprobs = np.log(np.float32([[0.5, 0.25, 0.9], [0.125, 0.9, 0.9]]))
  loss, metrics = losses.lm_loss(logprobs, ragged([2, 1], 3))
  np.testing.assert_allclose(loss, 2 * np.log(2), rtol=1e-6)  # (1 + 2 + 3) / 3
  assert metrics['loss/lm'] == loss
  assert loss.dtype == jnp.float32
  assert losses.lm_loss(logprobs, np.zeros((2, 3), bool))[0] == 0


# --- Ranking loss ------------------------------------------------------------


def ranking_by_loop(scores, ranks, valid):
  """(loss, accuracy, margin, pairs) over pairs in loops."""
  prompt_losses, correct, margins = [], 0, []
  for b in range(len(scores)):
    pair_losses = []
    for i, j in itertools.combinations(range(scores.shape[1]), 2):
      if not (valid[b, i] and valid[b, j]) or ranks[b, i] == ranks[b, j]:
        continue
      winner, loser = (i, j) if ranks[b, i] < ranks[b, j] else (j, i)
      margin = float(scores[b, winner]) - float(scores[b, loser])
      pair_losses.append(np.log1p(np.exp(-margin)))
      correct += margin > 0
      margins.append(margin)
    if pair_losses:
      prompt_losses.append(np.mean(pair_losses))
  return (
    np.mean(prompt_losses),
    correct / len(margins),
    np.mean(margins),
    len(margins),
  )


def rankings():
  """Two prompts of full K, a short one, one that is all ties, a K of 1."""
  scores = normal(5, 4)
  ranks = np.array(
    [[0, 1, 2, 3], [0, 0, 1, 2], [1, 0, 0, 0], [0, 0, 0, 0], [0, 9, 9, 9]]
  )
  valid = ragged([4, 4, 2, 4, 1], 4)
  return scores, ranks, valid


def test_ranking_loss_equals_the_loop_over_pairs():
  scores, ranks, valid = rankings()
  loss, metrics = losses.ranking_loss(scores, ranks, valid)
  expected = ranking_by_loop(scores, ranks, valid)
  actual = (
    loss,
    metrics['reward/accuracy'],
    metrics['reward/margin'],
    metrics['reward/num_pairs'],
  )
  np.testing.assert_allclose(actual, expected, rtol=1e-5)
  assert metrics['reward/num_pairs'] == 6 + 5 + 1
  assert loss.dtype == jnp.float32


def test_ranking_loss_by_hand():
  # sigmoid(log 3) = 3/4; two pairs of margin log 3, one of margin 0 (the tie
  # of ranks between 1 and 2 is no pair).
  log3 = np.log(3)
  scores = np.float32([[log3, 0, 0]])
  ranks = np.array([[0, 1, 1]])
  loss, metrics = losses.ranking_loss(scores, ranks, np.ones((1, 3), bool))
  np.testing.assert_allclose(loss, np.log(4 / 3), rtol=1e-6)
  np.testing.assert_allclose(metrics['reward/margin'], log3, rtol=1e-6)
  assert metrics['reward/accuracy'] == 1
  # The other way round it is wrong on both pairs.
  loss, metrics = losses.ranking_loss(-scores, ranks, np.ones((1, 3), bool))
  np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)
  assert metrics['reward/accuracy'] == 0


def test_the_order_of_the_responses_does_not_matter():
  scores, ranks, valid = rankings()
  expected, _ = losses.ranking_loss(scores, ranks, valid)
  for seed in range(3):
    order = np.random.default_rng(seed).permutation(4)
    prompts = np.random.default_rng(seed).permutation(5)
    shuffled = [x[prompts][:, order] for x in (scores, ranks, valid)]
    loss, _ = losses.ranking_loss(*shuffled)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_the_weight_of_a_prompt_does_not_depend_on_k():
  # Every pair has margin 0, so the gradient on the scores is 1/2 a pair before
  # the division: on the best response of K it is -(K - 1) / (2 pairs) = -1 / K.
  scores = np.zeros((2, 4), np.float32)
  ranks = np.array([[0, 1, 2, 3], [0, 1, 0, 0]])
  valid = ragged([4, 2], 4)
  loss, _ = losses.ranking_loss(scores, ranks, valid)
  np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
  gradient = jax.grad(lambda s: losses.ranking_loss(s, ranks, valid)[0])(scores)
  np.testing.assert_allclose(gradient[:, 0], [-0.25 / 2, -0.5 / 2], rtol=1e-6)


def test_a_prompt_without_a_pair_counts_nowhere():
  scores, ranks, valid = rankings()
  with_pairs = [0, 1, 2]
  expected, _ = losses.ranking_loss(
    scores[with_pairs], ranks[with_pairs], valid[with_pairs]
  )
  loss, _ = losses.ranking_loss(scores, ranks, valid)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  gradient = jax.grad(lambda s: losses.ranking_loss(s, ranks, valid)[0])(scores)
  assert np.all(np.isfinite(gradient))
  np.testing.assert_array_equal(gradient[3:], 0)
  assert np.all(np.asarray(gradient)[2, :2] != 0)
  # Nothing but ties: no loss, no NaN.
  tied = np.zeros_like(ranks)
  loss, metrics = losses.ranking_loss(scores, tied, valid)
  assert loss == 0 and metrics['reward/accuracy'] == 0
  gradient = jax.grad(lambda s: losses.ranking_loss(s, tied, valid)[0])(scores)
  np.testing.assert_array_equal(gradient, 0)


def test_the_score_of_a_response_that_does_not_exist_is_not_read():
  scores, ranks, valid = rankings()
  expected = losses.ranking_loss(scores, ranks, valid)
  dirty = np.where(valid, scores, np.float32(np.nan))
  loss, metrics = losses.ranking_loss(dirty, ranks, valid)
  assert loss == expected[0]
  assert metrics == expected[1]
  gradient = jax.grad(lambda s: losses.ranking_loss(s, ranks, valid)[0])(dirty)
  assert np.all(np.isfinite(gradient))
  np.testing.assert_array_equal(np.asarray(gradient)[~valid], 0)


def test_a_huge_margin_stays_finite():
  scores = np.float32([[-1e4, 1e4]])
  ranks, valid = np.array([[0, 1]]), np.ones((1, 2), bool)
  loss, gradient = jax.value_and_grad(
    lambda s: losses.ranking_loss(s, ranks, valid)[0]
  )(scores)
  assert loss == 2e4
  np.testing.assert_array_equal(gradient, [[-1, 1]])


def test_gradient_of_the_ranking_loss_against_finite_differences():
  scores, ranks, valid = rankings()
  check_grads(
    lambda s: losses.ranking_loss(s, ranks, valid)[0],
    (scores,),
    order=1,
    modes=['rev'],
    rtol=1e-2,
    atol=1e-2,
  )


# --- PPO losses --------------------------------------------------------------


def ppo_inputs(seed=0, rows=6, columns=5):
  rng = np.random.default_rng(seed)
  old, noise, advantages = rng.normal(size=(3, rows, columns))
  lengths = np.array([5, 1, 3, 2, 5, 4])[:rows]
  old = -np.abs(old)
  arrays = [x.astype(np.float32) for x in (old + 0.4 * noise, old, advantages)]
  return *arrays, ragged(lengths, columns)


def policy_loss_by_loop(logprobs, old_logprobs, advantages, mask, clip_eps):
  """(loss, clip_frac, approx_kl, ratio), token by token."""
  terms = []
  for index in zip(*np.nonzero(mask)):
    log_ratio = float(logprobs[index]) - float(old_logprobs[index])
    ratio = np.exp(log_ratio)
    advantage = float(advantages[index])
    bounded = min(max(ratio, 1 - clip_eps), 1 + clip_eps)
    objective = min(ratio * advantage, bounded * advantage)
    terms.append(
      (-objective, objective < ratio * advantage, ratio - 1 - log_ratio, ratio)
    )
  return np.mean(np.array(terms, np.float64), axis=0)


def test_policy_loss_equals_the_loop_over_tokens():
  inputs = ppo_inputs()
  loss, metrics = losses.ppo_policy_loss(*inputs, clip_eps=0.2)
  actual = (
    loss,
    metrics['policy/clip_frac'],
    metrics['policy/approx_kl'],
    metrics['policy/ratio'],
  )
  expected = policy_loss_by_loop(*inputs, 0.2)
  np.testing.assert_allclose(actual, expected, rtol=1e-4)
  assert 0 < metrics['policy/clip_frac'] < 1
  assert loss.dtype == jnp.float32


def test_the_first_minibatch_has_ratio_one():
  _, old, advantages, mask = ppo_inputs()
  loss, metrics = losses.ppo_policy_loss(
    old, old, advantages, mask, clip_eps=0.2
  )
  np.testing.assert_allclose(loss, -advantages[mask].mean(), rtol=1e-5)
  assert metrics['policy/ratio'] == 1
  assert metrics['policy/approx_kl'] == 0
  assert metrics['policy/clip_frac'] == 0
  # There its gradient is that of the plain policy gradient.
  gradient = jax.grad(
    lambda x: losses.ppo_policy_loss(x, old, advantages, mask, clip_eps=0.2)[0]
  )(old)
  np.testing.assert_allclose(
    gradient, np.where(mask, -advantages, 0) / mask.sum(), rtol=1e-5
  )


def test_no_advantage_gives_no_loss():
  logprobs, old, advantages, mask = ppo_inputs()
  loss, _ = losses.ppo_policy_loss(
    logprobs, old, np.zeros_like(advantages), mask, clip_eps=0.2
  )
  assert loss == 0


@pytest.mark.parametrize('advantage', [1.0, -1.0])
@pytest.mark.parametrize('ratio', [0.5, 0.9, 1.1, 2.0])
def test_where_the_clipping_cuts_the_gradient(advantage, ratio):
  logprobs = np.log(np.float32([[ratio]]))
  zeros, mask = np.zeros((1, 1), np.float32), np.ones((1, 1), bool)
  gradient = jax.grad(
    lambda x: losses.ppo_policy_loss(
      x, zeros, zeros + np.float32(advantage), mask, clip_eps=0.2
    )[0]
  )(logprobs)
  # Only a move that has gone far in the good direction is stopped.
  stopped = (ratio, advantage) in ((2.0, 1.0), (0.5, -1.0))
  expected = 0 if stopped else -ratio * advantage
  np.testing.assert_allclose(gradient, [[expected]], rtol=1e-5)


def value_loss_by_loop(values, old_values, returns, mask, value_clip_eps):
  """(loss, clip_frac, mean, error), token by token."""
  terms = []
  for index in zip(*np.nonzero(mask)):
    value, old, target = (
      float(x[index]) for x in (values, old_values, returns)
    )
    bounded = min(max(value, old - value_clip_eps), old + value_clip_eps)
    free_error, bounded_error = (value - target) ** 2, (bounded - target) ** 2
    terms.append(
      (
        0.5 * max(free_error, bounded_error),
        bounded_error > free_error,
        value,
        free_error,
      )
    )
  return np.mean(np.array(terms, np.float64), axis=0)


def test_value_loss_equals_the_loop_over_tokens():
  inputs = ppo_inputs(1)
  loss, metrics = losses.value_loss(*inputs, value_clip_eps=0.2)
  actual = (
    loss,
    metrics['value/clip_frac'],
    metrics['value/mean'],
    metrics['value/error'],
  )
  np.testing.assert_allclose(
    actual, value_loss_by_loop(*inputs, 0.2), rtol=1e-4, atol=1e-6
  )
  assert 0 < metrics['value/clip_frac'] < 1
  assert loss.dtype == jnp.float32


def test_value_loss_by_hand():
  mask = np.ones((1, 4), bool)
  old = np.float32([[0, 0, 0, 0]])
  values = np.float32([[0.1, 1.0, 1.0, -1.0]])
  returns = np.float32([[1.0, 1.0, 0.0, 1.0]])
  # Inside the clip: 0.9^2. Outside, towards the return: clipped, 0.8^2 and no
  # gradient. Outside, away from it: unclipped, 1 and 2^2.
  loss, metrics = losses.value_loss(
    values, old, returns, mask, value_clip_eps=0.2
  )
  np.testing.assert_allclose(loss, 0.5 * (0.81 + 0.64 + 1 + 4) / 4, rtol=1e-5)
  assert metrics['value/clip_frac'] == 0.25
  gradient = jax.grad(
    lambda v: losses.value_loss(v, old, returns, mask, value_clip_eps=0.2)[0]
  )(values)
  np.testing.assert_allclose(
    gradient, np.float32([[-0.9, 0, 1, -2]]) / 4, rtol=1e-5
  )


def test_at_the_start_no_value_is_clipped():
  values, _, returns, mask = ppo_inputs(2)
  loss, metrics = losses.value_loss(
    values, values, returns, mask, value_clip_eps=0.2
  )
  assert metrics['value/clip_frac'] == 0
  np.testing.assert_allclose(
    loss, 0.5 * np.mean((values - returns)[mask] ** 2), rtol=1e-5
  )


def test_small_changes_of_a_value_count_as_none():
  """old + (new - old) is rounded, which is no clipping."""
  old, values, returns = (
    np.random.default_rng(0)
    .normal(size=(3, 8, 64), scale=0.02)
    .astype(np.float32)
  )
  _, metrics = losses.value_loss(
    values, old, returns, np.ones((8, 64), bool), value_clip_eps=0.2
  )
  assert metrics['value/clip_frac'] == 0


def test_value_clipping_can_be_off():
  values, old, returns, mask = ppo_inputs(3)
  loss, metrics = losses.value_loss(
    values, old, returns, mask, value_clip_eps=float('inf')
  )
  np.testing.assert_allclose(
    loss, 0.5 * np.mean((values - returns)[mask] ** 2), rtol=1e-5
  )
  assert metrics['value/clip_frac'] == 0


PPO_LOSSES = {
  'policy': lambda *x, **k: losses.ppo_policy_loss(*x, clip_eps=0.2, **k),
  'value': lambda *x, **k: losses.value_loss(*x, value_clip_eps=0.2, **k),
}


@pytest.mark.parametrize('name', PPO_LOSSES)
@pytest.mark.parametrize('garbage', [np.nan, np.inf, 1e30])
def test_what_stands_in_the_padding_does_not_matter(name, garbage):
  loss_fn = PPO_LOSSES[name]
  *arrays, mask = ppo_inputs(4)
  dirty = [np.where(mask, x, np.float32(garbage)) for x in arrays]
  expected, actual = loss_fn(*arrays, mask), loss_fn(*dirty, mask)
  for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    np.testing.assert_array_equal(got, want)
  gradient = jax.grad(lambda x: loss_fn(x, *dirty[1:], mask)[0])(dirty[0])
  clean = jax.grad(lambda x: loss_fn(x, *arrays[1:], mask)[0])(arrays[0])
  np.testing.assert_array_equal(gradient, clean)


@pytest.mark.parametrize('name', PPO_LOSSES)
def test_more_padding_does_not_matter(name):
  inputs = ppo_inputs(5)
  wide = [np.pad(x, ((0, 2), (0, 3))) for x in inputs]
  expected, actual = PPO_LOSSES[name](*inputs), PPO_LOSSES[name](*wide)
  for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize('name', PPO_LOSSES)
def test_gradients_against_finite_differences(name):
  logprobs, old, advantages, mask = ppo_inputs(6)
  check_grads(
    lambda x: PPO_LOSSES[name](x, old, advantages, mask)[0],
    (logprobs,),
    order=1,
    modes=['rev'],
    rtol=2e-2,
    atol=2e-3,
    eps=1e-3,
  )


# --- Accumulation ------------------------------------------------------------


def check_accumulation(loss_fn, inputs, parts, counts):
  """Microbatches with the batch's counts add up to the batch."""
  value_and_grad = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  whole = value_and_grad(*inputs)
  total = None
  size = len(inputs[0]) // parts
  for i in range(parts):
    part = [x[i * size : (i + 1) * size] for x in inputs]
    loss_and_metrics, gradient = value_and_grad(*part, **counts)
    full = np.zeros_like(inputs[0])
    full[i * size : (i + 1) * size] = gradient
    values = jax.tree.map(np.asarray, (loss_and_metrics, full))
    total = values if total is None else jax.tree.map(np.add, total, values)
  for got, want in zip(jax.tree.leaves(total), jax.tree.leaves(whole)):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('name', PPO_LOSSES)
@pytest.mark.parametrize('parts', [2, 3, 6])
def test_accumulated_ppo_losses_equal_the_batch(name, parts):
  inputs = ppo_inputs(7)
  check_accumulation(
    PPO_LOSSES[name], inputs, parts, {'count': inputs[-1].sum()}
  )


def test_accumulated_lm_loss_equals_the_batch():
  logprobs, _, _, mask = ppo_inputs(8)
  check_accumulation(losses.lm_loss, (logprobs, mask), 3, {'count': mask.sum()})


def test_accumulated_ranking_loss_equals_the_batch():
  scores, ranks, valid = rankings()
  pairs = losses.preference_pairs(ranks, valid)
  counts = {'count': np.any(pairs, (1, 2)).sum(), 'pair_count': pairs.sum()}
  assert (counts['count'], counts['pair_count']) == (3, 12)
  check_accumulation(losses.ranking_loss, (scores, ranks, valid), 5, counts)
