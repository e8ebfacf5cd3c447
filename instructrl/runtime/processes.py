"""Several processes as one program: start, agreement, stop, loss of a process.

Every process runs the same program on its own devices; only process 0 writes
the run folder. `initialize` connects the processes. If one dies, JAX's
heartbeats end the others within about 20 seconds. If one hangs, its `Watchdog`
ends it, and with it the others. SIGTERM, which announces a preemption, stops
all of them after the same step (`stop_requested`).

The exit status says whether to start the same command again:

  EXIT_STOPPED         after SIGTERM: yes
  EXIT_LOST, or 134    another process was lost (134 is JAX's own abort): yes
  storage.EXIT_STORAGE the storage failed, or is full: yes, it may recover
  exits.EXIT_WAITING   people have to label first (77): yes, after their work
  1                    an error that would occur again: no
"""

from collections.abc import Callable
import contextlib
import faulthandler
import glob
import importlib.util
import os
import select
import signal
import socket
import sys
import threading
import time
import zlib

import jax
from jax.experimental import multihost_utils
import numpy as np

from instructrl.runtime import exits

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h
EXIT_LOST = 76
HEARTBEAT_SECONDS = 20
JOIN_SECONDS = 300  # machines start at different times


class Stopped(KeyboardInterrupt):
  """SIGTERM arrived, and the state was saved."""


def initialize(
  coordinator: str = '', num_processes: int = 0, process_id: int = -1
) -> None:
  """Connects the processes. Call it before any computation.

  Args:
    coordinator: HOST:PORT of process 0; or 'auto', on clusters that JAX
      detects; or '', which is 'auto' on a TPU VM and a single process
      elsewhere.
    num_processes: the number of processes, with HOST:PORT.
    process_id: the index of this process, from 0, with HOST:PORT.

  Raises:
    ValueError: the arguments are inconsistent, JAX detects no cluster, or
      process 0 cannot listen at HOST:PORT.
  """
  # At its own limit JAX would abort and dump the stacks, so this one is later.
  options = dict(
    heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    initialization_timeout=2 * JOIN_SECONDS,
  )
  if ':' in coordinator:
    if not 0 <= process_id < num_processes:
      raise ValueError(
        f'--coordinator={coordinator} needs --num_processes (it is '
        f'{num_processes}) and --process_id, from 0 to one less (it is '
        f'{process_id})'
      )
    if process_id == 0:
      _check_port(coordinator)
    with _meeting(f'{num_processes} processes at {coordinator}'):
      jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        cluster_detection_method='deactivate',
        **options,
      )
    return
  if coordinator not in ('', 'auto'):
    raise ValueError(
      f"--coordinator={coordinator} is neither HOST:PORT nor 'auto'"
    )
  if num_processes or process_id >= 0:
    raise ValueError(
      '--num_processes and --process_id need --coordinator, '
      'which says where process 0 is (HOST:PORT)'
    )
  if not coordinator and not _on_tpu_vm():
    return
  try:
    with _meeting('all processes'):
      jax.distributed.initialize(**options)
  except ValueError as error:  # JAX's, if it detects no cluster
    if coordinator:
      raise ValueError(
        '--coordinator=auto: JAX knows no cluster here; give HOST:PORT, '
        '--num_processes and --process_id'
      ) from error


def _check_port(coordinator: str) -> None:
  """Raises a ValueError if process 0 cannot listen; JAX itself may crash."""
  both = socket.has_dualstack_ipv6()
  try:
    with socket.create_server(
      ('', int(coordinator.rpartition(':')[2])),
      dualstack_ipv6=both,
      family=socket.AF_INET6 if both else socket.AF_INET,
    ):
      pass
  except (OSError, OverflowError, ValueError) as error:
    raise ValueError(
      f'--coordinator={coordinator}: process 0 cannot listen there ({error}):'
      ' give a free port of its host'
    ) from error


@contextlib.contextmanager
def _meeting(whom: str):
  """Ends the process at a signal, or if the others do not join in time.

  JAX waits for them in C++, where Python's signal handlers do not run.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  before = signal.set_wakeup_fd(writer)
  watcher = threading.Thread(
    target=_watch_meeting, args=(reader, whom), daemon=True
  )
  watcher.start()
  try:
    if _sigterm.requested:  # and the exception was dropped, by a finalizer
      raise Stopped
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.write(writer, b'\0')
    watcher.join()
    os.close(reader)
    os.close(writer)


def _watch_meeting(reader: int, whom: str) -> None:
  statuses = {signal.SIGTERM: EXIT_STOPPED, signal.SIGINT: 128 + signal.SIGINT}
  began = time.monotonic()
  for wait in (min(10.0, JOIN_SECONDS), JOIN_SECONDS):
    while (left := began + wait - time.monotonic()) > 0:
      if not select.select([reader], [], [], left)[0]:
        break
      number = os.read(reader, 1)[0]
      if not number:
        return
      if number in statuses:
        print(
          'stopped before all processes joined', file=sys.stderr, flush=True
        )
        os._exit(statuses[number])
    if wait < JOIN_SECONDS:
      print(f'waiting for {whom}', file=sys.stderr, flush=True)
  print(
    f'error: waited {JOIN_SECONDS:.0f} s for {whom}, but not all joined: start '
    'the same command in each, with its --process_id',
    file=sys.stderr,
    flush=True,
  )
  os._exit(EXIT_LOST)


def _on_tpu_vm() -> bool:
  """Whether JAX would run on TPU chips of this machine."""
  platforms = os.environ.get('JAX_PLATFORMS', '')
  return (
    (not platforms or 'tpu' in platforms)
    and bool(importlib.util.find_spec('libtpu'))
    and bool(glob.glob('/dev/accel[0-9]*') or glob.glob('/dev/vfio/[0-9]*'))
  )


def primary() -> bool:
  """Returns whether this is process 0, the one that writes."""
  return jax.process_index() == 0


def agree(value: int) -> int:
  """Returns process 0's value; waits for all processes."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def share(array: np.ndarray) -> np.ndarray:
  """Returns process 0's array in all processes. Waits for all of them."""
  if jax.process_count() == 1:
    return array
  return np.asarray(multihost_utils.broadcast_one_to_all(array))


def largest(value: int) -> int:
  """Returns the largest value of all processes; waits for all of them."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.process_allgather(np.int32(value)).max())


def same(text: str) -> bool:
  """Returns whether all processes have the same text; waits for all."""
  own = zlib.crc32(text.encode()) & 0x7FFFFFFF
  return not largest(agree(own) != own)


def fetch(tree):
  """Copies a tree of device arrays to whole numpy arrays in every process."""

  def leaf(x):
    if getattr(x, 'is_fully_addressable', True) or x.is_fully_replicated:
      return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)

  return jax.tree.map(leaf, tree)


def is_loss(error: BaseException) -> bool:
  """Returns whether an error may mean that another process was lost.

  The connections of a lost process break before its heartbeat is missed, and a
  collective fails in JAX. Errors about memory or arguments have other causes.
  Orbax turns a failure at a barrier into a TimeoutError without a cause. An
  error that was raised from such a failure, e.g. of a save, counts too.
  """
  if isinstance(error, TimeoutError):
    return True
  if isinstance(error, jax.errors.JaxRuntimeError):
    return not any(
      kind in str(error) for kind in ('RESOURCE_EXHAUSTED', 'INVALID_ARGUMENT')
    )
  return error.__cause__ is not None and is_loss(error.__cause__)


class _Sigterm:
  """The handler of SIGTERM: stops at once, or after the current step."""

  def __init__(self):
    self.deferred = self.requested = False

  def __call__(self, number, frame):
    if exits.before_work():
      exits.end(number, frame)
    first, self.requested = not self.requested, True
    # Python drops exceptions in a finalizer; `stop_requested` is True even
    # then.
    if first and not self.deferred:
      raise Stopped


_sigterm = _Sigterm()
_polls = 0  # number of calls of `stop_requested`, equal in all processes


def handle_sigterm() -> None:
  """Makes SIGTERM raise `Stopped`. Call it before `initialize`.

  With several processes JAX handles the signal: it informs all processes, and
  they stop at the same call of `stop_requested`.
  """
  _sigterm.requested = False
  signal.signal(signal.SIGTERM, _sigterm)


@contextlib.contextmanager
def deferring_stop():
  """Defers SIGTERM to `stop_requested`.

  A second SIGTERM is deferred too: launchers send one to the process and one to
  its parents, which forward it.
  """
  _sigterm.deferred = True
  try:
    yield
  finally:
    _sigterm.deferred = False


def sigterm_came() -> bool:
  """Returns whether this process received SIGTERM; see `stop_requested`."""
  return _sigterm.requested


def stop_requested() -> bool:
  """Returns whether any process received SIGTERM.

  All processes must call this function equally often, e.g. after each step. It
  returns True in the same call in all of them.
  """
  global _polls
  if not jax.distributed.is_initialized():
    return _sigterm.requested
  _polls += 1
  return multihost_utils.reached_preemption_sync_point(_polls)


class Watchdog:
  """Ends the process if it hangs, and prints the stacks of all threads.

    with Watchdog(minimum=300.) as watchdog:
      for step in range(num_steps):
        watchdog.phase('step')
        ...

  A phase hangs if it takes longer than `minimum` seconds and longer than
  `factor` times the longest phase of the same name. The first phase of a name
  compiles: it may take `first` seconds and is not a measure for the others.
  Time in which the main thread compiles, or in which the process was stopped,
  does not count.
  """

  def __init__(
    self,
    *,
    minimum: float,
    factor: float = 10.0,
    first: float = 1800.0,
    poll: float = 1.0,
    end: Callable[[], None] = lambda: os._exit(EXIT_LOST),
  ):
    """Prepares the watchdog; `with` starts it.

    Args:
      minimum: seconds that any phase may take; 0 disables the watchdog.
      factor: how many times longer than all before a phase may take.
      first: seconds that the first phase of a name may take.
      poll: seconds between two checks.
      end: ends the process; replaced in tests.
    """
    self._minimum, self._factor, self._first = minimum, factor, first
    self._poll, self._end = poll, end
    # Name -> longest seconds; None after the first phase. A phase between two
    # checks counts as 0 seconds.
    self._longest = {}
    self._name, self._seconds = '', 0.0
    self._lock = threading.Lock()
    self._over = threading.Event()
    self._thread = None

  def phase(self, name: str) -> None:
    """Ends the current phase, if any, and begins another."""
    with self._lock:
      if self._name in self._longest:
        self._longest[self._name] = max(
          self._longest[self._name] or 0.0, self._seconds
        )
      elif self._name:
        self._longest[self._name] = None
      self._name, self._seconds = name, 0.0

  def limit(self, name: str) -> float:
    """Returns the seconds that a phase of this name may take."""
    if self._longest.get(name) is None:
      return max(self._first, self._minimum)
    return max(self._minimum, self._factor * self._longest[name])

  def __enter__(self):
    self._main = threading.get_ident()
    if self._minimum:
      self._thread = threading.Thread(
        target=self._watch, name='watchdog', daemon=True
      )
      self._thread.start()
    return self

  def __exit__(self, *error):
    self._over.set()
    if self._thread is not None:
      self._thread.join()

  def _watch(self) -> None:
    before = time.monotonic()
    while not self._over.wait(self._poll):
      now = time.monotonic()
      # A longer gap than a poll is time in which the process was stopped.
      passed, before = min(now - before, 2 * self._poll), now
      with self._lock:
        if self._compiling():
          continue
        self._seconds += passed
        name, limit = self._name, self.limit(self._name)
        if not name or self._seconds <= limit:
          continue
      print(
        f'error: process {jax.process_index()}: {name!r} has taken more '
        f'than {limit:.0f} s: it hangs, or waits for a process that hangs. '
        'The same command resumes from the last checkpoint. The stacks:',
        file=sys.stderr,
        flush=True,
      )
      faulthandler.dump_traceback(all_threads=True)
      self._end()
      return

  def _compiling(self) -> bool:
    frame = sys._current_frames().get(self._main)
    while frame is not None:
      if frame.f_code.co_filename.endswith('jax/_src/compiler.py'):
        return True
      frame = frame.f_back
    return False
