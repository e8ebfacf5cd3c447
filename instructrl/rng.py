"""Random keys as functions of (seed, purpose, step).

No key is stored, and none is split from a running key. So a resumed run draws
the same numbers, and two uses never share a key.
"""

import enum

import chex
import jax


class Purpose(enum.IntEnum):
  """The use of a key. Add at the end: a changed number changes every run."""

  INIT = 0  # parameters of a fresh model
  HEAD_INIT = 1  # the scalar head of the reward and the value model
  DROPOUT = 2  # residual dropout of SFT
  ROLLOUT = 3  # responses sampled in PPO
  MINIBATCH = 4  # the order of minibatches in a PPO update
  CANDIDATES = 5  # responses sampled for labelers to rank
  EVALUATION = 6  # responses sampled to be judged
  PROBE = 7  # continuations sampled for the probes
  SAMPLE = 8  # responses sampled on request
  BENCHMARK = 9  # synthetic data of benchmarks


def key(
  seed: chex.Numeric, purpose: Purpose, step: chex.Numeric = 0
) -> jax.Array:
  """Makes the key for one use at one step.

  Args:
    seed: [] the run's seed (`train_seed`, or `eval_seed` for evaluations);
      may be traced.
    purpose: the use of the key.
    step: [] integer, the step or iteration; may be traced.

  Returns:
    [] typed threefry key. The implementation is explicit, so JAX's global
    default cannot change the meaning of a seed.
  """
  base = jax.random.key(seed, impl='threefry2x32')
  return jax.random.fold_in(jax.random.fold_in(base, int(purpose)), step)
