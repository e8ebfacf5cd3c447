"""Values that pass between layers: training state, batches, rollouts.

Axis legend (used in every file of the package):
  B batch, T tokens, P prompt, R response (T = P + R), K responses per prompt,
  V vocabulary, D model width, L layers, H heads, C cache columns.

Every class is a frozen dataclass that is registered as a pytree, so `jax.jit`
accepts it, and it can be donated, sharded and checkpointed.
"""

import dataclasses
from typing import Any, dataclass_transform, TypeVar

import jax

Params = Any  # a nested dict of arrays


T = TypeVar('T')


@dataclass_transform(kw_only_default=True)
def pytree(cls: type[T]) -> type[T]:
  """Makes `cls` a frozen dataclass and a pytree of all its fields."""
  cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
  return jax.tree_util.register_dataclass(cls)


@pytree
class TrainState:
  """The state of training. `step` counts finished optimizer steps.

  For PPO `step` counts iterations, and `params` is
  `{'policy': ..., 'value': ...}`; `opt_state` has the same keys.
  """

  step: jax.Array  # [] int32
  params: Params
  opt_state: Any
  ema_params: Params | None = None  # same tree as the averaged parameters
  kl_coef: jax.Array | None = None  # [] float32; PPO only


@pytree
class LMBatch:
  """Packed language-model rows. Targets are already shifted."""

  tokens: jax.Array  # [B, T] int32
  targets: jax.Array  # [B, T] int32, the token that follows
  loss_mask: jax.Array  # [B, T] bool, whether the target counts
  positions: jax.Array  # [B, T] int32, restarts with each example
  segment_ids: jax.Array  # [B, T] int32, 0 = padding, then 1, 2, ...


# The segment id of tokens that all later segments of the row attend to.
PREFIX = -1


@pytree
class RankingBatch:
  """K-way rankings.

  Each row has one prompt, once, and then its K responses: T columns in all. A
  response attends to the prompt and to itself.
  """

  tokens: jax.Array  # [B, T] int32
  segment_ids: jax.Array  # [B, T] int32, PREFIX, then 1..K; 0 = padding
  positions: jax.Array  # [B, T] int32, as if each response came first
  last: jax.Array  # [B, K] int32, column of the last token of each response
  ranks: jax.Array  # [B, K] int32, dense, 0 = best, equal = tie
  valid: jax.Array  # [B, K] bool, False where the prompt has fewer than K


@pytree
class PromptBatch:
  """Prompts, left-padded."""

  tokens: jax.Array  # [B, P] int32
  mask: jax.Array  # [B, P] bool
  index: jax.Array  # [B] int32, index of the example in the data set


@pytree
class Rollout:
  """The experience of one PPO iteration. Responses start at column P.

  Prompts are left-padded to P, responses right-padded to R; an empty response
  is [EOS]. Everything but `tokens`, `prompt_mask` and `scores` is aligned with
  the response: column t belongs to the action `tokens[:, P + t]`.
  """

  tokens: jax.Array  # [B, P + R] int32
  prompt_mask: jax.Array  # [B, P] bool
  response_mask: jax.Array  # [B, R] bool, up to and including EOS
  old_logprobs: jax.Array  # [B, R] float32, of the behaviour policy
  ref_logprobs: jax.Array  # [B, R] float32, of the frozen reference
  old_values: jax.Array  # [B, R] float32, read before each action
  kl: jax.Array  # [B, R] float32, per-token k1 estimate
  rewards: jax.Array  # [B, R] float32
  advantages: jax.Array  # [B, R] float32, whitened over the iteration
  returns: jax.Array  # [B, R] float32
  scores: jax.Array  # [B] float32, raw reward-model output
