r"""A decoder-only transformer with an explicit cache: functions of arrays.

The defaults are the GPT-3 architecture (Brown et al. 2020, section 2.1, which
follows GPT-2): pre-LayerNorm, GELU, learned positions, tied embeddings. The
fields of `network.Transformer` cover what other families change.

Column q attends to column k when k <= q and both have the same, non-zero
segment id. This one rule covers packing, left padding and right padding. A
layer with a window also limits the distance in positions. Positions are an
argument, so they never depend on padding. With a cache, k <= q compares
positions, so the columns of a cache may be written in any order.

Four ways lead through the layers:

                 tokens, positions, segment ids [B, T]
                                  |
                     embeddings (+ learned positions)
                    /                              \
          without a cache                     with a cache
         /               \                  /            \
     training        shared prefix     prefill, T = P   decode, T = 1
     equal ids       PREFIX also       writes columns   writes column
     attend          seen by all       0 .. P - 1       `cache.index`
         \               /                  \            /
      kernel (flash) or XLA              XLA, over all C columns
      layers in a scan, with             layers in a scan that carries
      remat; `frozen_layers`             the cache, or one by one
      without a backward pass            (`Model.unrolled`)
                    \                              /
                     final norm -> hidden [B, T, D]
                                  |
               `Model.unembedding` (logits) or `heads` (scalars)
"""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from instructrl.models import attention
from instructrl.models import flash
from instructrl.models import sparse
from instructrl.models.network import check
from instructrl.models.network import Transformer
from instructrl.runtime import sharding
from instructrl.types import Params, PREFIX, pytree


@pytree
class Cache:
  """Keys and values of the columns seen so far.

  With a scan over layers, `k` and `v` are one array each, which the scan
  carries. With unrolled layers they are tuples of one array [B, Hkv, C, Dh] for
  each layer. Attention reads those in place; CPUs and GPUs would copy a layer's
  part of one array.
  """

  k: jax.Array | tuple[jax.Array, ...]  # [L, B, Hkv, C, Dh] compute dtype
  v: jax.Array | tuple[jax.Array, ...]  # [L, B, Hkv, C, Dh]
  segment_ids: jax.Array  # [B, C] int32, 0 where nothing was written
  positions: jax.Array  # [B, C] int32
  index: jax.Array  # [] int32, the next column to write


@dataclasses.dataclass(frozen=True)
class Model:
  """The functions of one architecture. Parameters are plain nested dicts."""

  module: Transformer

  @property
  def vocab_size(self) -> int:
    return self.module.vocab_size

  def check_length(self, longest: int, what: str):
    """Raises a ValueError if there are fewer learned positions than tokens."""
    m = self.module
    if m.positions == 'learned' and longest > m.max_len:
      raise ValueError(
        f'{what} needs {longest} positions, the model has {m.max_len} '
        '(model.max_len): shorten the prompt or the response'
      )

  def _init(self, key):
    tokens = jnp.zeros((1, 1), jnp.int32)
    attend = Partial(attention.attention, mask=jnp.ones((1, 1, 1), bool))
    return self.module.init(
      key, tokens, tokens, attend, jnp.zeros((), jnp.int32), None, None, True
    )['params']

  def init(self, key: jax.Array) -> Params:
    """Returns fresh parameters; give `out_shardings` to the jit around it."""
    return nn.unbox(self._init(key))

  def logical_axes(self) -> Params:
    """Returns the parameter tree with the logical axis names as leaves."""
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
    """Computes the last hidden states; see `unembedding` for the logits.

    Args:
      params: the parameter tree.
      tokens: [B, T] int32.
      positions: [B, T] int32, the position of each token in its own example,
        below the number of columns.
      segment_ids: [B, T] int32, at most T. 0 is padding; tokens attend to
        tokens with the same id.
      cache: the columns before these; None for a pass without a cache.
      shared_prefix: let all later tokens of the row see tokens with the id
        `types.PREFIX`. Kernels become slower.
      dropout_key: enables the residual dropout.

    Returns:
      (hidden, cache): [B, T, D] in the compute dtype, and the cache with these
      columns added (None without a cache).
    """
    chex.assert_rank([tokens, positions, segment_ids], 2)
    chex.assert_equal_shape([tokens, positions, segment_ids])
    start = jnp.zeros((), jnp.int32) if cache is None else cache.index
    keys = None
    if cache is not None:
      put = lambda x, new: jax.lax.dynamic_update_slice(x, new, (0, start))
      keys = (
        put(cache.segment_ids, segment_ids),
        put(cache.positions, positions),
      )
    attend = self._attend(segment_ids, positions, keys, shared_prefix)
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    if cache is not None:
      params = self._unstack(params)
    cached = (None, None) if cache is None else (cache.k, cache.v)
    inputs = (tokens, positions, attend, start, *cached, dropout_key is None)
    hidden, k, v = self.module.apply({'params': params}, *inputs, rngs=rngs)
    if keys is None:
      return hidden, None
    return hidden, Cache(
      k=k,
      v=v,
      segment_ids=keys[0],
      positions=keys[1],
      index=start + tokens.shape[1],
    )

  def _attend(self, segment_ids, positions, keys, shared_prefix):
    """Returns the attention function (q, k, v) -> output.

    The function is a pytree, because the scan carries it. Its arrays have a
    leading axis of `kinds` if there are several. `keys` has the segment ids and
    the positions of a cache's columns, each [B, C]; None without a cache.
    """
    m, length = self.module, segment_ids.shape[1]
    kernel = 'xla'
    if keys is None:
      kernel = flash.choose(
        m.attention,
        length=length,
        width=m.width,
        dtype=m.dtype,
        windows=any(m.windows),
      )
    if kernel == 'splash':
      fields = dict(rules=m.rules, scale=m.query_scale)
      splash = functools.partial(
        flash.splash, shared_prefix=shared_prefix, **fields
      )
      return Partial(splash, segment_ids=segment_ids)
    key_segments, key_positions = keys or (segment_ids, positions)
    distance = positions[:, :, None] - key_positions[:, None, :]
    columns = jnp.arange(length)
    causal = distance >= 0 if keys else columns <= columns[:, None]
    queries, seen = segment_ids[:, :, None], key_segments[:, None, :]
    same = queries == seen
    if shared_prefix:
      same |= seen == PREFIX
    mask = causal & (queries != 0) & same
    if any(m.windows):
      masks = [
        mask & (distance < window) if window else mask for window in m.kinds
      ]
      mask = jnp.stack(masks) if len(masks) > 1 else masks[0]
    if kernel == 'cudnn':
      cudnn = functools.partial(flash.cudnn, rules=m.rules, scale=m.query_scale)
      return Partial(cudnn, mask=mask, segment_ids=segment_ids)
    if kernel == 'sparse':
      tiled = functools.partial(sparse.attention, scale=m.query_scale)
      return Partial(tiled, tiles=sparse.needed_tiles(mask))
    fields = dict(block=m.attention_block, scale=m.query_scale)
    return Partial(functools.partial(attention.attention, **fields), mask=mask)

  def unembedding(self, params: Params) -> jax.Array:
    """Returns the matrix [V', D], in the compute dtype, that gives logits.

    Logits are `hidden @ unembedding(params).T`. V' is `padded_vocab`; tokens
    from `vocab_size` on do not exist. With tied embeddings the matrix is the
    embedding, and has no gradient if that is frozen.
    """
    m = self.module
    table = params['embed' if m.tie_embeddings else 'unembed']
    if m.tie_embeddings and m.frozen_layers:
      table = jax.lax.stop_gradient(table)
    return table.astype(m.dtype)

  def frozen(self) -> Params | None:
    """Returns the number of leading rows without a gradient, per parameter.

    Returns:
      A pytree of ints like the parameters, or None if nothing is frozen.
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
    """Whether passes with a cache apply the layers without a loop."""
    return self.module.scan_unroll >= self.module.num_layers

  def prepared(self, params: Params) -> Params:
    """Prepares parameters for many calls of `apply` with a cache.

    Does once what each call would do: converts parameters to the compute dtype
    (except norms, which are computed in float32), shards them by this model's
    rules, and splits the stacked layers if they are unrolled.
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
    """Returns an empty cache for [batch, columns] tokens."""
    m = self.module
    kv_heads = m.num_kv_heads or m.num_heads
    shape = (m.num_layers, batch, kv_heads, columns, m.width)
    axes = ('layers', 'act_batch', 'act_heads', 'act_len', None)
    zeros = lambda start: sharding.constrain(
      jnp.zeros(shape[start:], m.dtype), axes[start:], m.rules
    )

    def empty():
      if self.unrolled:
        return tuple(zeros(1) for _ in range(m.num_layers))
      return zeros(0)

    return Cache(
      k=empty(),
      v=empty(),
      segment_ids=jnp.zeros((batch, columns), jnp.int32),
      positions=jnp.zeros((batch, columns), jnp.int32),
      index=jnp.zeros((), jnp.int32),
    )


def make_model(
  *, dtype: str = 'float32', param_dtype: str = 'float32', rules=(), **fields
) -> Model:
  """Makes a model from config fields; dtypes are given by name.

  Raises:
    ValueError: names the field that is out of range.
  """
  rules = tuple((a, tuple(b) if isinstance(b, list) else b) for a, b in rules)
  for name in ('windows', 'rope_scaling'):  # configs from JSON have lists
    if name in fields:
      fields[name] = tuple(fields[name])
  module = Transformer(
    dtype=jnp.dtype(dtype),
    param_dtype=jnp.dtype(param_dtype),
    rules=rules,
    **fields,
  )
  check(module)
  return Model(module)
