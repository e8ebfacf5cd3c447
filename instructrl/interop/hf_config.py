"""config.json of Hugging Face <-> the fields of our model.

Whether a family can hold a model is found by trying: what is written must read
back as the same fields.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from instructrl.interop.config_reader import listed
from instructrl.interop.config_reader import Reader
from instructrl.interop.families import CONTAINERS
from instructrl.interop.families import FAMILIES
from instructrl.interop.families import Family
from instructrl.models.network import Transformer

KINDS = ('lm', 'reward')
# The fields of our model that define the computation.
FIELDS = tuple(
  """
  num_layers d_model num_heads num_kv_heads head_dim d_ff max_len vocab_rows
  norm norm_epsilon norm_offset qk_norm post_norm parallel_residual
  positions rope_theta rope_theta_local rope_scaling rotary_fraction
  windows query_scale mlp use_bias qkv_bias embed_scale tie_embeddings
  """.split()
)
_ROTARY = ('rope_theta', 'rope_theta_local', 'rope_scaling', 'rotary_fraction')
_DEFAULTS = {
  field.name: field.default for field in dataclasses.fields(Transformer)
}


def complete(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns all of FIELDS in a normal form.

  Zeros that stand for another number become that number, and fields without an
  effect become the default. So two models that compute the same have the same
  fields.
  """
  f = {
    name: fields[name] if name in fields else _DEFAULTS[name] for name in FIELDS
  }
  f['head_dim'] = f['head_dim'] or f['d_model'] // f['num_heads']
  f['num_kv_heads'] = f['num_kv_heads'] or f['num_heads']
  f['d_ff'] = f['d_ff'] or 4 * f['d_model']
  f['windows'] = _period(tuple(f['windows']))
  f['rope_scaling'] = tuple(f['rope_scaling'])
  if not any(f['windows']):
    f['windows'], f['rope_theta_local'] = (), 0.0
  if f['rope_theta_local'] == f['rope_theta'] and not f['rope_scaling']:
    f['rope_theta_local'] = 0.0
  if f['positions'] != 'rotary':
    f |= {name: _DEFAULTS[name] for name in _ROTARY}
  if f['query_scale'] == f['head_dim'] ** -0.5:
    f['query_scale'] = 0.0
  if f['use_bias']:
    f['qkv_bias'] = False
  return f


def _period(windows: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shortest tuple whose repetition starts with `windows`."""
  for n in range(1, len(windows)):
    if all(windows[i] == windows[i % n] for i in range(len(windows))):
      return windows[:n]
  return windows


def family_of(config: Mapping[str, Any]) -> Family:
  """Returns the family of a config.json.

  Raises:
    ValueError: the type or an architecture is not supported.
  """
  reader = Reader(config, 'config.json')
  name = reader.text('model_type', None)
  family = FAMILIES.get(CONTAINERS.get(name, name))
  if family is None:
    raise ValueError(
      'config.json: model_type must be one of '
      f'{listed((*FAMILIES, *CONTAINERS))}; got {name!r}'
    )
  known = (family.causal_lm, *family.others)
  for architecture in reader.items('architectures', ()):
    if architecture not in known:
      raise ValueError(
        f'config.json: architectures={architecture!r} is not supported; '
        f'architectures of {name} that can be imported: {listed(known)}'
      )
  return family


def model_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of `transformer.make_model` for a config.json.

  These are the fields that define the computation, with `vocab_rows` but
  without `vocab_size`, which belongs to the tokenizer.

  Raises:
    ValueError: names a field, and its value, that is not supported.
  """
  family = family_of(config)
  if config.get('quantization_config'):
    raise ValueError(
      'config.json: quantization_config: quantised weights cannot be imported; '
      'take the checkpoint that they were made from'
    )
  if config['model_type'] in CONTAINERS:
    text = Reader(config, config['model_type']).table('text_config')
    text.setdefault('tie_word_embeddings', config.get('tie_word_embeddings'))
    config = text
  return complete(family.read(Reader(config, family.model_type)))


def make_config(
  fields: Mapping[str, Any],
  family: str,
  *,
  kind: str = 'lm',
  vocab_rows: int,
  dtype: str = 'float32',
  **more,
) -> dict[str, Any]:
  """Returns config.json of an export: the inverse of `model_fields`.

  Args:
    fields: of the model, as in `config.model`.
    family: a name of FAMILIES.
    kind: 'lm' or 'reward'.
    vocab_rows: number of rows of the embedding.
    dtype: of the tensors.
    **more: further entries, such as `bos_token_id`.

  Raises:
    ValueError: names a field that the family cannot express.
  """
  if family not in FAMILIES or kind not in KINDS:
    raise ValueError(
      f'family must be one of {listed(FAMILIES)} and kind one of '
      f'{listed(KINDS)}; got family={family!r}, kind={kind!r}'
    )
  known = FAMILIES[family]
  wanted = complete({**fields, 'vocab_rows': vocab_rows})
  config = known.write(wanted) | dict(
    model_type=family,
    vocab_size=vocab_rows,
    tie_word_embeddings=wanted['tie_embeddings'],
  )
  found = model_fields(config)
  for name in FIELDS:
    if found[name] != wanted[name]:
      raise ValueError(
        f'{family} cannot express model.{name}={wanted[name]!r}; '
        f'there it is {found[name]!r}'
      )
  if kind == 'reward':
    head = dict(
      architectures=[known.classifier],
      num_labels=1,
      id2label={'0': 'LABEL_0'},
      label2id={'LABEL_0': 0},
    )
  else:
    head = dict(architectures=[known.causal_lm])
  return head | config | dict(torch_dtype=dtype, use_cache=True) | more


def families_for(fields: Mapping[str, Any]) -> list[str]:
  """Returns the names of the families that can express a model."""
  found = []
  for family in FAMILIES:
    try:
      make_config(fields, family, vocab_rows=1)
    except ValueError:
      continue
    found.append(family)
  return found
