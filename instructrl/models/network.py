"""The network: embeddings, layers and the final norm, as one Flax module.

`transformer.Model` calls the module, and shows its four ways through the
layers.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from instructrl.models import attention
from instructrl.models import flash
from instructrl.models.block import Block
from instructrl.models.block import MLPS
from instructrl.models.block import Norm
from instructrl.runtime import sharding

CHOICES = {
  'norm': ('layernorm', 'rmsnorm'),
  'positions': ('learned', 'rotary'),
  'mlp': tuple(MLPS),
  'remat': ('none', 'full', 'dots'),
  'attention': flash.IMPLEMENTATIONS,
}


class Transformer(nn.Module):
  """The architecture; `transformer.Model` calls it."""

  vocab_size: int
  num_layers: int
  d_model: int
  num_heads: int
  max_len: int  # number of learned positions; unused by rotary
  d_ff: int = 0  # 0 = 4 * d_model
  head_dim: int = 0  # 0 = d_model / num_heads
  num_kv_heads: int = 0  # 0 = num_heads
  norm: str = 'layernorm'  # or 'rmsnorm'
  norm_epsilon: float = 1e-5
  norm_offset: float = 0.0  # added to the stored scales; 1 in Gemma
  qk_norm: bool = False  # RMSNorm of each head's q and k, before rotation
  post_norm: bool = False  # also normalize after attention and MLP
  parallel_residual: bool = False  # attention and MLP have the same input
  positions: str = 'learned'  # or 'rotary'
  rope_theta: float = 10_000.0
  rope_theta_local: float = 0.0  # theta of layers with a window; 0 = rope_theta
  rope_scaling: tuple = ()  # see attention.frequencies; not local layers
  rotary_fraction: float = 1.0  # first part of a head's width that is rotated
  windows: tuple[int, ...] = ()  # positions seen, cycled over layers; 0 = all
  query_scale: float = 0.0  # scale of the logits; 0 = head width ** -0.5
  mlp: str = 'gelu'  # a key of block.MLPS
  use_bias: bool = True
  qkv_bias: bool = False  # biases in q, k and v even without use_bias
  embed_scale: bool = False  # multiply embeddings by d_model ** 0.5
  tie_embeddings: bool = True
  vocab_multiple: int = 1  # pad the embeddings to a multiple of this
  vocab_rows: int = 0  # rows of the embeddings; 0 = vocab_size, padded
  attention: str = 'auto'  # one of flash.IMPLEMENTATIONS
  attention_block: int = 0  # queries at once; 0 = all; see attention.attention
  dropout: float = 0.0  # residual dropout, applied if there is a key
  init_std: float = 0.02
  dtype: Any = jnp.float32  # dtype of the computation
  param_dtype: Any = jnp.float32  # dtype of the master weights
  remat: str = 'none'  # what the backward pass recomputes; see CHOICES
  scan_unroll: int = 1  # layers per step of the scan
  frozen_layers: int = 0  # lowest layers (and embeddings) without gradients
  rules: sharding.Rules = ()

  @property
  def padded_vocab(self) -> int:
    """The number of rows of the embeddings."""
    return self.vocab_rows or (
      -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple
    )

  @property
  def kinds(self) -> tuple[int, ...]:
    """The distinct windows of the layers."""
    return tuple(sorted(set(self.windows))) or (0,)

  @property
  def kind_of_layer(self) -> tuple[int, ...]:
    """For each layer, its index into `kinds`."""
    windows = self.windows or (0,)
    return tuple(
      self.kinds.index(windows[layer % len(windows)])
      for layer in range(self.num_layers)
    )

  @property
  def width(self) -> int:
    """The width of a head."""
    return self.head_dim or self.d_model // self.num_heads

  @nn.compact
  def __call__(
    self, tokens, positions, attend, index, cache_k, cache_v, deterministic
  ):
    normal = nn.initializers.normal(self.init_std)

    def table(name, axis, rows):
      init = nn.with_logical_partitioning(normal, (axis, 'embed'))
      return self.param(name, init, (rows, self.d_model), self.param_dtype)

    embed = table('embed', 'vocab', self.padded_vocab)
    frozen = jax.lax.stop_gradient if self.frozen_layers else lambda x: x
    x = jnp.take(frozen(embed).astype(self.dtype), tokens, axis=0)
    if self.embed_scale:
      x = x * jnp.asarray(self.d_model**0.5, self.dtype)
    if self.positions == 'learned':
      learned = table('positions', 'positions', self.max_len)
      x = x + jnp.take(frozen(learned).astype(self.dtype), positions, axis=0)
      rotation = None
    else:
      columns = tokens.shape[1]
      if cache_k is not None:
        columns = jax.tree.leaves(cache_k)[0].shape[-2]
      rotation = self._rotation(positions, columns)
    if not self.tie_embeddings:
      table('unembed', 'vocab', self.padded_vocab)
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
    fields = self.norm, self.norm_epsilon, self.param_dtype, self.norm_offset
    x = Norm(*fields, name='final_norm')(x)
    return x, cache_k, cache_v

  def _rotation(self, positions, columns):
    """Returns cosine and sine, with an axis of `kinds` if theta differs."""
    width = int(self.width * self.rotary_fraction)
    make = functools.partial(attention.rotations, positions, columns, width)
    everywhere = make(self.rope_theta, self.rope_scaling)
    if not self.rope_theta_local:
      return everywhere
    local = make(self.rope_theta_local)
    found = [local if window else everywhere for window in self.kinds]
    if len(found) == 1:
      return found[0]
    return tuple(jnp.stack(parts) for parts in zip(*found))

  def _scanned(self, length: int, **where) -> nn.Module:
    """Returns one module of all layers; its parameters have a leading axis."""
    block = Block
    if self.remat != 'none':
      policy = None
      if self.remat == 'dots':
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
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
    """Applies the layers one by one, each to its own cache."""
    block, found = Block(detached(self), parent=None), []
    layers = self.variables['params']['blocks']
    for layer, (params, k, v) in enumerate(zip(layers, cache_k, cache_v)):
      carry = (x, k, v, jnp.full((), layer, jnp.int32))
      (x, k, v, _), _ = block.apply({'params': params}, carry, *shared)
      found.append((k, v))
    return x, *zip(*found)

  def _partly_frozen(self, x, *shared):
    """Applies the layers without a backward pass through the lowest."""
    params, deterministic = self.variables['params']['blocks'], shared[-1]
    first = self.frozen_layers
    block = Block(detached(self), parent=None)
    rngs = lambda: (
      {} if deterministic else {'dropout': self.make_rng('dropout')}
    )
    frozen, keys = jax.lax.stop_gradient(params), rngs()

    def layer(carry, i):
      # Indexing reads a layer in place; slicing all of them would copy them.
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
  """Returns a detached copy; the blocks read only its fields."""
  return module.clone(parent=None, name=None)


def check(m: Transformer) -> None:
  """Checks that the fields make sense together.

  Raises:
    ValueError: names the field that is out of range.
  """
  kv_heads = m.num_kv_heads or m.num_heads
  if not m.head_dim and m.d_model % m.num_heads:
    raise ValueError(
      f'model.d_model={m.d_model} is not a multiple of '
      f'model.num_heads={m.num_heads}'
    )
  if m.num_heads % kv_heads:
    raise ValueError(
      f'model.num_heads={m.num_heads} is not a multiple of '
      f'model.num_kv_heads={kv_heads}'
    )
  for name, allowed in CHOICES.items():
    if getattr(m, name) not in allowed:
      raise ValueError(
        f'model.{name} must be one of {", ".join(allowed)}; '
        f'got {getattr(m, name)!r}'
      )
  _check_positions(m)
  if 0 < m.vocab_rows < m.vocab_size:
    raise ValueError(
      f'model.vocab_rows={m.vocab_rows} is fewer than the '
      f'vocab_size={m.vocab_size} of the tokenizer'
    )
  if not 0 <= m.frozen_layers <= m.num_layers:
    raise ValueError(
      f'model.frozen_layers={m.frozen_layers} is not from 0 to '
      f'model.num_layers={m.num_layers}'
    )


def _check_positions(m: Transformer):
  """Checks the fields about positions, windows and rotation."""
  if len(m.windows) > m.num_layers or not all(
    isinstance(w, int) and w >= 0 for w in m.windows
  ):
    raise ValueError(
      f'model.windows={m.windows} must be whole numbers (0 = all), '
      f'at most model.num_layers={m.num_layers} of them'
    )
  if m.rope_theta_local and not any(m.windows):
    raise ValueError(
      f'model.rope_theta_local={m.rope_theta_local} is for layers with a '
      'window, but model.windows has none'
    )
  kind, *numbers = m.rope_scaling or ('none',)
  sizes = {'none': 0, 'linear': 1, 'llama3': 4}
  if sizes.get(kind) != len(numbers) or not all(
    isinstance(x, (int, float)) and 0 < x < float('inf') for x in numbers
  ):
    raise ValueError(
      "model.rope_scaling must be one of (), ('linear', factor), ('llama3', "
      f'factor, low, high, original length); got {m.rope_scaling}'
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
