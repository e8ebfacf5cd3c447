"""Tests of the command: its arguments, and one line for each mistake."""

import os
import subprocess
import sys

from absl import flags
import pytest

from instructrl import convert
from instructrl.interop import source
from instructrl.stages import checks
from instructrl.stages import export
from tests import checkpoints


@pytest.mark.parametrize(
  'text, mesh',
  [
    ('', {}),
    ('data=1,fsdp=8', {'data': 1, 'fsdp': 8}),
    ('tensor=-1', {'tensor': -1}),
  ],
)
def test_meshes(text, mesh):
  assert convert.parse_mesh(text) == mesh


@pytest.mark.parametrize('text', ['fsdp', 'fsdp=0', 'model=2', 'fsdp=2;data=1'])
def test_a_mesh_that_is_none_is_told_how_it_is_written(text):
  with pytest.raises(ValueError, match=f'--mesh={text}: write sizes of data'):
    convert.parse_mesh(text)


@pytest.mark.parametrize(
  'text, size',
  [
    ('5GB', 5_000_000_000),
    ('500mb', 500_000_000),
    ('1.5 GB', 1_500_000_000),
    ('2G', 2_000_000_000),
    ('10KB', 10_000),
    ('7', 7),
  ],
)
def test_sizes(text, size):
  assert convert.parse_size(text) == size


@pytest.mark.parametrize('text', ['', 'GB', '0', '-1GB', '5TB', 'five'])
def test_a_size_that_is_none_is_refused(text):
  with pytest.raises(ValueError, match='--max_shard_size=.*5GB or 500MB'):
    convert.parse_size(text)


def test_flags_offer_what_the_stages_know():
  defined = convert.define_flags()
  offered = {
    name: tuple(flags.FLAGS[name].parser.enum_values)
    for name in ('dtype', 'pad', 'weights')
  }
  for name in defined:
    delattr(flags.FLAGS, name)
  assert offered == {
    'dtype': checks.DTYPES,
    'pad': source.PADS,
    'weights': export.WEIGHTS,
  }


@pytest.mark.parametrize('flag', ['--help', '--dtype=int8'])
def test_help_and_mistakes_do_not_wait_for_jax(flag):
  code = (
    'import runpy, sys\n'
    f'sys.argv = ["convert", {flag!r}]\n'
    'try:\n'
    '  runpy.run_module("instructrl.convert", run_name="__main__")\n'
    'except SystemExit:\n'
    '  assert "jax" not in sys.modules\n'
    '  print("quick")\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout.endswith('quick\n')


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'instructrl.convert', *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
    env=dict(os.environ),
  )


def test_there_and_back(tmp_path):
  checkpoints.write_folder(tmp_path / 'src')
  done = run(
    'import', tmp_path / 'src', tmp_path / 'run', '--mesh=fsdp=4,tensor=2'
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1].startswith(f'{tmp_path / "run"}: ')
  done = run(
    'export',
    tmp_path / 'run',
    tmp_path / 'out',
    '--dtype=bfloat16',
    '--max_shard_size=40KB',
  )
  assert done.returncode == 0, done.stderr
  assert 'LlamaForCausalLM' in done.stdout.splitlines()[-1]
  assert (tmp_path / 'out' / 'model.safetensors.index.json').exists()
  again = run('export', tmp_path / 'run', tmp_path / 'out')
  assert again.returncode == 1
  assert again.stderr == (
    f'error: {tmp_path / "out"} exists: give another folder, or remove this '
    'one\n'
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'arguments, message',
  [
    (['import', 'a'], 'DST is missing; the arguments are import|export SRC'),
    (['import', 'a', 'b', 'c'], "unexpected argument 'c'"),
    (['convert', 'a', 'b'], "must be import or export; got 'convert'"),
    (
      ['export', 'a', 'b', '--mesh=fsdp=2'],
      '--mesh can only be used with `import`',
    ),
    (
      ['import', 'a', 'b', '--weights=ema'],
      '--weights can only be used with `export`',
    ),
    (['import', 'a', 'b'], 'a does not exist'),
    (['export', 'a', 'b'], 'a does not exist'),
    (['import', 'a', 'b', '--dtype=int8'], '--dtype=int8'),
  ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, arguments, message):
  monkeypatch.setenv('PYTHONPATH', os.getcwd())
  monkeypatch.chdir(tmp_path)
  done = run(*arguments)
  assert done.returncode == 1
  assert message in done.stderr and done.stderr.startswith('error: ')
  assert done.stderr.count('\n') == 1, done.stderr
  assert not os.listdir(tmp_path)
