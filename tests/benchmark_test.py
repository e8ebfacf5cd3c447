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
@pytest.mark.parametrize('mode', ['generate', 'ppo', 'sft', 'reward'])
def test_real_lengths_in_every_mode(benchmark, monkeypatch, capsys, mode):
  args = [mode, *SHAPE, '--lengths=lognormal']
  monkeypatch.setattr(sys, 'argv', ['benchmark.py', *args])
  assert benchmark.main() == 0
  result = json.loads(capsys.readouterr().out)
  columns = [v for k, v in result.items() if k.endswith('columns_per_token')]
  assert columns and min(columns) >= 1
  assert result['us_per_real_token'] > 0


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


def test_lengths_of_a_file_are_dropped_cut_and_repeated(benchmark, tmp_path):
  """A prompt over 8 tokens is dropped, a response over 8 is cut."""
  file = tmp_path / 'lengths.txt'
  file.write_text('3 20\n9 1\n8 2\n')
  args = benchmark.parse(['ppo', *SHAPE, f'--lengths={file}'])
  prompts, responses = benchmark.draw_lengths(args, 4)
  assert prompts.tolist() == [3, 8, 3, 8]
  assert responses.tolist() == [8, 2, 8, 2]
  assert benchmark.prompt_batch(args).mask.sum(axis=1).tolist() == [3, 8, 3, 8]
  assert benchmark.sampling_columns(args) == {
    'prefill_columns_per_token': 4 * 8 / 22,
    'decode_columns_per_token': 4 * 8 / 20,
  }
  args.slots = 1
  assert benchmark.sampling_columns(args) == {
    'prefill_columns_per_token': 4 * 8 / 22,
    'decode_columns_per_token': 1,
  }


@pytest.mark.parametrize(
  'text, message', [('3\n', 'two numbers'), ('9 1\n', 'no prompt has at most')]
)
def test_lengths_that_cannot_be_used(benchmark, tmp_path, text, message):
  file = tmp_path / 'lengths.txt'
  file.write_text(text)
  args = benchmark.parse(['ppo', *SHAPE, f'--lengths={file}'])
  with pytest.raises(ValueError, match=message):
    benchmark.draw_lengths(args, 4)


def test_lognormal_lengths_have_the_means_of_the_paper(benchmark):
  args = benchmark.parse(
    ['ppo', '--prompt=100000', '--response=100000', '--lengths=lognormal']
  )
  prompts, responses = benchmark.draw_lengths(args, 20_000)
  assert prompts.mean() == pytest.approx(166.5, rel=0.03)
  assert responses.mean() == pytest.approx(88.5, rel=0.05)


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
  assert options.count('(default: ') == options.count(' --') == 21
