"""The reward-model stage (Ouyang et al. 2022, section 3.5, appendix C.2)."""

from collections.abc import Callable
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from instructrl import losses
from instructrl.data import pipeline
from instructrl.data import tasks
from instructrl.data.records import Ranking
from instructrl.evaluators import batching
from instructrl.evaluators import statistics
from instructrl.models import heads
from instructrl.models.transformer import Model
from instructrl.runtime import optimizer
from instructrl.runtime import processes
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages.run import Run
from instructrl.types import Params, RankingBatch, TrainState

STAGES = ('reward',)

COLUMNS = 32  # batches have a multiple of so many
WINDOW = 16  # batches whose rankings are exchanged, like lengths to like


def _columns(length: int) -> int:
  return COLUMNS * -(-int(length) // COLUMNS)


def _width(length: int) -> int:
  """Columns of a batch whose longest element has `length` tokens.

  A power of two or half as much again. Each width compiles its own program, so
  there are two for each doubling, and about a seventh of a batch is padding.
  """
  width = COLUMNS << max(0, (int(length) - 1) // COLUMNS).bit_length()
  less = width * 3 // 4
  return less if length <= less and less % COLUMNS == 0 else width


def validate(config):
  """Refuses what makes no sense, by field name."""
  checks.validate_common(config)
  require = checks.require
  for name in ('batch_size', 'num_epochs', 'prompt_len', 'response_len'):
    require(config[name] >= 1, f'{name}={config[name]} must be 1 or more')
  require(config.max_responses >= 2, 'max_responses must be 2 or more')
  require(
    config.num_folds == 0 or config.num_folds >= 2,
    f'num_folds={config.num_folds} must be 0, or 2 or more',
  )
  require(
    0 <= config.fold < max(1, config.num_folds),
    f'fold={config.fold} is none of the {config.num_folds} folds',
  )
  micro = config.microbatch_size
  require(
    micro == 0 or micro > 0 and config.batch_size % micro == 0,
    f'microbatch_size={micro} does not divide batch_size={config.batch_size}',
  )
  require(
    config.prompt_len + config.response_len <= config.model.max_len,
    f'model.max_len={config.model.max_len} is shorter than prompt_len + '
    'response_len',
  )
  require(config.model.dropout == 0, 'model.dropout must be 0 in the RM')


def ranking_scores(
  model: Model, params: Params, batch: RankingBatch
) -> jax.Array:
  """[B, K] float32: the head's output at each last response token.

  One forward pass of the prompt and one of each response, whatever the number
  of pairs they are in.
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


def make_step(model: Model, tx, schedule, *, microbatch_size: int):
  """(state, batch) -> (state, metrics): one optimizer step; jittable."""

  def loss_fn(params, part, **counts):
    return losses.ranking_loss(
      ranking_scores(model, params, part), part.ranks, part.valid, **counts
    )

  return rankings_step(loss_fn, tx, schedule, microbatch_size=microbatch_size)


def rankings_step(loss_fn: Callable, tx, schedule, *, microbatch_size: int):
  """Makes the optimizer step of a loss on rankings.

  Args:
    loss_fn: (params, RankingBatch, count=, pair_count=) -> (loss, metrics), as
      those of `losses.ranking_loss`.
    tx: the optimizer.
    schedule: its learning rate by step.
    microbatch_size: prompts per gradient; 0 = all of a batch.

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

    grads, metrics = optimizer.accumulate(
      jax.grad(named_loss, has_aux=True),
      state.params,
      optimizer.split_microbatches(batch, microbatch_size),
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


class Program(build.Program):
  """What the stage computes, before there are data or parameters.

  Attributes:
    step: jitted, see `make_step`; the state is donated.
    score: jitted, see `ranking_scores`; of every process's rows.
  """

  def __init__(self, config, mesh, *, vocab_size: int, num_steps: int):
    model = build.make_model(config, vocab_size)
    layout = build.scalar_layout(model, mesh)
    tx, schedule = build.make_optimizer(
      config.optimizer, num_steps, layout.frozen
    )
    super().__init__(config, mesh, layout, tx)
    whole = sharding.replicated(mesh)
    self.step = jax.jit(
      make_step(model, tx, schedule, microbatch_size=config.microbatch_size),
      out_shardings=(self.state_shardings, whole),
      donate_argnums=0,
    )
    self.score = jax.jit(
      lambda params, batch: ranking_scores(model, params, batch),
      out_shardings=whole,
    )

  def functions(self) -> dict[str, tuple]:
    """Name -> (jitted function, its abstract arguments), for full rankings."""
    c = self._config
    columns = c.prompt_len + c.max_responses * c.response_len
    row = ((c.batch_size, _columns(columns)), jnp.int32)
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


class Scorer:
  """Scores (prompt, response) token lists with a reward model."""

  def __init__(self, model: Model, tok, *, batch_size: int = 64):
    self._model, self._pad, self._batch = model, tok.pad_id, batch_size
    self._fn = jax.jit(
      lambda params, batch: ranking_scores(model, params, batch)[:, 0]
    )

  def __call__(self, params: Params, prompts, responses) -> np.ndarray:
    """[N] float32 scores, read at the last response token."""
    sequences = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]

    def score(part):
      longest = max(map(len, part))
      self._model.check_length(longest, 'a prompt with its response')
      shape = (self._batch, _width(longest))
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
  """Fraction of strict pairs ranked as the labeler did, with its interval.

  The bootstrap draws prompts, since pairs of one prompt are not independent.
  """
  right, total = [], []
  for batch in batches:
    scores = np.asarray(score_fn(params, batch))
    pairs = np.asarray(
      losses.preference_pairs(*processes.fetch((batch.ranks, batch.valid)))
    )
    margins = scores[:, :, None] - scores[:, None, :]
    right += ((margins > 0) & pairs).sum((1, 2)).tolist()
    total += pairs.sum((1, 2)).tolist()
  counted = [(r, t) for r, t in zip(right, total) if t]
  summary = statistics.summarize(
    statistics.ratio(*map(list, zip(*counted))), seed=seed
  )
  return {
    'accuracy': summary['value'],
    'ci95': summary['ci95'],
    'num_pairs': int(sum(total)),
    'num_prompts': len(counted),
  }


def load_scorer(opened) -> tuple[Params, Scorer, ml_collections.ConfigDict]:
  """Opens inputs.reward_model: (params, scorer, config of its run).

  Args:
    opened: a `policies.Opener`.
  """
  run = opened.open('reward_model')
  checks.require(
    run.is_reward_model,
    f'inputs.reward_model: {opened.input("reward_model")} is no reward model: '
    f'it was trained by the stage {run.config.stage!r}',
  )
  scorer = Scorer(run.model, opened.tok, batch_size=opened.batch_size)
  return run.params, scorer, run.config


def demonstration_mean(run: Run, scorer: Scorer, params, tok) -> float:
  """Mean score of the labelers' demonstrations."""
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


def best_mean(elements, scorer: Scorer, params, eos_id: int) -> float:
  """Mean score of the best response of each ranking, the first of equals."""
  best = [
    tasks.cut_at_eos(e.responses[e.ranks.index(0)], eos_id) for e in elements
  ]
  return float(
    scorer(params, [e.prompt for e in elements], best).mean(dtype=np.float64)
  )


def bias_source(run: Run) -> str:
  """What scores 0 on average after the shift.

  Demonstrations (section 3.5); where there are none, the best responses that
  the model was trained on.
  """
  return (
    'demonstrations'
    if inputs.data_folder(run).has('demonstrations')
    else 'best-ranked responses'
  )


def zero_mean(run: Run, scorer: Scorer, params, tok, elements) -> float:
  """The mean score that the bias makes 0, see `bias_source`."""
  if bias_source(run) == 'demonstrations':
    return demonstration_mean(run, scorer, params, tok)
  return best_mean(elements, scorer, params, tok.eos_id)


def labeler_groups(run: Run) -> Callable[[Ranking], str]:
  """Ranking -> 'train' or 'heldout', the group of its labeler.

  With `num_folds`, labelers are divided among so many folds, and those of
  `fold` are held out (Ouyang et al. 2022, appendix E.2); the records' own
  held-out labelers are of neither group then.
  """
  config = run.config
  if not config.num_folds:
    return lambda ranking: ranking.group
  names = sorted(
    {
      r.labeler
      for r in inputs.records(run, 'rankings', 'rankings', 'train')
      if r.group == 'train'
    }
  )
  checks.require(
    len(names) >= config.num_folds,
    f'num_folds={config.num_folds}: '
    f'inputs.rankings has {len(names)} labelers in training',
  )
  folds = {name: i % config.num_folds for i, name in enumerate(names)}
  return lambda ranking: (
    ''
    if ranking.group != 'train'
    else ('heldout' if folds.get(ranking.labeler) == config.fold else 'train')
  )


def load_rankings(run: Run, tok, split: str, group: str | None = None):
  """(elements, dropped) of a split, of one labeler group if it is given."""
  config = run.config
  rankings = inputs.records(run, 'rankings', 'rankings', split)
  if group:
    group_of = labeler_groups(run)
    rankings = [r for r in rankings if group_of(r) == group]
  most = max((len(r.responses) for r in rankings), default=0)
  checks.require(
    most <= config.max_responses,
    f'max_responses={config.max_responses}: '
    f'inputs.rankings has a ranking of {most} responses',
  )
  longest = max(
    (
      len(cut)
      for r in rankings
      for tokens in r.response_tokens
      if (cut := tasks.cut_at_eos(tokens, tok.eos_id))
    ),
    default=0,
  )
  checks.require(
    longest <= config.response_len,
    f'response_len={config.response_len}: '
    f'inputs.rankings has a response of {longest} tokens',
  )
  if config.shuffled_pairs and split == 'train':
    rankings = list(
      itertools.chain.from_iterable(map(pipeline.split_pairs, rankings))
    )
  elements, dropped = pipeline.ranking_tokens(
    rankings, tok, prompt_len=config.prompt_len
  )
  checks.require(
    bool(elements),
    f'inputs.rankings has no ranking of split {split!r}'
    f'{f" and labeler group {group!r}" if group else ""} whose prompt fits '
    f'prompt_len={config.prompt_len}',
  )
  return elements, dropped


def load_held_out(run: Run, tok) -> dict[str, list]:
  """Rankings that accuracy is measured on: 'in_group' and 'heldout' labelers'.

  Public data often has no labelers that are held out; what there is not is told
  and left out.
  """
  if not inputs.data_folder(run, 'rankings').has('rankings', 'validation'):
    inputs.tell(
      run, 'accuracy is not measured: inputs.rankings has no validation split'
    )
    return {}
  groups = set(
    map(
      labeler_groups(run),
      inputs.records(run, 'rankings', 'rankings', 'validation'),
    )
  )
  held = {}
  for name, group in (('in_group', 'train'), ('heldout', 'heldout')):
    elements = (
      load_rankings(run, tok, 'validation', group)[0] if group in groups else []
    )
    if any(len(set(e.ranks)) > 1 for e in elements):
      held[name] = elements
    elif group == 'heldout' and group not in groups:
      inputs.tell(
        run,
        'no labelers are held out: accuracy is that on the training labelers',
      )
    else:
      inputs.tell(
        run,
        f'accuracy is not measured on the labelers {group!r}: '
        'the validation split has '
        f'{"only ties" if elements else "nothing"} of theirs',
      )
  return held


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


def _lengths(elements, tok) -> np.ndarray:
  return np.asarray(
    [tasks.ranking_length(e.prompt, e.responses, tok.eos_id) for e in elements]
  )


def _batches(
  config, elements, tok, *, columns: int, max_k: int, **kwargs
) -> pipeline.Batches:
  return pipeline.ranking_batches(
    elements,
    config.batch_size,
    config.train_seed,
    max_k=max_k,
    seq_len=columns,
    eos_id=tok.eos_id,
    pad_id=tok.pad_id,
    **kwargs,
  )


def training_batches(
  config, elements, tok, **kwargs
) -> tuple[pipeline.Batches, Callable[[int], int]]:
  """Batches of rankings, and how many columns of each are not all padding.

  Most rankings are half as long as the longest of all: those of like length go
  together, and a step computes the columns that its own need.

  Args:
    config: of the stage.
    elements: `pipeline.RankingTokens`.
    tok: the tokenizer.
    **kwargs: see `pipeline.Batches`.

  Returns:
    The batches, and step -> columns.
  """
  lengths = _lengths(elements, tok)
  most = _columns(lengths.max())
  batches = _batches(
    config,
    elements,
    tok,
    columns=most,
    lengths=lengths,
    window=WINDOW,
    max_k=2 if config.shuffled_pairs else config.max_responses,
    **kwargs,
  )
  return batches, lambda step: min(
    most, _width(lengths[batches.all_indices(step)].max())
  )


def ordered_batches(run: Run, elements, tok) -> list[RankingBatch]:
  """All rankings once, in order, on the devices; all batches of one shape."""
  batches = _batches(
    run.config,
    elements,
    tok,
    columns=_columns(_lengths(elements, tok).max()),
    max_k=run.config.max_responses,
    shuffle=False,
    rows_read=run.rows(run.config.batch_size),
  )
  return [run.put(batch) for batch in batches.once()]


def run(config, workdir, label: str = '') -> dict:
  """Trains the reward model, then shifts it; returns what DONE says."""
  validate(config)
  with Run(config, workdir, label) as run:
    tok = run.tokenizer()
    read = run.rows(config.batch_size)
    elements, dropped = load_rankings(run, tok, 'train', 'train')
    batches, columns = training_batches(config, elements, tok, rows_read=read)
    checks.require(
      any(len(set(e.ranks)) > 1 for e in elements),
      'inputs.rankings prefers '
      'no response to another: there is nothing to learn',
    )
    held = {
      name: ordered_batches(run, data, tok)
      for name, data in load_held_out(run, tok).items()
    }
    epoch = pipeline.epoch_steps(len(elements), config.batch_size)
    num_steps = epoch * config.num_epochs

    program = Program(
      config, run.mesh, vocab_size=tok.vocab_size, num_steps=num_steps
    )
    state = run.restore(
      program.fresh_state,
      program.state_shardings,
      [program.layout.abstract],
      lambda: [
        init_params(
          run,
          program.layout,
          'init' if config.inputs.init else '',
          config.model,
        )
      ],
    )

    def measure(params):
      return {
        name: accuracy(program.score, params, data, config.eval_seed)
        for name, data in held.items()
      }

    def evaluate(state, step):
      del step
      names = {'in_group': 'accuracy/validation', 'heldout': 'accuracy/heldout'}
      return {
        names[name]: found['accuracy']
        for name, found in measure(state.params).items()
      }

    def train_step(state, step):
      batch = pipeline.trim_columns(batches.at(step), columns(step))
      return program.step(state, run.put(batch))

    state = run.loop(
      state,
      train_step,
      num_steps,
      evaluate=evaluate if held else None,
      eval_every=config.eval_every or epoch,
    )

    # The bias after training: demonstrations score 0 on average. It is one
    # more step of the run, so that it too happens exactly once.
    if int(state.step) == num_steps:
      shift = -zero_mean(
        run,
        Scorer(program.layout.model, tok, batch_size=config.batch_size),
        state.params,
        tok,
        elements,
      )
      state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=heads.shift_bias(state.params, jnp.float32(shift)),
      )
      run.checkpointer.save(num_steps + 1, state, run.meta())
      run.checkpointer.wait()
    return {
      'accuracy': measure(state.params),
      'num_steps': num_steps,
      'rankings': len(elements),
      'rankings_dropped': dropped,
      'bias': float(state.params['head']['bias']),
      'bias_from': bias_source(run),
    }
