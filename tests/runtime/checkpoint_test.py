"""Tests of checkpoints: what comes back, and what damage does."""

import functools
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrl import types
from instructrl.runtime import checkpoint
from instructrl.runtime import errors
from instructrl.runtime import files
from instructrl.runtime.checkpointer import Checkpointer

P = jax.sharding.PartitionSpec
META = {'config': {'seed': 1, 'sizes': [1, 2]}, 'tokenizer': 'abc'}


def make_state(seed=0, *, ema=True, width=8):
  """A state with all that trainers use: chains, masks, bf16, scalars."""
  key = jax.random.key(seed)
  params = {
    'policy': {
      'embed': jax.random.normal(key, (16, width)),
      'bias': jnp.full((width,), seed, jnp.bfloat16),
    },
    'value': {'head': jax.random.normal(key, (width, 1))},
  }
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.masked(
      optax.add_decayed_weights(0.1), {'policy': True, 'value': False}
    ),
    optax.inject_hyperparams(optax.adam)(optax.linear_schedule(0.0, 1.0, 10)),
  )
  return types.TrainState(
    step=jnp.int32(seed),
    params=params,
    opt_state={'policy': tx.init(params), 'value': optax.EmptyState()},
    ema_params=jax.tree.map(lambda x: x * 2, params) if ema else None,
    kl_coef=jnp.float32(0.2) if ema else None,
  )


def assert_same(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save_steps(directory, *steps, **kwargs):
  with Checkpointer(directory, **kwargs) as checkpointer:
    for step in steps:
      checkpointer.save(step, make_state(step), {**META, 'at': step})


@pytest.mark.parametrize('ema', [True, False])
def test_what_was_saved_comes_back_bit_for_bit(tmp_path, ema):
  state = make_state(3, ema=ema)
  with Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.latest() is None
    checkpointer.save(3, state, META)
    restored, meta = checkpointer.restore(checkpoint.abstract(state))
  assert_same(restored, state)
  assert meta == META
  assert isinstance(restored, types.TrainState)
  with Checkpointer(tmp_path) as checkpointer:
    abstract = jax.eval_shape(lambda: make_state(3, ema=ema))
    restored, _ = checkpointer.restore(abstract)  # without shardings
  assert_same(restored, state)


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
  update = jax.jit(
    lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0
  )
  state = update({f'w{i}': jnp.zeros((300, 300)) for i in range(8)})
  with Checkpointer(tmp_path, keep_latest=9) as checkpointer:
    for step in range(1, 5):
      checkpointer.save(step, state, {})
      for _ in range(20):
        state = update(state)
    abstract = checkpoint.abstract(state)
    for step in range(1, 5):
      restored, _ = checkpointer.restore(abstract, step)
      for leaf in jax.tree.leaves(restored):
        np.testing.assert_array_equal(leaf, 1 + 20 * (step - 1))


def test_restoring_on_another_mesh(tmp_path):
  if jax.device_count() < 8:
    pytest.skip('needs 8 devices')

  def shardings(shape, w, b):
    mesh = jax.make_mesh(
      shape, ('data', 'fsdp'), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    return {
      'w': jax.sharding.NamedSharding(mesh, w),
      'b': jax.sharding.NamedSharding(mesh, b),
    }

  value = {
    'w': np.arange(128, dtype=np.float32).reshape(16, 8),
    'b': np.arange(8, dtype=np.float32),
  }
  first = shardings((2, 4), P('data', 'fsdp'), P())
  alone = jax.sharding.SingleDeviceSharding(jax.devices()[3])
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, jax.device_put(value, first), {})
    for other in (
      shardings((8, 1), P('fsdp', 'data'), P('data')),
      shardings((4, 2), P(('data', 'fsdp')), P('fsdp')),
      {name: s.with_memory_kind('pinned_host') for name, s in first.items()},
      {'w': alone, 'b': alone},
    ):
      abstract = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=sharding
        ),
        value,
        other,
      )
      restored, _ = checkpointer.restore(abstract)
      for name in value:
        np.testing.assert_array_equal(restored[name], value[name])
        assert restored[name].sharding == other[name]


@pytest.mark.parametrize(
  'change, message',
  [
    (
      lambda p: {**p, 'w': p['w'].astype(jnp.bfloat16)},
      r'params/w is float32\[4, 2\], not bfloat16\[4, 2\]',
    ),
    (
      lambda p: {**p, 'w': p['w'].T},
      r'params/w is float32\[4, 2\], not float32\[2, 4\]',
    ),
    (lambda p: {**p, 'new': p['w']}, 'params/new is not in the checkpoint'),
    (lambda p: {'w': p['w']}, 'params/b is in the checkpoint only'),
  ],
)
def test_a_state_that_does_not_fit_is_refused_by_name(
  tmp_path, change, message
):
  params = {'w': jnp.ones((4, 2)), 'b': jnp.ones(2)}
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, {'params': params}, {})
    with pytest.raises(errors.CheckpointError, match=message):
      checkpointer.restore(checkpoint.abstract({'params': change(params)}))
    with pytest.raises(errors.CheckpointError, match=message):
      checkpoint.restore_params(
        tmp_path, ('params',), checkpoint.abstract({**change(params)})
      )


def test_leaves_that_cannot_be_saved_are_refused_by_name(tmp_path):
  with Checkpointer(tmp_path) as checkpointer:
    for leaf, message in (
      (np.int64(1), 'a/b is int64, not a jax.Array'),
      (3, 'a/b is int, not a jax.Array'),
      (jax.random.key(0), 'save the seed, not the key'),
    ):
      with pytest.raises(ValueError, match=message):
        checkpointer.save(1, {'a': {'b': leaf}}, {})
    with pytest.raises(ValueError, match="has a '/' in it"):
      checkpointer.save(1, {'a/b': jnp.ones(1)}, {})
    with pytest.raises((TypeError, ValueError)):
      checkpointer.save(1, {'a': jnp.ones(1)}, {'no JSON': {1, 2}})
    assert checkpointer.latest() is None


def test_which_steps_are_kept(tmp_path):
  save_steps(
    tmp_path, *range(1, 8), keep_latest=2, keep_steps=lambda step: step % 3 == 0
  )
  with Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.steps() == [3, 6, 7]
    assert checkpointer.latest() == 7
    _, meta = checkpointer.restore(checkpoint.abstract(make_state()), 3)
    assert meta['at'] == 3
  assert sorted(os.listdir(tmp_path)) == ['00000003', '00000006', '00000007']


def test_a_temporary_step_is_gone_after_the_next(tmp_path):
  """And takes no other step's place."""
  with Checkpointer(tmp_path, keep_latest=2) as checkpointer:
    for step in (1, 2):
      checkpointer.save(step, make_state(step), {})
    for step in (3, 4):
      checkpointer.save(step, make_state(step), {'at': step}, temporary=True)
    assert checkpointer.latest() == 4
    assert checkpointer.steps() == [1, 2, 4]
    restored, meta = checkpointer.restore(checkpoint.abstract(make_state()))
    assert_same(restored, make_state(4))
    assert meta == {'at': 4}
    checkpointer.save(5, make_state(5), {})
    checkpointer.wait()
    assert checkpointer.steps() == [2, 5]


def test_a_step_is_written_once(tmp_path):
  state = make_state(1)
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, state, {'at': 'first'})
    checkpointer.save(1, state, {'at': 'again'})  # the end of a run
    checkpointer.wait()
  with Checkpointer(tmp_path) as checkpointer:
    with pytest.raises(errors.CheckpointError, match='is there already'):
      checkpointer.save(1, make_state(2), {})
    restored, meta = checkpointer.restore(checkpoint.abstract(state))
    assert_same(restored, state)
    assert meta == {'at': 'first'}
    checkpointer.save(1, state, {'at': 'again'})
  assert os.listdir(tmp_path) == ['00000001']


def test_one_flipped_bit_in_any_file_is_noticed(tmp_path, caplog):
  save_steps(tmp_path, 1, 2)
  rng = random.Random(0)
  files = [
    path
    for path in (tmp_path / '00000002').rglob('*')
    if path.is_file() and path.stat().st_size
  ]
  assert len(files) > 6
  for path in files:
    content = path.read_bytes()
    for position in {0, len(content) // 2, len(content) - 1}:
      changed = bytearray(content)
      changed[position] ^= 1 << rng.randrange(8)
      path.write_bytes(changed)
      caplog.clear()
      with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest() == 1, path
        with pytest.raises(errors.CheckpointError, match='00000002'):
          checkpointer.restore(checkpoint.abstract(make_state()), 2)
      assert len(caplog.records) == 1
      assert '00000002 is skipped' in caplog.text
      with pytest.raises(errors.CheckpointError, match='00000002'):
        checkpoint.restore_params(tmp_path / '00000002')
      _, meta = checkpoint.restore_params(tmp_path)
      assert meta['at'] == 1
    path.write_bytes(content)
  with Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.latest() == 2


def test_missing_files_and_empty_step_folders_are_skipped(tmp_path):
  save_steps(tmp_path, 1, 2, 3, keep_latest=3)
  next((tmp_path / '00000003').rglob('_METADATA')).unlink()
  (tmp_path / '00000002' / 'manifest.json').unlink()
  (tmp_path / '00000009').mkdir()
  (tmp_path / 'notes.txt').touch()
  for name in ('4', '\u0664', '\u00b2'):  # digits, but no name of a step
    shutil.copytree(tmp_path / '00000001', tmp_path / name)
  with Checkpointer(tmp_path) as checkpointer:
    state, meta = checkpointer.restore(checkpoint.abstract(make_state()))
    checkpointer.save(5, make_state(5), {})
  assert meta['at'] == 1
  assert_same(state, make_state(1))


def test_what_is_damaged_is_moved_aside_by_the_next_save(tmp_path):
  save_steps(tmp_path, 1, 2)
  data = next((tmp_path / '00000002' / 'state').rglob('d/*'))
  data.write_bytes(data.read_bytes()[:-1])
  (tmp_path / 'incomplete.00000003').mkdir()
  (tmp_path / 'trash.00000000').mkdir()
  with Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.latest() == 1
    assert (tmp_path / '00000002').exists()  # reading changes nothing
    checkpointer.restore(checkpoint.abstract(make_state()))
    checkpointer.save(2, make_state(2), {})
    restored, _ = checkpointer.restore(checkpoint.abstract(make_state()))
  assert_same(restored, make_state(2))
  assert sorted(os.listdir(tmp_path)) == [
    '00000001',
    '00000002',
    'damaged.00000002',
  ]


def test_a_full_disk_is_told_and_costs_no_earlier_step(tmp_path):
  state = {'w': jax.random.normal(jax.random.key(0), (1 << 16,))}
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, state, {})
    checkpointer.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
      with pytest.raises(
        errors.CheckpointError, match='checkpoint of step 2 could not'
      ):
        checkpointer.save(2, state, {})
        checkpointer.wait()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpointer.latest() == 1
    assert_same(checkpointer.restore(checkpoint.abstract(state))[0], state)
    checkpointer.save(2, state, {})  # there is room again
    assert checkpointer.latest() == 2
  assert sorted(os.listdir(tmp_path)) == ['00000001', '00000002']


@pytest.mark.parametrize('name', ['meta.json', 'manifest.json'])
def test_a_disk_full_at_the_last_moment(tmp_path, monkeypatch, caplog, name):
  save_steps(tmp_path, 1)
  write = files.atomic_write

  def full(path, text):
    if pathlib.Path(path).name == name:
      raise OSError(28, 'No space left on device')
    write(path, text)

  monkeypatch.setattr(files, 'atomic_write', full)
  with pytest.raises(errors.CheckpointError, match='No space left'):
    with Checkpointer(tmp_path) as checkpointer:
      checkpointer.save(2, make_state(2), {})
  assert Checkpointer(tmp_path).latest() == 1
  # What stopped the run is not hidden by what happened afterwards.
  with pytest.raises(ArithmeticError, match='loss is nan'):
    with Checkpointer(tmp_path) as checkpointer:
      checkpointer.save(2, make_state(2), {})
      raise ArithmeticError('loss is nan')
  assert 'No space left' in caplog.text


def test_restoring_weights_alone(tmp_path):
  save_steps(tmp_path / 'run' / 'checkpoints', 1, 2)
  state = make_state(2)
  for path in ('run', 'run/checkpoints', 'run/checkpoints/00000002'):
    params, meta = checkpoint.restore_params(tmp_path / path)
    assert_same(params, state.ema_params)
    assert meta['at'] == 2
  (tmp_path / 'run/checkpoints/00000001').rename(tmp_path / 'best')
  params, _ = checkpoint.restore_params(tmp_path / 'best', ('params', 'value'))
  assert_same(params, make_state(1).params['value'])
  params, _ = checkpoint.restore_params(
    tmp_path / 'best', ('params',), checkpoint.abstract(make_state().params)
  )
  assert_same(params, make_state(1).params)
  with pytest.raises(
    errors.CheckpointError, match=r"no 'weights', only \['ema_params"
  ):
    checkpoint.restore_params(tmp_path / 'run', ('weights',))
  with pytest.raises(errors.CheckpointError, match='does not exist'):
    checkpoint.restore_params(tmp_path / 'nothing')


@pytest.mark.parametrize('name', ['model.gguf', 'folder'])
def test_weights_of_another_tool_are_told_how_to_be_brought(tmp_path, name):
  path = tmp_path / name
  if path.suffix:
    path.touch()
  else:
    path.mkdir()
    (path / 'model.safetensors').touch()
  with pytest.raises(
    errors.CheckpointError,
    match=f'of another tool: .*instructrl.convert import {path} FOLDER',
  ):
    checkpoint.find(path)


def test_another_environment_is_told(tmp_path, monkeypatch, caplog):
  save_steps(tmp_path, 1)
  here = checkpoint.environment()
  assert checkpoint.read_meta(tmp_path)['environment'] == here
  assert here['jax'] == jax.__version__ and here['num_cores'] >= 1
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.restore(checkpoint.abstract(make_state()))
    assert 'num_cores' not in caplog.text
    monkeypatch.setattr(
      checkpoint, 'environment', lambda: {**here, 'num_cores': 96}
    )
    checkpointer.restore(checkpoint.abstract(make_state()))
  assert f'num_cores {here["num_cores"]} -> 96' in caplog.text


def test_another_format_version_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint, 'FORMAT_VERSION', 7)
  save_steps(tmp_path, 1)
  monkeypatch.undo()
  with pytest.raises(errors.CheckpointError, match='format_version 7'):
    checkpoint.restore_params(tmp_path)


def test_arguments_that_make_no_sense(tmp_path):
  with pytest.raises(ValueError, match='keep_latest must be at least 1'):
    Checkpointer(tmp_path, keep_latest=0)
  with pytest.raises(ValueError, match='mount the bucket'):
    Checkpointer('gs://bucket/run')
  with pytest.raises(errors.CheckpointError, match='no checkpoint'):
    Checkpointer(tmp_path).restore(checkpoint.abstract(make_state()))
  with pytest.raises(errors.CheckpointError, match='no such folder'):
    Checkpointer(tmp_path).restore({}, 5)


def test_saving_is_quick(tmp_path):
  state = {
    f'layer{i}': jax.random.normal(jax.random.key(i), (3, 1 << 18))
    for i in range(4)
  }  # 1M parameters with two moments: 12 MiB
  with Checkpointer(tmp_path) as checkpointer:
    blocked, whole = [], []
    for step in range(3):
      start = time.perf_counter()
      checkpointer.save(step, state, {})
      blocked.append(time.perf_counter() - start)
      checkpointer.wait()
      whole.append(time.perf_counter() - start)
  # About 0.03 and 0.3 s on 2 cores: the bounds are for a busy machine.
  assert min(blocked) < 0.5 and min(whole) < 2.0, (blocked, whole)


def save_leaves(directory, params, meta=None):
  with Checkpointer(directory) as checkpointer:
    checkpointer.save_leaves(
      0,
      {'params': jax.eval_shape(lambda: params)},
      lambda name: functools.reduce(
        lambda tree, key: tree[key], name.split('/'), {'params': params}
      ),
      meta or META,
    )


def test_a_step_saved_leaf_by_leaf_is_read_like_any_other(tmp_path):
  params = make_state(2).params
  save_leaves(tmp_path / 'run' / 'checkpoints', params)
  with Checkpointer(tmp_path / 'run' / 'checkpoints') as steps:
    assert steps.latest() == 0
    state, meta = steps.restore(checkpoint.abstract({'params': params}))
    assert_same(state, {'params': params})
    assert meta == META
    with pytest.raises(errors.CheckpointError, match='is there already'):
      Checkpointer(tmp_path / 'run' / 'checkpoints').save_leaves(
        0, {'params': jax.eval_shape(lambda: params)}, None, META
      )
  restored, meta = checkpoint.restore_params(tmp_path / 'run', ('params',))
  assert_same(restored, params)
  restored, _ = checkpoint.restore_params(
    tmp_path / 'run',
    ('params', 'policy'),
    cast=True,
    abstract=jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params['policy']
    ),
  )
  assert_same(
    restored, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params['policy'])
  )
  with pytest.raises(
    errors.CheckpointError, match='policy/bias is bfloat16.*not float32'
  ):
    checkpoint.restore_params(
      tmp_path / 'run',
      ('params', 'policy'),
      jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), params['policy']
      ),
    )


def test_leaves_go_to_the_shards_of_any_mesh(tmp_path):
  mesh = lambda n: jax.make_mesh(
    (n,),
    ('fsdp',),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:n],
  )
  over = lambda n: jax.sharding.NamedSharding(mesh(n), P(None, 'fsdp'))
  value = np.arange(256, dtype=np.float32).reshape(16, 16)
  save_leaves(
    tmp_path, {'w': jax.device_put(value, over(8)), 'deep': {'b': jnp.ones(3)}}
  )
  abstract = {
    'w': jax.ShapeDtypeStruct((16, 16), np.float32, sharding=over(4)),
    'deep': {'b': jax.ShapeDtypeStruct((3,), np.float32)},
  }
  restored, _ = checkpoint.restore_params(tmp_path, ('params',), abstract)
  np.testing.assert_array_equal(restored['w'], value)
  assert restored['w'].sharding == over(4)


def test_saving_leaves_that_fails_leaves_no_step(tmp_path):
  abstract = {'params': jax.eval_shape(lambda: make_state().params)}

  def make(name):
    if name != 'params/policy/bias':
      raise ArithmeticError(name)
    return make_state().params['policy']['bias']

  with Checkpointer(tmp_path) as checkpointer:
    with pytest.raises(ArithmeticError, match='params/policy/embed'):
      checkpointer.save_leaves(0, abstract, make, META)
    assert checkpointer.latest() is None
    with pytest.raises(ValueError, match=r'policy/bias is float32\[3\], not'):
      checkpointer.save_leaves(0, abstract, lambda name: jnp.ones(3), META)
    assert checkpointer.latest() is None
  with pytest.raises(errors.CheckpointError, match='no checkpoint that'):
    checkpoint.restore_params(tmp_path, ('params',))
  save_leaves(tmp_path, make_state(1).params)
  assert os.listdir(tmp_path) == ['00000000']


@pytest.mark.parametrize('in_leaves', [True, False])
def test_lazy_params_reads_one_array_at_a_time(tmp_path, in_leaves):
  state = make_state(2)
  if in_leaves:
    save_leaves(tmp_path, state.params)
  else:
    save_steps(tmp_path, 2)
  names, read, meta = checkpoint.lazy_params(
    tmp_path, lambda meta: ('params', 'policy')
  )
  assert names == {'embed': [[16, 8], 'float32'], 'bias': [[8], 'bfloat16']}
  assert meta['tokenizer'] == 'abc'
  for name in names:
    assert_same(read(name), state.params['policy'][name])
  with pytest.raises(errors.CheckpointError, match="no 'nothing'"):
    checkpoint.lazy_params(tmp_path, ('nothing',))


SAVE_FOREVER = """
import sys
from instructrl.runtime import checkpoint
from instructrl.runtime.checkpointer import Checkpointer
import jax.numpy as jnp
with Checkpointer(sys.argv[1]) as checkpointer:
  state = {f'w{i}': jnp.zeros((200, 200)) for i in range(6)}
  abstract = checkpoint.abstract(state)
  step = 0
  if checkpointer.latest() is not None:
    state, meta = checkpointer.restore(abstract)
    step = meta['step']
    assert all((w == step).all() for w in state.values()), step
  print('at', step, flush=True)
  while True:
    step += 1
    state = {name: w + 1 for name, w in state.items()}
    checkpointer.save(step, state, {'step': step})
    checkpointer.wait()
    print('saved', step, flush=True)
"""


def save_and_kill(directory, seconds):
  """Saves until it is killed; returns the first and the last step."""
  process = subprocess.Popen(
    [sys.executable, '-c', SAVE_FOREVER, directory],
    stdout=subprocess.PIPE,
    text=True,
  )
  first = int(process.stdout.readline().split()[1])
  time.sleep(seconds)
  process.send_signal(signal.SIGKILL)
  lines = [
    line
    for line in process.communicate()[0].splitlines()
    if line.startswith('saved ')
  ]
  assert process.returncode == -signal.SIGKILL
  return first, int(lines[-1].split()[1]) if lines else first


@pytest.mark.parametrize('kills', [2, pytest.param(15, marks=pytest.mark.slow)])
def test_kills_cost_no_saved_step(tmp_path, kills):
  rng = random.Random(0)
  saved, sizes = 0, []
  for _ in range(kills):
    # What was said to be saved is there, or the one that was under way is.
    first, last = save_and_kill(tmp_path, rng.uniform(0.1, 1.0))
    assert first in (saved, saved + 1)
    saved = last
    sizes.append(len(os.listdir(tmp_path)))
  with Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.latest() in (saved, saved + 1)
  assert saved > 0
  assert max(sizes) <= 5  # 2 kept, 1 new, 1 unfinished, 1 half removed
  assert not list(tmp_path.glob('damaged.*'))
  about = checkpoint.read_meta(tmp_path)
  assert json.dumps(about['meta']) == json.dumps({'step': about['step']})


def test_a_run_that_stops_by_an_exception_keeps_the_save_under_way(tmp_path):
  code = (
    'import sys\n'
    'from instructrl.runtime.checkpointer import Checkpointer\n'
    'import jax.numpy as jnp\n'
    'with Checkpointer(sys.argv[1]) as checkpointer:\n'
    '  checkpointer.save(1, {"w": jnp.ones((300, 300))}, {})\n'
    '  raise ArithmeticError("loss is nan")\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, tmp_path],
    check=False,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert done.stderr.endswith('ArithmeticError: loss is nan\n')
  checkpointer = Checkpointer(tmp_path)
  assert checkpointer.latest() == 1
  with pytest.raises(RuntimeError, match='save inside `with'):
    checkpointer.save(2, {'w': jnp.ones(1)}, {})


TWO_PROCESSES = """
import sys
import jax
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from instructrl.runtime import checkpoint
from instructrl.runtime.checkpointer import Checkpointer
import jax.numpy as jnp
import numpy as np
mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(
    jax.sharding.AxisType.Auto,))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
make = lambda step: jax.jit(lambda: {'w': jnp.arange(64.) + step},
                            out_shardings={'w': sharding})()
with Checkpointer(sys.argv[3], keep_latest=2) as checkpointer:
  assert checkpointer.latest() is None
  for step in range(3):
    checkpointer.save(step, make(step), {'at': step})
  assert checkpointer.latest() == 2
  state, meta = checkpointer.restore(checkpoint.abstract(make(0)))
  assert meta == {'at': 2}
  for shard in state['w'].addressable_shards:
    np.testing.assert_array_equal(
        shard.data, np.arange(64.)[shard.index] + 2)
leaves = {'a': {'w': jax.ShapeDtypeStruct((64,), 'float32', sharding=sharding)}}
with Checkpointer(sys.argv[3] + '/leaves') as checkpointer:
  checkpointer.save_leaves(0, leaves, lambda name: make(7)['w'], {})
  assert checkpointer.latest() == 0
restored, _ = checkpoint.restore_params(
    sys.argv[3] + '/leaves', ('a',), leaves['a'])
for shard in restored['w'].addressable_shards:
  np.testing.assert_array_equal(shard.data, np.arange(64.)[shard.index] + 7)
"""


@pytest.mark.slow
def test_two_processes_save_one_checkpoint(tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', TWO_PROCESSES, address, str(i), tmp_path],
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  for process in processes:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
  assert sorted(os.listdir(tmp_path)) == ['00000001', '00000002', 'leaves']
