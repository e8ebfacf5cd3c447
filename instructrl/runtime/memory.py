"""Settings of Python's garbage collector and the C library's allocator."""

import ctypes
import gc
import glob
import os


def keep_freed_memory():
  """Makes the C library keep memory that JAX frees, if JAX uses the CPU.

  Each execution on a CPU allocates its buffers and frees them. By default glibc
  returns them to the kernel, which clears each page on the next use: a fifth to
  a third of the time of a small training step. With these settings glibc keeps
  up to 1 GiB. It uses one arena, because glibc always returns the memory of the
  others. Call this function before JAX starts its threads. It does nothing on a
  machine with an accelerator, with another C library, or if the environment
  configures the allocator.
  """
  devices = ('nvidia[0-9]*', 'accel*', 'vfio/[0-9]*', 'kfd')
  accelerators = any(glob.glob(f'/dev/{name}') for name in devices)
  platform = os.environ.get('JAX_PLATFORMS', '')
  if platform not in ('', 'cpu') or not platform and accelerators:
    return
  if any(k.startswith(('MALLOC_', 'GLIBC_TUNABLES')) for k in os.environ):
    return
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return
  # The constants of malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD.
  for option, value in ((-8, 1), (-3, 2**30), (-1, 2**30)):
    mallopt(option, value)


def collect_rarely():
  """Makes Python look for unreachable cycles less often.

  Traces make millions of objects that live long, and each collection visits
  them: a twentieth of the time of a stage with few steps.
  """
  gc.set_threshold(200_000, 20, 50)
