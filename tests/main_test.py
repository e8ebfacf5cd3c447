"""A stage runs once, and only from inputs that have not changed."""

import os
import signal
import subprocess
import sys
import types

import ml_collections
import pytest

from experiments import study as study_config
from instructrl.orchestration import study
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.stages import checks
from instructrl.stages import registry
from instructrl.stages import runner


@pytest.fixture(name='ran')
def _ran(monkeypatch):
  """Replaces three stages by ones that only log their name."""
  ran = []

  def stage(config, workdir, label=''):
    del label
    run_folder.write_config(workdir, config.to_dict())
    ran.append(config.stage)
    return {'n': len(ran)}

  module = types.SimpleNamespace(validate=lambda config: None, run=stage)
  monkeypatch.setattr(registry, 'load', lambda name: module)
  return ran


def make(folder, name, inputs=(), **fields):
  config = ml_collections.ConfigDict(
    {'stage': name, 'inputs': {i: f'../{i}' for i in inputs}, **fields}
  )
  return runner.run_stage(config, folder / name)


def make_all(folder, **fields):
  make(folder, 'lab')
  make(folder, 'ppo', ['lab'], **fields)
  make(folder, 'report', ['ppo'])


def test_a_finished_stage_is_not_run_again_and_says_so(tmp_path, ran, capsys):
  first = make(tmp_path, 'lab')
  assert make(tmp_path, 'lab') == first
  assert ran == ['lab']
  assert capsys.readouterr().out == 'lab: finished before\n'


def test_what_was_made_from_an_older_input_is_not_taken(tmp_path, ran):
  make_all(tmp_path, kl_coef=0.02)
  make_all(tmp_path, kl_coef=0.02)
  assert ran == ['lab', 'ppo', 'report']
  with pytest.raises(
    ValueError,
    match=r'ppo was made with another configurat'
    r'ion \(kl_coef: 0.02 -> 0.05\)',
  ):
    make_all(tmp_path, kl_coef=0.05)
  for path in (tmp_path / 'ppo').iterdir():
    path.unlink()
  with pytest.raises(ValueError, match='report was made from another ppo than'):
    make_all(tmp_path, kl_coef=0.05)
  assert ran == ['lab', 'ppo', 'report', 'ppo']


def test_a_stage_that_could_not_begin_leaves_room_for_another_config(
  tmp_path, ran, monkeypatch
):
  """A stage with a checkpoint keeps its folder."""
  module = registry.load('lab')
  good = module.run

  def refuse(config, workdir, label=''):
    good(config, workdir, label)
    raise checks.ConfigError('inputs.init is of another model')

  monkeypatch.setattr(module, 'run', refuse)
  with pytest.raises(checks.ConfigError):
    make(tmp_path, 'lab', size='tiny')
  monkeypatch.setattr(module, 'run', good)
  make(tmp_path, 'lab', size='micro')
  monkeypatch.setattr(module, 'run', refuse)
  (tmp_path / 'ppo' / 'checkpoints' / '00000001').mkdir(parents=True)
  with pytest.raises(checks.ConfigError):
    make(tmp_path, 'ppo', size='tiny')
  with pytest.raises(ValueError, match='size: "tiny" -> "micro"'):
    make(tmp_path, 'ppo', size='micro')


def test_an_input_that_is_not_there_is_named_before_anything(tmp_path, ran):
  with pytest.raises(ValueError, match='inputs.lab: .*lab does not exist'):
    make(tmp_path, 'ppo', ['lab'])
  assert not ran and not (tmp_path / 'ppo').exists()


def test_a_folder_that_is_moved_is_still_the_same(tmp_path, ran):
  make_all(tmp_path / 'here')
  (tmp_path / 'here').rename(tmp_path / 'there')
  make_all(tmp_path / 'there')
  assert ran == ['lab', 'ppo', 'report']


def test_a_second_process_is_kept_out_until_the_first_dies(tmp_path, ran):
  hold = """
import sys, time
from instructrl.runtime import run_folder
from instructrl.runtime import processes
with run_folder.only_process(sys.argv[1]):
  print('held', flush=True)
  time.sleep(60)
"""
  folder = tmp_path / 'lab'
  folder.mkdir()
  with subprocess.Popen(
    [sys.executable, '-c', hold, folder],
    text=True,
    stdout=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
  ) as process:
    assert process.stdout.readline() == 'held\n'
    with pytest.raises(ValueError, match=f'process {process.pid} is at work'):
      make(tmp_path, 'lab')
    assert not ran
    process.kill()
  make(tmp_path, 'lab')
  assert ran == ['lab']


def test_a_study_that_is_refused_changes_nothing(tmp_path, ran):
  del ran
  config = study_config.get_config('micro')
  config.order = ('lab',)
  with run_folder.only_process(tmp_path):
    with pytest.raises(ValueError, match='is at work'):
      study.run(config, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['lock']


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('mesh.tensor', 3, "pretrain: mesh {.*'tensor': 3} does not divide 8 dev"),
    ('batch_size', 12, 'pretrain: batch_size: 12 rows cannot be divided'),
  ],
)
def test_devices_that_do_not_fit_are_told_before_anything_runs(
  tmp_path, field, value, message
):
  config = study_config.get_config('micro')
  config.update_from_flattened_dict({f'stages.pretrain.{field}': value})
  with pytest.raises(checks.ConfigError, match=message):
    study.run(config, tmp_path / 'study')
  assert not list(tmp_path.iterdir())


def test_processes_with_different_configs_are_refused(monkeypatch):
  config = study_config.get_config('micro')
  runner.check_same(config)
  monkeypatch.setattr(processes, 'agree', lambda value: value + 1)
  with pytest.raises(checks.ConfigError, match='not given the same config'):
    runner.check_same(config)


def test_a_study_without_an_evaluation_has_no_report(tmp_path, ran, capsys):
  config = study_config.get_config('micro')
  config.order = ('lab',)
  assert study.run(config, tmp_path) == tmp_path
  assert ran == ['lab']
  assert 'no report: the study has no evaluation' in capsys.readouterr().out


def test_what_is_finished_may_be_read_only(tmp_path, ran):
  make(tmp_path, 'lab')
  before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
  make(tmp_path, 'lab')
  assert ran == ['lab']
  assert before == {
    path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')
  }


@pytest.mark.parametrize(
  'number, status',
  [(signal.SIGINT, 130), (signal.SIGTERM, processes.EXIT_STOPPED)],
)
def test_signals_close_what_is_open(number, status):
  """Each signal has its own exit status and one line."""
  code = """
import contextlib, signal, sys, time
from instructrl.runtime import command
# A shell's background jobs and their children ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
def work():
  with contextlib.ExitStack() as stack:
    stack.callback(print, 'closed', flush=True)
    print('ready', flush=True)
    time.sleep(60)
sys.argv = ['x']
command.run_door(work)
"""
  process = subprocess.Popen(
    [sys.executable, '-c', code],
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
  )
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(number)
  out, error = process.communicate(timeout=60)
  assert out == 'closed\n'
  assert process.returncode == status
  assert error.splitlines()[-1].startswith('stopped; the same command resumes')
  assert 'Traceback' not in error
