"""Scores of a reward model: of rankings, and of single responses.

B prompts, K responses per prompt, N responses.
"""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from instructrl import losses
from instructrl.evaluators import batching
from instructrl.evaluators import statistics
from instructrl.models import heads
from instructrl.models.transformer import Model
from instructrl.runtime import processes
from instructrl.stages import checks
from instructrl.types import Params, RankingBatch


def ranking_scores(
  model: Model, params: Params, batch: RankingBatch
) -> jax.Array:
  """Returns [B, K] float32: the head's output at each last response token.

  The prompt and each response are computed once, however many pairs they are
  part of.
  """
  scores = heads.apply_scalar(
    model,
    params,
    batch.tokens,
    batch.positions,
    batch.segment_ids,
    shared_prefix=True,
  )
  return jnp.take_along_axis(scores, batch.last, axis=1)


class Scorer:
  """Scores (prompt, response) token lists with a reward model."""

  def __init__(self, model: Model, tok, *, batch_size: int = 64):
    self._model, self._pad, self._batch = model, tok.pad_id, batch_size
    self._fn = jax.jit(
      lambda params, batch: ranking_scores(model, params, batch)[:, 0]
    )

  def __call__(self, params: Params, prompts, responses) -> np.ndarray:
    """Returns [N] float32 scores, read at the last response token."""
    sequences = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]

    from instructrl.stages import ranking_parts  # imports grain

    def score(part):
      longest = max(map(len, part))
      self._model.check_length(longest, 'a prompt with its response')
      shape = (self._batch, ranking_parts.width(longest))
      tokens, mask = batching.right_padded(part, shape, self._pad)
      last = np.maximum(mask.sum(1, keepdims=True, dtype=np.int32) - 1, 0)
      batch = RankingBatch(
        tokens=tokens,
        segment_ids=mask.astype(np.int32),
        positions=np.where(mask, np.arange(shape[1], dtype=np.int32), 0),
        last=last,
        ranks=np.zeros_like(last),
        valid=np.ones(last.shape, bool),
      )
      return processes.fetch(self._fn(params, batch))

    scores = batching.by_length(score, sequences, self._batch, len)
    return np.asarray(scores, np.float32)


def accuracy(score_fn, params, batches, seed: int) -> dict:
  """Measures scores on held-out rankings.

  The intervals are a bootstrap over prompts: pairs of one prompt are not
  independent.

  Returns:
    'accuracy' and 'ci95', the fraction of strict pairs ranked as the labeler
    did; 'over_longer', the summary of that fraction minus the fraction of
    "longer is better", where equal lengths are half right; 'log_loss', the
    summary of equation 1 in nats; 'num_pairs' and 'num_prompts', without
    prompts that have ties only.
  """
  right, longer, total, losses_of = [], [], [], []
  for batch in batches:
    scores = np.asarray(score_fn(params, batch))
    ranks, valid, segments = processes.fetch(
      (batch.ranks, batch.valid, batch.segment_ids)
    )
    pairs = np.asarray(losses.preference_pairs(ranks, valid))
    responses = np.arange(1, pairs.shape[1] + 1)
    lengths = (segments[:, :, None] == responses).sum(1)
    growth = lengths[:, :, None] - lengths[:, None, :]
    longer += (0.5 * (1 + np.sign(growth)) * pairs).sum((1, 2)).tolist()
    margins = scores[:, :, None] - scores[:, None, :]
    right += ((margins > 0) & pairs).sum((1, 2)).tolist()
    total += pairs.sum((1, 2)).tolist()
    pair_losses = np.logaddexp(0, -margins, dtype=np.float64)
    losses_of += [
      loss[pair].mean() for loss, pair in zip(pair_losses, pairs) if pair.any()
    ]
  counted = np.asarray([x for x in zip(right, longer, total) if x[2]])
  right, longer, total = counted.reshape(-1, 3).T
  summary = statistics.summarize(statistics.ratio(right, total), seed=seed)
  over = statistics.ratio(right - longer, total)
  return {
    'accuracy': summary['value'],
    'ci95': summary['ci95'],
    'over_longer': statistics.summarize(over, seed=seed),
    'log_loss': statistics.summarize(statistics.mean(losses_of), seed=seed),
    'num_pairs': int(sum(total)),
    'num_prompts': len(counted),
  }


def load_scorer(
  opened, name: str = 'reward_model'
) -> tuple[Params, Scorer, ml_collections.ConfigDict]:
  """Returns (params, scorer, config of its run) of a reward model.

  Args:
    opened: a `policies.Opener`.
    name: of the input.
  """
  run = opened.open(name)
  checks.require(
    run.is_reward_model,
    f'inputs.{name}: {opened.input(name)} must be made by the stage reward; '
    f'got a run of {run.config.stage}',
  )
  scorer = Scorer(run.model, opened.tok, batch_size=opened.batch_size)
  return run.params, scorer, run.config
