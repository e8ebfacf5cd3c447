"""Parameter names of Hugging Face, one table per family.

A file's tensors and our leaves differ in their names, in transposes, in
whether q, k and v are one tensor, and in that our layers are stacked. Each row
of a table is a `TensorSource`: how a tensor, with its axes taken apart, becomes
a leaf or one layer of a leaf. This module opens no file and no checkpoint.

Axis legend: L layers, D model width, H heads, Hkv key heads, Dh width of a
head, F width of the MLP, V rows of the embedding.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from instructrl.interop.families import FAMILIES
from instructrl.interop.families import Family
from instructrl.interop.hf_config import complete
from instructrl.interop.hf_config import family_of
from instructrl.interop.hf_config import model_fields
from instructrl.types import Params

Read = Callable[[str], np.ndarray]  # name -> tensor
Shapes = dict[str, tuple[int, ...]]
DTYPES = ('float32', 'float16', 'bfloat16')  # of exported tensors


@dataclasses.dataclass(frozen=True)
class TensorSource:
  """A tensor, and the part of the tensor that is a leaf or one of its layers.

  Attributes:
    name: of the tensor.
    view: shape of the tensor with its axes taken apart.
    order: axes of the view in the order of the leaf, without the picked axis.
    pick: (axis of the view, index) where a tensor holds several leaves.
    shape: of the tensor.
  """

  name: str
  view: tuple[int, ...]
  order: tuple[int, ...]
  pick: tuple[int, int] | None = None
  shape: tuple[int, ...] = ()

  def take(self, tensor: np.ndarray) -> np.ndarray:
    """Returns the leaf's part of a tensor, as a view."""
    part = self._part(np.asarray(tensor).reshape(self.view))
    return part.transpose(self.order)

  def put(self, part: np.ndarray, tensor: np.ndarray) -> None:
    """Writes a leaf's part into a tensor: the inverse of `take`."""
    part = part.transpose(np.argsort(self.order))
    self._part(tensor.reshape(self.view))[...] = part

  def part_shape(self) -> tuple[int, ...]:
    """Returns the shape of what `take` returns."""
    rest = list(self.view)
    if self.pick is not None:
      del rest[self.pick[0]]
    return tuple(rest[axis] for axis in self.order)

  def _part(self, x):
    if self.pick is None:
      return x
    axis, index = self.pick
    return x[(slice(None),) * axis + (index,)]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A leaf of the backbone's parameter tree, and the tensors that hold it."""

  path: tuple[str, ...]  # in the tree
  shape: tuple[int, ...]
  sources: tuple[TensorSource, ...]  # one per layer, or a single one
  stacked: bool  # whether the first axis is the layers


# --- Tables: path in the tree -> source; '{}' in a name is the layer ---------


def _whole(name, *shape) -> TensorSource:
  """Returns a tensor that is a leaf as it is."""
  return TensorSource(name, shape, tuple(range(len(shape))), shape=shape)


def _linear(name, outputs, inputs) -> TensorSource:
  """Returns a weight [outputs, inputs] whose leaf is [inputs, outputs].

  Outputs and inputs have one or more axes each.
  """
  view, first = (*outputs, *inputs), len(outputs)
  order = (*range(first, len(view)), *range(first))
  shape = (math.prod(outputs), math.prod(inputs))
  return TensorSource(name, view, order, shape=shape)


def _norms(names: dict[str, str], d: int) -> dict[str, TensorSource]:
  """Returns the rows of layer norms."""
  return {
    f'{path}/{ours}': _whole(f'{name}.{theirs}', d)
    for path, name in names.items()
    for ours, theirs in (('scale', 'weight'), ('bias', 'bias'))
  }


def _llama(f) -> dict[str, TensorSource]:
  """Llama, Qwen and Gemma."""
  d, hidden = f['d_model'], (f['d_ff'],)
  heads = (f['num_heads'], f['head_dim'])
  keys = (f['num_kv_heads'], f['head_dim'])
  at, mlp = 'layers.{}.self_attn.', 'layers.{}.mlp.'
  norms = {
    'final_norm': 'norm',
    'blocks/attention_norm': 'layers.{}.input_layernorm',
    'blocks/mlp_norm': 'layers.{}.post_attention_layernorm',
  }
  if f['post_norm']:
    norms |= {
      'blocks/mlp_norm': 'layers.{}.pre_feedforward_layernorm',
      'blocks/attention_post_norm': 'layers.{}.post_attention_layernorm',
      'blocks/mlp_post_norm': 'layers.{}.post_feedforward_layernorm',
    }
  rows = {
    'embed': _whole('embed_tokens.weight', f['vocab_rows'], d),
    **{
      f'{path}/scale': _whole(f'{name}.weight', d)
      for path, name in norms.items()
    },
  }
  for name, tensor, outputs, inputs in (
    ('q', at + 'q_proj', heads, (d,)),
    ('k', at + 'k_proj', keys, (d,)),
    ('v', at + 'v_proj', keys, (d,)),
    ('out', at + 'o_proj', (d,), heads),
    ('gate', mlp + 'gate_proj', hidden, (d,)),
    ('up', mlp + 'up_proj', hidden, (d,)),
    ('down', mlp + 'down_proj', (d,), hidden),
  ):
    rows[f'blocks/{name}/kernel'] = _linear(f'{tensor}.weight', outputs, inputs)
    if f['use_bias'] or f['qkv_bias'] and name in 'qkv':
      bias = _whole(f'{tensor}.bias', *outputs)
      rows[f'blocks/{name}/bias'] = dataclasses.replace(
        bias, shape=(math.prod(outputs),)
      )
  if f['qk_norm']:
    for name in 'qk':
      rows[f'blocks/{name}_norm/scale'] = _whole(
        f'{at}{name}_norm.weight', f['head_dim']
      )
  return rows


def _gpt2(f) -> dict[str, TensorSource]:
  """GPT-2: weights are [inputs, outputs]; q, k and v are one tensor."""
  d, hidden = f['d_model'], f['d_ff']
  heads = (f['num_heads'], f['head_dim'])
  rows = {
    'embed': _whole('wte.weight', f['vocab_rows'], d),
    'positions': _whole('wpe.weight', f['max_len'], d),
    **_norms(
      {
        'final_norm': 'ln_f',
        'blocks/attention_norm': 'h.{}.ln_1',
        'blocks/mlp_norm': 'h.{}.ln_2',
      },
      d,
    ),
  }
  for i, name in enumerate('qkv'):
    rows[f'blocks/{name}/kernel'] = TensorSource(
      'h.{}.attn.c_attn.weight', (d, 3, *heads), (0, 1, 2), (1, i), (d, 3 * d)
    )
    rows[f'blocks/{name}/bias'] = TensorSource(
      'h.{}.attn.c_attn.bias', (3, *heads), (0, 1), (0, i), (3 * d,)
    )
  rows['blocks/out/kernel'] = TensorSource(
    'h.{}.attn.c_proj.weight', (*heads, d), (0, 1, 2), shape=(d, d)
  )
  rows['blocks/out/bias'] = _whole('h.{}.attn.c_proj.bias', d)
  for name, tensor, sizes in (
    ('up', 'h.{}.mlp.c_fc', (d, hidden)),
    ('down', 'h.{}.mlp.c_proj', (hidden, d)),
  ):
    rows[f'blocks/{name}/kernel'] = _whole(f'{tensor}.weight', *sizes)
    rows[f'blocks/{name}/bias'] = _whole(f'{tensor}.bias', sizes[1])
  return rows


def _gpt_neox(f) -> dict[str, TensorSource]:
  """GPT-NeoX: one tensor has q, k and v of each head side by side."""
  d, hidden = f['d_model'], f['d_ff']
  heads, width = f['num_heads'], f['head_dim']
  fused = 'layers.{}.attention.query_key_value'
  rows = {
    'embed': _whole('embed_in.weight', f['vocab_rows'], d),
    **_norms(
      {
        'final_norm': 'final_layer_norm',
        'blocks/attention_norm': 'layers.{}.input_layernorm',
        'blocks/mlp_norm': 'layers.{}.post_attention_layernorm',
      },
      d,
    ),
  }
  for i, name in enumerate('qkv'):
    rows[f'blocks/{name}/kernel'] = TensorSource(
      f'{fused}.weight', (heads, 3, width, d), (2, 0, 1), (1, i), (3 * d, d)
    )
    rows[f'blocks/{name}/bias'] = TensorSource(
      f'{fused}.bias', (heads, 3, width), (0, 1), (1, i), (3 * d,)
    )
  for name, tensor, outputs, inputs in (
    ('out', 'layers.{}.attention.dense', (d,), (heads, width)),
    ('up', 'layers.{}.mlp.dense_h_to_4h', (hidden,), (d,)),
    ('down', 'layers.{}.mlp.dense_4h_to_h', (d,), (hidden,)),
  ):
    rows[f'blocks/{name}/kernel'] = _linear(f'{tensor}.weight', outputs, inputs)
    rows[f'blocks/{name}/bias'] = _whole(f'{tensor}.bias', *outputs)
  return rows


_TABLES = {'gpt2': _gpt2, 'gpt_neox': _gpt_neox}  # other families: _llama
_EMBEDDINGS = {'gpt2': 'wte', 'gpt_neox': 'embed_in'}  # others: embed_tokens

# --- Leaves and tensors ------------------------------------------------------


def _leaves(
  fields: Mapping, family: Family, prefix: str, head: str
) -> list[Leaf]:
  f = complete(fields)
  found = []
  for name, source in _TABLES.get(family.model_type, _llama)(f).items():
    path, shape = tuple(name.split('/')), source.part_shape()
    stacked = path[0] == 'blocks'
    sources = tuple(
      dataclasses.replace(source, name=prefix + source.name.format(layer))
      for layer in (range(f['num_layers']) if stacked else (0,))
    )
    shape = (f['num_layers'], *shape) if stacked else shape
    found.append(Leaf(path, shape, sources, stacked))
  if not f['tie_embeddings']:
    table = _whole(head, f['vocab_rows'], f['d_model'])
    found.append(Leaf(('unembed',), table.shape, (table,), False))
  return sorted(found, key=lambda leaf: leaf.path)


def naming(config: dict, names) -> tuple[str, str]:
  """Returns the prefix of the backbone's names and the unembedding's name.

  Families changed both over the years. A model that was saved without its head
  has no prefix at all.

  Args:
    config: config.json.
    names: of the tensors of a file; empty for the names in exports.
  """
  family = family_of(config)
  embed = _EMBEDDINGS.get(family.model_type, 'embed_tokens')
  prefixes = [p for p in family.prefixes if f'{p}{embed}.weight' in names]
  heads = [head for head in family.heads if head in names]
  return [*prefixes, family.prefixes[0]][0], [*heads, family.heads[0]][0]


def leaves(config: dict, names=()) -> list[Leaf]:
  """Returns the leaves of the backbone's parameter tree, by path.

  Args:
    config: config.json.
    names: of the tensors of a file, see `naming`.
  """
  return _leaves(
    model_fields(config), family_of(config), *naming(config, names)
  )


def expected(config: dict, names=()) -> Shapes:
  """Returns the shape of every tensor that a model needs; see `leaves`."""
  return {
    source.name: source.shape
    for leaf in leaves(config, names)
    for source in leaf.sources
  }


def check(config: dict, found: Mapping[str, tuple[int, ...]]) -> None:
  """Refuses tensors that are missing, unknown or of another shape.

  Args:
    config: config.json.
    found: the shape of every tensor of a file.

  Raises:
    ValueError: names the tensor.
  """
  family, fields = family_of(config), model_fields(config)
  wanted = expected(config, found)
  sizes = f'{fields["num_layers"]} layers of width {fields["d_model"]}'
  missing = sorted(set(wanted) - set(found))
  if missing:
    raise ValueError(
      f'tensor {missing[0]}{_more(missing)} is missing; config.json describes '
      f'{family.model_type} with {sizes}'
    )
  for name, shape in wanted.items():
    if tuple(found[name]) != shape:
      raise ValueError(
        f'tensor {name} has the shape {tuple(found[name])}; by config.json '
        f'({sizes}) it must be {shape}'
      )
  ignored = family.ignored + (family.heads if fields['tie_embeddings'] else ())
  unknown = sorted(
    name
    for name in set(found) - set(wanted)
    if not any(re.fullmatch(pattern, name) for pattern in ignored)
  )
  if unknown:
    raise ValueError(
      f'tensor {unknown[0]}{_more(unknown)} is not part of '
      f'{family.model_type} as config.json describes it; it would be lost'
    )


def _more(names) -> str:
  return f' (and {len(names) - 1} more)' if len(names) > 1 else ''


def tied_heads(config: dict, names) -> list[tuple[str, str]]:
  """Returns (unembedding, embedding) where a tied model's file has both.

  A tied model has one table for both: if they differ, one of them would be
  lost.

  Args:
    config: config.json.
    names: of the tensors of the file.
  """
  found = {leaf.path: leaf for leaf in leaves(config, names)}
  if ('unembed',) in found:
    return []
  embed = found[('embed',)].sources[0].name
  return [(head, embed) for head in family_of(config).heads if head in names]


def read_leaf(leaf: Leaf, read: Read, dtype=np.float32) -> np.ndarray:
  """Returns a whole leaf, its layers stacked; see `read_slice`."""
  return read_slice(leaf, (slice(None),) * len(leaf.shape), read, dtype)


def read_slice(
  leaf: Leaf, index: tuple[slice, ...], read: Read, dtype=np.float32
) -> np.ndarray:
  """Returns the part of a leaf that a shard needs.

  Args:
    leaf: the leaf.
    index: a slice of each axis.
    read: returns the tensor of a name. It is called only for the layers in
      index[0], one after another.
    dtype: of the result; None keeps the tensor's.
  """
  index = tuple(index)
  if not leaf.stacked:
    part = leaf.sources[0].take(read(leaf.sources[0].name))[index]
    return np.array(part, dtype)
  sources, out = leaf.sources[index[0]], None
  for i, source in enumerate(sources):
    part = source.take(read(source.name))[index[1:]]
    if out is None:
      out = np.empty((len(sources), *part.shape), dtype or part.dtype)
    out[i] = part
  return out


def tensors(
  fields: Mapping, family: str, params: Params, *, dtype: str = 'float32'
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name, tensor) of an export: the inverse of `read_leaf`.

  Args:
    fields: of the model, as in `config.model`.
    family: a name of FAMILIES.
    params: of a language model, or of a reward model ('backbone' and 'head').
      The reward model's head becomes `score.weight` [1, D], without its bias.
      Stacked leaves are fetched one layer at a time.
    dtype: one of DTYPES.
  """
  if dtype not in DTYPES:
    raise ValueError(f'dtype must be one of {", ".join(DTYPES)}; got {dtype!r}')
  target, known = jnp.dtype(dtype), FAMILIES[family]
  backbone = params.get('backbone', params)
  fields = dict(fields, vocab_rows=backbone['embed'].shape[0])
  parts: dict[str, list] = {}  # tensor name -> (source, leaf's value, layer)
  for leaf in _leaves(fields, known, known.prefixes[0], known.heads[0]):
    if leaf.path == ('unembed',) and 'backbone' in params:
      continue  # a reward model has a score instead
    value = backbone
    for key in leaf.path:
      value = value[key]
    if value.shape != leaf.shape:
      raise ValueError(
        f'{"/".join(leaf.path)} has the shape {value.shape}; by the fields of '
        f'the model it must be {leaf.shape}'
      )
    for layer, source in enumerate(leaf.sources):
      index = layer if leaf.stacked else ...
      parts.setdefault(source.name, []).append((source, value, index))
  for name, found in parts.items():
    tensor = np.empty(found[0][0].shape, target)
    for source, value, index in found:
      source.put(np.asarray(jax.device_get(value[index])), tensor)
    yield name, tensor
  if 'backbone' in params:
    kernel = np.asarray(jax.device_get(params['head']['kernel']))
    yield 'score.weight', kernel[None].astype(target)
