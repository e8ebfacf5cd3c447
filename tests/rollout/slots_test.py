"""Sampling in slots against the plain loop of `rollout.generate`."""

import functools

import jax
import numpy as np
import pytest

from experiments import common as experiment
from instructrl import rng
from instructrl import rollout
from instructrl.rollout import slots
from instructrl.runtime import sharding
from tests import tiny

PAD, EOS = tiny.PAD, tiny.EOS
KEY = rng.key(0, rng.Purpose.ROLLOUT, 0)
B, P, R = 14, 19, 12
FIELDS = dict(num_layers=1, positions='rotary')
_rng = np.random.default_rng(0)
PROMPTS = [
  _rng.integers(6, tiny.VOCAB, n).tolist()
  for n in (1, 19, 4, 4, 17, 2, 9, 9, 9, 16, 3, 12, 5, 1)
]
# Rows that end at once, rows that EOS may end, rows that end at R.
LIMITS = np.array([12, 1, 12, 3, 12, 1, 9, 12, 2, 12, 12, 1, 12, 7])


@functools.cache
def model_of(**fields):
  model = tiny.model(**FIELDS | fields)
  return model, tiny.params(model, std=0.15)


@functools.cache
def plain(temperature=1.0, **fields):
  model, params = model_of(**fields)
  return tiny.jit(
    lambda prompts, rows, limits: rollout.generate(
      model,
      params,
      prompts,
      KEY,
      response_len=R,
      eos_id=EOS,
      pad_id=PAD,
      rows=rows,
      max_tokens=limits,
      stop_id=7,
      temperature=temperature,
    )
  )


@functools.cache
def in_slots(num_slots, temperature=1.0, **fields):
  model, params = model_of(**fields)
  return tiny.jit(
    lambda prompts, rows, limits, prompt_of, count: slots.generate(
      model,
      params,
      prompts,
      KEY,
      slots=num_slots,
      response_len=R,
      eos_id=EOS,
      pad_id=PAD,
      rows=rows,
      prompt_of=prompt_of,
      count=count,
      max_tokens=limits,
      stop_id=7,
      temperature=temperature,
    )
  )


def expected(prompts=PROMPTS, limits=LIMITS, **fields):
  return plain(**fields)(tiny.prompt_batch(prompts, P), np.arange(B), limits)


def sampled(num_slots, limits=LIMITS, prompt_of=range(B), count=B, **fields):
  return in_slots(num_slots, **fields)(
    tiny.prompt_batch(PROMPTS, P),
    np.arange(B),
    limits,
    np.asarray(prompt_of),
    np.int32(count),
  )


def assert_equal(out, wanted, rows=B):
  np.testing.assert_array_equal(out.tokens[:rows], wanted.tokens[:rows])
  np.testing.assert_array_equal(out.mask[:rows], wanted.mask[:rows])
  np.testing.assert_allclose(
    out.logprobs[:rows], wanted.logprobs[:rows], atol=1e-5
  )
  for x in (out.mask, out.logprobs, out.tokens != PAD):
    assert not np.asarray(x)[rows:].any()


@pytest.mark.parametrize(
  'num_slots, fields',
  [
    (1, {}),
    (5, {}),
    (5, tiny.GEMMA | {'num_layers': 2}),
    (40, {}),
    pytest.param(3, dict(num_layers=2, scan_unroll=2), marks=pytest.mark.slow),
    pytest.param(6, dict(positions='learned'), marks=pytest.mark.slow),
    pytest.param(B, tiny.LLAMA, marks=pytest.mark.slow),
  ],
)
def test_the_responses_are_those_of_the_plain_loop(num_slots, fields):
  wanted = expected(**fields)
  ended = ((wanted.tokens == EOS) | (wanted.tokens == 7)).any(axis=1)
  assert 0 < ended.sum() < B  # some by a token, some by their limit
  out, _ = sampled(num_slots, **fields)
  assert_equal(out, wanted)


@pytest.mark.parametrize('limit', [1, R])
def test_all_rows_end_at_once_or_by_a_token(limit):
  limits = np.full(B, limit)
  out, work = sampled(5, limits)
  assert_equal(out, expected(limits=limits))
  assert (work.decode > 0) == (limit > 1)


def test_one_slot_computes_no_step_without_a_token():
  """The first token of a row comes from the pass over its prompt."""
  out, work = sampled(1)
  assert work.decode == out.mask.sum() - B
  chunks = np.ceil([len(prompt) / 16 for prompt in PROMPTS])
  assert work.prompt == 16 * chunks.sum()


def test_slots_compute_few_steps_without_a_token():
  out, work = sampled(5)
  steps = int(out.mask.sum()) - B
  assert steps <= work.decode < 1.6 * steps
  assert 1.6 * steps < B * (R - 1)  # of the plain loop


def test_rows_of_one_prompt_share_its_pass():
  prompt_of = np.repeat([1, 6, 10], [6, 3, 5])
  out, work = sampled(5, prompt_of=prompt_of)
  assert_equal(out, expected([PROMPTS[i] for i in prompt_of]))
  # Three prompts of 3, 9 and 19 tokens, in one group of three.
  assert work.prompt == 3 * 32
  assert len({tuple(row) for row in np.asarray(out.tokens).tolist()}) == B


@pytest.mark.parametrize('count', [0, 1, 9])
def test_only_the_first_rows_are_sampled(count):
  out, work = sampled(5, count=count)
  assert_equal(out, expected(), rows=count)
  assert count or not work.prompt and not work.decode


@pytest.mark.slow
def test_the_temperature_is_used():
  wanted = expected(temperature=0.5)
  out, _ = sampled(5, temperature=0.5)
  assert_equal(out, wanted)
  assert (out.tokens != expected().tokens).any()


@pytest.mark.parametrize(
  'shape',
  [
    dict(data=2, fsdp=2, tensor=2),
    pytest.param(dict(fsdp=8), marks=pytest.mark.slow),
    pytest.param(dict(fsdp=3, tensor=2), marks=pytest.mark.slow),
  ],
)
def test_the_mesh_changes_nothing(shape):
  """Slots are divided over the parts of the mesh; 14 rows are not."""
  devices = jax.devices()[: int(np.prod(list(shape.values())))]
  mesh = sharding.make_mesh(shape, devices)
  model = tiny.model(**FIELDS, rules=experiment.RULES)
  params = model_of()[1]
  params = jax.device_put(
    params,
    sharding.tree_shardings(
      mesh, model.logical_axes(), params, experiment.RULES
    ),
  )
  with jax.set_mesh(mesh):
    out, _ = tiny.jit(
      lambda params, prompts: slots.generate(
        model,
        params,
        prompts,
        KEY,
        slots=5,
        response_len=R,
        eos_id=EOS,
        pad_id=PAD,
        max_tokens=LIMITS,
        stop_id=7,
      )
    )(params, tiny.prompt_batch(PROMPTS, P))
  assert_equal(out, expected())
