"""The PPO stage: validation of its config, set-up, and the run."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from instructrl.data import pipeline
from instructrl.data import tasks
from instructrl.data.folder import VALIDATION_CORPUS
from instructrl.data.records import Prompt
from instructrl.runtime import processes
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import lab
from instructrl.stages import lm
from instructrl.stages import ppo_steps
from instructrl.stages.run import Run
from instructrl.types import PromptBatch

STAGES = ('ppo', 'ppo_ptx')

# (prompts, texts of responses) -> a score each; for the curves only.
Judge = Callable[[Sequence[Prompt], Sequence[str]], np.ndarray]


def validate(config):
  """Refuses what makes no sense, by field name, before anything compiles."""
  checks.validate_common(config)
  p, require = config.ppo, checks.require
  for name in (
    'batch_size',
    'minibatch_size',
    'num_ppo_epochs',
    'prompt_len',
    'response_len',
    'num_iterations',
  ):
    require(p[name] >= 1, f'ppo.{name}={p[name]} must be 1 or more')
  for name in (
    'kl_coef',
    'ptx_coef',
    'adaptive_kl_target',
    'logits_chunk',
    'microbatch_size',
    'generate_microbatch_size',
    'score_microbatch_size',
    'ptx_microbatch_size',
    'warmup_iterations',
  ):
    require(p[name] >= 0, f'ppo.{name}={p[name]} is negative')
  require(
    p.batch_size % p.minibatch_size == 0,
    f'ppo.minibatch_size={p.minibatch_size} does not divide '
    f'ppo.batch_size={p.batch_size}',
  )
  for name, whole in (
    ('microbatch_size', 'minibatch_size'),
    ('generate_microbatch_size', 'batch_size'),
    ('score_microbatch_size', 'batch_size'),
  ):
    require(
      not p[name] or p[whole] % p[name] == 0,
      f'ppo.{name}={p[name]} does not divide ppo.{whole}={p[whole]}',
    )
  require(
    p.top_p == 1.0,
    'ppo.top_p must be 1: PPO needs the log-probs of the whole distribution',
  )
  require(
    p.temperature > 0,
    f'ppo.temperature={p.temperature} must be '
    'positive: a greedy policy does not explore',
  )
  require(0 < p.clip_eps < 1, f'ppo.clip_eps={p.clip_eps} is not in (0, 1)')
  require(p.value_clip_eps > 0, 'ppo.value_clip_eps must be positive')
  require(0 <= p.gae_lambda <= 1, 'ppo.gae_lambda is not in [0, 1]')
  require(
    0 <= p.discount <= 1,
    "ppo.discount is not in [0, 1] (the paper's gamma is ppo.ptx_coef)",
  )
  require(0 <= p.ema_decay < 1, f'ppo.ema_decay={p.ema_decay} not in [0, 1)')
  require(
    p.missing_eos in ('none', 'penalty', 'fixed'),
    f"ppo.missing_eos={p.missing_eos!r} is none of 'none', 'penalty', 'fixed'",
  )
  require(
    not p.ptx_coef or p.ptx_examples_per_episode >= 1,
    'ppo.ptx_examples_per_episode must be 1 or more with ppo.ptx_coef',
  )
  ptx_rows = p.minibatch_size * p.ptx_examples_per_episode
  require(
    not p.ptx_coef
    or not p.ptx_microbatch_size
    or ptx_rows % p.ptx_microbatch_size == 0,
    f'ppo.ptx_microbatch_size={p.ptx_microbatch_size} does not divide '
    f'the {ptx_rows} pretraining rows of a minibatch',
  )
  require(
    not p.adaptive_kl_target or p.adaptive_kl_horizon > 0,
    f'ppo.adaptive_kl_horizon={p.adaptive_kl_horizon} must be positive',
  )
  for name in MODELS.values():
    require(config[name].dropout == 0, f'{name}.dropout must be 0 in PPO')
    require(
      p.prompt_len + p.response_len <= config[name].max_len,
      f'{name}.max_len={config[name].max_len} is shorter than '
      f'ppo.prompt_len + ppo.response_len',
    )
  if p.ema_decay:
    half_life = np.log(0.5) / np.log(p.ema_decay)
    updates = (
      p.num_iterations * p.num_ppo_epochs * p.batch_size // p.minibatch_size
    )
    require(
      updates >= 4 * half_life,
      f'ppo.ema_decay={p.ema_decay} has a half-life of {half_life:.0f} '
      f'updates, and the run has only {updates}: its average would '
      'still be the start. Lower it, or train for longer',
    )


def settings(config, eos_id: int, pad_id: int) -> ppo_steps.Settings:
  fields = config.ppo.to_dict()
  for name in ('num_iterations', 'top_p', 'warmup_iterations'):
    del fields[name]
  return ppo_steps.Settings(**fields, eos_id=eos_id, pad_id=pad_id)


def load_prompts(run: Run, tok, split: str, prompt_len: int):
  """Records and tokens of the prompts that fit; says how many did not."""
  records = inputs.records(run, 'data', 'prompts', split)
  tokens = [tasks.chat_prompt(tok, record) for record in records]
  kept = [i for i, t in enumerate(tokens) if len(t) <= prompt_len]
  checks.require(
    bool(kept), f'no prompt of {split!r} fits ppo.prompt_len={prompt_len}'
  )
  return (
    [records[i] for i in kept],
    [tokens[i] for i in kept],
    len(records) - len(kept),
  )


def make_optimizer(c, p, frozen=None):
  """(tx, schedule) of an optimizer config; `p` is `config.ppo`.

  `frozen` is as for `common.make_optimizer`. The warmup is given in iterations;
  the schedule counts optimizer steps.
  """
  updates = p.num_ppo_epochs * p.batch_size // p.minibatch_size
  c = c.copy_and_resolve_references()
  c.warmup_steps = p.warmup_iterations * updates
  return build.make_optimizer(c, p.num_iterations * updates, frozen)


# Model -> its config field. All but the policy and the value model are frozen.
MODELS = {
  'policy': 'model',
  'reference': 'reference_model',
  'reward': 'reward_model',
  'value': 'value_model',
}


class Program:
  """What PPO computes, before there are data or parameters.

  Attributes:
    settings: the numbers.
    layouts: of the four models, see `MODELS`.
    state_shardings: of the `TrainState`.
    generate, score, update: jitted, see `ppo_steps`; update's state is donated.
  """

  def __init__(
    self, config, mesh, *, vocab_size: int, eos_id: int, pad_id: int
  ):
    self._mesh = mesh
    self.settings = s = settings(config, eos_id, pad_id)
    models = {
      name: build.make_model(config, vocab_size, field)
      for name, field in MODELS.items()
    }
    self.layouts = {
      name: (
        build.lm_layout
        if name in ('policy', 'reference')
        else build.scalar_layout
      )(model, mesh)
      for name, model in models.items()
    }
    if config.offload.reference:
      layout = self.layouts['reference']
      self.layouts['reference'] = dataclasses.replace(
        layout, shardings=sharding.on_host(mesh, layout.shardings)
      )
    self._tx = {
      name: make_optimizer(c, config.ppo, self.layouts[name].frozen)[0]
      for name, c in (
        ('policy', config.optimizer),
        ('value', config.value_optimizer),
      )
    }
    self.state_shardings = ppo_steps.state_shardings(
      mesh, self._tx, self.layouts
    )
    if config.offload.ema:
      self.state_shardings = dataclasses.replace(
        self.state_shardings,
        ema_params=sharding.on_host(mesh, self.state_shardings.ema_params),
      )
    whole = sharding.replicated(mesh)
    rows = sharding.batch_sharding(mesh)
    self.generate = jax.jit(
      ppo_steps.make_generate(
        build.make_model(config, vocab_size, rules='generate'),
        s,
        config.train_seed,
      ),
      out_shardings=rows,
    )
    self.score = jax.jit(
      ppo_steps.make_score(
        models['reference'], models['value'], models['reward'], s
      ),
      out_shardings=(rows, whole),
    )
    self.update = jax.jit(
      ppo_steps.make_update(
        models['policy'], models['value'], s, self._tx, config.train_seed
      ),
      out_shardings=(self.state_shardings, whole),
      donate_argnums=0,
    )

  def fresh_state(self, policy_params, value_params):
    return ppo_steps.fresh_state(
      policy_params, value_params, self._tx, self.settings.kl_coef
    )

  @functools.cached_property
  def resident(self):
    """All that stays between steps, on devices and hosts, abstract."""
    inputs = [self.layouts[name].abstract for name in self._tx]
    state = build.abstract(
      jax.eval_shape(self.fresh_state, *inputs), self.state_shardings
    )
    return (
      state,
      self.layouts['reference'].abstract,
      self.layouts['reward'].abstract,
    )

  def functions(self) -> dict[str, tuple]:
    """Name -> (jitted function, its abstract arguments), in order."""
    s, layouts, mesh = self.settings, self.layouts, self._mesh
    state, reference, reward = self.resident
    number = lambda dtype: jax.ShapeDtypeStruct(
      (), dtype, sharding=sharding.replicated(mesh)
    )
    shape = (s.batch_size, s.prompt_len)
    prompts = build.abstract_rows(
      mesh,
      PromptBatch(
        tokens=(shape, jnp.int32),
        mask=(shape, jnp.bool_),
        index=(shape[:1], jnp.int32),
      ),
    )
    as_rows = lambda tree: build.abstract_rows(
      mesh, jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    )
    generate = (state.params['policy'], prompts, number(jnp.int32))
    responses = as_rows(jax.eval_shape(self.generate, *generate))
    score = (
      reference,
      reward,
      state.params['value'],
      number(jnp.float32),
      prompts,
      responses,
    )
    rollout = as_rows(jax.eval_shape(self.score, *score)[0])
    rows = s.batch_size * s.num_ppo_epochs * s.ptx_examples_per_episode
    ptx = (
      lm.abstract_batch(mesh, rows, layouts['policy'].model.module.max_len)
      if s.ptx_coef
      else None
    )
    return {
      'generate': (self.generate, generate),
      'score': (self.score, score),
      'update': (self.update, (state, rollout, ptx)),
    }


def _load(run: Run, program: Program):
  """(state, reference parameters, reward parameters)."""
  config, layouts = run.config, program.layouts

  def load(source, name):
    return run.load_params(source, layouts[name].abstract, config[MODELS[name]])

  # The value model starts as the reward model, bias included.
  state = run.restore(
    program.fresh_state,
    program.state_shardings,
    [layouts['policy'].abstract, layouts['value'].abstract],
    lambda: [load('policy', 'policy'), load('reward_model', 'value')],
  )
  reference = 'reference' if config.inputs.reference else 'policy'
  return state, load(reference, 'reference'), load('reward_model', 'reward')


def _pretraining(run: Run, program: Program):
  """The pretraining rows of every iteration; None without ptx_coef."""
  s = program.settings
  if not s.ptx_coef:
    return None
  rows = inputs.rows(run, 'corpus.rows', 'set ppo.ptx_coef=0')
  lm.check_row_len(rows, program.layouts['policy'].model)
  count = s.batch_size * s.ptx_examples_per_episode * s.num_ppo_epochs
  return pipeline.lm_batches(
    rows, count, run.config.train_seed, rows_read=run.rows(count)
  )


def _validation(run: Run) -> list:
  """What pretrain/nll is measured on; nothing where there are no such rows."""
  if not inputs.data_folder(run).has_rows(VALIDATION_CORPUS):
    inputs.tell(
      run,
      'pretrain/nll is not measured: inputs.data has no corpus_validation.rows',
    )
    return []
  return lm.validation_batches(
    run,
    inputs.rows(run, VALIDATION_CORPUS, ''),
    run.config.eval_batch_size,
    run.config.eval_batches,
  )


def lab_judge(folder) -> Judge | None:
  """Returns the judge of a lab's folder; None for a folder of public data."""
  if not lab.is_lab(folder):
    return None
  judge = lab.make_judge(folder)
  return lambda prompts, responses: np.asarray(
    [judge.utility(p, r) for p, r in zip(prompts, responses)]
  )


def run(
  config, workdir, label: str = '', *, judge: Judge | None = None
) -> dict:
  """Runs PPO or PPO-ptx to its end. Returns the stage's result.

  Args:
    config: config of the stage.
    workdir: folder of the run.
    label: text shown before the stage's name.
    judge: scores the samples for metrics; by default the lab's judge, if
      inputs.data is a lab.
  """
  validate(config)
  with Run(config, workdir, label) as run:
    judge = judge or lab_judge(run.input('data'))
    tok = run.tokenizer()
    program = Program(
      config,
      run.mesh,
      vocab_size=tok.vocab_size,
      eos_id=tok.eos_id,
      pad_id=tok.pad_id,
    )
    state, reference_params, reward_params = _load(run, program)
    s, p = program.settings, config.ppo
    records, tokens, dropped = load_prompts(
      run, tok, config.prompts_split, p.prompt_len
    )
    prompts = pipeline.prompt_batches(
      tokens,
      s.batch_size,
      config.train_seed,
      prompt_len=s.prompt_len,
      pad_id=tok.pad_id,
      rows_read=run.rows(s.batch_size),
    )
    ptx = _pretraining(run, program)
    nll_fn = lm.make_nll(program.layouts['policy'].model, s.logits_chunk)
    validation = _validation(run)

    def step_fn(state, step):
      clock = {}

      def timed(name, fn, *args):
        began = time.perf_counter()
        out = jax.block_until_ready(fn(*args))
        clock[name] = time.perf_counter() - began
        return out

      batch = run.put(prompts.at(step))
      responses = timed(
        'perf/generate_s', program.generate, state.params['policy'], batch, step
      )
      rollout, metrics = timed(
        'perf/score_s',
        program.score,
        reference_params,
        reward_params,
        state.params['value'],
        state.kl_coef,
        batch,
        responses,
      )
      done = step + 1
      look = config.samples_every and (
        done % config.samples_every == 0 or step == 0
      )
      if look:
        metrics = dict(metrics)
        shown = ppo_steps.samples(processes.fetch(rollout), tok, s.batch_size)
        if judge is not None:
          metrics['objective/judge'] = float(
            np.mean(
              judge(
                [records[i] for i in prompts.all_indices(step)],
                [sample['response'] for sample in shown],
              )
            )
          )
        for sample in shown[:8]:
          run.writer.sample(done, sample)
      more = run.put(ptx.at(step)) if ptx is not None else None
      state, update_metrics = timed(
        'perf/update_s', program.update, state, rollout, more
      )
      run.writer.timings(done, clock)
      return state, metrics | update_metrics

    def evaluate(state, step):
      del step
      average = jax.device_put(
        state.ema_params, program.layouts['policy'].shardings
      )
      return {'pretrain/nll': lm.mean_nll(nll_fn, average, validation)}

    state = run.loop(
      state,
      step_fn,
      p.num_iterations,
      evaluate=evaluate if validation else None,
      eval_every=config.eval_every,
      export=('ema_params',),
    )
    return {
      'num_iterations': p.num_iterations,
      'episodes': p.num_iterations * s.batch_size,
      'prompts': len(records),
      'prompts_dropped': dropped,
      **(evaluate(state, p.num_iterations) if validation else {}),
    }
