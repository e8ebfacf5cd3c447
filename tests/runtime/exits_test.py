"""The way out of a command: a status and one line, at any moment."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(ROOT)}

# A library of which each import takes a second, in place of a real one.
SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.{handler})  # a background job ignores it
class Slow:
  def find_spec(self, name, path=None, target=None):
    if name == {name!r}:
      print('ready', flush=True)
      try:
        time.sleep(60)
      except KeyboardInterrupt:
        raise ImportError('an extension module turns it into this')
sys.meta_path.insert(0, Slow())
"""


def start(tmp_path, module, *arguments, slow='absl', ignore=False):
  """Starts a command whose import of `slow` takes a minute."""
  handler = 'SIG_IGN' if ignore else 'default_int_handler'
  source = SLOW.format(name=slow, handler=handler)
  (tmp_path / 'sitecustomize.py').write_text(source)
  path = os.pathsep.join([str(tmp_path), str(ROOT)])
  process = subprocess.Popen(
    [sys.executable, '-m', module, *arguments],
    env={**os.environ, 'PYTHONPATH': path},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'ready\n', process.stderr.read()
  return process


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
  'command', ['main', 'study', 'sweep', 'convert', 'aot', 'data', 'sample']
)
def test_a_signal_in_an_import_is_one_line(tmp_path, command, number):
  process = start(tmp_path, f'instructrl.{command}')
  process.send_signal(number)
  out, error = process.communicate(timeout=60)
  assert process.returncode == 128 + number
  assert (out, error) == ('', f'stopped by {number.name}; nothing was lost\n')


def test_a_late_import_of_the_report(tmp_path):
  process = start(tmp_path, 'instructrl.report', 'x', slow='matplotlib')
  process.send_signal(signal.SIGINT)
  out, error = process.communicate(timeout=60)
  assert process.returncode == 130
  assert (out, error) == ('', 'stopped by SIGINT; nothing was lost\n')


def test_a_background_job_ignores_ctrl_c(tmp_path):
  process = start(tmp_path, 'instructrl.main', ignore=True)
  process.send_signal(signal.SIGINT)
  with pytest.raises(subprocess.TimeoutExpired):
    process.wait(timeout=0.3)
  process.terminate()
  assert process.wait(timeout=60) == 143


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '<&- >&- 2>&-'])
@pytest.mark.parametrize('command', ['main', 'sample'])
def test_streams_that_the_shell_has_closed(command, closed):
  done = subprocess.run(
    f'{sys.executable} -m instructrl.{command} --help {closed}; echo $?',
    shell=True,
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.stdout.splitlines()[-1:] == ['0'] and done.stderr == ''


COMPUTE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import jax, jax.numpy as jnp
from instructrl.runtime import command, exits
exits.at_start()
def work():
  x = jnp.ones((300, 300))
  f = jax.jit(lambda x: jax.lax.fori_loop(0, 10**6, lambda i, x: x @ x, x))
  for _ in range(3):
    y = f(x)
  print('ready', flush=True)
  y.block_until_ready()
sys.argv = ['x']
{}
"""


@pytest.mark.parametrize(
  'door', ['exits.leave(command.status_of(work))', 'command.run_door(work)']
)
def test_ctrl_c_while_xla_computes(door):
  """The end of the interpreter would be a segmentation fault."""
  process = subprocess.Popen(
    [sys.executable, '-c', COMPUTE.format(door)],
    env=ENVIRONMENT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=60)
  assert (process.returncode, error.count('\n')) == (130, 1), error
  assert error.startswith('stopped')


@pytest.mark.parametrize(
  'raised, status, line',
  [
    (
      "OSError(28, 'No space left on device', '/x')",
      74,
      "'/x'; the storage may",
    ),
    ("OSError(2, 'No such file or directory', '/x')", 1, "directory: '/x'"),
    ("RuntimeError('Stale file handle /y')", 74, 'Stale file handle /y; the'),
    ("exits.Waiting('rank first')", 77, 'rank first'),
    ("ValueError('a field')", 1, 'error: a field'),
    ("RuntimeError('a defect')", 1, 'RuntimeError: a defect'),
  ],
)
@pytest.mark.parametrize(
  'door', ['exits.leave(command.status_of(work))', 'command.run_door(work)']
)
def test_the_status_says_whether_a_restart_helps(door, raised, status, line):
  code = (
    'import sys\nfrom instructrl.runtime import command, exits\n'
    f"sys.argv = ['x']\ndef work():\n  raise {raised}\n{door}"
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == status
  assert line in done.stderr.splitlines()[-1]
  assert ('Traceback' in done.stderr) == ('defect' in raised)
