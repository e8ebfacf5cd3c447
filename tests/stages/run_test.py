"""The run folder and the loop, with a state of two numbers."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.runtime import errors
from instructrl.runtime import metrics
from instructrl.runtime import origins
from instructrl.runtime import run_folder
from instructrl.runtime import sharding
from instructrl.runtime.checkpointer import Checkpointer
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import run as run_lib
from instructrl.types import TrainState


def counting_state(start=0.0):
  return TrainState(
    step=jnp.int32(0), params={'w': jnp.float32(start)}, opt_state={}
  )


def counting_step(log=None, bad_step=None, stop_after=None):
  """Adds the step to the parameter; w after n steps is n (n - 1) / 2."""

  @jax.jit
  def add(state, step):
    w = state.params['w'] + step
    loss = jnp.where(step == bad_step, jnp.nan, w) if bad_step else w
    return TrainState(step=state.step + 1, params={'w': w}, opt_state={}), {
      'loss/train': loss
    }

  def step_fn(state, step):
    if step == stop_after:
      raise KeyboardInterrupt
    if log is not None:
      log.append(('step', step))
    return add(state, jnp.float32(step))

  return step_fn


@pytest.fixture
def run(configs, workdir, one_device):
  """Opens a run of a number of steps; can be called again to resume."""

  def run(num_steps=7, evaluate=None, step_fn=None, **kwargs):
    config = configs['pretrain']
    with run_lib.Run(config, workdir) as open_run:
      whole = sharding.replicated(open_run.mesh)
      state = open_run.restore(
        counting_state, jax.tree.map(lambda _: whole, counting_state())
      )
      return open_run.loop(
        state,
        step_fn or counting_step(),
        num_steps,
        evaluate=evaluate,
        **kwargs,
      )

  run.workdir = workdir
  run.config = configs['pretrain']
  run.lines = lambda: metrics.read_metrics(workdir)
  run.steps = lambda: Checkpointer(workdir / 'checkpoints').steps()
  return run


def evaluation(state, step):
  assert int(state.step) == step
  return {'eval/w': float(state.params['w'])}


# --- The loop ----------------------------------------------------------------


def test_a_run_writes_its_metrics_evaluations_and_checkpoints(run):
  run.config.checkpoint.update(every=3, keep=10)
  state = run(evaluate=evaluation, eval_every=2)
  assert float(state.params['w']) == 21 and int(state.step) == 7
  lines = run.lines()
  assert [(l['step'], l['loss/train']) for l in lines if 'loss/train' in l] == [
    (1, 0),
    (2, 1),
    (3, 3),
    (4, 6),
    (5, 10),
    (6, 15),
    (7, 21),
  ]
  assert [(l['step'], l['eval/w']) for l in lines if 'eval/w' in l] == [
    (0, 0),
    (2, 1),
    (4, 6),
    (6, 15),
    (7, 21),
  ]
  assert [l['step'] for l in lines] == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 7]
  assert run.steps() == [3, 6, 7]
  timings = metrics.read_metrics(run.workdir / 'timings.jsonl')
  assert [t['step'] for t in timings] == list(range(1, 8))
  assert all(t['seconds'] >= 0 for t in timings)


def test_metrics_are_written_every_so_many_steps_and_at_the_end(run):
  run.config.log.every = 3
  run()
  assert [l['step'] for l in run.lines()] == [3, 6, 7]


def test_the_newest_checkpoints_are_kept(run):
  run.config.checkpoint.update(every=1, keep=2)
  run()
  assert run.steps() == [6, 7]


def test_without_an_interval_only_the_end_is_saved(run):
  run.config.checkpoint.every = 0
  run()
  assert run.steps() == [7]


def test_a_step_is_dispatched_before_the_metrics_of_the_last_are_read(run):
  log = []

  class Metric:
    """What a device array does when it is read."""

    def __init__(self, step):
      self._step = step

    def __float__(self):
      log.append(('read', self._step))
      return 0.0

  inner = counting_step(log)
  step_fn = lambda state, step: (inner(state, step)[0], {'m': Metric(step)})
  run.config.checkpoint.every = 0
  run(num_steps=3, step_fn=step_fn)
  assert [entry for entry in log if entry[0] == 'step' or entry[1] < 2][:5] == [
    ('step', 0),
    ('step', 1),
    ('read', 0),
    ('step', 2),
    ('read', 1),
  ]


# --- Resuming ----------------------------------------------------------------


@pytest.mark.parametrize('stop_after', range(8))
def test_a_run_that_is_stopped_ends_as_one_that_is_not(
  run, stop_after, tmp_path
):
  run.config.checkpoint.update(every=3)
  kwargs = dict(evaluate=evaluation, eval_every=2)
  if stop_after < 7:
    with pytest.raises(KeyboardInterrupt):
      run(step_fn=counting_step(stop_after=stop_after), **kwargs)
  state = run(**kwargs)
  assert float(state.params['w']) == 21
  steps = [l['step'] for l in run.lines()]
  assert steps == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 7]


def test_a_finished_run_does_nothing_when_it_is_started_again(run):
  run()
  before = (run.workdir / 'metrics.jsonl').read_bytes()
  state = run(step_fn=None)
  assert int(state.step) == 7
  assert (run.workdir / 'metrics.jsonl').read_bytes() == before


def test_a_step_after_a_resume_is_the_next_one(run):
  run.config.checkpoint.every = 3
  with pytest.raises(KeyboardInterrupt):
    run(step_fn=counting_step(stop_after=5))
  log = []
  run(step_fn=counting_step(log))
  assert log == [('step', s) for s in (3, 4, 5, 6)]


def test_another_config_in_the_same_folder_is_refused(run):
  run(num_steps=1)
  run.config.train_seed = 1
  with pytest.raises(ValueError, match='train_seed: 0 -> 1'):
    run(num_steps=1)


# --- What is not finite ------------------------------------------------------


@pytest.mark.parametrize(
  'bad_step, every, log_every',
  [(4, 1, 1), (4, 2, 1), (4, 100, 1), (6, 1, 1), (6, 100, 1), (4, 1, 100)],
)
def test_a_nan_stops_the_run_and_no_checkpoint_of_it_is_kept(
  run, bad_step, every, log_every
):
  """Also where the step is not one that is written."""
  run.config.checkpoint.update(every=every, keep=100)
  run.config.log.every = log_every
  name = f'step {bad_step + 1}: loss/train is nan'
  for _ in range(2):  # started again, it stops at the same place
    with pytest.raises(errors.NonFiniteError, match=name):
      run(step_fn=counting_step(bad_step=bad_step))
    done = range(1, bad_step + 1)
    assert [l['step'] for l in run.lines()] == [
      s for s in done if s % log_every == 0
    ]
    assert run.steps() == [s for s in done if s % every == 0]


def test_an_evaluation_that_is_not_finite_stops_the_run(run):
  run.config.checkpoint.every = 1
  evaluate = lambda state, step: {'eval/w': 0.0 if step < 4 else float('inf')}
  with pytest.raises(errors.NonFiniteError, match='step 4: eval/w is inf'):
    run(evaluate=evaluate, eval_every=2)
  assert max(run.steps()) == 3


# --- Configs that make no sense ----------------------------------------------


def save(folder, state, meta):
  with Checkpointer(folder / 'checkpoints') as saver:
    saver.save(1, state, meta)


def test_what_others_load_is_the_moving_average_where_there_is_one(
  configs, workdir, tmp_path, one_device
):
  state = TrainState(
    step=jnp.int32(1),
    params={'policy': {'w': jnp.float32(1)}},
    opt_state={},
    ema_params={'w': jnp.float32(2)},
  )
  with run_lib.Run(configs['pretrain'], workdir) as run:
    run.checkpointer.save(1, state, run.meta(('ema_params',)))
    meta = run.meta(('params', 'policy'))
    save(tmp_path / 'other', state, meta)
  params, meta = inputs.exported(workdir)
  assert float(params['w']) == 2 and meta['export'] == ['ema_params']
  params, _ = inputs.exported(tmp_path / 'other' / 'checkpoints' / '00000001')
  assert float(params['w']) == 1
  config = json.loads((workdir / 'config.json').read_text())
  assert meta['config'] == config


def test_parameters_of_another_tokenizer_are_refused(
  configs, workdir, tmp_path, one_device
):
  config = configs['sft']
  config.inputs.init = '../other'
  save(
    tmp_path / 'other',
    {'params': {'w': jnp.ones(4)}},
    {'tokenizer': 'abc', 'export': ['params']},
  )
  with run_lib.Run(config, workdir) as run:
    wanted = {'w': jax.ShapeDtypeStruct((4,), jnp.float32)}
    with pytest.raises(
      checks.ConfigError,
      match='inputs.init: .*/other was trained with another tokenizer',
    ):
      run.load_params('init', wanted, config.model)


def test_parameters_of_another_model_are_refused(
  configs, workdir, tmp_path, one_device, tok
):
  """Of one that has the same shapes and computes something else."""
  config = configs['sft']
  config.inputs.init = '../other'
  theirs = {
    **config.model.to_dict(),
    'rope_theta': 77.0,
    'dropout': 0.3,
    'attention': 'xla',
  }
  del theirs['qk_norm']  # theirs is from before there was the field
  save(
    tmp_path / 'other',
    {'params': {'w': jnp.ones(4)}},
    {
      'tokenizer': tok.fingerprint,
      'export': ['params'],
      'config': {'model': theirs},
    },
  )
  with run_lib.Run(config, workdir) as run:
    load = functools.partial(
      run.load_params, 'init', {'w': jax.ShapeDtypeStruct((4,), jnp.float32)}
    )
    with pytest.raises(
      checks.ConfigError,
      match=r'inputs.init: .*/other is of '
      r'another model \(rope_theta: 77.0 -> [\d.]+\)',
    ):
      load(config.model)
    config.model.rope_theta = 77.0
    config.model.qk_norm = True
    with pytest.raises(checks.ConfigError, match='qk_norm: False -> True'):
      load(config.model)
    config.model.qk_norm = False
    config.model.frozen_layers = 1  # computes the same
    np.testing.assert_array_equal(load(config.model)['w'], np.ones(4))


def test_an_input_must_be_finished_and_its_newest_checkpoint_whole(
  configs, workdir, tmp_path
):
  config = configs['sft']
  config.inputs.init = '../other'
  save(
    tmp_path / 'other',
    {'params': {'w': jnp.ones(4)}},
    {'tokenizer': 'abc', 'export': ['params']},
  )
  run_folder.write_config(tmp_path / 'other', {'stage': 'pretrain'})
  with pytest.raises(checks.ConfigError, match='other is not finished'):
    inputs.input_path(config, workdir, 'init')
  run_folder.write_done(tmp_path / 'other', {'result': {}})
  path = inputs.input_path(config, workdir, 'init')
  steps = path / 'checkpoints'
  shutil.copytree(steps / '00000001', steps / '00000009')
  damaged = max(
    (p for p in (steps / '00000009').rglob('*') if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  damaged.write_bytes(damaged.read_bytes()[:-1])
  with pytest.raises(errors.CheckpointError, match='00000009.*an older'):
    inputs.exported(path)
  assert inputs.exported(steps / '00000001')[0]['w'].shape == (4,)


def test_a_checkpoint_of_another_run_is_refused(run, tmp_path):
  run(num_steps=2)
  run.config.train_seed += 1
  steps = run.workdir / 'checkpoints'
  (run.workdir / 'config.json').unlink()
  with pytest.raises(
    checks.ConfigError,
    match='checkpoints/00000002 is not a checkpoint of this run .train_seed: ',
  ):
    run(num_steps=3)
  run.config.train_seed -= 1
  (run.workdir / 'config.json').unlink()
  origins.add(run.workdir, 'sources', 'other')
  with pytest.raises(checks.ConfigError, match='made from other inputs'):
    run(num_steps=3)
  (run.workdir / 'inputs.json').unlink()
  # A step has the number of its folder, or the run resumes before it.
  (steps / '00000002').rename(steps / '00000005')
  assert int(run(num_steps=3).step) == 3
  assert run.steps() == [2, 3]


def test_metrics_that_changed_since_the_checkpoint_are_refused(run):
  run(num_steps=2)
  path = run.workdir / 'metrics.jsonl'
  path.write_text(path.read_text().replace('1.0', '2.0'))
  with pytest.raises(ValueError, match='metrics.jsonl is not what the run wro'):
    run(num_steps=3)
  path.unlink()
  with pytest.raises(ValueError, match='now they are 0 bytes'):
    run(num_steps=3)


def test_another_checkpoint_in_a_finished_run_is_refused(run, tmp_path):
  """Such as that of SFT in the folder of `ppo_init`."""
  run(num_steps=2)
  run_folder.write_done(run.workdir, {})
  steps = run.workdir / 'checkpoints'
  inputs.exported(run.workdir)
  (steps / '00000002').rename(tmp_path / 'kept')
  with Checkpointer(steps) as other:
    other.save(2, {'params': {'w': jnp.ones(4)}}, {})
  for path in (run.workdir, steps, steps / '00000002'):
    with pytest.raises(
      errors.CheckpointError, match='not the checkpoint that .* finished with'
    ):
      inputs.exported(path)
  shutil.rmtree(steps / '00000002')
  shutil.copytree(tmp_path / 'kept', steps / '00000002')
  inputs.exported(run.workdir)
  (run.workdir / 'DONE').unlink()  # as an older version left it
  (run.workdir / 'config.json').write_text('{"stage": "sft"}')
  with pytest.raises(errors.CheckpointError, match='it is of another run'):
    inputs.exported(steps / '00000002')


def test_a_checkpoint_of_another_format_is_refused(run, monkeypatch):
  run(num_steps=1)
  monkeypatch.setattr(run_lib, 'FORMAT_VERSION', run_lib.FORMAT_VERSION + 1)
  with pytest.raises(checks.ConfigError, match='has format 1, this code reads'):
    run(num_steps=1)


def test_the_state_is_made_where_it_will_be(configs, workdir):
  """Parameters, moments and the average, on all devices."""
  configs['pretrain'].mesh.update(data=2, fsdp=2, tensor=2)
  with run_lib.Run(configs['pretrain'], workdir) as run:
    tx, _ = build.make_optimizer(configs['pretrain'].optimizer, 9)
    params = {'w': jnp.ones((50, 32)), 'b': jnp.ones(3)}
    shapes = jax.eval_shape(lambda: params)
    layout = build.Layout(
      None,
      shapes,
      sharding.tree_shardings(
        run.mesh,
        {'w': ('vocab', 'embed'), 'b': ('norm',)},
        shapes,
        tuple(configs['pretrain'].rules),
      ),
    )
    state = run.restore(
      lambda params: build.fresh_state(params, tx, ema_params=params),
      build.state_shardings(run.mesh, tx, layout, ema=layout),
      [layout.abstract],
      lambda: [params],
    )
  for leaf in jax.tree.leaves(state):
    if leaf.ndim == 2:
      assert leaf.addressable_shards[0].data.shape == (25, 16)
  assert len(jax.tree.leaves(state)) == 2 * 4 + 3  # and three counts
