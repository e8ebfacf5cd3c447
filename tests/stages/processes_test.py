"""Two real processes, of four devices each, do what one of eight does.

They are joined by JAX on one machine, and their collectives by Gloo.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from instructrl.runtime import metrics
from instructrl.runtime import processes

MESH = dict(data=2, fsdp=2, tensor=2)
LOST = (processes.EXIT_LOST, -signal.SIGABRT)  # JAX's own way is to abort


def start(stage, workdir, changes, number, total, port):
  """One process of a run; its output goes beside the run folder."""
  flags = f'--xla_force_host_platform_device_count={8 // total}'
  with open(workdir.parent / f'{workdir.name}.{number}.log', 'a') as log:
    return subprocess.Popen(
      [
        sys.executable,
        '-m',
        'tests.stages.stages',
        stage,
        str(workdir),
        json.dumps({'mesh': MESH, **changes}),
        *([f'localhost:{port}', str(total), str(number)] if total > 1 else []),
      ],
      stdout=log,
      stderr=subprocess.STDOUT,
      env={**os.environ, 'XLA_FLAGS': flags},
    )


@contextlib.contextmanager
def running(stage, workdir, total, changes):
  """All processes of a run; none is left behind."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  group = [start(stage, workdir, changes, i, total, port) for i in range(total)]
  try:
    yield group
  finally:
    for process in group:
      process.kill()
      process.wait()


def output(workdir, number=0):
  return (workdir.parent / f'{workdir.name}.{number}.log').read_text()


def finish(stage, workdir, total, **changes):
  with running(stage, workdir, total, changes) as group:
    for number, process in enumerate(group):
      assert process.wait(timeout=300) == 0, output(workdir, number)


def wait_for_step(workdir, step):
  """Until metrics.jsonl has a line of that step."""
  path = workdir / 'metrics.jsonl'
  for _ in range(15_000):  # it compiles first
    if path.exists() and any(
      json.loads(line)['step'] >= step
      for line in path.read_text().split('\n')[:-1]
    ):
      return
    time.sleep(0.02)
  raise AssertionError(f'step {step} was not reached: {output(workdir)}')


def wait_for(path):
  for _ in range(5000):
    if path.exists():
      return
    time.sleep(0.02)
  raise AssertionError(f'there is no {path}')


def assert_same_results(folder, expected):
  lines = metrics.read_metrics(expected)
  assert len(lines) >= 4
  for a, b in zip(metrics.read_metrics(folder), lines, strict=True):
    assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
  texts = [
    [
      (line['prompt'], line['response'])
      for line in map(
        json.loads, (f / 'samples.jsonl').read_text().splitlines()
      )
    ]
    for f in (folder, expected)
  ]
  assert texts[0] == texts[1]


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['reward', 'dpo', 'ppo_ptx'])
def test_two_processes_equal_one_and_survive_a_kill(stage, workdir, tmp_path):
  one = tmp_path / 'one'
  finish(stage, one, 1)
  two = tmp_path / 'two'
  with running(stage, two, 2, {}) as group:
    wait_for_step(two, 2)
    wait_for(two / 'checkpoints' / '00000001')
    group[1].kill()
    began = time.monotonic()
    assert group[0].wait(timeout=60) in LOST
    assert time.monotonic() - began < 60
  assert 'died' in output(two) or 'was lost' in output(two)
  assert len(metrics.read_metrics(two)) < len(metrics.read_metrics(one))
  finish(stage, two, 2)
  assert_same_results(two, one)
  assert f'{stage}: resumes at' in output(two)
  assert not list(two.rglob('*.partial'))
  # Everything was written and said once.
  assert f'{stage}:' not in output(two, 1)


@pytest.mark.slow
def test_two_processes_share_the_reward_of_a_function(workdir, tmp_path):
  brevity = dict(kind='function', function='examples.my_reward:brevity')
  changes = {'rewards': {'brevity': dict(brevity, weight=0.5)}}
  one, two = tmp_path / 'one', tmp_path / 'two'
  finish('ppo', one, 1, **changes)
  finish('ppo', two, 2, **changes)
  assert_same_results(two, one)
  assert any('reward/brevity' in line for line in metrics.read_metrics(one))
