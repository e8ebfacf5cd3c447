"""A decoder-only transformer with an explicit cache.

The defaults are the GPT-3 architecture (Brown et al. 2020, section 2.1, which
follows GPT-2): pre-LayerNorm, GELU, learned positions, tied embeddings. The
fields cover what other families differ in. Layers are scanned, so that 96
layers compile once.

Attention sees column k from column q when k <= q and both have the same,
non-zero segment id: packing, left padding and right padding are one rule. A
layer with a window also sees only so far back, in positions.
Positions are an argument and so never depend on padding.
"""

import dataclasses
import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from instructrl.models import attention as attention_lib
from instructrl.models import flash
from instructrl.models.block import Block
from instructrl.models.block import MLPS
from instructrl.models.block import Norm
from instructrl.runtime import sharding
from instructrl.types import Params, PREFIX, pytree

REMAT_POLICIES = ('none', 'full', 'dots')


@pytree
class Cache:
  """Keys and values of the columns seen so far.

  One array of all layers, which the scan carries; where layers are unrolled,
  a tuple of one array each, [B, Hkv, C, Dh], that attention reads in place (a
  layer's part of one array is copied first, on CPUs and GPUs).
  """

  k: jax.Array | tuple[jax.Array, ...]  # [L, B, Hkv, C, Dh] compute dtype
  v: jax.Array | tuple[jax.Array, ...]  # [L, B, Hkv, C, Dh]
  segment_ids: jax.Array  # [B, C] int32, 0 where nothing was written
  index: jax.Array  # [] int32, the next column to write


class Transformer(nn.Module):
  """Fields are the architecture; see `Model` for how it is used."""

  vocab_size: int
  num_layers: int
  d_model: int
  num_heads: int
  max_len: int  # learned positions; unused by rotary
  d_ff: int = 0  # 0 = 4 * d_model
  head_dim: int = 0  # 0 = d_model / num_heads
  num_kv_heads: int = 0  # 0 = num_heads
  norm: str = 'layernorm'  # or 'rmsnorm'
  norm_epsilon: float = 1e-5
  norm_offset: float = 0.0  # added to the scales that are stored; Gemma's is 1
  qk_norm: bool = False  # RMSNorm of each head's q and k, before rotation
  post_norm: bool = False  # norms also after attention and MLP
  parallel_residual: bool = False  # attention and MLP both read the layer's x
  positions: str = 'learned'  # or 'rotary'
  rope_theta: float = 10_000.0
  rope_theta_local: float = 0.0  # of layers with a window; 0 = as the others
  rope_scaling: tuple = ()  # see attention.frequencies; not with a local theta
  rotary_fraction: float = 1.0  # of a head's width, from its start
  windows: tuple[int, ...] = ()  # positions seen, repeated over layers; 0 = all
  query_scale: float = 0.0  # of the logits; 0 = width of a head ** -0.5
  mlp: str = 'gelu'  # one of block.MLPS
  use_bias: bool = True
  qkv_bias: bool = False  # in q, k and v, whatever use_bias is
  embed_scale: bool = False  # embeddings times d_model ** 0.5
  tie_embeddings: bool = True
  vocab_multiple: int = 1  # embeddings are padded to a multiple of it
  vocab_rows: int = 0  # of the embeddings; 0 = vocab_size, padded
  attention: str = 'auto'  # one of flash.IMPLEMENTATIONS
  attention_block: int = 0  # queries at once; 0 = all, see `attention`
  dropout: float = 0.0  # residual dropout, only where a key is given
  init_std: float = 0.02
  dtype: Any = jnp.float32  # of the computation
  param_dtype: Any = jnp.float32  # of the master weights
  remat: str = 'none'  # one of REMAT_POLICIES
  scan_unroll: int = 1  # layers per step of the scan; see also `Cache`
  frozen_layers: int = 0  # the lowest, and the embeddings: without gradients
  rules: sharding.Rules = ()

  @property
  def padded_vocab(self) -> int:
    return self.vocab_rows or (
      -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple
    )

  @property
  def kinds(self) -> tuple[int, ...]:
    """The windows that layers have, each once."""
    return tuple(sorted(set(self.windows))) or (0,)

  @property
  def kind_of_layer(self) -> tuple[int, ...]:
    """Of each layer, which of `kinds`."""
    windows = self.windows or (0,)
    return tuple(
      self.kinds.index(windows[layer % len(windows)])
      for layer in range(self.num_layers)
    )

  @property
  def width(self) -> int:
    """Of a head."""
    return self.head_dim or self.d_model // self.num_heads

  @nn.compact
  def __call__(
    self, tokens, positions, attend, index, cache_k, cache_v, deterministic
  ):
    init = lambda axes: nn.with_logical_partitioning(
      nn.initializers.normal(self.init_std), axes
    )
    shape = (self.padded_vocab, self.d_model)
    embed = self.param(
      'embed', init(('vocab', 'embed')), shape, self.param_dtype
    )
    frozen = jax.lax.stop_gradient if self.frozen_layers else lambda x: x
    x = jnp.take(frozen(embed).astype(self.dtype), tokens, axis=0)
    if self.embed_scale:
      x = x * jnp.asarray(self.d_model**0.5, self.dtype)
    if self.positions == 'learned':
      table = self.param(
        'positions',
        init(('positions', 'embed')),
        (self.max_len, self.d_model),
        self.param_dtype,
      )
      x = x + jnp.take(frozen(table).astype(self.dtype), positions, axis=0)
      rotation = None
    else:
      columns = (
        tokens.shape[1]
        if cache_k is None
        else jax.tree.leaves(cache_k)[0].shape[-2]
      )
      rotation = self._rotation(positions, columns)
    if not self.tie_embeddings:
      self.param('unembed', init(('vocab', 'embed')), shape, self.param_dtype)
    x = sharding.constrain(x, ('act_batch', 'act_len', 'act_embed'), self.rules)
    x = nn.Dropout(self.dropout, deterministic=deterministic)(x)
    shared = (attend, rotation, index, deterministic)
    if isinstance(cache_k, tuple):
      x, cache_k, cache_v = self._unrolled(x, cache_k, cache_v, *shared)
    elif self.frozen_layers and cache_k is None and not self.is_initializing():
      x = self._partly_frozen(x, *shared)
    else:
      carry = (x, cache_k, cache_v, jnp.zeros((), jnp.int32))
      blocks = self._scanned(self.num_layers, name='blocks')
      (x, cache_k, cache_v, _), _ = blocks(carry, *shared)
    x = Norm(
      self.norm,
      self.norm_epsilon,
      self.param_dtype,
      self.norm_offset,
      name='final_norm',
    )(x)
    return x, cache_k, cache_v

  def _rotation(self, positions, columns):
    """Cosine and sine; with an axis of `kinds` where these differ in theta."""
    make = functools.partial(
      attention_lib.rotations,
      positions,
      columns,
      int(self.width * self.rotary_fraction),
    )
    everywhere = make(self.rope_theta, self.rope_scaling)
    if not self.rope_theta_local:
      return everywhere
    local = make(self.rope_theta_local)
    found = [local if window else everywhere for window in self.kinds]
    if len(found) == 1:
      return found[0]
    return tuple(jnp.stack(parts) for parts in zip(*found))

  def _scanned(self, length: int, **where) -> nn.Module:
    """Layers as one module, whose parameters have a leading axis."""
    block = Block
    if self.remat != 'none':
      policy = (
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        if self.remat == 'dots'
        else None
      )
      block = nn.remat(
        Block, policy=policy, prevent_cse=False, static_argnums=(5,)
      )
    return nn.scan(
      block,
      length=length,
      unroll=self.scan_unroll,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(nn.broadcast,) * 4,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )(detached(self), **where)

  def _unrolled(self, x, cache_k, cache_v, *shared):
    """The same layers one by one, on caches of their own."""
    block, found = Block(detached(self), parent=None), []
    layers = self.variables['params']['blocks']
    for layer, (params, k, v) in enumerate(zip(layers, cache_k, cache_v)):
      carry = (x, k, v, jnp.full((), layer, jnp.int32))
      (x, k, v, _), _ = block.apply({'params': params}, carry, *shared)
      found.append((k, v))
    return x, *zip(*found)

  def _partly_frozen(self, x, *shared):
    """The same layers; there is no backward pass of the lowest of them."""
    params, deterministic = self.variables['params']['blocks'], shared[-1]
    first = self.frozen_layers
    block = Block(detached(self), parent=None)
    rngs = lambda: (
      {} if deterministic else {'dropout': self.make_rng('dropout')}
    )
    frozen, keys = jax.lax.stop_gradient(params), rngs()

    def layer(carry, i):
      # Each layer is read where it lies: a slice of all would be a copy.
      own = jax.tree.map(
        lambda p: jax.lax.dynamic_index_in_dim(p, i, 0, False), frozen
      )
      carry, _ = block.apply(
        {'params': own},
        carry,
        *shared,
        rngs={name: jax.random.fold_in(key, i) for name, key in keys.items()},
      )
      return carry, None

    carry = (x, None, None, jnp.zeros((), jnp.int32))
    carry, _ = jax.lax.scan(
      layer, carry, jnp.arange(first), unroll=self.scan_unroll
    )
    if first < self.num_layers:
      blocks = self._scanned(self.num_layers - first, parent=None)
      carry, _ = blocks.apply(
        {'params': jax.tree.map(lambda p: p[first:], params)},
        carry,
        *shared,
        rngs=rngs(),
      )
    return carry[0]


def detached(module: Transformer) -> Transformer:
  """A detached copy: only its fields are read by the blocks."""
  return module.clone(parent=None, name=None)


@dataclasses.dataclass(frozen=True)
class Model:
  """The functions of one architecture; parameters are plain nested dicts."""

  module: Transformer

  @property
  def vocab_size(self) -> int:
    return self.module.vocab_size

  def check_length(self, longest: int, what: str):
    """Refuses more tokens than there are learned positions."""
    m = self.module
    if m.positions == 'learned' and longest > m.max_len:
      raise ValueError(
        f'{what} needs {longest} positions, the model has {m.max_len} '
        '(model.max_len): shorten the prompt or the response'
      )

  def _init(self, key):
    tokens = jnp.zeros((1, 1), jnp.int32)
    attend = Partial(attention_lib.attention, mask=jnp.ones((1, 1, 1), bool))
    return self.module.init(
      key, tokens, tokens, attend, jnp.zeros((), jnp.int32), None, None, True
    )['params']

  def init(self, key: jax.Array) -> Params:
    """Fresh parameters; give `out_shardings` to the jit around it."""
    return nn.unbox(self._init(key))

  def logical_axes(self) -> Params:
    """The parameter tree with a tuple of logical axis names as leaves."""
    boxed = jax.eval_shape(lambda: self._init(jax.random.key(0)))
    return jax.tree.map(
      tuple,
      nn.get_partition_spec(boxed),
      is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec),
    )

  def apply(
    self,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    cache: Cache | None = None,
    *,
    shared_prefix: bool = False,
    dropout_key: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache | None]:
    """The last hidden states; see `unembedding` for the logits.

    Args:
      params: the parameter tree.
      tokens: [B, T] int32.
      positions: [B, T] int32, of each token in its own example; below the
        number of columns.
      segment_ids: [B, T] int32, at most T; 0 is padding, and only equal ids
        attend.
      cache: columns seen before these; None for a full pass.
      shared_prefix: whether the id `types.PREFIX` is seen by all that come
        after it. It costs kernels something.
      dropout_key: turns the residual dropout on.

    Returns:
      hidden [B, T, D] in the compute dtype, and the cache with these columns
      added (None if there was none).
    """
    chex.assert_rank([tokens, positions, segment_ids], 2)
    chex.assert_equal_shape([tokens, positions, segment_ids])
    length = tokens.shape[1]
    start = jnp.zeros((), jnp.int32) if cache is None else cache.index
    key_segments = segment_ids
    if cache is not None:
      key_segments = jax.lax.dynamic_update_slice(
        cache.segment_ids, segment_ids, (0, start)
      )
    attend = self._attend(
      segment_ids,
      key_segments,
      start,
      shared_prefix,
      positions=positions if cache is None else None,
    )
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    if cache is not None:
      params = self._unstack(params)
    hidden, k, v = self.module.apply(
      {'params': params},
      tokens,
      positions,
      attend,
      start,
      None if cache is None else cache.k,
      None if cache is None else cache.v,
      dropout_key is None,
      rngs=rngs,
    )
    if cache is None:
      return hidden, None
    return hidden, Cache(
      k=k, v=v, segment_ids=key_segments, index=start + length
    )

  def _attend(self, segment_ids, key_segments, start, shared_prefix, positions):
    """(q, k, v) -> what the queries see; a pytree, for the scan to carry.

    Its arrays have a leading axis of `kinds` if there are several. Positions
    are given in a full pass; with a cache the columns of a row's tokens are
    without gaps, and tell how far apart they are.
    """
    m, length = self.module, segment_ids.shape[1]
    kernel = (
      'xla'
      if positions is None
      else flash.choose(
        m.attention,
        length=length,
        width=m.width,
        dtype=m.dtype,
        windows=any(m.windows),
      )
    )
    if kernel == 'splash':
      return Partial(
        functools.partial(
          flash.splash,
          rules=m.rules,
          scale=m.query_scale,
          shared_prefix=shared_prefix,
        ),
        segment_ids=segment_ids,
      )
    query = start + jnp.arange(length)[:, None]
    causal = jnp.arange(key_segments.shape[1])[None] <= query
    queries, keys = segment_ids[:, :, None], key_segments[:, None, :]
    same = queries == keys
    if shared_prefix:
      same |= keys == PREFIX
    mask = causal & (queries != 0) & same
    if any(m.windows):
      if positions is None:
        distance = query - jnp.arange(key_segments.shape[1])[None]
      else:
        distance = positions[:, :, None] - positions[:, None, :]
      masks = [
        mask & (distance < window) if window else mask for window in m.kinds
      ]
      mask = jnp.stack(masks) if len(masks) > 1 else masks[0]
    if kernel == 'cudnn':
      return Partial(
        functools.partial(flash.cudnn, rules=m.rules, scale=m.query_scale),
        mask=mask,
        segment_ids=segment_ids,
      )
    return Partial(
      functools.partial(
        attention_lib.attention, block=m.attention_block, scale=m.query_scale
      ),
      mask=mask,
    )

  def unembedding(self, params: Params) -> jax.Array:
    """[V', D] in the compute dtype; the embedding itself when they are tied.

    Logits are `hidden @ unembedding(params).T`. V' is V, padded where the model
    has a `vocab_multiple` or `vocab_rows`: tokens from `vocab_size` on do not
    exist. Tied to an embedding that is frozen, it has no gradient either.
    """
    m = self.module
    table = params['embed' if m.tie_embeddings else 'unembed']
    if m.tie_embeddings and m.frozen_layers:
      table = jax.lax.stop_gradient(table)
    return table.astype(m.dtype)

  def frozen(self) -> Params | None:
    """Of each parameter, how many of its first rows have no gradient.

    None where nothing is frozen; otherwise the parameter tree with ints.
    """
    layers = self.module.frozen_layers
    if not layers:
      return None
    shapes = jax.eval_shape(self.init, jax.random.key(0))
    rows = {
      'embed': lambda x: x.shape[0],
      'positions': lambda x: x.shape[0],
      'blocks': lambda x: layers,
    }
    return {
      name: jax.tree.map(rows.get(name, lambda x: 0), part)
      for name, part in shapes.items()
    }

  @property
  def unrolled(self) -> bool:
    """Whether the layers are one after another instead of in a loop."""
    return self.module.scan_unroll >= self.module.num_layers

  def prepared(self, params: Params) -> Params:
    """Parameters for many calls of `apply` with a cache.

    In the dtype they are computed in, as each call would convert them (norms
    are computed in float32); divided as this model's rules say, as each call
    would gather them; and with the layers taken apart if they are unrolled, as
    each call would copy them.
    """
    axes = self.logical_axes()
    params = jax.tree.map(
      lambda x, names: x if 'norm' in names else x.astype(self.module.dtype),
      params,
      axes,
    )
    return self._unstack(
      sharding.constrain_params(params, axes, self.module.rules)
    )

  def _unstack(self, params: Params) -> Params:
    if not self.unrolled or not isinstance(params['blocks'], dict):
      return params
    layers = tuple(
      jax.tree.map(lambda x: x[layer], params['blocks'])
      for layer in range(self.module.num_layers)
    )
    return {**params, 'blocks': layers}

  def init_cache(self, batch: int, columns: int) -> Cache:
    m = self.module
    shape = (
      m.num_layers,
      batch,
      m.num_kv_heads or m.num_heads,
      columns,
      m.width,
    )
    axes = ('layers', 'act_batch', 'act_heads', 'act_len', None)
    zeros = lambda start: sharding.constrain(
      jnp.zeros(shape[start:], m.dtype), axes[start:], m.rules
    )
    make = (
      (lambda: tuple(zeros(1) for _ in range(m.num_layers)))
      if self.unrolled
      else (lambda: zeros(0))
    )
    return Cache(
      k=make(),
      v=make(),
      segment_ids=jnp.zeros((batch, columns), jnp.int32),
      index=jnp.zeros((), jnp.int32),
    )


def make_model(
  *, dtype: str = 'float32', param_dtype: str = 'float32', rules=(), **fields
) -> Model:
  """`Model` from config fields (dtypes by name); checks what they combine to.

  Raises:
    ValueError: names the field that is out of range.
  """
  heads, kv = fields['num_heads'], fields.get('num_kv_heads', 0)
  if not fields.get('head_dim') and fields['d_model'] % heads:
    raise ValueError(
      f'model.d_model={fields["d_model"]} is not a multiple of '
      f'model.num_heads={heads}'
    )
  if kv and heads % kv:
    raise ValueError(
      f'model.num_heads={heads} is not a multiple of model.num_kv_heads={kv}'
    )
  choices = dict(
    norm=('layernorm', 'rmsnorm'),
    positions=('learned', 'rotary'),
    mlp=tuple(MLPS),
    remat=REMAT_POLICIES,
    attention=flash.IMPLEMENTATIONS,
  )
  for name, allowed in choices.items():
    if fields.get(name, allowed[0]) not in allowed:
      raise ValueError(f'model.{name}={fields[name]!r} is none of {allowed}')
  rules = tuple((a, tuple(b) if isinstance(b, list) else b) for a, b in rules)
  for name in ('windows', 'rope_scaling'):  # lists, where they were read
    if name in fields:
      fields[name] = tuple(fields[name])
  module = Transformer(
    dtype=jnp.dtype(dtype),
    param_dtype=jnp.dtype(param_dtype),
    rules=rules,
    **fields,
  )
  _check_positions(module)
  if 0 < module.vocab_rows < module.vocab_size:
    raise ValueError(
      f'model.vocab_rows={module.vocab_rows} is fewer than the '
      f'vocab_size={module.vocab_size} of the tokenizer'
    )
  if not 0 <= module.frozen_layers <= module.num_layers:
    raise ValueError(
      f'model.frozen_layers={module.frozen_layers} is not from 0 to '
      f'model.num_layers={module.num_layers}'
    )
  return Model(module)


def _check_positions(m: Transformer):
  """Refuses what no position or distance can be computed from."""
  if len(m.windows) > m.num_layers or not all(
    isinstance(w, int) and w >= 0 for w in m.windows
  ):
    raise ValueError(
      f'model.windows={m.windows} must be whole numbers of positions, 0 for '
      f'all, and no more of them than model.num_layers={m.num_layers}'
    )
  if m.rope_theta_local and not any(m.windows):
    raise ValueError(
      f'model.rope_theta_local={m.rope_theta_local} is of layers with a '
      'window, and model.windows has none'
    )
  kind, *numbers = m.rope_scaling or ('none',)
  sizes = {'none': 0, 'linear': 1, 'llama3': 4}
  if sizes.get(kind) != len(numbers) or not all(
    isinstance(x, (int, float)) and 0 < x < float('inf') for x in numbers
  ):
    raise ValueError(
      f"model.rope_scaling={m.rope_scaling} is none of (), ('linear', "
      "factor), ('llama3', factor, low, high, original length)"
    )
  if kind == 'llama3' and numbers[1] >= numbers[2]:
    raise ValueError(
      f'model.rope_scaling={m.rope_scaling}: its third number, high, is not '
      'above its second, low'
    )
  if m.positions != 'rotary':
    for name, default in (
      ('rope_scaling', ()),
      ('rope_theta_local', 0),
      ('rotary_fraction', 1),
    ):
      if getattr(m, name) != default:
        raise ValueError(
          f"model.{name}={getattr(m, name)} needs model.positions='rotary'"
        )
    return
  rotated = m.width * m.rotary_fraction
  if not 0 < m.rotary_fraction <= 1 or rotated < 2 or int(rotated) % 2:
    raise ValueError(
      f"model.positions='rotary' needs heads of an even width: "
      f'model.rotary_fraction={m.rotary_fraction} of {m.width} '
      f'(model.head_dim or d_model / num_heads) is {rotated:g}'
    )
