"""Attention kernels that never hold all logits of a row in memory.

TPUs use JAX's splash attention (Pallas), NVIDIA GPUs cuDNN's flash attention,
CPUs `sparse.attention` for long rows. The kernels serve passes without a cache.
Other passes use `attention.attention`, which gives the same results.

Axis legend: B batch, T tokens, H heads, Hkv key heads, Dh width of a head.
"""

import functools

import jax
from jax.experimental.pallas.ops.tpu import splash_attention as splash_lib
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from instructrl.models import sparse
from instructrl.runtime import sharding
from instructrl.types import PREFIX

IMPLEMENTATIONS = ('auto', 'xla')
TILE = 128  # columns; blocks of the TPU kernel are multiples of this
MAX_BLOCK = 512  # the most columns in a block of queries or keys
_BLOCKS = (  # of the kernels: forward, and backward for the keys and queries
  'block_q block_kv block_q_dkv block_kv_dkv block_q_dq block_kv_dq'.split()
)
MIN_LENGTH = 2 * TILE  # padding would be half of shorter rows, or more
# Added to the logit of a hidden key. No logit is as large, and products with 0
# and 1 are exact in every dtype.
HIDDEN = -(2.0**20)


def device() -> tuple[str, str]:
  """Returns (platform, kind) of the devices that the traced function targets.

  A current mesh defines them, and may have devices that this machine lacks (see
  `aot`). Without a mesh this is the default device.
  """
  found = jax.sharding.get_abstract_mesh().abstract_device
  if found is None:
    found = jax.devices()[0]
  return found.platform, found.device_kind


def choose(
  implementation: str, *, length: int, width: int, dtype, windows: bool = False
) -> str:
  """Chooses the attention of a pass without a cache.

  Args:
    implementation: one of IMPLEMENTATIONS; 'auto' takes the device's kernel if
      the kernel supports the arguments.
    length: T.
    width: Dh.
    dtype: dtype of the computation.
    windows: whether some layers have a window, which no kernel supports.

  Returns:
    'xla', 'splash', 'cudnn' or 'sparse'.
  """
  if implementation == 'xla' or windows:
    return 'xla'
  platform, kind = device()
  if platform == 'cpu' and length >= sparse.MIN_LENGTH:
    # XLA does not divide its loops among devices.
    one_device = jax.sharding.get_abstract_mesh().size <= 1
    return 'sparse' if one_device else 'xla'
  if platform == 'tpu' and length >= MIN_LENGTH and width % 64 == 0:
    return 'splash'
  # All versions of cuDNN and all GPUs since Ampere support this.
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
  """Computes causal attention within segments on TPUs.

  Args:
    q: [B, T, H, Dh].
    k: [B, Hkv, T, Dh].
    v: [B, Hkv, T, Dh].
    segment_ids: [B, T] int32, at most T; see `transformer.Model.apply`.
    rules: logical axis -> mesh axes; the kernel runs on each shard.
    shared_prefix: whether `PREFIX` is among the ids.
    scale: factor of the logits; 0 means Dh ** -0.5.

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
    block_sizes=splash_lib.BlockSizes(**dict.fromkeys(_BLOCKS, block)),
    interpret=device()[0] != 'tpu',
  )
  with jax.named_scope('causal'):  # planning.hlo_kernels reads this name
    out = jax.vmap(kernel)(q, k, v, same)
  out = jnp.where((ids != 0)[:, None, :, None], out, 0)
  return out[:, :, :length].swapaxes(1, 2)


def prefix_features(segment_ids, dtype):
  """Returns extra columns of queries and keys that hide other segments.

  The kernel can only compare ids for equality, and a prefix is seen by other
  ids. So the bits of the ids become columns: the product of a query and a key
  is HIDDEN for each differing bit. It is exactly 0 if the ids are equal, or if
  the key is in the prefix, whose columns are 0.

  Args:
    segment_ids: [B, T] int32: 1 to T, 0 for padding, or PREFIX.
    dtype: dtype of the result.

  Returns:
    (columns of queries, columns of keys), both [B, T, 2 * bits].
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
  """Computes attention on NVIDIA GPUs, in 16 bits.

  The kernel does not know segments. It reads the mask as a bias of T x T
  numbers per row, for all heads.

  Args:
    q: [B, T, H, Dh] bfloat16 or float16.
    k: [B, Hkv, T, Dh].
    v: [B, Hkv, T, Dh].
    mask: [B, T, T] bool, True where a query sees a key.
    segment_ids: [B, T] int32.
    rules: see `splash`.
    scale: see `splash`.

  Returns:
    [B, T, H, Dh] in the dtype of q; 0 where the segment id is 0.
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
  """Calls a kernel on each device's rows and heads; XLA does not shard it."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size <= 1:
    return fn(q, k, v, *rows)
  batch, heads = None, None
  if rules:
    batch, heads = sharding.partition_spec(('act_batch', 'act_heads'), rules)
  queries = PartitionSpec(batch, None, heads)
  keys = PartitionSpec(batch, heads)
  return jax.shard_map(
    fn,
    in_specs=(queries, keys, keys, *(PartitionSpec(batch) for _ in rows)),
    out_specs=queries,
    check_vma=False,
  )(q, k, v, *rows)
