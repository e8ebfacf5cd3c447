"""The benchmark runs in every mode, and counts the FLOPs of its shapes."""

import importlib.util
import json
import pathlib
import sys

import pytest

PATH = pathlib.Path(__file__).resolve().parent.parent / 'scripts/benchmark.py'
SHAPE = (
  '--layers=2 --d-model=32 --heads=2 --vocab=64 --batch=4 --prompt=8 '
  '--response=8 --minibatches=2 --iters=1 --json'
).split()


@pytest.fixture(name='benchmark', scope='module')
def _benchmark():
  spec = importlib.util.spec_from_file_location('benchmark', PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.slow
@pytest.mark.parametrize(
  'args, flops',
  [
    (['generate'], 3_416_064),
    (['ppo', '--ptx'], 44_146_688),
    (['sft'], 10_641_408),
    (['reward'], 34_983_936),
  ],
)
def test_every_mode_runs(benchmark, monkeypatch, capsys, args, flops):
  monkeypatch.setattr(sys, 'argv', ['benchmark.py', *args, *SHAPE])
  assert benchmark.main() == 0
  result = json.loads(capsys.readouterr().out)
  assert result['flops_per_iter'] == flops
  assert result['iter_s'] >= 0 and result['peak_flops'] > 0


@pytest.mark.parametrize(
  'args, message',
  [
    (['--layers=0'], '--layers must be 1 or more'),
    (['--logits-chunk=-1'], '--logits-chunk must be 0 or more'),
    (['--batch=5'], '--minibatches must divide --batch'),
  ],
)
def test_a_bad_shape_is_refused(benchmark, capsys, args, message):
  with pytest.raises(SystemExit):
    benchmark.parse(['ppo', *args])
  assert message in capsys.readouterr().err


def test_help_gives_the_default_of_each_option(benchmark, capsys):
  with pytest.raises(SystemExit):
    benchmark.parse(['--help'])
  _, _, options = capsys.readouterr().out.partition('--help')
  options = ' '.join(options.split())
  assert options.count('(default: ') == options.count(' --') == 16
