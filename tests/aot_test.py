"""Plans for slices: what is counted, what fits, and what is refused."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import pytest

from experiments import ppo
from experiments import sft
from instructrl import aot
from instructrl import sharding

try:
  import libtpu  # pylint: disable=unused-import
except ImportError:
  libtpu = None

needs_libtpu = pytest.mark.skipif(
    libtpu is None, reason='libtpu is not installed: pip install '
    '"instructrl[aot]" (there are wheels for Linux on x86_64)')


def small(module, **fields):
  """A config of two small layers in a loop, for a mesh of 2 x 2."""
  config = module.get_config('micro')
  for name in ('model', 'reward_model'):
    if name in config:
      config[name].update(num_layers=2, d_model=128, num_heads=2, max_len=128,
                          scan_unroll=1, dtype='bfloat16', vocab_multiple=128)
  config.mesh.update(data=1, fsdp=2, tensor=2)
  config.update(fields)
  return config


@needs_libtpu
def test_a_small_step_compiles_for_a_slice():
  """The whole way; what the program does is what was counted."""
  config = small(sft, batch_size=16)
  plan = aot.plan(config, 'v5e:2x2', vocab_size=500)
  assert plan.fits and plan.chips == 4
  assert plan.mesh == dict(data=1, fsdp=2, tensor=2)
  update, = plan.functions
  # XLA does whole squares of attention, and some products twice.
  assert 1 < update.xla_flops / update.model_flops < 1.6
  assert update.collectives['all-gather'] > 0  # fsdp
  assert update.seconds == max(update.times.values())
  assert plan.mfu == pytest.approx(
      update.model_flops / (update.seconds * 197e12)) and 0 < plan.mfu < 1
  assert 0 < update.arguments < update.peak < plan.hbm
  text = aot.describe(plan)
  assert 'v5e:2x2: 4 chips, data 1 x fsdp 2 x tensor 2' in text
  assert 'a step takes at least' in text


@needs_libtpu
def test_two_slices_are_one_mesh_along_data():
  found, _ = aot.devices('2xv5e:2x2')
  mesh = sharding.make_mesh(dict(data=2, fsdp=-1), found)
  assert [{d.slice_index for d in row.ravel()} for row in mesh.devices] == [
      {0}, {1}]


@needs_libtpu
@pytest.mark.slow
def test_a_small_step_compiles_for_two_slices():
  """And gradients are summed over the slices."""
  config = small(sft, batch_size=16)
  config.mesh.update(data=2)
  plan = aot.plan(config, '2xv5e:2x2', vocab_size=500)
  assert plan.fits and plan.chips == 8
  assert plan.mesh == dict(data=2, fsdp=2, tensor=2)
  assert plan.functions[0].collectives['all-reduce'] > 0


@needs_libtpu
@pytest.mark.slow
def test_what_waits_on_the_hosts_takes_no_memory_of_the_chips():
  """Of the scoring that it is copied for it does, and of nothing else."""
  def memory(offload):
    config = small(ppo)
    config.ppo.update(batch_size=8, minibatch_size=4)
    config.offload.update(reference=offload, ema=offload)
    plan = aot.plan(config, 'v5e:2x2', vocab_size=500)
    return {f.name: (f.arguments, f.peak) for f in plan.functions}

  found, chips = memory(False), memory(True)
  mesh = sharding.make_mesh(dict(fsdp=2, tensor=2), jax.devices()[:4])
  program, *_ = aot.program_of(small(ppo), mesh, 500)
  model = aot.bytes_per_device(program.layouts['policy'].abstract)
  saved = lambda name, i: found[name][i] - chips[name][i]
  assert saved('generate', 1) > 1.9 * model
  assert saved('score', 0) == saved('update', 0) >= model  # tiles are padded
  assert saved('update', 1) > 1.5 * model


@needs_libtpu
def test_what_does_not_fit_says_what_is_large(monkeypatch):
  monkeypatch.setitem(aot.CHIPS, 'v5e', dataclasses.replace(
      aot.CHIPS['v5e'], hbm=2 ** 20))
  plan = aot.plan(small(sft, batch_size=16), 'v5e:2x2', vocab_size=500)
  assert not plan.fits
  assert 'update needs' in plan.problem
  assert "['blocks']['up']['kernel'] float32[2, 128, 512]" in plan.problem
  assert '| no |' in aot.summary([plan])
  assert aot.to_json(plan)['fits'] is False


def test_arrays_are_counted_per_device():
  mesh = jax.make_mesh((2, 4), ('a', 'b'),
                       axis_types=(jax.sharding.AxisType.Auto,) * 2)
  make = lambda shape, dtype, *spec: jax.ShapeDtypeStruct(
      shape, dtype, sharding=jax.sharding.NamedSharding(mesh, P(*spec)))
  tree = {'x': make((8, 12), jnp.float32, 'a', 'b'),
          'y': make((6,), jnp.bfloat16)}
  waits = jax.ShapeDtypeStruct((9,), jnp.float32, sharding=jax.NamedSharding(
      mesh, P(), memory_kind=sharding.HOST))
  assert aot.bytes_per_device({**tree, 'on the hosts': waits}) == (
      aot.bytes_per_device(tree))
  assert aot.bytes_per_device(tree) == 4 * 3 * 4 + 6 * 2
  assert aot.largest(tree, 1) == ["0.00 GiB ['x'] float32[8, 12]"]


def test_the_functions_of_ppo_are_given_what_they_take():
  """Each traces with its abstract arguments; frozen models once each."""
  config = small(ppo)
  config.mesh.update(data=2)
  config.ppo.update(batch_size=8, minibatch_size=4, ptx_coef=1.0)
  mesh = sharding.make_mesh(config.mesh.to_dict())
  program, make, counts, steps = aot.program_of(config, mesh, 500)
  with jax.set_mesh(mesh):
    functions = make()
    for name, (fn, arguments) in functions.items():
      jax.eval_shape(fn, *arguments)
    assert list(functions) == list(counts) == ['generate', 'score', 'update']
    assert steps == config.ppo.num_iterations
    # The state is update's; of what stays, score has the frozen models and
    # the value model.
    state, reference, reward_model = program.resident
    shared = lambda name: aot._shared(program.resident, functions[name][1])
    assert shared('update') == aot.bytes_per_device(state)
    assert shared('generate') == aot.bytes_per_device(state.params['policy'])
    assert shared('score') == aot.bytes_per_device(
        (reference, reward_model, state.params['value']))


@pytest.mark.parametrize('topology, message', [
    ('v9:2x2', 'the chips are v4, v5e, v5p, v6e'),
    ('2xv9:2x2', 'the chips are v4, v5e, v5p, v6e'),
    pytest.param('v5e:3x1x7', 'is no slice that libtpu knows',
                 marks=needs_libtpu)])
def test_a_slice_that_is_not_there_is_refused(topology, message):
  with pytest.raises(aot.TopologyError, match=message):
    aot.devices(topology)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'libtpu', None)
  with pytest.raises(aot.TopologyError, match=r'instructrl\[aot\]'):
    aot.devices('v5e:2x2')


def test_the_reason_of_xla_is_cut_to_its_largest_buffers():
  error = '''RESOURCE_EXHAUSTED: XLA:TPU compile permanent error.
Used 22.11G of 15.75G hbm. Exceeded hbm capacity by 6.36G.

  1. Size: 6.00G
     Operator: op_name="jit(generate)/while"
     Shape: bf16[2,16]{1,0}
  2. Size: 3.00G
     Operator: op_name="jit(generate)/dot"
     Shape: bf16[1,16]{1,0}
'''
  assert aot._allocations(error, 1) == (
      'Used 22.11G of 15.75G hbm. Exceeded hbm capacity by 6.36G.; '
      '6.00G bf16[2,16]{1,0} jit(generate)/while')
