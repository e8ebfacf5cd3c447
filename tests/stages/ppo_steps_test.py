"""The functions of PPO and PPO-ptx.

Everything is at temperature 0.7: a place that forgets it gives other numbers.
"""

import dataclasses
import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrl import rng
from instructrl.data import tasks
from instructrl.models import heads
from instructrl.rollout import packed_logprobs
from instructrl.runtime import optimizer
from instructrl.stages import build
from instructrl.stages import ppo_steps
from instructrl.stages.ppo_settings import Settings
from instructrl.types import LMBatch
from tests import tiny
from tests.padded import response_logprobs
from tests.padded import response_scores
from tests.padded import response_values

B, P, R, T = 24, 5, 6, 10
RED = 7  # the token that the learning test rewards
KL_COEF, PTX_COEF = 0.05, 2.5
SETTINGS = Settings(
  batch_size=B,
  minibatch_size=12,
  num_ppo_epochs=2,
  microbatch_size=4,
  prompt_len=P,
  response_len=R,
  temperature=0.7,
  kl_coef=KL_COEF,
  adaptive_kl_target=6.0,
  ptx_coef=PTX_COEF,
  ptx_examples_per_episode=1,
  ptx_microbatch_size=6,
  ema_decay=0.8,
  missing_eos='penalty',
  missing_eos_amount=0.5,
  logits_chunk=0,
)
SEED = 3

POLICY = tiny.model()
SCALAR = tiny.model(num_layers=1)  # the reward model has its own shape
# On a device like what a program returns: one program serves both.
on_device = functools.partial(jax.device_put, device=jax.devices()[0])
REF = on_device(tiny.params(POLICY, std=0.05))
# Ends a response one time in six, so that they differ in length.
REF['final_norm']['bias'] += 0.1
REF['embed'] = REF['embed'].at[tiny.EOS].add(0.5)
REWARD = on_device(tiny.scalar_params(SCALAR, std=0.2))
# A large epsilon: Adam would make steps of the rounding of small gradients.
TX = {
  name: optimizer.make_optimizer(
    optimizer.make_schedule(peak_lr=5e-3, num_steps=1, kind='constant'),
    b1=0.9,
    b2=0.95,
    eps=1e-4,
    max_grad_norm=1.0,
  )
  for name in ('policy', 'value')
}


def settings(**changes):
  return dataclasses.replace(SETTINGS, **changes)


def prompts(seed=0):
  draw = np.random.default_rng(seed)
  return tiny.prompt_batch(
    [draw.integers(10, tiny.VOCAB, 1 + i % P).tolist() for i in range(B)], P
  )


def ptx_rows(count, seed=0) -> LMBatch:
  """Packed rows with different numbers of targets."""
  draw = np.random.default_rng(seed)
  rows = tasks.pack_rows(
    [
      tasks.lm_example(
        draw.integers(6, tiny.VOCAB, 7 + i % 5).tolist(), loss_from=1 + i % 4
      )
      for i in range(count)
    ],
    T,
  )
  return LMBatch(**{name: value[:count] for name, value in rows.items()})


def silent_rows(count) -> LMBatch:
  """Rows without a target: no pretraining, by the same compiled program."""
  rows = ptx_rows(count)
  return dataclasses.replace(rows, loss_mask=np.zeros_like(rows.loss_mask))


def half_of(rollout):
  """A minibatch."""
  return jax.tree.map(lambda x: x[:12], rollout)


@functools.cache
def packer():
  return tiny.jit(ppo_steps.pack)


def packed_half(rollout):
  """A minibatch, packed."""
  return packer()(half_of(rollout))


def fresh(kl_coef=KL_COEF):
  state = build.fresh_state(
    {'policy': REF, 'value': REWARD}, TX, ema_params=REF, kl_coef=kl_coef
  )
  return on_device(state)


make_generate = functools.partial(
  ppo_steps.make_generate, eos_id=tiny.EOS, pad_id=tiny.PAD
)
make_score = functools.partial(
  ppo_steps.make_score, weights={'reward': 1.0}, eos_id=tiny.EOS
)
generate = tiny.jit(make_generate(POLICY, SETTINGS))


@functools.cache
def scorer(**changes):
  return tiny.jit(make_score(POLICY, SCALAR, SCALAR, settings(**changes)))


def act(state, step=0, **changes):
  """(rollout, metrics) of an iteration."""
  batch = prompts(step)
  responses = generate(state.params['policy'], batch, SEED, step)
  return scorer(**changes)(
    REF,
    {'reward': REWARD},
    state.params['value'],
    state.kl_coef,
    batch,
    responses,
  )


@functools.cache
def updater(**changes):
  return tiny.jit(
    ppo_steps.make_update(POLICY, SCALAR, settings(**changes), TX)
  )


@functools.cache
def policy_grad(**changes):
  return tiny.jit(ppo_steps.make_policy_grad(POLICY, settings(**changes)))


@functools.cache
def value_grad(**changes):
  return tiny.jit(ppo_steps.make_value_grad(SCALAR, settings(**changes)))


def update(state, rollout, rows=None):
  return updater()(state, rollout, rows or silent_rows(2 * B), SEED)


@pytest.fixture(scope='module')
def first():
  """(rollout, metrics) of the first iteration."""
  return act(fresh())


@pytest.fixture(scope='module')
def moved(first):
  """(policy, value) parameters that are no longer those that sampled."""
  state, _ = update(fresh(), first[0])
  return state.params['policy'], state.params['value']


# --- Before any update -------------------------------------------------------


def test_the_first_minibatch_has_ratio_one_and_clips_nothing(first):
  rollout, _ = first
  _, metrics = policy_grad()(REF, packed_half(rollout), silent_rows(12))
  assert metrics['policy/ratio'] == pytest.approx(1, abs=1e-5)
  assert metrics['policy/approx_kl'] == pytest.approx(0, abs=1e-8)
  assert metrics['policy/clip_frac'] == 0
  _, metrics = value_grad()(REWARD, packed_half(rollout))
  assert metrics['value/clip_frac'] == 0


def test_after_an_update_the_ratio_is_not_one(first, moved):
  """Else the test above would say nothing."""
  _, metrics = policy_grad()(moved[0], packed_half(first[0]), silent_rows(12))
  assert metrics['policy/approx_kl'] > 1e-3
  assert metrics['policy/clip_frac'] > 0
  _, metrics = value_grad()(moved[1], packed_half(first[0]))
  assert metrics['value/clip_frac'] > 0


def test_kl_to_the_reference_starts_at_zero(first):
  rollout, metrics = first
  np.testing.assert_allclose(rollout.kl, 0, atol=2e-5)
  assert metrics['objective/kl'] == pytest.approx(0, abs=5e-5)
  assert metrics['objective/kl_k3'] == pytest.approx(0, abs=1e-6)


def test_the_value_model_starts_as_the_reward_model(first):
  """Its raw output at the last response token is the score."""
  rollout, _ = first
  value = fresh().params['value']
  chex.assert_trees_all_equal(value, REWARD)
  scores = tiny.jit(functools.partial(response_scores, SCALAR))(
    value, rollout.tokens, rollout.prompt_mask, rollout.response_mask
  )
  np.testing.assert_allclose(scores, rollout.scores, atol=1e-5)
  assert REWARD['head']['bias'] != 0
  last = rollout.response_mask.sum(axis=1) - 1
  old = np.take_along_axis(
    np.asarray(rollout.old_values), np.asarray(last)[:, None], axis=1
  )[:, 0]
  assert (np.abs(old - rollout.scores) > 1e-3).any()  # one position earlier


def test_the_rollout_is_in_order(first):
  rollout, metrics = first
  batch = prompts(0)
  np.testing.assert_array_equal(rollout.tokens[:, :P], batch.tokens)
  np.testing.assert_array_equal(rollout.prompt_mask, batch.mask)
  mask = np.asarray(rollout.response_mask)
  inside = np.asarray(rollout.advantages)[mask]
  np.testing.assert_allclose([inside.mean(), inside.var()], [0, 1], atol=1e-4)
  for name in (
    'old_logprobs',
    'ref_logprobs',
    'old_values',
    'kl',
    'rewards',
    'advantages',
    'returns',
    'scores',
  ):
    assert getattr(rollout, name).dtype == jnp.float32, name
  np.testing.assert_allclose(
    metrics['objective/scores'], rollout.scores.mean(), rtol=1e-5
  )
  np.testing.assert_allclose(
    metrics['response/length'], mask.sum() / B, rtol=1e-6
  )
  ended = (np.asarray(rollout.tokens[:, P:]) == tiny.EOS) & mask
  np.testing.assert_allclose(
    metrics['response/eos_frac'], ended.any(axis=1).mean(), rtol=1e-6
  )
  np.testing.assert_allclose(
    metrics['objective/entropy'],
    -np.asarray(rollout.old_logprobs)[mask].mean(),
    rtol=1e-5,
  )
  assert not ended.any(axis=1).all()
  rewards = (
    rollout.scores
    - KL_COEF * rollout.kl.sum(axis=1)
    - np.where(ended.any(axis=1), 0, 0.5)
  )
  np.testing.assert_allclose(rollout.rewards.sum(axis=1), rewards, atol=1e-4)
  np.testing.assert_allclose(
    metrics['objective/rewards'], np.mean(rewards), rtol=1e-4
  )
  assert metrics['objective/kl_coef'] == np.float32(KL_COEF)


def test_scores_of_bfloat16_models_are_float32():
  model, scalar = (tiny.model(dtype='bfloat16', num_layers=n) for n in (2, 1))
  run = make_score(model, scalar, scalar, SETTINGS)
  responses = jax.eval_shape(
    make_generate(model, SETTINGS), REF, prompts(), SEED, 0
  )
  rollout, _ = jax.eval_shape(
    run, REF, {'reward': REWARD}, REWARD, jnp.float32(0), prompts(), responses
  )
  for name in ('scores', 'rewards', 'returns', 'old_values', 'ref_logprobs'):
    assert getattr(rollout, name).dtype == jnp.float32


# --- Randomness --------------------------------------------------------------


def test_rollouts_of_two_steps_differ_though_nothing_was_learned(first):
  batch = prompts(0)
  one, again, two = (generate(REF, batch, SEED, step) for step in (0, 0, 1))
  np.testing.assert_array_equal(one.tokens, again.tokens)
  np.testing.assert_array_equal(one.tokens, first[0].tokens[:, P:])
  assert (one.tokens != two.tokens).any(axis=1).mean() > 0.9


def test_rollouts_of_two_seeds_differ():
  one, two = (generate(REF, prompts(0), SEED + i, 0) for i in (0, 1))
  assert (one.tokens != two.tokens).any(axis=1).mean() > 0.9


def test_parts_of_the_batch_change_nothing(first):
  rollout, metrics = first
  parts, parts_metrics = act(
    fresh(), generate_microbatch_size=6, score_microbatch_size=4
  )
  chex.assert_trees_all_close(parts, rollout, atol=1e-4)
  chex.assert_trees_all_close(parts_metrics, metrics, atol=1e-4)
  in_slots, _ = act(fresh(), rollout_slots=5)
  chex.assert_trees_all_close(in_slots, rollout, atol=1e-4)


# --- Gradients ---------------------------------------------------------------


@tiny.jit
@functools.partial(jax.grad, has_aux=True)
def plain_policy_loss(params, rollout, rows):
  """Equation 2 in a few lines; also returns its two parts."""
  mask = rollout.response_mask
  logprobs = response_logprobs(
    POLICY,
    params,
    rollout.tokens,
    rollout.prompt_mask,
    mask,
    chunk_size=0,
    temperature=0.7,
  )
  ratio = jnp.exp(logprobs - rollout.old_logprobs)
  gain = jnp.minimum(
    ratio * rollout.advantages, jnp.clip(ratio, 0.8, 1.2) * rollout.advantages
  )
  ppo = -(gain * mask).sum() / mask.sum()
  logprobs = packed_logprobs(POLICY, params, rows, 0)  # at temperature 1
  ptx = -(logprobs * rows.loss_mask).sum() / rows.loss_mask.sum()
  return ppo + PTX_COEF * ptx, {'loss/policy': ppo, 'loss/ptx': ptx}


@tiny.jit
@jax.value_and_grad
def plain_value_loss(params, rollout):
  mask, old = rollout.response_mask, rollout.old_values
  values = response_values(
    SCALAR, params, rollout.tokens, rollout.prompt_mask, mask
  )
  near = old + jnp.clip(values - old, -0.2, 0.2)
  errors = jnp.maximum(
    (values - rollout.returns) ** 2, (near - rollout.returns) ** 2
  )
  return 0.5 * (errors * mask).sum() / mask.sum()


# All parts at once: a mean is per token of the minibatch in either way.
WHOLE = dict(microbatch_size=0, ptx_microbatch_size=0)
PARTS = [{}, pytest.param(WHOLE, marks=pytest.mark.slow)]


@pytest.mark.parametrize('changes', PARTS)
def test_the_gradient_is_that_of_ppo_plus_gamma_times_that_of_pretraining(
  first, moved, changes
):
  half, rows = half_of(first[0]), ptx_rows(12)
  assert len(set(np.asarray(half.response_mask.sum(axis=1)).tolist())) > 1
  expected, losses = plain_policy_loss(moved[0], half, rows)
  total, metrics = policy_grad(**changes)(moved[0], packer()(half), rows)
  chex.assert_trees_all_close(total, expected, atol=2e-5)
  for name, loss in losses.items():
    assert metrics[name] == pytest.approx(float(loss), rel=1e-4, abs=1e-6)
  ppo, ppo_metrics = policy_grad(**changes)(
    moved[0], packer()(half), silent_rows(12)
  )
  assert ppo_metrics['loss/policy'] == metrics['loss/policy']
  rest = jax.tree.map(jnp.subtract, total, ppo)
  assert float(optax.tree.norm(rest)) > 0.1  # gamma times pretraining's


@pytest.mark.parametrize('changes', PARTS)
def test_the_gradient_of_the_value_model(first, moved, changes):
  half = half_of(first[0])
  loss, expected = plain_value_loss(moved[1], half)
  got, metrics = value_grad(**changes)(moved[1], packer()(half))
  chex.assert_trees_all_close(got, expected, atol=2e-5)
  assert metrics['loss/value'] == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.slow
def test_gamma_of_zero_is_ppo_to_the_bit(first, moved):
  half = packed_half(first[0])
  ppo, metrics = policy_grad()(moved[0], half, None)
  assert 'loss/ptx' not in metrics
  zero, _ = policy_grad(ptx_coef=0.0)(moved[0], half, ptx_rows(12))
  chex.assert_trees_all_equal(zero, ppo)


@pytest.mark.parametrize('chunk, tokens', [(30, 24), (0, 12 * 3)])
def test_logits_of_a_minibatch_are_never_all_in_memory(chunk, tokens, first):
  """A chunk is at most 30 tokens: two columns of twelve rows, of 53 pieces.

  Without a limit a chunk is a fourth of the columns.
  """
  model = tiny.model(vocab_size=53, d_model=4, num_heads=2)
  half = packed_half(first[0])
  grad = ppo_steps.make_policy_grad(
    model, settings(logits_chunk=chunk, microbatch_size=0)
  )
  jaxpr = jax.make_jaxpr(lambda params: grad(params, half, None))(
    tiny.params(model)
  ).jaxpr
  assert tiny.largest_with(jaxpr, 53) == tokens * 53


# --- The update --------------------------------------------------------------


@pytest.fixture(scope='module')
def expected_update(first):
  """One iteration of PPO-ptx in a plain loop; parameters after each step."""
  state, rollout = fresh(), first[0]
  apply = {
    name: tiny.jit(functools.partial(optimizer.apply, TX[name])) for name in TX
  }
  params, opt = dict(state.params), dict(state.opt_state)
  rows = ptx_rows(2 * B)
  history = []
  for epoch in range(2):
    key = jax.random.fold_in(rng.key(SEED, rng.Purpose.MINIBATCH, 0), epoch)
    order = np.asarray(jax.random.permutation(key, B))
    for i in range(2):
      part = jax.tree.map(lambda x: x[order[12 * i : 12 * (i + 1)]], rollout)
      start = 12 * (2 * epoch + i)
      ptx = jax.tree.map(lambda x: x[start : start + 12], rows)
      grads = {
        'policy': plain_policy_loss(params['policy'], part, ptx)[0],
        'value': plain_value_loss(params['value'], part)[1],
      }
      for name in TX:
        params[name], opt[name], _ = apply[name](
          grads[name], opt[name], params[name]
        )
      history.append(dict(params))
  return history, opt


@pytest.fixture(scope='module')
def ptx_update(first):
  return update(fresh(), first[0], ptx_rows(2 * B))


def test_an_update_is_a_step_per_minibatch(expected_update, ptx_update):
  """Every episode once an epoch; ptx in the same step, not in its own."""
  history, opt = expected_update
  state, metrics = ptx_update
  chex.assert_trees_all_close(state.params, history[-1], atol=1e-5)
  counts = [
    leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.dtype == jnp.int32
  ]
  assert counts == [4] * len(counts) and len(counts) == 4
  moments = lambda s: [x for x in jax.tree.leaves(s) if x.ndim]
  chex.assert_trees_all_close(moments(state.opt_state), moments(opt), atol=1e-5)
  assert int(state.step) == 1
  moved = jax.tree.map(
    lambda a, b: jnp.abs(a - b).max(), state.params['policy'], REF
  )
  assert jnp.median(jnp.array(jax.tree.leaves(moved))) > 5e-3
  for name in (
    'policy/grad_norm',
    'value/grad_norm',
    'loss/policy',
    'loss/value',
    'loss/ptx',
    'policy/clip_frac',
    'value/explained_variance',
  ):
    assert np.isfinite(metrics[name]), name


def test_the_average_follows_every_step_of_the_policy(
  expected_update, ptx_update
):
  """Its closed form: d^n start + (1 - d) sum d^(n - i) params_i."""
  history, _ = expected_update
  decay, n = SETTINGS.ema_decay, len(history)
  weights = [(1 - decay) * decay ** (n - 1 - i) for i in range(n)]
  expected = jax.tree.map(
    lambda start, *steps: (
      decay**n * start + sum(w * x for w, x in zip(weights, steps))
    ),
    REF,
    *(params['policy'] for params in history),
  )
  chex.assert_trees_all_close(ptx_update[0].ema_params, expected, atol=1e-5)
  far = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()), expected, history[-1]['policy']
  )
  assert max(jax.tree.leaves(far)) > 5e-3


def test_the_kl_coefficient_follows_its_target(ptx_update):
  # KL is 0, far below the target: the error is clipped to -0.2.
  expected = KL_COEF * (1 - 0.2 * B / 10_000)
  assert ptx_update[0].kl_coef == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_the_kl_coefficient_is_fixed_without_a_target(first):
  state, _ = updater(adaptive_kl_target=0.0)(fresh(), first[0], None, SEED)
  assert state.kl_coef == np.float32(KL_COEF)


def test_the_order_of_minibatches_depends_on_the_step(first):
  state = fresh()
  later = dataclasses.replace(state, step=on_device(jnp.int32(1)))
  one, again, two = (
    update(s, first[0])[0].params['policy']['embed']
    for s in (state, state, later)
  )
  np.testing.assert_array_equal(one, again)
  assert (one != two).any()


def test_the_golden_iteration(first):
  """A change here is a change of what PPO computes, or of what it samples.

  If it is meant, run the test and take the new numbers.
  """
  rollout, metrics = first
  _, updates = update(fresh(), rollout)
  got = {name: round(float({**metrics, **updates}[name]), 4) for name in GOLDEN}
  assert got == pytest.approx(GOLDEN, abs=2e-3), str(got)


GOLDEN = {
  'objective/scores': -0.1657,
  'objective/entropy': 3.6065,
  'loss/policy': -0.0148,
  'loss/value': 1.9915,
  'policy/approx_kl': 0.2089,
  'response/length': 4.1667,
}


# --- Learning ----------------------------------------------------------------


class CountRed:
  """A model whose hidden state is how often RED was said so far."""

  def apply(self, params, tokens, positions, segment_ids, **options):
    del params, options
    red = (tokens == RED) & (segment_ids > 0)
    total = jnp.cumsum(red, axis=1)
    # What was said before the segment does not count.
    before = jnp.where(positions == 0, total - red, 0)
    count = total - jax.lax.cummax(before, axis=1)
    return count[..., None].astype(jnp.float32), None


score_red = tiny.jit(make_score(POLICY, SCALAR, CountRed(), SETTINGS))


@functools.cache
def learn(sign, kl_coef=0.0, iterations=20):
  """(frequency of RED at the start and the end, metrics at the end)."""
  taste = {
    'backbone': {},
    'head': {'kernel': jnp.float32([sign]), 'bias': jnp.float32(0)},
  }
  state = fresh(kl_coef)
  found = []
  for step in range(iterations):
    batch = prompts(step)
    responses = generate(state.params['policy'], batch, SEED, step)
    found.append(
      float(
        ((responses.tokens == RED) & responses.mask).sum()
        / responses.mask.sum()
      )
    )
    rollout, metrics = score_red(
      REF,
      {'reward': taste},
      state.params['value'],
      state.kl_coef,
      batch,
      responses,
    )
    state, _ = update(state, rollout)
  return np.mean(found[:3]), np.mean(found[-3:]), metrics


def test_ppo_says_what_is_rewarded_more_often():
  start, end, metrics = learn(sign=1.0)
  assert start < 0.1 and end > 0.6
  assert metrics['objective/scores'] > 3
  # Which of two rare frequencies is less is chance: one token of 130 each.
  start, end, _ = learn(sign=-1.0)
  assert max(start, end) < 0.1


def test_the_penalty_keeps_the_policy_near_its_reference():
  *_, free = learn(sign=1.0)
  _, end, near = learn(sign=1.0, kl_coef=2.0)
  assert free['objective/kl'] > 5
  assert near['objective/kl'] < 2
  assert end < 0.5


# --- Samples -----------------------------------------------------------------


def test_samples_are_text_without_padding(first):
  rollout = first[0]
  tok = types.SimpleNamespace(decode=lambda ids: ' '.join(map(str, ids)))
  shown = ppo_steps.samples(jax.device_get(rollout), tok, 3)
  assert len(shown) == 3
  for i, sample in enumerate(shown):
    prompt = np.asarray(rollout.tokens[i, :P])[rollout.prompt_mask[i]]
    response = np.asarray(rollout.tokens[i, P:])[rollout.response_mask[i]]
    assert sample['prompt'] == ' '.join(map(str, prompt))
    assert sample['response'] == ' '.join(map(str, response))
    assert sample['score'] == pytest.approx(float(rollout.scores[i]))
    assert sample['kl'] == pytest.approx(float(rollout.kl[i].sum()), abs=1e-6)


def test_settings_count_their_updates():
  assert SETTINGS.num_minibatches == 2
  assert SETTINGS.updates_per_iteration == 4
  assert heads.head_axes().keys() == REWARD['head'].keys()
