"""One layer of the decoder, and its parts.

Axis legend: B batch, T tokens, C cache columns, D model width, H heads, Hkv
key heads, Dh width of a head, L layers.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from instructrl.models import attention
from instructrl.runtime import sharding


class Norm(nn.Module):
  """LayerNorm or RMSNorm, computed in float32."""

  kind: str
  epsilon: float
  param_dtype: Any
  offset: float = 0.0  # added to the stored scale

  @nn.compact
  def __call__(self, x):
    y = x.astype(jnp.float32)
    width = (x.shape[-1],)
    if self.kind == 'layernorm':
      y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
    one = nn.with_logical_partitioning(
      nn.initializers.constant(1 - self.offset), ('norm',)
    )
    scale = self.param('scale', one, width, self.param_dtype)
    if self.offset:
      scale = scale.astype(jnp.float32) + self.offset
    y = y * scale
    if self.kind == 'layernorm':
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, ('norm',))
      y = y + self.param('bias', zeros, width, self.param_dtype)
    return y.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dense(x: jax.Array, kernel: jax.Array, num_in: int) -> jax.Array:
  """Contracts the last `num_in` axes of x with the first axes of the kernel.

  The gradients are written out because a CPU takes twice as long for the
  kernel's gradient in the order of automatic differentiation.

  Args:
    x: [..., *inputs].
    kernel: [*inputs, *outputs], in the dtype of x.
    num_in: the number of input axes.

  Returns:
    [..., *outputs].
  """
  inputs = tuple(range(x.ndim - num_in, x.ndim))
  return jax.lax.dot_general(
    x, kernel, ((inputs, tuple(range(num_in))), ((), ()))
  )


def _dense_forward(x, kernel, num_in):
  return dense(x, kernel, num_in), (x, kernel)


def _dense_backward(num_in, saved, grad):
  x, kernel = saved
  rows = tuple(range(x.ndim - num_in))
  outputs = tuple(range(len(rows), grad.ndim))
  dx = jax.lax.dot_general(
    grad, kernel, ((outputs, tuple(range(num_in, kernel.ndim))), ((), ()))
  )
  product = lambda a, b: jax.lax.dot_general(a, b, ((rows, rows), ((), ())))
  inputs = math.prod(kernel.shape[:num_in])
  if x.size <= grad.size or inputs % 2:
    return dx, product(x, grad)
  # A CPU transposes the first operand in memory, so the narrower one is first.
  # The product is transposed in pairs of inputs, because XLA would turn a plain
  # transposed product back into the other order. Pairs, not halves, keep a
  # sharded axis sharded.
  dkernel = product(grad, x).reshape(-1, inputs // 2, 2)
  return dx, dkernel.transpose(1, 2, 0).reshape(kernel.shape)


dense.defvjp(_dense_forward, _dense_backward)


class Projection(nn.Module):
  """A dense map from the last `num_in` axes to `shape`, with named axes."""

  shape: tuple[int, ...]
  axes: tuple[str, ...]  # logical axes of the kernel: inputs, then outputs
  num_in: int
  use_bias: bool
  std: float
  dtype: Any
  param_dtype: Any
  rules: sharding.Rules = ()

  @nn.compact
  def __call__(self, x):
    inputs = x.shape[-self.num_in :]
    init = nn.with_logical_partitioning(
      nn.initializers.normal(self.std), self.axes
    )
    kernel = self.param(
      'kernel', init, (*inputs, *self.shape), self.param_dtype
    )
    # The constraint also shards the gradient of the kernel.
    kernel = sharding.constrain_params(kernel, self.axes, self.rules)
    y = dense(x.astype(self.dtype), kernel.astype(self.dtype), self.num_in)
    if self.use_bias:
      zeros = nn.with_logical_partitioning(
        nn.initializers.zeros, self.axes[self.num_in :]
      )
      bias = self.param('bias', zeros, self.shape, self.param_dtype)
      y = y + bias.astype(self.dtype)
    return y


def extend(cache, new, layer, index):
  """Writes `new` [B, Hkv, T, Dh] into the cache at column `index`.

  Args:
    cache: [L, B, Hkv, C, Dh], or [B, Hkv, C, Dh] of this layer alone.
    new: [B, Hkv, T, Dh].
    layer: [] int32.
    index: [] int32.

  Returns:
    (cache, columns): the updated cache, and this layer's [B, Hkv, C, Dh].
  """
  if cache.ndim == new.ndim:
    cache = jax.lax.dynamic_update_slice(cache, new, (0, 0, index, 0))
    return cache, cache
  cache = jax.lax.dynamic_update_slice(
    cache, new[None], (layer, 0, 0, index, 0)
  )
  return cache, jax.lax.dynamic_index_in_dim(cache, layer, 0, False)


# Name -> (whether the MLP is gated, activation of the gate or the only input).
MLPS = {
  'gelu': (False, functools.partial(jax.nn.gelu, approximate=True)),
  'gelu_exact': (False, functools.partial(jax.nn.gelu, approximate=False)),
  'swiglu': (True, jax.nn.silu),
  'geglu': (True, functools.partial(jax.nn.gelu, approximate=True)),
}


def of_layer(config, layer, attend, rotation):
  """Selects a layer's attention function and rotation by its window.

  Args:
    config: a `network.Transformer`.
    layer: [] int32, the layer.
    attend: pytree; leaves have a leading axis of `config.kinds` if there are
      several.
    rotation: pytree; the same if windowed layers have their own theta.

  Returns:
    (attend, rotation) of the layer.
  """
  if len(config.kinds) == 1:
    return attend, rotation
  kind = jnp.asarray(config.kind_of_layer, jnp.int32)[layer]
  pick = lambda tree: jax.tree.map(
    lambda x: jax.lax.dynamic_index_in_dim(x, kind, 0, False), tree
  )
  return pick(attend), pick(rotation) if config.rope_theta_local else rotation


class Block(nn.Module):
  """One pre-norm layer, for a scan; `carry` is (x, cache k, cache v, layer)."""

  config: Any  # a `network.Transformer`; the block reads only its fields

  @nn.compact
  def __call__(self, carry, attend, rotation, index, deterministic):
    c = self.config
    x, cache_k, cache_v, layer = carry
    attend, rotation = of_layer(c, layer, attend, rotation)
    dropout = nn.Dropout(c.dropout, deterministic=deterministic)
    residual = lambda x, h: self._act(
      x + dropout(h), 'act_batch', 'act_len', 'act_embed'
    )

    q, k, v = self._queries_keys_values(
      self._norm(name='attention_norm')(x), rotation
    )
    if cache_k is not None:
      cache_k, k = extend(cache_k, k, layer, index)
      cache_v, v = extend(cache_v, v, layer, index)
    h = self._project(
      (c.d_model,), ('heads', 'kv', 'embed'), 2, std=self._out_std, name='out'
    )(attend(q, k, v))
    if c.post_norm:
      h = self._norm(name='attention_post_norm')(h)
    attended = residual(x, h)

    h = self._mlp(
      self._norm(name='mlp_norm')(x if c.parallel_residual else attended)
    )
    if c.post_norm:
      h = self._norm(name='mlp_post_norm')(h)
    return (residual(attended, h), cache_k, cache_v, layer + 1), None

  @nn.nowrap
  def _queries_keys_values(self, h, rotation):
    """Returns q [B, T, H, Dh], k and v [B, Hkv, T, Dh]."""
    c = self.config
    kv_heads = c.num_kv_heads or c.num_heads

    def heads(name, count):
      projection = self._project(
        (count, c.width),
        ('embed', 'heads', 'kv'),
        1,
        std=c.init_std,
        use_bias=c.use_bias or c.qkv_bias,
        name=name,
      )
      return self._act(projection(h), 'act_batch', 'act_len', 'act_heads', None)

    q, k = heads('q', c.num_heads), heads('k', kv_heads)
    v = heads('v', kv_heads)
    if c.qk_norm:
      q = self._norm(kind='rmsnorm', name='q_norm')(q)
      k = self._norm(kind='rmsnorm', name='k_norm')(k)
    if rotation is not None:
      q = attention.rotary(q, *rotation)
      k = attention.rotary(k, *rotation)
    return q, k.swapaxes(1, 2), v.swapaxes(1, 2)

  @nn.nowrap
  def _mlp(self, h):
    c = self.config
    gated, activation = MLPS[c.mlp]
    width = (c.d_ff or 4 * c.d_model,)

    def up(name):
      project = self._project(
        width, ('embed', 'mlp'), 1, std=c.init_std, name=name
      )
      return self._act(project(h), 'act_batch', 'act_len', 'act_mlp')

    h = activation(up('gate')) * up('up') if gated else activation(up('up'))
    return self._project(
      (c.d_model,), ('mlp', 'embed'), 1, std=self._out_std, name='down'
    )(h)

  @property
  def _out_std(self) -> float:
    return self.config.init_std / (2 * self.config.num_layers) ** 0.5

  @nn.nowrap
  def _norm(self, *, name, kind=None):
    c = self.config
    return Norm(
      kind or c.norm, c.norm_epsilon, c.param_dtype, c.norm_offset, name=name
    )

  @nn.nowrap
  def _project(self, *args, use_bias=None, **kwargs):
    c = self.config
    return Projection(
      *args,
      use_bias=c.use_bias if use_bias is None else use_bias,
      dtype=c.dtype,
      param_dtype=c.param_dtype,
      rules=c.rules,
      **kwargs,
    )

  @nn.nowrap
  def _act(self, y, *axes):
    return sharding.constrain(y, axes, self.config.rules)
