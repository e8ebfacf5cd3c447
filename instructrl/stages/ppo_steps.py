"""The functions of PPO and PPO-ptx (Ouyang et al. 2022, section 3.5, C.4).

An iteration is three jitted functions: `generate` samples responses, `score`
turns them into a `Rollout` (reference, reward model, values, advantages), and
`update` scans the minibatches. The policy and the value model are separate
networks with separate optimizers.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instructrl import advantages
from instructrl import losses
from instructrl import masked
from instructrl import packing
from instructrl import rng
from instructrl import rollout as rollout_lib
from instructrl.models import heads
from instructrl.models.transformer import Model
from instructrl.rollout import slots
from instructrl.runtime import optimizer
from instructrl.runtime import sharding
from instructrl.stages.ppo_settings import Settings
from instructrl.types import LMBatch, PromptBatch, pytree, Rollout, TrainState


def make_generate(model: Model, s: Settings, *, eos_id: int, pad_id: int):
  """(policy params, prompts, seed, step, max_tokens) -> Responses.

  `max_tokens`, [] or [B], is at most s.response_len, the default.
  """

  def generate(
    params, prompts: PromptBatch, seed, step, max_tokens=s.response_len
  ):
    key = rng.key(seed, rng.Purpose.ROLLOUT, step)
    rows = jnp.arange(prompts.tokens.shape[0])
    limits = jnp.broadcast_to(max_tokens, rows.shape)
    fields = dict(
      response_len=s.response_len,
      eos_id=eos_id,
      pad_id=pad_id,
      temperature=s.temperature,
    )
    if s.rollout_slots:
      responses, _ = slots.generate(
        model,
        params,
        prompts,
        key,
        slots=s.rollout_slots,
        max_tokens=limits,
        **fields,
      )
      return responses

    def part(inputs):
      prompts, rows, limits = inputs
      return rollout_lib.generate(
        model, params, prompts, key, rows=rows, max_tokens=limits, **fields
      )

    return rollout_lib.in_microbatches(
      part, (prompts, rows, limits), s.generate_microbatch_size
    )

  return generate


def make_passes(reference: Model, value: Model, reward: Model, s: Settings):
  """(ref, reward, value params, prompts, responses) -> ref log-probs [B, R],
  values [B, R] and {name: scores [B]}.

  The reward parameters are {name: parameters}, of models of one architecture.
  """

  def passes(ref_params, reward_params, value_params, prompts, responses):
    ref_params = sharding.to_device(ref_params)
    tokens = jnp.concatenate([prompts.tokens, responses.tokens], axis=1)
    packed = packing.pack(tokens, prompts.mask, responses.mask)

    def part(rows: LMBatch):
      inputs = rows.tokens, rows.positions, rows.segment_ids
      return (
        rollout_lib.packed_logprobs(
          reference,
          ref_params,
          rows,
          s.logits_chunk,
          temperature=s.temperature,
          skip=True,
        ),
        heads.apply_scalar(value, value_params, *inputs),
        {
          name: heads.apply_scalar(reward, params, *inputs)
          for name, params in reward_params.items()
        },
      )

    size = packing.rows_at_once(*tokens.shape, s.score_microbatch_size)
    logprobs, values, scores = packing.map_rows(
      part, packed.rows, packed.num_rows, size
    )
    return (
      packed.collect(logprobs),
      packed.collect(values),
      jax.tree.map(packed.collect_last, scores),
    )

  return passes


def weighted_sum(terms, weights: Mapping[str, float]):
  """Returns the total score [B] and the metrics of the reward terms.

  A single term of weight 1 is the total, which has its own metric.

  Args:
    terms: {name: scores [B]}.
    weights: {name: weight}.
  """
  if list(weights.values()) == [1]:
    return terms[next(iter(weights))], {}
  total = sum(weight * terms[name] for name, weight in weights.items())
  return total, {f'reward/{name}': terms[name].mean() for name in weights}


def make_finish(s: Settings, weights: Mapping[str, float], *, eos_id: int):
  """(kl_coef, prompts, responses, ref log-probs, values, terms) -> rollout.

  Also returns the iteration's metrics, all means over the whole batch.
  """

  def finish(kl_coef, prompts, responses, ref_logprobs, values, terms):
    tokens = jnp.concatenate([prompts.tokens, responses.tokens], axis=1)
    scores, term_metrics = weighted_sum(terms, weights)
    rollout = rollout_lib.make_rollout(
      tokens,
      prompts.mask,
      responses.mask,
      responses.logprobs,
      ref_logprobs,
      values,
      scores,
      kl_coef=kl_coef,
      discount=s.discount,
      gae_lambda=s.gae_lambda,
      whiten_advantages=s.whiten_advantages,
      eos_id=eos_id,
      missing_eos=s.missing_eos,
      missing_eos_amount=s.missing_eos_amount,
    )
    mask = rollout.response_mask
    lengths = mask.sum(axis=1)
    ended = ((responses.tokens == eos_id) & mask).any(axis=1)
    metrics = {
      'objective/scores': scores.mean(),
      'objective/scores_std': scores.std(),
      'objective/kl': rollout.kl.sum(axis=1).mean(),
      'objective/kl_k3': jnp.where(
        mask,
        advantages.kl_estimate(rollout.old_logprobs, ref_logprobs, 'k3'),
        0,
      )
      .sum(axis=1)
      .mean(),
      # -log p of a sampled token is an unbiased estimate of the entropy.
      'objective/entropy': masked.masked_mean(-rollout.old_logprobs, mask),
      'objective/rewards': rollout.rewards.sum(axis=1).mean(),
      'objective/kl_coef': kl_coef,
      'response/length': lengths.astype(jnp.float32).mean(),
      'response/eos_frac': ended.astype(jnp.float32).mean(),
    }
    return rollout, metrics | term_metrics

  return finish


def make_score(
  reference: Model,
  value: Model,
  reward: Model,
  s: Settings,
  weights: Mapping[str, float],
  *,
  eos_id: int,
):
  """(ref, reward, value params, kl_coef, prompts, responses) -> rollout.

  `make_passes` and `make_finish` in one program, for rewards that are all
  models. Also returns the iteration's metrics.
  """
  passes = make_passes(reference, value, reward, s)
  finish = make_finish(s, weights, eos_id=eos_id)

  def score(
    ref_params, reward_params, value_params, kl_coef, prompts, responses
  ):
    found = passes(ref_params, reward_params, value_params, prompts, responses)
    return finish(kl_coef, prompts, responses, *found)

  return score


@pytree
class PackedRollout(LMBatch):
  """The fields of a `Rollout` that losses read, at the columns of rows."""

  old_logprobs: jax.Array  # this and the others: [N, L] float32
  advantages: jax.Array
  old_values: jax.Array
  returns: jax.Array


def pack(rollout: Rollout) -> tuple[PackedRollout, jax.Array]:
  """Returns (rows, number of rows that are used) of episodes."""
  packed = packing.pack(
    rollout.tokens, rollout.prompt_mask, rollout.response_mask
  )
  names = 'old_logprobs', 'advantages', 'old_values', 'returns'
  read = {name: packed.spread(getattr(rollout, name)) for name in names}
  return PackedRollout(**vars(packed.rows), **read), packed.num_rows


def make_policy_grad(policy: Model, s: Settings):
  """(params, packed rollout, ptx rows or None) -> (grads, metrics).

  The gradient of one minibatch: PPO's plus `ptx_coef` times pretraining's,
  both losses means per token over the minibatch (equation 2).
  """

  def ppo_loss(params, part: PackedRollout, count):
    logprobs = rollout_lib.packed_logprobs(
      policy, params, part, s.logits_chunk, temperature=s.temperature, skip=True
    )
    return losses.ppo_policy_loss(
      logprobs,
      part.old_logprobs,
      part.advantages,
      part.loss_mask,
      clip_eps=s.clip_eps,
      count=count,
    )

  def ptx_loss(params, part: LMBatch, count):
    logprobs = rollout_lib.packed_logprobs(policy, params, part, s.logits_chunk)
    loss, _ = losses.lm_loss(logprobs, part.loss_mask, count=count)
    return s.ptx_coef * loss, {'loss/ptx': loss}

  def grad(params, packed, ptx: LMBatch | None):
    total, metrics = _accumulate(ppo_loss, params, *packed, s)
    if ptx is not None:
      count = ptx.loss_mask.sum()
      more, ptx_metrics = optimizer.accumulate(
        _grad_fn(ptx_loss, count),
        params,
        optimizer.split_microbatches(ptx, s.ptx_microbatch_size),
      )
      total = jax.tree.map(jnp.add, total, more)
      metrics |= ptx_metrics
    return total, metrics

  return grad


def make_value_grad(scalar: Model, s: Settings):
  """(value params, packed rollout) -> (grads, metrics) of one minibatch."""

  def value_loss(params, part: PackedRollout, count):
    values = heads.apply_scalar(
      scalar, params, part.tokens, part.positions, part.segment_ids
    )
    return losses.value_loss(
      values,
      part.old_values,
      part.returns,
      part.loss_mask,
      value_clip_eps=s.value_clip_eps,
      count=count,
    )

  return lambda params, packed: _accumulate(value_loss, params, *packed, s)


def _accumulate(loss_fn, params, rows, num_rows, s: Settings):
  size = packing.rows_at_once(*rows.tokens.shape, s.microbatch_size)
  return optimizer.accumulate(
    _grad_fn(loss_fn, rows.loss_mask.sum()),
    params,
    packing.split(rows, size),
    packing.num_parts(num_rows, size),
  )


def _grad_fn(loss_fn, count):
  grad = jax.grad(loss_fn, has_aux=True)
  return lambda params, part: grad(params, part, count)


def make_update(policy: Model, scalar: Model, s: Settings, tx: dict[str, Any]):
  """(state, rollout, ptx rows or None, seed) -> (state, metrics): an iteration.

  Every minibatch is one optimizer step of the policy (PPO and ptx gradients
  added first: two steps would let Adam undo `ptx_coef`) and one of the value
  model; the EMA follows each.
  """
  policy_grad = make_policy_grad(policy, s)
  value_grad = make_value_grad(scalar, s)

  def minibatch(state: TrainState, inputs):
    rollout, ptx = inputs
    packed = pack(rollout)
    policy_grads, metrics = policy_grad(state.params['policy'], packed, ptx)
    value_grads, value_metrics = value_grad(state.params['value'], packed)
    params, opt_state = {}, {}
    for name, grads in (('policy', policy_grads), ('value', value_grads)):
      params[name], opt_state[name], norm = optimizer.apply(
        tx[name], grads, state.opt_state[name], state.params[name]
      )
      metrics[f'{name}/grad_norm'] = norm
    ema = optimizer.ema_update(state.ema_params, params['policy'], s.ema_decay)
    state = dataclasses.replace(
      state, params=params, opt_state=opt_state, ema_params=ema
    )
    return state, metrics | value_metrics

  def epoch(state: TrainState, inputs, rollout: Rollout, seed):
    number, ptx = inputs
    key = jax.random.fold_in(
      rng.key(seed, rng.Purpose.MINIBATCH, state.step), number
    )
    order = jax.random.permutation(key, s.batch_size)
    parts = jax.tree.map(
      lambda x: x[order].reshape(
        s.num_minibatches, s.minibatch_size, *x.shape[1:]
      ),
      rollout,
    )
    return jax.lax.scan(minibatch, state, (parts, ptx))

  def update(state: TrainState, rollout: Rollout, ptx: LMBatch | None, seed):
    kl = rollout.kl.sum(axis=1).mean()
    if ptx is not None:
      ptx = jax.tree.map(
        lambda x: x.reshape(
          s.num_ppo_epochs, s.num_minibatches, -1, *x.shape[1:]
        ),
        ptx,
      )
    state, metrics = jax.lax.scan(
      lambda state, inputs: epoch(state, inputs, rollout, seed),
      state,
      (jnp.arange(s.num_ppo_epochs), ptx),
    )
    metrics = jax.tree.map(jnp.mean, metrics)
    kl_coef = state.kl_coef
    if s.adaptive_kl_target:
      kl_coef = advantages.adaptive_kl_coef(
        kl_coef,
        kl,
        target=s.adaptive_kl_target,
        horizon=s.adaptive_kl_horizon,
        num_episodes=s.batch_size,
      )
    state = dataclasses.replace(state, step=state.step + 1, kl_coef=kl_coef)
    variance = masked.masked_var(rollout.returns, rollout.response_mask)
    metrics['value/explained_variance'] = 1 - masked.masked_var(
      rollout.returns - rollout.old_values, rollout.response_mask
    ) / jnp.maximum(variance, 1e-8)
    return state, metrics

  return update


def unpadded(responses: rollout_lib.Responses) -> list[list[int]]:
  """Returns the tokens of each response."""
  rows = zip(responses.tokens, responses.mask, strict=True)
  return [np.asarray(row)[np.asarray(mask)].tolist() for row, mask in rows]


def samples(rollout: Rollout, tok, count: int):
  """The first `count` episodes as text, with their scores.

  A score or KL that is not finite, which ends the run, is None.
  """
  prompt_len = rollout.prompt_mask.shape[1]
  finite = lambda x: float(x) if np.isfinite(x) else None
  out = []
  for i in range(min(count, len(rollout.scores))):
    tokens = np.asarray(rollout.tokens[i])
    mask = np.asarray(rollout.response_mask[i])
    out.append(
      {
        'prompt': tok.decode(
          tokens[:prompt_len][np.asarray(rollout.prompt_mask[i])].tolist()
        ),
        'response': tok.decode(tokens[prompt_len:][mask].tolist()),
        'score': finite(rollout.scores[i]),
        'kl': finite(np.asarray(rollout.kl[i]).sum()),
      }
    )
  return out
