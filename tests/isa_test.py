"""Numbers hold with other instructions than those of this processor.

XLA compiles for the newest instructions that a processor has, which decide in
which order sums are added, and so how they are rounded. A tolerance that is
right on one machine only would fail on another.
"""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = '--xla_cpu_max_isa={} --xla_backend_optimization_level=3'
# Tests that compare computed numbers with other computed numbers.
NUMERIC = (
  'models',
  'losses_test.py',
  'losses_logprobs_test.py',
  'advantages_test.py',
  'masked_test.py',
  'sampling_test.py',
  'rollout_test.py',
  'stages/lm_test.py',
  'stages/ppo_steps_test.py',
)


def other_instructions() -> str | None:
  """Returns an instruction set older than this processor's, or None."""
  try:
    flags = pathlib.Path('/proc/cpuinfo').read_text().split()
  except OSError:
    return None
  if 'avx512f' in flags:
    return 'AVX2'
  return 'SSE4_2' if 'avx' in flags else None


@pytest.mark.slow
@pytest.mark.skipif(
  not other_instructions(), reason='no x86 processor with AVX on Linux'
)
def test_numbers_hold_with_other_instructions():
  isa = other_instructions()
  done = subprocess.run(
    [
      sys.executable,
      *('-m', 'pytest', '-q', '--tb=short', '-p', 'no:cacheprovider'),
      *(f'tests/{name}' for name in NUMERIC),
    ],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': FLAGS.format(isa)},
    capture_output=True,
    text=True,
    timeout=800,
  )
  assert done.returncode == 0, f'with {isa}:\n{done.stdout[-8000:]}'
