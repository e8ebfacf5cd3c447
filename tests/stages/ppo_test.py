"""The PPO stage: what it refuses, what it reads, and what it writes."""

import dataclasses
import json
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.data import tasks
from instructrl.data.records import Prompt
from instructrl.runtime import checkpoint
from instructrl.runtime import errors
from instructrl.runtime import metrics
from instructrl.runtime import sharding
from instructrl.runtime.checkpointer import Checkpointer
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import ppo
from instructrl.stages import ppo_program
from instructrl.stages import ppo_validation
from instructrl.stages.run import Run
from tests import tiny
from tests.stages.conftest import save_run


@pytest.mark.parametrize(
  'field, value, message',
  [
    # Sampling from a part of the distribution has other log-probabilities.
    (
      'ppo.top_p',
      0.9,
      'ppo.top_p must be 1; got 0.9 .*: PPO needs the log-probs of the w',
    ),
    (
      'ppo.temperature',
      0.0,
      'ppo.temperature must be greater than 0 .*; got 0.0',
    ),
    ('model.dropout', 0.1, 'model.dropout must be 0 in PPO'),
    ('value_model.dropout', 0.1, 'value_model.dropout must be 0 in PPO'),
    ('ppo.ema_decay', 1.0, 'ppo.ema_decay must be .*less than 1; got 1.0'),
    ('ppo.kl_coef', -0.1, 'ppo.kl_coef must be at least 0 .*; got -0.1'),
    ('ppo.kl_coef', float('nan'), 'ppo.kl_coef must .*; got nan'),
    ('ppo.ptx_coef', -1.0, 'ppo.ptx_coef must be at least 0 .*; got -1.0'),
    (
      'ppo.adaptive_kl_target',
      -1.0,
      'ppo.adaptive_kl_target must .*; got -1.0',
    ),
    (
      'ppo.minibatch_size',
      3,
      'ppo.minibatch_size must divide the batch_size, 8; got 3',
    ),
    (
      'ppo.microbatch_size',
      3,
      'ppo.microbatch_size must divide the minibatch_size, 4; got 3',
    ),
    ('ppo.generate_microbatch_size', 3, 'ppo.generate_microbatch_size must d'),
    ('ppo.score_microbatch_size', 3, 'ppo.score_microbatch_size must divide'),
    ('ppo.batch_size', 0, 'ppo.batch_size must be at least 1; got 0'),
    ('ppo.num_ppo_epochs', 0, 'ppo.num_ppo_epochs must .*; got 0'),
    ('ppo.num_iterations', 0, 'ppo.num_iterations must .*; got 0'),
    (
      'ppo.clip_eps',
      0.0,
      'ppo.clip_eps must be greater than 0 and less than 1; got 0.0',
    ),
    (
      'ppo.value_clip_eps',
      0.0,
      'ppo.value_clip_eps must be greater than 0; got 0.0',
    ),
    (
      'ppo.gae_lambda',
      1.5,
      'ppo.gae_lambda must be at least 0 and at most 1; got 1.5',
    ),
    ('ppo.discount', 27.8, "the paper's gamma is ppo.ptx_coef"),
    (
      'ppo.missing_eos',
      'ignore',
      "ppo.missing_eos must be one of none, .*; got 'ignore'",
    ),
    (
      'ppo.response_len',
      9,
      r'model.max_len must be at least .* = 8 \+ 9; got 16',
    ),
    (
      'value_model.max_len',
      11,
      'value_model.max_len must be at least .*; got 11',
    ),
    (
      'value_optimizer.peak_lr',
      -1.0,
      'value_optimizer.peak_lr must .*; got -1.0',
    ),
    ('ppo.logits_chunk', -1, 'ppo.logits_chunk must be at least 0; got -1'),
    ('eval_every', -1, 'eval_every must be at least 0.*; got -1'),
    ('eval_batches', 0, 'eval_batches must be at least 1; got 0'),
    ('samples_every', -1, 'samples_every must be at least 0.*; got -1'),
  ],
)
def test_configs_that_make_no_sense_are_refused_by_name(
  configs, field, value, message
):
  config = configs['ppo']
  ppo.validate(config)
  config.update_from_flattened_dict({field: value})
  with pytest.raises(checks.ConfigError, match=message):
    ppo.validate(config)


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'ppo.adaptive_kl_target': 6.0, 'ppo.adaptive_kl_horizon': 0.0},
      'ppo.adaptive_kl_horizon must be greater than 0 with ppo.adaptive_kl_t',
    ),
    (
      {'ppo.ptx_coef': 1.0, 'ppo.ptx_examples_per_episode': 0},
      'ppo.ptx_examples_per_episode must be at least 1 with ppo.ptx_coef',
    ),
    (
      {
        'ppo.ptx_coef': 1.0,
        'ppo.ptx_examples_per_episode': 3,
        'ppo.ptx_microbatch_size': 5,
      },
      'ppo.ptx_microbatch_size must divide the pretraining rows .*, 12; got 5',
    ),
  ],
)
def test_fields_that_do_not_fit_each_other(configs, changes, message):
  config = configs['ppo']
  config.update_from_flattened_dict(changes)
  with pytest.raises(checks.ConfigError, match=message):
    ppo.validate(config)


@pytest.mark.parametrize(
  'changes',
  [
    {'ppo.ema_decay': 0.0},
    {'ppo.ptx_microbatch_size': 5},
    {'ppo.adaptive_kl_horizon': 0.0},
    {'ppo.value_clip_eps': float('inf')},
    {'ppo.kl_coef': 0.0},
    {'eval_every': 0},
    {'samples_every': 0},
  ],
)
def test_configs_that_make_sense(configs, changes):
  configs['ppo'].update_from_flattened_dict(changes)
  ppo.validate(configs['ppo'])


def test_prompts_are_laid_out_by_turns(monkeypatch, tok):
  asked = [
    Prompt('p', 'the text', 'u', 'chat', 'train', turns=turns)
    for turns in ((), ('Who?', 'Mara.', 'Why?'))
  ]
  monkeypatch.setattr(ppo.inputs, 'records', lambda *_: asked)
  _, tokens, _ = ppo.load_prompts(None, tok, 'train', 99)
  assert tokens == [tok.prompt('the text'), tok.prompt('', asked[1].turns)]


def test_prompts_that_do_not_fit_are_dropped_and_counted(study, tok):
  run = types.SimpleNamespace(input=lambda name: study / 'lab')
  records, tokens, dropped = ppo.load_prompts(run, tok, 'train', 8)
  assert len(records) == len(tokens) == 20 and dropped == 0
  assert tokens == [tasks.chat_prompt(tok, r.text) for r in records]
  short, tokens, dropped = ppo.load_prompts(run, tok, 'train', 5)
  assert 0 < len(short) == len(tokens) == 20 - dropped < 20
  assert max(map(len, tokens)) == 5
  with pytest.raises(checks.ConfigError, match="no prompt of 'train' fits"):
    ppo.load_prompts(run, tok, 'train', 2)


def test_warmup_counts_iterations(configs, one_device, monkeypatch):
  """The schedule counts optimizer steps, of which an iteration has four."""
  config = configs['ppo']
  config.ppo.update(num_ppo_epochs=2, warmup_iterations=10)
  config.optimizer.peak_lr = config.value_optimizer.peak_lr = 1.0
  made, make = [], build.make_optimizer
  record = lambda *args, **kwargs: (
    made.append(make(*args, **kwargs)) or made[-1]
  )
  monkeypatch.setattr(build, 'make_optimizer', record)
  mesh = sharding.make_mesh(config.mesh.to_dict())
  ppo_program.PPOProgram(config, mesh, vocab_size=50, eos_id=2, pad_id=0)
  assert len(made) == 2
  for _, schedule in made:
    np.testing.assert_allclose(
      [schedule(s) for s in (0, 20, 40, 1000)], [0.1, 0.55, 1, 1], rtol=1e-6
    )


# --- Whole stages ------------------------------------------------------------


def test_where_a_run_starts_and_what_it_evaluates(
  configs, workdir, study, one_device, nothing_ahead, monkeypatch
):
  """All of the reward model is the value model; the average is evaluated."""
  found = {}

  def loop(run, state, step_fn, num_steps, *, evaluate, **kwargs):
    other = jax.tree.map(lambda x: x + 0.5 * jnp.sign(x), state.ema_params)
    changed = dataclasses.replace(
      state, params={**state.params, 'policy': other}
    )
    averaged = dataclasses.replace(state, ema_params=other)
    found.update(
      state=jax.device_get(state),
      nll=[evaluate(s, 0)['pretrain/nll'] for s in (state, changed, averaged)],
    )
    return state

  monkeypatch.setattr(Run, 'loop', loop)
  ppo.run(configs['ppo'], workdir)
  state = found['state']
  policy, _ = inputs.exported(study / 'ppo_init')
  reward_model, _ = inputs.exported(study / 'reward')
  assert reward_model['head']['bias'] != 0
  chex.assert_trees_all_equal(state.params['value'], reward_model)
  chex.assert_trees_all_equal(state.params['policy'], policy)
  chex.assert_trees_all_equal(state.ema_params, policy)
  started, changed, averaged = found['nll']
  assert started == changed and abs(averaged - started) > 1e-3


def test_the_validation_reward_is_of_the_average_on_validation_prompts(
  configs, workdir, one_device, monkeypatch
):
  """Each prompt once, scored as its text says, at draws of its own."""
  config = configs['ppo']
  config.ppo.update(num_iterations=2, ema_decay=0.5)
  config.validation_prompts = 5
  measure, given = ppo_validation.measure, []

  def spy(run, program, score, state, average, prompts):
    given.append(jax.device_get((state.ema_params, state.params, average)))
    return measure(run, program, score, state, average, prompts)

  monkeypatch.setattr(ppo_validation, 'measure', spy)
  config.rewards.reward_model.weight = 0.0
  config.rewards.words.kind = 'function'
  config.rewards.words.function = 'tests.stages.ppo_test:count_words'
  ASKED.clear()
  result = ppo.run(config, workdir)
  asked = ASKED[-1]  # the only batch after two iterations
  assert [p.split for p, _ in asked[:5]] == ['validation'] * 5
  assert len({p.id for p, _ in asked[:5]}) == 5 and asked[5][0] == asked[4][0]
  scores = count_words(*zip(*asked[:5]))
  found = result['validation']
  assert found['reward']['value'] == pytest.approx(np.mean(scores))
  assert found['reward']['n'] == found['kl']['n'] == 5
  low, high = found['kl']['ci95']
  assert low <= found['kl']['value'] <= high
  assert found['kl']['value'] != 0  # the average has moved from its start
  ((ema, params, average),) = given
  chex.assert_trees_all_equal(average, ema)
  assert np.abs(average['embed'] - params['policy']['embed']).max() > 0


ASKED: list = []  # (prompt, response) of each call of `count_words`


def count_words(prompts, responses):
  ASKED.append(list(zip(prompts, responses)))
  return [float(len(text.split())) for text in responses]


@pytest.mark.slow
def test_a_reward_that_is_not_finite_stops_the_run(
  configs, workdir, tok, one_device
):
  config = configs['ppo']
  model = build.make_model(config, tok.vocab_size)
  broken = tiny.scalar_params(model, std=0.05)
  broken['head']['bias'] = np.float32('nan')
  config.rewards.reward_model.path = '../broken'
  save_run(workdir.parent / 'broken', tok, broken)
  with pytest.raises(errors.NonFiniteError, match='step 1: .*objective/sco'):
    ppo.run(config, workdir)
  assert not Checkpointer(workdir / 'checkpoints').steps()
  assert [l['step'] for l in metrics.read_metrics(workdir)] == [0]


@pytest.mark.slow
def test_gamma_of_zero_is_ppo_to_the_bit(
  configs, workdir, tmp_path, one_device
):
  """And PPO-ptx is something else."""
  files = []
  for stage, ptx_coef in (('ppo', 0.0), ('ppo_ptx', 0.0), ('ppo_ptx', 2.0)):
    folder = tmp_path / f'{stage}{ptx_coef}'
    config = configs[stage]
    config.ppo.ptx_coef = ptx_coef
    ppo.run(config, folder)
    files.append((folder / 'metrics.jsonl').read_bytes())
  assert files[0] == files[1] != files[2]
  lines = [json.loads(line) for line in files[2].splitlines()]
  assert any('loss/ptx' in line for line in lines)


@pytest.mark.slow
def test_the_average_is_evaluated_and_exported(configs, workdir, one_device):
  result = ppo.run(
    configs['ppo'],
    workdir,
    judge=lambda prompts, responses: np.arange(len(prompts)),
  )
  lines = metrics.read_metrics(workdir)
  assert [l['step'] for l in lines if 'pretrain/nll' in l] == [0, 2, 4]
  assert lines[-1]['pretrain/nll'] == result['pretrain/nll']
  assert {
    l['step']: l['objective/judge'] for l in lines if 'objective/judge' in l
  } == {1: 3.5, 2: 3.5, 4: 3.5}
  newest = checkpoint.find(workdir)
  average, meta = inputs.exported(workdir)
  assert meta['export'] == ['ema_params']
  policy, _ = checkpoint.restore_params(newest, ('params', 'policy'))
  saved, _ = checkpoint.restore_params(newest, ('ema_params',))
  np.testing.assert_array_equal(average['embed'], saved['embed'])
  assert np.abs(average['embed'] - policy['embed']).max() > 1e-5
  samples = [
    json.loads(line)
    for line in (workdir / 'samples.jsonl').read_text().splitlines()
  ]
  assert [s['step'] for s in samples] == [1] * 8 + [2] * 8 + [4] * 8
  assert all(s['prompt'].startswith('say ') for s in samples)


@pytest.mark.slow
@pytest.mark.parametrize('asked', [False, True])
def test_an_iteration_waits_only_for_timings(
  asked, configs, workdir, one_device, monkeypatch, caplog
):
  """Nor does it compile: threads did, of which this one logs nothing."""
  config = configs['ppo']
  config.ppo.update(num_iterations=2, ema_decay=0.0)
  config.log.timings = asked
  waits, wait = [], jax.block_until_ready
  monkeypatch.setattr(
    jax, 'block_until_ready', lambda x: waits.append(x) or wait(x)
  )
  with jax.log_compiles():
    ppo.run(config, workdir)
  compiled = {
    name
    for name in ('init', 'make_state', 'generate', 'score', 'update')
    if f'Finished XLA compilation of jit({name})' in caplog.text
  }
  assert compiled <= {'init', 'make_state'}, compiled
  assert 'Finished XLA compilation' in caplog.text
  lines = metrics.read_metrics(workdir / 'timings.jsonl')
  timed = [line['step'] for line in lines if 'perf/score_s' in line]
  assert timed == ([1, 2] if asked else [])
  assert len(waits) == (6 if asked else 0)
