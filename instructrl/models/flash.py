"""Attention by kernels that never have a row's logits in memory all at once.

On TPUs splash attention (Pallas), on NVIDIA GPUs cuDNN's flash attention; both
as JAX has them. They are for full passes: with a cache, and on CPUs, there is
`attention.attention`, which gives the same results.

Axis legend: B batch, T tokens, H heads, Hkv key heads, Dh width of a head.
"""

import functools

import jax
from jax.experimental.pallas.ops.tpu import splash_attention as splash_lib
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from instructrl.runtime import sharding
from instructrl.types import PREFIX

IMPLEMENTATIONS = ('auto', 'xla')
TILE = 128  # columns; what a block of the TPU's kernel is a multiple of
MAX_BLOCK = 512  # columns of a block, of queries and of keys
MIN_LENGTH = 2 * TILE  # shorter rows would be padded by half and more
# Added to a logit where a key is hidden. No logit is so large, and the product
# with 0 or 1 is exact in every dtype.
HIDDEN = -(2.0**20)


def device() -> tuple[str, str]:
  """(platform, kind) of what the function being traced is for.

  Those of the mesh that is set, which may have other devices than this machine
  (see `aot`); without one, those of the default device.
  """
  found = jax.sharding.get_abstract_mesh().abstract_device
  if found is None:
    found = jax.devices()[0]
  return found.platform, found.device_kind


def choose(
  implementation: str, *, length: int, width: int, dtype, windows: bool = False
) -> str:
  """What computes the attention of a full pass: 'xla', 'splash' or 'cudnn'.

  Args:
    implementation: one of IMPLEMENTATIONS; 'auto' takes the device's kernel
      where it can compute this.
    length: T.
    width: Dh.
    dtype: of the computation.
    windows: whether some layers see only so far back. The kernels do not: they
      are not chosen.
  """
  if implementation == 'xla' or windows:
    return 'xla'
  platform, kind = device()
  if platform == 'tpu' and length >= MIN_LENGTH and width % 64 == 0:
    return 'splash'
  # What all of cuDNN's versions and GPUs since Ampere have in common.
  if (
    platform == 'gpu'
    and 'NVIDIA' in kind
    and jnp.dtype(dtype).itemsize == 2
    and width % 8 == 0
    and width <= 128
    and length % 2 == 0
  ):
    return 'cudnn'
  return 'xla'


def splash(
  q,
  k,
  v,
  *,
  segment_ids,
  rules: sharding.Rules = (),
  shared_prefix: bool = False,
  scale: float = 0.0,
):
  """Causal attention within segments, on TPUs.

  Args:
    q: [B, T, H, Dh].
    k: [B, Hkv, T, Dh].
    v: [B, Hkv, T, Dh].
    segment_ids: [B, T] int32, at most T; see `transformer.Model.apply`.
    rules: from logical axes to mesh axes: over which the kernel is divided.
    shared_prefix: whether `PREFIX` is among the ids.
    scale: of the logits; 0 is Dh ** -0.5.

  Returns:
    [B, T, H, Dh] in the dtype of q; 0 where the segment id is 0. Softmax is
    float32.
  """
  fn = functools.partial(_splash, shared_prefix=shared_prefix, scale=scale)
  return _divided(fn, rules, q, k, v, segment_ids)


def _splash(q, k, v, segment_ids, shared_prefix, scale):
  length, heads, width = q.shape[1:]
  tile = TILE if length <= TILE else 2 * TILE
  padded = -(-length // tile) * tile
  pad = lambda x, axis: jnp.pad(
    x, [(0, padded - length if i == axis else 0) for i in range(x.ndim)]
  )
  q = q.swapaxes(1, 2) * jnp.asarray(scale or width**-0.5, q.dtype)
  q, k, v, ids = pad(q, 2), pad(k, 2), pad(v, 2), pad(segment_ids, 1)
  if shared_prefix:
    of_queries, of_keys = prefix_features(ids, q.dtype)
    append = lambda x, features: jnp.concatenate(
      [
        x,
        jnp.broadcast_to(features[:, None], (*x.shape[:3], features.shape[-1])),
      ],
      axis=-1,
    )
    q, k, same = append(q, of_queries), append(k, of_keys), None
  else:
    same = splash_lib.SegmentIds(ids, ids)
  block = max(
    size for size in range(TILE, MAX_BLOCK + 1, TILE) if padded % size == 0
  )
  mask = splash_lib.CausalMask((padded, padded))
  kernel = splash_lib.make_splash_mha(
    splash_lib.MultiHeadMask([mask] * heads),
    head_shards=1,
    q_seq_shards=1,
    block_sizes=splash_lib.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_q_dq=block,
      block_kv_dq=block,
    ),
    interpret=device()[0] != 'tpu',
  )
  with jax.named_scope('causal'):  # `hlo_kernels` sees no masks, and reads it
    out = jax.vmap(kernel)(q, k, v, same)
  out = jnp.where((ids != 0)[:, None, :, None], out, 0)
  return out[:, :, :length].swapaxes(1, 2)


def prefix_features(segment_ids, dtype):
  """Columns for queries and keys whose products hide other segments.

  The kernel compares ids for equality, which a prefix that all see is not. So
  the bits of the ids stand in the vectors: a product is HIDDEN for each bit
  in which two ids differ, and exactly 0 where they are the same or the key is
  of the prefix, whose columns are 0.

  Args:
    segment_ids: [B, T] int32, from 1 to T, 0 for padding, or PREFIX.
    dtype: of the result.

  Returns:
    (of queries, of keys), both [B, T, 2 * bits].
  """
  bits = (segment_ids.shape[1] + 1).bit_length()  # PREFIX is all ones, alone
  ones = (segment_ids[..., None] >> jnp.arange(bits)) & 1
  both = lambda a, b: jnp.concatenate([a, b], axis=-1).astype(dtype)
  of_keys = both(1 - ones, ones) * jnp.asarray(HIDDEN, dtype)
  return both(ones, 1 - ones), jnp.where(
    (segment_ids == PREFIX)[..., None], 0, of_keys
  )


def cudnn(
  q, k, v, *, mask, segment_ids, rules: sharding.Rules = (), scale: float = 0.0
):
  """Attention on NVIDIA GPUs, in 16 bits.

  The kernel knows no segments: it reads the mask as a bias of T x T numbers a
  row, for all heads.

  Args:
    q: [B, T, H, Dh] bfloat16 or float16.
    k: [B, Hkv, T, Dh].
    v: [B, Hkv, T, Dh].
    mask: [B, T, T] bool, True where a query sees a key.
    segment_ids: [B, T] int32.
    rules: as for `splash`.
    scale: as for `splash`.

  Returns:
    As `splash`.
  """

  def local(q, k, v, segment_ids, mask):
    out = jax.nn.dot_product_attention(
      q,
      k.swapaxes(1, 2),
      v.swapaxes(1, 2),
      mask=mask[:, None],
      scale=scale or None,
      implementation='cudnn',
    )
    return jnp.where((segment_ids != 0)[:, :, None, None], out, 0)

  return _divided(local, rules, q, k, v, segment_ids, mask)


def _divided(fn, rules, q, k, v, *rows):
  """Calls a kernel on each device's rows and heads.

  XLA divides what it compiles itself, and a kernel it does not.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size <= 1:
    return fn(q, k, v, *rows)
  batch, heads = (
    sharding.partition_spec(('act_batch', 'act_heads'), rules)
    if rules
    else (None, None)
  )
  queries = PartitionSpec(batch, None, heads)
  keys = PartitionSpec(batch, heads)
  return jax.shard_map(
    fn,
    in_specs=(queries, keys, keys, *(PartitionSpec(batch) for _ in rows)),
    out_specs=queries,
    check_vma=False,
  )(q, k, v, *rows)
