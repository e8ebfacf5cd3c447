"""Checks and measures the accelerator of this machine; see accelerator.sh.

  python scripts/accelerator.py --minutes 12 --workdir DIR

Each step is a process of its own with a time limit. results.json is written
after each step; a step that succeeded is not repeated.

MFU is the FLOPs of the matrix products (instructrl/planning/flops.py) in a
second, divided by the chip's peak in 16 bits. `x HBM` is the time of sampling
divided by the time in which the chip reads the weights once for each token.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from instructrl.planning import chips
from instructrl.runtime import files

# Device kind, in the beginning -> dense bf16 FLOP/s and bytes/s of its memory:
# NVIDIA's data sheets of the SXM modules; planning/chips.py for TPUs.
CHIPS = {
  'NVIDIA H200': (989e12, 4.8e12),
  'NVIDIA H100': (989e12, 3.35e12),
  'NVIDIA A100': (312e12, 1.555e12),
} | {
  kind: (chips.CHIPS[name].flops, chips.CHIPS[name].hbm_bandwidth)
  for kind, name in (
    ('TPU v4', 'v4'),
    ('TPU v5 lite', 'v5e'),
    ('TPU v5', 'v5p'),
    ('TPU v6 lite', 'v6e'),
  )
}
MODEL = '--layers {} --d-model {} --heads {} --vocab 50304 --dtype bfloat16'
SMALL = MODEL.format(12, 768, 12) + ' --scan-unroll 1'
LARGE = MODEL.format(24, 2048, 16) + ' --scan-unroll 1 --remat full'
SAMPLED = '--prompt 256 --response 256 --minibatches 8 --logits-chunk 8192'
ROWS = '--prompt 1024 --response 1024 --minibatches 1 --logits-chunk 8192'
RANKED = '--prompt 256 --response 128 --minibatches 4'
# (name, arguments of benchmark.py, batch); half the batch if memory runs out.
BENCHMARKS = (
  ('125M generate', f'generate {SMALL} {SAMPLED}', 128),
  ('125M sft', f'sft {SMALL} {ROWS}', 16),
  ('125M ppo', f'ppo {SMALL} {SAMPLED} --score-microbatch 32', 128),
  ('125M reward', f'reward {SMALL} {RANKED}', 16),
  ('1.3B generate', f'generate {LARGE} {SAMPLED}', 64),
  ('1.3B sft', f'sft {LARGE} {ROWS}', 8),
  ('1.3B ppo', f'ppo {LARGE} {SAMPLED} --score-microbatch 16', 32),
  ('1.3B reward', f'reward {LARGE} {RANKED}', 8),
)
TINY = '--layers 2 --d-model 64 --heads 2 --vocab 512 --prompt 16 --response 16'
ON_CPU = tuple(
  (f'tiny {mode}', f'{mode} {TINY} --minibatches 2', 4)
  for mode in ('generate', 'sft', 'ppo', 'reward')
)
COMMON = '--iters 3 --json --batch'
STUDY_SECONDS = 60  # a study is not started with less
MEMORY = ('RESOURCE_EXHAUSTED', 'Out of memory', 'out of memory')
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


class Steps:
  """Runs steps until the time is over, and keeps their results in a file."""

  def __init__(self, workdir: pathlib.Path, seconds: float):
    self._path = workdir / 'results.json'
    self._end = time.monotonic() + seconds
    self.found = files.read_json(self._path) if self._path.exists() else {}

  def left(self) -> float:
    """Returns the seconds that are left."""
    return self._end - time.monotonic()

  def run(self, name: str, command: list[str], *, most: float = 1e9) -> dict:
    """Runs a command whose last line of output is a JSON object.

    Args:
      name: of the step, in the results.
      command: the program and its arguments.
      most: seconds after which the command is stopped.

    Returns:
      The object; or {'skipped': reason} or {'failed': reason}.
    """
    known = self.found.get(name, {})
    if known and not {'failed', 'skipped'} & known.keys():
      return known
    limit = min(most, self.left())
    if limit < 5:
      return self.keep(name, {'skipped': 'no time is left: start it again'})
    print(f'{name} ...', flush=True)
    began = time.monotonic()
    try:
      done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
      )
    except subprocess.TimeoutExpired:
      return self.keep(name, {'failed': f'not done after {limit:.0f} s'})
    try:
      result = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
      lines = done.stderr.strip().splitlines() or ['no output']
      reason = next(
        (line for line in lines if any(text in line for text in MEMORY)),
        lines[-1],
      )
      result = {'failed': f'exit status {done.returncode}: {reason[:300]}'}
    result['step_s'] = round(time.monotonic() - began, 1)
    return self.keep(name, result)

  def keep(self, name: str, result: dict) -> dict:
    """Stores the result of a step."""
    self.found[name] = result
    files.write_json(self._path, self.found)
    return result


def _environment() -> dict[str, str]:
  """Returns the environment of the steps: JAX takes memory as it needs it."""
  given = {
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    'PYTHONPATH': str(REPOSITORY),
  }
  return {**given, **os.environ}


def peak_of(kind: str) -> tuple[float, float] | None:
  """Returns (FLOP/s, bytes/s) of a device kind; None if they are not known."""
  names = [name for name in CHIPS if kind.startswith(name)]
  return CHIPS[max(names, key=len)] if names else None


def compared(result: dict, kind: str) -> dict:
  """Returns `mfu`, and for sampling `x_hbm`, of a result of benchmark.py."""
  peak = peak_of(kind)
  if peak is None or 'iter_s' not in result:
    return {}
  flops, bandwidth = peak
  shape = result['shape']
  found = {'mfu': result['flops_per_iter'] / result['iter_s'] / flops}
  if 'update_flops' in result:
    found['update_mfu'] = result['update_flops'] / result['update_s'] / flops
  if 'generate_s' in result:
    weights = 12 * shape['layers'] * shape['d_model'] ** 2
    weights += shape['vocab'] * shape['d_model']
    least = shape['response'] * 2 * weights / bandwidth  # 16 bits a weight
    found['x_hbm'] = result['generate_s'] / least
  return {name: round(value, 3) for name, value in found.items()}


def measure(steps: Steps, kind: str, benchmarks) -> None:
  """Runs the benchmarks; one that runs out of memory, with half the batch."""
  program = [sys.executable, 'scripts/benchmark.py']
  for name, arguments, batch in benchmarks:
    result: dict = {}
    while batch:
      command = [*program, *arguments.split(), *COMMON.split(), str(batch)]
      result = steps.run(name, command)
      full = any(text in result.get('failed', '') for text in MEMORY)
      least = int(arguments.partition('--minibatches ')[2].split()[0])
      batch = batch // 2 if full and batch // 2 >= least else 0
    steps.keep(name, {**result, **compared(result, kind)})


def study(steps: Steps, workdir: pathlib.Path, accelerated: bool) -> None:
  """Runs or resumes a study of size :small until the time is over."""
  name, folder = 'study :small', workdir / 'study'
  if not accelerated:
    reason = 'size :small takes days on a CPU: use an accelerator'
    steps.keep(name, {'skipped': reason})
    return
  if steps.left() < STUDY_SECONDS:
    reason = f'less than {STUDY_SECONDS} s are left: start it again'
    steps.keep(name, {'skipped': reason})
    return
  print(f'{name} ...', flush=True)
  command = [sys.executable, '-m', 'instructrl.study', f'--workdir={folder}']
  command.append('--config=experiments/study.py:small')
  with open(workdir / 'study.log', 'a') as log:
    process = subprocess.Popen(
      command, cwd=REPOSITORY, env=_environment(), stdout=log, stderr=log
    )
    try:
      process.wait(steps.left())
    except subprocess.TimeoutExpired:
      pass  # the time is over
    finally:
      process.terminate()  # the study saves a checkpoint
      process.wait()
  done = sorted(path.parent.name for path in folder.glob('*/DONE'))
  steps.keep(name, {'stages': done, 'status': process.returncode})


def table(found: dict) -> str:
  """Returns the results as lines of text."""
  about = found.get('environment', {})
  lines = [
    f'{about.get("device", "unknown device")}, jax {about.get("jax")}, '
    f'Python {about.get("python")}',
    '',
    f'{"step":16} {"iter s":>8} {"batch":>6} {"MFU":>6} {"update":>7} '
    f'{"x HBM":>6} {"compile s":>10}',
  ]
  number = lambda value, form: '' if value is None else format(value, form)
  for name, result in found.items():
    problem = result.get('failed') or result.get('skipped')
    if problem:
      word = 'failed' if 'failed' in result else 'skipped'
      lines.append(f'{name:16} {word}: {problem}')
    elif 'iter_s' in result:
      lines.append(
        f'{name:16} {result["iter_s"]:8.3f} {result["shape"]["batch"]:6} '
        f'{number(result.get("mfu"), ".1%"):>6} '
        f'{number(result.get("update_mfu"), ".1%"):>7} '
        f'{number(result.get("x_hbm"), ".2f"):>6} {result["compile_s"]:10.1f}'
      )
    elif 'stages' in result:
      lines.append(
        f'{name:16} finished: {", ".join(result["stages"]) or "none"}'
      )
    elif name != 'environment':
      passed = ', '.join(
        f'{key} {value}' for key, value in result.items() if key != 'step_s'
      )
      lines.append(f'{name:16} {passed}')
  return '\n'.join(lines) + '\n'


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--minutes', type=float, default=12, help='at most')
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  # An exception ends the step that runs.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  args.workdir.mkdir(parents=True, exist_ok=True)
  steps = Steps(args.workdir.absolute(), 60 * args.minutes)
  checks = [sys.executable, 'scripts/accelerator_checks.py']
  about = steps.run('environment', [*checks, 'environment'], most=120)
  if 'failed' in about:
    print(table(steps.found))
    return 1
  accelerated = about['platform'] != 'cpu'
  for name in ('attention', 'offload', 'logprobs'):
    steps.run(f'check {name}', [*checks, name], most=180)
  measure(steps, about['device'], BENCHMARKS if accelerated else ON_CPU)
  study(steps, args.workdir.absolute(), accelerated)
  text = table(steps.found)
  files.atomic_write(args.workdir / 'results.txt', text)
  print(f'\n{text}\n{args.workdir / "results.json"}')
  return int(any('failed' in result for result in steps.found.values()))


if __name__ == '__main__':
  sys.exit(main())
