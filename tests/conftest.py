"""Settings of the whole test suite.

Every test sees 8 simulated CPU devices, so that a test of sharding is an
ordinary test; what means to run on one device takes `jax.devices()[:1]`. The
settings stand in the environment before JAX is imported, so that the processes
a test starts have them too.

Most of a test's time is compilation, so LLVM optimizes nothing, and short
compilations are cached as well: programs run briefly here, and many tests run
the same stage. `isa_test.py` has LLVM's optimizations. Rare garbage
collections, and operations that do not note the lines they come from, save an
eighth of the time.

Tests marked `slow` run with `--all` (or when chosen by `-m slow`).
"""

import collections
import os
import pathlib
import signal

from instructrl.runtime import memory

CACHE = pathlib.Path(__file__).resolve().parent / '.cache'
FLAGS = {
  '--xla_force_host_platform_device_count': 8,
  '--xla_backend_optimization_level': 0,
}

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.05')
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')
for flag, value in FLAGS.items():
  if flag not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = (
      f'{os.environ.get("XLA_FLAGS", "")} {flag}={value}'
    )

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  # A shell starts programs in the background with Ctrl-C ignored, and so would
  # be the processes to which tests send it.
  signal.signal(signal.SIGINT, signal.default_int_handler)
memory.collect_rarely()
memory.keep_freed_memory()


def pytest_addoption(parser):
  parser.addoption(
    '--all', action='store_true', help='run the tests marked slow as well'
  )


def pytest_collection_modifyitems(config, items):
  """Leaves out slow tests, and puts files with the largest share of them first.

  A file whose one test takes minutes would leave the other processes without
  work at the end.
  """
  slow = [item for item in items if item.get_closest_marker('slow')]
  total = collections.Counter(item.path for item in items)
  long = collections.Counter(item.path for item in slow)
  if slow and not (config.getoption('--all') or config.getoption('-m')):
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]
  items.sort(key=lambda i: (-long[i.path] / total[i.path], -total[i.path]))


def pytest_terminal_summary(terminalreporter):
  """Prints the counts of tests/faults, also those of other processes."""
  for report in terminalreporter.getreports('passed'):
    for name, line in report.user_properties:
      if name == 'faults':
        terminalreporter.write_line(line)
