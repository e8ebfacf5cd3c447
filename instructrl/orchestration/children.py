"""Runs commands as child processes, several at a time, in order of their needs.

This file knows nothing of configs or sweeps. A job is finished when its folder
has a DONE file. A job whose folder is locked by another process is waited for.
After any interruption the next start runs the unfinished jobs again.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import pathlib
import signal
import subprocess
import time

from instructrl.runtime import exits
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import progress
from instructrl.runtime import run_folder
from instructrl.runtime import storage

LOG = 'log.txt'
# States of a job.
DONE, FAILED, STOPPED = 'done', 'failed', 'interrupted'
RUNNING, LEFT = 'running', 'left'
STATES = (FAILED, STOPPED, RUNNING, LEFT, DONE)  # the worst first
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Exit statuses of a job that the next start continues.
STOPPED_CODES = {
  processes.EXIT_STOPPED,
  processes.EXIT_LOST,
  storage.EXIT_STORAGE,
  exits.EXIT_WAITING,
}

STOPPED_CODES |= {code for s in _SIGNALS for code in (128 + s, -s)}
POLL_SECONDS = 0.2
REPORT_SECONDS = 30.0  # without output, before the running jobs are printed
GRACE_SECONDS = 120.0  # between SIGTERM and SIGKILL


@dataclasses.dataclass(frozen=True)
class Job:
  """A command that leaves a DONE file in a folder.

  Attributes:
    name: a unique name.
    kind: jobs of one kind take about as long.
    seconds: expected, until a job of its kind is done; 0 = unknown.
    argv: the command.
    folder: where DONE appears; the command's output is appended to LOG there.
    needs: names of the jobs that must be done before.
    title: its name for people; the name by default.
  """

  name: str
  kind: str
  argv: Sequence[str]
  folder: pathlib.Path
  needs: tuple[str, ...] = ()
  title: str = ''
  seconds: float = 0.0


class Children:
  """Runs jobs.

  Attributes:
    status: job's name -> its state.
    reasons: failed job's name -> why it failed.
    codes: interrupted job's name -> its exit status, below 0 for a signal.
  """

  def __init__(
    self,
    jobs: Sequence[Job],
    parallel: int,
    changed: Callable[[], None] = lambda: None,
    take: Callable[[str], str] = lambda name: '',
    follow: bool = False,
  ):
    """Reads which jobs are done; starts nothing.

    Args:
      jobs: in an order in which they can run.
      parallel: children at a time.
      changed: called after each change of `status`.
      take: (job's name) -> where its results were taken from, after which the
        job is done; '' if it must run.
      follow: whether to print what the jobs print; else a line now and then.
    """
    self._jobs = {job.name: job for job in jobs}
    self._parallel = parallel
    self._changed = changed
    self._take = take
    self._follow = follow
    self._shown: dict[str, int] = {}  # bytes of the logs that were printed
    self.titles = {job.name: job.title or job.name for job in jobs}
    self._children: dict[str, tuple[subprocess.Popen, float]] = {}
    self._elsewhere: dict[str, str] = {}  # name -> process id
    self._seconds: dict[str, float] = {}  # durations of the finished jobs
    self._printed = time.monotonic()
    self.status = dict.fromkeys(self._jobs, LEFT)
    self.reasons: dict[str, str] = {}
    self.diverged: set[str] = set()
    self.codes: dict[str, int] = {}
    for name in self._jobs:
      self._read_done(name)

  def run(self) -> Mapping[str, str]:
    """Runs all jobs whose needs finish; returns `status`.

    An exception, such as KeyboardInterrupt, ends the children with SIGTERM.
    """
    try:
      self._begin()
      while self._children or self._elsewhere:
        time.sleep(POLL_SECONDS)
        self._reap()
        self._begin()
        if time.monotonic() - self._printed > REPORT_SECONDS:
          self._print_running()
    finally:
      self._end_children()
    return self.status

  def blocked(self) -> list[str]:
    """Returns the jobs that cannot begin because a job they need failed."""
    lost = {name for name, status in self.status.items() if status == FAILED}
    for name, job in self._jobs.items():  # jobs that others need come first
      if lost.intersection(job.needs):
        lost.add(name)
    return [
      name for name in self._jobs if name in lost and self.status[name] == LEFT
    ]

  def _read_done(self, name: str) -> bool:
    """Returns whether a job is done, and updates its status if so."""
    done = run_folder.read_done(self._jobs[name].folder)
    if done is not None:
      self.status[name] = DONE
      self._seconds[name] = float(done.get('seconds', 0))
    return done is not None

  def _begin(self):
    """Starts the jobs that can start, in their order."""
    started = False
    for name, job in self._jobs.items():
      if self.status[name] != LEFT or any(
        self.status[need] != DONE for need in job.needs
      ):
        continue
      holder = run_folder.holder(job.folder)
      if holder is not None:
        if name not in self._elsewhere:
          self._print(
            f'{self.titles[name]}: process {holder} is at work on it; waiting'
          )
        self._elsewhere[name] = holder
        continue
      self._elsewhere.pop(name, None)
      if self._read_done(name):
        self._print(f'{self.titles[name]} was finished by another process')
      elif len(self._children) < self._parallel:
        source = self._take(name)
        if source and self._read_done(name):
          self._changed()
          self._print(f'{self.titles[name]} taken from {source}')
        else:
          self._start(job)
          started = True
    if started:  # `changed` may take minutes, so all jobs start before it
      self._changed()

  def _start(self, job: Job):
    job.folder.mkdir(parents=True, exist_ok=True)
    log = job.folder / LOG
    descriptor = files.open_new_or_own(log, os.O_WRONLY | os.O_APPEND)
    with open(descriptor, 'ab') as out, processes.deferring_stop():
      out.write(f'--- {time.strftime("%Y-%m-%d %H:%M:%S")}\n'.encode())
      out.flush()
      self._shown[job.name] = out.tell()
      child = subprocess.Popen(
        job.argv,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        process_group=0,  # Ctrl-C in the terminal reaches this process only
      )
      self._children[job.name] = child, time.monotonic()
    self.status[job.name] = RUNNING
    if not self._follow:
      self._print(f'{self.titles[job.name]} starts; log: {log}')
    if processes.stop_requested():
      raise processes.Stopped

  def _reap(self):
    """Sets the status of the children that have ended."""
    for name, (child, began) in list(self._children.items()):
      code = child.poll()
      self._print_new(name)
      if code is None:
        continue
      del self._children[name]
      took = progress.format_seconds(time.monotonic() - began)
      log, title = self._jobs[name].folder / LOG, self.titles[name]
      if code == 0 and self._read_done(name):
        self._changed()
        self._print(f'{title} done in {took}; {self._summary()}')
      elif code in STOPPED_CODES:
        self.codes[name] = code
        self._set(name, STOPPED)
        self._print(
          f'{title} was interrupted after {took}; the next start continues it; '
          f'log: {log}'
        )
      elif run_folder.holder(self._jobs[name].folder) is not None:
        self._set(name, LEFT)  # another process took the folder first
      else:
        if code == exits.EXIT_DIVERGED:
          self.diverged.add(name)
        self.reasons[name] = reason = self._reason(name, code)
        self._set(name, FAILED)
        self._print(f'{title} FAILED after {took}: {reason}; log: {log}')

  def _reason(self, name: str, code: int) -> str:
    folder = self._jobs[name].folder
    if code > 0:
      return f'{last_line(folder / LOG)} (exit status {code})'
    if code < 0:
      return f'ended by {signal.Signals(-code).name}'
    return f'it ended without {folder / "DONE"}'

  def _set(self, name: str, status: str):
    self.status[name] = status
    self._changed()

  def _print(self, text: str):
    self._printed = time.monotonic()
    print(text, flush=True)

  def _print_running(self):
    for name, (_, began) in self._children.items():
      took = progress.format_seconds(time.monotonic() - began)
      line = last_line(self._jobs[name].folder / LOG)
      self._print(f'  {self.titles[name]}, {took}: {line}')

  def _print_new(self, name: str) -> None:
    """Prints the lines of a log that are new, if logs are followed."""
    if not self._follow:
      return
    with open(self._jobs[name].folder / LOG, 'rb') as f:
      f.seek(self._shown[name])
      found = f.read()
    found = found[: found.rfind(b'\n') + 1]
    if found:
      self._shown[name] += len(found)
      self._print(found.decode(errors='replace').rstrip('\n'))

  def _summary(self) -> str:
    """Returns '3 of 9 done, 1 failed, 5 left, 2 of them take about 4m'."""
    states = list(self.status.values())
    left = [name for name, s in self.status.items() if s in (LEFT, RUNNING)]
    known = [name for name in left if self._expected(name) is not None]
    text = f'{states.count(DONE)} of {len(states)} done'
    if FAILED in states:
      text += f', {states.count(FAILED)} failed'
    if left:
      text += f', {len(left)} left'
    if known:
      some = f'{len(known)} of them take ' if len(known) < len(left) else ''
      text += f', {some}about {progress.format_seconds(self._left(known))}'
    return text

  def _left(self, names: Sequence[str]) -> float:
    """Returns the seconds until some jobs, in their order, are done.

    Jobs that need each other run one after another.
    """
    total, until = 0.0, dict.fromkeys(self._jobs, 0.0)
    for name in names:
      seconds = self._expected(name) or 0.0
      total += seconds
      needs = self._jobs[name].needs
      until[name] = seconds + max((until[n] for n in needs), default=0.0)
    return max(total / self._parallel, *until.values())

  def _expected(self, name: str) -> float | None:
    """Returns the seconds left for a job; None if they are not known."""
    job = self._jobs[name]
    known = [
      s for n, s in self._seconds.items() if self._jobs[n].kind == job.kind
    ]
    if not known and not job.seconds:
      return None
    whole = sum(known) / len(known) if known else job.seconds
    spent = 0.0
    if name in self._children:
      spent = time.monotonic() - self._children[name][1]
    return max(0.0, whole - spent)

  def _end_children(self):
    """Sends SIGTERM, and SIGKILL after the grace or a second interruption."""
    if not self._children:
      return
    for child, _ in self._children.values():
      child.terminate()
    print(f'stopping {len(self._children)} runs', flush=True)
    until = time.monotonic() + GRACE_SECONDS
    try:
      for name, (child, _) in self._children.items():
        child.wait(max(0, until - time.monotonic()))
        self._print_new(name)
        self.status[name] = DONE if self._read_done(name) else STOPPED
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


def last_line(log: pathlib.Path) -> str:
  """Returns the last line of a log, or its last error since the last start."""
  with log.open('rb') as f:
    f.seek(max(0, os.path.getsize(log) - 10_000))
    lines = f.read().decode(errors='replace').replace('\r', '\n').splitlines()
  lines = [line.strip() for line in lines if line.strip()]
  starts = [i for i, line in enumerate(lines) if line.startswith('--- ')]
  lines = lines[max(starts, default=-1) + 1 :] or ['starting']
  errors = [line for line in lines if line.startswith('error: ')]
  return (errors or lines)[-1][:500]
