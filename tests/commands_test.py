"""The list of commands."""

import subprocess
import sys

from instructrl import __main__ as commands


def test_every_command_has_a_line():
  result = subprocess.run(
    [sys.executable, '-m', 'instructrl'],
    capture_output=True,
    text=True,
    check=True,
  )
  lines = result.stdout.splitlines()
  for name in ('main', 'study', 'sweep', 'report', 'sample', 'convert', 'data'):
    found = [line for line in lines if f'instructrl.{name} ' in line]
    assert len(found) == 1 and len(found[0]) <= 100, (name, found)


def test_commands_are_found_without_an_import(tmp_path):
  guard = "if __name__ == '__main__':\n  pass\n"
  (tmp_path / 'door.py').write_text(f'"""Opens.\n\nMore."""\n1 / 0\n{guard}')
  (tmp_path / 'library.py').write_text('"""Has no program."""\n')
  (tmp_path / 'room').mkdir()
  (tmp_path / 'room' / '__main__.py').write_text(f'"""Enters."""\n{guard}')
  assert commands.commands(tmp_path) == {
    'python -m instructrl.door': 'Opens.',
    'python -m instructrl.room': 'Enters.',
  }
