"""--help, and mistakes in --config: one line that says what to do."""

import os
import subprocess
import sys
import threading
import types

import jax
import pytest

from instructrl.runtime import command
from instructrl.runtime.errors import NonFiniteError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


@pytest.mark.parametrize(
  'command, args, message',
  [
    ('main', ['ppo.py:micro', 'ppo.kl_coef=abc'], "to float: 'abc'"),
    (
      'main',
      ['ppo.py:micro', 'ppo.kl_coeff=1'],
      'the config has no field kl_coeff; did you mean "kl_coef" instead of '
      '"kl_coeff"?',
    ),
    (
      'main',
      ['evaluation.py:micro', 'inputs.mine=x'],
      'the config has no field mine; a flag changes a field that exists: add '
      'one in a Python file',
    ),
    (
      'main',
      ['ppo.py:mico'],
      "there is no size 'mico'; the sizes are micro, tiny, small, 125m, 1.3b, "
      '6b, 175b',
    ),
    (
      'main',
      ['study.py:micro'],
      "not of a stage: it has no field 'stage'; run it with python -m "
      'instructrl.study',
    ),
    ('study', ['ppo.py:micro'], 'run it with python -m instructrl.main'),
    (
      'study',
      ['ablations/kl_coef.py:micro'],
      'run it with python -m instructrl.sweep',
    ),
  ],
)
def test_a_wrong_config_is_one_line(tmp_path, command, args, message):
  flags = [f'--config=experiments/{args[0]}']
  flags += [f'--config.{arg}' for arg in args[1:]]
  found = subprocess.run(
    [sys.executable, '-m', f'instructrl.{command}', *flags]
    + [f'--workdir={tmp_path}/x'],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': ROOT},
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 1
  assert found.stderr.startswith('error: ')
  assert found.stderr.endswith(f'{message}\n'), found.stderr
  assert found.stderr.count('\n') == 1
  assert not (tmp_path / 'x').exists()


def test_help_has_no_whole_config_as_a_default():
  found = subprocess.run(
    [sys.executable, '-m', 'instructrl.stages.learnability', '--help'],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': ROOT},
    capture_output=True,
    text=True,
    check=True,
  )
  assert '(default: runs/learnability)' in found.stdout
  assert len(found.stdout.splitlines()) < 30


def raising(error):
  def work():
    raise error

  return work


@pytest.mark.parametrize(
  'error, status, said',
  [
    (ValueError('no such field'), 1, 'error: no such field\n'),
    (FileNotFoundError('gone'), 1, 'error: gone\n'),
    (NonFiniteError('step 7: loss is nan'), 3, 'error: step 7: loss is nan\n'),
    (KeyboardInterrupt(), 130, 'stopped\n'),
  ],
)
def test_the_status_of_a_command_says_how_it_ended(error, status, said, capsys):
  assert command.status_of(raising(error)) == status
  assert capsys.readouterr().err == said
  assert command.status_of(lambda: None) == 0


def test_a_defect_of_a_command_keeps_its_traceback(capsys):
  assert command.status_of(lambda: 1 / 0) == 1
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith('Traceback')
  assert lines[-1] == 'ZeroDivisionError: division by zero'


@pytest.mark.parametrize(
  'error, in_thread, printed',
  [
    (RuntimeError('Event loop is closed'), True, False),
    (RuntimeError('Event loop is closed'), False, True),
    (RuntimeError('another'), True, True),
  ],
)
def test_only_the_rest_of_a_failed_save_is_silent(
  error, in_thread, printed, monkeypatch
):
  found = []
  monkeypatch.setattr(sys, '__unraisablehook__', found.append)
  about = types.SimpleNamespace(exc_value=error)
  if in_thread:
    thread = threading.Thread(target=command._unless_late, args=(about,))
    thread.start()
    thread.join()
  else:
    command._unless_late(about)
  assert found == [about] * printed


def test_a_config_may_be_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'mine.py').write_text(
    'from ml_collections import config_dict\n'
    "get_config = lambda size: config_dict.ConfigDict({'size': size})\n"
  )
  done = subprocess.run(
    [sys.executable, '-m', 'instructrl.main', '--config=~/mine.py:tiny'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert "not of a stage: it has no field 'stage'" in done.stderr


def test_variables_of_jax_have_priority(monkeypatch):
  updates, names = (
    {},
    ('COMPILATION_CACHE_DIR', 'PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'),
  )
  monkeypatch.setattr(jax.config, 'update', updates.__setitem__)
  for name in names:
    monkeypatch.setenv(f'JAX_{name}', '0')
  command.setup_jax()
  assert not updates
  for name in names:
    monkeypatch.delenv(f'JAX_{name}')
  command.setup_jax()
  assert {*updates} == {f'jax_{name.lower()}' for name in names}
