"""Kernels against attention written out in numpy, in value and in gradient.

Splash attention is interpreted here, and compiled for TPUs that are not there;
of cuDNN's attention what is compiled can be seen, and where there is a GPU, it
runs.
"""

import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import AxisType
import numpy as np
import pytest

from instructrl.models import attention
from instructrl.models import flash
from instructrl.planning import chips
from instructrl.planning import compiling
from instructrl.runtime import sharding
from instructrl.types import PREFIX
from tests import slices
from tests import tiny

T, WIDTH = 160, 8
RULES = (
  ('act_batch', ('data', 'fsdp')),
  ('act_len', None),
  ('act_embed', None),
  ('act_heads', 'tensor'),
  ('act_mlp', 'tensor'),
  ('vocab', None),
  ('embed', None),
  ('mlp', None),
  ('heads', 'tensor'),
  ('kv', None),
  ('norm', None),
  ('layers', None),
  ('positions', None),
)


def row(*parts, length=T):
  """[T] int32 from (segment id, columns), and padding."""
  ids = np.concatenate([np.full(n, i) for i, n in parts])
  return np.pad(ids, (0, length - len(ids))).astype(np.int32)


PACKED = np.stack(
  [  # left and right padding; none; a segment across blocks
    row((0, 30), (1, 20), (2, 60)),
    row((1, 100), (2, 60)),
  ]
)
PREFIXED = np.stack(
  [  # the prefix may be padded on its left
    row((0, 7), (PREFIX, 40), (1, 30), (2, 1), (3, 70)),
    row((PREFIX, 130), (1, 3), (5, 20)),
  ]
)


def slow_attention(q, k, v, ids):
  """[B, T, H, Dh] and the gradients of sum(out * cos(0, 1, ...)), in numpy."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  share = q.shape[2] // k.shape[1]
  k, v = k.repeat(share, axis=1), v.repeat(share, axis=1)
  same = (ids[:, :, None] == ids[:, None]) | (ids[:, None] == PREFIX)
  seen = (np.tril(same) & (ids != 0)[:, :, None])[:, None]
  scale = q.shape[-1] ** -0.5
  logits = np.where(seen, np.einsum('bthd,bhcd->bhtc', q, k) * scale, -np.inf)
  p = np.where(
    seen,
    np.exp(logits - logits.max(-1, keepdims=True, initial=0, where=seen)),
    0,
  )
  p /= np.maximum(p.sum(-1, keepdims=True), 1e-30)
  out = np.einsum('bhtc,bhcd->bthd', p, v)
  g = weights(out)
  dp = np.einsum('bthd,bhcd->bhtc', g, v)
  ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * scale
  group = lambda x: x.reshape(x.shape[0], -1, share, *x.shape[2:]).sum(axis=2)
  return out, (
    np.einsum('bhtc,bhcd->bthd', ds, k),
    group(np.einsum('bhtc,bthd->bhcd', ds, q)),
    group(np.einsum('bhtc,bthd->bhcd', p, g)),
  )


def weights(out):
  return np.cos(np.arange(out.size)).reshape(out.shape)


def inputs(heads=4, kv_heads=2, dtype='float32', batch=2, width=WIDTH):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  return (
    draw(batch, T, heads, width),
    draw(batch, kv_heads, T, width),
    draw(batch, kv_heads, T, width),
  )


def check(attend, ids, atol, *arrays):
  """Value and gradients; nothing anywhere where there is padding."""

  @jax.jit
  def found(*arrays):
    out, pull = jax.vjp(attend, *arrays)
    return out, pull(jnp.asarray(weights(out), out.dtype))

  out, grads = found(*arrays)
  expected, expected_grads = slow_attention(*arrays, ids)
  np.testing.assert_allclose(np.float64(out), expected, atol=atol)
  for got, want in zip(grads, expected_grads):
    assert got.dtype == arrays[0].dtype
    np.testing.assert_allclose(np.float64(got), want, atol=4 * atol)
  padding = ids == 0
  assert padding.any() and not np.float32(out)[padding].any()
  for got, axis in zip(grads, (1, 2, 2)):
    assert not np.float32(jnp.moveaxis(got, axis, 1))[padding].any()


def test_the_scale_of_the_logits_may_be_another():
  """As of queries that are so much longer, which no kernel sees."""
  for attend in (
    functools.partial(flash.splash, segment_ids=PACKED),
    lambda q, k, v, **scale: attention.attention(
      q,
      k,
      v,
      np.tril(PACKED[:, :, None] == PACKED[:, None])
      & (PACKED != 0)[:, :, None],
      **scale,
    ),
  ):
    q, k, v = inputs()
    out = attend(q, k, v, scale=0.1)
    expected, _ = slow_attention(q * 0.1 * WIDTH**0.5, k, v, PACKED)
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize('heads, kv_heads', [(2, 2), (4, 2), (4, 1)])
def test_splash_is_causal_attention_within_segments(heads, kv_heads):
  check(
    functools.partial(flash.splash, segment_ids=PACKED),
    PACKED,
    2e-6,
    *inputs(heads, kv_heads),
  )


def test_splash_in_16_bits():
  check(
    functools.partial(flash.splash, segment_ids=PACKED),
    PACKED,
    0.03,
    *inputs(dtype='bfloat16'),
  )


@pytest.mark.parametrize('dtype, atol', [('float32', 2e-6), ('bfloat16', 0.03)])
def test_splash_with_a_prefix_that_all_segments_see(dtype, atol):
  check(
    functools.partial(flash.splash, segment_ids=PREFIXED, shared_prefix=True),
    PREFIXED,
    atol,
    *inputs(dtype=dtype),
  )


def test_features_hide_all_that_are_not_seen():
  """Every pair of ids, the largest that a row can have among them."""
  length = 30
  ids = np.append(np.arange(length), PREFIX)[:, None]
  ids = np.pad(ids, ((0, 0), (0, length - 1)))
  q, k = flash.prefix_features(jnp.asarray(ids), jnp.bfloat16)
  found = np.asarray(jnp.einsum('ad,bd->ab', q[:, 0], k[:, 0]), np.float32)
  ids = ids[:, 0]
  seen = (ids[:, None] == ids) | (ids == PREFIX)
  assert (found[seen] == 0).all() and (found[~seen] <= flash.HIDDEN).all()
  assert flash.HIDDEN < -1e6


def test_splash_is_divided_over_a_mesh():
  ids = np.concatenate([PACKED] * 2)
  attend = functools.partial(flash.splash, segment_ids=ids, rules=RULES)
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  with jax.set_mesh(mesh):
    check(attend, ids, 2e-6, *inputs(batch=4))
    text = jax.jit(attend).lower(*inputs(batch=4)).as_text()
  # One row, two of four heads and one of two key heads, on each device.
  assert 'tensor<1x160x2x8xf32>' in text and 'tensor<1x1x160x8xf32>' in text


def model(**changes):
  fields = dict(max_len=T, num_kv_heads=2, remat='full', rules=RULES)
  return tiny.model(**{**fields, **changes})


def loss_and_grads(m, params, ids, shared_prefix):
  tokens = np.random.default_rng(0).integers(0, tiny.VOCAB, ids.shape)
  positions = np.broadcast_to(np.arange(T, dtype=np.int32), ids.shape)

  def loss(params):
    hidden, _ = m.apply(
      params,
      tokens.astype(np.int32),
      positions,
      ids,
      shared_prefix=shared_prefix,
    )
    # Padding has a hidden state, which no loss looks at.
    return jnp.where(ids[..., None] != 0, jnp.sin(hidden), 0).sum()

  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
  'ids, shared_prefix',
  [(PACKED, False), pytest.param(PREFIXED, True, marks=pytest.mark.slow)],
)
def test_a_model_learns_the_same_from_a_kernel(ids, shared_prefix, monkeypatch):
  """Layers that are scanned and computed again, on 8 devices and on one."""
  m, ids = model(), np.concatenate([ids] * 2)
  params = tiny.params(m)
  expected = loss_and_grads(m, params, ids, shared_prefix)
  monkeypatch.setattr(flash, 'choose', lambda *_, **__: 'splash')
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  with jax.set_mesh(mesh):
    found = loss_and_grads(m, params, ids, shared_prefix)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-4),
    found,
    expected,
  )


# --- What is chosen ---


def on(platform, kind):
  """A mesh of one device that is not there."""
  return jax.sharding.use_abstract_mesh(
    AbstractMesh(
      (1,),
      ('data',),
      (AxisType.Auto,),
      abstract_device=jax.sharding.AbstractDevice(
        platform=platform, device_kind=kind, num_cores=1
      ),
    )
  )


@pytest.mark.parametrize(
  'platform, kind, changes, expected',
  [
    ('tpu', 'TPU v5 lite', {}, 'splash'),
    ('tpu', 'TPU v5 lite', dict(dtype='float32'), 'splash'),
    ('tpu', 'TPU v5 lite', dict(length=128), 'xla'),
    ('tpu', 'TPU v5 lite', dict(width=48), 'xla'),
    ('tpu', 'TPU v5 lite', dict(implementation='xla'), 'xla'),
    ('tpu', 'TPU v5 lite', dict(windows=True), 'xla'),
    ('gpu', 'NVIDIA H200', dict(windows=True), 'xla'),
    ('gpu', 'NVIDIA H200', {}, 'cudnn'),
    ('gpu', 'NVIDIA H200', dict(dtype='float32'), 'xla'),
    ('gpu', 'NVIDIA H200', dict(width=256), 'xla'),
    ('gpu', 'NVIDIA H200', dict(length=2047), 'xla'),
    ('gpu', 'NVIDIA H200', dict(implementation='xla'), 'xla'),
    ('gpu', 'AMD Instinct MI300X', {}, 'xla'),
    ('cpu', 'cpu', {}, 'sparse'),
    ('cpu', 'cpu', dict(length=255), 'xla'),
    ('cpu', 'cpu', dict(implementation='xla'), 'xla'),
  ],
)
def test_the_device_and_the_shape_choose(platform, kind, changes, expected):
  arguments = (
    dict(implementation='auto', length=2048, width=128, dtype='bfloat16')
    | changes
  )
  with on(platform, kind):
    assert flash.choose(**arguments) == expected


def test_several_cpus_have_no_kernel():
  arguments = dict(length=2048, width=128, dtype='float32')
  for devices, expected in ((1, 'sparse'), (8, 'xla')):
    some = jax.devices()[:devices]
    with jax.set_mesh(sharding.make_mesh({'data': devices}, some)):
      assert flash.choose('auto', **arguments) == expected


def test_without_a_mesh_it_is_the_default_device():
  assert flash.device() == (
    jax.devices()[0].platform,
    jax.devices()[0].device_kind,
  )


def abstract(m, batch, length, sharded=None):
  """Parameters, tokens, positions and segment ids."""
  params = jax.eval_shape(m.init, jax.random.key(0))
  ids = jax.ShapeDtypeStruct((batch, length), jnp.int32, sharding=sharded)
  return params, ids, ids, ids


def gradient(m, shared_prefix=False):
  def loss(params, *row):
    hidden, _ = m.apply(params, *row, shared_prefix=shared_prefix)
    return hidden.astype(jnp.float32).sum()

  return jax.jit(jax.grad(loss))


def lowered_for_cuda(m, **options):
  with on('gpu', 'NVIDIA H200'):
    return (
      gradient(m, **options)
      .trace(*abstract(m, 2, 256))
      .lower(lowering_platforms=('cuda',))
      .as_text()
    )


def test_a_gpu_is_given_cudnn(monkeypatch):
  """As far as it can be seen without one: what is lowered for it."""
  monkeypatch.setattr(  # there is none here to ask
    'jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version',
    lambda: 91_000,
  )
  fields = dict(d_model=128, num_heads=2, max_len=256, dtype='bfloat16')
  text = lowered_for_cuda(tiny.model(**fields), shared_prefix=True)
  assert '__cudnn$fmhaScaleBiasSoftmax' in text
  assert '__cudnn$fmhaScaleBiasSoftmaxBackward' in text
  assert '2x2x256x256' not in text  # all heads' logits
  for other in (dict(attention='xla'), dict(dtype='float32')):
    text = lowered_for_cuda(tiny.model(**{**fields, **other}))
    assert 'cudnn' not in text and '2x2x256x256' in text


@pytest.mark.skipif(jax.default_backend() != 'gpu', reason='there is no GPU')
@pytest.mark.parametrize('ids', [PACKED, PREFIXED])
def test_cudnn_is_causal_attention_within_segments(ids):
  seen = (ids[:, :, None] == ids[:, None]) | (ids[:, None] == PREFIX)
  mask = np.tril(seen) & (ids != 0)[:, :, None]
  check(
    functools.partial(flash.cudnn, mask=mask, segment_ids=ids),
    ids,
    0.03,
    *inputs(dtype='bfloat16', width=64),
  )


# --- Compiled for TPUs ---

LENGTH, HEADS = 1024, 4


def slice_mesh(topology):
  return sharding.make_mesh(
    dict(data=1, fsdp=2, tensor=2), chips.devices(topology)[0]
  )


def lowered_for_tpu(**changes):
  m = tiny.model(
    d_model=64 * HEADS,
    d_ff=512,
    num_heads=HEADS,
    max_len=LENGTH,
    dtype='bfloat16',
    remat='full',
    rules=RULES,
    **changes,
  )
  mesh = slice_mesh('v5e:2x2')
  arguments = abstract(m, 4, LENGTH, sharding.batch_sharding(mesh))
  with jax.set_mesh(mesh):
    return gradient(m).lower(*arguments)


@pytest.mark.slow
@slices.needs_libtpu
def test_a_tpu_is_given_splash_attention():
  """A real compilation of a model; the logits of a head are nowhere."""
  with compiling.no_cache():
    text = lowered_for_tpu().compile().as_text()
  for kernel in ('splash_mha_fwd', 'splash_mha_dq', 'splash_mha_dkv'):
    assert re.search(
      rf'%{kernel}[^\n]*custom_call_target="tpu_custom_call"', text
    )
  assert f'{LENGTH},{LENGTH}]' not in text


@slices.needs_libtpu
def test_a_tpu_is_given_none_where_the_config_says_so():
  kernel, logits = 'tpu_custom_call', f'x{LENGTH}x{LENGTH}x'
  text = lowered_for_tpu(attention='xla').as_text()
  assert kernel not in text and logits in text
  text = lowered_for_tpu().as_text()
  assert kernel in text and logits not in text


@slices.needs_libtpu
@pytest.mark.parametrize(
  'topology, dtype, width, shared_prefix',
  [
    ('v5p:2x2x1', 'bfloat16', 128, False),
    pytest.param('v5e:2x2', 'float32', 128, False, marks=pytest.mark.slow),
    pytest.param('v5e:2x2', 'float32', 256, True, marks=pytest.mark.slow),
  ],
)
def test_the_kernel_compiles_for_a_row_of_2048(
  topology, dtype, width, shared_prefix
):
  """What a block takes of a core's memory grows with the width."""
  length, mesh = 2048, slice_mesh(topology)
  array = lambda *shape: jax.ShapeDtypeStruct(
    shape, dtype, sharding=sharding.batch_sharding(mesh)
  )
  ids = jax.ShapeDtypeStruct((2, length), jnp.int32)
  attend = functools.partial(
    flash.splash, rules=RULES, shared_prefix=shared_prefix
  )
  grads = jax.jit(
    jax.grad(
      lambda q, k, v, ids: (
        attend(q, k, v, segment_ids=ids).astype(jnp.float32).sum()
      ),
      (0, 1, 2),
    )
  )
  with jax.set_mesh(mesh), compiling.no_cache():
    text = (
      grads.lower(
        array(2, length, 4, width),
        array(2, 2, length, width),
        array(2, 2, length, width),
        ids,
      )
      .compile()
      .as_text()
    )
  assert text.count('custom_call_target="tpu_custom_call"') == 3
  assert f'{length},{length}]' not in text
