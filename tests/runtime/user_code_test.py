"""The source of a user's code: of its module and of all that this imports."""

import importlib

import pytest

from instructrl.runtime import user_code

SOURCE = """
import json
def score(prompts, responses):
  import own_helper
  from own_package.inner.leaf import weight
  from own_folder import plain
"""
FILES = (
  'own_helper.py',
  'own_package/__init__.py',
  'own_package/inner/__init__.py',
  'own_package/inner/leaf.py',
  'own_folder/plain.py',  # of a package without __init__.py
)


@pytest.fixture
def module(tmp_path, monkeypatch):
  (tmp_path / 'own_reward.py').write_text(SOURCE)
  for name in FILES:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(f'# {name}\n')
  monkeypatch.syspath_prepend(tmp_path)
  found = importlib.import_module('own_reward')
  yield found
  monkeypatch.delitem(importlib.sys.modules, 'own_reward')


@pytest.mark.parametrize('name', FILES)
def test_a_module_that_is_imported_late_counts(module, tmp_path, name):
  before = user_code.fingerprint('own_reward:score', module)
  assert before == user_code.fingerprint('own_reward:score', module)
  (tmp_path / name).write_text('# changed\n')
  assert before != user_code.fingerprint('own_reward:score', module)
  assert name.removesuffix('.py').removesuffix('/__init__').replace(
    '/', '.'
  ) in user_code.imported(module)


@pytest.mark.parametrize('content', [b'x = (', b'# coding: latin-1\n# \xe9'])
def test_a_helper_that_is_not_utf_8_or_not_python_counts(
  module, tmp_path, content
):
  (tmp_path / 'own_helper.py').write_bytes(content)
  assert 'own_helper' in user_code.imported(module)
