"""The arithmetic that models need, counted by hand.

2 per multiply-add, matrix products only, per token:

  layers     2 * layers * (query, key, value and output projections, and MLP)
  attention  4 * layers * heads * width of a head * (length + 1) / 2: causal
  logits     2 * d_model * vocabulary, for the tokens that need them

A backward pass is twice its forward pass; what is computed again in it
(rematerialisation) is not useful arithmetic, and does not count.
"""

import time

import jax

from instructrl import rng
from instructrl.models.transformer import Transformer


def measure_peak(dtype: str, tries: int = 7) -> float:
  """FLOP/s of a large matrix product on the first device, the best of some."""
  n = 2048 if jax.default_backend() == 'cpu' else 8192
  a = jax.random.normal(rng.key(0, rng.Purpose.BENCHMARK), (n, n)).astype(dtype)
  product = jax.jit(lambda a: a @ a)
  jax.block_until_ready(product(a))
  best = float('inf')
  for _ in range(tries):
    began = time.perf_counter()
    jax.block_until_ready(product(a))
    best = min(best, time.perf_counter() - began)
  return 2 * n ** 3 / best


def trained(module: Transformer, tokens: int, length: int, logits: int = 0
            ) -> float:
  """FLOPs of a forward and a backward pass; see `forward`.

  Layers that are frozen, which are the lowest, have no backward pass.
  """
  whole = forward(module, tokens, length, logits)
  frozen = getattr(module, 'frozen_layers', 0) / module.num_layers
  return whole + 2 * (
      whole - frozen * forward(module, tokens, length))


def forward(module: Transformer, tokens: int, length: int, logits: int = 0
            ) -> float:
  """FLOPs of a forward pass.

  Args:
    module: the architecture.
    tokens: of all examples.
    length: of each.
    logits: how many tokens need logits.
  """
  m = module
  width = m.head_dim or m.d_model // m.num_heads
  kv_heads = m.num_kv_heads or m.num_heads
  projections = m.d_model * width * (2 * m.num_heads + 2 * kv_heads)
  matrices = 3 if m.mlp == 'swiglu' else 2
  mlp = matrices * m.d_model * (m.d_ff or 4 * m.d_model)
  attention = 4 * m.num_heads * width * (length + 1) / 2
  return (m.num_layers * tokens * (2 * (projections + mlp) + attention)
          + 2.0 * m.d_model * m.vocab_size * logits)


def ranking(module: Transformer, prompt_len: int, response_len: int, k: int
            ) -> float:
  """FLOPs of a prompt once, then K responses that see it and themselves."""
  return (forward(module, prompt_len, prompt_len)
          + k * forward(module, response_len, 2 * prompt_len + response_len))


def ppo(policy: Transformer, scalar: Transformer, *, episodes: int,
        prompt_len: int, response_len: int, num_epochs: int = 1,
        ptx_rows: int = 0, ptx_len: int = 0) -> dict[str, float]:
  """FLOPs of an iteration, by function.

  Args:
    policy: the policy and the reference.
    scalar: the reward and the value model.
    episodes: of an iteration, of full length.
    prompt_len: P.
    response_len: R.
    num_epochs: passes over the episodes.
    ptx_rows: pretraining rows of a pass.
    ptx_len: tokens of each.
  """
  length = prompt_len + response_len
  tokens, responses = episodes * length, episodes * response_len
  of_policy = forward(policy, tokens, length, responses)
  of_scalar = forward(scalar, tokens, length)
  ptx_tokens = ptx_rows * ptx_len
  return {
      'generate': of_policy,
      'score': of_policy + 2 * of_scalar,
      'update': 3 * num_epochs * (of_policy + of_scalar + forward(
          policy, ptx_tokens, ptx_len, ptx_tokens))}
