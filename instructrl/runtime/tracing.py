"""Profiler traces of some steps of a run."""

from collections.abc import Callable, Sequence
import pathlib

import jax

FOLDER = 'profile'


def traced(
  step_fn: Callable, steps: Sequence[int], workdir: pathlib.Path
) -> Callable:
  """Returns a step function that writes a trace of some steps.

  Args:
    step_fn: (state, index) -> result; the number of a step is its index + 1.
    steps: (first, last) number, or () for no trace.
    workdir: the run folder; the trace is in its `profile`.
  """
  if not steps:
    return step_fn
  first, last = steps
  active = False

  def step(state, index):
    nonlocal active
    if first <= index + 1 <= last and not active:
      jax.profiler.start_trace(str(workdir / FOLDER))
      active = True
    result = step_fn(state, index)
    if active and index + 1 == last:
      jax.block_until_ready(result)
      jax.profiler.stop_trace()
      active = False
    return result

  return step
