"""Runs stages with injected faults, each in a child process.

  python -m tests.faults.server

reads a job per line of standard input and writes its result per line of
standard output. The server imports everything once and computes nothing, so a
child is a fork that begins at once. A job is JSON:

  stage, workdir, changes  as in `tests.stages.stages`; 'lab' is the lab stage
  log       file of the output
  kill_at   SIGKILL at this file-system event in the run folder; 0 for none
  fail_at   the events from this one on fail, `times` of them, with `errno`
  stop      {'after': seconds, 'signal': number}, or None

The result has the `status` of the child, as `subprocess` has it, and the number
of `events`.
"""

import errno as errnos
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from experiments import lab as lab_config
from instructrl.runtime import storage
from instructrl.runtime.command import run_door
from instructrl.stages import lab
from instructrl.stages import lm
from instructrl.stages import ppo
from instructrl.stages import reward
from instructrl.stages import runner
from tests.stages import stages

USED = (lab, lm, ppo, reward)  # imported here, so that no child does
# Functions of `os` that change files, and the number of their path arguments.
CHANGES = {
  'fsync': 1,
  'ftruncate': 1,
  'mkdir': 1,
  'rename': 2,
  'replace': 2,
  'rmdir': 1,
  'unlink': 1,
}


# One device, and every program in the cache: most children compile the same.
ENVIRONMENT = {
  **os.environ,
  'XLA_FLAGS': '',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
}


class Events:
  """Counts file-system events in a folder, and injects faults at some."""

  def __init__(self, job, counter: int):
    self._job, self._counter, self._count = job, counter, 0
    self._folder = os.path.abspath(job['workdir'])
    for name in CHANGES:
      setattr(os, name, self._counting(getattr(os, name)))
    io.open = self._counting(io.open)  # of pathlib

  def _counting(self, function):
    def call(*args, **kwargs):
      if self._is_ours(args[0]):
        self._event()
      return function(*args, **kwargs)

    return call

  def _is_ours(self, path) -> bool:
    if isinstance(path, int):
      path = os.readlink(f'/proc/self/fd/{path}')
    return os.path.abspath(path).startswith(self._folder)

  def _event(self):
    job, self._count = self._job, self._count + 1
    os.pwrite(self._counter, f'{self._count:9d}'.encode(), 0)
    if self._count == job.get('kill_at'):
      os.kill(os.getpid(), signal.SIGKILL)
    first = job.get('fail_at')
    if first and first <= self._count < first + job['times']:
      raise OSError(job['errno'], os.strerror(job['errno']))


def configure(job):
  if job['stage'] == 'lab':
    config = lab_config.get_config('micro')
  else:
    config = stages.configs()[job['stage']]
  config.update(job.get('changes', {}))
  return config


def child(job, counter: int):
  """Runs the job in a fork; does not return."""
  log = os.open(job['log'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(log, 1)
  os.dup2(log, 2)
  Events(job, counter)
  storage.DELAYS = (0.01,) * 4
  sys.argv = ['server']
  run_door(lambda: runner.run_stage(configure(job), job['workdir']))
  os._exit(0)


def run(job) -> dict:
  with open(os.memfd_create('events'), 'w+b') as counter:
    number = os.fork()
    if not number:
      child(job, counter.fileno())
    stop = job.get('stop')
    if stop:
      time.sleep(stop['after'])
      os.kill(number, stop['signal'])
    status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    events = os.pread(counter.fileno(), 9, 0)
    return {'status': status, 'events': int(events or 0)}


class Server:
  """The server, as seen by a test."""

  def __init__(self, folder: pathlib.Path):
    self._folder, self._jobs = folder, 0
    self._process = subprocess.Popen(
      [sys.executable, '-W', 'ignore', '-m', __spec__.name],
      cwd=pathlib.Path(__file__).parents[2],
      env=ENVIRONMENT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def run(self, stage, workdir, **job) -> tuple[dict, str]:
    """Returns (result, output) of a job."""
    self._jobs += 1
    log = self._folder / f'{self._jobs}.log'
    job.update(stage=stage, workdir=str(workdir), log=str(log))
    self._process.stdin.write(json.dumps(job) + '\n')
    self._process.stdin.flush()
    result = json.loads(self._process.stdout.readline())
    return result, log.read_text() if log.exists() else ''

  def finish(self, stage, workdir, **job) -> dict:
    """Runs a job that must succeed."""
    result, output = self.run(stage, workdir, **job)
    assert result['status'] == 0, output[-3000:]
    return result

  def close(self):
    self._process.stdin.close()
    self._process.wait()


TRANSIENT = (errnos.EIO, errnos.ESTALE, errnos.ENOSPC)


def main():
  for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == '__main__':
  main()
