"""The reward-model stage (Ouyang et al. 2022, section 3.5, appendix C.2)."""

from collections.abc import Callable, Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from instructrl import losses
from instructrl.data import pipeline
from instructrl.data import tasks
from instructrl.models import heads
from instructrl.models.transformer import Model
from instructrl.runtime import files
from instructrl.runtime import optimizer
from instructrl.runtime import run_folder
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import ranking_batches
from instructrl.stages import ranking_parts
from instructrl.stages import scoring
from instructrl.stages.run import Run
from instructrl.types import Params, RankingBatch, TrainState

STAGES = ('reward',)


def validate(config):
  """Raises a ConfigError that names a field out of its bounds."""
  checks.validate_common(config)
  require = checks.require
  checks.positive(
    config, 'batch_size', 'num_epochs', 'prompt_len', 'response_len'
  )
  checks.within(config, 'max_responses', low=2)
  checks.within(config, 'eval_prompts', low=0)
  require(
    config.num_folds == 0 or config.num_folds >= 2,
    f'num_folds must be 0, or at least 2; got {config.num_folds}',
  )
  require(
    0 <= config.fold < max(1, config.num_folds),
    f'fold must be at least 0 and less than num_folds={config.num_folds}; got '
    f'{config.fold}',
  )
  checks.validate_microbatch(config)
  require(
    config.prompt_len + config.response_len <= config.model.max_len,
    f'model.max_len must be at least prompt_len + response_len = '
    f'{config.prompt_len} + {config.response_len}; got {config.model.max_len}',
  )
  require(
    config.model.dropout == 0,
    f'model.dropout must be 0 to train on rankings; got {config.model.dropout}',
  )


def make_step(model: Model, tx, schedule, **parts):
  """Makes the step of the reward model, see `rankings_step`."""

  def loss_fn(params, part, **counts):
    return losses.ranking_loss(
      scoring.ranking_scores(model, params, part),
      part.ranks,
      part.valid,
      **counts,
    )

  return rankings_step(loss_fn, tx, schedule, **parts)


def rankings_step(
  loss_fn: Callable,
  tx,
  schedule,
  *,
  microbatch_size: int,
  widths: Sequence[int] = (),
):
  """Makes the optimizer step of a loss on rankings.

  Args:
    loss_fn: (params, RankingBatch, count=, pair_count=) -> (loss, metrics), as
      those of `losses.ranking_loss`.
    tx: the optimizer.
    schedule: its learning rate by step.
    microbatch_size: prompts per gradient; 0 = few, or all without `widths`.
    widths: columns of the parts, see `ranking_parts.widths`; empty = compute
      all columns of a batch.

  Returns:
    (state, batch) -> (state, metrics), jittable.
  """
  names = {
    'reward/accuracy': 'accuracy/train',
    'reward/num_pairs': 'data/pairs',
  }

  def step(state: TrainState, batch: RankingBatch):
    pairs = losses.preference_pairs(batch.ranks, batch.valid)
    counts = dict(count=pairs.any(axis=(1, 2)).sum(), pair_count=pairs.sum())

    def named_loss(params, part):
      loss, metrics = loss_fn(params, part, **counts)
      return loss, {'loss/train': loss} | {
        names.get(name, name): value
        for name, value in metrics.items()
        if not name.startswith('loss/')
      }

    if widths:
      rows = ranking_parts.rows(len(batch.ranks), widths, microbatch_size)
      parts, _ = ranking_parts.split(batch, rows)
    else:
      parts = optimizer.split_microbatches(batch, microbatch_size)
    grad_fn = jax.grad(named_loss, has_aux=True)
    grads, metrics = optimizer.accumulate(
      ranking_parts.at_width(grad_fn, widths), state.params, parts
    )
    params, opt_state, norm = optimizer.apply(
      tx, grads, state.opt_state, state.params
    )
    metrics |= {
      'optimizer/grad_norm': norm,
      'optimizer/lr': schedule(state.step),
    }
    state = TrainState(step=state.step + 1, params=params, opt_state=opt_state)
    return state, metrics

  return step


class RewardProgram(build.Program):
  """The functions of the stage and where their arrays live.

  Attributes:
    step: jitted, see `make_step`; the state is donated.
    score: jitted, see `scoring.ranking_scores`; returns the rows of all
      processes.
  """

  def __init__(self, config, mesh, *, vocab_size, num_steps, widths=()):
    model = build.make_model(config, vocab_size)
    layout = build.scalar_layout(model, mesh)
    tx, schedule = build.make_optimizer(
      config.optimizer, num_steps, layout.frozen
    )
    super().__init__(config, mesh, layout, tx)
    whole = sharding.replicated(mesh)
    self.step = jax.jit(
      make_step(
        model,
        tx,
        schedule,
        microbatch_size=config.microbatch_size,
        widths=widths,
      ),
      out_shardings=(self.state_shardings, whole),
      donate_argnums=0,
    )
    self.score = jax.jit(
      lambda params, batch: ranking_parts.mapped(
        functools.partial(scoring.ranking_scores, model),
        params,
        batch,
        widths,
        config.microbatch_size,
      ),
      out_shardings=whole,
    )

  def functions(self) -> dict[str, tuple]:
    """Returns {name: (jitted function, its abstract arguments)}.

    The batch has rankings of the largest size.
    """
    c = self._config
    columns = c.prompt_len + c.max_responses * c.response_len
    row = ((c.batch_size, ranking_parts.columns(columns)), jnp.int32)
    of_k = ((c.batch_size, c.max_responses), jnp.int32)
    batch = build.abstract_rows(
      self._mesh,
      RankingBatch(
        tokens=row,
        segment_ids=row,
        positions=row,
        last=of_k,
        ranks=of_k,
        valid=(of_k[0], jnp.bool_),
      ),
    )
    return {'update': (self.step, (self.resident, batch))}


def demonstration_mean(run: Run, scorer: scoring.Scorer, params, tok) -> float:
  """Returns the mean score of the labelers' demonstrations."""
  config = run.config
  prompts, responses = [], []
  for d in inputs.records(run, 'data', 'demonstrations', 'train'):
    prompt = tasks.chat_prompt(tok, d.prompt)
    if tasks.fits(prompt, config.prompt_len):
      prompts.append(prompt)
      responses.append(
        tasks.response_tokens(tok, d.response, config.response_len)
      )
  checks.require(
    bool(prompts),
    f'no demonstration has a prompt that fits prompt_len={config.prompt_len}',
  )
  return float(scorer(params, prompts, responses).mean(dtype=np.float64))


def best_mean(elements, scorer: scoring.Scorer, params, eos_id: int) -> float:
  """Returns the mean score of the best response of each ranking.

  Among equals it is the first.
  """
  prompts, best = [], []
  for e in elements:
    prompts.append(e.prompt)
    best.append(tasks.cut_at_eos(e.responses[e.ranks.index(0)], eos_id))
  return float(scorer(params, prompts, best).mean(dtype=np.float64))


def bias_source(run: Run) -> str:
  """Returns the name of the texts that score 0 on average after the shift.

  They are demonstrations (section 3.5), or else the best responses of the
  training rankings.
  """
  return (
    'demonstrations'
    if inputs.data_folder(run).has('demonstrations')
    else 'best-ranked responses'
  )


def zero_mean(run: Run, scorer: scoring.Scorer, params, tok, elements) -> float:
  """Returns the mean score that the bias shifts to 0; see `bias_source`."""
  if bias_source(run) == 'demonstrations':
    return demonstration_mean(run, scorer, params, tok)
  return best_mean(elements, scorer, params, tok.eos_id)


def init_params(run: Run, layout: build.Layout, source: str, model) -> Params:
  """Returns the backbone of another run with a fresh head, or all fresh.

  Args:
    run: the run that trains the parameters.
    layout: layout of a reward or value model.
    source: name of the input with the backbone; '' for a fresh one.
    model: config of the model.
  """
  fresh = jax.jit(
    lambda: build.init_scalar(layout.model, run.config.train_seed),
    out_shardings=layout.shardings,
  )()
  if not source:
    return fresh
  backbone = run.load_params(source, layout.abstract['backbone'], model)
  return {'backbone': backbone, 'head': fresh['head']}


def _start(run: Run, layout: build.Layout) -> Params:
  """Returns the initial parameters; a reward model keeps its head."""
  config = run.config
  if not config.inputs.init:
    return init_params(run, layout, '', config.model)
  folder = run_folder.find(run.input('init'))
  made_by = files.read_json(folder / run_folder.CONFIG) if folder else {}
  if made_by.get('stage') == config.stage:
    return run.load_params('init', layout.abstract, config.model)
  return init_params(run, layout, 'init', config.model)


def _shift(run: Run, program: RewardProgram, state: TrainState, tok, elements):
  """Shifts the bias so that demonstrations score 0 on average.

  The shift is one more step of the run, saved as a checkpoint, so that it
  happens exactly once.
  """
  scorer = scoring.Scorer(
    program.layout.model, tok, batch_size=run.config.batch_size
  )
  shift = -zero_mean(run, scorer, state.params, tok, elements)
  step = int(state.step) + 1
  state = dataclasses.replace(
    state,
    step=state.step + 1,
    params=heads.shift_bias(state.params, jnp.float32(shift)),
  )
  run.checkpointer.save(step, state, run.meta())
  run.checkpointer.wait()
  return state


def run(config, workdir, label: str = '') -> dict:
  """Trains the reward model, then shifts its bias. Returns the result."""
  validate(config)
  with Run(config, workdir, label) as run:
    tok = run.tokenizer()
    elements, dropped, batches = ranking_batches.load_training(run, tok)
    held = ranking_batches.load_held_out(run, tok)
    epoch = pipeline.epoch_steps(len(elements), config.batch_size)
    num_steps = epoch * config.num_epochs

    program = RewardProgram(
      config,
      run.mesh,
      vocab_size=tok.vocab_size,
      num_steps=num_steps,
      widths=ranking_batches.widths(elements, held),
    )
    state = run.restore(
      program.fresh_state,
      program.state_shardings,
      [program.layout.abstract],
      lambda: [_start(run, program.layout)],
    )

    held_out = functools.partial(
      ranking_batches.held_out_batches, run, tok, held
    )
    some = held_out(config.eval_prompts)

    def measure(params, data):
      return {
        name: scoring.accuracy(program.score, params, part, config.eval_seed)
        for name, part in data.items()
      }

    def evaluate(state, step):
      del step
      values = {}
      for group, found in measure(state.params, some).items():
        name = {'in_group': 'validation'}.get(group, group)
        values[f'accuracy/{name}'] = found['accuracy']
        values[f'loss/{name}'] = found['log_loss']['value']
      return values

    state = run.loop(
      state,
      lambda state, step: program.step(state, run.put(batches.at(step))),
      num_steps,
      evaluate=evaluate if held else None,
      eval_every=config.eval_every or epoch,
    )

    if int(state.step) == num_steps:
      state = _shift(run, program, state, tok, elements)
    return {
      'accuracy': measure(state.params, held_out()),
      'num_steps': num_steps,
      'rankings': len(elements),
      'rankings_dropped': dropped,
      'bias': float(state.params['head']['bias']),
      'bias_from': bias_source(run),
    }
