"""The settings of the C library that the commands make."""

import ctypes
import glob
import os
import subprocess
import sys
import types

import pytest

from instructrl.runtime import memory

ALL = {-8: 1, -3: 2**30, -1: 2**30}  # arenas, mmap and trim thresholds


def settings(monkeypatch, environment, devices=(), library=True):
  found = {}
  functions = {'mallopt': found.__setitem__} if library else {}
  for name in [*os.environ]:
    if name.startswith(('MALLOC_', 'GLIBC_', 'JAX_PLATFORMS')):
      monkeypatch.delenv(name)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setattr(
    ctypes, 'CDLL', lambda name: types.SimpleNamespace(**functions)
  )
  monkeypatch.setattr(
    glob, 'glob', lambda pattern: [d for d in devices if d in pattern]
  )
  memory.keep_freed_memory()
  return found


@pytest.mark.parametrize(
  'environment, devices',
  [
    ({}, ()),
    ({'JAX_PLATFORMS': 'cpu'}, ()),
    ({'JAX_PLATFORMS': 'cpu'}, ('/dev/nvidia',)),
  ],
)
def test_freed_memory_is_kept_where_jax_computes_on_the_cpu(
  monkeypatch, environment, devices
):
  assert settings(monkeypatch, environment, devices) == ALL


@pytest.mark.parametrize(
  'environment, devices, library',
  [
    ({'JAX_PLATFORMS': 'tpu'}, (), True),
    ({}, ('/dev/nvidia',), True),
    ({}, ('/dev/accel',), True),
    ({'MALLOC_ARENA_MAX': '4'}, (), True),
    ({'GLIBC_TUNABLES': 'glibc.malloc.arena_max=4'}, (), True),
    ({}, (), False),
  ],
)
def test_nothing_is_set_elsewhere(monkeypatch, environment, devices, library):
  assert not settings(monkeypatch, environment, devices, library)


@pytest.mark.skipif(
  not hasattr(ctypes.CDLL(None), 'mallopt'), reason='not the GNU C library'
)
def test_the_c_library_takes_the_settings():
  assert all(ctypes.CDLL(None).mallopt(*item) for item in ALL.items())


def test_importing_the_package_has_no_side_effects():
  """It sets nothing and imports nothing but what an empty module does."""
  code = (
    'import ctypes, os, sys\n'
    'ctypes.CDLL = None\n'
    'before, environment = {*sys.modules}, dict(os.environ)\n'
    'import instructrl\n'
    'assert dict(os.environ) == environment\n'
    'print(sorted({*sys.modules} - before))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], check=True, capture_output=True, text=True
  )
  assert done.stdout.strip() == "['instructrl']"


def test_garbage_is_collected_rarely_but_collected(monkeypatch):
  set_to = []
  monkeypatch.setattr(memory.gc, 'set_threshold', lambda *x: set_to.append(x))
  memory.collect_rarely()
  ((young, middle, old),) = set_to
  assert young > 100_000 and 0 < middle < 100 and 0 < old < 100
