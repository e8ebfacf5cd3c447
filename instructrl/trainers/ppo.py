"""The PPO stage: validation of its config, set-up, and the run."""

from collections.abc import Callable, Sequence
import time

import jax
import numpy as np

from instructrl import rng
from instructrl import sharding
from instructrl.data import pipeline
from instructrl.data import records as records_lib
from instructrl.data import tasks
from instructrl.data.datasets import lab as lab_data
from instructrl.trainers import common
from instructrl.trainers import lm
from instructrl.trainers import ppo_steps

# (prompts, texts of responses) -> a score each; for the curves only.
Judge = Callable[[Sequence[records_lib.Prompt], Sequence[str]], np.ndarray]


def validate(config):
  """Refuses what makes no sense, by field name, before anything compiles."""
  common.validate_common(config)
  p, require = config.ppo, common.require
  for name in ('batch_size', 'minibatch_size', 'num_ppo_epochs', 'prompt_len',
               'response_len', 'num_iterations'):
    require(p[name] >= 1, f'ppo.{name}={p[name]} must be 1 or more')
  for name in ('kl_coef', 'ptx_coef', 'adaptive_kl_target', 'logits_chunk',
               'microbatch_size', 'rollout_microbatch_size',
               'ptx_microbatch_size', 'warmup_iterations'):
    require(p[name] >= 0, f'ppo.{name}={p[name]} is negative')
  require(p.batch_size % p.minibatch_size == 0,
          f'ppo.minibatch_size={p.minibatch_size} does not divide '
          f'ppo.batch_size={p.batch_size}')
  for name, whole in (('microbatch_size', 'minibatch_size'),
                      ('rollout_microbatch_size', 'batch_size')):
    require(not p[name] or p[whole] % p[name] == 0,
            f'ppo.{name}={p[name]} does not divide ppo.{whole}={p[whole]}')
  require(p.top_p == 1.0, 'ppo.top_p must be 1: PPO needs the log-probs of the '
          'whole distribution')
  require(p.temperature > 0, f'ppo.temperature={p.temperature} must be '
          'positive: a greedy policy does not explore')
  require(0 < p.clip_eps < 1, f'ppo.clip_eps={p.clip_eps} is not in (0, 1)')
  require(p.value_clip_eps > 0, 'ppo.value_clip_eps must be positive')
  require(0 <= p.gae_lambda <= 1, 'ppo.gae_lambda is not in [0, 1]')
  require(0 <= p.discount <= 1, 'ppo.discount is not in [0, 1] (the paper\'s '
          'gamma is ppo.ptx_coef)')
  require(0 <= p.ema_decay < 1, f'ppo.ema_decay={p.ema_decay} not in [0, 1)')
  require(p.missing_eos in ('none', 'penalty', 'fixed'),
          f"ppo.missing_eos={p.missing_eos!r} is none of 'none', 'penalty', "
          "'fixed'")
  require(not p.ptx_coef or p.ptx_examples_per_episode >= 1,
          'ppo.ptx_examples_per_episode must be 1 or more with ppo.ptx_coef')
  ptx_rows = p.minibatch_size * p.ptx_examples_per_episode
  require(not p.ptx_coef or not p.ptx_microbatch_size
          or ptx_rows % p.ptx_microbatch_size == 0,
          f'ppo.ptx_microbatch_size={p.ptx_microbatch_size} does not divide '
          f'the {ptx_rows} pretraining rows of a minibatch')
  require(not p.adaptive_kl_target or p.adaptive_kl_horizon > 0,
          f'ppo.adaptive_kl_horizon={p.adaptive_kl_horizon} must be positive')
  for name in ('model', 'value_model'):
    require(config[name].dropout == 0, f'{name}.dropout must be 0 in PPO')
    require(p.prompt_len + p.response_len <= config[name].max_len,
            f'{name}.max_len={config[name].max_len} is shorter than '
            f'ppo.prompt_len + ppo.response_len')
  if p.ema_decay:
    half_life = np.log(0.5) / np.log(p.ema_decay)
    updates = (p.num_iterations * p.num_ppo_epochs
               * p.batch_size // p.minibatch_size)
    require(updates >= 4 * half_life,
            f'ppo.ema_decay={p.ema_decay} has a half-life of {half_life:.0f} '
            f'updates, and the run has only {updates}: its average would '
            'still be the start. Lower it, or train for longer')


def settings(config, tok) -> ppo_steps.Settings:
  fields = config.ppo.to_dict()
  for name in ('num_iterations', 'top_p', 'warmup_iterations'):
    del fields[name]
  return ppo_steps.Settings(**fields, eos_id=tok.eos_id, pad_id=tok.pad_id)


def load_prompts(run: common.Run, tok, split: str, prompt_len: int):
  """Records and tokens of the prompts that fit; says how many did not."""
  records = lab_data.read_records(run.input('lab'), 'prompts', split)
  tokens = [tasks.chat_prompt(tok, record.text) for record in records]
  kept = [i for i, t in enumerate(tokens) if len(t) <= prompt_len]
  common.require(bool(kept), f'no prompt of {split!r} fits ppo.prompt_len='
                 f'{prompt_len}')
  return ([records[i] for i in kept], [tokens[i] for i in kept],
          len(records) - len(kept))


def make_optimizer(c, p):
  """(tx, schedule) of an optimizer config; `p` is `config.ppo`.

  The warmup is given in iterations; the schedule counts optimizer steps.
  """
  updates = p.num_ppo_epochs * p.batch_size // p.minibatch_size
  c = c.copy_and_resolve_references()
  c.warmup_steps = p.warmup_iterations * updates
  return common.make_optimizer(c, p.num_iterations * updates)


class _Setup:
  """Models, frozen parameters, the state and the jitted functions."""

  def __init__(self, run: common.Run, tok):
    config = run.config
    p = config.ppo
    self.settings = s = settings(config, tok)
    self.policy = common.make_model(config, tok.vocab_size)
    with_value = config.copy_and_resolve_references()
    with_value.model = config.value_model
    self.scalar = common.make_model(with_value, tok.vocab_size)
    key = rng.key(config.train_seed, rng.Purpose.INIT)
    shapes = {
        'policy': jax.eval_shape(self.policy.init, key),
        'value': jax.eval_shape(
            lambda: common.init_scalar(self.scalar, config.train_seed))}
    shards = {
        'policy': run.shardings(self.policy.logical_axes(), shapes['policy']),
        'value': run.shardings(common.scalar_axes(self.scalar),
                               shapes['value'])}
    self.ref_params = run.load_params(
        'policy', shapes['policy'], shards['policy'], config.model)
    self.reward_params = run.load_params(
        'reward_model', shapes['value'], shards['value'],
        config.value_model)
    tx = {name: make_optimizer(c, p)[0]
          for name, c in (('policy', config.optimizer),
                          ('value', config.value_optimizer))}
    state_shards = ppo_steps.state_shardings(run, tx, shapes, shards)
    # The value model starts as the reward model, bias included.
    self.state = run.restore(
        lambda ref, reward: ppo_steps.fresh_state(ref, reward, tx, p.kl_coef),
        state_shards, self.ref_params, self.reward_params)
    whole = sharding.replicated(run.mesh)
    rows = sharding.batch_sharding(run.mesh)
    self.generate = jax.jit(
        ppo_steps.make_generate(self.policy, s, config.train_seed),
        out_shardings=rows)
    self.score = jax.jit(
        ppo_steps.make_score(self.policy, self.scalar, self.scalar, s),
        out_shardings=(rows, whole))
    self.update = jax.jit(
        ppo_steps.make_update(self.policy, self.scalar, s, tx,
                              config.train_seed),
        out_shardings=(state_shards, whole), donate_argnums=0)


def train(config, workdir, label: str = '', *,
          judge: Judge | None = None) -> dict:
  """Runs PPO or PPO-ptx to its end. Returns what its DONE file says."""
  validate(config)
  with common.Run(config, workdir, label) as run:
    tok = run.tokenizer()
    setup = _Setup(run, tok)
    s, p = setup.settings, config.ppo
    records, tokens, dropped = load_prompts(
        run, tok, config.prompts_split, p.prompt_len)
    processes = dict(process_index=jax.process_index(),
                     process_count=jax.process_count())
    prompts = pipeline.prompt_batches(
        tokens, s.batch_size, config.train_seed, prompt_len=s.prompt_len,
        pad_id=tok.pad_id, **processes)
    rows = lambda name: pipeline.read_rows(
        run.input('lab') / name, tokenizer_fingerprint=tok.fingerprint)
    ptx_rows = s.batch_size * s.ptx_examples_per_episode * s.num_ppo_epochs
    ptx = pipeline.lm_batches(
        rows('corpus.rows'), ptx_rows, config.train_seed,
        **processes) if s.ptx_coef else None
    nll_fn = lm.make_nll(setup.policy, s.logits_chunk)
    validation = lm.validation_batches(
        run, rows('corpus_validation.rows'), config.eval_batch_size,
        config.eval_batches)

    def step_fn(state, step):
      clock = {}

      def timed(name, fn, *args):
        began = time.perf_counter()
        out = jax.block_until_ready(fn(*args))
        clock[name] = time.perf_counter() - began
        return out

      batch = run.put(prompts.at(step))
      responses = timed('perf/generate_s', setup.generate,
                        state.params['policy'], batch, step)
      rollout, metrics = timed(
          'perf/score_s', setup.score, setup.ref_params, setup.reward_params,
          state.params['value'], state.kl_coef, batch, responses)
      done = step + 1
      look = config.samples_every and (
          done % config.samples_every == 0 or step == 0)
      if look:
        metrics = dict(metrics)
        shown = ppo_steps.samples(jax.device_get(rollout), tok, s.batch_size)
        if judge is not None:
          metrics['objective/judge'] = float(np.mean(judge(
              [records[i] for i in np.asarray(batch.index)],
              [sample['response'] for sample in shown])))
        for sample in shown[:8]:
          run.writer.sample(done, sample)
      more = run.put(ptx.at(step)) if ptx is not None else None
      state, update_metrics = timed(
          'perf/update_s', setup.update, state, rollout, more)
      run.writer.timings(done, clock)
      return state, metrics | update_metrics

    def evaluate(state, step):
      del step
      return {'pretrain/nll': lm.mean_nll(
          nll_fn, state.ema_params, validation)}

    state = run.loop(setup.state, step_fn, p.num_iterations,
                     evaluate=evaluate, eval_every=config.eval_every,
                     export=('ema_params',))
    return {'num_iterations': p.num_iterations,
            'episodes': p.num_iterations * s.batch_size,
            'prompts': len(records), 'prompts_dropped': dropped,
            **evaluate(state, p.num_iterations)}
