"""The names that Hugging Face gives to parameters, one table per family.

A file's tensors and our leaves differ in names, in transposes, in whether q, k
and v are one tensor, and in that our layers are stacked. Each row of a table
is a `Source`: how a tensor, seen with its axes apart, becomes a leaf or one
layer of it. Nothing here opens a file or a checkpoint; see `convert`, and
`hf_config` for `config.json`.

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

# what importers know


Read = Callable[[str], np.ndarray]  # the tensor of a name
Shapes = dict[str, tuple[int, ...]]
DTYPES = ('float32', 'float16', 'bfloat16')  # of exported tensors


@dataclasses.dataclass(frozen=True)
class Source:
  """A tensor, and what of it is a leaf, or a layer of one."""

  name: str
  view: tuple[int, ...]  # the tensor's axes, taken apart
  order: tuple[int, ...]  # of the axes of the view, as the leaf has them
  # (axis of the view, index): a part of a tensor that holds several leaves.
  # `order` is of the axes that are left.
  pick: tuple[int, int] | None = None
  shape: tuple[int, ...] = ()  # of the tensor

  def take(self, tensor: np.ndarray) -> np.ndarray:
    """The leaf's part of a tensor, as a view of it."""
    return self._part(np.asarray(tensor).reshape(self.view)).transpose(
      self.order
    )

  def put(self, part: np.ndarray, tensor: np.ndarray):
    """Writes a leaf's part into a tensor: the inverse of `take`."""
    self._part(tensor.reshape(self.view))[...] = part.transpose(
      np.argsort(self.order)
    )

  def _part(self, x):
    if self.pick is None:
      return x
    axis, index = self.pick
    return x[(slice(None),) * axis + (index,)]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A leaf of the backbone's parameter tree, and where it is read."""

  path: tuple[str, ...]  # of the tree
  shape: tuple[int, ...]
  sources: tuple[Source, ...]  # one for each layer, or a single one
  stacked: bool  # whether the first axis is of the layers


def _whole(name, *shape):
  return Source(name, shape, tuple(range(len(shape))), shape=shape)


def _linear(name, outputs, inputs):
  """A weight [outputs, inputs], each of one or more axes, turned round."""
  view = (*outputs, *inputs)
  first = len(outputs)
  return Source(
    name,
    view,
    (*range(first, len(view)), *range(first)),
    shape=(math.prod(outputs), math.prod(inputs)),
  )


def _llama(f) -> dict[str, Source]:
  """Path in the tree -> source; '{}' in a name is the layer."""
  d, hidden = f['d_model'], (f['d_ff'],)
  heads = (f['num_heads'], f['head_dim'])
  keys = (f['num_kv_heads'], f['head_dim'])
  at, mlp = 'layers.{}.self_attn.', 'layers.{}.mlp.'
  second = (
    'pre_feedforward_layernorm'
    if f['post_norm']
    else 'post_attention_layernorm'
  )
  rows = {
    'embed': _whole('embed_tokens.weight', f['vocab_rows'], d),
    'final_norm/scale': _whole('norm.weight', d),
    'blocks/attention_norm/scale': _whole(
      'layers.{}.input_layernorm.weight', d
    ),
    'blocks/mlp_norm/scale': _whole(f'layers.{{}}.{second}.weight', d),
  }
  maps = {
    'q': (at + 'q_proj', heads, (d,)),
    'k': (at + 'k_proj', keys, (d,)),
    'v': (at + 'v_proj', keys, (d,)),
    'out': (at + 'o_proj', (d,), heads),
    'gate': (mlp + 'gate_proj', hidden, (d,)),
    'up': (mlp + 'up_proj', hidden, (d,)),
    'down': (mlp + 'down_proj', (d,), hidden),
  }
  for name, (tensor, outputs, inputs) in maps.items():
    rows[f'blocks/{name}/kernel'] = _linear(f'{tensor}.weight', outputs, inputs)
    if f['use_bias'] or f['qkv_bias'] and name in 'qkv':
      rows[f'blocks/{name}/bias'] = Source(
        f'{tensor}.bias',
        outputs,
        tuple(range(len(outputs))),
        shape=(math.prod(outputs),),
      )
  if f['qk_norm']:
    for name in 'qk':
      rows[f'blocks/{name}_norm/scale'] = _whole(
        f'{at}{name}_norm.weight', f['head_dim']
      )
  if f['post_norm']:
    for name, tensor in (('attention', 'attention'), ('mlp', 'feedforward')):
      rows[f'blocks/{name}_post_norm/scale'] = _whole(
        f'layers.{{}}.post_{tensor}_layernorm.weight', d
      )
  return rows


def _norms(names: dict[str, str], d: int):
  """Rows of layer norms."""
  return {
    f'{path}/{ours}': _whole(f'{name}.{theirs}', d)
    for path, name in names.items()
    for ours, theirs in (('scale', 'weight'), ('bias', 'bias'))
  }


def _gpt2(f) -> dict[str, Source]:
  """As `_llama`. Its weights are [inputs, outputs]; q, k and v are one."""
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
    rows[f'blocks/{name}/kernel'] = Source(
      'h.{}.attn.c_attn.weight', (d, 3, *heads), (0, 1, 2), (1, i), (d, 3 * d)
    )
    rows[f'blocks/{name}/bias'] = Source(
      'h.{}.attn.c_attn.bias', (3, *heads), (0, 1), (0, i), (3 * d,)
    )
  rows['blocks/out/kernel'] = Source(
    'h.{}.attn.c_proj.weight', (*heads, d), (0, 1, 2), shape=(d, d)
  )
  rows['blocks/out/bias'] = _whole('h.{}.attn.c_proj.bias', d)
  for name, tensor, sizes in (
    ('up', 'c_fc', (d, hidden)),
    ('down', 'c_proj', (hidden, d)),
  ):
    tensor = f'h.{{}}.mlp.{tensor}'
    rows[f'blocks/{name}/kernel'] = _whole(f'{tensor}.weight', *sizes)
    rows[f'blocks/{name}/bias'] = _whole(f'{tensor}.bias', sizes[1])
  return rows


def _gpt_neox(f) -> dict[str, Source]:
  """As `_llama`. Each head's q, k and v lie side by side in one tensor."""
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
    rows[f'blocks/{name}/kernel'] = Source(
      f'{fused}.weight', (heads, 3, width, d), (2, 0, 1), (1, i), (3 * d, d)
    )
    rows[f'blocks/{name}/bias'] = Source(
      f'{fused}.bias', (heads, 3, width), (0, 1), (1, i), (3 * d,)
    )
  for name, tensor, outputs, inputs in (
    ('out', 'attention.dense', (d,), (heads, width)),
    ('up', 'mlp.dense_h_to_4h', (hidden,), (d,)),
    ('down', 'mlp.dense_4h_to_h', (d,), (hidden,)),
  ):
    rows[f'blocks/{name}/kernel'] = _linear(
      f'layers.{{}}.{tensor}.weight', outputs, inputs
    )
    rows[f'blocks/{name}/bias'] = _whole(f'layers.{{}}.{tensor}.bias', *outputs)
  return rows


_TABLES = {'gpt2': _gpt2, 'gpt_neox': _gpt_neox}  # the others are as Llama's


def _leaves(
  fields: Mapping, family: Family, prefix: str, head: str
) -> list[Leaf]:
  f = complete(fields)
  rows = _TABLES.get(family.model_type, _llama)(f)
  found = []
  for path, source in rows.items():
    path = tuple(path.split('/'))
    shape = tuple(
      [
        n
        for i, n in enumerate(source.view)
        if source.pick is None or i != source.pick[0]
      ][i]
      for i in source.order
    )
    stacked = path[0] == 'blocks'
    layers = range(f['num_layers']) if stacked else (0,)
    found.append(
      Leaf(
        path,
        (f['num_layers'], *shape) if stacked else shape,
        tuple(
          dataclasses.replace(source, name=prefix + source.name.format(i))
          for i in layers
        ),
        stacked,
      )
    )
  if not f['tie_embeddings']:
    table = _whole(head, f['vocab_rows'], f['d_model'])
    found.append(Leaf(('unembed',), table.shape, (table,), False))
  return sorted(found, key=lambda leaf: leaf.path)


def naming(config: dict, names) -> tuple[str, str]:
  """(what stands before the backbone's names, the name of the unembedding).

  Families changed both over the years; a model that was saved without its head
  has no prefix at all.

  Args:
    config: config.json.
    names: of the tensors of a file; none for the names that exports have.
  """
  family = family_of(config)
  embed = {'gpt2': 'wte', 'gpt_neox': 'embed_in'}.get(
    family.model_type, 'embed_tokens'
  )
  prefix = next(
    (
      prefix for prefix in family.prefixes if f'{prefix}{embed}.weight' in names
    ),
    family.prefixes[0],
  )
  head = next((head for head in family.heads if head in names), family.heads[0])
  return prefix, head


def leaves(config: dict, names=()) -> list[Leaf]:
  """Every leaf of the backbone's parameter tree, by path.

  Args:
    config: config.json.
    names: of the tensors that there are, see `naming`.
  """
  return _leaves(
    model_fields(config), family_of(config), *naming(config, names)
  )


def expected(config: dict, names=()) -> Shapes:
  """Every tensor that must be there, with its shape; arguments of `leaves`."""
  return {
    source.name: source.shape
    for leaf in leaves(config, names)
    for source in leaf.sources
  }


def check(config: dict, found: Mapping[str, tuple[int, ...]]):
  """Refuses tensors that are missing, of another shape, or not known.

  Args:
    config: config.json.
    found: the shape of every tensor there is.

  Raises:
    ValueError: names the tensor.
  """
  family, wanted = family_of(config), expected(config, found)
  missing = sorted(set(wanted) - set(found))
  if missing:
    raise ValueError(
      f'there is no tensor {missing[0]}{_more(missing)}: config.json says '
      f'{family.model_type} with {_sizes(config)}'
    )
  for name, shape in wanted.items():
    if tuple(found[name]) != shape:
      raise ValueError(
        f'tensor {name} is {tuple(found[name])}, and by config.json '
        f'({_sizes(config)}) it is {shape}'
      )
  ignored = family.ignored + (
    family.heads if model_fields(config)['tie_embeddings'] else ()
  )
  unknown = sorted(
    name
    for name in set(found) - set(wanted)
    if not any(re.fullmatch(pattern, name) for pattern in ignored)
  )
  if unknown:
    raise ValueError(
      f'tensor {unknown[0]}{_more(unknown)} is no part of '
      f'{family.model_type} as config.json describes it: it would be lost'
    )


def tied_heads(config: dict, names) -> list[tuple[str, str]]:
  """(unembedding, embedding) of a file that has both for a tied model.

  A tied model has one table for the two: where they are not equal, one of them
  would be lost.

  Args:
    config: config.json.
    names: of the tensors of the file.
  """
  family, found = family_of(config), leaves(config, names)
  if any(leaf.path == ('unembed',) for leaf in found):
    return []
  embed = next(leaf for leaf in found if leaf.path == ('embed',))
  return [
    (head, embed.sources[0].name) for head in family.heads if head in names
  ]


def _more(names):
  return f' (nor {len(names) - 1} others)' if len(names) > 1 else ''


def _sizes(config):
  f = model_fields(config)
  return f'{f["num_layers"]} layers of width {f["d_model"]}'


def read_leaf(leaf: Leaf, read: Read, dtype=np.float32) -> np.ndarray:
  """A whole leaf, its layers stacked; see `read_slice`."""
  return read_slice(leaf, (slice(None),) * len(leaf.shape), read, dtype)


def read_slice(
  leaf: Leaf, index: tuple[slice, ...], read: Read, dtype=np.float32
) -> np.ndarray:
  """What a shard needs of a leaf.

  Args:
    leaf: which.
    index: a slice of each axis.
    read: gives the tensor of a name; asked only for the layers of index[0],
      one after another. Of a tensor in a memory map only the shard is copied.
    dtype: of the result; None keeps that of the tensor.
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
  """The inverse: every tensor of an export, one at a time.

  Args:
    fields: of the model, as `config.model`.
    family: a name of FAMILIES.
    params: of a language model, or of a reward model ('backbone' and 'head'),
      whose head becomes `score.weight` [1, D]; its bias has no place in it.
      Of a leaf that is stacked one layer at a time is fetched.
    dtype: one of DTYPES.

  Yields:
    (name, array), those that a leaf has a part in together.
  """
  if dtype not in DTYPES:
    raise ValueError(f'dtype={dtype!r} is none of {DTYPES}')
  target, known = jnp.dtype(dtype), FAMILIES[family]
  backbone = params.get('backbone', params)
  fields = dict(fields, vocab_rows=backbone['embed'].shape[0])
  parts: dict[str, list] = {}  # tensor -> what is put into it
  for leaf in _leaves(fields, known, known.prefixes[0], known.heads[0]):
    if leaf.path == ('unembed',) and 'backbone' in params:
      continue  # a score has none
    value = backbone
    for key in leaf.path:
      value = value[key]
    if value.shape != leaf.shape:
      raise ValueError(
        f'{"/".join(leaf.path)} is {value.shape}, and by the '
        f"model's fields it is {leaf.shape}"
      )
    for layer, source in enumerate(leaf.sources):
      parts.setdefault(source.name, []).append(
        (source, value, layer if leaf.stacked else None)
      )
  for name, found in parts.items():
    tensor = np.empty(found[0][0].shape, target)
    for source, value, layer in found:
      value = value if layer is None else value[layer]
      source.put(np.asarray(jax.device_get(value)), tensor)
    yield name, tensor
  if 'backbone' in params:
    kernel = np.asarray(jax.device_get(params['head']['kernel']))
    yield 'score.weight', kernel[None].astype(target)
