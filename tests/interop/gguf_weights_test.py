"""Tests of reading GGUF files, written by the library."""

import gguf
import numpy as np
import pytest

from instructrl.interop import weight_files

WIDTH, HEADS, KV_HEADS, HIDDEN, VOCAB = 64, 4, 2, 96, 50


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def permuted(w, heads):
  """q or k as llama.cpp holds it (its convert_hf_to_gguf.py, `permute`)."""
  return (
    w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:])
    .swapaxes(1, 2)
    .reshape(w.shape)
  )


def llama(path, kind=gguf.GGMLQuantizationType.F32, *, layers=2, change=None):
  """Writes a tiny llama; returns Hugging Face's tensors."""
  writer = gguf.GGUFWriter(path, 'llama')
  writer.add_block_count(layers)
  writer.add_context_length(128)
  writer.add_embedding_length(WIDTH)
  writer.add_feed_forward_length(HIDDEN)
  writer.add_head_count(HEADS)
  writer.add_head_count_kv(KV_HEADS)
  writer.add_layer_norm_rms_eps(1e-5)
  writer.add_rope_freq_base(50_000.0)
  writer.add_vocab_size(VOCAB)
  found = {}

  def add(name, own, *shape, heads=0):
    found[name] = random(*shape, seed=len(found))
    data = permuted(found[name], heads) if heads else found[name]
    plain = len(shape) == 1 or kind == gguf.GGMLQuantizationType.F32
    writer.add_tensor(
      own,
      data if plain else gguf.quantize(data, kind),
      raw_dtype=None if plain else kind,
    )

  add('model.embed_tokens.weight', 'token_embd.weight', VOCAB, WIDTH)
  kv = WIDTH // HEADS * KV_HEADS
  for i in range(layers):
    hf, own = f'model.layers.{i}.', f'blk.{i}.'
    for name, other, shape, heads in (
      ('self_attn.q_proj', 'attn_q', (WIDTH, WIDTH), HEADS),
      ('self_attn.k_proj', 'attn_k', (kv, WIDTH), KV_HEADS),
      ('self_attn.v_proj', 'attn_v', (kv, WIDTH), 0),
      ('self_attn.o_proj', 'attn_output', (WIDTH, WIDTH), 0),
      ('mlp.gate_proj', 'ffn_gate', (HIDDEN, WIDTH), 0),
      ('mlp.up_proj', 'ffn_up', (HIDDEN, WIDTH), 0),
      ('mlp.down_proj', 'ffn_down', (WIDTH, HIDDEN), 0),
      ('input_layernorm', 'attn_norm', (WIDTH,), 0),
      ('post_attention_layernorm', 'ffn_norm', (WIDTH,), 0),
    ):
      add(f'{hf}{name}.weight', f'{own}{other}.weight', *shape, heads=heads)
  add('model.norm.weight', 'output_norm.weight', WIDTH)
  if change:
    change(writer)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return found


def test_a_gguf_file_reads_as_the_folder_it_was_made_from(tmp_path):
  found = llama(tmp_path / 'm.gguf')
  read = weight_files.open_weights(tmp_path / 'm.gguf')
  assert read.shapes == {n: t.shape for n, t in found.items()}
  for name, tensor in found.items():
    np.testing.assert_array_equal(read.read(name), tensor, name)
  wanted = dict(
    model_type='llama',
    hidden_size=WIDTH,
    intermediate_size=HIDDEN,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    head_dim=WIDTH // HEADS,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    rope_theta=50_000.0,
    tie_word_embeddings=True,
    vocab_size=VOCAB,
    attention_bias=False,
    mlp_bias=False,
    hidden_act='silu',
    architectures=['LlamaForCausalLM'],
  )
  assert read.config == wanted


def test_quantised_gguf_is_dequantised(tmp_path):
  found = llama(tmp_path / 'm.gguf', gguf.GGMLQuantizationType.Q8_0)
  read = weight_files.open_weights(tmp_path / 'm.gguf')
  name = 'model.layers.1.self_attn.k_proj.weight'
  assert read.dtypes[name] == 'Q8_0'
  for name, tensor in found.items():
    np.testing.assert_allclose(read.read(name), tensor, atol=0.03)


def test_llama_3s_scaling_is_found_in_its_factors(tmp_path):
  width = WIDTH // HEADS
  for factor in (8.0, 32.0):

    def change(writer, factor=factor):
      wavelengths = 2 * np.pi * 50_000.0 ** (np.arange(0, width, 2) / width)
      smooth = (8192 / wavelengths - 1) / 3
      factors = [
        1.0 if w < 2048 else factor if w > 8192 else 1 / ((1 - s) / factor + s)
        for w, s in zip(wavelengths, smooth)
      ]
      writer.add_tensor('rope_freqs.weight', np.float32(factors))

    llama(tmp_path / 'm.gguf', change=change)
    read = weight_files.open_weights(tmp_path / 'm.gguf')
    assert read.config['rope_scaling'] == {
      'rope_type': 'llama3',
      'factor': factor,
      'low_freq_factor': 1.0,
      'high_freq_factor': 4.0,
      'original_max_position_embeddings': 8192,
    }
    assert 'rope_freqs.weight' not in read.shapes
  llama(
    tmp_path / 'm.gguf',
    change=lambda writer: writer.add_tensor(
      'rope_freqs.weight', np.full(width // 2, 3, np.float32)
    ),
  )
  with pytest.raises(ValueError, match='rope_freqs.weight=.* is neither'):
    weight_files.open_weights(tmp_path / 'm.gguf')


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda w: w.add_expert_count(8), 'llama.expert_count=8'),
    (lambda w: w.add_rope_dimension_count(8), 'rope.dimension_count=8 is not'),
    (
      lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
      "rope.scaling.type='yarn' .* only 'none', 'linear'",
    ),
    (
      lambda w: (
        w.add_rope_scaling_factor(2.0)
        or w.add_tensor('rope_freqs.weight', np.ones(8, np.float32))
      ),
      'rope.scaling.factor=2.0 .* tensor rope_freqs.weight scales positions',
    ),
  ],
)
def test_gguf_files_that_compute_something_else_are_refused(
  tmp_path, change, message
):
  llama(tmp_path / 'm.gguf', change=change)
  with pytest.raises(ValueError, match=message):
    weight_files.open_weights(tmp_path / 'm.gguf')


@pytest.mark.parametrize(
  'values, factor',
  [
    (dict(), 0),
    ({'scaling.factor': 1.0}, 0),
    ({'scaling.factor': 0.0}, 0),
    ({'scaling.factor': 4.0}, 4.0),
    ({'scale_linear': 4.0}, 4.0),
    ({'scaling.factor': 2.0, 'scale_linear': 4.0}, 2.0),
    ({'scaling.factor': 4.0, 'scaling.type': 'none'}, 0),
    ({'scaling.factor': 4.0, 'scaling.type': 'linear'}, 4.0),
  ],
)
def test_a_factor_of_positions_is_read_as_llama_cpp_reads_it(
  tmp_path, values, factor
):
  def change(writer):
    for key, value in values.items():
      add = writer.add_string if isinstance(value, str) else writer.add_float32
      add(f'llama.rope.{key}', value)

  llama(tmp_path / 'm.gguf', change=change)
  wanted = {'rope_type': 'linear', 'factor': factor} if factor else None
  config = weight_files.open_weights(tmp_path / 'm.gguf').config
  assert config.get('rope_scaling') == wanted


@pytest.mark.parametrize(
  'key, value',
  [
    ('attention.head_count', 0),
    ('attention.head_count', '4'),
    ('attention.head_count', 5),
    ('attention.head_count_kv', 'x'),
    ('attention.key_length', 0.5),
    ('block_count', '2'),
    ('block_count', 10**9),
    ('context_length', -1),
    ('embedding_length', True),
    ('vocab_size', 'x'),
    ('feed_forward_length', [1, 2]),
    ('rope.freq_base', 'x'),
    ('rope.scaling.factor', 'x'),
    ('attention.layer_norm_rms_epsilon', 'x'),
    ('attention.layer_norm_rms_epsilon', float('nan')),
  ],
)
def test_metadata_of_another_kind_is_refused_by_file_and_key(
  tmp_path, key, value
):
  def change(writer):
    writer.kv_data[0].pop(f'llama.{key}', None)
    add = {
      bool: writer.add_bool,
      int: writer.add_int32,
      list: writer.add_array,
      float: writer.add_float32,
      str: writer.add_string,
    }[type(value)]
    add(f'llama.{key}', value)

  llama(tmp_path / 'm.gguf', change=change)
  with pytest.raises(ValueError, match=f'm.gguf: llama.{key}='):
    weight_files.open_weights(tmp_path / 'm.gguf')


def test_other_architectures_and_damage_are_refused(tmp_path):
  path = tmp_path / 'm.gguf'
  writer = gguf.GGUFWriter(path, 'phi3')
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  with pytest.raises(
    ValueError, match="architecture must be.*got 'phi3'.*folder"
  ):
    weight_files.open_weights(path)
  llama(path)
  content = path.read_bytes()
  for length in (0, 3, 40, 400, len(content) // 2, len(content) - 200):
    path.write_bytes(content[:length])
    with pytest.raises(ValueError, match='m.gguf is cut off'):
      weight_files.open_weights(path)


def test_a_tensor_without_a_name_in_hugging_faces_folder_keeps_its_own(
  tmp_path,
):
  llama(
    tmp_path / 'm.gguf',
    change=lambda w: w.add_tensor('blk.0.extra.weight', np.ones(3, np.float32)),
  )
  read = weight_files.open_weights(tmp_path / 'm.gguf')
  assert 'blk.0.extra.weight' in read.shapes
