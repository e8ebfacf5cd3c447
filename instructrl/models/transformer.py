"""A decoder-only transformer with an explicit cache.

The defaults are the GPT-3 architecture (Brown et al. 2020, section 2.1, which
follows GPT-2): pre-LayerNorm, GELU, learned positions, tied embeddings. The
fields cover what other families differ in. Layers are scanned, so that 96
layers compile once.

Attention sees column k from column q when k <= q and both have the same,
non-zero segment id: packing, left padding and right padding are one rule.
Positions are an argument and so never depend on padding.
"""

import dataclasses
import functools
import math
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from instructrl import sharding
from instructrl.models import attention as attention_lib
from instructrl.models import flash
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


class Norm(nn.Module):
  """LayerNorm or RMSNorm, computed in float32."""

  kind: str
  epsilon: float
  param_dtype: Any

  @nn.compact
  def __call__(self, x):
    y = x.astype(jnp.float32)
    width = (x.shape[-1],)
    if self.kind == 'layernorm':
      y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(
        jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
    ones = nn.with_logical_partitioning(nn.initializers.ones, ('norm',))
    y = y * self.param('scale', ones, width, self.param_dtype)
    if self.kind == 'layernorm':
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, ('norm',))
      y = y + self.param('bias', zeros, width, self.param_dtype)
    return y.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dense(x: jax.Array, kernel: jax.Array, num_in: int) -> jax.Array:
  """Multiplies the last `num_in` axes of x with the first of the kernel.

  The gradients are written out for the sake of CPUs, where the kernel's takes
  twice as long in the order that differentiation gives it.

  Args:
    x: [..., *inputs].
    kernel: [*inputs, *outputs], of the dtype of x.
    num_in: how many axes the inputs are.

  Returns:
    [..., *outputs].
  """
  inputs = tuple(range(x.ndim - num_in, x.ndim))
  return jax.lax.dot_general(
      x, kernel, ((inputs, tuple(range(num_in))), ((), ())))


def _dense_forward(x, kernel, num_in):
  return dense(x, kernel, num_in), (x, kernel)


def _dense_backward(num_in, saved, grad):
  x, kernel = saved
  rows = tuple(range(x.ndim - num_in))
  outputs = tuple(range(len(rows), grad.ndim))
  dx = jax.lax.dot_general(
      grad, kernel, ((outputs, tuple(range(num_in, kernel.ndim))), ((), ())))
  product = lambda a, b: jax.lax.dot_general(a, b, ((rows, rows), ((), ())))
  inputs = math.prod(kernel.shape[:num_in])
  if x.size <= grad.size or inputs % 2:
    return dx, product(x, grad)
  # A CPU transposes the first operand in memory: the narrower one goes there.
  # What comes out is transposed as pairs of inputs, since XLA would turn a
  # plain transposed product back into the other order. Pairs, not halves: a
  # sharded axis stays sharded.
  dkernel = product(grad, x).reshape(-1, inputs // 2, 2)
  return dx, dkernel.transpose(1, 2, 0).reshape(kernel.shape)


dense.defvjp(_dense_forward, _dense_backward)


class Projection(nn.Module):
  """A dense map from the last `num_in` axes to `shape`, with named axes."""

  shape: tuple[int, ...]
  axes: tuple[str, ...]  # of the kernel: inputs, then outputs
  num_in: int
  use_bias: bool
  std: float
  dtype: Any
  param_dtype: Any
  rules: sharding.Rules = ()

  @nn.compact
  def __call__(self, x):
    inputs = x.shape[-self.num_in:]
    init = nn.with_logical_partitioning(
        nn.initializers.normal(self.std), self.axes)
    kernel = self.param(
        'kernel', init, (*inputs, *self.shape), self.param_dtype)
    # This also says where its gradient goes: to the shards, and not to all.
    kernel = sharding.constrain_params(kernel, self.axes, self.rules)
    y = dense(x.astype(self.dtype), kernel.astype(self.dtype), self.num_in)
    if self.use_bias:
      zeros = nn.with_logical_partitioning(
          nn.initializers.zeros, self.axes[self.num_in:])
      bias = self.param('bias', zeros, self.shape, self.param_dtype)
      y = y + bias.astype(self.dtype)
    return y


def extend(cache, new, layer, index):
  """Writes [B, Hkv, T, Dh]; returns the cache and this layer's columns of it.

  Without a leading axis of layers, the cache is this layer's already.
  """
  if cache.ndim == new.ndim:
    cache = jax.lax.dynamic_update_slice(cache, new, (0, 0, index, 0))
    return cache, cache
  cache = jax.lax.dynamic_update_slice(
      cache, new[None], (layer, 0, 0, index, 0))
  return cache, jax.lax.dynamic_index_in_dim(cache, layer, 0, False)


class Block(nn.Module):
  """One pre-norm layer. Scanned over; `carry` is (x, cache k, cache v, i)."""

  config: 'Transformer'

  @nn.compact
  def __call__(self, carry, attend, rotation, index, deterministic):
    c = self.config
    x, cache_k, cache_v, layer = carry
    norm = functools.partial(Norm, c.norm, c.norm_epsilon, c.param_dtype)
    project = functools.partial(
        Projection, use_bias=c.use_bias, dtype=c.dtype,
        param_dtype=c.param_dtype, rules=c.rules)
    out_std = c.init_std / (2 * c.num_layers) ** 0.5
    dropout = nn.Dropout(c.dropout, deterministic=deterministic)
    act = lambda y, *axes: sharding.constrain(y, axes, c.rules)
    heads, kv_heads = c.num_heads, c.num_kv_heads or c.num_heads

    h = norm(name='attention_norm')(x)
    split = lambda name, n: act(
        project((n, c.width), ('embed', 'heads', 'kv'), 1, std=c.init_std,
                name=name)(h), 'act_batch', 'act_len', 'act_heads', None)
    q, k, v = split('q', heads), split('k', kv_heads), split('v', kv_heads)
    if rotation is not None:
      q = attention_lib.rotary(q, *rotation)
      k = attention_lib.rotary(k, *rotation)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    if cache_k is not None:
      cache_k, k = extend(cache_k, k, layer, index)
      cache_v, v = extend(cache_v, v, layer, index)
    h = project((c.d_model,), ('heads', 'kv', 'embed'), 2, std=out_std,
                name='out')(attend(q, k, v))
    x = act(x + dropout(h), 'act_batch', 'act_len', 'act_embed')

    h = norm(name='mlp_norm')(x)
    hidden = c.d_ff or 4 * c.d_model
    up = lambda name: act(
        project((hidden,), ('embed', 'mlp'), 1, std=c.init_std, name=name)(h),
        'act_batch', 'act_len', 'act_mlp')
    h = (jax.nn.silu(up('gate')) * up('up') if c.mlp == 'swiglu'
         else jax.nn.gelu(up('up'), approximate=True))
    h = project(
        (c.d_model,), ('mlp', 'embed'), 1, std=out_std, name='down')(h)
    x = act(x + dropout(h), 'act_batch', 'act_len', 'act_embed')
    return (x, cache_k, cache_v, layer + 1), None


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
  positions: str = 'learned'  # or 'rotary'
  rope_theta: float = 10_000.0
  mlp: str = 'gelu'  # or 'swiglu'
  use_bias: bool = True
  tie_embeddings: bool = True
  vocab_multiple: int = 1  # embeddings are padded to a multiple of it
  attention: str = 'auto'  # one of flash.IMPLEMENTATIONS
  attention_block: int = 0  # queries at once; 0 = all, see `attention`
  dropout: float = 0.0  # residual dropout, only where a key is given
  init_std: float = 0.02
  dtype: Any = jnp.float32  # of the computation
  param_dtype: Any = jnp.float32  # of the master weights
  remat: str = 'none'  # one of REMAT_POLICIES
  scan_unroll: int = 1  # layers per step of the scan; see also `Cache`
  rules: sharding.Rules = ()

  @property
  def padded_vocab(self) -> int:
    return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

  @property
  def width(self) -> int:
    """Of a head."""
    return self.head_dim or self.d_model // self.num_heads

  @nn.compact
  def __call__(self, tokens, positions, attend, index, cache_k, cache_v,
               deterministic):
    init = lambda axes: nn.with_logical_partitioning(
        nn.initializers.normal(self.init_std), axes)
    shape = (self.padded_vocab, self.d_model)
    embed = self.param('embed', init(('vocab', 'embed')), shape,
                       self.param_dtype)
    x = jnp.take(embed.astype(self.dtype), tokens, axis=0)
    if self.positions == 'learned':
      table = self.param('positions', init(('positions', 'embed')),
                         (self.max_len, self.d_model), self.param_dtype)
      x = x + jnp.take(table.astype(self.dtype), positions, axis=0)
      rotation = None
    else:
      columns = (tokens.shape[1] if cache_k is None else
                 jax.tree.leaves(cache_k)[0].shape[-2])
      rotation = attention_lib.rotations(
          positions, columns, self.width, self.rope_theta)
    if not self.tie_embeddings:
      self.param('unembed', init(('vocab', 'embed')), shape, self.param_dtype)
    x = sharding.constrain(x, ('act_batch', 'act_len', 'act_embed'),
                           self.rules)
    x = nn.Dropout(self.dropout, deterministic=deterministic)(x)
    shared = (attend, rotation, index, deterministic)
    if isinstance(cache_k, tuple):
      x, cache_k, cache_v = self._unrolled(x, cache_k, cache_v, *shared)
    else:
      carry = (x, cache_k, cache_v, jnp.zeros((), jnp.int32))
      (x, cache_k, cache_v, _), _ = self._scanned()(carry, *shared)
    x = Norm(self.norm, self.norm_epsilon, self.param_dtype,
             name='final_norm')(x)
    return x, cache_k, cache_v

  def _scanned(self) -> nn.Module:
    """The layers as one module, whose parameters have a leading axis."""
    block = Block
    if self.remat != 'none':
      policy = (jax.checkpoint_policies.dots_with_no_batch_dims_saveable
                if self.remat == 'dots' else None)
      block = nn.remat(Block, policy=policy, prevent_cse=False,
                       static_argnums=(5,))
    return nn.scan(
        block, length=self.num_layers, unroll=self.scan_unroll,
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(nn.broadcast,) * 4,
        metadata_params={nn.PARTITION_NAME: 'layers'},
    )(detached(self), name='blocks')

  def _unrolled(self, x, cache_k, cache_v, *shared):
    """The same layers one by one, on caches of their own."""
    block, found = Block(detached(self), parent=None), []
    layers = self.variables['params']['blocks']
    for params, k, v in zip(layers, cache_k, cache_v):
      carry = (x, k, v, jnp.zeros((), jnp.int32))
      (x, k, v, _), _ = block.apply({'params': params}, carry, *shared)
      found.append((k, v))
    return x, *zip(*found)


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
          '(model.max_len): shorten the prompt or the response')

  def _init(self, key):
    tokens = jnp.zeros((1, 1), jnp.int32)
    attend = Partial(attention_lib.attention, mask=jnp.ones((1, 1, 1), bool))
    return self.module.init(
        key, tokens, tokens, attend, jnp.zeros((), jnp.int32), None, None,
        True)['params']

  def init(self, key: jax.Array) -> Params:
    """Fresh parameters; give `out_shardings` to the jit around it."""
    return nn.unbox(self._init(key))

  def logical_axes(self) -> Params:
    """The parameter tree with a tuple of logical axis names as leaves."""
    boxed = jax.eval_shape(lambda: self._init(jax.random.key(0)))
    return jax.tree.map(
        tuple, nn.get_partition_spec(boxed),
        is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))

  def apply(self, params: Params, tokens: jax.Array, positions: jax.Array,
            segment_ids: jax.Array, cache: Cache | None = None, *,
            shared_prefix: bool = False, dropout_key: jax.Array | None = None
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
          cache.segment_ids, segment_ids, (0, start))
    attend = self._attend(segment_ids, key_segments, start, shared_prefix,
                          full=cache is None)
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    if cache is not None:
      params = self._unstack(params)
    hidden, k, v = self.module.apply(
        {'params': params}, tokens, positions, attend, start,
        None if cache is None else cache.k,
        None if cache is None else cache.v,
        dropout_key is None, rngs=rngs)
    if cache is None:
      return hidden, None
    return hidden, Cache(k=k, v=v, segment_ids=key_segments,
                         index=start + length)

  def _attend(self, segment_ids, key_segments, start, shared_prefix, full):
    """(q, k, v) -> what the queries see; a pytree, for the scan to carry."""
    m, length = self.module, segment_ids.shape[1]
    kernel = 'xla' if not full else flash.choose(
        m.attention, length=length, width=m.width, dtype=m.dtype)
    if kernel == 'splash':
      return Partial(
          functools.partial(flash.splash, rules=m.rules,
                            shared_prefix=shared_prefix),
          segment_ids=segment_ids)
    query = start + jnp.arange(length)[:, None]
    causal = jnp.arange(key_segments.shape[1])[None] <= query
    queries, keys = segment_ids[:, :, None], key_segments[:, None, :]
    same = queries == keys
    if shared_prefix:
      same |= keys == PREFIX
    mask = causal & (queries != 0) & same
    if kernel == 'cudnn':
      return Partial(functools.partial(flash.cudnn, rules=m.rules),
                     mask=mask, segment_ids=segment_ids)
    return Partial(functools.partial(
        attention_lib.attention, block=m.attention_block), mask=mask)

  def unembedding(self, params: Params) -> jax.Array:
    """[V', D] in the compute dtype; the embedding itself when they are tied.

    Logits are `hidden @ unembedding(params).T`. V' is V, padded where the model
    has a `vocab_multiple`: tokens from `vocab_size` on do not exist.
    """
    name = 'embed' if self.module.tie_embeddings else 'unembed'
    return params[name].astype(self.module.dtype)

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
        params, axes)
    return self._unstack(
        sharding.constrain_params(params, axes, self.module.rules))

  def _unstack(self, params: Params) -> Params:
    if not self.unrolled or not isinstance(params['blocks'], dict):
      return params
    layers = tuple(jax.tree.map(lambda x: x[layer], params['blocks'])
                   for layer in range(self.module.num_layers))
    return {**params, 'blocks': layers}

  def init_cache(self, batch: int, columns: int) -> Cache:
    m = self.module
    shape = (m.num_layers, batch, m.num_kv_heads or m.num_heads, columns,
             m.width)
    axes = ('layers', 'act_batch', 'act_heads', 'act_len', None)
    zeros = lambda start: sharding.constrain(
        jnp.zeros(shape[start:], m.dtype), axes[start:], m.rules)
    make = (lambda: tuple(zeros(1) for _ in range(m.num_layers))
            ) if self.unrolled else (lambda: zeros(0))
    return Cache(k=make(), v=make(),
                 segment_ids=jnp.zeros((batch, columns), jnp.int32),
                 index=jnp.zeros((), jnp.int32))


def make_model(*, dtype: str = 'float32', param_dtype: str = 'float32',
               rules=(), **fields) -> Model:
  """`Model` from config fields (dtypes by name); checks what they combine to.

  Raises:
    ValueError: names the field that is out of range.
  """
  heads, kv = fields['num_heads'], fields.get('num_kv_heads', 0)
  if not fields.get('head_dim') and fields['d_model'] % heads:
    raise ValueError(
        f"model.d_model={fields['d_model']} is not a multiple of "
        f'model.num_heads={heads}')
  if kv and heads % kv:
    raise ValueError(
        f'model.num_heads={heads} is not a multiple of model.num_kv_heads={kv}')
  choices = dict(norm=('layernorm', 'rmsnorm'), positions=('learned', 'rotary'),
                 mlp=('gelu', 'swiglu'), remat=REMAT_POLICIES,
                 attention=flash.IMPLEMENTATIONS)
  for name, allowed in choices.items():
    if fields.get(name, allowed[0]) not in allowed:
      raise ValueError(f'model.{name}={fields[name]!r} is none of {allowed}')
  rules = tuple((a, tuple(b) if isinstance(b, list) else b) for a, b in rules)
  return Model(Transformer(
      dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(param_dtype), rules=rules,
      **fields))
