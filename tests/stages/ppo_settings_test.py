"""The numbers of PPO are declared once, with bounds and a doc line each."""

import dataclasses
import math

import pytest

from instructrl.stages import ppo_settings


def test_the_defaults_are_within_their_bounds():
  assert ppo_settings.faults(ppo_settings.defaults()) == []


def test_every_field_says_what_it_is():
  for field in dataclasses.fields(ppo_settings.Settings):
    assert len(field.metadata['doc']) > 10, field.name


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'clip_eps': 1.0},
      'ppo.clip_eps must be greater than 0 and less than 1; got 1.0 (clip '
      'range of the ratio (C.4))',
    ),
    (
      {'top_p': 0.5},
      'ppo.top_p must be 1; got 0.5 (only 1 is allowed: PPO needs the '
      'log-probs of the whole distribution)',
    ),
    (
      {'missing_eos': 'no'},
      "ppo.missing_eos must be one of none, penalty, fixed; got 'no' "
      '(change of the score of a response without an end)',
    ),
    (
      {'microbatch_size': 5},
      'ppo.microbatch_size must divide the minibatch_size, 64; got 5',
    ),
    (
      {'rollout_slots': 100, 'generate_microbatch_size': 64},
      'ppo.generate_microbatch_size must be 0 with ppo.rollout_slots=100; '
      'got 64',
    ),
  ],
)
def test_a_fault_gives_name_bounds_and_value(changes, message):
  assert ppo_settings.faults({**ppo_settings.defaults(), **changes}) == [
    message
  ]


def test_every_fault_is_found():
  """A field without bounds would let NaN pass."""
  values = ppo_settings.defaults()
  floats = [name for name, x in values.items() if isinstance(x, float)]
  found = ppo_settings.faults({**values, **dict.fromkeys(floats, math.nan)})
  assert [message.split()[0] for message in found] == [
    f'ppo.{name}' for name in floats
  ]


@pytest.mark.parametrize(
  'decay, updates, message',
  [
    (0.99, 8, 'half-life of 69 updates, and the run has only 8: 92% of its av'),
    (0.99, 8, 'is still the start. 0.99 is used; 0.71 would have four half-l'),
    (0.99, 300, ''),
    (0.0, 1, ''),
  ],
)
def test_an_average_that_keeps_the_start_is_a_warning(decay, updates, message):
  values = ppo_settings.defaults() | {'ema_decay': decay}
  values |= {'minibatch_size': 512, 'num_iterations': updates}
  assert ppo_settings.faults(values) == []
  found = ppo_settings.warning(values)
  assert message in found and bool(message) == bool(found)
