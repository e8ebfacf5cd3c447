import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl import rng
from instructrl import sampling

KEY = rng.key(0, rng.Purpose.ROLLOUT, 1)


# Compiled, since an operation at a time takes most of a test's time.
sample_tokens = jax.jit(
  sampling.sample_tokens, static_argnames=('temperature', 'top_p', 'top_k')
)
row_keys = jax.jit(sampling.row_keys)


def keys(num, position=0):
  return row_keys(KEY, jnp.arange(num), position)


def normal(*shape, seed=0, scale=1.0):
  rng = np.random.default_rng([seed, *shape])
  return (scale * rng.normal(size=shape)).astype(np.float32)


def log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  logits = logits - logits.max(-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def draw(logits, num, **settings):
  """`num` independent samples from one row of logits."""
  many = jnp.broadcast_to(logits, (num, len(logits)))
  return map(np.asarray, sample_tokens(many, keys(num), **settings))


def check_frequencies(tokens, probs):
  """Chi-squared of the counts, five standard deviations at the most."""
  expected = probs * len(tokens)
  counts = np.bincount(tokens, minlength=len(probs))
  assert np.all(counts[probs == 0] == 0)
  kept = expected > 0
  statistic = np.sum((counts - expected)[kept] ** 2 / expected[kept])
  freedom = kept.sum() - 1
  assert statistic <= freedom + 5 * np.sqrt(2 * freedom), counts


# --- The distribution --------------------------------------------------------


@pytest.mark.parametrize('temperature', [1.0, 0.7, 2.0])
def test_the_frequencies_are_the_probabilities(temperature):
  logits = normal(7)
  tokens, logprobs = draw(logits, 20_000, temperature=temperature)
  expected = log_softmax(logits / temperature)
  check_frequencies(tokens, np.exp(expected))
  np.testing.assert_allclose(logprobs, expected[tokens], atol=1e-5)
  assert tokens.dtype == np.int32 and logprobs.dtype == np.float32


@pytest.mark.parametrize('vocab', [1, 2, 127, 128, 129, 300])
def test_every_size_of_vocabulary(vocab):
  logits = normal(vocab)
  tokens, logprobs = draw(logits, 20_000, temperature=1.0)
  expected = log_softmax(logits)
  np.testing.assert_allclose(logprobs, expected[tokens], atol=1e-5)
  if vocab > 1:
    check_frequencies(tokens, np.exp(expected))


def test_many_rows_of_different_logits_sample_their_own_row():
  logits = np.full((5, 9), -30.0, np.float32)
  wanted = np.array([3, 0, 8, 8, 1])
  logits[np.arange(5), wanted] = 30.0
  tokens, _ = sample_tokens(logits, keys(5), temperature=1.0)
  np.testing.assert_array_equal(tokens, wanted)


def test_an_impossible_token_is_never_sampled():
  logits = np.zeros(400, np.float32)
  logits[::2] = -np.inf
  tokens, logprobs = draw(logits, 5_000, temperature=1.0)
  assert np.all(tokens % 2 == 1)
  np.testing.assert_allclose(logprobs, -np.log(200), rtol=1e-5)


@pytest.mark.parametrize('uniform', [0.0, 1 - 2**-24])
def test_the_ends_of_the_unit_interval(uniform):
  uniform = np.full(3, uniform, np.float32)
  weights = np.float32([[0, 0, 2, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 3]])
  tokens = sampling._invert(weights, uniform)
  expected = [2, 0, 4] if uniform[0] == 0 else [3, 0, 4]
  np.testing.assert_array_equal(tokens, expected)


def test_greedy_takes_the_first_of_the_best_and_needs_no_luck():
  logits = np.float32([[0, 2, 1], [5, 5, 1], [-3, -2, -1]])
  tokens, logprobs = sample_tokens(logits, keys(3), temperature=0.0)
  np.testing.assert_array_equal(tokens, [1, 0, 2])
  expected = log_softmax(logits)[np.arange(3), [1, 0, 2]]
  np.testing.assert_allclose(logprobs, expected, rtol=1e-5)


def test_a_low_temperature_goes_to_greedy():
  tokens, logprobs = draw(normal(50), 200, temperature=2.0**-14)
  assert set(tokens) == {np.argmax(normal(50))}
  np.testing.assert_allclose(logprobs, 0, atol=1e-5)


@pytest.mark.parametrize('settings', [{}, {'top_p': 0.6}, {'top_k': 3}])
@pytest.mark.parametrize('temperature', [0.0, 0.7, 1.0])
def test_a_traced_temperature_is_the_same_as_a_constant(temperature, settings):
  logits = normal(64, 30, scale=2.0)
  tokens, logprobs = sample_tokens(
    logits, keys(64), temperature=temperature, **settings
  )
  traced = jax.jit(
    lambda t: sampling.sample_tokens(
      logits, keys(64), temperature=t, **settings
    )
  )(np.float32(temperature))
  np.testing.assert_array_equal(tokens, traced[0])
  np.testing.assert_allclose(logprobs, traced[1], atol=1e-6)


def test_half_precision_logits_give_float32_logprobs():
  logits = jnp.asarray(normal(4, 50), jnp.bfloat16)
  tokens, logprobs = sample_tokens(logits, keys(4), temperature=1.0)
  assert logprobs.dtype == jnp.float32
  expected = log_softmax(logits)[np.arange(4), tokens]
  np.testing.assert_allclose(logprobs, expected, atol=1e-5)


# --- Truncation --------------------------------------------------------------


def nucleus_by_loop(probs, top_p):
  """The fewest most likely tokens that reach `top_p`, renormalised."""
  kept, total = np.zeros_like(probs), 0.0
  for token in np.argsort(-probs):
    kept[token] = probs[token]
    total += probs[token]
    if total >= top_p:
      break
  return kept / total


@pytest.mark.parametrize('top_p', [0.01, 0.3, 0.5, 0.9, 0.999])
def test_top_p_equals_the_loop(top_p):
  logits = normal(60, scale=2.0)
  expected = nucleus_by_loop(np.exp(log_softmax(logits)), top_p)
  tokens, logprobs = draw(logits, 20_000, temperature=1.0, top_p=top_p)
  check_frequencies(tokens, expected)
  np.testing.assert_allclose(logprobs, np.log(expected[tokens]), atol=1e-5)


def test_top_p_by_hand():
  logits = np.log(np.float32([0.1, 0.5, 0.15, 0.25]))
  # 0.5 + 0.25 reaches 0.7 and 0.5 alone does not.
  tokens, logprobs = draw(logits, 500, temperature=1.0, top_p=0.7)
  assert set(tokens) == {1, 3}
  np.testing.assert_allclose(
    logprobs, np.log(np.where(tokens == 1, 2 / 3, 1 / 3)), rtol=1e-5
  )
  # The temperature comes first: squared, 0.25 / 0.345 is enough for 0.7.
  tokens, _ = draw(logits, 500, temperature=0.5, top_p=0.7)
  assert set(tokens) == {1}


def test_top_k():
  logits = normal(30)
  best = np.argsort(-logits)[:4]
  expected = np.zeros(30)
  expected[best] = np.exp(log_softmax(logits[best]))
  tokens, logprobs = draw(logits, 20_000, temperature=1.0, top_k=4)
  check_frequencies(tokens, expected)
  np.testing.assert_allclose(logprobs, np.log(expected[tokens]), atol=1e-5)


def test_top_k_of_one_is_greedy_and_of_everything_changes_nothing():
  logits = normal(6, 40)
  one, _ = sample_tokens(logits, keys(6), temperature=1.0, top_k=1)
  np.testing.assert_array_equal(one, logits.argmax(-1))
  free = sample_tokens(logits, keys(6), temperature=1.0)
  for settings in ({'top_k': 40}, {'top_k': 99}, {'top_p': 1.0}):
    same = sample_tokens(logits, keys(6), temperature=1.0, **settings)
    for got, want in zip(same, free):
      np.testing.assert_array_equal(got, want)


def test_top_k_comes_before_top_p():
  logits = np.log(np.float32([0.4, 0.3, 0.2, 0.1]))
  # Of the best two 0.4 is 0.57: enough for 0.5, not for 0.6.
  for top_p, expected in ((0.5, {0}), (0.6, {0, 1})):
    tokens, _ = draw(logits, 200, temperature=1.0, top_k=2, top_p=top_p)
    assert set(tokens) == expected


def test_settings_out_of_range_are_refused():
  logits = np.zeros((1, 3), np.float32)
  for settings, message in (
    ({'temperature': -0.1}, 'temperature'),
    ({'temperature': 1.0, 'top_p': 0.0}, 'top_p'),
    ({'temperature': 1.0, 'top_p': 1.1}, 'top_p'),
    ({'temperature': 1.0, 'top_k': -1}, 'top_k'),
  ):
    with pytest.raises(ValueError, match=message):
      sample_tokens(logits, keys(1), **settings)


# --- Randomness --------------------------------------------------------------


def test_a_row_samples_the_same_in_any_batch():
  logits = normal(8, 50)
  whole, _ = sample_tokens(logits, keys(8), temperature=1.0)
  parts = []
  for rows in (np.arange(0, 3), np.arange(3, 8)):
    part, _ = sample_tokens(
      logits[rows], row_keys(KEY, rows, 0), temperature=1.0
    )
    parts.append(part)
  np.testing.assert_array_equal(np.concatenate(parts), whole)
  order = np.random.default_rng(0).permutation(8)
  shuffled, _ = sample_tokens(
    logits[order], row_keys(KEY, order, 0), temperature=1.0
  )
  np.testing.assert_array_equal(shuffled, np.asarray(whole)[order])


@pytest.mark.parametrize('axes', [('data', None), (None, 'data')])
def test_it_samples_the_same_on_eight_devices(axes):
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ('data',))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
  logits = normal(8, 64)
  settings = {'temperature': 0.7, 'top_p': 0.9}
  expected = sample_tokens(logits, keys(8), **settings)
  tokens, logprobs = sample_tokens(
    jax.device_put(logits, sharding), keys(8), **settings
  )
  np.testing.assert_array_equal(tokens, expected[0])
  np.testing.assert_allclose(logprobs, expected[1], rtol=1e-5)


def test_rows_positions_and_steps_differ():
  uniform = np.zeros(1000, np.float32)
  many = jnp.broadcast_to(uniform, (16, 1000))
  sample = lambda keys: tuple(
    np.asarray(sample_tokens(many, keys, temperature=1.0)[0]).tolist()
  )
  first = sample(keys(16))
  assert len(set(first)) > 12
  others = [
    sample(keys(16, position=1)),
    sample(row_keys(KEY, jnp.arange(16, 32), 0)),
    sample(row_keys(rng.key(0, rng.Purpose.ROLLOUT, 2), jnp.arange(16), 0)),
    sample(row_keys(rng.key(0, rng.Purpose.EVALUATION, 1), jnp.arange(16), 0)),
    sample(row_keys(rng.key(1, rng.Purpose.ROLLOUT, 1), jnp.arange(16), 0)),
  ]
  assert len({first, *others}) == 6
  assert sample(keys(16)) == first


def test_rows_and_positions_are_not_interchangeable():
  data = lambda row, position: tuple(
    np.asarray(jax.random.key_data(row_keys(KEY, jnp.array([row]), position)))[
      0
    ].tolist()
  )
  assert len({data(r, p) for r in range(20) for p in range(20)}) == 400
