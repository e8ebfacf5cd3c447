import itertools

import jax
import jax.extend.core as extend_core
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from instructrl import losses

P = jax.sharding.PartitionSpec


def ragged(lengths, width):
  return np.arange(width) < np.asarray(lengths)[:, None]


def normal(*shape, seed=0, scale=1.0):
  rng = np.random.default_rng([seed, *shape])
  return (scale * rng.normal(size=shape)).astype(np.float32)


# --- Token log-probabilities -------------------------------------------------


def plain_logprobs(hidden, unembed, targets, temperature=1.0):
  """(logprobs, entropies) the obvious way, in float64."""
  logits = np.asarray(hidden, np.float64) @ np.asarray(unembed, np.float64)
  logits /= temperature
  logits -= logits.max(-1, keepdims=True)
  every = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  logprobs = np.take_along_axis(every, targets[..., None], -1)[..., 0]
  return logprobs, -(np.exp(every) * every).sum(-1)


def lm_inputs(rows=3, columns=5, width=4, vocab=11):
  targets = np.random.default_rng(0).integers(0, vocab, size=(rows, columns))
  return normal(rows, columns, width), normal(width, vocab), targets


@pytest.mark.parametrize('chunk_size', [0, 1, 2, 3, 4, 6, 7, 14, 15, 100])
def test_chunked_logprobs_equal_the_plain_computation(chunk_size):
  hidden, unembed, targets = lm_inputs()
  logprobs, entropies = losses.token_logprobs(
      hidden, unembed, targets, chunk_size=chunk_size, with_entropy=True
  )
  expected = plain_logprobs(hidden, unembed, targets)
  np.testing.assert_allclose(logprobs, expected[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(entropies, expected[1], rtol=1e-5, atol=1e-5)
  assert logprobs.dtype == entropies.dtype == jnp.float32
  alone = losses.token_logprobs(
      hidden, unembed, targets, chunk_size=chunk_size
  )
  np.testing.assert_allclose(alone, logprobs, atol=1e-6)


@pytest.mark.parametrize('chunk_size', [0, 2, 6])
@pytest.mark.parametrize('temperature', [1.0, 0.7])
def test_gradients_of_chunked_logprobs(chunk_size, temperature):
  hidden, unembed, targets = lm_inputs()
  weights = normal(2, 3, 5)

  def chunked(hidden, unembed):
    logprobs, entropies = losses.token_logprobs(
        hidden, unembed, targets, chunk_size=chunk_size,
        temperature=temperature, with_entropy=True,
    )
    return jnp.sum(logprobs * weights[0] + entropies * weights[1])

  def plain(hidden, unembed):
    every = jax.nn.log_softmax(hidden @ unembed / temperature)
    logprobs = jnp.take_along_axis(every, targets[..., None], -1)[..., 0]
    entropies = -jnp.sum(jnp.exp(every) * every, -1)
    return jnp.sum(logprobs * weights[0] + entropies * weights[1])

  actual = jax.grad(chunked, (0, 1))(hidden, unembed)
  expected = jax.grad(plain, (0, 1))(hidden, unembed)
  for got, want in zip(actual, expected):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_gradient_of_logprobs_against_finite_differences():
  hidden, unembed, targets = lm_inputs(2, 3)
  check_grads(
      lambda hidden, unembed: losses.token_logprobs(
          hidden, unembed, targets, chunk_size=2
      ),
      (hidden, unembed), order=1, modes=['rev'], rtol=2e-2, atol=2e-2,
  )


def vocabulary_sized(jaxpr, vocab):
  """The sizes, in rows, of all arrays [..., vocab] a program computes."""
  sizes = []
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      shape = getattr(variable.aval, 'shape', ())
      if shape and shape[-1] == vocab:
        sizes.append(int(np.prod(shape[:-1])))
    for inner in extend_core.jaxprs_in_params(equation.params):
      sizes += vocabulary_sized(inner, vocab)
  return sizes


@pytest.mark.parametrize(
    'shape,chunk_size', [((4, 16), 8), ((4, 16), 3), ((32, 2), 8), ((64,), 8)]
)
def test_no_more_than_a_chunk_of_logits_exists(shape, chunk_size):
  width, vocab = 4, 1009
  hidden, unembed = normal(*shape, width), normal(width, vocab)
  targets = np.zeros(shape, np.int32)

  def loss(hidden, unembed, chunk_size):
    logprobs, entropies = losses.token_logprobs(
        hidden, unembed, targets, chunk_size=chunk_size, with_entropy=True
    )
    return jnp.sum(logprobs) + jnp.sum(entropies)

  def largest(chunk_size):
    grad = jax.grad(lambda *x: loss(*x, chunk_size), (0, 1))
    return max(vocabulary_sized(jax.make_jaxpr(grad)(hidden, unembed).jaxpr,
                                vocab))

  assert largest(chunk_size) <= max(chunk_size, width)
  assert largest(0) == 64  # the way of counting sees what it should


def test_the_memory_of_the_compiled_gradient_does_not_hold_all_logits():
  tokens, width, vocab, chunk_size = 512, 8, 4096, 32
  hidden, unembed = normal(8, 64, width), normal(width, vocab)
  targets = np.zeros((8, 64), np.int32)

  def temporaries(chunk_size):
    grad = jax.grad(lambda hidden: jnp.sum(losses.token_logprobs(
        hidden, unembed, targets, chunk_size=chunk_size)))
    compiled = jax.jit(grad).lower(hidden).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  logits = tokens * vocab * 4
  assert temporaries(0) >= logits
  assert temporaries(chunk_size) < logits / 4


def test_temperature_divides_the_logits():
  hidden, unembed, targets = lm_inputs()
  logprobs = losses.token_logprobs(
      hidden, unembed, targets, chunk_size=4, temperature=0.7
  )
  expected, _ = plain_logprobs(hidden, unembed, targets, 0.7)
  np.testing.assert_allclose(logprobs, expected, rtol=1e-5, atol=1e-5)


def test_masked_tokens_give_zero_and_no_gradient():
  hidden, unembed, targets = lm_inputs()
  mask = ragged([5, 0, 2], 5)
  hidden[~mask] = 1e30  # padding may hold anything finite

  def total(hidden):
    return jnp.sum(losses.token_logprobs(
        hidden, unembed, targets, chunk_size=4, mask=mask))

  logprobs = losses.token_logprobs(
      hidden, unembed, targets, chunk_size=4, mask=mask
  )
  np.testing.assert_array_equal(logprobs[~mask], 0)
  assert np.all(logprobs[mask] < 0)
  gradient = np.asarray(jax.grad(total)(hidden))
  np.testing.assert_array_equal(gradient[~mask], 0)
  assert np.all(np.any(gradient[mask] != 0, axis=-1))


def test_half_precision_inputs_give_float32_logprobs():
  hidden, unembed, targets = lm_inputs(width=64)
  half = jnp.asarray(hidden, jnp.bfloat16)
  logprobs = losses.token_logprobs(half, unembed, targets, chunk_size=4)
  assert logprobs.dtype == jnp.float32
  rounded = jnp.asarray(unembed, jnp.bfloat16)
  expected, _ = plain_logprobs(half, rounded, targets)
  # Much closer than bfloat16 logits, of 8 bits, would be.
  np.testing.assert_allclose(logprobs, expected, atol=1e-4)


def test_huge_logits_stay_finite():
  hidden = np.float32([[[1e4], [-1e4]]])
  unembed = np.float32([[1.0, -1.0, 0.0]])
  logprobs, entropies = losses.token_logprobs(
      hidden, unembed, np.array([[0, 0]]), chunk_size=1, with_entropy=True
  )
  np.testing.assert_array_equal(logprobs, [[0, -2e4]])
  np.testing.assert_array_equal(entropies, [[0, 0]])


def test_a_negative_chunk_size_is_refused():
  hidden, unembed, targets = lm_inputs()
  with pytest.raises(ValueError, match='-1'):
    losses.token_logprobs(hidden, unembed, targets, chunk_size=-1)


def test_logprobs_are_the_same_on_eight_devices():
  mesh = jax.make_mesh(
      (4, 2), ('data', 'tensor'),
      axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:8],
  )
  place = lambda x, *axes: jax.device_put(
      x, jax.sharding.NamedSharding(mesh, P(*axes)))
  hidden, unembed, targets = lm_inputs(8, 6, 4, 16)

  def loss(hidden, unembed, targets):
    logprobs = losses.token_logprobs(hidden, unembed, targets, chunk_size=16)
    return jnp.mean(logprobs), logprobs

  function = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  with jax.set_mesh(mesh):
    inputs = (place(hidden, 'data'), place(unembed, None, 'tensor'),
              place(targets, 'data'))
    actual = function(*inputs)
    program = function.lower(*inputs).compile().as_text()
  expected = function(hidden, unembed, targets)
  for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  # Rows stay on their devices: nothing is regrouped between chunks.
  assert 'all-to-all' not in program
  assert 'collective-permute' not in program


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
  return (np.mean(prompt_losses), correct / len(margins), np.mean(margins),
          len(margins))


def rankings():
  """Five prompts: two of full K with ties, a short one, a tied one, a K of 1."""
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
  actual = (loss, metrics['reward/accuracy'], metrics['reward/margin'],
            metrics['reward/num_pairs'])
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
  np.testing.assert_allclose(
      gradient[:, 0], [-0.25 / 2, -0.5 / 2], rtol=1e-6
  )


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
      lambda s: losses.ranking_loss(s, ranks, valid)[0])(scores)
  assert loss == 2e4
  np.testing.assert_array_equal(gradient, [[-1, 1]])


def test_gradient_of_the_ranking_loss_against_finite_differences():
  scores, ranks, valid = rankings()
  check_grads(
      lambda s: losses.ranking_loss(s, ranks, valid)[0], (scores,), order=1,
      modes=['rev'], rtol=1e-2, atol=1e-2,
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
    terms.append((-objective, objective < ratio * advantage,
                  ratio - 1 - log_ratio, ratio))
  return np.mean(np.array(terms, np.float64), axis=0)


def test_policy_loss_equals_the_loop_over_tokens():
  inputs = ppo_inputs()
  loss, metrics = losses.ppo_policy_loss(*inputs, clip_eps=0.2)
  actual = (loss, metrics['policy/clip_frac'], metrics['policy/approx_kl'],
            metrics['policy/ratio'])
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
  gradient = jax.grad(lambda x: losses.ppo_policy_loss(
      x, old, advantages, mask, clip_eps=0.2)[0])(old)
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
  gradient = jax.grad(lambda x: losses.ppo_policy_loss(
      x, zeros, zeros + np.float32(advantage), mask, clip_eps=0.2)[0])(logprobs)
  # Only a move that has gone far in the good direction is stopped.
  stopped = (ratio, advantage) in ((2.0, 1.0), (0.5, -1.0))
  expected = 0 if stopped else -ratio * advantage
  np.testing.assert_allclose(gradient, [[expected]], rtol=1e-5)


def value_loss_by_loop(values, old_values, returns, mask, value_clip_eps):
  """(loss, clip_frac, mean, error), token by token."""
  terms = []
  for index in zip(*np.nonzero(mask)):
    value, old, target = (
        float(x[index]) for x in (values, old_values, returns))
    bounded = min(max(value, old - value_clip_eps), old + value_clip_eps)
    free_error, bounded_error = (value - target) ** 2, (bounded - target) ** 2
    terms.append((0.5 * max(free_error, bounded_error),
                  bounded_error > free_error, value, free_error))
  return np.mean(np.array(terms, np.float64), axis=0)


def test_value_loss_equals_the_loop_over_tokens():
  inputs = ppo_inputs(1)
  loss, metrics = losses.value_loss(*inputs, value_clip_eps=0.2)
  actual = (loss, metrics['value/clip_frac'], metrics['value/mean'],
            metrics['value/error'])
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
  gradient = jax.grad(lambda v: losses.value_loss(
      v, old, returns, mask, value_clip_eps=0.2)[0])(values)
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
      lambda x: PPO_LOSSES[name](x, old, advantages, mask)[0], (logprobs,),
      order=1, modes=['rev'], rtol=2e-2, atol=2e-3, eps=1e-3,
  )


# --- Accumulation ------------------------------------------------------------


def check_accumulation(loss_fn, inputs, parts, counts):
  """Microbatches with the batch's counts add up to the batch."""
  value_and_grad = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  whole = value_and_grad(*inputs)
  total = None
  size = len(inputs[0]) // parts
  for i in range(parts):
    part = [x[i * size:(i + 1) * size] for x in inputs]
    loss_and_metrics, gradient = value_and_grad(*part, **counts)
    full = np.zeros_like(inputs[0])
    full[i * size:(i + 1) * size] = gradient
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
  check_accumulation(
      losses.lm_loss, (logprobs, mask), 3, {'count': mask.sum()}
  )


def test_accumulated_ranking_loss_equals_the_batch():
  scores, ranks, valid = rankings()
  pairs = losses.preference_pairs(ranks, valid)
  counts = {'count': np.any(pairs, (1, 2)).sum(), 'pair_count': pairs.sum()}
  assert (counts['count'], counts['pair_count']) == (3, 12)
  check_accumulation(losses.ranking_loss, (scores, ranks, valid), 5, counts)
