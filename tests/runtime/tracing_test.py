"""Profiler traces of some steps."""

import pathlib

import jax
import pytest

from instructrl.runtime import tracing


@pytest.mark.parametrize(
  'start, steps', [(0, (2, 3)), (2, (2, 3)), (0, (5, 9))]
)
def test_a_trace_of_the_steps_that_are_named(start, steps, monkeypatch):
  events = []
  monkeypatch.setattr(jax.profiler, 'start_trace', events.append)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: events.append('end'))

  def step_fn(state, index):
    events.append(index + 1)
    return state + 1

  step = tracing.traced(step_fn, steps, pathlib.Path('/run'))
  for index in range(start, 4):
    assert step(index, index) == index + 1
  assert (
    events
    == {
      (0, (2, 3)): [1, '/run/profile', 2, 3, 'end', 4],
      (2, (2, 3)): ['/run/profile', 3, 'end', 4],
      (0, (5, 9)): [1, 2, 3, 4],
    }[start, steps]
  )


def test_no_steps_change_nothing():
  assert tracing.traced(len, (), None) is len
