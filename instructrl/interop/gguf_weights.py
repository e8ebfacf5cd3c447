"""Reads the tensors of GGUF files of the llama architecture."""

from collections.abc import Collection, Iterator
import pathlib

import gguf
import numpy as np

from instructrl.interop.config_reader import Reader
from instructrl.runtime import files

_ROPE_FREQS = 'rope_freqs.weight'  # Llama 3's scaling, a factor per wavelength
_QUANTISED = gguf.GGMLQuantizationType
# Modules of a layer in a Hugging Face folder.
_MODULES = (
  'input_layernorm',
  'post_attention_layernorm',
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
)


class GGUF:
  """The tensors of a file, dequantised.

  llama.cpp interleaves the two halves of each head of q and k for its rotary
  positions; `read` restores the order of a Hugging Face folder.

  Attributes:
    config: config.json of the Hugging Face folder.
    shapes: Hugging Face's name of a tensor -> shape. A tensor without such a
      name keeps its own.
    dtypes: the same names -> type in the file, such as Q4_1.
  """

  def __init__(self, path):
    """Opens a file.

    Raises:
      ValueError: the file is cut off, not GGUF, or of another architecture.
    """
    self._path = path = pathlib.Path(path)
    size = path.stat().st_size
    files.refuse_pointer(path)
    try:
      reader = gguf.GGUFReader(path)
      fields = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith('tokenizer.')
      }
      tokens = reader.fields.get('tokenizer.ggml.tokens')
    except Exception as error:  # the library raises errors of many types
      raise ValueError(
        f'{path} is cut off, damaged or not a GGUF file '
        f'({type(error).__name__}: {error}): download it again'
      ) from error
    found = {tensor.name: tensor for tensor in reader.tensors}
    num_tokens = len(tokens.data) if tokens else 0
    self.config = _config(fields, path, found, num_tokens)
    names = _hugging_face_names(self.config['num_hidden_layers'])
    self._tensors = {}  # name -> (offset, dtype in the file, its shape, type)
    self.shapes, self.dtypes = {}, {}
    for t in found.values():
      if t.name == _ROPE_FREQS:  # `config` has it
        continue
      if int(t.data_offset) + int(t.n_bytes) > size:
        raise ValueError(
          f'{path} is cut off in tensor {t.name}: download it again'
        )
      name = names.get(t.name, t.name)
      place = (int(t.data_offset), t.data.dtype, t.data.shape, t.tensor_type)
      self._tensors[name] = place
      self.shapes[name] = tuple(int(n) for n in reversed(t.shape))
      self.dtypes[name] = t.tensor_type.name

  def file_of(self, name: str) -> pathlib.Path:
    """Returns the file that has a tensor."""
    del name
    return self._path

  def check(self, names) -> None:
    """Refuses tensors of a type that `read` does not support."""
    known = {_QUANTISED.F32, _QUANTISED.F16, *gguf.quants._type_traits}
    for name in names:
      kind = self._tensors[name][3]
      if kind not in known:
        raise ValueError(
          f'{self._path}: tensor {name} is {kind.name}, which the package gguf '
          'does not dequantise'
        )

  def read(self, name: str) -> np.ndarray:
    """Returns a tensor, float32."""
    offset, dtype, shape, kind = self._tensors[name]
    data = np.fromfile(self._path, dtype, int(np.prod(shape)), offset=offset)
    found = gguf.dequantize(data.reshape(shape), kind)
    found = found.reshape(self.shapes[name])
    for module, heads in (
      ('self_attn.q_proj.', self.config['num_attention_heads']),
      ('self_attn.k_proj.', self.config['num_key_value_heads']),
    ):
      if module in name:
        halves = found.reshape(heads, -1, 2, *found.shape[1:])
        found = halves.swapaxes(1, 2).reshape(found.shape)
    return found

  def sample(self, num_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yields (name, first bytes) of every tensor."""
    with self._path.open('rb') as file:
      for name, (offset, dtype, shape, _) in sorted(self._tensors.items()):
        file.seek(offset)
        size = int(np.prod(shape)) * dtype.itemsize
        yield name, file.read(min(num_bytes, size))


def _hugging_face_names(num_layers: int) -> dict[str, str]:
  """Returns {GGUF's name: Hugging Face's name} of all tensors of a llama."""
  names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, num_layers)
  modules = ['model.embed_tokens', 'model.norm', 'lm_head'] + [
    f'model.layers.{layer}.{module}'
    for layer in range(num_layers)
    for module in _MODULES
  ]
  return {
    names.get_name(module) + suffix: module + suffix
    for module in modules
    for suffix in ('.weight', '.bias')
  }


def _config(fields, path, found: Collection[str], num_tokens: int) -> dict:
  """Returns config.json for a file's metadata.

  Args:
    fields: name -> value of the metadata.
    path: the file.
    found: name -> tensor.
    num_tokens: length of the vocabulary.
  """
  kind = fields.get('general.architecture')
  if kind != 'llama':
    raise ValueError(
      f"{path}: general.architecture must be 'llama' in a GGUF file; got "
      f"{kind!r}: import the model's Hugging Face folder"
    )
  r = Reader(fields, 'llama', str(path))
  whole = lambda name, *default: r.whole(f'llama.{name}', *default)
  heads, width = whole('attention.head_count'), whole('embedding_length')
  if width % heads and 'llama.attention.key_length' not in r:
    why = f'it does not divide llama.embedding_length={width}'
    r.refuse('llama.attention.head_count', heads, why)
  head_dim = whole('attention.key_length', width // heads)
  r.only('llama.expert_count', 0, 0)
  r.only('llama.rope.dimension_count', head_dim, head_dim)
  epsilon = np.float32(r.number('llama.attention.layer_norm_rms_epsilon'))
  config = {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'hidden_act': 'silu',
    'hidden_size': width,
    'intermediate_size': whole('feed_forward_length'),
    'num_hidden_layers': whole('block_count'),
    'num_attention_heads': heads,
    'num_key_value_heads': whole('attention.head_count_kv', heads),
    'head_dim': head_dim,
    'max_position_embeddings': whole('context_length'),
    # The number that this float32 was written from, such as 1e-5.
    'rms_norm_eps': float(np.format_float_positional(epsilon, unique=True)),
    'rope_theta': r.number('llama.rope.freq_base', 10_000.0),
    'tie_word_embeddings': 'output.weight' not in found,
    'attention_bias': 'blk.0.attn_q.bias' in found,
    'mlp_bias': 'blk.0.ffn_up.bias' in found,
    'vocab_size': whole('vocab_size', num_tokens),
  }
  scaling = _scaling(r, config, found)
  return config | ({'rope_scaling': scaling} if scaling else {})


def _scaling(r: Reader, config, found) -> dict | None:
  """Returns `rope_scaling` of config.json, as llama.cpp understands the file.

  A factor without a type is linear, and 0 means none.
  """
  kind = r.choose(
    'llama.rope.scaling.type', {'none': 'none', 'linear': 'linear'}, 'linear'
  )
  keys = ('llama.rope.scaling.factor', 'llama.rope.scale_linear')
  key = next((key for key in keys if key in r), keys[0])
  linear = kind == 'linear' and r.raw(key, 0) != 0
  factor = r.number(key, 1.0) if linear else 1.0
  if _ROPE_FREQS in found:
    if factor != 1:
      why = f'tensor {_ROPE_FREQS} scales positions too'
      r.refuse(key, factor, why)
    return _llama3_scaling(
      r, config, np.array(found[_ROPE_FREQS].data, np.float32)
    )
  return {'rope_type': 'linear', 'factor': factor} if factor != 1 else None


def _llama3_scaling(r: Reader, config, found: np.ndarray) -> dict:
  """Returns Llama 3's `rope_scaling` for its factors per wavelength."""
  theta, width = config['rope_theta'], config['head_dim']
  wavelengths = 2 * np.pi * theta ** (np.arange(0, width, 2) / width)
  low, high, original = 1.0, 4.0, 8192
  smooth = (original / wavelengths - low) / (high - low)
  for factor in (8.0, 32.0):  # Llama 3.1 and 3.2
    factors = np.select(
      [wavelengths > original / low, wavelengths < original / high],
      [factor, 1.0],
      1 / ((1 - smooth) / factor + smooth),
    )
    if found.shape == factors.shape and np.allclose(found, factors, 1e-3):
      return {
        'rope_type': 'llama3',
        'factor': factor,
        'low_freq_factor': low,
        'high_freq_factor': high,
        'original_max_position_embeddings': original,
      }
  r.refuse(
    _ROPE_FREQS,
    list(found.shape),
    "it is neither Llama 3.1's nor 3.2's scaling",
  )
