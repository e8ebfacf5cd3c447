"""The PPO stage: validation of its config, set-up, and the run."""

from collections.abc import Callable, Sequence
import time

import jax
import numpy as np

from instructrl.data import pipeline
from instructrl.data import tasks
from instructrl.data.folder import VALIDATION_CORPUS
from instructrl.data.records import Prompt
from instructrl.runtime import processes
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import lab
from instructrl.stages import lm
from instructrl.stages import ppo_settings
from instructrl.stages import ppo_steps
from instructrl.stages.ppo_program import MODELS
from instructrl.stages.ppo_program import Program
from instructrl.stages.run import Run

STAGES = ('ppo', 'ppo_ptx')

# (prompts, texts of responses) -> a score each; for the curves only.
Judge = Callable[[Sequence[Prompt], Sequence[str]], np.ndarray]


def validate(config):
  """Raises a ConfigError that names the first field out of its bounds."""
  checks.validate_common(config)
  p, require = config.ppo, checks.require
  for fault in ppo_settings.faults(p.to_dict()):
    require(False, fault)
  for name in MODELS.values():
    length, dropout = config[name].max_len, config[name].dropout
    require(dropout == 0, f'{name}.dropout must be 0 in PPO; got {dropout}')
    require(
      p.prompt_len + p.response_len <= length,
      f'{name}.max_len must be at least ppo.prompt_len + ppo.response_len = '
      f'{p.prompt_len} + {p.response_len}; got {length}',
    )


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
    tok = run.tokenizer()
    program = Program(
      config,
      run.mesh,
      vocab_size=tok.vocab_size,
      eos_id=tok.eos_id,
      pad_id=tok.pad_id,
    )
    state, *frozen = _load(run, program)
    s = program.settings
    records, tokens, dropped = load_prompts(
      run, tok, config.prompts_split, s.prompt_len
    )
    prompts = pipeline.prompt_batches(
      tokens,
      s.batch_size,
      config.train_seed,
      prompt_len=s.prompt_len,
      pad_id=tok.pad_id,
      rows_read=run.rows(s.batch_size),
    )
    nll_fn = lm.make_nll(program.layouts['policy'].model, s.logits_chunk)
    validation = _validation(run)

    def evaluate(state, step):
      del step
      average = jax.device_put(
        state.ema_params, program.layouts['policy'].shardings
      )
      return {'pretrain/nll': lm.mean_nll(nll_fn, average, validation)}

    judge = judge or lab_judge(run.input('data'))
    looker = Looker(run, tok, s.batch_size, records, judge)
    state = run.loop(
      state,
      _step(run, program, frozen, prompts, _pretraining(run, program), looker),
      s.num_iterations,
      evaluate=evaluate if validation else None,
      eval_every=config.eval_every,
      export=('ema_params',),
    )
    return {
      'num_iterations': s.num_iterations,
      'episodes': s.num_iterations * s.batch_size,
      'prompts': len(records),
      'prompts_dropped': dropped,
      **(evaluate(state, s.num_iterations) if validation else {}),
    }


class Looker:
  """Writes samples, and the judge's mean, every config.samples_every steps."""

  def __init__(self, run: Run, tok, batch_size: int, records, judge):
    self._run, self._tok, self._batch_size = run, tok, batch_size
    self._records, self._judge = records, judge

  def due(self, done: int) -> bool:
    """Whether to look after `done` steps; the first step is always due."""
    every = self._run.config.samples_every
    return bool(every) and (done == 1 or done % every == 0)

  def look(self, done: int, rollout, indices) -> dict[str, float]:
    """Fetches the rollout, writes samples, and returns the judge's metrics.

    Args:
      done: steps done.
      rollout: the iteration's rollout, on the devices.
      indices: [B] index into the prompt records of each row.
    """
    shown = ppo_steps.samples(
      processes.fetch(rollout), self._tok, self._batch_size
    )
    for sample in shown[:8]:
      self._run.writer.sample(done, sample)
    if self._judge is None:
      return {}
    found = self._judge(
      [self._records[i] for i in indices], [x['response'] for x in shown]
    )
    return {'objective/judge': float(np.mean(found))}


def _step(run: Run, program: Program, frozen, prompts, ptx, looker: Looker):
  """Returns (state, step) -> (state, metrics): one iteration of PPO.

  The three passes are dispatched before anything is read, unless
  config.log.timings asks for the seconds of each.
  """
  wait = jax.block_until_ready if run.config.log.timings else lambda x: x

  def step_fn(state, step):
    clock = {}

    def timed(name, fn, *args):
      began = time.perf_counter()
      out = wait(fn(*args))
      clock[f'perf/{name}_s'] = time.perf_counter() - began
      return out

    batch = run.put(prompts.at(step))
    params, kl_coef = state.params, state.kl_coef
    responses = timed(
      'generate', program.generate, params['policy'], batch, step
    )
    rollout, metrics = timed(
      'score',
      program.score,
      *frozen,
      params['value'],
      kl_coef,
      batch,
      responses,
    )
    more = run.put(ptx.at(step)) if ptx is not None else None
    state, update_metrics = timed(
      'update', program.update, state, rollout, more
    )
    seen = {}
    if looker.due(step + 1):
      seen = looker.look(step + 1, rollout, prompts.all_indices(step))
    if run.config.log.timings:
      run.writer.timings(step + 1, clock)
    return state, metrics | seen | update_metrics

  return step_fn
