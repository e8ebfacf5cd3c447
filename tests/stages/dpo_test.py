"""The DPO stage."""

import dataclasses
import functools
import math
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrl import losses
from instructrl.runtime import checkpoint
from instructrl.runtime import metrics
from instructrl.runtime import optimizer
from instructrl.runtime import run_folder
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import dpo
from instructrl.stages import reward
from instructrl.stages import scoring
from tests import padded
from tests import tiny
from tests.stages.reward_test import K
from tests.stages.reward_test import make_batch
from tests.stages.reward_test import make_rankings
from tests.stages.reward_test import P
from tests.stages.reward_test import R

MODEL = tiny.model()
PARAMS = jax.tree.map(jnp.asarray, tiny.params(MODEL, std=0.15))
BETA = 0.1

ranked_logprobs = tiny.jit(
  functools.partial(dpo.ranked_logprobs, MODEL, chunk_size=0)
)


def referenced(elements, params=PARAMS) -> dpo.ReferenceBatch:
  batch = make_batch(elements)
  return dpo.with_reference(batch, ranked_logprobs(params, batch))


# --- Log-probabilities -------------------------------------------------------


def test_logprobs_equal_those_of_each_response_on_its_own():
  """The prompt stands once for all responses here, and before each there."""
  elements = make_rankings(6, seed=0)
  batch = make_batch(elements)
  found = ranked_logprobs(PARAMS, batch)
  prompts = [e.prompt for e in elements for _ in e.responses]
  responses = [r for e in elements for r in e.responses]
  asked = tiny.prompt_batch(prompts, P)
  tokens, mask = tiny.response_arrays(responses, R)
  plain = functools.partial(padded.response_logprobs, MODEL, chunk_size=0)
  whole = np.concatenate([asked.tokens, tokens], 1)
  expected = tiny.jit(plain)(PARAMS, whole, asked.mask, mask).sum(axis=1)
  np.testing.assert_allclose(found[batch.valid], expected, atol=1e-4)
  np.testing.assert_array_equal(np.asarray(found)[~batch.valid], 0)


def test_logprobs_depend_neither_on_padding_nor_on_the_order_of_responses():
  elements = make_rankings(6, seed=0)
  batch = make_batch(elements)
  expected = np.asarray(ranked_logprobs(PARAMS, batch))
  wide = make_batch(elements, seq_len=P + K * R + 3)
  garbage = np.where(wide.segment_ids == 0, 33, wide.tokens)
  np.testing.assert_allclose(
    ranked_logprobs(PARAMS, dataclasses.replace(wide, tokens=garbage)),
    expected,
    atol=1e-4,
  )
  backwards = [
    dataclasses.replace(e, responses=e.responses[::-1]) for e in elements
  ]
  turned = ranked_logprobs(PARAMS, make_batch(backwards))
  for element, a, b in zip(elements, expected, turned):
    k = len(element.responses)
    np.testing.assert_allclose(b[:k][::-1], a[:k], atol=1e-4)


def test_chunks_of_the_logits_change_nothing():
  batch = make_batch(make_rankings(6, seed=0))
  np.testing.assert_allclose(
    tiny.jit(dpo.ranked_logprobs, static_argnums=(0, 3))(
      MODEL, PARAMS, batch, 20
    ),
    ranked_logprobs(PARAMS, batch),
    atol=1e-4,
  )


# --- The step ----------------------------------------------------------------


def loss_fn(params, batch, **counts):
  return losses.dpo_loss(
    dpo.ranked_logprobs(MODEL, params, batch, 0),
    batch.ref_logprobs,
    batch.ranks,
    batch.valid,
    beta=BETA,
    **counts,
  )


def test_microbatches_add_up_to_the_batch():
  elements = make_rankings(5, seed=3)
  tied = dataclasses.replace(elements[0], ranks=(0,) * len(elements[0].ranks))
  other = jax.tree.map(jnp.asarray, tiny.params(MODEL, seed=1, std=0.15))
  batch = referenced([*elements, tied], other)
  tx = optax.sgd(1.0)
  step = tiny.jit(
    reward.rankings_step(loss_fn, tx, lambda step: step, microbatch_size=2)
  )
  state = build.fresh_state(PARAMS, tx)
  after, values = step(state, batch)
  (loss, expected), gradient = tiny.jit(
    jax.value_and_grad(loss_fn, has_aux=True)
  )(PARAMS, batch)
  chex.assert_trees_all_close(
    jax.tree.map(jnp.subtract, state.params, after.params), gradient, atol=1e-5
  )
  np.testing.assert_allclose(values['loss/train'], loss, rtol=1e-5)
  for name, there in (
    ('accuracy/train', 'reward/accuracy'),
    ('reward/margin', 'reward/margin'),
    ('reward/chosen', 'reward/chosen'),
    ('reward/rejected', 'reward/rejected'),
    ('data/pairs', 'reward/num_pairs'),
  ):
    np.testing.assert_allclose(
      values[name], expected[there], rtol=1e-4, atol=1e-6, err_msg=name
    )


@pytest.mark.slow
def test_a_preference_is_learned():
  """On held-out rankings; with the labels turned around, it is unlearned."""
  tx = optimizer.make_optimizer(
    optimizer.make_schedule(peak_lr=3e-3, num_steps=60),
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    max_grad_norm=1.0,
  )
  step = tiny.jit(
    reward.rankings_step(loss_fn, tx, lambda step: step, microbatch_size=0)
  )
  held = [referenced(make_rankings(16, seed)) for seed in range(100, 104)]
  # The likelihoods of the start, whose implicit rewards are all 0.
  start = scoring.accuracy(ranked_logprobs, PARAMS, held, 0)['accuracy']

  def rewards(params, batch):
    return BETA * (ranked_logprobs(params, batch) - batch.ref_logprobs)

  found = []
  for sign in (1, -1):
    state = build.fresh_state(PARAMS, tx)
    for seed in range(60):
      batch = referenced(make_rankings(16, seed))
      batch = dataclasses.replace(batch, ranks=sign * batch.ranks)
      state, _ = step(state, batch)
    accuracy = scoring.accuracy(rewards, state.params, held, 0)['accuracy']
    margins = [
      losses.ranking_loss(rewards(state.params, b), b.ranks, b.valid)[1]
      for b in held
    ]
    found.append((accuracy, np.mean([m['reward/margin'] for m in margins])))
  (right, margin), (turned, negative) = found
  assert right > 0.85 > start > 0.15 > turned
  assert margin > 0.1 and negative < -0.1


# --- The stage ---------------------------------------------------------------


@pytest.fixture
def config(configs):
  configs['dpo'].optimizer.warmup_steps = 0
  return configs['dpo']


def test_a_run_starts_from_its_reference_and_improves(
  config, workdir, one_device
):
  config.update(num_epochs=4)
  result = dpo.run(config, workdir)
  lines = metrics.read_metrics(workdir)
  first = next(line for line in lines if 'loss/train' in line)
  assert first['loss/train'] == pytest.approx(np.log(2), abs=1e-5)
  assert first['reward/margin'] == pytest.approx(0, abs=1e-5)
  held = [line for line in lines if 'loss/validation' in line]
  assert held[0]['step'] == 0
  assert held[0]['loss/validation'] == pytest.approx(np.log(2), abs=1e-5)
  last = [line for line in lines if 'loss/train' in line][-1]
  assert last['loss/train'] < first['loss/train']
  assert last['reward/margin'] > 0
  assert result['num_steps'] == 12 == last['step']
  assert result['rankings'] == 20 and result['rankings_dropped'] == 0
  assert set(result['accuracy']) == {'in_group', 'heldout'}
  for name, split in (('in_group', 'validation'), ('heldout', 'heldout')):
    assert result['accuracy'][name]['accuracy'] == pytest.approx(
      held[-1][f'accuracy/{split}']
    )


def test_the_reference_covers_all_rankings_that_steps_need(
  config, workdir, one_device, monkeypatch
):
  """All of an epoch; those of the steps, where there are fewer."""
  found = []
  prepare = dpo.prepare

  def spy(*args):
    prepared = prepare(*args)
    found.append(prepared[1])
    return prepared

  monkeypatch.setattr(dpo, 'prepare', spy)
  dpo.run(config, workdir)
  config.num_steps = 1
  dpo.run(config, workdir.parent / 'short')
  full, short = ((array != 0).any(axis=1).sum() for array in found)
  assert (full, short) == (20, config.batch_size)
  used = (found[1] != 0).any(axis=1)
  np.testing.assert_allclose(found[1][used], found[0][used], rtol=1e-5)


def test_what_it_exports_is_the_trained_policy(config, workdir, one_device):
  config.num_steps = 2
  dpo.run(config, workdir)
  run_folder.write_done(workdir, {'result': {}})
  trained, meta = checkpoint.restore_params(workdir, ('params',))
  start, _ = checkpoint.restore_params(workdir.parent / 'sft', ('params',))
  assert meta['export'] == ['params'] and meta['config']['stage'] == 'dpo'
  chex.assert_trees_all_equal_shapes_and_dtypes(trained, start)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), trained, start)
  assert max(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(beta=0.0), 'beta must be greater than 0'),
    (dict(beta=-0.1), 'beta must be greater than 0'),
    (dict(beta=math.inf), 'beta must be .*got inf'),
    (dict(logits_chunk=-1), 'logits_chunk'),
    (dict(num_steps=-1), 'num_steps'),
    (dict(max_responses=1), 'max_responses'),
    (dict(microbatch_size=3), 'microbatch_size'),
  ],
)
def test_fields_that_make_no_sense_are_refused(config, changes, message):
  dpo.validate(config)
  config.update(changes)
  with pytest.raises(checks.ConfigError, match=message):
    dpo.validate(config)


def test_only_the_loss_the_stage_and_its_label_name_dpo():
  """Discovery finds the stage, and policies are a table of the experiment."""
  package = pathlib.Path(dpo.__file__).parents[1]
  named = {
    path.relative_to(package).as_posix()
    for path in package.rglob('*.py')
    if re.search('(?<![a-z])dpo', path.read_text().lower())
  }
  assert named == {'losses.py', 'stages/dpo.py', 'stages/policy_settings.py'}
