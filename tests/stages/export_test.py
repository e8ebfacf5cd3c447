"""Tests of exports: what other tools load, and that it computes the same."""

import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from instructrl.interop import hf_config
from instructrl.models import heads
from instructrl.runtime import errors
from instructrl.runtime import run_folder
from instructrl.runtime.checkpointer import Checkpointer
from instructrl.stages import build
from instructrl.stages import export as export_lib
from instructrl.stages import import_
from instructrl.stages import inputs
from instructrl.stages import opening
from instructrl.stages import scoring
from instructrl.types import TrainState
from tests import checkpoints
from tests import tiny


def export_quietly(src, dst, **kwargs):
  lines = []
  export_lib.export_model(src, dst, say=lines.append, **kwargs)
  return lines


def imported(tmp_path, config=None, **kwargs):
  tensors = checkpoints.write_folder(tmp_path / 'src', config, **kwargs)
  import_.import_model(
    tmp_path / 'src', tmp_path / 'import', say=lambda line: None
  )
  return tensors


def save_run(folder, before, state, export, **config):
  """A finished run of a stage that began as another one."""
  config = {
    **opening.run_config(before).to_dict(),
    'stage': 'sft',
    'inputs': {'init': os.path.relpath(before, folder)},
    **config,
  }
  tok = opening.find_tokenizer(before)
  run_folder.write_config(folder, config)
  tok.save(folder / tok.FILE)
  with Checkpointer(folder / 'checkpoints') as checkpointer:
    checkpointer.save(
      3,
      state,
      {
        'format_version': 1,
        'config': config,
        'tokenizer': tok.fingerprint,
        'export': list(export),
      },
    )
  run_folder.write_done(folder, {})


def train_state(params, ema=None):
  return TrainState(
    step=jnp.int32(3), params=params, opt_state={}, ema_params=ema, kl_coef=None
  )


@pytest.mark.parametrize('config', [checkpoints.LLAMA, checkpoints.GPT2])
def test_what_was_imported_is_exported_bit_for_bit(tmp_path, config):
  """In one file; other fields of the source's config are as they were."""
  tensors = imported(tmp_path, config)
  lines = export_quietly(tmp_path / 'import', tmp_path / 'out')
  assert lines[0].startswith(
    f'{tmp_path / "out"}: {config["architectures"][0]} of params in'
  )
  assert sorted(
    p
    for p in os.listdir(tmp_path / 'out')
    if 'token' not in p and 'chat' not in p
  ) == ['config.json', 'generation_config.json', 'model.safetensors']
  found = load_file(tmp_path / 'out' / 'model.safetensors')
  assert set(found) == set(tensors)
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(found[name], tensor, name)
  written = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert hf_config.model_fields(written) == hf_config.model_fields(config)
  assert written['eos_token_id'] == 1 and written['pad_token_id'] == 300
  generation = json.loads(
    (tmp_path / 'out' / 'generation_config.json').read_text()
  )
  assert generation == {
    'temperature': 0.6,
    'eos_token_id': [1, 7],
    'bos_token_id': 0,
    'pad_token_id': 300,
  }
  # And it is imported again as the same model.
  import_.import_model(
    tmp_path / 'out', tmp_path / 'again', say=lambda line: None
  )
  assert_same(
    inputs.exported(tmp_path / 'again')[0],
    inputs.exported(tmp_path / 'import')[0],
  )


@pytest.mark.parametrize(
  'known, wanted',
  [({'eos_token_id': None}, [1]), ({'eos_token_id': 7}, [1, 7]), ({}, [1])],
)
def test_ends_that_a_source_may_or_may_not_name(tmp_path, known, wanted):
  imported(tmp_path)
  path = tmp_path / 'import' / 'hf' / 'generation_config.json'
  path.write_text(json.dumps(known))
  export_quietly(tmp_path / 'import', tmp_path / 'out')
  written = json.loads(
    (tmp_path / 'out' / 'generation_config.json').read_text()
  )
  assert written['eos_token_id'] == wanted


def assert_same(left, right):
  jax.tree.map(np.testing.assert_array_equal, left, right)


def test_shards_and_bfloat16(tmp_path):
  tensors = imported(tmp_path)
  export_quietly(
    tmp_path / 'import',
    tmp_path / 'out',
    dtype='bfloat16',
    max_shard_bytes=30_000,
  )
  index = json.loads(
    (tmp_path / 'out' / 'model.safetensors.index.json').read_text()
  )
  assert set(index['weight_map']) == set(tensors)
  files = set(index['weight_map'].values())
  assert len(files) == 4 and 'model-00001-of-00004.safetensors' in files
  for name, file in index['weight_map'].items():
    found = load_file(tmp_path / 'out' / file)[name]
    np.testing.assert_array_equal(
      found, tensors[name].astype(ml_dtypes.bfloat16)
    )
  written = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert written['torch_dtype'] == 'bfloat16'


def test_the_ema_is_exported_unless_params_are_asked_for(tmp_path):
  imported(tmp_path)
  params, _ = inputs.exported(tmp_path / 'import')
  scaled = lambda by: jax.tree.map(lambda x: x * by, params)
  embed = lambda name: load_file(tmp_path / name / 'model.safetensors')[
    'model.embed_tokens.weight'
  ]
  save_run(
    tmp_path / 'ppo',
    tmp_path / 'import',
    train_state(
      {'policy': scaled(2), 'value': {'head': jnp.ones(2)}}, scaled(3)
    ),
    ['ema_params'],
    stage='ppo',
  )
  save_run(
    tmp_path / 'sft', tmp_path / 'import', train_state(scaled(4)), ['params']
  )
  for run, weights, by in (
    ('ppo', 'default', 3),
    ('ppo', 'ema', 3),
    ('ppo', 'params', 2),
    ('sft', 'default', 4),
    ('sft', 'params', 4),
  ):
    export_quietly(
      tmp_path / run, tmp_path / f'{run}-{weights}', weights=weights
    )
    np.testing.assert_array_equal(
      embed(f'{run}-{weights}'), params['embed'] * by
    )
  generation = tmp_path / 'ppo-ema' / 'generation_config.json'
  assert json.loads(generation.read_text())['temperature'] == 0.6
  with pytest.raises(ValueError, match='has no EMA'):
    export_quietly(tmp_path / 'sft', tmp_path / 'no', weights='ema')


def test_a_run_whose_import_is_gone_is_exported_by_its_fields(tmp_path):
  imported(tmp_path)
  params, _ = inputs.exported(tmp_path / 'import')
  save_run(
    tmp_path / 'sft', tmp_path / 'import', train_state(params), ['params']
  )
  (tmp_path / 'import').rename(tmp_path / 'moved')
  lines = export_quietly(tmp_path / 'sft', tmp_path / 'out')
  assert 'LlamaForCausalLM' in lines[0]


def reward_run(tmp_path, config):
  imported(tmp_path, config)
  params, _ = inputs.exported(tmp_path / 'import')
  head = heads.init_head(jax.random.key(1), 32)
  params = {'backbone': params, 'head': {**head, 'bias': jnp.float32(-1.25)}}
  save_run(
    tmp_path / 'rm',
    tmp_path / 'import',
    train_state(params),
    ['params'],
    stage='reward',
  )
  return params


def test_a_reward_model_has_a_score_and_its_bias_in_the_config(tmp_path):
  params = reward_run(tmp_path, checkpoints.LLAMA)
  export_quietly(tmp_path / 'rm', tmp_path / 'out')
  written = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert written['architectures'] == ['LlamaForSequenceClassification']
  assert written['score_bias'] == -1.25 and written['pad_token_id'] == 300
  assert len(written['id2label']) == 1
  found = load_file(tmp_path / 'out' / 'model.safetensors')
  assert 'lm_head.weight' not in found
  np.testing.assert_array_equal(
    found['score.weight'], params['head']['kernel'][None]
  )
  assert not (tmp_path / 'out' / 'generation_config.json').exists()


@pytest.mark.parametrize('config', [checkpoints.LLAMA, checkpoints.GPT2])
def test_transformers_scores_as_the_reward_model_does(tmp_path, config):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  params = reward_run(tmp_path, config)
  export_quietly(tmp_path / 'rm', tmp_path / 'out')
  tok = opening.find_tokenizer(tmp_path / 'rm')
  scorer = scoring.Scorer(
    build.make_model(opening.run_config(tmp_path / 'rm'), tok.vocab_size),
    tok,
    batch_size=3,
  )
  prompts = [tok.prompt(text) for text in ('abi', 'chin dolp', 'e')]
  responses = [tok.response(text) for text in ('fkp', 'g', 'amo bin')]
  wanted = scorer(params, prompts, responses)
  model = transformers.AutoModelForSequenceClassification.from_pretrained(
    tmp_path / 'out'
  ).eval()
  assert model.config.num_labels == 1
  rows = [p + r for p, r in zip(prompts, responses)]
  longest = max(map(len, rows))
  tokens = torch.tensor(
    [row + [tok.pad_id] * (longest - len(row)) for row in rows]
  )
  with torch.no_grad():
    found = model(tokens, attention_mask=tokens != tok.pad_id).logits[:, 0]
  np.testing.assert_allclose(
    found.numpy() + model.config.score_bias, wanted, atol=1e-4
  )
  assert np.ptp(wanted) > 0.01


@pytest.mark.parametrize('config', [checkpoints.LLAMA, checkpoints.GPT2])
def test_transformers_computes_the_same_logits(tmp_path, config):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  imported(tmp_path, config)
  export_quietly(tmp_path / 'import', tmp_path / 'out', max_shard_bytes=50_000)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / 'out'
  ).eval()
  tok = opening.find_tokenizer(tmp_path / 'import')
  ids = tok.plain('abi chin dolp')
  assert (
    transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')(
      'abi chin dolp'
    ).input_ids
    == ids
  )
  model = build.make_model(
    opening.run_config(tmp_path / 'import'), tok.vocab_size
  )
  params, _ = inputs.exported(tmp_path / 'import')
  tokens = jnp.asarray([ids])
  hidden, _ = tiny.jit(model.apply)(
    params, tokens, jnp.arange(len(ids))[None], jnp.ones_like(tokens)
  )
  with torch.no_grad():
    wanted = theirs(torch.tensor([ids])).logits.numpy()
  np.testing.assert_allclose(
    hidden @ model.unembedding(params).T, wanted, atol=1e-4
  )


def lab_run(tmp_path, **changes):
  """A model that is of no import, with the lab's kind of tokenizer."""
  imported(tmp_path)
  model = tiny.model(vocab_size=301, **changes)
  fields = {
    **opening.run_config(tmp_path / 'import').model.to_dict(),
    **tiny.FIELDS,
    'norm': 'layernorm',
    'mlp': 'gelu',
    'd_ff': 0,
    'num_kv_heads': 0,
    'head_dim': 0,
    'positions': 'learned',
    'use_bias': True,
    'tie_embeddings': True,
    'vocab_rows': 0,
    **changes,
  }
  del fields['vocab_size']
  params = jax.tree.map(jnp.asarray, tiny.params(model))
  save_run(
    tmp_path / 'run',
    tmp_path / 'import',
    train_state(params),
    ['params'],
    model=fields,
    inputs={'data': '../lab'},
  )
  return params


def test_a_model_like_gpt_3_is_exported_as_gpt_2(tmp_path):
  params = lab_run(tmp_path)
  lines = export_quietly(tmp_path / 'run', tmp_path / 'out')
  assert 'GPT2LMHeadModel' in lines[0]
  np.testing.assert_array_equal(
    load_file(tmp_path / 'out' / 'model.safetensors')['transformer.wpe.weight'],
    params['positions'],
  )


def test_a_model_of_no_family_is_refused_by_the_field(tmp_path):
  lab_run(tmp_path, positions='rotary', norm='rmsnorm')
  with pytest.raises(ValueError, match="llama cannot express model.mlp='ge"):
    export_quietly(tmp_path / 'run', tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_a_target_that_is_there_and_a_run_that_is_not_finished(tmp_path):
  imported(tmp_path)
  (tmp_path / 'out').mkdir()
  with pytest.raises(ValueError, match='out exists'):
    export_quietly(tmp_path / 'import', tmp_path / 'out')
  (tmp_path / 'import' / 'DONE').unlink()
  with pytest.raises(ValueError, match='import is not finished'):
    export_quietly(tmp_path / 'import', tmp_path / 'new')
  export_quietly(
    tmp_path / 'import' / 'checkpoints' / '00000000', tmp_path / 'new'
  )
  with pytest.raises(ValueError, match='nothing does not exist'):
    export_quietly(tmp_path / 'nothing', tmp_path / 'other')


def test_an_export_that_stopped_leaves_no_target(tmp_path, monkeypatch):
  imported(tmp_path)
  write = export_lib._write_texts

  def fail(*args):
    raise OSError('unplugged')

  monkeypatch.setattr(export_lib, '_write_texts', fail)
  with pytest.raises(OSError, match='unplugged'):
    export_quietly(tmp_path / 'import', tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  work = tmp_path / '.out.incomplete'
  (work / 'model-00007-of-00009.safetensors').touch()
  monkeypatch.setattr(export_lib, '_write_texts', write)
  export_quietly(tmp_path / 'import', tmp_path / 'out')
  assert not work.exists()
  assert not (tmp_path / 'out' / 'model-00007-of-00009.safetensors').exists()
  assert not (tmp_path / 'out' / run_folder.LOCK).exists()


def test_an_export_that_lacks_a_tensor_is_an_error(tmp_path, monkeypatch):
  imported(tmp_path)
  tensors = export_lib.hf.tensors
  monkeypatch.setattr(
    export_lib.hf, 'tensors', lambda *args, **kw: list(tensors(*args, **kw))[1:]
  )
  message = 'does not fit config.json: .*layernorm'
  with pytest.raises(AssertionError, match=message):
    export_quietly(tmp_path / 'import', tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_damage_is_told(tmp_path):
  imported(tmp_path)
  data = next((tmp_path / 'import').rglob('d/*'))
  data.write_bytes(data.read_bytes()[:-1])
  with pytest.raises(errors.CheckpointError, match='is not what was'):
    export_quietly(tmp_path / 'import', tmp_path / 'out')


def test_weights_that_are_not_finite_are_refused(tmp_path, monkeypatch):
  imported(tmp_path)
  read = export_lib.hf.tensors

  def spoilt(*args, **kwargs):
    for name, array in read(*args, **kwargs):
      if name == 'lm_head.weight':
        array[2, 1] = np.inf
      yield name, array

  monkeypatch.setattr(export_lib.hf, 'tensors', spoilt)
  with pytest.raises(
    errors.NonFiniteError, match='tensor lm_head.weight .*NaN'
  ):
    export_quietly(tmp_path / 'import', tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
