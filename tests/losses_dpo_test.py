"""The DPO loss against hand-computed numbers, a loop and identities."""

import itertools

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from instructrl import losses

METRICS = (
  'loss/dpo',
  'reward/accuracy',
  'reward/margin',
  'reward/chosen',
  'reward/rejected',
  'reward/num_pairs',
)


def dpo_by_loop(logprobs, ref_logprobs, ranks, valid, beta):
  """The metrics in the order of METRICS, from loops over pairs."""
  prompt_losses, winners, losers = [], [], []
  for b, k in enumerate(valid.sum(1)):
    pair_losses = []
    rewards = [
      beta * (float(logprobs[b, i]) - float(ref_logprobs[b, i]))
      for i in range(k)
    ]
    for i, j in itertools.permutations(range(k), 2):
      if ranks[b, i] < ranks[b, j]:
        pair_losses.append(np.log1p(np.exp(rewards[j] - rewards[i])))
        winners.append(rewards[i])
        losers.append(rewards[j])
    if pair_losses:
      prompt_losses.append(np.mean(pair_losses))
  margins = np.subtract(winners, losers)
  return (
    np.mean(prompt_losses),
    np.mean(margins > 0),
    np.mean(margins),
    np.mean(winners),
    np.mean(losers),
    len(margins),
  )


def rankings():
  """Two prompts of full K, a short one, one of ties only, and a K of 1."""
  rng = np.random.default_rng(0)
  logprobs, noise = rng.normal(size=(2, 5, 4)).astype(np.float32)
  logprobs = -10 * np.abs(logprobs)
  ranks = np.array(
    [[0, 1, 2, 3], [0, 0, 1, 2], [1, 0, 0, 0], [0, 0, 0, 0], [0, 9, 9, 9]]
  )
  valid = np.arange(4) < np.array([4, 4, 2, 4, 1])[:, None]
  return logprobs, logprobs + 3 * noise, ranks, valid


def test_dpo_loss_by_hand():
  # Margins are beta times the difference of log-ratios: 0.5 * 2 log 3 = log 3,
  # and sigmoid(log 3) = 3/4. The tie between the two losers is no pair.
  log3 = np.log(3)
  logprobs = np.float32([[-1, -2 - log3, -5 - log3]])
  ref_logprobs = np.float32([[-1 - log3, -2, -5]])
  ranks, valid = np.array([[0, 1, 1]]), np.ones((1, 3), bool)
  loss, metrics = losses.dpo_loss(
    logprobs, ref_logprobs, ranks, valid, beta=0.5
  )
  assert loss.dtype == jnp.float32 and set(metrics) == set(METRICS)
  np.testing.assert_allclose(
    [metrics[name] for name in METRICS],
    [np.log(4 / 3), 1, log3, log3 / 2, -log3 / 2, 2],
    rtol=1e-6,
  )
  # Policy and reference exchanged: both pairs are wrong.
  loss, metrics = losses.dpo_loss(
    ref_logprobs, logprobs, ranks, valid, beta=0.5
  )
  np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)
  assert metrics['reward/accuracy'] == 0


@pytest.mark.parametrize('beta', [0.1, 1.0])
def test_dpo_loss_equals_the_loop_over_pairs(beta):
  _, metrics = losses.dpo_loss(*rankings(), beta=beta)
  np.testing.assert_allclose(
    [metrics[name] for name in METRICS],
    dpo_by_loop(*rankings(), beta),
    rtol=1e-5,
  )
  assert metrics['reward/num_pairs'] == 6 + 5 + 1


def test_a_policy_that_equals_its_reference_has_loss_log_2():
  logprobs, _, ranks, valid = rankings()
  loss, metrics = losses.dpo_loss(logprobs, logprobs, ranks, valid, beta=0.1)
  np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
  assert metrics['reward/margin'] == metrics['reward/accuracy'] == 0


def test_the_order_of_responses_and_prompts_does_not_matter():
  expected, _ = losses.dpo_loss(*rankings(), beta=0.1)
  for seed in range(3):
    rng = np.random.default_rng(seed)
    columns, rows = rng.permutation(4), rng.permutation(5)
    shuffled = [x[rows][:, columns] for x in rankings()]
    loss, _ = losses.dpo_loss(*shuffled, beta=0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_a_shift_of_all_log_ratios_of_a_prompt_does_not_matter():
  logprobs, ref_logprobs, ranks, valid = rankings()
  shift = np.float32([[1], [-2], [3], [4], [5]])
  expected, _ = losses.dpo_loss(*rankings(), beta=0.1)
  loss, _ = losses.dpo_loss(
    logprobs + shift, ref_logprobs, ranks, valid, beta=0.1
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_a_prompt_without_a_pair_does_not_count():
  some = [x[:3] for x in rankings()]
  expected, expected_metrics = losses.dpo_loss(*some, beta=0.1)
  loss, metrics = losses.dpo_loss(*rankings(), beta=0.1)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  for name in METRICS:
    np.testing.assert_allclose(
      metrics[name], expected_metrics[name], rtol=1e-6, err_msg=name
    )
  logprobs, ref_logprobs, ranks, valid = rankings()
  gradient = jax.grad(
    lambda x: losses.dpo_loss(x, ref_logprobs, ranks, valid, beta=0.1)[0]
  )(logprobs)
  np.testing.assert_array_equal(gradient[3:], 0)
  assert np.all(np.asarray(gradient)[:3][valid[:3]] != 0)
  # Ties only: no loss, no gradient, no NaN.
  (loss, metrics), gradient = jax.value_and_grad(
    lambda x: losses.dpo_loss(x, ref_logprobs, 0 * ranks, valid, beta=0.1),
    has_aux=True,
  )(logprobs)
  assert not any(metrics.values()) and loss == 0
  np.testing.assert_array_equal(gradient, 0)


def test_a_response_that_does_not_exist_is_not_read():
  logprobs, ref_logprobs, ranks, valid = rankings()
  expected = losses.dpo_loss(*rankings(), beta=0.1)
  dirty = np.where(valid, logprobs, np.float32(np.nan))
  grad = jax.value_and_grad(
    lambda x: losses.dpo_loss(x, ref_logprobs, ranks, valid, beta=0.1),
    has_aux=True,
  )
  found, gradient = grad(dirty)
  assert found == expected
  np.testing.assert_array_equal(np.asarray(gradient)[~valid], 0)
  assert np.all(np.isfinite(gradient))


def test_microbatches_add_up_to_the_batch():
  arrays = rankings()
  pairs = losses.preference_pairs(*arrays[2:])
  counts = dict(count=pairs.any((1, 2)).sum(), pair_count=pairs.sum())

  def value(logprobs, *rest, **counts):
    return losses.dpo_loss(logprobs, *rest, beta=0.1, **counts)

  grad = jax.value_and_grad(value, has_aux=True)
  (loss, metrics), gradient = grad(*arrays)
  parts = [
    grad(*(x[part] for x in arrays), **counts)
    for part in (slice(0, 1), slice(1, 3), slice(3, 5))
  ]
  np.testing.assert_allclose(
    sum(found for (found, _), _ in parts), loss, rtol=1e-6
  )
  np.testing.assert_allclose(
    np.concatenate([g for _, g in parts]), gradient, rtol=1e-6
  )
  for name in METRICS:
    np.testing.assert_allclose(
      sum(found[name] for (_, found), _ in parts),
      metrics[name],
      rtol=1e-5,
      err_msg=name,
    )


def test_gradient_of_the_dpo_loss_against_finite_differences():
  logprobs, ref_logprobs, ranks, valid = rankings()
  check_grads(
    lambda x: losses.dpo_loss(x, ref_logprobs, ranks, valid, beta=0.3)[0],
    (logprobs,),
    order=1,
    modes=['rev'],
    rtol=1e-2,
    atol=1e-2,
  )


def test_the_gradient_of_one_pair_is_that_of_the_paper():
  """Section 4 of the paper: -beta * sigmoid(loser - winner) on the winner."""
  logprobs, ref_logprobs = np.float32([[[-3, -4]], [[-5, -1]]])
  ranks, valid = np.array([[0, 1]]), np.ones((1, 2), bool)
  gradient = jax.grad(
    lambda x: losses.dpo_loss(x, ref_logprobs, ranks, valid, beta=0.1)[0]
  )(logprobs)
  weight = 0.1 / (1 + np.exp(0.1 * (2 - -3)))
  np.testing.assert_allclose(gradient, [[-weight, weight]], rtol=1e-6)
