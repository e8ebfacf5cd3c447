"""Counts the FLOPs that a model needs, from its architecture.

Only matrix products count, with 2 FLOPs per multiply-add. Per token:

  layers     2 * layers * (query, key, value and output projections, and MLP)
  attention  4 * layers * heads * head width * columns that a token attends to:
             (length + 1) / 2 if causal; fewer in a layer with a window
  logits     2 * d_model * vocabulary, for the tokens that need logits

A backward pass counts as two forward passes. Rematerialisation does not count.
"""

import collections
from collections.abc import Sequence
import time

import jax

from instructrl import rng
from instructrl.models.block import MLPS
from instructrl.models.network import Transformer
from instructrl.stages.ppo_settings import Settings


def measure_peak(dtype: str, tries: int = 7) -> float:
  """Returns the best FLOP/s of several large matrix products on one device."""
  n = 2048 if jax.default_backend() == 'cpu' else 8192
  a = jax.random.normal(rng.key(0, rng.Purpose.BENCHMARK), (n, n)).astype(dtype)
  product = jax.jit(lambda a: a @ a)
  jax.block_until_ready(product(a))
  best = float('inf')
  for _ in range(tries):
    began = time.perf_counter()
    jax.block_until_ready(product(a))
    best = min(best, time.perf_counter() - began)
  return 2 * n**3 / best


def trained(
  module: Transformer, tokens: int, length: int, logits: int = 0
) -> float:
  """Returns the FLOPs of a forward and a backward pass; see `forward`.

  Frozen layers, which are the lowest, have no backward pass. A frozen
  unembedding, which is tied, has no gradient of its own.
  """
  m = module
  layers = forward(m, tokens, length)
  of_logits = forward(m, tokens, length, logits) - layers
  backward = 2 * layers * (1 - m.frozen_layers / m.num_layers)
  products = 1 if m.frozen_layers and m.tie_embeddings else 2
  return layers + of_logits + backward + products * of_logits


def forward(
  module: Transformer,
  tokens: int,
  length: int,
  logits: int = 0,
  before: int = 0,
) -> float:
  """Returns the FLOPs of a forward pass.

  Args:
    module: the architecture.
    tokens: tokens of all examples.
    length: tokens of each example.
    logits: number of tokens that need logits.
    before: tokens before each example that are computed already (cached).
  """
  m = module
  width = m.head_dim or m.d_model // m.num_heads
  kv_heads = m.num_kv_heads or m.num_heads
  projections = m.d_model * width * (2 * m.num_heads + 2 * kv_heads)
  matrices = 3 if MLPS[m.mlp][0] else 2
  mlp = matrices * m.d_model * (m.d_ff or 4 * m.d_model)
  seen = sum(_seen(m.kinds[kind], length, before) for kind in m.kind_of_layer)
  attention = 4 * m.num_heads * width * seen
  return (
    tokens * (m.num_layers * 2 * (projections + mlp) + attention)
    + 2.0 * m.d_model * m.vocab_size * logits
  )


def _seen(window: int, length: int, before: int) -> float:
  """Returns the mean columns that a token attends to, its own included.

  A window of 0 is no window.
  """
  first, last = before + 1, before + length
  if not window or window >= last:
    return (first + last) / 2
  growing = max(0, window - before)  # tokens that attend to all before them
  return (growing * (first + window) / 2 + (length - growing) * window) / length


def ranking_trained(
  module: Transformer, prompt_len: int, response_lens: Sequence[int]
) -> float:
  """Returns the FLOPs of a forward and backward pass of one ranking.

  The prompt is computed once; each response attends to it and to itself.
  """
  return 3 * (
    forward(module, prompt_len, prompt_len)
    + sum(forward(module, n, n, before=prompt_len) for n in response_lens)
  )


def ppo(
  policy: Transformer,
  scalar: Transformer,
  settings: Settings,
  *,
  lengths: Sequence[tuple[int, int]] = (),
  num_rewards: int = 1,
  ptx_len: int = 0,
) -> dict[str, float]:
  """Returns {function: FLOPs} of a PPO iteration.

  Args:
    policy: architecture of the policy and the reference.
    scalar: architecture of the reward models and the value model.
    settings: of PPO.
    lengths: (tokens of the prompt, of the response) of each episode; all have
      the full length by default.
    num_rewards: number of reward models.
    ptx_len: tokens of a pretraining row.
  """
  s, of_policy, of_scalar, update = settings, 0.0, 0.0, 0.0
  lengths = lengths or [(s.prompt_len, s.response_len)] * s.batch_size
  for (prompt, response), episodes in collections.Counter(lengths).items():
    length = prompt + response
    tokens, responses = episodes * length, episodes * response
    of_policy += forward(policy, tokens, length, responses)
    of_scalar += forward(scalar, tokens, length)
    update += trained(policy, tokens, length, responses)
    update += trained(scalar, tokens, length)
  if s.ptx_coef:
    ptx_tokens = s.batch_size * s.ptx_examples_per_episode * ptx_len
    update += trained(policy, ptx_tokens, ptx_len, ptx_tokens)
  return {
    'generate': of_policy,
    'score': of_policy + (1 + num_rewards) * of_scalar,
    'update': s.num_ppo_epochs * update,
  }
