"""Measures the seconds per step of a stage, and its share of the peak FLOP/s.

  python scripts/benchmark.py ppo --layers 6 --d-model 384 --heads 6 \
      --vocab 8192 --batch 32 --prompt 64 --response 64 --minibatches 4 \
      --iters 4 --json
  python scripts/benchmark.py {sft,reward,generate} ...

The script times the functions that the stages run, on random weights and
tokens. No response ends early, so every run does the same work.

`flops_per_iter` counts matrix products only (instructrl/planning/flops.py). One
PPO iteration has
  generate  1 forward pass (cached: each token once), R logits per episode
  score     3 forward passes (reference with R logits, reward, value)
  update    3 passes of the policy (with R logits) and 3 of the value model
`roofline` is the time of these FLOPs at the measured speed of a large matrix
product of the same dtype, divided by `iter_s`. The rest of the time goes to
softmax, normalisation, Adam and other elementwise work.
"""

import argparse
import functools
import json
import statistics
import sys
import time

import jax
import numpy as np

from instructrl import rng
from instructrl.data import tasks
from instructrl.models import transformer
from instructrl.planning import flops
from instructrl.runtime import memory
from instructrl.runtime import optimizer
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import lm
from instructrl.stages import ppo_steps
from instructrl.stages import reward
from instructrl.stages.ppo_settings import Settings
from instructrl.types import LMBatch, PromptBatch, RankingBatch

PAD = 0


def parse(argv=None):
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n')[0],
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument('mode', choices=tuple(MODES), help='what is timed')
  for name, default, text in (
    ('layers', 6, 'of the model'),
    ('d-model', 384, 'width of the model'),
    ('heads', 6, 'of attention'),
    ('vocab', 8192, 'tokens of the vocabulary'),
    ('batch', 32, 'episodes, rows or prompts'),
    ('prompt', 64, 'tokens'),
    ('response', 64, 'tokens'),
    ('minibatches', 4, 'of an iteration'),
    ('iters', 4, 'timed'),
    ('responses', 6, 'K, per prompt; reward only'),
    ('score-microbatch', 0, 'rows scored at once; 0 = all'),
    ('logits-chunk', 0, 'tokens; 0 = all'),
    ('scan-unroll', 0, 'layers per step of the scan; 0 = all'),
  ):
    parser.add_argument(f'--{name}', type=int, default=default, help=text)
  parser.add_argument(
    '--dtype',
    default='float32',
    help='dtype of the computation; parameters stay float32',
  )
  parser.add_argument(
    '--ptx',
    action='store_true',
    help='ppo: mix in one pretraining row per episode',
  )
  parser.add_argument('--json', action='store_true', help='one line of JSON')
  args = parser.parse_args(argv)
  for name, value in vars(args).items():
    least = name not in ('score_microbatch', 'logits_chunk', 'scan_unroll')
    if type(value) is int and value < least:
      parser.error(f'--{name.replace("_", "-")} must be {least:d} or more')
  if args.batch % args.minibatches:
    parser.error('--minibatches must divide --batch')
  return args


def ppo_flops(args, model: transformer.Model) -> dict[str, float]:
  length = args.prompt + args.response
  return flops.ppo(model.module, model.module, settings(args), ptx_len=length)


def time_steps(step, iters: int) -> tuple[float, list]:
  """Returns (seconds of the first call, [seconds of each later call])."""
  began = time.perf_counter()
  jax.block_until_ready(step())
  first = time.perf_counter() - began
  seconds = []
  for _ in range(iters):
    began = time.perf_counter()
    jax.block_until_ready(step())
    seconds.append(time.perf_counter() - began)
  return first, seconds


def time_updates(step, state, batch, iters: int) -> tuple[float, list]:
  """Times a (state, batch) -> (state, metrics) that donates its state."""

  def update():
    nonlocal state
    state, metrics = step(state, batch)
    return metrics

  return time_steps(update, iters)


def times(first: float, seconds: list) -> dict:
  """Returns the median time of a step and the rest of the first call."""
  median = statistics.median(seconds)
  return {'iter_s': median, 'compile_s': first - median}


def make_model(args) -> transformer.Model:
  return transformer.make_model(
    vocab_size=args.vocab,
    num_layers=args.layers,
    d_model=args.d_model,
    num_heads=args.heads,
    max_len=args.prompt + args.response,
    dtype=args.dtype,
    scan_unroll=args.scan_unroll or args.layers,
  )


def random_tokens(args, *shape):
  draw = np.random.default_rng(0)
  return draw.integers(2, args.vocab, shape).astype(np.int32)


def packed_rows(args, rows: int) -> LMBatch:
  tokens = random_tokens(args, rows, args.prompt + args.response)
  positions = np.broadcast_to(
    np.arange(tokens.shape[1], dtype=np.int32), tokens.shape
  )
  return LMBatch(
    tokens=tokens,
    targets=np.roll(tokens, -1, 1),
    loss_mask=np.ones(tokens.shape, bool),
    positions=positions,
    segment_ids=np.ones_like(tokens),
  )


def prompt_batch(args) -> PromptBatch:
  tokens = random_tokens(args, args.batch, args.prompt)
  return PromptBatch(
    tokens=tokens,
    mask=np.ones(tokens.shape, bool),
    index=np.arange(args.batch, dtype=np.int32),
  )


def make_tx(args, steps):
  schedule = optimizer.make_schedule(
    peak_lr=1e-5, num_steps=steps, kind='constant'
  )
  return optimizer.make_optimizer(
    schedule, b1=0.9, b2=0.95, eps=1e-8, max_grad_norm=1.0
  ), schedule


def settings(args) -> Settings:
  return Settings(
    batch_size=args.batch,
    minibatch_size=args.batch // args.minibatches,
    score_microbatch_size=args.score_microbatch,
    prompt_len=args.prompt,
    response_len=args.response,
    ptx_coef=27.8 if args.ptx else 0.0,
    ptx_examples_per_episode=1,
    logits_chunk=args.logits_chunk,
  )


def run_ppo(args) -> dict:
  model, s = make_model(args), settings(args)
  tx = {name: make_tx(args, 1000)[0] for name in ('policy', 'value')}
  ref = jax.jit(model.init)(rng.key(0, rng.Purpose.INIT))
  scalar = jax.jit(lambda: build.init_scalar(model, 1))()
  state = jax.jit(
    lambda policy, value: build.fresh_state(
      {'policy': policy, 'value': value},
      tx,
      ema_params=policy,
      kl_coef=s.kl_coef,
    )
  )(ref, scalar)
  # No token is EOS (the id is beyond the vocabulary): full-length responses.
  eos_id = args.vocab
  generate = jax.jit(
    ppo_steps.make_generate(model, s, 0, eos_id=eos_id, pad_id=PAD)
  )
  score = jax.jit(
    ppo_steps.make_score(model, model, model, s, {'reward': 1.0}, eos_id=eos_id)
  )
  update = jax.jit(
    ppo_steps.make_update(model, model, s, tx, 0), donate_argnums=0
  )
  prompts = prompt_batch(args)
  ptx = packed_rows(args, args.batch) if args.ptx else None
  phases = {'generate': [], 'score': [], 'update': []}

  def timed(name, fn, *inputs):
    began = time.perf_counter()
    out = jax.block_until_ready(fn(*inputs))
    phases[name].append(time.perf_counter() - began)
    return out

  def iteration():
    nonlocal state
    responses = timed(
      'generate', generate, state.params['policy'], prompts, state.step
    )
    experience, _ = timed(
      'score',
      score,
      ref,
      {'reward': scalar},
      state.params['value'],
      state.kl_coef,
      prompts,
      responses,
    )
    state, metrics = timed('update', update, state, experience, ptx)
    return metrics

  found = times(*time_steps(iteration, args.iters))
  count = ppo_flops(args, model)
  by_phase = {k: statistics.median(v[1:]) for k, v in phases.items()}
  return {
    **found,
    **{f'{k}_s': v for k, v in by_phase.items()},
    'episodes_per_s': args.batch / found['iter_s'],
    'response_tok_per_s': args.batch * args.response / found['iter_s'],
    'generate_tok_per_s': args.batch * args.response / by_phase['generate'],
    'flops_per_iter': sum(count.values()),
    **{f'{k}_flops': v for k, v in count.items()},
  }


def run_generate(args) -> dict:
  model, s = make_model(args), settings(args)
  params = jax.jit(model.init)(rng.key(0, rng.Purpose.INIT))
  generate = jax.jit(
    ppo_steps.make_generate(model, s, 0, eos_id=args.vocab, pad_id=PAD)
  )
  prompts = prompt_batch(args)
  call = lambda: generate(params, prompts, 0)
  found = times(*time_steps(call, args.iters))
  return {
    **found,
    'generate_s': found['iter_s'],
    'generate_tok_per_s': args.batch * args.response / found['iter_s'],
    'flops_per_iter': ppo_flops(args, model)['generate'],
  }


def run_sft(args) -> dict:
  model = make_model(args)
  tx, schedule = make_tx(args, 1000)
  state = jax.jit(
    lambda: build.fresh_state(model.init(rng.key(0, rng.Purpose.INIT)), tx)
  )()
  step = jax.jit(
    lm.make_step(
      model,
      tx,
      schedule,
      seed=0,
      microbatch_size=0,
      logits_chunk=args.logits_chunk,
    ),
    donate_argnums=0,
  )
  batch = packed_rows(args, args.batch)
  found = times(*time_updates(step, state, batch, args.iters))
  tokens = batch.tokens.size
  return {
    **found,
    'update_s': found['iter_s'],
    'train_tok_per_s': tokens / found['iter_s'],
    'flops_per_iter': flops.trained(
      model.module, tokens, args.prompt + args.response, tokens
    ),
  }


def ranking_batch(args, prompts: int, k: int) -> RankingBatch:
  draw = np.random.default_rng(0)
  tokens = lambda n: draw.integers(2, args.vocab, n).tolist()
  elements = [
    tasks.ranking_example(
      tokens(args.prompt),
      [tokens(args.response) for _ in range(k)],
      range(k),
      max_k=k,
      seq_len=args.prompt + k * args.response,
      eos_id=args.vocab,
    )
    for _ in range(prompts)
  ]
  return jax.tree.map(lambda *x: np.stack(x), *elements)


def run_reward(args) -> dict:
  """Times K-wise elements, and the same comparisons as separate pairs."""
  model = make_model(args)
  tx, schedule = make_tx(args, 1000)
  k, pairs = args.responses, args.responses * (args.responses - 1) // 2
  found = {}
  for name, batch in (
    ('kwise', ranking_batch(args, args.batch, k)),
    ('pairs', ranking_batch(args, args.batch * pairs, 2)),
  ):
    state = jax.jit(
      lambda: build.fresh_state(build.init_scalar(model, 0), tx)
    )()
    # The same number of sequences in a microbatch, so both use equal memory.
    size = args.batch // args.minibatches
    size = size if name == 'kwise' else max(1, size * k // 2)
    while batch.last.shape[0] % size:
      size -= 1
    step = jax.jit(
      reward.make_step(model, tx, schedule, microbatch_size=size),
      donate_argnums=0,
    )
    found[name] = times(*time_updates(step, state, batch, args.iters))
  median, pair_s = found['kwise']['iter_s'], found['pairs']['iter_s']
  count = functools.partial(
    flops.ranking_trained, model.module, args.prompt, args.response
  )
  together, apart = count(k), pairs * count(2)
  return {
    **found['kwise'],
    'update_s': median,
    'comparisons': args.batch * pairs,
    'comparisons_per_s': args.batch * pairs / median,
    'separate_pairs_s': pair_s,
    'kwise_speedup': pair_s / median,
    'kwise_flops_ratio': apart / together,
    'flops_per_iter': args.batch * together,
  }


MODES = {
  'ppo': run_ppo,
  'sft': run_sft,
  'reward': run_reward,
  'generate': run_generate,
}


def main():
  memory.keep_freed_memory()
  args = parse()
  mesh = sharding.make_mesh({'data': -1})
  with jax.set_mesh(mesh):
    peak = flops.measure_peak(args.dtype)
    result = MODES[args.mode](args)
    peak = max(peak, flops.measure_peak(args.dtype))
  result['peak_flops'] = peak
  result['roofline'] = result['flops_per_iter'] / peak / result['iter_s']
  device = jax.devices()[0]
  result = {
    'mode': args.mode,
    'device': device.device_kind,
    'jax': jax.__version__,
    'shape': vars(args),
    **{k: round(v, 4) if v < 1e5 else round(v) for k, v in result.items()},
  }
  if args.json:
    print(json.dumps(result))
    return 0
  for name, value in result.items():
    print(f'{name:22s} {value}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
