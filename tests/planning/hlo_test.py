"""Costs of compiled programs, compared with counts by hand."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from instructrl.planning import hlo

L, B, D, F = 5, 8, 16, 32


def program(fn, *args, **kwargs):
  return hlo.HloProgram(jax.jit(fn).lower(*args).compile().as_text(), **kwargs)


def mlp(x, up, down):
  return jnp.tanh(x @ up) @ down


def test_a_loop_counts_as_often_as_it_runs():
  x, up, down = jnp.ones((B, D)), jnp.ones((L, D, F)), jnp.ones((L, F, D))
  scanned = program(
    lambda x, *w: jax.lax.scan(lambda x, w: (mlp(x, *w), None), x, w)[0],
    x,
    up,
    down,
  )
  once = program(mlp, x, up[0], down[0])
  assert once.costs.flops == 2 * 2 * B * D * F
  assert scanned.costs.flops == L * once.costs.flops


def test_a_loop_of_unknown_length_is_told_its_trips():
  def loop(x, w, n):
    return jax.lax.while_loop(
      lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] @ w), (0, x)
    )[1]

  args = jnp.ones((B, D)), jnp.ones((D, D)), 7
  assert program(loop, *args, trips=7).costs.flops == 7 * 2 * B * D * D
  assert program(loop, *args).costs.flops == 2 * B * D * D


def test_a_loop_that_counts_in_twos():
  text = """HloModule m

%condition (c: (s32[], f32[4,4])) -> pred[] {
  %c = (s32[], f32[4,4]{1,0}) parameter(0)
  %limit = s32[] constant(7)
  %i = s32[] get-tuple-element(%c), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (b: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %b = (s32[], f32[4,4]{1,0}) parameter(0)
  %two = s32[] constant(2)
  %j = s32[] get-tuple-element(%b), index=0
  %x = f32[4,4]{1,0} get-tuple-element(%b), index=1
  %y = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %next = s32[] add(%j, %two)
  ROOT %out = (s32[], f32[4,4]{1,0}) tuple(%next, %y)
}

ENTRY %main (a: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %a = (s32[], f32[4,4]{1,0}) parameter(0)
  ROOT %loop = (s32[], f32[4,4]{1,0}) while(%a), condition=%condition, body=%body
}
"""
  assert hlo.HloProgram(text).costs.flops == 4 * 2 * 4**3


def test_a_batched_product():
  found = program(
    lambda a, b: jnp.einsum('bij,bjk->bik', a, b),
    jnp.ones((3, 4, 5)),
    jnp.ones((3, 5, 6)),
  )
  assert found.costs.flops == 2 * 3 * 4 * 5 * 6


def text_of(line, *operands):
  """Returns a program with one instruction."""
  parameters = '\n'.join(
    f'  %p{i} = {kind} parameter({i})' for i, kind in enumerate(operands)
  )
  return (
    'HloModule m\n\nENTRY %main (x: f32[]) -> f32[] {\n'
    f'{parameters}\n  ROOT %out = {line}\n}}\n'
  )


@pytest.mark.parametrize(
  'line, operands, flops',
  [
    # A matrix product in the form that TPUs use.
    (
      'bf16[64,32]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf',
      ('bf16[64,16]{1,0}', 'bf16[16,32]{1,0}'),
      2 * 64 * 16 * 32,
    ),
    # The second operand is transposed.
    (
      'bf16[64,32]{1,0} convolution(%p0, %p1), dim_labels=bf_oi->bf',
      ('bf16[64,16]{1,0}', 'bf16[32,16]{1,0}'),
      2 * 64 * 16 * 32,
    ),
    # A batch of 4 products as a dilated dimension: 4 pairs, not 4 x 4.
    (
      'f32[4,8,6]{2,1,0} convolution(%p0, %p1), window={size=4 stride=3 '
      'pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf',
      ('f32[4,8,5]{2,1,0}', 'f32[4,5,6]{2,1,0}'),
      2 * 4 * 8 * 5 * 6,
    ),
    # A window of 3 over 10 with padding: the ends have two elements.
    (
      'f32[1,10,7]{2,1,0} convolution(%p0, %p1), window={size=3 pad=1_1}, '
      'dim_labels=b0f_0io->b0f',
      ('f32[1,10,5]{2,1,0}', 'f32[3,5,7]{2,1,0}'),
      2 * 28 * 5 * 7,
    ),
  ],
)
def test_convolutions_are_the_products_of_a_tpu(line, operands, flops):
  assert hlo.HloProgram(text_of(line, *operands)).costs.flops == flops


@pytest.mark.parametrize(
  'line, kind, sent',
  [
    (
      'f32[32]{0} all-gather(%p0), replica_groups=[2,4]<=[8], dimensions={0}',
      'all-gather',
      3 * 32,
    ),
    (
      'f32[2]{0} reduce-scatter(%p0), replica_groups={{0,1,2,3},{4,5,6,7}}, '
      'to_apply=%add',
      'reduce-scatter',
      32 * 3 / 4,
    ),
    (
      'f32[8]{0} all-reduce(%p0), replica_groups=[1,8]<=[8], to_apply=%add',
      'all-reduce',
      2 * 32 * 7 / 8,
    ),
    (
      'f32[8]{0} collective-permute(%p0), source_target_pairs={{0,1},{1,0}}',
      'collective-permute',
      32,
    ),
    (
      "f32[32]{0} all-gather(%p0), replica_groups=mesh['a'=2,'b'=4] {'b'}, "
      'dimensions={0}',
      'all-gather',
      3 * 32,
    ),
    (
      "f32[8]{0} all-reduce(%p0), replica_groups=mesh['a'=2,'b'=4] {'a','b'}, "
      'to_apply=%add',
      'all-reduce',
      2 * 32 * 7 / 8,
    ),
    (
      "f32[16]{0} all-gather(%p0), replica_groups=mesh['a'=8] {'a':(1)2}, "
      'dimensions={0}',
      'all-gather',
      32,
    ),
    (
      "f32[32]{0} all-gather(%p0), replica_groups=mesh['a'=4,'b'=1,'c'=2], "
      "device_ids=([2,4]T(1,0)) {'a'}, dimensions={0}",
      'all-gather',
      3 * 32,
    ),
    (
      '(f32[8]{0}, f32[32]{0}) all-gather-start(%p0), '
      'replica_groups=[2,4]<=[8], dimensions={0}',
      'all-gather',
      3 * 32,
    ),
  ],
)
def test_bytes_that_a_device_sends(line, kind, sent):
  text = text_of(line, 'f32[8]{0}').replace(
    'ENTRY',
    '%add (a: f32[]) -> f32[] {\n  ROOT %a = f32[] parameter(0)\n}\n\nENTRY',
  )
  assert dict(hlo.HloProgram(text).costs.collectives) == {kind: sent}


def test_collectives_of_a_real_program():
  """A sharded product in a loop has one all-reduce per trip."""
  mesh = jax.make_mesh(
    (4,),
    ('x',),
    devices=jax.devices()[:4],
    axis_types=(jax.sharding.AxisType.Auto,),
  )
  put = lambda x, *spec: jax.device_put(
    x, jax.sharding.NamedSharding(mesh, P(*spec))
  )
  x, w = (
    put(jnp.ones((B, D)), None, 'x'),
    put(jnp.ones((L, D, D)), None, 'x', None),
  )
  spec = jax.sharding.NamedSharding(mesh, P(None, None))

  def body(x, w):
    x = jax.lax.with_sharding_constraint(x @ w, spec)
    return jax.lax.with_sharding_constraint(
      x, jax.sharding.NamedSharding(mesh, P(None, 'x'))
    ), None

  found = program(lambda x, w: jax.lax.scan(body, x, w)[0], x, w).costs
  assert found.flops == L * 2 * B * (D / 4) * D
  assert sum(found.collectives.values()) == pytest.approx(
    L * 2 * 3 / 4 * B * D * 4
  )


def test_memory_that_is_read_and_written():
  big, small = 1000 * 4, 10 * 4
  text = text_of(
    'f32[1000]{0} add(%p0, %p1)', 'f32[1000]{0}', 'f32[1000]{0:S(1)}'
  )
  assert (
    hlo.HloProgram(text).costs.hbm_bytes == 2 * big
  )  # one array is in on-chip memory
  text = text_of(
    'f32[10]{0} dynamic-slice(%p0, %p1), dynamic_slice_sizes={10}',
    'f32[1000]{0}',
    's32[]',
  )
  assert hlo.HloProgram(text).costs.hbm_bytes == 2 * small
  text = text_of(
    'f32[1000]{0} dynamic-update-slice(%p0, %p1, %p2)',
    'f32[1000]{0}',
    'f32[10]{0}',
    's32[]',
  )
  assert hlo.HloProgram(text).costs.hbm_bytes == 2 * small


def test_of_a_stack_a_fusion_reads_the_slice():
  text = """HloModule m

%fused (a: f32[5,100], b: s32[]) -> f32[100] {
  %b = s32[] parameter(1)
  %a = f32[5,100]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %slice = f32[1,100]{1,0} dynamic-slice(%a, %b, %zero), dynamic_slice_sizes={1,100}
  ROOT %out = f32[100]{0} bitcast(%slice)
}

ENTRY %main (x: f32[5,100], i: s32[]) -> f32[100] {
  %x = f32[5,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %f = f32[100]{0} fusion(%x, %i), kind=kLoop, calls=%fused
}
"""
  assert hlo.HloProgram(text).costs.hbm_bytes == 400 + 400 + 4
  # The same inside a nested fusion.
  nested = text.replace(
    'ENTRY',
    """%outer (c: f32[5,100], d: s32[]) -> f32[100] {
  %c = f32[5,100]{1,0} parameter(0)
  %d = s32[] parameter(1)
  ROOT %inner = f32[100]{0} fusion(%c, %d), kind=kLoop, calls=%fused
}

ENTRY""",
  ).replace(
    'fusion(%x, %i), kind=kLoop, calls=%fused',
    'fusion(%x, %i), kind=kLoop, calls=%outer',
  )
  assert hlo.HloProgram(nested).costs.hbm_bytes == 400 + 400 + 4


def test_what_is_no_program_is_refused():
  with pytest.raises(ValueError, match='no entry computation'):
    hlo.HloProgram('HloModule m\n')


def test_sizes_of_types():
  line = '(bf16[3,5]{1,0:T(8,128)(2,1)S(1)}, pred[7]{0}, s4[8]{0}) tuple(%p0)'
  *_, found = hlo.HloProgram(text_of(line, 'f32[]')).instructions()
  assert [a.num_bytes for a in found.arrays] == [30, 7, 4]
  assert [a.in_hbm for a in found.arrays] == [False, True, True]
  np.testing.assert_equal(found.num_bytes, 41)
