"""Runs commands as child processes, some at a time, each after what it needs.

Nothing here knows of configs or sweeps. A job is finished when its folder has
a DONE file; a folder in which another process is at work is waited for. What
is stopped or killed, in whatever way, is begun again by the next start.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import pathlib
import signal
import subprocess
import time

from instructrl.runtime import processes
from instructrl.runtime import progress
from instructrl.runtime import run_folder

LOG = 'log.txt'
DONE, FAILED, STOPPED, RUNNING, LEFT = (
  'done',
  'failed',
  'interrupted',
  'running',
  'left',
)
STOPPED_CODES = (
  processes.EXIT_STOPPED,
  processes.EXIT_LOST,
  128 + signal.SIGINT,
  128 + signal.SIGTERM,
  -signal.SIGINT,
  -signal.SIGTERM,
)
POLL, TELL, GRACE = 0.2, 30.0, 120.0  # seconds


@dataclasses.dataclass(frozen=True)
class Job:
  """A command that leaves DONE in a folder.

  Attributes:
    name: of the folder.
    kind: jobs of one kind take about as long.
    argv: of the command.
    folder: it also gets the command's output, in LOG.
    needs: names of the jobs that must be done before.
  """

  name: str
  kind: str
  argv: Sequence[str]
  folder: pathlib.Path
  needs: tuple[str, ...] = ()


class Children:
  """Runs jobs; `status` is name -> what became of it."""

  def __init__(
    self,
    jobs: Sequence[Job],
    parallel: int,
    changed: Callable[[], None] = lambda: None,
  ):
    """Looks which jobs are done; starts nothing.

    Args:
      jobs: those that others need come first.
      parallel: children at a time.
      changed: called after each change of `status`.
    """
    self._jobs = {job.name: job for job in jobs}
    self._parallel = parallel
    self._changed = changed
    self._children: dict[str, tuple[subprocess.Popen, float]] = {}
    self._elsewhere: dict[str, str] = {}  # name -> number of the process
    self._seconds: dict[str, float] = {}  # of the jobs that are done
    self._told = time.monotonic()
    self.status = dict.fromkeys(self._jobs, LEFT)
    self.reasons: dict[str, str] = {}  # of those that failed
    for name in self._jobs:
      self._look(name)

  def run(self) -> Mapping[str, str]:
    """Runs all jobs that can be; returns `status`.

    When it is interrupted its children are ended with SIGTERM.
    """
    try:
      self._begin()
      while self._children or self._elsewhere:
        time.sleep(POLL)
        self._reap()
        self._begin()
        if time.monotonic() - self._told > TELL:
          self._tell_running()
    finally:
      self._end_children()
    return self.status

  def blocked(self) -> list[str]:
    """Jobs that cannot begin: one that they need failed."""
    lost = {name for name, status in self.status.items() if status == FAILED}
    for name, job in self._jobs.items():  # those that are needed come first
      if lost.intersection(job.needs):
        lost.add(name)
    return [
      name for name in self._jobs if name in lost and self.status[name] == LEFT
    ]

  def _look(self, name: str) -> bool:
    """Whether a job is done, from its folder."""
    done = run_folder.read_done(self._jobs[name].folder)
    if done is not None:
      self.status[name] = DONE
      self._seconds[name] = float(done.get('seconds', 0))
    return done is not None

  def _begin(self):
    """Starts what can be started; the order is that of the jobs."""
    for name, job in self._jobs.items():
      if self.status[name] == LEFT and all(
        self.status[need] == DONE for need in job.needs
      ):
        holder = run_folder.holder(job.folder)
        if holder is not None:
          if name not in self._elsewhere:
            self._say(f'{name}: process {holder} is at work on it; waiting')
          self._elsewhere[name] = holder
          continue
        self._elsewhere.pop(name, None)
        if self._look(name):  # another process has made it
          self._say(f'{name} was finished by another process')
        elif len(self._children) < self._parallel:
          self._start(job)

  def _start(self, job: Job):
    job.folder.mkdir(parents=True, exist_ok=True)
    log = job.folder / LOG
    with log.open('ab') as out:
      out.write(f'--- {time.strftime("%Y-%m-%d %H:%M:%S")}\n'.encode())
      out.flush()
      # In a group of its own: Ctrl-C of a terminal comes to the sweep only.
      child = subprocess.Popen(
        job.argv,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        process_group=0,
      )
    self._children[job.name] = child, time.monotonic()
    self._set(job.name, RUNNING)
    self._say(f'{job.name} starts; log: {log}')

  def _reap(self):
    for name, (child, began) in list(self._children.items()):
      code = child.poll()
      if code is None:
        continue
      del self._children[name]
      took = progress.format_seconds(time.monotonic() - began)
      log = self._jobs[name].folder / LOG
      if code == 0 and self._look(name):
        self._changed()
        self._say(f'{name} done in {took}; {self._summary()}')
      elif code in STOPPED_CODES:
        self._set(name, STOPPED)
        self._say(
          f'{name} was interrupted after {took}; the next start goes '
          f'on; log: {log}'
        )
      elif run_folder.holder(self._jobs[name].folder) is not None:
        self._set(name, LEFT)  # another was quicker
      else:
        self.reasons[name] = (
          f'{_last_line(log)} (exit status {code})'
          if code > 0
          else f'ended by {signal.Signals(-code).name}'
          if code
          else f'it ended without {self._jobs[name].folder / "DONE"}'
        )
        self._set(name, FAILED)
        self._say(
          f'{name} FAILED after {took}: {self.reasons[name]}; log: {log}'
        )

  def _set(self, name: str, status: str):
    self.status[name] = status
    self._changed()

  def _say(self, text: str):
    self._told = time.monotonic()
    print(text, flush=True)

  def _tell_running(self):
    for name, (_, began) in self._children.items():
      took = progress.format_seconds(time.monotonic() - began)
      self._say(
        f'  {name}, {took}: {_last_line(self._jobs[name].folder / LOG)}'
      )

  def _summary(self) -> str:
    """'3 of 9 done, 1 failed, 5 left, of which 2 take about 4m'."""
    of = lambda *wanted: [
      name for name, status in self.status.items() if status in wanted
    ]
    text = f'{len(of(DONE))} of {len(self._jobs)} done'
    if of(FAILED):
      text += f', {len(of(FAILED))} failed'
    left = of(LEFT, RUNNING)
    seconds = [s for s in map(self._expected, left) if s is not None]
    if left:
      text += f', {len(left)} left'
    if seconds:
      text += (
        ', about '
        if len(seconds) == len(left)
        else (f', of which {len(seconds)} take about ')
      )
      text += progress.format_seconds(sum(seconds) / self._parallel)
    return text

  def _expected(self, name: str) -> float | None:
    """Seconds that a job still takes, from those of its kind that are done."""
    known = [
      seconds
      for other, seconds in self._seconds.items()
      if self._jobs[other].kind == self._jobs[name].kind
    ]
    if not known:
      return None
    began = self._children[name][1] if name in self._children else None
    spent = 0.0 if began is None else time.monotonic() - began
    return max(0.0, sum(known) / len(known) - spent)

  def _end_children(self):
    """SIGTERM; SIGKILL for what does not end, or at a second interruption."""
    if not self._children:
      return
    for child, _ in self._children.values():
      child.terminate()
    print(f'stopping {len(self._children)} runs', flush=True)
    until = time.monotonic() + GRACE
    try:
      for name, (child, _) in self._children.items():
        child.wait(max(0, until - time.monotonic()))
        self.status[name] = DONE if self._look(name) else STOPPED
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
      pass
    finally:
      for name, (child, _) in self._children.items():
        if child.poll() is None:
          child.kill()
          child.wait()
        if self.status[name] == RUNNING:
          self.status[name] = STOPPED
      self._children = {}
      self._changed()


def _last_line(log: pathlib.Path) -> str:
  """What a log says last: its error, if there is one."""
  with log.open('rb') as f:
    f.seek(max(0, os.path.getsize(log) - 10_000))
    lines = f.read().decode(errors='replace').replace('\r', '\n').splitlines()
  lines = [line.strip() for line in lines if line.strip()]
  begun = max(
    (i for i, line in enumerate(lines) if line.startswith('--- ')), default=-1
  )
  lines = lines[begun + 1 :] or ['nothing yet']
  errors = [line for line in lines if line.startswith('error: ')]
  return (errors or lines)[-1][:300]
