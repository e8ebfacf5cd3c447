"""Signals to two processes of one run: all stop, and say so in one line."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest

from instructrl.runtime import metrics
from instructrl.runtime import processes
from tests.stages.processes_test import assert_same_results
from tests.stages.processes_test import finish
from tests.stages.processes_test import output
from tests.stages.processes_test import running
from tests.stages.processes_test import wait_for_step

TRIES = 6


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_after_the_same_step(
  workdir, tmp_path
):
  changes = dict(num_steps=300, eval_every=100, checkpoint={'every': 100})
  one = tmp_path / 'one'
  finish('pretrain', one, 1, **changes)
  two = tmp_path / 'two'
  with running('pretrain', two, 2, changes) as group:
    wait_for_step(two, 1)
    group[1].send_signal(signal.SIGTERM)
    for number, process in enumerate(group):
      assert process.wait(timeout=100) == processes.EXIT_STOPPED, output(
        two, number
      )
  step = max(line['step'] for line in metrics.read_metrics(two))
  assert 0 < step < 300
  assert f'SIGTERM: step {step} is saved' in output(two)
  finish('pretrain', two, 2, **changes)
  assert f'pretrain: resumes at {step}' in output(two)
  assert_same_results(two, one)
  saved = lambda folder: sorted(
    path.name for path in (folder / 'checkpoints').iterdir()
  )
  assert saved(two) == saved(one)


@pytest.mark.slow
def test_signals_in_the_first_seconds(tmp_path, report_counts):
  """While libraries are imported, or the processes wait for each other."""
  draw = random.Random(0)
  for number in range(TRIES):
    sent = (signal.SIGTERM, signal.SIGINT)[number % 2]
    with socket.socket() as free:
      free.bind(('localhost', 0))
      port = free.getsockname()[1]
    group = [start(tmp_path, port, i) for i in range(2)]
    time.sleep(draw.uniform(0.3, 2))
    for process in group:
      process.send_signal(sent)
    for process in group:
      _, error = process.communicate(timeout=100)
      allowed = {128 + sent, processes.EXIT_STOPPED, processes.EXIT_LOST}
      assert process.returncode in allowed, error
      assert error.count('\n') == 1 and 'stopped' in error, error
  report_counts(f'early stops of two processes: {TRIES} tried, all in one line')


def start(folder, port, number):
  """Starts a process of a run of three, after Python itself has started.

  The third never starts, so that the others wait however fast the machine is.
  """
  (folder / 'sitecustomize.py').write_text(
    'import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n'
  )
  return subprocess.Popen(
    [sys.executable, '-m', 'instructrl.main', f'--workdir={folder}/run']
    + ['--config=experiments/pretrain.py:micro']
    + [f'--coordinator=localhost:{port}', '--num_processes=3']
    + [f'--process_id={number}'],
    env={**os.environ, 'PYTHONPATH': f'{folder}{os.pathsep}{os.getcwd()}'},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
