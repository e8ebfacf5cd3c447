"""`config.json` of Hugging Face and the fields of our model, each way.

A family is read by its own rules, with the defaults that its config class in
transformers has, under the names of version 4 and of version 5. What is written
has version 4's names, which both read. Whether a family can hold a model is
tried: what is written must read back as the same fields.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

from instructrl.models.transformer import Transformer

KINDS = ('lm', 'reward')
# The fields that say what is computed, as `complete` leaves them.
FIELDS = (
  'num_layers',
  'd_model',
  'num_heads',
  'num_kv_heads',
  'head_dim',
  'd_ff',
  'max_len',
  'vocab_rows',
  'norm',
  'norm_epsilon',
  'norm_offset',
  'qk_norm',
  'post_norm',
  'parallel_residual',
  'positions',
  'rope_theta',
  'rope_theta_local',
  'rope_scaling',
  'rotary_fraction',
  'windows',
  'query_scale',
  'mlp',
  'use_bias',
  'qkv_bias',
  'embed_scale',
  'tie_embeddings',
)
_DEFAULTS = {
  field.name: field.default for field in dataclasses.fields(Transformer)
}
# Name of an activation -> `mlp` without a gate, and with one.
_PLAIN = {
  'gelu_new': 'gelu',
  'gelu_pytorch_tanh': 'gelu',
  'gelu_fast': 'gelu',
  'gelu': 'gelu_exact',
}
_GATED = {
  'silu': 'swiglu',
  'swish': 'swiglu',
  'gelu_pytorch_tanh': 'geglu',
  'gelu_new': 'geglu',
}
# What the fields of config.json are, by name.
_WHOLE = (
  'n_layer',
  'n_embd',
  'n_head',
  'n_inner',
  'n_positions',
  'vocab_size',
  'num_hidden_layers',
  'hidden_size',
  'num_attention_heads',
  'num_key_value_heads',
  'head_dim',
  'intermediate_size',
  'max_position_embeddings',
  'sliding_window',
  'sliding_window_pattern',
  '_sliding_window_pattern',
  'original_max_position_embeddings',
)
_NUMBERS = (
  'layer_norm_epsilon',
  'layer_norm_eps',
  'rms_norm_eps',
  'rotary_emb_base',
  'rope_theta',
  'rope_local_base_freq',
  'query_pre_attn_scalar',
  'rotary_pct',
  'partial_rotary_factor',
  'factor',
  'low_freq_factor',
  'high_freq_factor',
)
_TRUTHS = (
  'tie_word_embeddings',
  'attention_bias',
  'mlp_bias',
  'use_parallel_residual',
  'use_sliding_window',
)
_TABLES = (
  'rope_parameters',
  'rope_scaling',
  'text_config',
  'full_attention',
  'sliding_attention',
)
_LISTS = ('layer_types', 'architectures')
_TEXTS = (
  'model_type',
  'hidden_act',
  'hidden_activation',
  'activation_function',
  'rope_type',
  'type',
)
_MOST_LAYERS = 10_000  # all are listed before the first is looked for


@dataclasses.dataclass(frozen=True)
class Family:
  """What differs between families beside the shapes of their tensors."""

  model_type: str  # of config.json
  causal_lm: str  # the architecture of exported language models
  classifier: str  # and of reward models
  others: tuple[str, ...]  # architectures that are read, beside causal_lm
  prefixes: tuple[str, ...]  # of the backbone's names; exports have the first
  heads: tuple[str, ...]  # names of an untied unembedding; likewise
  ignored: tuple[str, ...]  # patterns of tensors that are no parameters of ours
  read: Callable[['Reader'], dict[str, Any]]  # config.json -> fields
  write: Callable[[dict[str, Any]], dict[str, Any]]  # complete fields -> config


def complete(fields: Mapping[str, Any]) -> dict[str, Any]:
  """All of FIELDS, each model in one way: zeros that stand for a number are it.

  What has no effect in a model is as by default, so that two models which
  compute the same have the same fields.
  """
  f = {
    name: fields[name] if name in fields else _DEFAULTS[name] for name in FIELDS
  }
  f['head_dim'] = f['head_dim'] or f['d_model'] // f['num_heads']
  f['num_kv_heads'] = f['num_kv_heads'] or f['num_heads']
  f['d_ff'] = f['d_ff'] or 4 * f['d_model']
  f['windows'], f['rope_scaling'] = (
    tuple(f['windows']),
    tuple(f['rope_scaling']),
  )
  if not any(f['windows']):
    f['windows'], f['rope_theta_local'] = (), 0.0
  f['windows'] = _period(f['windows'])
  if f['rope_theta_local'] == f['rope_theta'] and not f['rope_scaling']:
    f['rope_theta_local'] = 0.0
  if f['positions'] != 'rotary':
    for name in (
      'rope_theta',
      'rope_theta_local',
      'rope_scaling',
      'rotary_fraction',
    ):
      f[name] = _DEFAULTS[name]
  if f['query_scale'] == f['head_dim'] ** -0.5:
    f['query_scale'] = 0.0
  if f['use_bias']:
    f['qkv_bias'] = False
  return f


def _period(windows):
  """The shortest beginning of which all of it is a repetition."""
  return next(
    (
      windows[:n]
      for n in range(1, len(windows))
      if all(windows[i] == windows[i % n] for i in range(len(windows)))
    ),
    windows,
  )


def check_field(name: str, value):
  """Refuses a field of config.json that is no value of its kind.

  Raises:
    ValueError: names field and value.
  """
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  for names, wanted, fits in (
    (
      _WHOLE,
      'a whole number of 1 or more',
      is_number and isinstance(value, int) and 1 <= value < 2**31,
    ),
    (_NUMBERS, 'a positive number', is_number and 0 < value < math.inf),
    (
      ('max_window_layers',),
      'a number of layers',
      is_number and isinstance(value, int) and value >= 0,
    ),
    (_TRUTHS, 'true or false', isinstance(value, bool)),
    (_TABLES, 'a table', isinstance(value, Mapping)),
    (_LISTS, 'a list', isinstance(value, (list, tuple))),
    (_TEXTS, 'a name', isinstance(value, str)),
  ):
    if name in names and not fits:
      raise ValueError(f'config.json: {name}={value!r} is not {wanted}')
  if name in ('n_layer', 'num_hidden_layers') and value > _MOST_LAYERS:
    raise ValueError(
      f'config.json: {name}={value!r} is more than {_MOST_LAYERS:,} layers'
    )


class Reader:
  """A family's config.json, with errors that name field and value."""

  def __init__(self, config: Mapping[str, Any], model_type: str):
    self._config, self._type = config, model_type

  def get(self, name: str, *default):
    """A field; absent or null it is the default, and refused without one."""
    value = self._config.get(name)
    if value is not None:
      check_field(name, value)
      return float(value) if name in _NUMBERS else value
    if not default:
      raise ValueError(f'config.json of {self._type} has no {name}')
    return default[0]

  def refuse(self, name: str, value, why: str):
    raise ValueError(
      f'config.json: {name}={value!r} is not supported in {self._type}: {why}'
    )

  def only(self, name: str, default, *allowed):
    """Refuses a field that changes what is computed."""
    value = self.get(name, default)
    if value not in allowed:
      self.refuse(name, value, f'only {_listed(allowed)}')
    return value

  def choose(self, name: str, table: Mapping, *default):
    value = self.get(name, *default)
    if value not in table:
      self.refuse(name, value, f'only {_listed(table)}')
    return table[value]

  def rope(
    self,
    theta: float,
    nested: str = '',
    *,
    fraction: float = 1.0,
    theta_name: str = 'rope_theta',
    fraction_name: str = 'partial_rotary_factor',
  ) -> tuple[float, tuple, float]:
    """(theta, scaling, fraction of a head), under either version's names.

    Args:
      theta: by default.
      nested: the part of `rope_parameters` that is of these layers.
      fraction: by default.
      theta_name: of the field beside the table that has theta.
      fraction_name: likewise.
    """
    new = self.part(nested) if nested else dict(self.get('rope_parameters', {}))
    old = dict(self.get('rope_scaling', {}))
    if old and self.get('rope_parameters', {}) not in ({}, old):
      self.refuse(
        'rope_scaling',
        old,
        'rope_parameters says something else: leave one of the two out',
      )
    found = {
      name: value for name, value in (new | old).items() if value is not None
    }
    for name, value in found.items():
      check_field(name, value)
      if name in ('full_attention', 'sliding_attention'):
        self.refuse(name, value, 'all layers rotate by one table')
    kind = found.get('rope_type', found.get('type', 'default'))
    read = lambda name: (
      found[name]
      if name in found
      else self.refuse('rope_scaling', found, f'it has no {name}')
    )
    if kind == 'default':
      scaling = ()
    elif kind == 'linear':
      scaling = ('linear', float(read('factor')))
    elif kind == 'llama3':
      name = 'original_max_position_embeddings'
      # Beside the table it comes first, but where kinds of layers differ.
      length = (
        (None if nested else self.get(name, None))
        or found.get(name)
        or self.get('max_position_embeddings')
      )
      scaling = (
        kind,
        *map(
          float,
          (
            read('factor'),
            read('low_freq_factor'),
            read('high_freq_factor'),
            length,
          ),
        ),
      )
      if scaling[2] >= scaling[3]:
        self.refuse(
          'rope_scaling',
          found,
          'low_freq_factor must be less than high_freq_factor',
        )
    else:
      self.refuse('rope_type', kind, "only 'default', 'linear' and 'llama3'")
    values = []
    for name, own, default in (
      ('rope_theta', theta_name, theta),
      ('partial_rotary_factor', fraction_name, fraction),
    ):
      value = float(found[name] if name in found else self.get(own, default))
      if own != name and self.get(name, value) != value:
        self.refuse(
          name, self.get(name), f'by {own} or its table it is {value}'
        )
      values.append(value)
    return values[0], scaling, values[1]

  def part(self, name: str) -> dict:
    """What `rope_parameters` says of one kind of layer; {} for nothing."""
    found = self.get('rope_parameters', {}).get(name) or {}
    check_field(name, found)
    for key, value in found.items():
      if value is not None:
        check_field(key, value)
    return dict(found)

  def heads(self, found: Mapping, name: str = 'num_attention_heads') -> dict:
    """The same fields; refuses a width that its heads do not divide.

    Args:
      found: fields, of a family whose heads have no width of their own.
      name: of the field that has their number.
    """
    width, count = found['d_model'], found['num_heads']
    if width % count:
      self.refuse(name, count, f'it does not divide the width, {width}')
    return dict(found)

  def windows(self, types, window) -> tuple[int, ...]:
    """`windows` from the kinds of all layers."""
    if len(types) != self.get('num_hidden_layers', len(types)):
      self.refuse('layer_types', types, 'it needs one for each layer')
    for kind in types:
      if kind not in ('full_attention', 'sliding_attention'):
        self.refuse(
          'layer_types', kind, "only 'full_attention' and 'sliding_attention'"
        )
    found = tuple(
      int(window or 0) if kind == 'sliding_attention' else 0 for kind in types
    )
    if 'sliding_attention' in types and not window:
      self.refuse('sliding_window', window, 'some layer_types need it')
    return found


def _listed(values):
  return ', '.join(repr(v) for v in values)


# GPT-2's fields, by the names that the other families have for them.
_GPT2_ALIASES = dict(
  n_layer='num_hidden_layers',
  n_embd='hidden_size',
  n_head='num_attention_heads',
  n_positions='max_position_embeddings',
)


def _read_gpt2(r: Reader):
  def get(name, default):
    alias = _GPT2_ALIASES[name]
    value = r.get(name, r.get(alias, default))
    if r.get(alias, value) != value:
      r.refuse(alias, r.get(alias), f'by {name} it is {value}')
    return value

  r.only('scale_attn_weights', True, True)
  r.only('scale_attn_by_inverse_layer_idx', False, False)
  r.only('add_cross_attention', False, False)
  return r.heads(
    dict(
      num_layers=get('n_layer', 12),
      d_model=get('n_embd', 768),
      num_heads=get('n_head', 12),
      d_ff=r.get('n_inner', 0),
      max_len=get('n_positions', 1024),
      vocab_rows=r.get('vocab_size', 50257),
      norm_epsilon=r.get('layer_norm_epsilon', 1e-5),
      mlp=r.choose('activation_function', _PLAIN, 'gelu_new'),
      tie_embeddings=r.get('tie_word_embeddings', True),
    ),
    'n_head',
  )


def _write_gpt2(f):
  return dict(
    n_layer=f['num_layers'],
    n_embd=f['d_model'],
    n_head=f['num_heads'],
    n_inner=None if f['d_ff'] == 4 * f['d_model'] else f['d_ff'],
    n_positions=f['max_len'],
    n_ctx=f['max_len'],
    layer_norm_epsilon=f['norm_epsilon'],
    activation_function='gelu' if f['mlp'] == 'gelu_exact' else 'gelu_new',
  )


def _sizes(r: Reader, **defaults):
  """What all but GPT-2 have under the same names."""
  get = lambda name: r.get(
    name, *((defaults[name],) if name in defaults else ())
  )
  return dict(
    num_layers=get('num_hidden_layers'),
    d_model=get('hidden_size'),
    num_heads=get('num_attention_heads'),
    d_ff=get('intermediate_size'),
    vocab_rows=get('vocab_size'),
    positions='rotary',
    max_len=get('max_position_embeddings'),
  )


def _write_sizes(f):
  scaling = None
  if f['rope_scaling']:
    kind, *numbers = f['rope_scaling']
    names = (
      'factor',
      'low_freq_factor',
      'high_freq_factor',
      'original_max_position_embeddings',
    )
    scaling = dict(rope_type=kind, **dict(zip(names, numbers)))
    if kind == 'llama3':
      scaling[names[-1]] = int(numbers[-1])
  return dict(
    num_hidden_layers=f['num_layers'],
    hidden_size=f['d_model'],
    num_attention_heads=f['num_heads'],
    intermediate_size=f['d_ff'],
    max_position_embeddings=f['max_len'],
    rope_theta=f['rope_theta'],
    rope_scaling=scaling,
  )


def _read_gpt_neox(r: Reader):
  r.only('attention_bias', True, True)
  theta, scaling, fraction = r.rope(
    10_000.0,
    fraction=0.25,
    theta_name='rotary_emb_base',
    fraction_name='rotary_pct',
  )
  return r.heads(
    dict(
      **_sizes(r, max_position_embeddings=2048),
      norm_epsilon=r.get('layer_norm_eps', 1e-5),
      mlp=r.choose('hidden_act', _PLAIN, 'gelu'),
      rope_theta=theta,
      rope_scaling=scaling,
      rotary_fraction=fraction,
      parallel_residual=r.get('use_parallel_residual', True),
      tie_embeddings=r.get('tie_word_embeddings', False),
    )
  )


def _write_gpt_neox(f):
  config = _write_sizes(f)
  theta = config.pop('rope_theta')
  return dict(
    **config,
    rotary_emb_base=theta,
    rotary_pct=f['rotary_fraction'],
    layer_norm_eps=f['norm_epsilon'],
    attention_bias=True,
    use_parallel_residual=f['parallel_residual'],
    hidden_act='gelu' if f['mlp'] == 'gelu_exact' else 'gelu_pytorch_tanh',
  )


def _read_llama_like(r: Reader, *, head_dim: int = 0, max_len: int = 2048):
  theta, scaling, fraction = r.rope(10_000.0)
  if fraction != 1:
    r.refuse('partial_rotary_factor', fraction, 'only 1.0')
  head_dim = r.get('head_dim', head_dim)
  sizes = _sizes(r, max_position_embeddings=max_len)
  return dict(
    **(sizes if head_dim else r.heads(sizes)),
    norm='rmsnorm',
    norm_epsilon=r.get('rms_norm_eps', 1e-6),
    use_bias=False,
    num_kv_heads=r.get('num_key_value_heads', 0),
    head_dim=head_dim,
    rope_theta=theta,
    rope_scaling=scaling,
    mlp=r.choose('hidden_act', _GATED, 'silu'),
    tie_embeddings=r.get('tie_word_embeddings', False),
  )


def _read_llama(r: Reader):
  bias = r.get('attention_bias', False)
  r.only('mlp_bias', False, bias)
  return _read_llama_like(r) | dict(use_bias=bias)


def _read_qwen(r: Reader, **fields):
  found = _read_llama_like(
    r, max_len=32_768, head_dim=128 if 'qk_norm' in fields else 0
  )
  window = (
    r.get('sliding_window', 4096)
    if r.get('use_sliding_window', False)
    else None
  )
  first = r.get('max_window_layers', 28)
  types = r.get(
    'layer_types',
    [
      'sliding_attention' if window and layer >= first else 'full_attention'
      for layer in range(found['num_layers'])
    ],
  )
  return found | fields | dict(windows=r.windows(types, window))


def _read_qwen3(r: Reader):
  r.only('attention_bias', False, False)
  return _read_qwen(r, qk_norm=True)


def _write_llama(f):
  return dict(
    **_write_sizes(f),
    num_key_value_heads=f['num_kv_heads'],
    head_dim=f['head_dim'],
    rms_norm_eps=f['norm_epsilon'],
    hidden_act='gelu_pytorch_tanh' if f['mlp'] == 'geglu' else 'silu',
    attention_bias=f['use_bias'],
    mlp_bias=f['use_bias'],
  )


def _layer_types(f):
  windows = f['windows'] or (0,)
  return [
    'sliding_attention' if windows[i % len(windows)] else 'full_attention'
    for i in range(f['num_layers'])
  ]


def _write_qwen(f):
  config = _write_llama(f)
  del config['mlp_bias']
  types, windows = _layer_types(f), f['windows']
  first = next(
    (i for i, kind in enumerate(types) if kind[0] == 's'), f['num_layers']
  )
  return config | dict(
    use_sliding_window=any(windows),
    sliding_window=max(windows, default=0) or None,
    max_window_layers=first,
    layer_types=types,
  )


def _read_gemma3(r: Reader):
  r.only('attn_logit_softcapping', None, None)
  r.only('final_logit_softcapping', None, None)
  r.only('attention_bias', False, False)
  r.only('use_bidirectional_attention', False, False)
  sizes = _sizes(
    r,
    num_hidden_layers=26,
    hidden_size=2304,
    num_attention_heads=8,
    intermediate_size=9216,
    vocab_size=262_208,
    max_position_embeddings=131_072,
  )
  theta, scaling, fraction = r.rope(1e6, nested='full_attention')
  if fraction != 1:
    r.refuse('partial_rotary_factor', fraction, 'only 1.0')
  local = r.part('sliding_attention')
  if local.get('rope_type', local.get('type', 'default')) != 'default':
    r.refuse('rope_parameters.sliding_attention', local, "only 'default'")
  pattern = r.get('sliding_window_pattern', 6)
  hidden = r.get('_sliding_window_pattern', pattern)
  if hidden != pattern and not r.get('layer_types', ()):
    # transformers passes it over; who wrote it meant something else.
    r.refuse('_sliding_window_pattern', hidden, 'say it in layer_types')
  types = r.get(
    'layer_types',
    [
      'sliding_attention' if (i + 1) % pattern else 'full_attention'
      for i in range(sizes['num_layers'])
    ],
  )
  width = r.get('head_dim', 256)
  return dict(
    **sizes,
    norm='rmsnorm',
    norm_offset=1.0,
    qk_norm=True,
    post_norm=True,
    norm_epsilon=r.get('rms_norm_eps', 1e-6),
    use_bias=False,
    num_kv_heads=r.get('num_key_value_heads', 4),
    head_dim=width,
    mlp=r.choose(
      'hidden_activation', {'gelu_pytorch_tanh': 'geglu'}, 'gelu_pytorch_tanh'
    ),
    rope_theta=theta,
    rope_scaling=scaling,
    embed_scale=True,
    rope_theta_local=float(
      local.get('rope_theta') or r.get('rope_local_base_freq', 10_000.0)
    ),
    windows=r.windows(types, r.get('sliding_window', 4096)),
    query_scale=r.get('query_pre_attn_scalar', 256) ** -0.5,
    tie_embeddings=r.get('tie_word_embeddings', True),
  )


def _write_gemma3(f):
  config = _write_llama(f)
  for name in ('mlp_bias', 'hidden_act'):
    del config[name]
  scale = f['query_scale'] or f['head_dim'] ** -0.5
  return config | dict(
    hidden_activation='gelu_pytorch_tanh',
    layer_types=_layer_types(f),
    sliding_window=max(f['windows'], default=0) or 4096,
    rope_local_base_freq=f['rope_theta_local'] or f['rope_theta'],
    query_pre_attn_scalar=round(scale**-2),
    attn_logit_softcapping=None,
    final_logit_softcapping=None,
  )


def _llama_family(
  model_type,
  name,
  read,
  write,
  *,
  classifier=None,
  others=(),
  prefixes=('model.', ''),
  heads=('lm_head.weight',),
  ignored=(),
):
  return Family(
    model_type,
    f'{name}ForCausalLM',
    classifier or f'{name}ForSequenceClassification',
    (f'{name}Model', *others),
    prefixes,
    heads,
    (r'.*\.rotary_emb\.inv_freq', *ignored),
    read,
    write,
  )


FAMILIES = {
  family.model_type: family
  for family in (
    Family(
      'gpt2',
      'GPT2LMHeadModel',
      'GPT2ForSequenceClassification',
      ('GPT2Model',),
      ('transformer.', ''),
      ('lm_head.weight',),
      (r'(transformer\.)?h\.\d+\.attn\.(masked_)?bias',),
      _read_gpt2,
      _write_gpt2,
    ),
    Family(
      'gpt_neox',
      'GPTNeoXForCausalLM',
      'GPTNeoXForSequenceClassification',
      ('GPTNeoXModel',),
      ('gpt_neox.', ''),
      ('embed_out.weight', 'lm_head.weight'),
      (
        r'(gpt_neox\.)?layers\.\d+\.attention\.'
        r'((masked_)?bias|rotary_emb\.inv_freq)',
      ),
      _read_gpt_neox,
      _write_gpt_neox,
    ),
    _llama_family('llama', 'Llama', _read_llama, _write_llama),
    _llama_family(
      'qwen2', 'Qwen2', lambda r: _read_qwen(r, qkv_bias=True), _write_qwen
    ),
    _llama_family('qwen3', 'Qwen3', _read_qwen3, _write_qwen),
    _llama_family(
      'gemma3_text',
      'Gemma3',
      _read_gemma3,
      _write_gemma3,
      classifier='Gemma3TextForSequenceClassification',
      others=('Gemma3TextModel', 'Gemma3ForConditionalGeneration'),
      prefixes=(
        'model.',
        'language_model.model.',
        'model.language_model.',
        'language_model.',
        '',
      ),
      heads=('lm_head.weight', 'language_model.lm_head.weight'),
      ignored=(r'(model\.)?(vision_tower|multi_modal_projector)\..*',),
    ),
  )
}
_CONTAINERS = {'gemma3': 'gemma3_text'}  # with vision; the text is one of ours


def family_of(config: Mapping[str, Any]) -> Family:
  """The family of a config.json.

  Raises:
    ValueError: names the type or the architecture that is none of ours.
  """
  for key in ('model_type', 'architectures', 'text_config'):
    if config.get(key) is not None:
      check_field(key, config[key])
  name = config.get('model_type')
  family = FAMILIES.get(_CONTAINERS.get(name, name))
  if family is None:
    raise ValueError(
      f'config.json: model_type={name!r} is none of '
      f'{_listed((*FAMILIES, *_CONTAINERS))}'
    )
  known = (family.causal_lm, *family.others)
  for architecture in config.get('architectures') or ():
    if architecture not in known:
      raise ValueError(
        f'config.json: architectures={architecture!r} is not supported: of '
        f'{name}, {_listed(known)} are read'
      )
  return family


def model_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of `transformer.make_model` that a config.json says.

  All that say what is computed, and `vocab_rows`; not `vocab_size`, which is
  the tokenizer's.

  Raises:
    ValueError: names a field, and its value, that we do not compute.
  """
  family = family_of(config)
  if config.get('quantization_config'):
    raise ValueError(
      'config.json: quantization_config: quantised weights are '
      'not read; take the checkpoint they were made from'
    )
  if config['model_type'] in _CONTAINERS:
    text = dict(config.get('text_config') or {})
    text.setdefault('tie_word_embeddings', config.get('tie_word_embeddings'))
    config = text
  return complete(family.read(Reader(config, family.model_type)))


def hf_config(
  fields: Mapping[str, Any],
  family: str,
  *,
  kind: str = 'lm',
  vocab_rows: int,
  dtype: str = 'float32',
  **more,
) -> dict[str, Any]:
  """config.json of an export.

  Args:
    fields: of the model, as `config.model`.
    family: a name of FAMILIES.
    kind: 'lm' or 'reward'.
    vocab_rows: of the embedding.
    dtype: of the tensors.
    **more: what else it is to say: `bos_token_id`, `pad_token_id`, ...

  Raises:
    ValueError: names a field that the family has no place for.
  """
  if family not in FAMILIES or kind not in KINDS:
    raise ValueError(
      f'family={family!r} and kind={kind!r} must be of '
      f'{_listed(FAMILIES)} and {_listed(KINDS)}'
    )
  known = FAMILIES[family]
  wanted = complete({**fields, 'vocab_rows': vocab_rows})
  config = known.write(wanted) | dict(
    model_type=family,
    vocab_size=vocab_rows,
    tie_word_embeddings=wanted['tie_embeddings'],
  )
  found = model_fields(config)
  wrong = [name for name in FIELDS if found[name] != wanted[name]]
  if wrong:
    name = wrong[0]
    raise ValueError(
      f'{family} has no place for model.{name}={wanted[name]!r}: there it is '
      f'{found[name]!r}'
    )
  head = dict(architectures=[known.causal_lm])
  if kind == 'reward':
    head = dict(
      architectures=[known.classifier],
      num_labels=1,
      id2label={'0': 'LABEL_0'},
      label2id={'LABEL_0': 0},
    )
  return head | config | dict(torch_dtype=dtype, use_cache=True) | more


def families_for(fields: Mapping[str, Any]) -> list[str]:
  """The families that can hold a model, by name; none where it is empty."""
  found = []
  for family in FAMILIES:
    try:
      hf_config(fields, family, vocab_rows=1)
    except ValueError:
      continue
    found.append(family)
  return found
