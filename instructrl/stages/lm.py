"""Language-model stages: pretraining, SFT, and SFT with a pretraining mix.

All three minimise the same loss, a mean per token of a batch; they differ in
the rows, in the unit of a batch and in where the parameters start (Ouyang et
al. 2022, appendices C.1 and C.3).
"""

from collections.abc import Sequence
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from instructrl import losses
from instructrl import masked
from instructrl import rng
from instructrl import rollout
from instructrl.data import pipeline
from instructrl.data.folder import VALIDATION_CORPUS
from instructrl.models.transformer import Model
from instructrl.runtime import optimizer
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import evals
from instructrl.stages import inputs
from instructrl.stages.run import Run
from instructrl.types import LMBatch, TrainState

STAGES = ('pretrain', 'sft', 'ppo_init')


def validate(config):
  """Raises a ConfigError that names a field that cannot be used."""
  checks.validate_common(config)
  require = checks.require
  checks.positive(config, 'batch_size')
  checks.validate_microbatch(config)
  checks.within(config, 'pretrain_mix', low=0, below=1)
  checks.within(config, 'batch_unit', choices=pipeline.UNITS)
  checks.within(config, 'logits_chunk', low=0)
  require(
    (config.num_steps > 0) != (config.num_epochs > 0),
    'set one of num_steps and num_epochs, and leave the other at 0',
  )
  require(
    config.pretrain_rows or not config.pretrain_mix,
    f'pretrain_mix={config.pretrain_mix} needs pretrain_rows',
  )
  evals.validate(config)


def make_step(
  model: Model,
  tx,
  schedule,
  *,
  seed: int,
  microbatch_size: int,
  logits_chunk: int,
):
  """(state, batch) -> (state, metrics): one optimizer step; jittable."""
  dropout = model.module.dropout > 0

  def step(state: TrainState, batch: LMBatch):
    count = batch.loss_mask.sum()

    def loss_fn(params, inputs):
      microbatch, number = inputs
      key = None
      if dropout:
        key = jax.random.fold_in(
          rng.key(seed, rng.Purpose.DROPOUT, state.step), number[0]
        )
      logprobs = rollout.packed_logprobs(
        model, params, microbatch, logits_chunk, key
      )
      loss, _ = losses.lm_loss(logprobs, microbatch.loss_mask, count=count)
      return loss, {'loss/train': loss}

    parts = optimizer.split_microbatches(batch, microbatch_size)
    number = jnp.arange(parts.tokens.shape[0])[:, None]
    grads, metrics = optimizer.accumulate(
      jax.grad(loss_fn, has_aux=True), state.params, (parts, number)
    )
    params, opt_state, norm = optimizer.apply(
      tx, grads, state.opt_state, state.params
    )
    metrics |= {
      'optimizer/grad_norm': norm,
      'optimizer/lr': schedule(state.step),
      'data/tokens': count.astype(jnp.float32),
    }
    return TrainState(
      step=state.step + 1, params=params, opt_state=opt_state
    ), metrics

  return step


def make_nll(model: Model, logits_chunk: int):
  """Returns a jitted function: (params, batch) -> (summed nll, tokens)."""

  @jax.jit
  def nll(params, batch: LMBatch):
    logprobs = rollout.packed_logprobs(model, params, batch, logits_chunk)
    return (
      masked.masked_sum(-logprobs, batch.loss_mask),
      batch.loss_mask.sum(),
    )

  return nll


def mean_nll(nll_fn, params, batches: Sequence[LMBatch]) -> float:
  """Returns the mean negative log-probability per token, in nats."""
  totals = [jax.device_get(nll_fn(params, batch)) for batch in batches]
  return float(sum(float(t) for t, _ in totals)) / max(
    1, sum(int(n) for _, n in totals)
  )


class LMProgram(build.Program):
  """The functions of an LM stage and where their arrays live.

  Attributes:
    step: jitted, see `make_step`; the state is donated.
    nll: jitted, see `make_nll`.
  """

  def __init__(self, config, mesh, *, vocab_size: int, num_steps: int):
    model = build.make_model(config, vocab_size)
    layout = build.lm_layout(model, mesh)
    tx, schedule = build.make_optimizer(
      config.optimizer, num_steps, layout.frozen
    )
    super().__init__(config, mesh, layout, tx)
    self.step = jax.jit(
      make_step(
        model,
        tx,
        schedule,
        seed=config.train_seed,
        microbatch_size=config.microbatch_size,
        logits_chunk=config.logits_chunk,
      ),
      out_shardings=(self.state_shardings, sharding.replicated(mesh)),
      donate_argnums=0,
    )
    self.nll = make_nll(model, config.logits_chunk)

  def functions(self, row_len: int) -> dict[str, tuple]:
    """Returns {name: (jitted function, its abstract arguments)}."""
    batch = abstract_batch(self._mesh, self._config.batch_size, row_len)
    return {'update': (self.step, (self.resident, batch))}


def abstract_batch(mesh, rows: int, row_len: int) -> LMBatch:
  """Returns an abstract batch of packed rows."""
  shape = (rows, row_len)
  return build.abstract_rows(
    mesh,
    LMBatch(
      tokens=(shape, jnp.int32),
      targets=(shape, jnp.int32),
      loss_mask=(shape, jnp.bool_),
      positions=(shape, jnp.int32),
      segment_ids=(shape, jnp.int32),
    ),
  )


def validation_batches(
  run: Run, rows, batch_size: int, max_batches: int
) -> list[LMBatch]:
  """Returns the first rows of a validation set, in order, on the devices."""
  batches = pipeline.lm_batches(
    rows, batch_size, 0, shuffle=False, rows_read=run.rows(batch_size)
  )
  return [run.put(b) for b in itertools.islice(batches.once(), max_batches)]


def check_row_len(rows, model: Model) -> None:
  """Raises a ConfigError if rows have more positions than the model."""
  module, row_len = model.module, rows.header['row_len']
  checks.require(
    module.positions == 'rotary' or row_len <= module.max_len,
    f'model.max_len must be at least {row_len}, the tokens of a row; got '
    f'{module.max_len}',
  )


def _validation_sets(run: Run) -> dict[str, list[LMBatch]]:
  """Returns {metric: validation batches}; missing rows are reported."""
  config, found = run.config, {}
  if config.validation_rows:
    found['loss/validation'] = inputs.rows(
      run, config.validation_rows, "set validation_rows=''"
    )
  if config.pretrain_rows:
    inputs.rows(run, config.pretrain_rows, "set pretrain_rows=''")
    if inputs.data_folder(run).has_rows(VALIDATION_CORPUS):
      found['pretrain/nll'] = inputs.rows(run, VALIDATION_CORPUS, '')
    else:
      inputs.tell(
        run,
        'pretrain/nll is not measured: inputs.data has no '
        'corpus_validation.rows',
      )
  return {
    name: validation_batches(run, rows, config.batch_size, config.eval_batches)
    for name, rows in found.items()
  }


def mix_share(config, rows, *, mix, mix_fraction: float) -> float:
  """Returns the fraction of the loss's targets that are pretraining text.

  The fraction `pretrain_mix` counts rows of a batch, and the loss is a mean
  over targets. A row of pretraining text has more targets than demonstrations,
  whose targets are their responses.

  Args:
    config: config of the stage.
    rows: the stage's own rows.
    mix: rows that are mixed in.
    mix_fraction: fraction of the rows of a batch that are mixed in.
  """

  def targets(rows, unit):
    found = pipeline.lm_examples(rows, unit)
    return found.gather(np.arange(min(len(found), 4096))).loss_mask.mean()

  mixed = mix_fraction * targets(mix, 'rows')
  own = (1 - mix_fraction) * targets(rows, config.batch_unit)
  return float(mixed / (mixed + own))


def run(config, workdir, label: str = '') -> dict:
  """Trains a language model. Returns the result for the DONE file."""
  validate(config)
  with Run(config, workdir, label) as run:
    tok = run.tokenizer()
    rows = inputs.rows(run, config.rows, 'set rows')
    mix = (
      dict(
        mix=inputs.rows(run, config.pretrain_rows, 'set pretrain_mix=0'),
        mix_fraction=config.pretrain_mix,
      )
      if config.pretrain_mix
      else {}
    )
    sets = _validation_sets(run)
    batches = pipeline.lm_batches(
      rows,
      config.batch_size,
      config.train_seed,
      unit=config.batch_unit,
      **mix,
      rows_read=run.rows(config.batch_size),
    )
    # An epoch is one pass over `rows`, with or without a mix.
    epoch = pipeline.epoch_steps(
      batches.num_examples, config.batch_size, 1 / (1 - config.pretrain_mix)
    )
    num_steps = config.num_steps or config.num_epochs * epoch
    program = LMProgram(
      config, run.mesh, vocab_size=tok.vocab_size, num_steps=num_steps
    )
    layout, nll_fn = program.layout, program.nll
    check_row_len(rows, layout.model)
    if config.inputs.get('init'):
      state = run.restore(
        program.fresh_state,
        program.state_shardings,
        [layout.abstract],
        lambda: [run.load_params('init', layout.abstract, config.model)],
      )
    else:
      key = rng.key(config.train_seed, rng.Purpose.INIT)
      state = run.restore(
        lambda: program.fresh_state(layout.model.init(key)),
        program.state_shardings,
      )

    def evaluate(state, step):
      del step
      return {
        name: mean_nll(nll_fn, state.params, data)
        for name, data in sets.items()
      }

    state = run.loop(
      state,
      lambda state, step: program.step(state, run.put(batches.at(step))),
      num_steps,
      evaluate=evaluate if sets else None,
      eval_every=config.eval_every or epoch,
      evals=evals.in_training(run, layout.model, lambda state: state.params),
      save_every=0 if config.checkpoint.every else epoch,
    )
    final = evaluate(state, num_steps)
    return {
      'num_steps': num_steps,
      'epoch_steps': epoch,
      'tokens_per_step': config.batch_size * rows.header['row_len'],
      **({'mix_share': mix_share(config, rows, **mix)} if mix else {}),
      **final,
      'num_params': layout.num_params,
    }
