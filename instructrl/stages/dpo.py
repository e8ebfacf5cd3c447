"""Direct preference optimization (DPO, Rafailov et al. 2023).

Trains a policy on rankings, without a reward model and without sampling. The
policy starts from `inputs.policy`, which is also the frozen reference. The
log-probabilities of the reference are computed before the loop, from
`inputs.policy` also when a run resumes.
"""

from collections.abc import Mapping, Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

from instructrl import losses
from instructrl.data import pipeline
from instructrl.data.ranked import RankedTokens
from instructrl.models.transformer import Model
from instructrl.runtime import processes
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import evals
from instructrl.stages import ranking_batches
from instructrl.stages import ranking_parts
from instructrl.stages import reward
from instructrl.stages import scoring
from instructrl.stages.run import Run
from instructrl.types import Params, PREFIX, pytree, RankingBatch, TrainState

STAGES = ('dpo',)


@pytree
class ReferenceBatch(RankingBatch):
  """A `RankingBatch` with the reference's log-probabilities."""

  ref_logprobs: jax.Array  # [B, K] float32, nats; 0 where not `valid`


def with_reference(batch: RankingBatch, ref_logprobs) -> ReferenceBatch:
  return ReferenceBatch(**vars(batch), ref_logprobs=ref_logprobs)


def validate(config):
  """Raises `ConfigError` for fields that make no sense."""
  reward.validate(config)
  checks.within(config, 'beta', above=0, below=math.inf)
  checks.within(config, 'logits_chunk', low=0)
  evals.validate(config)


def ranked_logprobs(
  model: Model, params: Params, batch: RankingBatch, chunk_size: int
) -> jax.Array:
  """Returns the log-probability of every ranked response, given its prompt.

  One forward pass over each prompt and each response, whatever the number of
  pairs that a response is in.

  Args:
    model: the policy.
    params: its parameters.
    batch: rankings.
    chunk_size: see `losses.token_logprobs`.

  Returns:
    [B, K] float32, nats, sums over tokens, EOS included; 0 where not `valid`.
  """
  hidden, _ = model.apply(
    params, batch.tokens, batch.positions, batch.segment_ids, shared_prefix=True
  )
  # The token before a response's first one is the last of the prompt.
  segments = batch.segment_ids
  first = segments != jnp.roll(segments, 1, axis=1)
  end = (segments == PREFIX).sum(axis=1, keepdims=True)[:, :, None]
  prompt_end = jnp.take_along_axis(hidden, end - 1, axis=1)
  before = jnp.where(first[:, :, None], prompt_end, jnp.roll(hidden, 1, axis=1))
  logprobs = losses.token_logprobs(
    before,
    model.unembedding(params).T,
    batch.tokens,
    vocab_size=model.vocab_size,
    chunk_size=chunk_size,
    mask=segments > 0,
  )
  responses = 1 + jnp.arange(batch.ranks.shape[1])
  own = segments[:, None, :] == responses[:, None]
  return jnp.where(own, logprobs[:, None, :], 0).sum(axis=2)


class DPOProgram(build.Program):
  """The jitted functions of the stage, made before data and parameters.

  Attributes:
    step: jitted, see `reward.rankings_step`; the state is donated.
    logprobs: jitted, see `ranked_logprobs`; the rows of every process.
    rewards: jitted (params, ReferenceBatch) -> [B, K] implicit rewards.
  """

  def __init__(self, config, mesh, *, vocab_size, num_steps, widths=()):
    model = build.make_model(config, vocab_size)
    layout = build.lm_layout(model, mesh)
    tx, schedule = build.make_optimizer(
      config.optimizer, num_steps, layout.frozen
    )
    super().__init__(config, mesh, layout, tx)
    whole = sharding.replicated(mesh)

    def logprobs(params, batch):
      return ranked_logprobs(model, params, batch, config.logits_chunk)

    def rewards(params, batch):
      return config.beta * (logprobs(params, batch) - batch.ref_logprobs)

    def in_parts(fn):
      mapped = lambda params, batch: ranking_parts.mapped(
        fn, params, batch, widths, config.microbatch_size
      )
      return jax.jit(mapped, out_shardings=whole)

    def loss_fn(params, batch, **counts):
      return losses.dpo_loss(
        logprobs(params, batch),
        batch.ref_logprobs,
        batch.ranks,
        batch.valid,
        beta=config.beta,
        **counts,
      )

    self.step = jax.jit(
      reward.rankings_step(
        loss_fn,
        tx,
        schedule,
        microbatch_size=config.microbatch_size,
        widths=widths,
      ),
      out_shardings=(self.state_shardings, whole),
      donate_argnums=0,
    )
    self.logprobs, self.rewards = in_parts(logprobs), in_parts(rewards)


def prepare(
  run: Run,
  program: DPOProgram,
  batches: pipeline.Batches,
  num_steps: int,
  held_out: Mapping[str, RankedTokens],
) -> tuple[TrainState, np.ndarray, dict[str, list[ReferenceBatch]]]:
  """Loads `inputs.policy` and computes everything that depends on it.

  Args:
    run: the open run.
    program: the program of the run.
    batches: of the training.
    num_steps: number of steps, from the first on, whose rankings need the
      reference's log-probabilities.
    held_out: from `ranking_batches.load_held_out`.

  Returns:
    The state that the run starts or resumes from; `ref_logprobs` [N, K] of the
    N training rankings, 0 for rankings that no step needs; and the held-out
    rankings by labeler group.
  """
  config, abstract = run.config, program.layout.abstract
  params = run.load_params('policy', abstract, config.model)
  shape = batches.num_examples, config.max_responses
  ref_logprobs = np.zeros(shape, np.float32)
  for step in range(num_steps):
    found = program.logprobs(params, run.put(batches.at(step)))
    found = processes.fetch(found)
    ref_logprobs[batches.all_indices(step), : found.shape[1]] = found
  held = {
    name: [
      with_reference(batch, program.logprobs(params, batch))
      for batch in batches
    ]
    for name, batches in ranking_batches.held_out_batches(
      run, run.tokenizer(), held_out, config.eval_prompts
    ).items()
  }
  state = run.restore(
    program.fresh_state, program.state_shardings, [abstract], lambda: [params]
  )
  return state, ref_logprobs, held


def measure(
  config, program: DPOProgram, params: Params, held: Sequence[ReferenceBatch]
) -> dict[str, float]:
  """Returns `loss`, `accuracy` and `margin` on held-out rankings."""
  rewards = np.concatenate([program.rewards(params, b) for b in held])
  ranks, valid = (
    np.concatenate([processes.fetch(getattr(b, name)) for b in held])
    for name in ('ranks', 'valid')
  )
  loss, metrics = losses.ranking_loss(rewards, ranks, valid)
  return {
    'loss': float(loss),
    'accuracy': float(metrics['reward/accuracy']),
    'margin': float(metrics['reward/margin']),
  }


def run(config, workdir, label: str = '') -> dict:
  """Trains a policy on rankings. Returns the result for the DONE file."""
  validate(config)
  with Run(config, workdir, label) as run:
    tok = run.tokenizer()
    elements, dropped, batches = ranking_batches.load_training(run, tok)
    held_out = ranking_batches.load_held_out(run, tok)
    epoch = pipeline.epoch_steps(len(elements), config.batch_size)
    num_steps = config.num_steps or config.num_epochs * epoch
    program = DPOProgram(
      config,
      run.mesh,
      vocab_size=tok.vocab_size,
      num_steps=num_steps,
      widths=ranking_batches.widths(elements, held_out),
    )

    state, ref_logprobs, held = prepare(
      run, program, batches, min(num_steps, epoch), held_out
    )

    def evaluate(state, step):
      del step
      found = {}
      for name, data in held.items():
        split = {'in_group': 'validation'}.get(name, name)
        measured = measure(config, program, state.params, data)
        found |= {f'{key}/{split}': x for key, x in measured.items()}
      return found

    def train_step(state, step):
      batch = batches.at(step)
      own = ref_logprobs[batches.indices(step), : batch.ranks.shape[1]]
      return program.step(state, run.put(with_reference(batch, own)))

    state = run.loop(
      state,
      train_step,
      num_steps,
      evaluate=evaluate if held else None,
      eval_every=config.eval_every or epoch,
      evals=evals.in_training(
        run, program.layout.model, lambda state: state.params
      ),
    )
    return {
      'accuracy': {
        name: scoring.accuracy(
          program.rewards, state.params, data, config.eval_seed
        )
        for name, data in held.items()
      },
      **evaluate(state, num_steps),
      'num_steps': num_steps,
      'rankings': len(elements),
      'rankings_dropped': dropped,
    }
