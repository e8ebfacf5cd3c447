"""The measurement of an accelerator: what runs, what is kept, what is told."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / 'scripts'


@pytest.fixture(scope='module', name='accelerator')
def _accelerator():
  path = SCRIPTS / 'accelerator.py'
  spec = importlib.util.spec_from_file_location('accelerator', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def python(code):
  return [sys.executable, '-c', code]


def test_a_result_is_kept_and_not_measured_again(accelerator, tmp_path):
  steps = accelerator.Steps(tmp_path, 60)
  found = steps.run('one', python('print("x"); print(\'{"iter_s": 2}\')'))
  assert found['iter_s'] == 2 and found['step_s'] >= 0
  again = accelerator.Steps(tmp_path, 60)
  assert again.run('one', python('1 / 0')) == found


@pytest.mark.parametrize(
  'seconds, code, expected',
  [
    (60, '1 / 0', {'failed': 'exit status 1: ZeroDivisionError: division'}),
    (60, 'pass', {'failed': 'exit status 0: no output'}),
    (5.5, 'import time; time.sleep(60)', {'failed': 'not done after'}),
    (1, 'print(1)', {'skipped': 'no time is left: start it again'}),
  ],
)
def test_a_step_that_gives_no_result_has_a_reason(
  accelerator, tmp_path, seconds, code, expected
):
  found = accelerator.Steps(tmp_path, seconds).run('one', python(code))
  ((word, reason),) = expected.items()
  assert found[word].startswith(reason)
  assert word in accelerator.table({'one': found})
  # The next start tries the step again.
  again = accelerator.Steps(tmp_path, 60).run('one', python('print("{}")'))
  assert again.keys() == {'step_s'}


def test_half_the_batch_if_memory_runs_out(accelerator, tmp_path, monkeypatch):
  seen = []

  def run(self, name, command):
    seen.append(int(command[-1]))
    if seen[-1] > 4:
      return {'failed': 'RESOURCE_EXHAUSTED: out of memory'}
    return {'iter_s': 1.0, 'flops_per_iter': 1, 'shape': {'batch': seen[-1]}}

  monkeypatch.setattr(accelerator.Steps, 'run', run)
  steps = accelerator.Steps(tmp_path, 60)
  for least, batches in ((2, [16, 8, 4]), (8, [16, 8])):
    seen.clear()
    arguments = f'sft --minibatches {least}'
    accelerator.measure(steps, 'cpu', [('x', arguments, 16)])
    assert seen == batches
  assert 'failed' in steps.found['x']


def test_figures_are_compared_with_the_chip(accelerator):
  result = {
    'iter_s': 2.0,
    'flops_per_iter': 989e12,
    'update_s': 1.0,
    'update_flops': 4.45e14,
    'generate_s': 1.0,
    'shape': dict(layers=24, d_model=2048, vocab=50304, response=256, batch=4),
    'compile_s': 3.0,
  }
  found = accelerator.compared(result, 'NVIDIA H100 80GB HBM3')
  assert found['mfu'] == 0.5 and found['update_mfu'] == 0.45
  # 1.31e9 weights of 2 bytes, read 256 times at 3.35e12 bytes a second.
  assert found['x_hbm'] == pytest.approx(4.99, abs=0.01)
  assert accelerator.compared(result, 'unknown chip') == {}
  assert accelerator.peak_of('TPU v5 lite') != accelerator.peak_of('TPU v5p')
  line = accelerator.table({'1.3B ppo': {**result, **found}}).splitlines()[-1]
  assert line.split() == '1.3B ppo 2.000 4 50.0% 45.0% 4.99 3.0'.split()


def test_arguments_are_those_of_the_benchmark(accelerator):
  path = SCRIPTS / 'benchmark.py'
  spec = importlib.util.spec_from_file_location('benchmark', path)
  benchmark = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(benchmark)
  for _, arguments, batch in accelerator.BENCHMARKS + accelerator.ON_CPU:
    line = f'{arguments} {accelerator.COMMON} {batch}'
    assert benchmark.parse(line.split()).batch == batch


@pytest.mark.parametrize(
  'name',
  [
    'environment',
    pytest.param('attention', marks=pytest.mark.slow),
    'offload',
    'logprobs',
  ],
)
def test_checks_pass_on_a_cpu(name):
  done = subprocess.run(
    [sys.executable, 'scripts/accelerator_checks.py', name],
    cwd=ROOT,
    env={'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'PATH': '/bin'},
    capture_output=True,
    text=True,
    check=True,
  )
  found = json.loads(done.stdout)
  assert found and 'skipped' not in found


@pytest.mark.slow
def test_the_whole_script_on_a_cpu(tmp_path):
  command = ['bash', 'scripts/accelerator.sh', '--minutes', '10']
  command += ['--workdir', str(tmp_path), '--python', sys.executable]
  done = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, check=True
  )
  found = json.loads((tmp_path / 'results.json').read_text())
  assert not any('failed' in result for result in found.values())
  assert found['check attention']['kernel'] == 'sparse'
  assert 'skipped' in found['study :small']
  for mode in ('generate', 'sft', 'ppo', 'reward'):
    assert found[f'tiny {mode}']['iter_s'] > 0
    assert f'tiny {mode}' in done.stdout
  assert (tmp_path / 'results.txt').read_text() in done.stdout


def test_bad_arguments_are_refused(tmp_path):
  for arguments in (['--minutes'], ['--minutes', 'x'], ['--what', '1']):
    done = subprocess.run(
      ['bash', 'scripts/accelerator.sh', *arguments],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 1 and 'accelerator.sh: ' in done.stderr
