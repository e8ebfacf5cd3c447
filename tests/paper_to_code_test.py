"""docs/paper_to_code.md names functions and tests that exist."""

import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / 'docs' / 'paper_to_code.md').read_text('utf-8')
NAMES = sorted(set(re.findall(r'`([\w/]+\.py):(\w+)`', PAGE)))


@functools.cache
def defined(path: str) -> set[str]:
  """Returns the functions and classes at the top level of a file."""
  tree = ast.parse((ROOT / path).read_text('utf-8'))
  kinds = ast.FunctionDef, ast.ClassDef
  return {node.name for node in tree.body if isinstance(node, kinds)}


@pytest.mark.parametrize('path', sorted({path for path, _ in NAMES}))
def test_every_name_exists(path):
  named = {name for other, name in NAMES if other == path}
  assert (ROOT / path).is_file()
  assert named <= defined(path), named - defined(path)


def test_every_row_names_code_and_a_test():
  """The table of ablations has one test for all rows, above the table."""
  section = ''
  for line in PAGE.splitlines():
    section = line if line.startswith('## ') else section
    cells = line.split(' | ')
    if not line.startswith('|') or line.startswith('|---') or '`' not in line:
      continue
    assert re.search(r'`(instructrl|experiments)/', cells[1]), line
    if section != '## Ablations':
      assert re.search(r'`tests/[\w/]+_test\.py:test_', cells[2]), line


def test_every_equation_and_ablation_has_a_row():
  for number in (1, 2):
    assert f'| Eq. {number}:' in PAGE
  for path in (ROOT / 'experiments' / 'ablations').glob('*.py'):
    if path.stem not in ('__init__', 'base'):
      assert f'`experiments/ablations/{path.name}:sweep`' in PAGE, path.name
