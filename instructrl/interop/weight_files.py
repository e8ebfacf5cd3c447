"""Tensors of other tools' files, one at a time; reads safetensors and GGUF.

Opening reads what a file says of itself, and refuses one that is cut off; a
tensor's data is read when it is asked for, and nothing of it is kept. What
the names mean is told in `models.hf`: tensors of a GGUF file go by the names
that they have in a Hugging Face folder.
"""

from collections.abc import Iterator, Sequence
import functools
import hashlib
import json
import math
import pathlib
import struct

import gguf
import ml_dtypes
import numpy as np
import safetensors

_INDEX, _SINGLE = 'model.safetensors.index.json', 'model.safetensors'
_MOST_LAYERS = 10_000  # the names of all are made before a tensor is looked for
_SAMPLE = 1 << 16  # bytes of each tensor that a fingerprint looks at
_SAFETENSORS_DTYPES = {
  'F64': 'float64',
  'F32': 'float32',
  'F16': 'float16',
  'BF16': 'bfloat16',
}


class Safetensors:
  """The tensors of a folder, in one file or in many with an index.

  Attributes:
    shapes: tensor name -> its shape.
    dtypes: tensor name -> its dtype, by the name that the file has for it.
  """

  def __init__(self, folder):
    """Opens them.

    Raises:
      ValueError: there are none, or a file is missing, cut off or not what the
        index says.
    """
    self._folder = pathlib.Path(folder)
    self._files = {}  # tensor name -> path
    self.shapes, self.dtypes = {}, {}
    for path in _files_of(self._folder):
      with _open(path) as file:
        for name in file.keys():
          part = file.get_slice(name)
          if name in self._files:
            raise ValueError(
              f'{path}: tensor {name} is in {self._files[name].name} too'
            )
          self._files[name] = path
          self.shapes[name] = tuple(part.get_shape())
          self.dtypes[name] = part.get_dtype()
    self._check_index()

  def _check_index(self):
    path = self._folder / _INDEX
    if not path.exists():
      return
    for name, file in _weight_map(path).items():
      if name not in self._files or self._files[name] != self._folder / file:
        raise ValueError(
          f'{self._folder / file}: tensor {name} is not in it, '
          f'and {path.name} says that it is'
        )

  def where(self, name: str) -> str:
    """The file of a tensor, for messages."""
    return str(self._files.get(name, self._folder))

  def read(self, name: str) -> np.ndarray:
    """A tensor, in the dtype that it was saved in.

    Raises:
      ValueError: that is no floating dtype.
    """
    # The file is mapped anew: what was read would stay in memory otherwise.
    self._check_dtype(name)
    with _open(self._files[name]) as file:
      return file.get_tensor(name)

  def read_rows(self, name: str, first: int, last: int) -> np.ndarray:
    """Rows `first` up to `last` of a tensor; as `read`."""
    self._check_dtype(name)
    with _open(self._files[name]) as file:
      return file.get_slice(name)[first : min(last, self.shapes[name][0])]

  def _check_dtype(self, name):
    if self.dtypes[name] not in _SAFETENSORS_DTYPES:
      raise ValueError(
        f'{self.where(name)}: tensor {name} is {self.dtypes[name]}, none of '
        f'{", ".join(_SAFETENSORS_DTYPES)}: quantised weights are not read '
        'here; take the checkpoint they were made from'
      )

  def check(self, names) -> None:
    """Refuses tensors that `read` would not read."""
    for name in names:
      self._check_dtype(name)

  def sample(self) -> Iterator[tuple[str, bytes]]:
    """Name and first bytes of every tensor."""
    for path in sorted(set(self._files.values())):
      with _open(path) as file:
        for name in sorted(file.keys()):
          shape = self.shapes[name]
          if len(shape) < 2 or self.dtypes[name] not in _SAFETENSORS_DTYPES:
            continue  # those beside it change with it
          width = (
            int(np.prod(shape[1:]))
            * np.dtype(_dtype(_SAFETENSORS_DTYPES[self.dtypes[name]])).itemsize
          )
          rows = file.get_slice(name)[
            : min(shape[0], max(1, _SAMPLE // max(width, 1)))
          ]
          yield name, np.ascontiguousarray(rows).tobytes()[:_SAMPLE]


def _files_of(folder: pathlib.Path) -> list[pathlib.Path]:
  """The safetensors files that hold a folder's model."""
  if (folder / _INDEX).exists():
    files = [
      folder / name
      for name in sorted(set(_weight_map(folder / _INDEX).values()))
    ]
    for path in files:
      if not path.is_file():
        raise ValueError(
          f'{path} is missing, and {_INDEX} names it: download it too'
        )
    return files
  if (folder / _SINGLE).exists():
    return [folder / _SINGLE]
  found = sorted(folder.glob('*.safetensors'))
  if len(found) == 1:
    return found
  if found:
    raise ValueError(
      f'{folder} has {len(found)} safetensors files and no '
      f'{_INDEX}, which says what belongs together: download it '
      'too'
    )
  pickles = sorted(
    (*folder.glob('*.bin'), *folder.glob('*.pt'), *folder.glob('*.pth'))
  )
  if pickles:
    raise ValueError(
      f'{pickles[0]} is a pickle, which can run any code when it is read: '
      'save the model as safetensors, with '
      'AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR) of '
      'transformers'
    )
  raise ValueError(f'{folder} has no {_SINGLE} and no {_INDEX}')


def _weight_map(path: pathlib.Path) -> dict[str, str]:
  try:
    found = json.loads(path.read_text(encoding='utf-8'))['weight_map']
    if not all(isinstance(file, str) for file in found.values()):
      raise ValueError('weight_map is no table of file names')
    return found
  except RecursionError as error:
    raise ValueError(f'{path} is damaged: it is nested too deep') from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path} is damaged: {error!r}') from error


def _open(path: pathlib.Path):
  try:
    return safetensors.safe_open(path, framework='numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{path} is cut off or damaged ({error}): download it again'
    ) from error
  except OSError as error:
    raise ValueError(f'{path} cannot be read: {error}') from error


def _dtype(name: str) -> np.dtype:
  return np.dtype(ml_dtypes.bfloat16 if name == 'bfloat16' else name)


class GGUF:
  """The tensors of a GGUF file of the llama architecture, dequantised.

  llama.cpp interleaves the two halves of each head of q and k, for its rotary
  positions; here they lie as in a Hugging Face folder again.

  Attributes:
    config: what config.json of a Hugging Face folder would say.
    shapes: Hugging Face's name of each tensor -> its shape. One that has no
      such name goes by its own.
    dtypes: the same names -> how the file holds it, such as Q4_1.
  """

  def __init__(self, path):
    """Opens a file.

    Raises:
      ValueError: it is cut off or no GGUF file, or of another architecture.
    """
    self._path = pathlib.Path(path)
    size = self._path.stat().st_size
    try:
      reader = gguf.GGUFReader(self._path)
      self._fields = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith('tokenizer.')
      }
    except Exception as error:  # the package raises what it stumbles on
      raise ValueError(
        f'{path} is cut off, damaged or no GGUF file '
        f'({type(error).__name__}: {error}): download it again'
      ) from error
    self.config = self._config(
      [t.name for t in reader.tensors],
      len(reader.fields['tokenizer.ggml.tokens'].data)
      if 'tokenizer.ggml.tokens' in reader.fields
      else 0,
    )
    names = gguf.get_tensor_name_map(
      gguf.MODEL_ARCH.LLAMA, self.config['num_hidden_layers']
    )
    theirs = {own: hf for hf, own in _hf_names(names, self.config)}
    self._tensors = {}  # name -> (offset, dtype on disk, its shape, type)
    self.shapes, self.dtypes = {}, {}
    for t in reader.tensors:
      name = theirs.get(t.name, t.name)
      if t.name == 'rope_freqs.weight':  # is in the config
        continue
      if int(t.data_offset) + int(t.n_bytes) > size:
        raise ValueError(
          f'{path} is cut off in tensor {t.name}: download it again'
        )
      self._tensors[name] = (
        int(t.data_offset),
        t.data.dtype,
        t.data.shape,
        t.tensor_type,
      )
      self.shapes[name] = tuple(int(n) for n in reversed(t.shape))
      self.dtypes[name] = t.tensor_type.name

  def _get(self, key: str, default=None):
    value = self._fields.get(f'llama.{key}', default)
    if value is None:
      raise ValueError(f'{self._path}: metadata llama.{key} is missing')
    return value

  def _number(self, key: str, *default, whole: bool = False):
    """A positive number, or the default as it is."""
    value = self._get(key, *default)
    if default and value == default[0]:
      return value
    fits = isinstance(value, int if whole else (int, float))
    if not fits or isinstance(value, bool) or not 0 < value < math.inf:
      raise ValueError(
        f'{self._path}: metadata llama.{key}={value!r} is no '
        f'{"whole " if whole else ""}number above 0'
      )
    return value

  def _config(self, names: Sequence[str], num_tokens: int) -> dict:
    """config.json by the metadata; all else is what the architecture has."""
    kind = self._fields.get('general.architecture')
    if kind != 'llama':
      raise ValueError(
        f'{self._path}: general.architecture={kind!r}; of GGUF files only '
        "'llama' is read: import the model's Hugging Face folder"
      )
    whole = functools.partial(self._number, whole=True)
    heads, width = whole('attention.head_count'), whole('embedding_length')
    layers = whole('block_count')
    if layers > _MOST_LAYERS:
      raise ValueError(
        f'{self._path}: metadata llama.block_count={layers} is '
        f'more than {_MOST_LAYERS:,} layers'
      )
    if width % heads and self._get('attention.key_length', 0) == 0:
      raise ValueError(
        f'{self._path}: metadata llama.embedding_length={width} is no '
        f'multiple of llama.attention.head_count={heads}'
      )
    config = {
      'architectures': ['LlamaForCausalLM'],
      'model_type': 'llama',
      'hidden_act': 'silu',
      'hidden_size': width,
      'intermediate_size': whole('feed_forward_length'),
      'num_hidden_layers': layers,
      'num_attention_heads': heads,
      'num_key_value_heads': whole('attention.head_count_kv', heads),
      'head_dim': whole('attention.key_length', width // heads),
      'max_position_embeddings': whole('context_length'),
      'rms_norm_eps': float(
        np.float32(self._number('attention.layer_norm_rms_epsilon'))
      ),
      'rope_theta': float(self._number('rope.freq_base', 10_000.0)),
      'tie_word_embeddings': 'output.weight' not in names,
      'attention_bias': 'blk.0.attn_q.bias' in names,
      'mlp_bias': 'blk.0.ffn_up.bias' in names,
      'vocab_size': whole('vocab_size', num_tokens),
    }
    config['rms_norm_eps'] = _rounded(config['rms_norm_eps'])
    if self._get('expert_count', 0):
      raise ValueError(
        f'{self._path}: llama.expert_count='
        f'{self._get("expert_count")}: mixtures of experts are '
        'not read'
      )
    if (
      self._get('rope.dimension_count', config['head_dim'])
      != config['head_dim']
    ):
      raise ValueError(
        f'{self._path}: llama.rope.dimension_count='
        f'{self._get("rope.dimension_count")} is not the width of a head, '
        f'{config["head_dim"]}'
      )
    scaling = self._scaling(config, names)
    return config | ({'rope_scaling': scaling} if scaling else {})

  def _scaling(self, config, names) -> dict | None:
    # As llama.cpp reads it: a factor is linear where no type is named.
    kind = self._get('rope.scaling.type', 'linear')
    if kind not in ('none', 'linear'):
      raise ValueError(
        f'{self._path}: llama.rope.scaling.type={kind!r} is '
        "neither 'none' nor 'linear'"
      )
    key = next(
      (
        key
        for key in ('rope.scaling.factor', 'rope.scale_linear')
        if f'llama.{key}' in self._fields
      ),
      '',
    )
    factor = float(self._number(key, 0) or 1) if key else 1.0
    if kind == 'none':
      factor = 1.0
    if 'rope_freqs.weight' in names:
      if factor != 1:
        raise ValueError(
          f'{self._path}: metadata llama.{key}={factor} and tensor '
          'rope_freqs.weight scale positions both: only one of them is read'
        )
      return self._llama3(config)
    return {'rope_type': 'linear', 'factor': factor} if factor != 1 else None

  def _llama3(self, config) -> dict:
    """Llama 3's scaling, which such a file holds as a factor per wavelength."""
    reader = gguf.GGUFReader(self._path)
    found = next(
      np.array(t.data, np.float32)
      for t in reader.tensors
      if t.name == 'rope_freqs.weight'
    )
    theta, width = config['rope_theta'], config['head_dim']
    wavelengths = 2 * np.pi * theta ** (np.arange(0, width, 2) / width)
    low, high, original = 1.0, 4.0, 8192
    smooth = (original / wavelengths - low) / (high - low)
    for factor in (8.0, 32.0):  # Llama 3.1 and 3.2
      smoothed = 1 / ((1 - smooth) / factor + smooth)
      factors = np.where(
        wavelengths > original / low,
        factor,
        np.where(wavelengths < original / high, 1.0, smoothed),
      )
      if found.shape == factors.shape and np.allclose(found, factors, 1e-3):
        return {
          'rope_type': 'llama3',
          'factor': factor,
          'low_freq_factor': low,
          'high_freq_factor': high,
          'original_max_position_embeddings': original,
        }
    raise ValueError(
      f'{self._path}: tensor rope_freqs.weight is neither '
      "Llama 3.1's nor 3.2's scaling"
    )

  def where(self, name: str) -> str:
    del name
    return str(self._path)

  def check(self, names) -> None:
    """Refuses tensors that `read` would not read."""
    for name in names:
      kind = self._tensors[name][3]
      if kind not in _dequantised():
        raise ValueError(
          f'{self._path}: tensor {name} is {kind.name}, which '
          'the package gguf does not dequantise'
        )

  def read(self, name: str) -> np.ndarray:
    """A tensor, float32."""
    offset, dtype, shape, kind = self._tensors[name]
    data = np.fromfile(self._path, dtype, int(np.prod(shape)), offset=offset)
    found = gguf.dequantize(data.reshape(shape), kind)
    found = found.reshape(self.shapes[name])
    config = self.config
    for part, heads in (
      ('q_proj', 'num_attention_heads'),
      ('k_proj', 'num_key_value_heads'),
    ):
      if f'self_attn.{part}.' in name:
        rows, *rest = found.shape
        found = (
          found.reshape(config[heads], rows // config[heads] // 2, 2, *rest)
          .swapaxes(1, 2)
          .reshape(rows, *rest)
        )
    return found

  def sample(self) -> Iterator[tuple[str, bytes]]:
    """Name and first bytes of every tensor."""
    with self._path.open('rb') as file:
      for name, (offset, dtype, shape, _) in sorted(self._tensors.items()):
        file.seek(offset)
        yield (
          name,
          file.read(min(_SAMPLE, int(np.prod(shape)) * dtype.itemsize)),
        )


def _hf_names(names, config) -> Iterator[tuple[str, str]]:
  """(Hugging Face's name, GGUF's name) of all that a llama may have."""
  inside = [
    'input_layernorm',
    'post_attention_layernorm',
    *(f'self_attn.{p}_proj' for p in 'qkvo'),
    *(f'mlp.{p}_proj' for p in ('gate', 'up', 'down')),
  ]
  modules = [
    'model.embed_tokens',
    'model.norm',
    'lm_head',
    *(
      f'model.layers.{layer}.{part}'
      for part in inside
      for layer in range(config['num_hidden_layers'])
    ),
  ]
  for module in modules:
    for suffix in ('.weight', '.bias'):
      yield module + suffix, names.get_name(module) + suffix


def _dequantised():
  kinds = gguf.GGMLQuantizationType
  return {kinds.F32, kinds.F16, *gguf.quants._type_traits}


def _rounded(epsilon: float) -> float:
  """1e-5, of the float32 nearest to it: what it was written from."""
  return float(np.format_float_positional(np.float32(epsilon), unique=True))


def fingerprint(weights, *texts: bytes) -> str:
  """SHA-256, in hex, that tells one checkpoint from another.

  It covers the given texts, name, shape and dtype of every tensor, and the
  first 64 KiB of every matrix: training changes them all.
  """
  digest = hashlib.sha256()
  for text in texts:
    digest.update(struct.pack('<q', len(text)) + text)
  for name in sorted(weights.shapes):
    digest.update(
      f'{name} {weights.shapes[name]} {weights.dtypes[name]}\n'.encode()
    )
  for name, data in weights.sample():
    digest.update(name.encode() + data)
  return digest.hexdigest()


def open_weights(path):
  """`Safetensors` of a folder, `GGUF` of a file."""
  path = pathlib.Path(path)
  if not path.exists():
    raise ValueError(
      f'{path} does not exist: give the folder of a model, or a .gguf file; '
      'one of the Hugging Face hub is brought with `hf download NAME '
      '--local-dir FOLDER`'
    )
  if path.is_dir():
    return Safetensors(path)
  if path.suffix == '.gguf':
    return GGUF(path)
  raise ValueError(
    f'{path} is neither a folder nor a .gguf file; give the '
    'folder that holds config.json and the safetensors files'
  )
