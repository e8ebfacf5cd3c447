"""Name tables, against the models of transformers themselves.

Each case is a tiny random model that transformers saves. Norms and biases are
random too: their initial ones and zeros would hide a row that is wrong.
"""

import functools
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from instructrl import rollout
from instructrl.interop import families
from instructrl.interop import hf
from instructrl.interop import hf_config
from instructrl.models import heads
from instructrl.models import transformer
from tests import tiny

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

VOCAB, LENGTH = 50, 12
SIZES = dict(
  vocab_size=VOCAB,
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=3,
  num_attention_heads=4,
  max_position_embeddings=64,
)
LLAMA3 = dict(
  rope_type='llama3',
  factor=4.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=16,
)
LINEAR = dict(rope_type='linear', factor=3.0)
GPT2 = dict(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=64)
GEMMA = dict(
  SIZES,
  num_hidden_layers=4,
  num_key_value_heads=2,
  head_dim=16,
  sliding_window=4,
  query_pre_attn_scalar=24,
  layer_types=['sliding_attention', 'full_attention'] * 2,
)
CASES = {
  'gpt2': ('GPT2', GPT2),
  'gpt2_untied': (
    'GPT2',
    dict(
      GPT2, n_inner=40, activation_function='gelu', tie_word_embeddings=False
    ),
  ),
  'gpt_neox': ('GPTNeoX', dict(SIZES, hidden_act='gelu')),
  'gpt_neox_serial': (
    'GPTNeoX',
    dict(
      SIZES,
      use_parallel_residual=False,
      rotary_pct=0.5,
      rotary_emb_base=1000,
      hidden_act='gelu_pytorch_tanh',
      tie_word_embeddings=True,
    ),
  ),
  'gpt_neox_scaled': (
    'GPTNeoX',
    dict(
      SIZES,
      rope_scaling=dict(LINEAR, rope_theta=500.0, partial_rotary_factor=1.0),
    ),
  ),
  'llama': ('Llama', dict(SIZES, num_key_value_heads=2, rope_theta=500.0)),
  'llama3': (
    'Llama',
    dict(
      SIZES,
      num_key_value_heads=2,
      tie_word_embeddings=True,
      rope_scaling=LLAMA3,
      head_dim=12,
    ),
  ),
  'llama_bias': (
    'Llama',
    dict(SIZES, attention_bias=True, mlp_bias=True, rope_scaling=LINEAR),
  ),
  'qwen2': (
    'Qwen2',
    dict(SIZES, num_key_value_heads=2, tie_word_embeddings=True),
  ),
  'qwen2_windows': (
    'Qwen2',
    dict(
      SIZES,
      num_key_value_heads=2,
      use_sliding_window=True,
      sliding_window=5,
      max_window_layers=1,
    ),
  ),
  'qwen3': ('Qwen3', dict(SIZES, num_key_value_heads=2, head_dim=16)),
  'gemma3': ('Gemma3', GEMMA),
  'gemma3_scaled': (
    'Gemma3',
    dict(
      GEMMA,
      rope_parameters=dict(
        full_attention=dict(rope_type='linear', factor=8.0, rope_theta=1e4),
        sliding_attention=dict(rope_type='default', rope_theta=100.0),
      ),
    ),
  ),
}
# One of each family, and in the slow tier what else a family can differ in.
ALL = [
  name
  if name in ('gpt2', 'gpt_neox', 'llama3', 'qwen2', 'qwen3', 'gemma3_scaled')
  else pytest.param(name, marks=pytest.mark.slow)
  for name in CASES
]


def randomise(model):
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, value in sorted(model.named_parameters()):
      around = 1 if 'norm' in name and 'weight' in name or 'ln_' in name else 0
      value.copy_(torch.randn(value.shape, generator=generator) * 0.2 + around)
  return model.eval()


class Saved:
  """A folder that transformers wrote, and the model."""

  def __init__(self, folder, name):
    kind, fields = CASES[name]
    config = getattr(
      transformers, {'Gemma3': 'Gemma3TextConfig'}.get(kind, f'{kind}Config')
    )(**fields)
    head = 'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'
    self.model = randomise(getattr(transformers, f'{kind}{head}')(config))
    self.model.save_pretrained(folder)
    self.folder = folder
    self.config = json.loads((folder / 'config.json').read_text())
    self.file = safetensors.safe_open(folder / 'model.safetensors', 'numpy')
    self.shapes = {
      name: tuple(self.file.get_slice(name).get_shape())
      for name in self.file.keys()
    }

  @functools.cached_property
  def fields(self):
    return hf_config.model_fields(self.config)

  @functools.cached_property
  def params(self):
    return read_params(self.config, self.shapes, self.file.get_tensor)

  @functools.cached_property
  def ours(self):
    return transformer.make_model(vocab_size=VOCAB, **self.fields)


def read_params(config, names, read):
  params = {}
  for leaf in hf.leaves(config, names):
    node = params
    for key in leaf.path[:-1]:
      node = node.setdefault(key, {})
    node[leaf.path[-1]] = hf.read_leaf(leaf, read)
    assert node[leaf.path[-1]].shape == leaf.shape
  return params


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  return functools.cache(
    lambda name: Saved(tmp_path_factory.mktemp(name), name)
  )


def batch():
  """Rows of all columns, left-padded and right-padded: tokens and mask."""
  tokens = np.random.default_rng(0).integers(3, VOCAB, (3, LENGTH))
  mask = np.ones(tokens.shape, np.int32)
  mask[1, :4], mask[2, 7:] = 0, 0
  return np.where(mask, tokens, 0).astype(np.int32), mask


def their_logits(model, tokens, mask):
  positions = np.maximum(mask.cumsum(1) - 1, 0)
  as_tensor = lambda x: torch.tensor(x, dtype=torch.long)
  with torch.no_grad():
    return model(
      input_ids=as_tensor(tokens),
      attention_mask=as_tensor(mask),
      position_ids=as_tensor(positions),
    ).logits.numpy()


@pytest.mark.parametrize('name', ALL)
def test_logits_are_those_of_transformers(name, saved):
  model = saved(name)
  hf.check(model.config, model.shapes)
  tokens, mask = batch()
  positions = np.maximum(mask.cumsum(1) - 1, 0).astype(np.int32)

  @tiny.jit
  def logits(params):
    hidden, _ = model.ours.apply(params, tokens, positions, mask)
    return hidden @ model.ours.unembedding(params).T

  jax.tree.map(
    lambda a, b: None if a.shape == b.shape else 1 / 0,
    model.params,
    jax.eval_shape(model.ours.init, jax.random.key(0)),
  )
  expected = their_logits(model.model, tokens, mask)
  assert expected.std() > 0.5
  found = np.asarray(logits(model.params))
  np.testing.assert_allclose(
    found[mask > 0], expected[mask > 0], atol=1e-4, rtol=1e-4
  )


@pytest.mark.parametrize('name', ALL)
def test_greedy_sampling_goes_on_as_transformers_does(name, saved):
  """Ours with a cache, theirs from the start for every token."""
  model, steps = saved(name), 6
  tokens, mask = (x[:2] for x in batch())
  prompts = tiny.prompt_batch([t[m > 0] for t, m in zip(tokens, mask)], LENGTH)
  found = tiny.jit(
    lambda params: rollout.generate(
      model.ours,
      params,
      prompts,
      jax.random.key(0),
      response_len=steps,
      eos_id=-1,
      pad_id=0,
      temperature=0.0,
    )
  )(model.params).tokens
  for _ in range(steps):
    best = their_logits(model.model, tokens, mask)[:, -1].argmax(-1)
    tokens = np.concatenate([tokens, best[:, None]], axis=1)
    mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
  np.testing.assert_array_equal(found, tokens[:, LENGTH:])


def exported(model, params=None, dtype='float32'):
  family = hf_config.family_of(model.config).model_type
  return dict(
    hf.tensors(model.fields, family, params or model.params, dtype=dtype)
  )


@pytest.mark.parametrize('name', list(CASES))
def test_an_export_has_every_tensor_as_it_was(name, saved):
  model = saved(name)
  found = exported(model)
  assert set(found) == set(model.shapes)
  for key, value in found.items():
    np.testing.assert_array_equal(value, model.file.get_tensor(key), key)


@pytest.mark.parametrize('name', list(CASES))
def test_the_config_of_an_export_reads_back_the_same(name, saved):
  model = saved(name)
  family = hf_config.family_of(model.config)
  config = hf_config.make_config(
    model.fields, family.model_type, vocab_rows=VOCAB
  )
  assert hf_config.model_fields(json.loads(json.dumps(config))) == model.fields
  assert hf_config.family_of(config) == family
  theirs, wanted = (
    c.to_dict()
    for c in (type(model.model.config)(**config), model.model.config)
  )
  for field in {*CASES[name][1], 'rope_parameters', 'layer_types'} & {*wanted}:
    assert theirs[field] == wanted[field], field


# --- Reward models -----------------------------------------------------------


@pytest.mark.parametrize('name', ALL)
def test_a_reward_model_scores_in_transformers_as_here(name, saved, tmp_path):
  """Theirs after the bias is added, which their head has no place for."""
  model = saved(name)
  family = hf_config.family_of(model.config)
  params = {
    'backbone': model.params,
    'head': {
      'kernel': np.random.default_rng(0).normal(size=32).astype(np.float32),
      'bias': np.float32(0.75),
    },
  }
  config = hf_config.make_config(
    model.fields,
    family.model_type,
    kind='reward',
    vocab_rows=VOCAB,
    pad_token_id=0,
    score_bias=0.75,
  )
  (tmp_path / 'config.json').write_text(json.dumps(config))
  safetensors.numpy.save_file(
    exported(model, params), tmp_path / 'model.safetensors', {'format': 'pt'}
  )
  theirs, loading = (
    transformers.AutoModelForSequenceClassification.from_pretrained(
      tmp_path, output_loading_info=True
    )
  )
  assert not any(map(len, loading.values())), loading
  assert type(theirs).__name__ == family.classifier
  tokens, mask = batch()
  tokens, mask = tokens[[0, 2]], mask[[0, 2]]
  as_tensor = lambda x: torch.tensor(x, dtype=torch.long)
  with torch.no_grad():
    expected = (
      theirs.eval()(input_ids=as_tensor(tokens), attention_mask=as_tensor(mask))
      .logits[:, 0]
      .numpy()
    )
  assert theirs.config.score_bias == 0.75
  positions = np.maximum(mask.cumsum(1) - 1, 0).astype(np.int32)
  scores = tiny.jit(
    lambda p: heads.apply_scalar(model.ours, p, tokens, positions, mask)
  )(params)
  found = np.asarray(scores)[[0, 1], mask.sum(1) - 1]
  np.testing.assert_allclose(found, expected + 0.75, atol=1e-4, rtol=1e-4)


# --- Names that a file may have ----------------------------------------------


def renamed(model, change):
  """The shapes and the reader of a file that has other names."""
  names = {change(name): name for name in model.shapes}
  names.pop(None, None)
  return (
    {name: model.shapes[old] for name, old in names.items()},
    lambda name: model.file.get_tensor(names[name]),
  )


@pytest.mark.parametrize(
  'name, change',
  [
    ('gpt2', lambda name: name.removeprefix('transformer.')),
    ('llama3', lambda name: name.removeprefix('model.')),
    ('gpt_neox', lambda name: name.replace('embed_out', 'lm_head')),
    ('gemma3_scaled', lambda name: f'language_model.{name}'),
    (
      'gemma3_scaled',
      lambda name: name.replace('model.', 'model.language_model.'),
    ),
  ],
)
def test_names_of_other_versions_and_of_backbones_are_read(name, change, saved):
  model = saved(name)
  shapes, read = renamed(model, change)
  assert set(shapes) != set(model.shapes)
  extra = {
    'gpt2': {'h.0.attn.bias': (1, 1, 64, 64)},
    'gpt_neox': {'gpt_neox.layers.2.attention.masked_bias': ()},
    'llama3': {
      'layers.1.self_attn.rotary_emb.inv_freq': (6,),
      'lm_head.weight': (VOCAB, 32),
    },
    'gemma3_scaled': {
      'vision_tower.any.weight': (3, 3),
      'model.multi_modal_projector.x': (2,),
    },
  }[name]
  hf.check(model.config, shapes | extra)
  jax.tree.map(
    np.testing.assert_array_equal,
    read_params(model.config, shapes, read),
    model.params,
  )


def test_the_text_of_a_model_with_vision_is_read(saved):
  model = saved('gemma3_scaled')
  text = {k: v for k, v in model.config.items() if k != 'architectures'}
  config = dict(
    model_type='gemma3',
    text_config=text,
    architectures=['Gemma3ForConditionalGeneration'],
    vision_config={'hidden_size': 7},
  )
  assert hf_config.model_fields(config) == model.fields
  assert hf_config.family_of(config) is families.FAMILIES['gemma3_text']
