"""One process's part: flags, signals, the watchdog. Two real processes are in
tests/stages/processes_test.py.
"""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import numpy as np
import pytest

from instructrl.runtime import processes


@pytest.mark.parametrize(
  'arguments, reason',
  [
    (
      ('host:1', 0, -1),
      r'--coordinator=host:1 needs --num_processes \(it is 0',
    ),
    (('host:1', 2, 2), r'and --process_id, from 0 to one less \(it is 2\)'),
    (('host', 2, 0), "neither HOST:PORT nor 'auto'"),
    (('', 2, 0), '--num_processes and --process_id need --coordinator'),
  ],
)
def test_flags_that_do_not_go_together(arguments, reason):
  with pytest.raises(ValueError, match=reason):
    processes.initialize(*arguments)


def test_a_port_that_is_taken_is_told_in_one_line():
  code = """
      import socket, sys
      from instructrl.runtime import command
      sys.argv = ['x']
      from instructrl.runtime import processes
      with socket.socket(socket.AF_INET6) as taken:
        taken.bind(('::', 0))
        taken.listen()
        port = taken.getsockname()[1]
        print('ready', flush=True)
        join = lambda: processes.initialize(f'localhost:{port}', 2, 0)
        command.run_door(join)
      """
  status, _, err = run(code, 0)
  assert status == 1 and 'Traceback' not in err
  assert (
    err.startswith('error: --coordinator=localhost:')
    and 'cannot listen there' in err
  )


def test_a_cluster_that_is_not_there_is_not_found():
  """In a process of its own: JAX only looks before it computes anything."""
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      'from instructrl.runtime import processes\nprocesses.initialize("auto")',
    ],
    text=True,
    capture_output=True,
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
    timeout=120,
  )
  assert done.stderr.splitlines()[-1].startswith(
    'ValueError: --coordinator=auto: JAX knows no cluster here'
  )


def test_one_process_is_the_primary_and_agrees_with_itself():
  processes.initialize()
  assert not jax.distributed.is_initialized()
  assert processes.primary() and not processes.stop_requested()
  assert processes.agree(3) == processes.largest(3) == 3


def test_fetch_gives_whole_arrays():
  mesh = jax.make_mesh((8,), ('data',))
  rows = jax.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  tree = {'a': jax.device_put(np.arange(16), rows), 'b': np.ones(2)}
  found = processes.fetch(tree)
  assert isinstance(found['a'], np.ndarray)
  np.testing.assert_array_equal(found['a'], np.arange(16))
  np.testing.assert_array_equal(found['b'], np.ones(2))


@pytest.mark.parametrize(
  'message, lost',
  [
    ('UNAVAILABLE: Connection reset by peer', True),
    ('INTERNAL: Gloo all-reduce failed', True),
    ('RESOURCE_EXHAUSTED: Out of memory', False),
    ('INVALID_ARGUMENT: shapes differ', False),
  ],
)
def test_only_broken_connections_are_a_lost_process(message, lost):
  assert processes.is_loss(jax.errors.JaxRuntimeError(message)) == lost
  error = RuntimeError('step 3 could not be written')
  assert not processes.is_loss(error)
  error.__cause__ = jax.errors.JaxRuntimeError(message)
  assert processes.is_loss(error) == lost


def test_a_save_that_waits_in_vain_for_the_others_lost_one():
  error = RuntimeError('step 3 could not be written')
  error.__cause__ = TimeoutError("Timeout waiting at barrier 'save'")
  assert processes.is_loss(error)
  error.__cause__ = OSError(28, 'No space left on device')
  assert not processes.is_loss(error)


def run(code, number, after='ready'):
  """Sends a signal to a program that says `after`; (status, stdout, stderr)."""
  process = subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(code)],
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
  )
  assert process.stdout.readline().strip() == after
  process.send_signal(number)
  out, err = process.communicate(timeout=60)
  return process.returncode, out, err


def test_a_sigterm_that_a_finalizer_dropped_ends_the_wait_for_others():
  status, _, err = run(
    """
      import gc, socket, time
      from instructrl.runtime import processes
      processes.handle_sigterm()
      with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
      class Slow:
        def __del__(self):
          print('ready', flush=True)
          time.sleep(60)
      Slow()  # the exception ends the sleep, and is dropped
      try:
        processes.initialize(f'localhost:{port}', 2, 0)
      except processes.Stopped:
        raise SystemExit(7)
    """,
    signal.SIGTERM,
  )
  assert (status, 'Exception ignored' in err) == (7, True)


def test_sigterm_waits_for_the_end_of_a_step():
  status, out, _ = run(
    """
      import time
      from instructrl.runtime import processes
      processes.handle_sigterm()
      with processes.deferring_stop():
        print('ready', flush=True)
        while not processes.stop_requested():
          time.sleep(.01)
        print('saved', flush=True)
      try:
        raise processes.Stopped
      except KeyboardInterrupt:
        print('closed', flush=True)
      """,
    signal.SIGTERM,
  )
  assert (status, out) == (0, 'saved\nclosed\n')


def test_only_the_first_sigterm_counts():
  code = """
      import os, signal, time
      from instructrl.runtime import processes
      processes.handle_sigterm()
      with processes.deferring_stop():
        print('ready', flush=True)
        while not processes.stop_requested():
          time.sleep(.01)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(.1)
        print('saved', flush=True)
      """
  assert run(code, signal.SIGTERM)[:2] == (0, 'saved\n')


def test_a_sigterm_that_python_drops_still_stops_the_run():
  """As one does that comes while an object is finalized."""
  code = """
      import os, signal
      from instructrl.runtime import processes
      processes.handle_sigterm()
      class Finalized:
        def __del__(self):
          print('ready', flush=True)
          import time; time.sleep(30)
      try:
        Finalized()
        with processes.deferring_stop():
          print(processes.stop_requested())
      except KeyboardInterrupt:
        print('raised')
      """
  status, out, err = run(code, signal.SIGTERM)
  assert (status, out) == (0, 'True\n') and 'Exception ignored' in err


@pytest.mark.parametrize(
  'number, status, says',
  [
    (
      signal.SIGTERM,
      processes.EXIT_STOPPED,
      'stopped before all processes joined',
    ),
    (signal.SIGINT, 130, 'stopped before all processes joined'),
    (0, processes.EXIT_LOST, 'error: waited 2 s for 2 processes at local'),
  ],
)
def test_a_process_that_waits_for_the_others_can_be_stopped(
  number, status, says
):
  code = f"""
      import os, signal, socket, threading
      from instructrl.runtime import processes
      signal.signal(signal.SIGINT, signal.default_int_handler)
      processes.handle_sigterm()
      processes.JOIN_SECONDS = 2
      with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
      print('ready', flush=True)
      # When JAX is at it.
      threading.Timer(1, os.kill, (os.getpid(), {int(number)})).start()
      processes.initialize(f'localhost:{{port}}', 2, 0)
      """
  found, _, err = run(code, 0)
  assert found == status and says in err


# --- The watchdog ------------------------------------------------------------


class Fake:
  """A watchdog that polls quickly and only notes that it would have ended."""

  def __init__(self, **options):
    self.ended = threading.Event()
    self.dog = processes.Watchdog(
      **{
        'minimum': 0.2,
        'factor': 4.0,
        'first': 0.6,
        'poll': 0.02,
        'end': self.ended.set,
        **options,
      }
    )

  def __enter__(self):
    self.dog.__enter__()
    return self

  def __exit__(self, *error):
    self.dog.__exit__()


def test_a_phase_that_hangs_ends_the_process_and_says_where(capfd):
  with Fake() as fake:
    for _ in range(3):
      fake.dog.phase('step')
      time.sleep(0.04)
    fake.dog.phase('step')
    assert fake.ended.wait(5)
  error = capfd.readouterr().err
  assert "process 0: 'step' has taken more than 0 s: it hangs" in error
  assert 'test_a_phase_that_hangs' in error  # the stack


def test_the_limit_scales_with_the_longest_phase_of_its_name():
  dog = processes.Watchdog(minimum=5, factor=10, first=100)
  assert dog.limit('step') == 100
  for seconds in (70, 2, 1, 0.1):
    dog.phase('step')
    dog._seconds = seconds
  dog.phase('evaluation')
  assert dog.limit('step') == 20  # the first phase is no measure
  dog.phase('step')
  assert dog.limit('evaluation') == 100


def test_steps_quicker_than_a_look_are_a_measure_too():
  with Fake(poll=60.0, first=1800.0) as fake:
    for _ in range(3):
      fake.dog.phase('step')
    assert fake.dog.limit('step') == 0.2


def test_phases_that_go_on_do_not_end_the_process():
  with Fake() as fake:
    for _ in range(20):
      fake.dog.phase('step')
      time.sleep(0.04)
    assert not fake.ended.is_set()


def test_a_watchdog_can_be_switched_off():
  with Fake(minimum=0.0, first=0.05) as fake:
    fake.dog.phase('step')
    assert not fake.ended.wait(0.3)


def test_compilation_does_not_count(monkeypatch):
  """The main thread is in XLA's compiler for longer than a step may take."""
  with Fake(first=0.1, minimum=0.1) as fake:
    fake.dog.phase('step')
    code = compile(
      'import time; time.sleep(.5)', 'x/jax/_src/compiler.py', 'exec'
    )
    exec(code)
    assert not fake.ended.is_set()
    assert fake.ended.wait(5)


def test_jax_compiles_where_the_watchdog_looks():
  """The file is private to JAX: this fails if it moves."""
  seen = []
  dog = processes.Watchdog(minimum=1)
  dog._main = threading.get_ident()

  def look():
    while not over.is_set():
      seen.append(dog._compiling())
      time.sleep(0.002)

  over = threading.Event()
  thread = threading.Thread(target=look)
  thread.start()

  def long_program(x):
    for i in range(200):
      x = jax.numpy.sin(x @ x) + i * time.time()  # in no cache
    return x

  jax.jit(long_program)(np.ones((4, 4)))
  over.set()
  thread.join()
  assert any(seen)
