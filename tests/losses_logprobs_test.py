"""Chunked log-probabilities; the other losses are in losses_test.py."""

import jax
import jax.extend.core as extend_core
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from instructrl import losses

P = jax.sharding.PartitionSpec


def normal(*shape, seed=0):
  rng = np.random.default_rng([seed, *shape])
  return rng.normal(size=shape).astype(np.float32)


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
  alone = losses.token_logprobs(hidden, unembed, targets, chunk_size=chunk_size)
  np.testing.assert_allclose(alone, logprobs, atol=1e-6)


@pytest.mark.parametrize('chunk_size', [0, 2, 6])
@pytest.mark.parametrize('temperature', [1.0, 0.7])
def test_gradients_of_chunked_logprobs(chunk_size, temperature):
  hidden, unembed, targets = lm_inputs()
  weights = normal(2, 3, 5)

  def chunked(hidden, unembed):
    logprobs, entropies = losses.token_logprobs(
      hidden,
      unembed,
      targets,
      chunk_size=chunk_size,
      temperature=temperature,
      with_entropy=True,
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
    (hidden, unembed),
    order=1,
    modes=['rev'],
    rtol=2e-2,
    atol=2e-2,
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
    return max(
      vocabulary_sized(jax.make_jaxpr(grad)(hidden, unembed).jaxpr, vocab)
    )

  assert largest(chunk_size) <= max(chunk_size, width)
  assert largest(0) == 64  # the way of counting sees what it should


def test_the_memory_of_the_compiled_gradient_does_not_hold_all_logits():
  tokens, width, vocab, chunk_size = 512, 8, 4096, 32
  hidden, unembed = normal(8, 64, width), normal(width, vocab)
  targets = np.zeros((8, 64), np.int32)

  def temporaries(chunk_size):
    grad = jax.grad(
      lambda hidden: jnp.sum(
        losses.token_logprobs(hidden, unembed, targets, chunk_size=chunk_size)
      )
    )
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
  mask = np.arange(5) < np.array([[5], [0], [2]])
  hidden[~mask] = 1e30  # padding may hold anything finite

  def total(hidden):
    return jnp.sum(
      losses.token_logprobs(hidden, unembed, targets, chunk_size=4, mask=mask)
    )

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


@pytest.mark.parametrize('chunk_size', [0, 4])
def test_padding_of_the_vocabulary_changes_nothing(chunk_size):
  """Neither log-probabilities, entropies nor gradients, whatever it holds."""
  hidden, unembed, targets = lm_inputs()
  padded = np.concatenate([unembed, 9 * np.ones((4, 5), np.float32)], axis=1)

  def total(hidden, unembed):
    logprobs, entropy = losses.token_logprobs(
      hidden,
      unembed,
      targets,
      vocab_size=11,
      chunk_size=chunk_size,
      with_entropy=True,
      temperature=0.7,
    )
    return (logprobs * np.arange(5)).sum() + entropy.sum(), (logprobs, entropy)

  grad = jax.grad(total, argnums=(0, 1), has_aux=True)
  (dh, du), found = grad(hidden, unembed)
  (dh_padded, du_padded), found_padded = grad(hidden, padded)
  for a, b in zip(
    (*found, dh, du), (*found_padded, dh_padded, du_padded[:, :11])
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert not du_padded[:, 11:].any()


def test_a_negative_chunk_size_is_refused():
  hidden, unembed, targets = lm_inputs()
  with pytest.raises(ValueError, match='-1'):
    losses.token_logprobs(hidden, unembed, targets, chunk_size=-1)


def test_logprobs_are_the_same_on_eight_devices():
  mesh = jax.make_mesh(
    (4, 2),
    ('data', 'tensor'),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=jax.devices()[:8],
  )
  place = lambda x, *axes: jax.device_put(
    x, jax.sharding.NamedSharding(mesh, P(*axes))
  )
  hidden, unembed, targets = lm_inputs(8, 6, 4, 16)

  def loss(hidden, unembed, targets):
    logprobs = losses.token_logprobs(hidden, unembed, targets, chunk_size=16)
    return jnp.mean(logprobs), logprobs

  function = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  with jax.set_mesh(mesh):
    inputs = (
      place(hidden, 'data'),
      place(unembed, None, 'tensor'),
      place(targets, 'data'),
    )
    actual = function(*inputs)
    program = function.lower(*inputs).compile().as_text()
  expected = function(hidden, unembed, targets)
  for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  # Rows stay on their devices: nothing is regrouped between chunks.
  assert 'all-to-all' not in program
  assert 'collective-permute' not in program
