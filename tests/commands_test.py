"""The list of commands."""

import subprocess
import sys

import pytest

from instructrl import __main__


def test_every_command_has_a_line():
  result = subprocess.run(
    [sys.executable, '-m', 'instructrl'],
    capture_output=True,
    text=True,
    check=True,
  )
  lines = result.stdout.splitlines()
  for name in ('main', 'study', 'sweep', 'report', 'sample', 'convert', 'data'):
    found = [line for line in lines if line.startswith(f'  {name} ')]
    assert len(found) == 1, (name, found)
  assert max(map(len, lines)) <= 80


def test_commands_are_found_without_an_import(tmp_path):
  guard = "if __name__ == '__main__':\n  pass\n"
  (tmp_path / 'door.py').write_text(f'"""Opens.\n\nMore."""\n1 / 0\n{guard}')
  (tmp_path / 'library.py').write_text('"""Has no program."""\n')
  (tmp_path / 'room').mkdir()
  (tmp_path / 'room' / '__main__.py').write_text(f'"""Enters."""\n{guard}')
  assert __main__.commands(tmp_path) == {'door': 'Opens.', 'room': 'Enters.'}


HEAVY = {'jax', 'tensorflow_datasets', 'matplotlib', 'orbax', 'sacrebleu'}


@pytest.mark.parametrize('name', [*__main__.commands()])
def test_help_does_not_wait_for_heavy_imports(name):
  code = f"""
import runpy, sys
sys.argv = ['{name}', '--help']
try:
  runpy.run_module('instructrl.{name}', run_name='__main__', alter_sys=True)
finally:
  assert not {HEAVY} & {{*sys.modules}}
"""
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert '--help' in result.stdout or 'Flags:' in result.stdout
  if name in ('main', 'study'):
    assert '--workdir' in result.stdout and '--coordinator' in result.stdout
  assert len(result.stdout.splitlines()) <= 24  # a screen


def test_a_python_without_the_packages_says_how_to_get_them():
  result = subprocess.run(
    [sys.executable, '-S', '-m', 'instructrl.sample', '--help'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 1 and not result.stdout
  (line,) = result.stderr.splitlines()
  assert 'lacks the packages of instructrl; run: ' in line
  assert '.venv/bin/activate' in line
  listed = subprocess.run(
    [sys.executable, '-S', '-m', 'instructrl'], capture_output=True, text=True
  )
  assert listed.returncode == 0 and '  sample ' in listed.stdout


def test_a_report_is_made_without_jax():
  code = """
import sys

from instructrl.reports import report
assert 'jax' not in sys.modules
"""
  subprocess.run([sys.executable, '-c', code], check=True)


def test_importing_the_package_imports_nothing_else():
  code = """
import sys

import pytest
before = set(sys.modules)
import instructrl
assert set(sys.modules) - before == {'instructrl'}
"""
  subprocess.run([sys.executable, '-c', code], check=True)
