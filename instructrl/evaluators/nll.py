"""Loss on held-out pretraining text, in nats per token."""

from collections.abc import Mapping
import itertools

import jax

from instructrl import masked
from instructrl import rollout
from instructrl.data import folder
from instructrl.data import pipeline
from instructrl.evaluators import evaluator
from instructrl.evaluators import statistics
from instructrl.evaluators.language_model import LanguageModel
from instructrl.runtime import processes
from instructrl.runtime import sharding


class Evaluator:
  """Measures the loss on packed rows of `corpus_validation.rows`.

  Results: {'nll': {'policies', 'difference'}}; empty if inputs.data has no such
  rows.
  """

  def __init__(self, context: evaluator.Context, *, num_rows: int):
    self._context, self._num_rows = context, num_rows

  def run(self, policies: Mapping[str, LanguageModel]) -> evaluator.Outcome:
    context, data = self._context, self._context.data()
    if not data.has_rows(folder.VALIDATION_CORPUS):
      context.progress('nll is not measured: inputs.data has no held-out text')
      return evaluator.Outcome({})
    measures = {}
    for name in policies:
      sums, counts = context.kept(name, lambda: self._nll(policies[name]))
      context.progress(f'{name}: {sum(sums) / sum(counts):.3f} nats per token')
      measures[name] = statistics.ratio(sums, counts)
    return evaluator.Outcome(
      evaluator.compared({'nll': measures}, seed=context.seed)
    )

  def _nll(self, policy: LanguageModel) -> tuple[list, list]:
    """Returns (nats, number of tokens) of each row."""
    context, engine = self._context, policy.engine
    size = context.batch_size
    rows = context.data().rows(folder.VALIDATION_CORPUS, context.tok)

    def nll(params, batch):
      logprobs = rollout.packed_logprobs(
        engine.model, params, batch, engine.logits_chunk
      )
      sums = masked.masked_sum(-logprobs, batch.loss_mask, axis=1)
      return sums, batch.loss_mask.sum(axis=1)

    nll_fn = jax.jit(nll, out_shardings=sharding.replicated(context.mesh))
    read = sharding.process_rows(context.mesh, size)
    batches = pipeline.lm_batches(
      rows, size, 0, shuffle=False, rows_read=read
    ).once()
    sums, counts = [], []
    for batch in itertools.islice(batches, -(-self._num_rows // size)):
      batch = sharding.put_batch(batch, context.mesh)
      found = processes.fetch(nll_fn(policy.params, batch))
      sums += found[0].tolist()
      counts += found[1].tolist()
    last = min(self._num_rows, len(rows))
    return sums[:last], counts[:last]
