"""The PPO stage: validation of its config, set-up, and the run."""

from collections.abc import Callable, Sequence
import functools
import time

import jax
import numpy as np

from instructrl.data import pipeline
from instructrl.data import tasks
from instructrl.data.folder import VALIDATION_CORPUS
from instructrl.data.records import Prompt
from instructrl.rewards import rewards_settings
from instructrl.rewards.function import FunctionReward
from instructrl.rewards.protocol import Episodes
from instructrl.rewards.protocol import Reward
from instructrl.runtime import ahead
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.stages import architecture
from instructrl.stages import checks
from instructrl.stages import evals
from instructrl.stages import inputs
from instructrl.stages import lab
from instructrl.stages import lm
from instructrl.stages import ppo_settings
from instructrl.stages import ppo_steps
from instructrl.stages import ppo_validation
from instructrl.stages import reward
from instructrl.stages.ppo_program import MODELS
from instructrl.stages.ppo_program import PPOProgram
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
  if text := ppo_settings.warning(p.to_dict()):
    files.warn_once(text)
  try:
    terms = rewards_settings.read(config.rewards.to_dict())
  except ValueError as error:
    raise checks.ConfigError(str(error)) from error
  for name, term in terms.items():
    if term.kind == 'function':
      FunctionReward(name, term.function)  # raises if it cannot be imported
  for name in MODELS.values():
    length, dropout = config[name].max_len, config[name].dropout
    require(dropout == 0, f'{name}.dropout must be 0 in PPO; got {dropout}')
    require(
      p.prompt_len + p.response_len <= length,
      f'{name}.max_len must be at least ppo.prompt_len + ppo.response_len = '
      f'{p.prompt_len} + {p.response_len}; got {length}',
    )
  checks.within(config, 'validation_prompts', low=0)
  evals.validate(config)


def load_prompts(
  run: Run, tok, split: str, prompt_len: int, source: str = 'data'
):
  """Returns records and tokens of the prompts that fit, and how many do not.

  The records are text, laid out and tokenized for the policy, wherever they
  come from.

  Args:
    run: the open run.
    tok: the policy's tokenizer.
    split: name of the split.
    prompt_len: tokens of a prompt, at most.
    source: name of the input that has the prompts.
  """
  records = inputs.records(run, source, 'prompts', split)
  # In one pass: records that are read one by one take ten times as long.
  pairs = ((record, tasks.chat_prompt(tok, record)) for record in records)
  kept = [pair for pair in pairs if tasks.fits(pair[1], prompt_len)]
  checks.require(
    bool(kept), f'no prompt of {split!r} fits ppo.prompt_len={prompt_len}'
  )
  fitting, prompts = map(list, zip(*kept))
  return fitting, prompts, len(records) - len(kept)


def _load(run: Run, program: PPOProgram):
  """Returns (state, reference parameters, {name: reward parameters})."""
  config, layouts = run.config, program.layouts

  def load(source, name):
    return run.load_params(source, layouts[name].abstract, config[MODELS[name]])

  models = [f'rewards.{name}' for name in program.names('model')]

  def start():
    return [load('policy', 'policy'), _value_params(run, program, models)]

  state = run.restore(
    program.fresh_state,
    program.state_shardings,
    [layouts['policy'].abstract, layouts['value'].abstract],
    start,
  )
  reference = 'reference' if config.inputs.reference else 'policy'
  rewards = {
    name: load(key, 'reward')
    for name, key in zip(program.names('model'), models)
  }
  return state, load(reference, 'reference'), rewards


def _value_params(run: Run, program: PPOProgram, models: Sequence[str]):
  """Returns the parameters that the value model starts from.

  They are those of the first reward model, bias included (section 3.5), if it
  has the value model's architecture; else the policy's with a fresh head.
  """
  config, layout = run.config, program.layouts['value']
  if models and not _differences(config.reward_model, config.value_model):
    return run.load_params(models[0], layout.abstract, config.value_model)
  changed = _differences(config.model, config.value_model)
  checks.require(
    not changed,
    'value_model must have the architecture of a reward model or of the '
    f'policy; its {", ".join(changed)} differ from the policy',
  )
  return reward.init_params(run, layout, 'policy', config.value_model)


def _differences(one, other) -> list[str]:
  """Returns the fields in which two models compute something else."""
  compared = architecture.compared(one.to_dict(), other)
  return [field for field, theirs, ours in compared if theirs != ours]


def load_functions(program: PPOProgram) -> dict[str, Reward]:
  """Returns the rewards that are Python functions, by name."""
  return {
    name: FunctionReward(name, program.terms[name].function)
    for name in program.names('function')
  }


def _pretraining(run: Run, program: PPOProgram):
  """Returns the batches of pretraining rows; None without ptx_coef."""
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
  """Returns the rows that pretrain/nll is measured on, if there are any."""
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
    program = PPOProgram(
      config,
      run.mesh,
      vocab_size=tok.vocab_size,
      eos_id=tok.eos_id,
      pad_id=tok.pad_id,
    )
    functions, s = load_functions(program), program.settings
    source = 'prompts' if config.inputs.prompts else 'data'
    with ahead.compiling(program.functions(), run.mesh):
      state, *frozen = _load(run, program)
      records, tokens, dropped = load_prompts(
        run, tok, config.prompts_split, s.prompt_len, source
      )
    prompts = pipeline.prompt_batches(
      tokens,
      s.batch_size,
      config.train_seed,
      prompt_len=s.prompt_len,
      pad_id=tok.pad_id,
      rows_read=run.rows(s.batch_size),
    )
    validation = _validation(run)

    policy = program.layouts['policy']
    nll_fn = lm.make_nll(policy.model, s.logits_chunk)

    def average(state):
      return jax.device_put(state.ema_params, policy.shardings)

    def evaluate(state, step):
      del step
      return {'pretrain/nll': lm.mean_nll(nll_fn, average(state), validation)}

    judge = judge or lab_judge(run.input(source))
    looker = Looker(run, tok, s.batch_size, records, judge)
    score = _scoring(run, program, frozen, functions)

    def episodes(step, responses):
      rows = prompts.all_indices(step)
      shown = [records[i] for i in rows], [tokens[i] for i in rows]
      return Episodes(
        *shown, ppo_steps.unpadded(processes.fetch(responses)), tok
      )

    step_fn = _step(
      run, program, score, episodes, prompts, _pretraining(run, program), looker
    )
    state = run.loop(
      state,
      step_fn,
      s.num_iterations,
      evaluate=evaluate if validation else None,
      eval_every=config.eval_every,
      evals=evals.in_training(run, policy.model, average),
      export=('ema_params',),
    )
    return {
      **_sizes(program),
      'prompts': len(records),
      'prompts_dropped': dropped,
      **(evaluate(state, s.num_iterations) if validation else {}),
      **_validation_reward(run, program, score, state, average(state), source),
    }


def _sizes(program: PPOProgram) -> dict[str, int]:
  """Returns how much is trained, and the numbers of parameters."""
  s = program.settings
  return {
    'num_iterations': s.num_iterations,
    'episodes': s.num_iterations * s.batch_size,
    'num_params': program.layouts['policy'].num_params,
    'value_params': program.layouts['value'].num_params,
  }


def _validation_reward(run, program, score, state, average, source) -> dict:
  """Returns {'validation': summaries} of the average; {} without prompts."""
  wanted = run.config.validation_prompts
  if not wanted:
    return {}
  if not inputs.data_folder(run, source).has('prompts', 'validation'):
    inputs.tell(
      run,
      'the validation reward is not measured: no prompts of the split '
      f"'validation' in inputs.{source}",
    )
    return {}
  records, tokens, _ = load_prompts(
    run, run.tokenizer(), 'validation', program.settings.prompt_len, source
  )
  prompts = records[:wanted], tokens[:wanted]
  return {
    'validation': ppo_validation.measure(
      run, program, score, state, average, prompts
    )
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


def _scoring(run: Run, program: PPOProgram, frozen, functions):
  """Returns (state, prompts, responses, make_episodes) -> (rollout, metrics).

  Functions are called while the device runs the passes of the models.
  """
  size = program.settings.batch_size

  def score(state, prompts, responses, make_episodes):
    value, kl_coef = state.params['value'], state.kl_coef
    if not functions:
      return program.score(*frozen, value, kl_coef, prompts, responses)
    *found, terms = program.passes(*frozen, value, prompts, responses)
    episodes = make_episodes(responses)
    for name, function in functions.items():
      # Only process 0 calls a function: it need not be deterministic.
      scores = function(episodes) if run.primary else np.zeros(size, np.float32)
      terms[name] = run.put(processes.share(scores)[run.rows(size)])
    return program.finish(kl_coef, prompts, responses, *found, terms)

  return score


def _step(run: Run, program, score, episodes, prompts, ptx, looker: Looker):
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
    responses = timed(
      'generate',
      program.generate,
      state.params['policy'],
      batch,
      program.seed,
      np.int32(step),  # of the type that was compiled ahead
    )
    rollout, metrics = timed(
      'score', score, state, batch, responses, functools.partial(episodes, step)
    )
    more = run.put(ptx.at(step)) if ptx is not None else None
    state, update_metrics = timed(
      'update', program.update, state, rollout, more, program.seed
    )
    seen = {}
    if looker.due(step + 1):
      seen = looker.look(step + 1, rollout, prompts.all_indices(step))
    if run.config.log.timings:
      run.writer.timings(step + 1, clock)
    return state, metrics | seen | update_metrics

  return step_fn
