"""Acting: sampling with a cache, scoring, and the rewards made of it."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common as experiment
from instructrl import masked
from instructrl import rng
from instructrl import rollout
from instructrl.models import transformer
from instructrl.runtime import sharding
from tests import padded
from tests import tiny

PAD, EOS = tiny.PAD, tiny.EOS
KEY = rng.key(0, rng.Purpose.ROLLOUT, 0)


# --- A model that counts: after token t it says t + 1, with certainty --------


class Counter:
  """Stands in for `transformer.Model`: hidden states are one-hot tokens."""

  module = types.SimpleNamespace(num_layers=1)

  def __init__(self, vocab=40, certainty=100.0):
    self.vocab_size, self._certainty = vocab, certainty
    self.passes = 0  # forward passes that were run

  def init_cache(self, batch, columns):
    empty = jnp.zeros((1, batch, columns, 1, 1))
    return transformer.Cache(
      k=empty,
      v=empty,
      segment_ids=jnp.zeros((batch, columns), jnp.int32),
      positions=jnp.zeros((batch, columns), jnp.int32),
      index=jnp.zeros((), jnp.int32),
    )

  def prepared(self, params):
    return params

  def unembedding(self, params):
    del params
    return self._certainty * jnp.roll(jnp.eye(self.vocab_size), 1, axis=0)

  def apply(
    self,
    params,
    tokens,
    positions,
    segment_ids,
    cache=None,
    *,
    shared_prefix=False,
    dropout_key=None,
  ):
    del params, positions, segment_ids
    assert dropout_key is None and not shared_prefix
    jax.debug.callback(self._count_pass)
    return jax.nn.one_hot(tokens, self.vocab_size), cache

  def _count_pass(self):
    self.passes += 1


COUNTER = Counter()


@functools.cache
def counter(**kwargs):
  return tiny.jit(
    lambda prompts, max_tokens: rollout.generate(
      COUNTER,
      None,
      prompts,
      KEY,
      eos_id=20,
      pad_id=PAD,
      max_tokens=max_tokens,
      **kwargs,
    )
  )


def count(prompts, response_len=5, max_tokens=None, **kwargs):
  max_tokens = response_len if max_tokens is None else max_tokens
  return counter(response_len=response_len, **kwargs)(
    tiny.prompt_batch(prompts, 3), np.int32(max_tokens)
  )


def test_a_response_ends_with_its_first_eos():
  """One that ends within, one that ends at R, one that does not, one empty."""
  out = count([[17], [9, 15], [1, 2, 3], [19]])
  np.testing.assert_array_equal(
    out.tokens,
    [
      [18, 19, 20, PAD, PAD],
      [16, 17, 18, 19, 20],
      [4, 5, 6, 7, 8],
      [20, PAD, PAD, PAD, PAD],
    ],
  )
  np.testing.assert_array_equal(out.mask.sum(axis=1), [3, 5, 5, 1])
  np.testing.assert_array_equal(out.tokens != PAD, out.mask)
  np.testing.assert_allclose(out.logprobs, 0, atol=1e-6)


def test_the_loop_ends_when_all_responses_have_ended():
  """A pass over the prompts and one per further token, whatever R."""
  COUNTER.passes = 0
  out = count([[17], [18], [19], [16]], response_len=1000)
  jax.effects_barrier()
  np.testing.assert_array_equal(out.mask.sum(axis=1), [3, 2, 1, 4])
  assert COUNTER.passes == 4


def test_a_limit_below_the_response_length():
  for limit in (1, 2, 4):
    out = count([[17], [3], [19], [1]], max_tokens=limit)
    np.testing.assert_array_equal(
      out.mask.sum(axis=1), [min(limit, 3), limit, 1, limit]
    )
    np.testing.assert_array_equal(
      out.tokens[0, :limit], [18, 19, 20, PAD][:limit]
    )
    assert not out.tokens[:, limit:].any()


def test_each_response_has_its_own_limit():
  out = count([[17], [3], [9], [1]], max_tokens=[4, 1, 5, 2])
  np.testing.assert_array_equal(out.mask.sum(axis=1), [3, 1, 5, 2])
  np.testing.assert_array_equal(out.tokens != PAD, out.mask)


def test_another_token_can_end_a_response():
  out = count([[17], [3], [5], [4]], stop_id=5)
  np.testing.assert_array_equal(
    out.tokens,
    [[18, 19, 20, 0, 0], [4, 5, 0, 0, 0], [6, 7, 8, 9, 10], [5, 0, 0, 0, 0]],
  )


def test_padding_is_not_an_end():
  """A policy that says the padding token has said a token."""
  out = count([[38], [39], [38], [39]])
  np.testing.assert_array_equal(
    out.tokens[:2], [[39, PAD, 1, 2, 3], [PAD, 1, 2, 3, 4]]
  )
  assert out.mask.all()


def test_logprobs_are_those_of_the_behaviour_policy():
  """At temperature T the chosen token has p = 1 / (1 + 39 exp(-3 / T))."""
  for temperature in (1.0, 0.7):
    out = tiny.jit(
      lambda prompts: rollout.generate(
        Counter(certainty=3.0),
        None,
        prompts,
        KEY,
        response_len=1,
        eos_id=20,
        pad_id=PAD,
        temperature=temperature,
      )
    )(tiny.prompt_batch([[5]] * 200, 1))
    p = 1 / (1 + 39 * np.exp(-3 / temperature))
    said = out.tokens[:, 0] == 6
    np.testing.assert_allclose(out.logprobs[said], np.log(p), rtol=1e-5)
    np.testing.assert_allclose(
      out.logprobs[~said], np.log((1 - p) / 39), rtol=1e-5
    )
    assert abs(said.mean() - p) < 4 * np.sqrt(p * (1 - p) / 200)


# --- A real model ------------------------------------------------------------

B, P, R = 6, 5, 7
MODEL = tiny.model()
PARAMS = tiny.params(MODEL, std=0.15)
SCALAR = tiny.scalar_params(MODEL)
_rng = np.random.default_rng(0)
PROMPTS = [_rng.integers(6, tiny.VOCAB, 1 + i % P).tolist() for i in range(B)]


@functools.cache
def generator(temperature=1.0, response_len=R):
  return tiny.jit(
    lambda params, prompts, key, rows: rollout.generate(
      MODEL,
      params,
      prompts,
      key,
      rows=rows,
      response_len=response_len,
      eos_id=EOS,
      pad_id=PAD,
      temperature=temperature,
    )
  )


def sample(prompts=PROMPTS, rows=None, prompt_len=P, key=KEY, **kwargs):
  rows = np.arange(len(prompts)) if rows is None else np.asarray(rows)
  return generator(**kwargs)(
    PARAMS, tiny.prompt_batch(prompts, prompt_len), key, rows
  )


@tiny.jit
def _score(params, scalar, temperature, *where):
  return (
    *padded.response_logprobs(
      MODEL,
      params,
      *where,
      chunk_size=8,
      temperature=temperature,
      with_entropy=True,
    ),
    padded.response_values(MODEL, scalar, *where),
    padded.response_scores(MODEL, scalar, *where),
  )


def score(*where, temperature=1.0, scalar=SCALAR):
  """(logprobs, entropy, values, scores) of responses."""
  return jax.device_get(_score(PARAMS, scalar, temperature, *where))


@tiny.jit
def _full_pass(params, line):
  positions = jnp.arange(line.shape[1], dtype=jnp.int32)[None]
  return MODEL.apply(params, line, positions, jnp.ones_like(line))[0][0]


def full_pass(params, tokens):
  """[T, D] hidden states of one sequence, without padding before it."""
  line = np.zeros((1, P + R), np.int32)
  line[0, : len(tokens)] = tokens
  return np.asarray(_full_pass(params, line))[: len(tokens)]


def whole(prompts, responses, prompt_len=P, response_len=R):
  """(tokens, prompt mask, response mask) of padded prompts and responses."""
  batch = tiny.prompt_batch(prompts, prompt_len)
  tokens, mask = tiny.response_arrays(responses, response_len)
  return np.concatenate([batch.tokens, tokens], axis=1), batch.mask, mask


def texts(out):
  """The sampled responses as lists."""
  return [
    row[keep].tolist()
    for row, keep in zip(np.asarray(out.tokens), np.asarray(out.mask))
  ]


@pytest.mark.parametrize('temperature', [1.0, 0.7])
def test_sampled_logprobs_equal_the_recomputed_ones(temperature):
  """So the ratio of an update that has changed nothing is 1."""
  out = sample(temperature=temperature)
  batch = tiny.prompt_batch(PROMPTS, P)
  where = (np.concatenate([batch.tokens, out.tokens], 1), batch.mask, out.mask)
  logprobs, *_ = score(*where, temperature=temperature)
  assert np.abs(logprobs[out.mask]).mean() > 0.5
  np.testing.assert_allclose(logprobs, out.logprobs, atol=2e-5)
  other, *_ = score(*where, temperature=1.7 - temperature)
  assert np.abs(other - out.logprobs).max() > 0.1


def test_logprobs_and_entropy_of_a_response_by_hand():
  """Token t is predicted from the position before it."""
  where = whole([[7, 8]] * B, [[9, 10, EOS]] * B)
  logprobs, entropy, *_ = score(*where)
  hidden = full_pass(PARAMS, [7, 8, 9, 10, EOS])
  all_logprobs = np.asarray(jax.nn.log_softmax(hidden @ PARAMS['embed'].T))
  expected = [
    all_logprobs[t, token] for t, token in ((1, 9), (2, 10), (3, EOS))
  ]
  np.testing.assert_allclose(logprobs[0, :3], expected, atol=1e-5)
  p = np.exp(all_logprobs[1:4])
  np.testing.assert_allclose(
    entropy[0, :3], -(p * np.log(p)).sum(-1), atol=1e-4
  )
  assert not logprobs[0, 3:].any() and not entropy[0, 3:].any()


def test_greedy_decoding_takes_the_most_likely_token():
  out = sample(temperature=0.0)
  for prompt, response in zip(PROMPTS, texts(out)):
    assert len(response) == R or response[-1] == EOS
    hidden = full_pass(PARAMS, prompt + response)
    for t, token in enumerate(response, len(prompt)):
      logits = hidden[t - 1] @ PARAMS['embed'].T
      assert logits[token] > logits.max() - 1e-4


def test_tokens_that_pad_the_vocabulary_are_never_said():
  """And all else is as without them."""
  padded = tiny.model(vocab_multiple=64)
  params = dict(
    PARAMS,
    embed=np.concatenate([PARAMS['embed'], np.full((14, 32), 9, np.float32)]),
  )
  shapes = jax.eval_shape(padded.init, KEY)
  assert shapes['embed'].shape == params['embed'].shape == (64, 32)
  out = tiny.jit(
    lambda prompts: rollout.generate(
      padded, params, prompts, KEY, response_len=R, eos_id=EOS, pad_id=PAD
    )
  )(tiny.prompt_batch(PROMPTS, P))
  plain = sample()
  np.testing.assert_array_equal(out.tokens, plain.tokens)
  np.testing.assert_allclose(out.logprobs, plain.logprobs, atol=1e-5)


def test_what_a_row_gets_is_its_own_affair():
  """Neither the other rows nor the batch matter, only the row's number."""
  out = sample()
  assert len({tuple(text) for text in texts(out)}) == B
  others = [[11] * len(prompt) for prompt in PROMPTS]
  others[3] = PROMPTS[3]
  assert texts(sample(others))[3] == texts(out)[3]
  rows = [4, 0, 3]
  some = sample([PROMPTS[i] for i in rows], rows=rows)
  assert texts(some) == [texts(out)[i] for i in rows]
  np.testing.assert_allclose(
    some.logprobs, out.logprobs[np.asarray(rows)], atol=1e-5
  )
  renumbered = sample(rows=np.arange(B) + 100)
  assert texts(renumbered) != texts(out)


def test_equal_prompts_get_different_responses():
  assert len({tuple(text) for text in texts(sample([[7, 8]] * B))}) > 1


def test_the_key_decides():
  again = sample(key=rng.key(0, rng.Purpose.ROLLOUT, 0))
  assert texts(again) == texts(sample())
  for key in (
    rng.key(0, rng.Purpose.ROLLOUT, 1),
    rng.key(1, rng.Purpose.ROLLOUT, 0),
    rng.key(0, rng.Purpose.EVALUATION, 0),
  ):
    assert texts(sample(key=key)) != texts(again)


@pytest.mark.parametrize(
  'shape',
  [
    dict(fsdp=3, tensor=2),
    pytest.param(dict(data=3, fsdp=2), marks=pytest.mark.slow),
  ],
)
def test_the_mesh_changes_nothing(shape):
  """The batch, the parameters and the cache are divided in other ways."""
  mesh = sharding.make_mesh(shape, jax.devices()[:6])
  model = tiny.model(rules=experiment.RULES)
  params = jax.device_put(
    PARAMS,
    sharding.tree_shardings(
      mesh, model.logical_axes(), PARAMS, experiment.RULES
    ),
  )
  with jax.set_mesh(mesh):
    out = tiny.jit(
      lambda params, prompts: rollout.generate(
        model, params, prompts, KEY, response_len=R, eos_id=EOS, pad_id=PAD
      )
    )(params, sharding.put_batch(tiny.prompt_batch(PROMPTS, P), mesh))
  assert not out.tokens.sharding.is_fully_replicated
  expected = sample()
  np.testing.assert_array_equal(out.tokens, expected.tokens)
  np.testing.assert_allclose(out.logprobs, expected.logprobs, atol=1e-5)


@pytest.mark.parametrize(
  'size', [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))]
)
def test_microbatches_change_nothing(size):
  batch, rows = tiny.prompt_batch(PROMPTS, P), np.arange(B)
  part = lambda inputs: rollout.generate(
    MODEL,
    PARAMS,
    inputs[0],
    KEY,
    rows=inputs[1],
    response_len=R,
    eos_id=EOS,
    pad_id=PAD,
  )
  out = tiny.jit(lambda *args: rollout.in_microbatches(part, args, size))(
    batch, rows
  )
  expected = sample()
  np.testing.assert_array_equal(out.tokens, expected.tokens)
  np.testing.assert_allclose(out.logprobs, expected.logprobs, atol=1e-5)


def test_a_microbatch_must_divide_the_batch():
  with pytest.raises(ValueError, match='a microbatch of 4 does not divide 6'):
    rollout.in_microbatches(lambda x: x, np.zeros((6, 2)), 4)


def test_padding_of_prompts_changes_no_response():
  out, wide = sample(), sample(prompt_len=P + 4)
  np.testing.assert_array_equal(wide.tokens, out.tokens)
  np.testing.assert_allclose(wide.logprobs, out.logprobs, atol=2e-5)


def test_padding_on_either_side_changes_no_number():
  responses = [[9, 10, EOS], [EOS], [7] * R, [8, EOS], [9], [30, 31, 32]]
  expected = score(*whole(PROMPTS, responses))
  wide = score(*whole(PROMPTS, responses, P + 3, R + 2))
  for a, b in zip(wide, expected):
    b = np.pad(b, ((0, 0), (0, 2))) if b.ndim == 2 else b
    np.testing.assert_allclose(a, b, atol=2e-5)


make_rollout = tiny.jit(
  rollout.make_rollout,
  static_argnames=(
    'discount',
    'gae_lambda',
    'whiten_advantages',
    'eos_id',
    'missing_eos',
    'missing_eos_amount',
  ),
)


def test_what_stands_after_the_end_changes_nothing():
  responses = [[9, 10, EOS], [EOS], [7] * R, [8, EOS], [9], [30, 31, 32]]
  tokens, prompt_mask, mask = whole(PROMPTS, responses)
  garbage = tokens.copy()
  garbage[:, P:][~mask] = 33
  garbage[:, :P][~prompt_mask] = 44
  for a, b in zip(
    score(garbage, prompt_mask, mask), score(tokens, prompt_mask, mask)
  ):
    np.testing.assert_array_equal(a, b)
  kwargs = dict(
    kl_coef=jnp.float32(0.1),
    discount=1.0,
    gae_lambda=0.95,
    whiten_advantages=True,
    eos_id=EOS,
    missing_eos='fixed',
    missing_eos_amount=-1.0,
  )
  garbage[:, P:][~mask] = EOS  # not an end of the response either
  logprobs, _, values, scores = score(tokens, prompt_mask, mask)
  a, b = (
    make_rollout(
      t, prompt_mask, mask, logprobs, 0 * logprobs, values, scores, **kwargs
    )
    for t in (garbage, tokens)
  )
  for name in ('rewards', 'advantages', 'returns', 'kl', 'scores'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_the_score_is_read_at_the_end_which_is_seen():
  """EOS is attended and scored; padding is neither."""
  where = whole(PROMPTS, [[9, 10, EOS]] * B)
  *_, scores = score(*where)
  for token, matters in ((EOS, True), (PAD, False)):
    changed = jax.tree.map(np.copy, SCALAR)
    changed['backbone']['embed'][token] += np.cos(np.arange(32))
    *_, other = score(*where, scalar=changed)
    assert (np.abs(other - scores) > 1e-3).all() == matters
    assert (other == scores).all() or matters


def test_the_score_of_a_response_is_the_head_at_its_last_token():
  responses = [[9, 10, EOS], [EOS], [7] * R, [8, EOS], [9], [30, 31, 32]]
  *_, scores = score(*whole(PROMPTS, responses))
  for prompt, response, got in zip(PROMPTS, responses, scores):
    hidden = full_pass(SCALAR['backbone'], prompt + response)
    expected = hidden[-1] @ SCALAR['head']['kernel'] + SCALAR['head']['bias']
    np.testing.assert_allclose(got, expected, atol=2e-5)


# --- Values, scores, rewards by hand -----------------------------------------


def hand_rollout(**changes):
  """Three responses in R = 3: short, full-length without EOS, empty."""
  tokens, prompt_mask, mask = whole(
    [[11], [12], [13]], [[21, EOS], [31, 32, 33], [EOS]], 2, 3
  )
  old = jnp.float32([[-1, -2, 0], [-1, -1, -1], [-3, 0, 0]])
  ref = jnp.float32([[-1.5, -1, 9], [-1, -2, -3], [-1, 9, 9]])
  values = jnp.float32([[0.5, 1, 9], [0, 0.5, 1], [2, 9, 9]])
  values = jnp.where(mask, values, 0)
  kwargs = dict(
    kl_coef=jnp.float32(0.1),
    discount=1.0,
    gae_lambda=0.95,
    whiten_advantages=False,
    eos_id=EOS,
  )
  return make_rollout(
    tokens,
    prompt_mask,
    mask,
    old,
    ref,
    values,
    jnp.float32([0.7, -0.3, 5]),
    **{**kwargs, **changes},
  )


def test_the_score_is_rewarded_once_at_the_last_response_token():
  out = hand_rollout()
  np.testing.assert_allclose(
    out.kl, [[0.5, -1, 0], [0, 1, 2], [-2, 0, 0]], atol=1e-6
  )
  np.testing.assert_allclose(
    out.rewards, [[-0.05, 0.8, 0], [0, -0.1, -0.5], [5.2, 0, 0]], atol=1e-6
  )
  np.testing.assert_array_equal(out.scores, np.float32([0.7, -0.3, 5]))
  assert {x.dtype for x in (out.rewards, out.advantages, out.returns)} == {
    jnp.dtype('float32')
  }


def test_advantages_and_returns_by_hand():
  out = hand_rollout()
  # Row 0: delta = [-.05 + 1 - .5, .8 - 1]; row 1: [.5, .4, -1.5]; row 2: [3.2].
  first = [0.45 + 0.95 * -0.2, -0.2]
  second = [0.5 + 0.95 * (0.4 + 0.95 * -1.5), 0.4 + 0.95 * -1.5, -1.5]
  expected = np.array([[*first, 0], second, [3.2, 0, 0]])
  np.testing.assert_allclose(out.advantages, expected, atol=1e-6)
  np.testing.assert_allclose(out.returns, expected + out.old_values, atol=1e-6)


def test_advantages_are_whitened_over_the_whole_batch():
  plain, out = hand_rollout(), hand_rollout(whiten_advantages=True)
  inside = np.asarray(out.advantages)[np.asarray(out.response_mask)]
  assert len(inside) == 6
  np.testing.assert_allclose([inside.mean(), inside.var()], [0, 1], atol=1e-5)
  np.testing.assert_allclose(
    out.advantages,
    masked.whiten(plain.advantages, plain.response_mask),
    atol=1e-6,
  )
  np.testing.assert_array_equal(out.returns, plain.returns)


@pytest.mark.parametrize(
  'mode, last', [('none', -0.5), ('penalty', -2.5), ('fixed', 1.8)]
)
def test_a_response_without_an_end(mode, last):
  """Only its own last reward changes, and not the raw score."""
  out = hand_rollout(missing_eos=mode, missing_eos_amount=2.0)
  np.testing.assert_allclose(
    out.rewards, [[-0.05, 0.8, 0], [0, -0.1, last], [5.2, 0, 0]], atol=1e-6
  )
  np.testing.assert_array_equal(out.scores, np.float32([0.7, -0.3, 5]))


def test_an_eos_in_the_prompt_is_not_the_end_of_the_response():
  tokens, prompt_mask, mask = whole([[EOS]], [[5, 6]], 1, 2)
  zeros = jnp.zeros((1, 2))
  out = make_rollout(
    tokens,
    prompt_mask,
    mask,
    zeros,
    zeros,
    zeros,
    jnp.zeros(1),
    kl_coef=jnp.float32(0),
    discount=1.0,
    gae_lambda=1.0,
    whiten_advantages=False,
    eos_id=EOS,
    missing_eos='penalty',
    missing_eos_amount=1.0,
  )
  np.testing.assert_allclose(out.rewards, [[0, -1]])


def test_policy_equal_to_reference_has_no_kl():
  out = sample()
  batch = tiny.prompt_batch(PROMPTS, P)
  tokens = np.concatenate([batch.tokens, out.tokens], axis=1)
  ref, *_ = score(tokens, batch.mask, out.mask)
  made = make_rollout(
    tokens,
    batch.mask,
    out.mask,
    out.logprobs,
    ref,
    jnp.zeros((B, R)),
    jnp.zeros(B),
    kl_coef=jnp.float32(1),
    discount=1.0,
    gae_lambda=0.95,
    whiten_advantages=False,
    eos_id=EOS,
  )
  np.testing.assert_allclose(made.kl, 0, atol=2e-5)
  np.testing.assert_allclose(made.rewards, 0, atol=2e-5)


# --- Memory ------------------------------------------------------------------


@pytest.mark.parametrize('chunk_size, most', [(4, 4 * 53), (0, B * R * 53)])
def test_logits_of_a_batch_are_never_all_in_memory(chunk_size, most):
  """Neither forwards nor backwards; with one chunk they would be."""
  model = tiny.model(vocab_size=53, d_model=16, num_layers=1)
  params = tiny.params(model)
  where = whole(PROMPTS, [[9, 10, EOS]] * B)

  def loss(params):
    return padded.response_logprobs(
      model, params, *where, chunk_size=chunk_size
    ).sum()

  jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(params).jaxpr
  assert tiny.largest_with(jaxpr, 53) == max(most, 53 * 16)


def test_positions_and_segments_leave_padding_out():
  positions, segments = padded.sequence_inputs(
    np.array([[False, True, True]]), np.array([[True, True, False]])
  )
  np.testing.assert_array_equal(segments, [[0, 1, 1, 1, 1, 0]])
  np.testing.assert_array_equal(positions[0, 1:5], [0, 1, 2, 3])
