"""Language-model stages: pretraining, SFT, and SFT with a pretraining mix."""

import dataclasses
import functools
import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import ppo_init
from instructrl import sample
from instructrl.data import pipeline
from instructrl.data import rows
from instructrl.data import store
from instructrl.data import tasks
from instructrl.data.records import Document
from instructrl.runtime import metrics
from instructrl.runtime import optimizer
from instructrl.runtime.checkpointer import Checkpointer
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import lm
from instructrl.stages import opening
from instructrl.stages import side_by_side
from instructrl.tokenizers.imported import HFTokenizer
from instructrl.tokenizers.trained import Tokenizer
from instructrl.types import LMBatch
from tests import tiny
from tests import tokenizer_families as families

MODEL = tiny.model()
PARAMS = jax.tree.map(jnp.asarray, tiny.params(MODEL, std=0.1))
T = 10


@functools.cache
def batch(seed=0) -> LMBatch:
  """Packed rows; some hold one target that counts, some many."""
  rng = np.random.default_rng(seed)
  examples = []
  for length in (9, 4, 4, 7, 10, 3, 3, 5, 8):
    tokens = rng.integers(6, tiny.VOCAB, length + 1).tolist()
    examples.append(
      tasks.lm_example(tokens, loss_from=int(rng.integers(1, length + 1)))
    )
  rows = tasks.pack_rows(examples, T)
  assert rows['tokens'].shape == (6, T)
  return LMBatch(**rows)


@functools.cache
def descend(microbatch_size=0, dropout=0.0):
  """(state, batch) -> (state, metrics) of gradient descent at rate 1."""
  model = tiny.model(dropout=dropout)
  tx = optax.sgd(1.0)
  step = tiny.jit(
    lm.make_step(
      model,
      tx,
      lambda step: 0.5 + step,
      seed=0,
      logits_chunk=7,
      microbatch_size=microbatch_size,
    )
  )
  return step, build.fresh_state(PARAMS, tx)


def gradient(data, **kwargs):
  """(gradient, metrics) of one step: the parameters before minus after."""
  step, state = descend(**kwargs)
  after, values = step(state, data)
  assert int(after.step) == 1
  return jax.tree.map(jnp.subtract, state.params, after.params), values


def _plain_loss(params, data):
  """Cross-entropy in one line, of the targets that count."""
  hidden, _ = MODEL.apply(params, data.tokens, data.positions, data.segment_ids)
  logprobs = jax.nn.log_softmax(hidden @ params['embed'].T)
  chosen = (logprobs * jax.nn.one_hot(data.targets, tiny.VOCAB)).sum(-1)
  return -(chosen * data.loss_mask).sum() / data.loss_mask.sum()


plain_loss = tiny.jit(_plain_loss)
plain_grad = tiny.jit(jax.grad(_plain_loss))


@pytest.mark.parametrize(
  'microbatch_size',
  [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 3))],
)
def test_microbatches_add_up_to_the_mean_over_all_tokens(microbatch_size):
  got, values = gradient(batch(), microbatch_size=microbatch_size)
  expected = plain_grad(PARAMS, batch())
  chex.assert_trees_all_close(got, expected, atol=1e-5)
  np.testing.assert_allclose(
    values['loss/train'], plain_loss(PARAMS, batch()), rtol=1e-5
  )
  np.testing.assert_allclose(
    values['optimizer/grad_norm'], optax.tree.norm(expected), rtol=1e-4
  )
  assert values['data/tokens'] == batch().loss_mask.sum()
  assert values['optimizer/lr'] == 0.5


def test_packing_does_not_change_the_loss_of_a_batch():
  """Demonstrations in rows of their own have the gradient of packed ones."""
  unpacked = rows.Unpacked(pipeline.RowArrays(vars(batch())))
  assert len(unpacked) == 9
  alone = unpacked.gather(np.arange(9))
  got, values = gradient(alone, microbatch_size=3)
  expected, packed = gradient(batch(), microbatch_size=2)
  chex.assert_trees_all_close(got, expected, atol=1e-5)
  np.testing.assert_allclose(
    values['loss/train'], packed['loss/train'], rtol=1e-5
  )


def test_the_share_of_the_pretraining_mix_in_the_loss():
  """One row in ten is 84% of the targets at the paper's sizes (Table 11)."""
  config = ppo_init.get_config('1.3b')
  demonstration = tasks.lm_example([1] * (406 + 44), loss_from=406)
  own = tasks.pack_rows([demonstration] * 8, config.model.max_len)
  mix = tasks.pack_rows([tasks.lm_example([1] * 2049)], config.model.max_len)
  share = functools.partial(
    lm.mix_share, mix=mix, mix_fraction=config.pretrain_mix
  )
  assert share(config, own) == pytest.approx(0.84, abs=0.005)
  assert f'{share(config, own):.0%} at the paper' in ppo_init.__doc__
  config.batch_unit = 'rows'
  assert share(config, own) == pytest.approx(0.56, abs=0.005)


def test_targets_that_do_not_count_change_nothing():
  """Prompts of demonstrations, and padding."""
  silent = ~batch().loss_mask
  targets = np.where(silent, 33, batch().targets)
  tokens = np.where(batch().segment_ids == 0, 44, batch().tokens)
  changed = dataclasses.replace(batch(), targets=targets, tokens=tokens)
  assert (changed.targets != batch().targets).any()
  chex.assert_trees_all_equal(
    gradient(changed, microbatch_size=2), gradient(batch(), microbatch_size=2)
  )


def test_a_batch_without_a_target_changes_nothing():
  silent = dataclasses.replace(
    batch(), loss_mask=np.zeros_like(batch().loss_mask)
  )
  got, values = gradient(silent, microbatch_size=2)
  assert not any(np.any(x) for x in jax.tree.leaves(got))
  assert values['loss/train'] == 0 == values['data/tokens']


def test_dropout_is_a_function_of_the_step_and_the_microbatch():
  step, state = descend(microbatch_size=3, dropout=0.3)
  first = jax.tree.map(lambda x: np.concatenate([x[:1]] * 6), batch())
  loss = lambda state: float(step(state, first)[1]['loss/train'])
  later = dataclasses.replace(state, step=jnp.int32(1))
  assert loss(state) == loss(state) != loss(later)
  # The rows are the same: microbatches with one mask would have one gradient.
  plain = float(plain_loss(PARAMS, first))
  assert loss(state) != plain and abs(loss(state) - plain) < 1.5
  nll = lm.make_nll(tiny.model(dropout=0.3), 0)
  assert lm.mean_nll(nll, PARAMS, [first]) == pytest.approx(plain, rel=1e-5)


def test_nll_is_a_mean_over_the_tokens_of_all_batches():
  one, two = batch(0), batch(1)
  assert one.loss_mask.sum() != two.loss_mask.sum()
  counts = [int(b.loss_mask.sum()) for b in (one, two)]
  losses = [float(plain_loss(PARAMS, b)) for b in (one, two)]
  got = lm.mean_nll(lm.make_nll(MODEL, 7), PARAMS, [one, two])
  assert got == pytest.approx(np.average(losses, weights=counts), rel=1e-5)


def test_a_small_batch_is_learned():
  """A wrong sign, a wrong shift or a lost gradient would fail."""
  tx = optimizer.make_optimizer(
    optimizer.make_schedule(peak_lr=1e-2, num_steps=40),
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    max_grad_norm=1.0,
  )
  step = tiny.jit(
    lm.make_step(
      MODEL,
      tx,
      lambda step: 0.0 * step,
      seed=0,
      microbatch_size=0,
      logits_chunk=0,
    )
  )
  state, losses = build.fresh_state(PARAMS, tx), []
  for _ in range(40):
    state, values = step(state, batch())
    losses.append(float(values['loss/train']))
  assert losses[0] > 3.5
  assert losses[-1] < 0.3


def test_masters_stay_float32_when_the_computation_is_bfloat16():
  model = tiny.model(dtype='bfloat16')
  tx = optimizer.make_optimizer(
    optimizer.make_schedule(peak_lr=1.0, num_steps=4), b1=0.9, b2=0.95, eps=1e-8
  )
  step = lm.make_step(
    model,
    tx,
    lambda step: 0.0 * step,
    seed=0,
    microbatch_size=2,
    logits_chunk=7,
  )
  state, values = jax.eval_shape(
    step, jax.eval_shape(lambda: build.fresh_state(PARAMS, tx)), batch()
  )
  for leaf in jax.tree.leaves((state.params, state.opt_state, values)):
    assert leaf.dtype in (jnp.float32, jnp.int32)


@pytest.mark.parametrize('chunk, tokens', [(7, 6), (0, 6 * T)])
def test_logits_of_a_batch_are_never_all_in_memory(chunk, tokens):
  """A chunk is a column of the six rows."""
  model = tiny.model(vocab_size=53, d_model=4, num_heads=2)
  tx = optax.sgd(1.0)
  step = lm.make_step(
    model,
    tx,
    lambda step: 0.0 * step,
    seed=0,
    microbatch_size=0,
    logits_chunk=chunk,
  )
  jaxpr = jax.make_jaxpr(step)(
    build.fresh_state(tiny.params(model), tx), batch()
  ).jaxpr
  assert tiny.largest_with(jaxpr, 53) == tokens * 53


# --- Configs -----------------------------------------------------------------


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('batch_size', 0, 'batch_size must be'),
    ('microbatch_size', 3, 'microbatch_size must divide batch_size=8; got 3'),
    ('microbatch_size', -1, 'microbatch_size must be at least 0; got -1'),
    ('batch_unit', 'tokens', "one of rows, examples; got 'tokens'"),
    ('num_epochs', 1, 'set one of num_steps and num_epochs'),
    ('num_steps', 0, 'set one of num_steps and num_epochs'),
    (
      'pretrain_mix',
      1.0,
      'pretrain_mix must be at least 0 and less than 1; got 1.0',
    ),
    ('pretrain_mix', -0.1, 'pretrain_mix must .*; got -0.1'),
    ('logits_chunk', -1, 'logits_chunk must be at least 0; got -1'),
    ('model.dropout', 1.0, 'model.dropout must .*; got 1.0'),
    ('model.num_layers', 0, 'model.num_layers must .*; got 0'),
    (
      'optimizer.peak_lr',
      -1e-3,
      'optimizer.peak_lr must be at least 0.*; got -0.001',
    ),
    (
      'optimizer.schedule',
      'step',
      "optimizer.schedule must be one of .*; got 'step'",
    ),
    ('optimizer.b2', 1.0, 'optimizer.b2 must .*; got 1.0'),
    (
      'optimizer.warmup_steps',
      -1,
      'optimizer.warmup_steps must be at least 0.*; got -1',
    ),
    (
      'optimizer.final_fraction',
      2.0,
      'optimizer.final_fraction must .*; got 2.0',
    ),
    ('checkpoint.every', -1, 'checkpoint.every'),
    ('checkpoint.keep', 0, 'checkpoint.keep'),
    ('log.every', 0, 'log.every'),
  ],
)
def test_configs_that_make_no_sense_are_refused_by_name(
  configs, field, value, message
):
  config = configs['pretrain']
  lm.validate(config)
  config.update_from_flattened_dict({field: value})
  with pytest.raises(checks.ConfigError, match=message):
    lm.validate(config)


def test_rows_longer_than_the_model_are_refused(configs, workdir, one_device):
  configs['pretrain'].model.update(max_len=8, positions='learned')
  with pytest.raises(
    ValueError, match='model.max_len must be at least .*; got 8'
  ):
    lm.run(configs['pretrain'], workdir)


# --- A whole stage -----------------------------------------------------------


def test_an_epoch_counts_demonstrations(configs, workdir, study, one_device):
  config = configs['ppo_init']
  config.update(batch_unit='examples', num_epochs=1, eval_batches=1)
  result = lm.run(config, workdir)
  shown = len(store.read_records(study / 'lab', 'demonstrations', 'train'))
  assert result['epoch_steps'] == math.ceil(shown / 8 / 0.9)
  assert 0.1 < result['mix_share'] < 0.5


@pytest.mark.slow
def test_sft_starts_from_pretraining_and_keeps_every_epoch(
  configs, workdir, study, one_device, tok
):
  config = configs['sft']
  config.num_epochs, config.model.dropout = 3, 0.1
  result = lm.run(config, workdir)
  epoch = result['epoch_steps']
  assert epoch == math.ceil(
    len(rows.read_rows(study / 'lab' / 'demonstrations.rows')) / 8
  )
  saved = Checkpointer(workdir / 'checkpoints').steps()
  assert saved == [epoch, 2 * epoch, 3 * epoch]
  lines = metrics.read_metrics(workdir)
  assert [l['step'] for l in lines if 'loss/train' in l] == list(
    range(1, 3 * epoch + 1)
  )
  validation = {l['step']: l for l in lines if 'loss/validation' in l}
  assert list(validation) == [0, *saved]
  assert validation[0]['pretrain/nll'] > 0

  # Step 0 is the pretrained model.
  params, _ = inputs.exported(study / 'pretrain')
  data = rows.read_rows(study / 'lab' / 'demonstrations_validation.rows').load()
  model = build.make_model(config, tok.vocab_size)
  expected = lm.mean_nll(
    lm.make_nll(model, 0),
    params,
    [LMBatch(**{k: v[:8] for k, v in data.items()})],
  )
  assert validation[0]['loss/validation'] == pytest.approx(expected, rel=1e-4)
  params, meta = inputs.exported(workdir)
  assert meta['tokenizer'] == tok.fingerprint
  assert json.loads((workdir / 'config.json').read_text())['stage'] == 'sft'
  assert (workdir / Tokenizer.FILE).read_bytes() == (
    study / 'lab' / Tokenizer.FILE
  ).read_bytes()


@pytest.mark.slow
def test_a_run_keeps_an_imported_tokenizer(configs, tmp_path, one_device):
  """One without BOS, which other programs lay out otherwise than the lab."""
  folder = families.write(
    tmp_path / 'source',
    families.bpe(['<|end|>', '<pad>'], splits='qwen2'),
    eos_token='<|end|>',
  )
  imported = HFTokenizer.from_folder(folder).with_layout(
    prompt_template='Q: {prompt}\nA:'
  )
  (tmp_path / 'lab').mkdir()
  imported.save(tmp_path / 'lab' / imported.FILE)
  documents = [
    Document(id=f'{i}', text=text, source='web', split='train')
    for i, text in enumerate(families.LINES)
  ]
  for suffix in ('', '_validation'):
    rows.write_rows(
      tmp_path / 'lab' / f'corpus{suffix}.rows',
      tasks.document_rows(documents, imported, 16),
      source_fingerprint='toy',
      tokenizer_fingerprint=imported.fingerprint,
    )
  config = configs['pretrain']
  config.num_steps = 2
  lm.run(config, tmp_path / 'run')
  assert sorted(p.name for p in (tmp_path / 'run').glob('tokenizer*')) == [
    'tokenizer.hf.json'
  ]
  found = opening.find_tokenizer(tmp_path / 'run' / 'checkpoints')
  assert found.fingerprint == imported.fingerprint
  assert inputs.exported(tmp_path / 'run')[1]['tokenizer'] == found.fingerprint
  answers = []
  args = sample.parse([str(tmp_path / 'run'), '--max_tokens=4', '--seed=0'])
  opened = side_by_side.SideBySide(args.checkpoints)
  sample.answer(args, opened, ['Who is it?'], answers.append)
  assert len(answers) == 1
