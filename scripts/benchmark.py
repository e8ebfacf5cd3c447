"""Measures the seconds per step of a stage, and its share of the peak FLOP/s.

  python scripts/benchmark.py ppo --layers 6 --d-model 384 --heads 6 \
      --vocab 8192 --batch 32 --prompt 64 --response 64 --minibatches 4 \
      --iters 4 --json
  python scripts/benchmark.py {sft,reward,generate} ...

The script times the functions that the stages run, on random weights and
tokens. `--lengths` says how long the texts are:
  full       every prompt has --prompt tokens, every response --response
  lognormal  prompts and responses with the means and standard deviations of the
             paper's PPO prompts and demonstrations (Tables 9 and 11)
  FILE       text; each line has the tokens of a prompt and of a response
Longer prompts are dropped and longer responses cut, as the stages do. The
lengths do not depend on the weights, so every run does the same work.

Columns per token are what is computed, padding included, divided by the real
tokens. A decoding step of one response is a column.

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
import itertools
import json
import statistics
import sys
import time

import jax
import numpy as np

from instructrl import packing
from instructrl import rng
from instructrl.data import tasks
from instructrl.models import flash
from instructrl.models import sparse
from instructrl.models import transformer
from instructrl.planning import flops
from instructrl.rollout import slots
from instructrl.runtime import memory
from instructrl.runtime import optimizer
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import lm
from instructrl.stages import ppo_steps
from instructrl.stages import ranking_parts
from instructrl.stages import reward
from instructrl.stages.ppo_settings import Settings
from instructrl.types import LMBatch, PREFIX, PromptBatch, RankingBatch

PAD = 0
SEED = 0  # of the rollouts and the order of minibatches
SMALL = dict(layers=1, d_model=8, heads=1)
# (mean, standard deviation) of the tokens of PPO's training prompts (Table 9)
# and of the demonstrations for customers' prompts (Table 11).
LOGNORMAL = ((166, 278), (88, 179))


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
    ('microbatch', 0, 'ppo: packed rows per gradient; 0 = few'),
    ('score-microbatch', 0, 'ppo: packed rows scored at once; 0 = few'),
    ('logits-chunk', 0, 'tokens; 0 = all'),
    ('scan-unroll', 0, 'layers per step of the scan; 0 = all'),
    ('slots', 0, 'episodes sampled at once; 0 = all, which end together'),
  ):
    parser.add_argument(f'--{name}', type=int, default=default, help=text)
  parser.add_argument(
    '--dtype',
    default='float32',
    help='dtype of the computation; parameters stay float32',
  )
  parser.add_argument(
    '--remat',
    choices=('none', 'dots', 'full'),
    default='none',
    help='what the backward pass computes again',
  )
  parser.add_argument(
    '--attention',
    choices=flash.IMPLEMENTATIONS,
    default='auto',
    help='kernel of attention; xla = none',
  )
  parser.add_argument(
    '--lengths',
    default='full',
    metavar='{full,lognormal,FILE}',
    help='of prompts and responses',
  )
  parser.add_argument(
    '--ptx',
    action='store_true',
    help='ppo: mix in one pretraining row per episode',
  )
  parser.add_argument('--json', action='store_true', help='one line of JSON')
  args = parser.parse_args(argv)
  for name, value in vars(args).items():
    least = name not in (
      'microbatch',
      'score_microbatch',
      'logits_chunk',
      'scan_unroll',
      'slots',
    )
    if type(value) is int and value < least:
      parser.error(f'--{name.replace("_", "-")} must be {least:d} or more')
  if args.batch % args.minibatches:
    parser.error('--minibatches must divide --batch')
  return args


def draw_lengths(args, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the tokens of `count` prompts and responses, see `--lengths`."""
  if args.lengths == 'full':
    return np.full(count, args.prompt), np.full(count, args.response)
  if args.lengths == 'lognormal':
    draw, found = np.random.default_rng(0), []
    for mean, deviation in LOGNORMAL:
      variance = np.log1p((deviation / mean) ** 2)
      mu = np.log(mean) - variance / 2
      found.append(np.ceil(draw.lognormal(mu, variance**0.5, 50 * count)))
    pairs = np.stack(found, axis=1).astype(int)
  else:
    pairs = np.loadtxt(args.lengths, dtype=int, ndmin=2)
    if pairs.shape[1] != 2 or pairs.min() < 1:
      raise ValueError(
        f'--lengths={args.lengths}: each line must have two numbers of at '
        'least 1, the tokens of a prompt and of a response'
      )
  pairs = pairs[pairs[:, 0] <= args.prompt]
  if not len(pairs):
    raise ValueError(
      f'--lengths={args.lengths}: no prompt has at most --prompt='
      f'{args.prompt} tokens'
    )
  pairs = np.resize(pairs, (count, 2))  # repeats a short file
  return pairs[:, 0], np.minimum(pairs[:, 1], args.response)


def ppo_flops(args, model: transformer.Model) -> dict[str, float]:
  return flops.ppo(
    model.module,
    model.module,
    settings(args),
    lengths=list(zip(*draw_lengths(args, args.batch))),
    ptx_len=args.prompt + args.response,
  )


def sampling_columns(args) -> dict[str, float]:
  """Returns the columns per token of a prefill and of decoding."""
  prompts, responses = draw_lengths(args, args.batch)
  if args.slots:
    # The counts depend on the lengths only: count them with a small model.
    model = make_model(argparse.Namespace(**vars(args) | SMALL))
    _, work = jax.jit(
      lambda: slots.generate(
        model,
        model.init(rng.key(0, rng.Purpose.INIT)),
        prompt_batch(args),
        rng.key(0, rng.Purpose.BENCHMARK),
        slots=args.slots,
        response_len=args.response,
        eos_id=args.vocab,
        pad_id=PAD,
        max_tokens=response_limits(args),
      )
    )()
    return {
      'prefill_columns_per_token': int(work.prompt) / prompts.sum(),
      # The first token of a response comes from the prefill.
      'decode_columns_per_token': (int(work.decode) + args.batch)
      / responses.sum(),
    }
  return {
    'prefill_columns_per_token': args.batch * args.prompt / prompts.sum(),
    'decode_columns_per_token': args.batch * responses.max() / responses.sum(),
  }


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
    remat=args.remat,
    attention=args.attention,
  )


def random_tokens(args, *shape):
  draw = np.random.default_rng(0)
  return draw.integers(2, args.vocab, shape).astype(np.int32)


def packed_columns(args, prompts: PromptBatch) -> dict[str, float]:
  """Returns the columns per token of scoring and of the update.

  Minibatches are episodes in order; the update draws theirs.
  """
  s, limits = settings(args), response_limits(args)
  where = prompts.mask, np.arange(args.response) < limits[:, None]
  tokens = np.zeros((args.batch, args.prompt + args.response), np.int32)
  pack = jax.jit(lambda *where: packing.pack(*where).num_rows)

  def columns(first, count, size):
    part = slice(first, first + count)
    size = packing.rows_at_once(count, tokens.shape[1], size)
    rows = pack(tokens[part], *(mask[part] for mask in where))
    return int(packing.num_parts(rows, size)) * size * tokens.shape[1]

  real = int(sum(mask.sum() for mask in where))
  count = s.minibatch_size
  return {
    'score_columns_per_token': columns(0, args.batch, s.score_microbatch_size)
    / real,
    'update_columns_per_token': sum(
      columns(first, count, s.microbatch_size)
      for first in range(0, args.batch, count)
    )
    / real,
  }


def packed_rows(args, rows: int) -> LMBatch:
  """Returns rows without padding, each one example."""
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


def demonstration_rows(args) -> LMBatch:
  """Returns packed rows of prompts and responses; only these are targets."""
  # More than enough to fill the rows.
  row_len = args.prompt + args.response
  lengths = np.stack(draw_lengths(args, args.batch * row_len), axis=1)
  count = 1 + np.searchsorted(lengths.sum(1).cumsum(), args.batch * row_len)
  examples = [
    tasks.lm_example(random_tokens(args, p + r), loss_from=int(p))
    for p, r in lengths[: count + 1]
  ]
  rows = tasks.pack_rows(examples, row_len)
  return LMBatch(**{k: v[: args.batch] for k, v in rows.items()})


def prompt_batch(args) -> PromptBatch:
  tokens = random_tokens(args, args.batch, args.prompt)
  lengths, _ = draw_lengths(args, args.batch)
  mask = np.arange(args.prompt) >= args.prompt - lengths[:, None]
  return PromptBatch(
    tokens=np.where(mask, tokens, PAD),
    mask=mask,
    index=np.arange(args.batch, dtype=np.int32),
  )


def response_limits(args) -> np.ndarray:
  """Returns the tokens after which each response ends, [B] int32."""
  return draw_lengths(args, args.batch)[1].astype(np.int32)


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
    microbatch_size=args.microbatch,
    score_microbatch_size=args.score_microbatch,
    prompt_len=args.prompt,
    response_len=args.response,
    rollout_slots=args.slots,
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
    ppo_steps.make_generate(model, s, eos_id=eos_id, pad_id=PAD)
  )
  score = jax.jit(
    ppo_steps.make_score(model, model, model, s, {'reward': 1.0}, eos_id=eos_id)
  )
  update = jax.jit(ppo_steps.make_update(model, model, s, tx), donate_argnums=0)
  prompts, limits = prompt_batch(args), response_limits(args)
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
      'generate',
      generate,
      state.params['policy'],
      prompts,
      SEED,
      state.step,
      limits,
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
    state, metrics = timed('update', update, state, experience, ptx, SEED)
    return metrics

  found = times(*time_steps(iteration, args.iters))
  count = ppo_flops(args, model)
  by_phase = {k: statistics.median(v[1:]) for k, v in phases.items()}
  tokens = int((prompts.mask.sum(1) + limits).sum())
  return {
    **found,
    **{f'{k}_s': v for k, v in by_phase.items()},
    'episodes_per_s': args.batch / found['iter_s'],
    'real_tokens': tokens,
    'us_per_real_token': 1e6 * found['iter_s'] / tokens,
    'response_tok_per_s': int(limits.sum()) / found['iter_s'],
    'generate_tok_per_s': int(limits.sum()) / by_phase['generate'],
    **sampling_columns(args),
    **packed_columns(args, prompts),
    'flops_per_iter': sum(count.values()),
    **{f'{k}_flops': v for k, v in count.items()},
  }


def run_generate(args) -> dict:
  model, s = make_model(args), settings(args)
  params = jax.jit(model.init)(rng.key(0, rng.Purpose.INIT))
  generate = jax.jit(
    ppo_steps.make_generate(model, s, eos_id=args.vocab, pad_id=PAD)
  )
  prompts, limits = prompt_batch(args), response_limits(args)
  call = lambda: generate(params, prompts, SEED, 0, limits)
  found = times(*time_steps(call, args.iters))
  tokens = int(limits.sum())
  return {
    **found,
    'generate_s': found['iter_s'],
    'real_tokens': tokens,
    'us_per_real_token': 1e6 * found['iter_s'] / tokens,
    'generate_tok_per_s': tokens / found['iter_s'],
    **sampling_columns(args),
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
  if args.lengths == 'full':
    batch = packed_rows(args, args.batch)
  else:
    batch = demonstration_rows(args)
  found = times(*time_updates(step, state, batch, args.iters))
  count, tokens = 0.0, int((batch.segment_ids > 0).sum())
  for segments, counted in zip(batch.segment_ids, batch.loss_mask):
    for n, targets in zip(
      np.bincount(segments)[1:], np.bincount(segments, counted)[1:]
    ):
      count += flops.trained(model.module, int(n), int(n), int(targets))
  return {
    **found,
    'update_s': found['iter_s'],
    'real_tokens': tokens,
    'us_per_real_token': 1e6 * found['iter_s'] / tokens,
    'train_tok_per_s': tokens / found['iter_s'],
    'update_columns_per_token': batch.tokens.size / tokens,
    'flops_per_iter': count,
  }


def ranking_lengths(args) -> tuple[np.ndarray, np.ndarray]:
  """Returns the tokens of prompts [B] and of their responses [B, K]."""
  prompts, responses = draw_lengths(args, args.batch * args.responses)
  return prompts[: args.batch], responses.reshape(args.batch, -1)


def ranking_batch(args, prompts, responses) -> RankingBatch:
  """Returns rankings of these lengths, [N] and [N, K]."""
  k = responses.shape[1]
  width = ranking_parts.columns((prompts + responses.sum(1)).max())
  elements = [
    tasks.ranking_example(
      random_tokens(args, p),
      [random_tokens(args, r).tolist() for r in rs],
      range(k),
      max_k=k,
      seq_len=width,
      eos_id=args.vocab,
    )
    for p, rs in zip(prompts, responses)
  ]
  return jax.tree.map(lambda *x: np.stack(x), *elements)


def attention_pairs(model, batch, widths, rows: int) -> tuple[int, int]:
  """Counts pairs of a query and a key in a layer.

  Args:
    model: the reward model.
    batch: rankings.
    widths: of the parts of a step.
    rows: rankings of a part.

  Returns:
    (pairs that a step computes, pairs that may attend).
  """
  m, ids = model.module, batch.segment_ids
  lengths = (ids != 0).sum(1)
  order = np.argsort(-lengths, kind='stable')
  computed = needed = 0
  for first, width in zip(
    range(0, len(ids), rows), ranking_parts.part_widths(lengths, widths, rows)
  ):
    part = ids[order[first : first + rows], :width]
    queries, keys = part[:, :, None], part[:, None]
    mask = (queries == keys) | (keys == PREFIX)
    mask &= (queries != 0) & np.tri(width, dtype=bool)
    needed += int(mask.sum())
    kernel = flash.choose(
      m.attention, length=width, width=m.width, dtype=m.dtype
    )
    if kernel == 'sparse':
      computed += int(sparse.needed_tiles(mask).count.sum()) * sparse.SIZE**2
    else:
      computed += mask.size
  return computed, needed


def run_reward(args) -> dict:
  """Times K-wise elements, and the same comparisons as separate pairs."""
  model = make_model(args)
  tx, schedule = make_tx(args, 1000)
  k, pairs = args.responses, args.responses * (args.responses - 1) // 2
  prompts, responses = ranking_lengths(args)
  apart = np.concatenate(
    [responses[:, pair] for pair in itertools.combinations(range(k), 2)]
  )
  elements = {
    'kwise': (prompts, responses),
    'pairs': (np.tile(prompts, pairs), apart),
  }
  found, columns, seen = {}, {}, {}
  for name, (of_prompts, of_responses) in elements.items():
    batch = ranking_batch(args, of_prompts, of_responses)
    lengths = of_prompts + of_responses.sum(1)
    widths = ranking_parts.widths(lengths)
    state = jax.jit(
      lambda: build.fresh_state(build.init_scalar(model, 0), tx)
    )()
    # The same number of sequences in a microbatch, so both use equal memory.
    size = args.batch // args.minibatches
    size = size if name == 'kwise' else max(1, size * k // 2)
    while batch.last.shape[0] % size:
      size -= 1
    step = jax.jit(
      reward.make_step(
        model, tx, schedule, microbatch_size=size, widths=widths
      ),
      donate_argnums=0,
    )
    columns[name] = size * sum(ranking_parts.part_widths(lengths, widths, size))
    seen[name] = attention_pairs(model, batch, widths, size)
    found[name] = times(*time_updates(step, state, batch, args.iters))
  median, pair_s = found['kwise']['iter_s'], found['pairs']['iter_s']
  count = lambda prompts, responses: sum(
    flops.ranking_trained(model.module, int(p), r.tolist())
    for p, r in zip(prompts, responses)
  )
  together = count(prompts, responses)
  tokens = int(prompts.sum() + responses.sum())
  return {
    **found['kwise'],
    'update_s': median,
    'comparisons': args.batch * pairs,
    'comparisons_per_s': args.batch * pairs / median,
    'separate_pairs_s': pair_s,
    'kwise_speedup': pair_s / median,
    'kwise_flops_ratio': count(np.tile(prompts, pairs), apart) / together,
    'real_tokens': tokens,
    'us_per_real_token': 1e6 * median / tokens,
    'update_columns_per_token': columns['kwise'] / tokens,
    'attention_pairs_per_needed': seen['kwise'][0] / seen['kwise'][1],
    'widths': len(ranking_parts.widths(prompts + responses.sum(1))),
    'flops_per_iter': together,
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
