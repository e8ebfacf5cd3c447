"""Model families: how each writes its architecture in config.json.

Each family has a `read` function (config.json -> fields of our model) and a
`write` function (fields -> config.json). Reading accepts the names of versions
4 and 5 of transformers and applies the defaults of its config classes. Written
files have version 4's names, which both versions read. Whatever changes the
computation in a way that our model does not have is refused.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from instructrl.interop import rotary
from instructrl.interop.config_reader import Reader
from instructrl.interop.rotary import FULL
from instructrl.interop.rotary import SLIDING

Fields = dict[str, Any]

# Name of an activation -> `mlp` of our model, without a gate and with one.
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


@dataclasses.dataclass(frozen=True)
class Family:
  """Describes a model family, except for the shapes of its tensors."""

  model_type: str  # in config.json
  causal_lm: str  # architecture of exported language models
  classifier: str  # architecture of exported reward models
  others: tuple[str, ...]  # further architectures that can be imported
  prefixes: tuple[str, ...]  # of the backbone's tensors; exports use the first
  heads: tuple[str, ...]  # an untied unembedding; exports use the first
  ignored: tuple[str, ...]  # patterns of tensors that are not parameters
  read: Callable[[Reader], Fields]  # config.json -> fields of our model
  write: Callable[[Fields], Fields]  # complete fields -> config.json


# --- Parts that several families share ---------------------------------------


def _check_heads(r: Reader, fields: Fields, name='num_attention_heads'):
  """Returns the fields; refuses a width that the heads do not divide."""
  width, count = fields['d_model'], fields['num_heads']
  if width % count:
    r.refuse(name, count, f'it does not divide the width, {width}')
  return fields


def _windows(r: Reader, types: Sequence[str], window: int | None):
  """Returns `windows` of our model for the kinds of all layers."""
  if len(types) != r.whole('num_hidden_layers', len(types)):
    r.refuse('layer_types', types, 'it needs one for each layer')
  for kind in types:
    if kind not in (FULL, SLIDING):
      r.refuse('layer_types', kind, f'only {FULL!r} and {SLIDING!r}')
  if SLIDING in types and not window:
    r.refuse('sliding_window', window, 'some layer_types need it')
  return tuple(window if kind == SLIDING else 0 for kind in types)


def _layer_types(f: Fields) -> list[str]:
  windows = f['windows'] or (0,)
  return [
    SLIDING if windows[i % len(windows)] else FULL
    for i in range(f['num_layers'])
  ]


# Field of our model -> name in config.json of all families except GPT-2.
_SIZES = dict(
  num_layers='num_hidden_layers',
  d_model='hidden_size',
  num_heads='num_attention_heads',
  d_ff='intermediate_size',
  max_len='max_position_embeddings',
  vocab_rows='vocab_size',
)


def _read_sizes(r: Reader, **defaults: int) -> Fields:
  """Reads the fields of _SIZES; those without a default are required."""
  default = {name: (value,) for name, value in defaults.items()}
  return {
    ours: r.whole(theirs, *default.get(ours, ()))
    for ours, theirs in _SIZES.items()
  }


def _write_sizes(f: Fields) -> Fields:
  return {theirs: f[ours] for ours, theirs in _SIZES.items()} | dict(
    rope_theta=f['rope_theta'], rope_scaling=rotary.write(f['rope_scaling'])
  )


# --- GPT-2 -------------------------------------------------------------------

# GPT-2's own names; its files may also use those of _SIZES.
_GPT2 = dict(
  num_layers='n_layer',
  d_model='n_embd',
  num_heads='n_head',
  max_len='n_positions',
)


def _read_gpt2(r: Reader) -> Fields:
  def get(ours, default):
    name, alias = _GPT2[ours], _SIZES[ours]
    value = r.whole(name, r.whole(alias, default))
    if r.whole(alias, value) != value:
      r.refuse(alias, r.whole(alias), f'by {name} it is {value}')
    return value

  r.only('scale_attn_weights', True, True)
  r.only('scale_attn_by_inverse_layer_idx', False, False)
  r.only('add_cross_attention', False, False)
  fields = dict(
    num_layers=get('num_layers', 12),
    d_model=get('d_model', 768),
    num_heads=get('num_heads', 12),
    d_ff=r.whole('n_inner', 0),
    max_len=get('max_len', 1024),
    vocab_rows=r.whole('vocab_size', 50257),
    norm_epsilon=r.number('layer_norm_epsilon', 1e-5),
    mlp=r.choose('activation_function', _PLAIN, 'gelu_new'),
    tie_embeddings=r.truth('tie_word_embeddings', True),
  )
  return _check_heads(r, fields, 'n_head')


def _write_gpt2(f: Fields) -> Fields:
  return {theirs: f[ours] for ours, theirs in _GPT2.items()} | dict(
    n_inner=None if f['d_ff'] == 4 * f['d_model'] else f['d_ff'],
    n_ctx=f['max_len'],
    layer_norm_epsilon=f['norm_epsilon'],
    activation_function='gelu' if f['mlp'] == 'gelu_exact' else 'gelu_new',
  )


# --- GPT-NeoX ----------------------------------------------------------------


def _read_gpt_neox(r: Reader) -> Fields:
  r.only('attention_bias', True, True)
  rope = rotary.read(
    r,
    10_000.0,
    fraction=0.25,
    theta_name='rotary_emb_base',
    fraction_name='rotary_pct',
  )
  fields = dict(
    **_read_sizes(r, max_len=2048),
    **rope,
    norm_epsilon=r.number('layer_norm_eps', 1e-5),
    mlp=r.choose('hidden_act', _PLAIN, 'gelu'),
    parallel_residual=r.truth('use_parallel_residual', True),
    tie_embeddings=r.truth('tie_word_embeddings', False),
  )
  return _check_heads(r, fields)


def _write_gpt_neox(f: Fields) -> Fields:
  config = _write_sizes(f)
  config['rotary_emb_base'] = config.pop('rope_theta')
  return config | dict(
    rotary_pct=f['rotary_fraction'],
    layer_norm_eps=f['norm_epsilon'],
    attention_bias=True,
    use_parallel_residual=f['parallel_residual'],
    hidden_act='gelu' if f['mlp'] == 'gelu_exact' else 'gelu_pytorch_tanh',
  )


# --- Llama, Qwen -------------------------------------------------------------


def _read_llama_like(
  r: Reader,
  sizes: Fields,
  rope: Fields,
  *,
  head_dim: int = 0,
  kv_heads: int = 0,
  mlp: str,
  tied: bool = False,
) -> Fields:
  """Reads what Llama, Qwen and Gemma have in common.

  Args:
    r: config.json.
    sizes: see `_read_sizes`.
    rope: see `rotary.read`.
    head_dim: the default; 0 derives the width of a head from `sizes`.
    kv_heads: the default number of key heads; 0 = one per head.
    mlp: of our model.
    tied: the default of `tie_embeddings`.
  """
  if rope['rotary_fraction'] != 1:
    r.refuse('partial_rotary_factor', rope['rotary_fraction'], 'only 1.0')
  head_dim = r.whole('head_dim', head_dim)
  return dict(
    **(sizes if head_dim else _check_heads(r, sizes)),
    **rope,
    norm='rmsnorm',
    norm_epsilon=r.number('rms_norm_eps', 1e-6),
    use_bias=False,
    num_kv_heads=r.whole('num_key_value_heads', kv_heads),
    head_dim=head_dim,
    mlp=mlp,
    tie_embeddings=r.truth('tie_word_embeddings', tied),
  )


def _read_llama(r: Reader) -> Fields:
  bias = r.truth('attention_bias', False)
  r.only('mlp_bias', False, bias)
  mlp = r.choose('hidden_act', _GATED, 'silu')
  sizes = _read_sizes(r, max_len=2048)
  fields = _read_llama_like(r, sizes, rotary.read(r, 10_000.0), mlp=mlp)
  return fields | dict(use_bias=bias)


def _write_llama(f: Fields) -> Fields:
  return dict(
    **_write_sizes(f),
    num_key_value_heads=f['num_kv_heads'],
    head_dim=f['head_dim'],
    rms_norm_eps=f['norm_epsilon'],
    hidden_act='gelu_pytorch_tanh' if f['mlp'] == 'geglu' else 'silu',
    attention_bias=f['use_bias'],
    mlp_bias=f['use_bias'],
  )


def _read_qwen(r: Reader, *, head_dim: int = 0, **fields) -> Fields:
  mlp = r.choose('hidden_act', _GATED, 'silu')
  sizes, rope = _read_sizes(r, max_len=32_768), rotary.read(r, 10_000.0)
  found = _read_llama_like(r, sizes, rope, head_dim=head_dim, mlp=mlp)
  slides = r.truth('use_sliding_window', False)
  window = r.whole('sliding_window', 4096) if slides else None
  first = r.whole('max_window_layers', 28, least=0)
  default = [
    SLIDING if window and layer >= first else FULL
    for layer in range(found['num_layers'])
  ]
  windows = _windows(r, r.items('layer_types', default), window)
  return found | fields | dict(windows=windows)


def _read_qwen2(r: Reader) -> Fields:
  return _read_qwen(r, qkv_bias=True)


def _read_qwen3(r: Reader) -> Fields:
  r.only('attention_bias', False, False)
  return _read_qwen(r, head_dim=128, qk_norm=True)


def _write_qwen(f: Fields) -> Fields:
  config, types, windows = _write_llama(f), _layer_types(f), f['windows']
  del config['mlp_bias']
  return config | dict(
    use_sliding_window=any(windows),
    sliding_window=max(windows, default=0) or None,
    max_window_layers=[*types, SLIDING].index(SLIDING),
    layer_types=types,
  )


# --- Gemma 3 -----------------------------------------------------------------


def _read_gemma3(r: Reader) -> Fields:
  r.only('attn_logit_softcapping', None, None)
  r.only('final_logit_softcapping', None, None)
  r.only('attention_bias', False, False)
  r.only('use_bidirectional_attention', False, False)
  sizes = _read_sizes(
    r,
    num_layers=26,
    d_model=2304,
    num_heads=8,
    d_ff=9216,
    max_len=131_072,
    vocab_rows=262_208,
  )
  local = r.part('rope_parameters').part(SLIDING)
  if local.text('rope_type', local.text('type', 'default')) != 'default':
    table = r.part('rope_parameters').table(SLIDING)
    r.refuse(f'rope_parameters.{SLIDING}', table, "only 'default'")
  local_theta = r.number('rope_local_base_freq', 10_000.0)
  r.only('hidden_activation', 'gelu_pytorch_tanh', 'gelu_pytorch_tanh')
  fields = _read_llama_like(
    r,
    sizes,
    rotary.read(r, 1e6, layers=FULL),
    head_dim=256,
    kv_heads=4,
    mlp='geglu',
    tied=True,
  )
  return fields | dict(
    norm_offset=1.0,
    qk_norm=True,
    post_norm=True,
    embed_scale=True,
    rope_theta_local=local.number('rope_theta', local_theta),
    windows=_gemma3_windows(r, sizes['num_layers']),
    query_scale=r.number('query_pre_attn_scalar', 256.0) ** -0.5,
  )


def _gemma3_windows(r: Reader, num_layers: int) -> tuple[int, ...]:
  pattern = r.whole('sliding_window_pattern', 6)
  hidden = r.whole('_sliding_window_pattern', pattern)
  if hidden != pattern and not r.items('layer_types', ()):
    # transformers ignores this field, and its author meant something else.
    r.refuse('_sliding_window_pattern', hidden, 'say it in layer_types')
  default = [SLIDING if (i + 1) % pattern else FULL for i in range(num_layers)]
  types = r.items('layer_types', default)
  return _windows(r, types, r.whole('sliding_window', 4096))


def _write_gemma3(f: Fields) -> Fields:
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


# --- The table ---------------------------------------------------------------


def _family(model_type, name, read, write, **more) -> Family:
  """Returns a family; `more` replaces what Llama's kind of family has."""
  return Family(
    **dict(
      model_type=model_type,
      causal_lm=f'{name}ForCausalLM',
      classifier=f'{name}ForSequenceClassification',
      others=(f'{name}Model',),
      prefixes=('model.', ''),
      heads=('lm_head.weight',),
      ignored=(r'.*\.rotary_emb\.inv_freq',),
      read=read,
      write=write,
    )
    | more
  )


_ALL = (
  _family(
    'gpt2',
    'GPT2',
    _read_gpt2,
    _write_gpt2,
    causal_lm='GPT2LMHeadModel',
    prefixes=('transformer.', ''),
    ignored=(r'(transformer\.)?h\.\d+\.attn\.(masked_)?bias',),
  ),
  _family(
    'gpt_neox',
    'GPTNeoX',
    _read_gpt_neox,
    _write_gpt_neox,
    prefixes=('gpt_neox.', ''),
    heads=('embed_out.weight', 'lm_head.weight'),
    ignored=(
      r'(gpt_neox\.)?layers\.\d+\.attention\.'
      r'((masked_)?bias|rotary_emb\.inv_freq)',
    ),
  ),
  _family('llama', 'Llama', _read_llama, _write_llama),
  _family('qwen2', 'Qwen2', _read_qwen2, _write_qwen),
  _family('qwen3', 'Qwen3', _read_qwen3, _write_qwen),
  _family(
    'gemma3_text',
    'Gemma3',
    _read_gemma3,
    _write_gemma3,
    classifier='Gemma3TextForSequenceClassification',
    others=('Gemma3Model', 'Gemma3TextModel', 'Gemma3ForConditionalGeneration'),
    prefixes=(
      'model.',
      'language_model.model.',
      'model.language_model.',
      'language_model.',
      '',
    ),
    heads=('lm_head.weight', 'language_model.lm_head.weight'),
    ignored=(
      r'.*\.rotary_emb\.inv_freq',
      r'(model\.)?(vision_tower|multi_modal_projector)\..*',
    ),
  ),
)
FAMILIES = {family.model_type: family for family in _ALL}
# Models with vision -> the family of their text part.
CONTAINERS = {'gemma3': 'gemma3_text'}
