"""config.json and our fields, without transformers: as files have been since
its version 4, and what is refused.
"""

import json

import numpy as np
import pytest

from instructrl.interop import hf
from instructrl.interop import hf_config
from instructrl.models import transformer
from tests import tiny

GPT2 = dict(
  model_type='gpt2',
  architectures=['GPT2LMHeadModel'],
  n_layer=2,
  n_embd=32,
  n_head=4,
  n_positions=64,
  vocab_size=50,
)
SIZES = dict(
  num_hidden_layers=2,
  hidden_size=32,
  num_attention_heads=4,
  intermediate_size=48,
  vocab_size=50,
  max_position_embeddings=64,
)
LLAMA = dict(
  SIZES,
  model_type='llama',
  architectures=['LlamaForCausalLM'],
  num_key_value_heads=2,
  rope_theta=5e5,
  rms_norm_eps=1e-5,
)
NEOX = dict(SIZES, model_type='gpt_neox', rotary_pct=0.25)
QWEN2 = dict(LLAMA, model_type='qwen2', architectures=['Qwen2ForCausalLM'])
QWEN3 = dict(QWEN2, model_type='qwen3', architectures=['Qwen3ForCausalLM'])
GEMMA = dict(SIZES, model_type='gemma3_text', head_dim=256)
CONFIGS = dict(
  gpt2=GPT2,
  llama=LLAMA,
  gpt_neox=NEOX,
  qwen2=QWEN2,
  qwen3=QWEN3,
  gemma3_text=GEMMA,
)
SCALING = dict(
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=8192,
)


def test_llama_as_version_4_and_as_version_5_writes_it():
  old = hf_config.model_fields(
    dict(
      LLAMA,
      rope_scaling=dict(SCALING, rope_type='llama3'),
      torch_dtype='bfloat16',
      tie_word_embeddings=True,
    )
  )
  new = {k: v for k, v in LLAMA.items() if k != 'rope_theta'}
  assert old == hf_config.model_fields(
    dict(
      new,
      dtype='bfloat16',
      tie_word_embeddings=True,
      rope_parameters=dict(SCALING, rope_type='llama3', rope_theta=5e5),
    )
  )
  assert old == dict(
    num_layers=2,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=48,
    max_len=64,
    vocab_rows=50,
    norm='rmsnorm',
    norm_epsilon=1e-5,
    norm_offset=0.0,
    qk_norm=False,
    post_norm=False,
    parallel_residual=False,
    positions='rotary',
    rope_theta=5e5,
    rope_theta_local=0.0,
    rope_scaling=('llama3', 8.0, 1.0, 4.0, 8192.0),
    rotary_fraction=1.0,
    windows=(),
    query_scale=0.0,
    mlp='swiglu',
    use_bias=False,
    qkv_bias=False,
    embed_scale=False,
    tie_embeddings=True,
  )


def test_gemma_with_what_its_file_leaves_out():
  """As the file of the 4B says it: much is by default."""
  fields = hf_config.model_fields(
    dict(
      model_type='gemma3',
      architectures=['Gemma3ForConditionalGeneration'],
      text_config=dict(
        hidden_size=2560,
        intermediate_size=10240,
        num_hidden_layers=34,
        rope_scaling=dict(factor=8.0, rope_type='linear'),
        sliding_window=1024,
      ),
    )
  )
  assert fields['windows'] == (1024,) * 5 + (0,)
  assert (
    fields['num_heads'],
    fields['num_kv_heads'],
    fields['head_dim'],
    fields['vocab_rows'],
    fields['query_scale'],
  ) == (8, 4, 256, 262_208, 0.0)
  assert (
    fields['rope_theta'],
    fields['rope_theta_local'],
    fields['rope_scaling'],
  ) == (1e6, 1e4, ('linear', 8.0))
  large = hf_config.model_fields(
    dict(GEMMA, head_dim=128, query_pre_attn_scalar=168)
  )
  assert large['query_scale'] == 168**-0.5


def test_gpt2_under_the_names_of_other_families():
  names = dict(
    n_layer='num_hidden_layers',
    n_embd='hidden_size',
    n_head='num_attention_heads',
    n_positions='max_position_embeddings',
  )
  other = {names.get(name, name): value for name, value in GPT2.items()}
  assert hf_config.model_fields(other) == hf_config.model_fields(GPT2)
  assert hf_config.model_fields(other | GPT2) == hf_config.model_fields(GPT2)


def test_gemmas_kinds_of_layers_come_before_its_pattern():
  kinds = ['sliding_attention', 'full_attention']
  fields = hf_config.model_fields(
    dict(GEMMA, sliding_window=8, layer_types=kinds, _sliding_window_pattern=6)
  )
  assert fields['windows'] == (8, 0)
  assert hf_config.model_fields(
    dict(GEMMA, sliding_window=8, num_hidden_layers=4, sliding_window_pattern=2)
  )['windows'] == (8, 0)


def test_gpt_neox_as_pythia_says_it():
  fields = hf_config.model_fields(dict(NEOX, rotary_emb_base=5000))
  assert (fields['rotary_fraction'], fields['rope_theta']) == (0.25, 5000)
  assert fields['parallel_residual'] and not fields['tie_embeddings']
  assert fields['mlp'] == 'gelu_exact' and fields['use_bias']


@pytest.mark.parametrize(
  'config, wanted',
  [
    (
      dict(
        LLAMA,
        original_max_position_embeddings=16,
        rope_scaling=dict(SCALING, rope_type='llama3'),
      ),
      dict(rope_scaling=('llama3', 8.0, 1.0, 4.0, 16.0)),
    ),
    (
      dict(
        GEMMA,
        original_max_position_embeddings=16,
        rope_scaling=dict(SCALING, rope_type='llama3'),
      ),
      dict(rope_scaling=('llama3', 8.0, 1.0, 4.0, 8192.0)),
    ),
    (
      dict(
        LLAMA,
        rope_scaling=dict(type='linear', factor=2.0),
        rope_parameters=dict(type='linear', factor=2.0),
      ),
      dict(rope_scaling=('linear', 2.0)),
    ),
    (
      dict(LLAMA, rope_parameters=dict(partial_rotary_factor=None)),
      dict(rotary_fraction=1.0),
    ),
    (
      dict(
        NEOX,
        rope_scaling=dict(
          rope_type='linear', factor=2.0, partial_rotary_factor=0.5
        ),
      ),
      dict(rotary_fraction=0.5, rope_scaling=('linear', 2.0)),
    ),
    (
      dict(
        NEOX, rotary_emb_base=5000, rope_theta=5000, partial_rotary_factor=0.25
      ),
      dict(rotary_fraction=0.25, rope_theta=5000.0),
    ),
  ],
)
def test_where_rotary_positions_are_told_of(config, wanted):
  fields = hf_config.model_fields(config)
  assert {name: fields[name] for name in wanted} == wanted


@pytest.mark.parametrize('name', CONFIGS)
def test_what_is_written_reads_back_and_makes_the_same_leaves(name):
  config = CONFIGS[name]
  fields = hf_config.model_fields(config)
  written = json.loads(
    json.dumps(
      hf_config.make_config(fields, name, vocab_rows=50, eos_token_id=7)
    )
  )
  assert hf_config.model_fields(written) == fields
  assert written['eos_token_id'] == 7 and written['torch_dtype'] == 'float32'
  model = transformer.make_model(vocab_size=50, **fields)
  params = tiny.params(model)
  tensors = dict(hf.tensors(fields, name, params))
  assert {k: v.shape for k, v in tensors.items()} == hf.expected(written)
  for leaf in hf.leaves(written):
    value = params
    for key in leaf.path:
      value = value[key]
    np.testing.assert_array_equal(
      hf.read_leaf(leaf, tensors.__getitem__), value
    )
  assert len(hf.leaves(written)) == len(transformer.jax.tree.leaves(params))


@pytest.mark.parametrize(
  'name, value',
  [
    ('num_hidden_layers', [2]),
    ('num_hidden_layers', 10**18),
    ('hidden_size', '32'),
    ('hidden_size', 0),
    ('hidden_size', True),
    ('head_dim', -1),
    ('vocab_size', 1.5),
    ('rms_norm_eps', '1e-5'),
    ('rms_norm_eps', float('nan')),
    ('rope_theta', 0),
    ('rope_scaling', [1]),
    ('tie_word_embeddings', 'yes'),
    ('hidden_act', {}),
    ('architectures', 3),
    ('model_type', ['llama']),
    ('rope_parameters', dict(rope_theta='x')),
    ('rope_scaling', dict(rope_type='linear', factor=None)),
    ('rope_scaling', dict(rope_type='linear', factor=-1.0)),
    ('rope_scaling', dict(rope_type=[1])),
  ],
)
def test_a_value_of_another_kind_is_refused_by_name(name, value):
  named = [*value][-1] if isinstance(value, dict) and value else name
  with pytest.raises(ValueError, match=f'config.json: .*{named}'):
    hf_config.model_fields(LLAMA | {name: value})


def test_what_a_layer_kind_rotates_by_is_a_table():
  with pytest.raises(ValueError, match='full_attention=3 is not a table'):
    hf_config.model_fields(dict(GEMMA, rope_parameters=dict(full_attention=3)))
  with pytest.raises(ValueError, match="rope_theta='x' is not a positive"):
    hf_config.model_fields(
      dict(GEMMA, rope_parameters=dict(sliding_attention=dict(rope_theta='x')))
    )


@pytest.mark.parametrize(
  'config, message',
  [
    (
      dict(LLAMA, model_type='mamba'),
      "model_type must be one of 'gpt2'.*; got 'mamba'",
    ),
    ({}, 'model_type must be one of .*; got None'),
    (
      dict(LLAMA, architectures=['LlamaForTokenClassification']),
      "architectures='LlamaForTokenClassification' is not supported",
    ),
    (
      {k: v for k, v in LLAMA.items() if k != 'hidden_size'},
      'config.json: llama needs hidden_size',
    ),
    (dict(LLAMA, quantization_config=dict(bits=4)), 'quantization_config'),
    (dict(LLAMA, hidden_act='relu'), "hidden_act='relu' .* in llama: only "),
    (dict(LLAMA, mlp_bias=True), 'mlp_bias=True'),
    (dict(LLAMA, attention_bias=True), 'mlp_bias=False'),
    (
      dict(LLAMA, rope_scaling=dict(type='dynamic', factor=2.0)),
      "rope_type='dynamic'",
    ),
    (
      dict(LLAMA, rope_parameters=dict(rope_type='yarn', factor=2.0)),
      "rope_type='yarn'",
    ),
    (
      dict(LLAMA, rope_scaling=dict(rope_type='llama3', factor=8.0)),
      'config.json: rope_scaling of llama needs low_freq_factor',
    ),
    (dict(LLAMA, partial_rotary_factor=0.5), 'partial_rotary_factor=0.5'),
    (dict(GPT2, activation_function='relu'), "activation_function='relu'"),
    (dict(GPT2, scale_attn_weights=False), 'scale_attn_weights=False'),
    (
      dict(GPT2, scale_attn_by_inverse_layer_idx=True),
      'scale_attn_by_inverse_layer_idx=True',
    ),
    (dict(GPT2, add_cross_attention=True), 'add_cross_attention=True'),
    (
      dict(GPT2, num_attention_heads=2),
      'num_attention_heads=2 .* in gpt2: by n_head it is 4',
    ),
    (dict(GPT2, max_position_embeddings=32), 'max_position_embeddings=32'),
    (dict(GPT2, n_embd=30), 'n_head=4 .* does not divide the width, 30'),
    (dict(NEOX, hidden_size=30), 'num_attention_heads=4 .* the width, 30'),
    (dict(LLAMA, num_attention_heads=64), 'num_attention_heads=64 .* 32'),
    (dict(GEMMA, _sliding_window_pattern=2), '_sliding_window_pattern=2'),
    (dict(NEOX, attention_bias=False), 'attention_bias=False'),
    (dict(NEOX, hidden_act='silu'), "hidden_act='silu'"),
    (
      dict(QWEN2, layer_types=['full_attention', 'chunked_attention']),
      "layer_types='chunked_attention'",
    ),
    (dict(QWEN2, layer_types=['full_attention']), 'one for each layer'),
    (
      dict(QWEN2, layer_types=['full_attention', 'sliding_attention']),
      'sliding_window=None .* some layer_types need it',
    ),
    (dict(QWEN3, attention_bias=True), 'attention_bias=True'),
    (dict(GEMMA, attn_logit_softcapping=50.0), 'attn_logit_softcapping=50.0'),
    (dict(GEMMA, final_logit_softcapping=30.0), 'final_logit_softcapping=30.0'),
    (dict(GEMMA, final_logit_softcapping=0.0), 'final_logit_softcapping=0.0'),
    (
      dict(GEMMA, use_bidirectional_attention=True),
      'use_bidirectional_attention=True',
    ),
    (dict(GEMMA, hidden_activation='gelu'), "hidden_activation='gelu'"),
    (
      dict(
        GEMMA,
        rope_parameters=dict(
          sliding_attention=dict(rope_type='linear', factor=2.0)
        ),
      ),
      'rope_parameters.sliding_attention',
    ),
    (
      dict(
        GEMMA,
        rope_parameters=dict(sliding_attention=dict(type='linear', factor=2.0)),
      ),
      'rope_parameters.sliding_attention',
    ),
    (
      dict(
        GEMMA,
        rope_scaling=dict(
          rope_type='linear', factor=2.0, partial_rotary_factor=0.5
        ),
      ),
      'partial_rotary_factor=0.5',
    ),
    (
      dict(
        GEMMA,
        rope_scaling=dict(rope_type='linear', factor=2.0),
        rope_parameters=dict(full_attention=dict(rope_type='default')),
      ),
      'rope_scaling=.* rope_parameters says something else',
    ),
    (
      dict(
        LLAMA,
        rope_scaling=dict(type='linear', factor=2.0),
        rope_parameters=dict(rope_type='default', rope_theta=1e4),
      ),
      'rope_scaling=.* rope_parameters says something else',
    ),
    (
      dict(
        QWEN2,
        rope_parameters=dict(
          full_attention=dict(rope_type='linear', factor=2.0)
        ),
      ),
      'full_attention=.* one table',
    ),
    (dict(NEOX, rotary_emb_base=5000, rope_theta=1e4), 'rope_theta=10000.0'),
    (dict(NEOX, partial_rotary_factor=0.5), 'partial_rotary_factor=0.5'),
  ],
)
def test_what_we_do_not_compute_is_refused_by_name(config, message):
  with pytest.raises(ValueError, match=message):
    hf_config.model_fields(config)


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      dict(extra={'model.layers.0.self_attn.sinks': (4,)}),
      'tensor model.layers.0.self_attn.sinks is not part of llama',
    ),
    (dict(without='model.norm.weight'), 'tensor model.norm.weight is missing'),
    (dict(without='lm_head.weight'), 'tensor lm_head.weight is missing'),
    (
      dict(extra={'model.layers.2.mlp.up_proj.weight': (48, 32)}),
      'tensor model.layers.2.mlp.up_proj.weight is not part',
    ),
    (
      dict(extra={'model.layers.1.self_attn.k_proj.weight': (32, 32)}),
      r'k_proj.weight .*\(32, 32\); .*\(2 layers of width 32\).* \(16, 32\)',
    ),
    (
      dict(extra={'model.embed_tokens.weight': (49, 32)}),
      r'embed_tokens.weight has the shape \(49, 32\)',
    ),
  ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(changes, message):
  found = hf.expected(LLAMA) | changes.get('extra', {})
  found.pop(changes.get('without'), None)
  hf.check(LLAMA, hf.expected(LLAMA))
  with pytest.raises(ValueError, match=message):
    hf.check(LLAMA, found)


def test_a_shard_reads_only_its_layers():
  config = dict(LLAMA, num_hidden_layers=4)
  tensors = {
    name: np.random.default_rng(0).normal(size=shape)
    for name, shape in hf.expected(config).items()
  }
  asked = []

  def read(name):
    asked.append(name)
    return tensors[name]

  leaf = next(
    leaf for leaf in hf.leaves(config) if leaf.path == ('blocks', 'q', 'kernel')
  )
  index = (slice(1, 3), slice(8, 16), slice(2, 4), slice(None))
  part = hf.read_slice(leaf, index, read)
  assert asked == [f'model.layers.{i}.self_attn.q_proj.weight' for i in (1, 2)]
  assert part.dtype == np.float32 and part.flags.c_contiguous
  np.testing.assert_array_equal(
    part, hf.read_leaf(leaf, tensors.__getitem__)[index]
  )
  # The weight is [outputs, inputs], its outputs heads of 8.
  np.testing.assert_array_equal(
    part[0, :, 0],
    np.float32(
      tensors['model.layers.1.self_attn.q_proj.weight'][16:24, 8:16].T
    ),
  )


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_sixteen_bits_are_read_as_they_are_and_written_back(dtype):
  dtype = transformer.jnp.dtype(dtype)
  tensors = {
    name: np.random.default_rng(0).normal(size=shape).astype(dtype)
    for name, shape in hf.expected(GPT2).items()
  }
  fields, params = hf_config.model_fields(GPT2), {}
  for leaf in hf.leaves(GPT2):
    node = params
    for key in leaf.path[:-1]:
      node = node.setdefault(key, {})
    value = node[leaf.path[-1]] = hf.read_leaf(leaf, tensors.__getitem__)
    assert value.dtype == np.float32
    assert hf.read_leaf(leaf, tensors.__getitem__, dtype=None).dtype == dtype
  found = dict(hf.tensors(fields, 'gpt2', params, dtype=dtype.name))
  for name, value in tensors.items():
    assert found[name].dtype == dtype
    np.testing.assert_array_equal(found[name], value)


# --- Which family can hold a model -------------------------------------------


@pytest.mark.parametrize(
  'changes, expected',
  [
    ({}, ['gpt2']),
    (dict(mlp='gelu_exact', tie_embeddings=False), ['gpt2']),
    (dict(positions='rotary', rope_theta=100.0), ['gpt_neox']),
    (tiny.NEOX, ['gpt_neox']),
    (dict(tiny.LLAMA, norm_epsilon=1e-6), ['llama']),
    (dict(tiny.GEMMA, query_scale=24**-0.5), ['gemma3_text']),
    (dict(tiny.LLAMA, windows=(4, 0)), []),
    (dict(tiny.LLAMA, windows=(4, 0), qkv_bias=True), ['qwen2']),
    (dict(tiny.LLAMA, qk_norm=True), ['qwen3']),
    (dict(windows=(0, 4)), []),
    (dict(positions='rotary', use_bias=False), []),
  ],
)
def test_the_families_that_can_hold_a_model(changes, expected):
  fields = {**tiny.FIELDS, **changes}
  assert hf_config.families_for(fields) == expected


@pytest.mark.parametrize(
  'family, changes, message',
  [
    (
      'gpt2',
      dict(positions='rotary'),
      "gpt2 cannot express model.positions='rotary'; there it is 'learned'",
    ),
    ('gpt2', dict(num_kv_heads=2), 'model.num_kv_heads=2'),
    ('gpt2', dict(head_dim=16), 'model.head_dim=16'),
    ('gpt2', dict(use_bias=False), 'model.use_bias=False'),
    ('llama', dict(tiny.LLAMA, rotary_fraction=0.67), 'rotary_fraction'),
    ('llama', tiny.GEMMA, 'cannot express model'),
    ('gpt_neox', dict(positions='rotary', mlp='swiglu'), "model.mlp='swiglu'"),
    ('gemma3_text', dict(tiny.GEMMA, query_scale=0.3), 'model.query_scale=0.3'),
    ('bert', {}, "family must be one of .*family='bert'"),
  ],
)
def test_a_field_without_a_place_is_named(family, changes, message):
  with pytest.raises(ValueError, match=message):
    hf_config.make_config({**tiny.FIELDS, **changes}, family, vocab_rows=50)


def test_a_reward_model_is_a_classifier_of_one_label():
  config = hf_config.make_config(
    tiny.FIELDS,
    'gpt2',
    kind='reward',
    vocab_rows=50,
    pad_token_id=3,
    score_bias=0.5,
  )
  assert config['architectures'] == ['GPT2ForSequenceClassification']
  assert (
    config['num_labels'],
    config['pad_token_id'],
    config['score_bias'],
  ) == (1, 3, 0.5)
  model = tiny.model()
  params = tiny.scalar_params(model)
  tensors = dict(hf.tensors(tiny.FIELDS, 'gpt2', params))
  np.testing.assert_array_equal(
    tensors.pop('score.weight'), params['head']['kernel'][None]
  )
  assert set(tensors) == set(hf.expected(GPT2))
