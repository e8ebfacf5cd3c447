"""Nothing large is whole on every device: states, caches and activations.

States are those that the trainers make; programs are those that they run,
compiled.
"""

import math

import jax
from jax.sharding import PartitionSpec as P
import pytest

from instructrl.planning import hlo
from instructrl.runtime import sharding
from instructrl.stages import lm
from instructrl.stages import ppo
from instructrl.stages import ppo_program
from instructrl.stages import registry
from instructrl.stages import reward
from instructrl.stages.run import Run

MESHES = [
  dict(data=1, fsdp=8, tensor=1),
  dict(data=1, fsdp=4, tensor=2),
  dict(data=2, fsdp=2, tensor=2),
]
NAMES = [' x '.join(map(str, mesh.values())) for mesh in MESHES]
# Elements from which on an array is large: the smallest matrix of the models
# has so many, the largest bias a quarter.
LARGE = 256


# --- States ------------------------------------------------------------------


class Stopped(Exception):
  """Ends a trainer where its loop would begin."""


@pytest.fixture
def begin(workdir, monkeypatch, nothing_ahead):
  """(stage, config) -> all that the trainer has when its loop begins."""
  found, load = {}, ppo._load

  def loop(run, state, *args, **kwargs):
    found['state'] = state
    raise Stopped

  def loaded(*args):
    state, found['reference'], found['reward_model'] = load(*args)
    return state, found['reference'], found['reward_model']

  monkeypatch.setattr(Run, 'loop', loop)
  monkeypatch.setattr(ppo, '_load', loaded)

  def begin(stage, config):
    with pytest.raises(Stopped):
      registry.load(stage).run(config, workdir)
    return found

  return begin


def models_of(found):
  """The backbones in a state: of parameters, moments, averages, frozen."""
  trees = jax.tree.leaves(
    found, is_leaf=lambda x: isinstance(x, dict) and 'blocks' in x
  )
  return [tree for tree in trees if isinstance(tree, dict)]


# Models in a state: parameters and two moments of each that is trained, the
# average of the policy, and the two frozen ones.
COUNTS = {
  'pretrain': 3,
  'ppo_init': 3,
  'reward': 3,
  'dpo': 3,
  'ppo_ptx': 2 * 3 + 1 + 2,
}


SPECS = dict(
  embed=P('tensor', 'fsdp'),
  q=P(None, 'fsdp', 'tensor'),
  k=P(None, 'fsdp', 'tensor'),
  v=P(None, 'fsdp', 'tensor'),
  out=P(None, 'tensor', None, 'fsdp'),
  up=P(None, 'fsdp', 'tensor'),
  down=P(None, 'tensor', 'fsdp'),
)


@pytest.mark.parametrize(
  'stage, shape',
  [
    pytest.param(
      stage,
      shape,
      id=f'{stage} on {name}',
      marks=()
      if (stage == 'ppo_ptx' or shape == MESHES[-1])
      else pytest.mark.slow,
    )
    for stage in COUNTS
    for shape, name in zip(MESHES, NAMES)
  ],
)
def test_the_state_is_divided_as_the_rules_say(stage, shape, configs, begin):
  config = configs[stage]
  config.mesh.update(shape)
  found = begin(stage, config)
  trees = models_of(found)
  assert len(trees) == COUNTS[stage]
  for tree in trees:
    for name, spec in SPECS.items():
      leaf = tree['blocks'][name]['kernel'] if name != 'embed' else tree[name]
      assert leaf.sharding.is_equivalent_to(
        jax.NamedSharding(leaf.sharding.mesh, spec), leaf.ndim
      ), name
  large = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(found):
    assert isinstance(leaf.sharding, jax.NamedSharding)
    if leaf.size >= LARGE:
      large += 1
      assert leaf.addressable_shards[0].data.size == leaf.size / (
        shape['fsdp'] * shape['tensor']
      ), jax.tree_util.keystr(path)
  assert large == len(SPECS) * COUNTS[stage]  # of one layer


@pytest.mark.parametrize('where', ['reference', 'ema'])
def test_what_waits_lies_on_the_hosts_and_is_divided(where, configs, begin):
  config = configs['ppo_ptx']
  config.mesh.update(MESHES[-1])
  config.offload[where] = True
  found = begin('ppo_ptx', config)
  waits = {'reference': found['reference'], 'ema': found['state'].ema_params}
  for leaf in jax.tree.leaves(waits.pop(where)):
    assert leaf.sharding.memory_kind == sharding.HOST
    assert leaf.size < LARGE or leaf.addressable_shards[0].data.size == (
      leaf.size / 4
    )
  for leaf in jax.tree.leaves(
    (
      waits,
      found['state'].params,
      found['state'].opt_state,
      found['reward_model'],
    )
  ):
    assert leaf.sharding.memory_kind == 'device'


# --- Programs ----------------------------------------------------------------


ROWS, COLUMNS = 16, 32
# Elements of the hidden states of all rows. The caches are as large, the rest
# of the activations larger, and any matrix of the models smaller.
WHOLE = ROWS * COLUMNS * 16


def functions(stage, config, mesh, vocab_size=256):
  """Name -> (jitted function, its abstract arguments) of a stage."""
  config.model.max_len = COLUMNS
  if stage == 'ppo_ptx':
    config.reward_model.max_len = COLUMNS
    config.ppo.update(
      batch_size=ROWS,
      minibatch_size=ROWS,
      prompt_len=COLUMNS // 2,
      response_len=COLUMNS // 2,
      logits_chunk=ROWS,
    )
    return ppo_program.PPOProgram(
      config, mesh, vocab_size=vocab_size, eos_id=0, pad_id=0
    ).functions()
  config.batch_size = ROWS
  if stage == 'reward':
    config.update(prompt_len=8, response_len=6, max_responses=4)
    return reward.RewardProgram(
      config, mesh, vocab_size=vocab_size, num_steps=1
    ).functions()
  config.logits_chunk = ROWS
  return lm.LMProgram(
    config, mesh, vocab_size=vocab_size, num_steps=9
  ).functions(COLUMNS)


@pytest.mark.parametrize(
  'stage, name',
  [
    ('pretrain', 'update'),
    ('reward', 'update'),
    ('ppo_ptx', 'generate'),
    ('ppo_ptx', 'score'),
    pytest.param('ppo_ptx', 'update', marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize(
  'shape',
  [
    *(pytest.param(shape, marks=pytest.mark.slow) for shape in MESHES[:-1]),
    MESHES[-1],
  ],
  ids=NAMES,
)
def test_activations_and_caches_are_divided(stage, name, shape, configs):
  """No device ever has the hidden states of all rows, or anything so large."""
  mesh = sharding.make_mesh(shape)
  with jax.set_mesh(mesh):
    fn, arguments = functions(stage, configs[stage], mesh)[name]
    text = (
      fn.lower(*arguments)
      .compile(compiler_options={'xla_backend_optimization_level': 0})
      .as_text()
    )
  instructions = list(hlo.HloProgram(text).instructions())
  assert not {
    array.dims
    for i in instructions
    for array in i.arrays
    if math.prod(array.dims) >= WHOLE
  }
  if name == 'generate':
    # Keys and values go round in the loops over tokens: two heads of width 8.
    # Prompts that wait have fewer columns, and are in all parts of the mesh.
    carried = {
      array.dims
      for i in instructions
      if i.opcode == 'while'
      for array in i.arrays
      if len(array.dims) > 3 and array.dims[2] == COLUMNS
    }
    parts = shape['data'] * shape['fsdp']
    slots = -(-configs[stage].ppo.rollout_slots // parts)
    assert carried == {(slots, 2 // shape['tensor'], COLUMNS, 8)}
