"""Costs of kernels, compared with counts by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest

from instructrl.models import flash
from instructrl.planning import chips
from instructrl.planning import compiling
from instructrl.planning import hlo
from instructrl.runtime import sharding
from tests import slices

# Rows, heads, key heads, columns, width, columns of a block. 6 of the 3 x 3
# pairs of blocks have tokens that are not in the future.
B, H, HKV, T, W, BLOCK = 2, 4, 2, 1536, 128, 512
PAIRS = 6
PAIR = 2 * BLOCK * BLOCK  # FLOPs of a product per unit of width

Q, K = f'bf16[{B},{H},{T},{W}]', f'bf16[{B},{HKV},{T},{W}]'
IDS, IDS_ACROSS = f's32[{B},{T},128]', f's32[{B},8,{T}]'
MAPS = ('s8[1,3,3]', 's8[1,3,3]')
SUMS, SUMS_8 = f'f32[{B},{H},1,{T}]', f'f32[{B},{H},8,{T}]'
SEGMENTED = {
  'fwd': (*MAPS, Q, K, K, IDS, IDS_ACROSS, f's32[{T},128]'),
  'dq': (*MAPS, Q, K, K, IDS, IDS_ACROSS, SUMS, Q, SUMS, f's32[{T},128]'),
  'dkv': (*MAPS, Q, K, K, IDS_ACROSS, IDS, SUMS_8, Q, SUMS_8, f's32[8,{T}]'),
}
RESULTS = {'fwd': f'({Q})', 'dq': f'({Q})', 'dkv': f'({K}, {K})'}


def program(results, operands, op_name, metadata='', config=''):
  """Returns a program with one kernel and its metadata, as XLA prints it."""
  parameters = '\n'.join(
    f'  %p{i} = {kind} parameter({i})' for i, kind in enumerate(operands)
  )
  names = ', '.join(f'%p{i}' for i in range(len(operands)))
  return hlo.HloProgram(f'''HloModule m

ENTRY %main (x: f32[]) -> f32[] {{
{parameters}
  ROOT %k.3 = {results} custom-call({names}), custom_call_target="tpu_custom_call", frontend_attributes={{kernel_metadata={{
"xprof_metadata":"{{{metadata}}}"
}}}}, metadata={{op_name="{op_name}"}}, backend_config={{"custom_call_config":{{"body":"TUz=",{config}"x":1}}}}
}}
''')


def splash(phase, operands, segmented='_segmented', scope='causal/', **kwargs):
  name = f'splash_mha_{phase}{segmented}_no_residuals'
  side = '' if phase == 'fwd' else f'_{phase}'
  return program(
    RESULTS[phase],
    operands,
    f'jit(f)/{scope}vmap(s)/{name}/{name}/pallas_call',
    rf'\"block_q{side}\": {BLOCK}, \"block_kv{side}\": {BLOCK}'
    rf', \"block_kv_compute\": 128',
    **kwargs,
  ).costs


@pytest.mark.parametrize('phase, products', [('fwd', 2), ('dq', 3), ('dkv', 4)])
def test_blocks_that_are_not_hidden_are_computed_whole(phase, products):
  operands = SEGMENTED[phase]
  found = splash(phase, operands)
  assert found.flops == B * H * PAIRS * PAIR * products * W
  everything = splash(phase, operands, scope='')
  assert everything.flops == B * H * 9 * PAIR * products * W


def test_wider_queries_than_values():
  """Used for a shared prefix; such kernels have no segment ids."""
  wide, keys = f'bf16[{B},{H},{T},152]', f'bf16[{B},{HKV},{T},152]'
  flops = lambda phase, *others: (
    splash(phase, (*MAPS, wide, keys, K, *others), segmented='').flops
  )
  pairs = B * H * PAIRS * PAIR
  assert flops('fwd', f's32[{T},128]') == pairs * (152 + W)
  backward = (SUMS, Q, SUMS, f's32[{T},128]')
  assert flops('dq', *backward) == pairs * (2 * 152 + W)
  assert flops('dkv', *backward) == pairs * 2 * (152 + W)


def test_what_the_forward_kernel_reads_and_writes():
  columns = B * H * T  # queries of all heads
  streamed = B * H * PAIRS * BLOCK  # keys read by all query blocks
  written = columns * W * 2
  read = columns * (W * 2 + 128 * 4 + 128 * 4) + streamed * (2 * W * 2 + 8 * 4)
  assert splash('fwd', SEGMENTED['fwd']).hbm_bytes == 2 * 9 + written + read


def test_what_the_gradient_of_queries_reads_and_writes():
  columns, streamed = B * H * T, B * H * PAIRS * BLOCK
  written = columns * W * 2
  read = columns * (2 * W * 2 + 2 * 4 + 2 * 128 * 4) + streamed * (
    2 * W * 2 + 8 * 4
  )
  assert splash('dq', SEGMENTED['dq']).hbm_bytes == 2 * 9 + written + read


def test_what_the_gradient_of_keys_reads_and_writes():
  """Keys are read once per group of heads, queries for every key block."""
  streamed = B * H * PAIRS * BLOCK
  written = 2 * B * HKV * T * W * 2
  read = (
    2 * B * HKV * T * W * 2
    + B * T * 128 * 4
    + streamed * (2 * W * 2 + 2 * 8 * 4 + 2 * 8 * 4)
  )
  assert splash('dkv', SEGMENTED['dkv']).hbm_bytes == 2 * 9 + written + read


def test_what_is_on_the_chip_already_is_free():
  on_chip = lambda kind: kind + '{3,2,1,0:T(8,128)(2,1)S(1)}'
  operands = list(SEGMENTED['fwd'])
  whole = splash('fwd', operands).hbm_bytes
  operands[3] = on_chip(operands[3])
  assert whole - splash('fwd', operands).hbm_bytes == (
    B * H * PAIRS * BLOCK * W * 2
  )


def test_an_estimate_is_believed():
  found = program(
    'f32[8]',
    ['f32[8]'],
    'jit(f)/pallas_call',
    config='"cost_estimate":{"flops":"123","transcendentals":"0",'
    '"bytes_accessed":"456"},',
  ).costs
  assert (found.flops, found.hbm_bytes) == (123, 456)


def test_a_kernel_that_nothing_is_known_of_is_not_taken_for_nothing():
  with pytest.raises(
    ValueError,
    match=r'k.3 \(jit\(f\)/pallas_call\) has no '
    'cost estimate',
  ):
    _ = program('f32[8]', ['f32[8]'], 'jit(f)/pallas_call').costs


@slices.needs_libtpu
@pytest.mark.parametrize('shared_prefix', [False, True])
def test_the_kernels_of_a_compiled_program(shared_prefix):
  """Real kernels have the names, operands and metadata that are parsed."""
  mesh = sharding.make_mesh(dict(data=4), chips.devices('v5e:2x2')[0])
  array = lambda *shape, dtype='bfloat16': jax.ShapeDtypeStruct(
    shape, dtype, sharding=sharding.batch_sharding(mesh)
  )
  attend = functools.partial(
    flash.splash,
    rules=(('act_batch', 'data'), ('act_heads', None)),
    shared_prefix=shared_prefix,
  )
  grads = jax.jit(
    jax.grad(
      lambda q, k, v, ids: (
        attend(q, k, v, segment_ids=ids).astype(jnp.float32).sum()
      ),
      (0, 1, 2),
    )
  )
  keys = array(4 * B, HKV, T, W)
  with jax.set_mesh(mesh), compiling.no_cache():
    text = (
      grads.lower(
        array(4 * B, T, H, W), keys, keys, array(4 * B, T, dtype='int32')
      )
      .compile()
      .as_text()
    )
  # The segment ids have 11 bits, each in two columns.
  wide = W + 22 if shared_prefix else W
  products = (wide + W) + (2 * wide + W) + 2 * (wide + W)
  costs = hlo.HloProgram(text).costs
  assert costs.flops == B * H * PAIRS * PAIR * products
  # Between the inputs and outputs once, and all arrays for every block pair.
  least = 2 * B * T * W * (2 * H + 4 * HKV)
  assert least < costs.hbm_bytes < 30 * least
