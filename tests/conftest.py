"""Settings of the whole test suite.

Every test sees 8 simulated CPU devices, so that a test of sharding is an
ordinary test; what means to run on one device takes `jax.devices()[:1]`. The
settings stand in the environment before JAX is imported, so that the processes
a test starts have them too.

Tests marked `slow` run with `--all` (or when chosen by `-m slow`).
"""

import os
import pathlib

from instructrl.runtime import memory

CACHE = pathlib.Path(__file__).resolve().parent / '.cache'
DEVICES = '--xla_force_host_platform_device_count'

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')
if DEVICES not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {DEVICES}=8'


memory.keep_freed_memory()


def pytest_addoption(parser):
  parser.addoption(
    '--all', action='store_true', help='run the tests marked slow as well'
  )


def pytest_collection_modifyitems(config, items):
  if config.getoption('--all') or config.getoption('-m'):
    return
  slow = [item for item in items if item.get_closest_marker('slow')]
  if slow:
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not item.get_closest_marker('slow')]


def pytest_terminal_summary(terminalreporter):
  """Prints the counts of tests/faults, also those of other processes."""
  for report in terminalreporter.getreports('passed'):
    for name, line in report.user_properties:
      if name == 'faults':
        terminalreporter.write_line(line)
