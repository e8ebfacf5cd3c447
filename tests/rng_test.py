import itertools

import jax
import numpy as np

from instructrl import rng


def data(key):
  return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_the_key_is_a_function_of_its_arguments():
  first = rng.key(3, rng.Purpose.ROLLOUT, 7)
  assert data(first) == data(rng.key(3, rng.Purpose.ROLLOUT, 7))
  traced = jax.jit(lambda step: rng.key(3, rng.Purpose.ROLLOUT, step))
  assert data(first) == data(traced(7))
  assert data(rng.key(3, rng.Purpose.INIT)) == data(
    rng.key(3, rng.Purpose.INIT, 0)
  )


def test_no_two_uses_share_a_key():
  keys = [
    data(rng.key(seed, purpose, step))
    for seed, purpose, step in itertools.product(
      (0, 1, 2), rng.Purpose, (0, 1, 2)
    )
  ]
  assert len(set(keys)) == len(keys)


def test_the_numbers_of_the_purposes_stay():
  # A purpose that changes its number changes the result of every run.
  assert {purpose.name: purpose.value for purpose in rng.Purpose} == {
    'INIT': 0,
    'HEAD_INIT': 1,
    'DROPOUT': 2,
    'ROLLOUT': 3,
    'MINIBATCH': 4,
    'CANDIDATES': 5,
    'EVALUATION': 6,
    'PROBE': 7,
    'SAMPLE': 8,
    'BENCHMARK': 9,
  }
  assert data(rng.key(0, rng.Purpose.ROLLOUT, 1)) == GOLDEN


GOLDEN = (2060067018, 3241019684)
