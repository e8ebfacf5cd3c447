"""Several processes as one program: how they meet, agree, stop and are lost.

Every process runs the same program on its own devices; process 0 alone writes
what a run leaves behind. On TPU VMs they find each other; elsewhere each is
told where process 0 is (`initialize`). A process that dies ends the others
within about 20 seconds, by JAX's heartbeats; one that hangs is ended by its
`Watchdog`, and the others with it. SIGTERM, which announces a preemption, stops
all of them after the same step (`stop_requested`).

A launcher tells by the exit status whether to start the same command again:
EXIT_STOPPED after SIGTERM, EXIT_LOST or JAX's own abort (134) when a process
was lost. Status 1 is an error that would come again.
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

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h
EXIT_LOST = 76
HEARTBEAT_SECONDS = 20
JOIN_SECONDS = 300  # machines do not start at the same moment


class Stopped(KeyboardInterrupt):
  """SIGTERM came; what is to be saved was saved."""


def initialize(
  coordinator: str = '', num_processes: int = 0, process_id: int = -1
) -> None:
  """Joins the processes; call it before anything is computed.

  Args:
    coordinator: HOST:PORT of process 0. 'auto' asks JAX to find the others, on
      clusters that it knows. Empty is 'auto' on a TPU VM, and one process
      elsewhere.
    num_processes: how many there are, with HOST:PORT.
    process_id: which of them this is, from 0.

  Raises:
    ValueError: the three do not go together, or there is no cluster to find,
      or process 0 cannot listen there.
  """
  # JAX's own limit would abort with a dump of the stacks.
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
  except ValueError as error:  # JAX's, where it knows no way to find others
    if coordinator:
      raise ValueError(
        '--coordinator=auto: JAX knows no cluster here; give HOST:PORT, '
        '--num_processes and --process_id'
      ) from error


def _check_port(coordinator: str) -> None:
  """Refuses where process 0 cannot listen; JAX's own failure may crash it."""
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
  """Ends the process at a signal, or when the others do not come.

  JAX waits for them outside of Python, where no handler of a signal runs.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  before = signal.set_wakeup_fd(writer)
  watcher = threading.Thread(
    target=_watch_meeting, args=(reader, whom), daemon=True
  )
  watcher.start()
  try:
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
        print('stopped before all had met', file=sys.stderr, flush=True)
        os._exit(statuses[number])
    if wait < JOIN_SECONDS:
      print(f'waiting for {whom}', file=sys.stderr, flush=True)
  print(
    f'error: waited {JOIN_SECONDS:.0f} s for {whom}, and not all came: '
    'start the same command in each, with its --process_id',
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
  """Whether this is process 0, which writes."""
  return jax.process_index() == 0


def agree(value: int) -> int:
  """Process 0's value, in all processes. Waits for all of them."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def largest(value: int) -> int:
  """The largest value of all processes. Waits for all of them."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.process_allgather(np.int32(value)).max())


def same(text: str) -> bool:
  """Whether all processes have the same text. Waits for all of them."""
  own = zlib.crc32(text.encode()) & 0x7FFFFFFF
  return not largest(agree(own) != own)


def fetch(tree):
  """Whole numpy arrays of a tree of device arrays, in every process."""

  def leaf(x):
    if getattr(x, 'is_fully_addressable', True) or x.is_fully_replicated:
      return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)

  return jax.tree.map(leaf, tree)


def is_loss(error: BaseException) -> bool:
  """Whether an error may mean that another process was lost.

  Its connections break before its heartbeat is missed, and then a collective
  of JAX fails; not for want of memory, or because it makes no sense. What that
  made fail, such as a save, has it for its cause.
  """
  if isinstance(error, jax.errors.JaxRuntimeError):
    return not any(
      kind in str(error) for kind in ('RESOURCE_EXHAUSTED', 'INVALID_ARGUMENT')
    )
  return error.__cause__ is not None and is_loss(error.__cause__)


class _Sigterm:
  """What SIGTERM does: it stops at once, or after the step under way."""

  def __init__(self):
    self.deferred = self.requested = False

  def __call__(self, number, frame):
    del number, frame
    first, self.requested = not self.requested, True
    # Where Python drops what is raised, as in a finalizer, `stop_requested`
    # still tells.
    if first and not self.deferred:
      raise Stopped


_sigterm = _Sigterm()
_polls = 0  # of `stop_requested`, the same in all processes


def handle_sigterm() -> None:
  """Makes SIGTERM raise `Stopped`; call it before `initialize`.

  With several processes JAX takes the signal over: a process that got it tells
  the others, and nothing happens before all meet in `stop_requested`.
  """
  _sigterm.requested = False
  signal.signal(signal.SIGTERM, _sigterm)


@contextlib.contextmanager
def deferring_stop():
  """SIGTERM waits for `stop_requested` here.

  So does a second one: launchers send it to a process and to its parents, which
  send it on.
  """
  _sigterm.deferred = True
  try:
    yield
  finally:
    _sigterm.deferred = False


def stop_requested() -> bool:
  """Whether SIGTERM came; with several processes, to any of them.

  Every process must call it equally often, as after each step: all of them get
  True from the same call.
  """
  global _polls
  if not jax.distributed.is_initialized():
    return _sigterm.requested
  _polls += 1
  return multihost_utils.reached_preemption_sync_point(_polls)


class Watchdog:
  """Ends the process when it hangs, with the stacks of all threads.

    with Watchdog(minimum=300.) as watchdog:
      for step in range(num_steps):
        watchdog.phase('step')
        ...

  A phase hangs when it takes longer than `minimum` seconds and `factor` times
  the longest phase of its name. The first phase of a name, which compiles and
  is no measure, may take `first`. Time in which the main thread compiles does
  not count, nor time in which the process itself was stopped.
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
    """Prepares it; `with` starts it.

    Args:
      minimum: seconds that any phase may take; 0 = never ends the process.
      factor: how much longer than those before a phase may take.
      first: seconds that the first phase of a name may take.
      poll: seconds between two looks.
      end: what ends the process, for tests.
    """
    self._minimum, self._factor, self._first = minimum, factor, first
    self._poll, self._end = poll, end
    # Name -> seconds, None after its first phase. What ends between two looks
    # took 0, and is a measure all the same.
    self._longest = {}
    self._name, self._seconds = '', 0.0
    self._lock = threading.Lock()
    self._over = threading.Event()
    self._thread = None

  def phase(self, name: str) -> None:
    """Ends the phase under way, if any, and begins one."""
    with self._lock:
      if self._name in self._longest:
        self._longest[self._name] = max(
          self._longest[self._name] or 0.0, self._seconds
        )
      elif self._name:
        self._longest[self._name] = None
      self._name, self._seconds = name, 0.0

  def limit(self, name: str) -> float:
    """Seconds that a phase of this name may take."""
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
      # What is longer than a poll is time in which nothing ran here.
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
        f'than {limit:.0f} s: it hangs, or waits for a process that does. '
        'The same command goes on from the last checkpoint. What it was '
        'doing:',
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
