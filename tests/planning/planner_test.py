"""Plans for slices: counts, fits, and kept figures."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import pytest

from experiments import ppo
from experiments import ppo_ptx
from experiments import reward
from experiments import sft
from instructrl.planning import chips
from instructrl.planning import compiling
from instructrl.planning import planner
from instructrl.runtime import files
from instructrl.runtime import sharding
from tests import slices

SLICE = 'v5e:2x2'


def small_plan(folder, told=None):
  return planner.plan(
    slices.small(sft, batch_size=16),
    SLICE,
    500,
    folder=folder,
    say=[].append if told is None else told,
  )


@pytest.fixture(name='compiled', scope='module')
def _compiled(tmp_path_factory):
  """Returns (plan, folder of kept figures, messages, warnings)."""
  jax.jit(lambda x: x + 1)(jnp.zeros(3))  # JAX has compiled before
  folder, told = tmp_path_factory.mktemp('functions'), []
  with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter('always')
    return small_plan(folder, told.append), folder, told, warned


@slices.needs_libtpu
def test_a_small_step_compiles_for_a_slice(compiled):
  """The FLOPs of the compiled program agree with the counted FLOPs."""
  plan, _, told, warned = compiled
  assert plan.fits and plan.chips == 4
  assert plan.mesh == dict(data=1, fsdp=2, tensor=2)
  (update,) = plan.functions
  # XLA computes the full square of attention, and some products twice.
  assert 1 < update.xla_flops / update.model_flops < 1.6
  assert update.collectives['all-gather'] > 0  # fsdp
  assert update.seconds == max(update.times.values())
  assert (
    plan.mfu == pytest.approx(update.model_flops / (update.seconds * 197e12))
    and 0 < plan.mfu < 1
  )
  assert plan.communication == update.times['ici'] / update.seconds
  assert plan.stays < update.arguments < update.peak < plan.hbm
  assert told[0] == 'sft:micro for v5e:2x2: update compiles'
  # JAX decides once whether it has a cache; these programs are not cached.
  assert not [w for w in warned if 'cache' in str(w.message)]
  assert jax.config.jax_enable_compilation_cache


@slices.needs_libtpu
def test_what_was_compiled_is_not_compiled_again(compiled):
  plan, folder, *_ = compiled
  told = []
  assert small_plan(folder, told.append) == plan
  assert told == ['sft:micro for v5e:2x2: update was compiled before']
  assert len(list(folder.iterdir())) == 1


@slices.needs_libtpu
def test_what_xla_found_no_room_for_is_kept_as_well(compiled, tmp_path):
  (path,) = compiled[1].iterdir()
  files.atomic_write(
    tmp_path / path.name, '{"problem": "Used 22G of 15.75G hbm."}'
  )
  assert small_plan(tmp_path).problem == (
    'update does not fit: Used 22G of 15.75G hbm.'
  )


@slices.needs_libtpu
def test_another_program_slice_or_compiler_is_compiled_anew(monkeypatch):
  def key(batch_size=16, topology=SLICE):
    found, _ = chips.devices(SLICE)
    config = slices.small(sft, batch_size=batch_size)
    mesh = sharding.make_mesh(config.mesh.to_dict(), found)
    _, make, *_ = planner.program_of(config, mesh, 500)
    with jax.set_mesh(mesh):
      ((fn, arguments),) = make().values()
      return compiling.key(fn.lower(*arguments), topology)

  first = key()
  assert key() == first
  others = [key(batch_size=8), key(topology='v6e:2x2')]
  monkeypatch.setattr(compiling.importlib.metadata, 'version', lambda name: '0')
  others.append(key())
  assert len({first, *others}) == 4


@slices.needs_libtpu
@pytest.mark.parametrize(
  'hbm, problem',
  [(2**20, 'what stays on a chip takes'), (3 * 2**20, 'update needs')],
)
def test_what_does_not_fit_says_what_is_large(
  hbm, problem, compiled, monkeypatch
):
  monkeypatch.setitem(
    chips.CHIPS, 'v5e', dataclasses.replace(chips.CHIPS['v5e'], hbm=hbm)
  )
  told = []
  plan = small_plan(compiled[1], told.append)
  assert not plan.fits
  assert plan.problem.startswith(problem)
  assert "['blocks']['up']['kernel'] float32[2, 128, 512]" in plan.problem
  assert plan.peak > plan.hbm
  # Nothing is compiled if the resident arrays do not fit.
  assert bool(told) == bool(plan.functions) == (problem == 'update needs')
  assert planner.to_json(plan)['fits'] is False


@slices.needs_libtpu
@pytest.mark.slow
def test_a_small_step_compiles_for_two_slices():
  """Gradients are summed over the slices."""
  config = slices.small(sft, batch_size=16)
  config.mesh.update(data=2)
  plan = planner.plan(config, '2xv5e:2x2', vocab_size=500)
  assert plan.fits and plan.chips == 8
  assert plan.mesh == dict(data=2, fsdp=2, tensor=2)
  assert plan.functions[0].collectives['all-reduce'] > 0


@slices.needs_libtpu
@pytest.mark.slow
def test_what_waits_on_the_hosts_takes_no_memory_of_the_chips():
  """Only scoring, which copies the reference to the chips, needs memory."""

  def memory(offload):
    config = slices.small(ppo)
    config.ppo.update(batch_size=8, minibatch_size=4)
    config.offload.update(reference=offload, ema=offload)
    plan = planner.plan(config, 'v5e:2x2', vocab_size=500)
    return {f.name: (f.arguments, f.peak) for f in plan.functions}

  found, chips_only = memory(False), memory(True)
  mesh = sharding.make_mesh(dict(fsdp=2, tensor=2), jax.devices()[:4])
  program, *_ = planner.program_of(slices.small(ppo), mesh, 500)
  model = planner.bytes_per_device(program.layouts['policy'].abstract)
  saved = lambda name, i: found[name][i] - chips_only[name][i]
  assert saved('generate', 1) > 1.9 * model
  assert saved('score', 0) == saved('update', 0) >= model  # tiles are padded
  assert saved('update', 1) > 1.5 * model


def test_arrays_are_counted_per_device():
  mesh = jax.make_mesh(
    (2, 4), ('a', 'b'), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  make = lambda shape, dtype, *spec: jax.ShapeDtypeStruct(
    shape, dtype, sharding=jax.sharding.NamedSharding(mesh, P(*spec))
  )
  tree = {
    'x': make((8, 12), jnp.float32, 'a', 'b'),
    'y': make((6,), jnp.bfloat16),
  }
  waits = jax.ShapeDtypeStruct(
    (9,),
    jnp.float32,
    sharding=jax.NamedSharding(mesh, P(), memory_kind=sharding.HOST),
  )
  assert planner.bytes_per_device({**tree, 'on the hosts': waits}) == (
    planner.bytes_per_device(tree)
  )
  assert planner.bytes_per_device(tree) == 4 * 3 * 4 + 6 * 2
  assert planner.largest(tree, 1) == "0.00 GiB ['x'] float32[8, 12]"


def test_the_functions_of_ppo_are_given_what_they_take():
  """Each function traces with its abstract arguments."""
  config = slices.small(ppo)
  config.mesh.update(data=2)
  config.ppo.update(batch_size=8, minibatch_size=4, ptx_coef=1.0)
  mesh = sharding.make_mesh(config.mesh.to_dict())
  program, make, counts, steps = planner.program_of(config, mesh, 500)
  with jax.set_mesh(mesh):
    functions = make()
    for fn, arguments in functions.values():
      jax.eval_shape(fn, *arguments)
    assert list(functions) == list(counts) == ['generate', 'score', 'update']
    assert steps == config.ppo.num_iterations
    # All of the state is in update's arguments. Score's have the frozen models,
    # the value model and the KL coefficient.
    state, reference, reward_models = program.resident
    shared = lambda name: planner._shared(program.resident, functions[name][1])
    assert shared('update') == planner.bytes_per_device(state)
    assert shared('generate') == planner.bytes_per_device(
      state.params['policy']
    )
    assert shared('score') == planner.bytes_per_device(
      (reference, reward_models, state.params['value'], state.kl_coef)
    )


def test_ppo_of_another_seed_has_the_same_programs():
  """So its compiled functions are found in the cache."""
  texts = []
  for seed in (0, 1):
    config = slices.small(ppo)
    config.train_seed = seed
    config.mesh.update(data=2)
    mesh = sharding.make_mesh(config.mesh.to_dict())
    _, make, *_ = planner.program_of(config, mesh, 500)
    with jax.set_mesh(mesh):
      texts.append([fn.lower(*args).as_text() for fn, args in make().values()])
  assert texts[0] == texts[1]


def test_a_function_as_reward_splits_the_scoring():
  config = slices.small(ppo)
  config.ppo.update(batch_size=8, minibatch_size=4)
  config.rewards.length.kind = 'function'
  config.rewards.length.function = 'module:name'
  mesh = sharding.make_mesh(config.mesh.to_dict(), jax.devices()[:4])
  program, make, counts, _ = planner.program_of(config, mesh, 500)
  with jax.set_mesh(mesh):
    names = list(make())
  assert names == list(counts) == ['generate', 'passes', 'finish', 'update']
  assert counts['passes'] > counts['generate'] and counts['finish'] == 0


@pytest.mark.parametrize(
  'module, devices, tensor',
  [
    (ppo_ptx, 64, 1),
    (ppo_ptx, 128, 2),
    (ppo_ptx, 512, 8),
    (sft, 32, 1),
    (sft, 64, 2),
    (reward, 128, 2),
  ],
)
def test_tensor_grows_where_a_batch_has_too_few_rows(module, devices, tensor):
  """PPO's minibatch and the reward model have 64 rows, SFT has 32."""
  config = module.get_config('1.3b')
  found, given = planner.on_slice(config, devices)
  assert found.mesh.tensor == tensor
  assert given == ({} if tensor == 1 else {'mesh.tensor': tensor})
  assert config.mesh.tensor == 1  # the given config is unchanged


def test_a_mesh_that_is_given_whole_stays():
  config = sft.get_config('1.3b')
  config.mesh.fsdp = 64
  assert planner.on_slice(config, 64) == (config, {})
