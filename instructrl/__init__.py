"""instructrl: InstructGPT in JAX, from raw text to an aligned policy.

Pretraining, supervised fine-tuning, reward modelling and PPO(-ptx) after
Ouyang et al. 2022, "Training language models to follow instructions with human
feedback", with a simulated world in which every measurement of the paper has
a known right answer.
"""

import ctypes
import glob
import os

__version__ = '0.1.0'


def _keep_freed_memory():
  """Lets the C library keep what JAX frees, where JAX computes on the CPU.

  Each execution on a CPU allocates its buffers and frees them. glibc gives
  them back to the kernel, which clears each page when it is touched again: a
  fifth to a third of the time of a small training step. Up to 1 GiB is kept
  instead, in one arena, since those of other threads are always given back.
  It must be set before JAX starts its threads, thus here. Nothing is set where
  there is an accelerator, another C library, or a setting of the user's in the
  environment.
  """
  accelerators = (
    '/dev/nvidia[0-9]*',
    '/dev/accel*',
    '/dev/vfio/[0-9]*',
    '/dev/kfd',
  )
  platform = os.environ.get('JAX_PLATFORMS', '')
  if platform not in ('', 'cpu') or (
    not platform and any(map(glob.glob, accelerators))
  ):
    return
  if any(k.startswith(('MALLOC_', 'GLIBC_TUNABLES')) for k in os.environ):
    return
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return
  # The constants of malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD.
  for option, value in ((-8, 1), (-3, 2**30), (-1, 2**30)):
    mallopt(option, value)


_keep_freed_memory()
