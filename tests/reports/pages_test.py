"""Rendering of templates, and their place in an installed package."""

import pathlib
import subprocess
import sys

import jinja2
import pytest

from instructrl.reports import pages

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLANS = dict(versions=[], summary=[('run',)], scaling=[], plans=[])


def test_values_are_escaped_and_svg_is_not():
  scaling = [('<b>', '<svg></svg>', [('<i>',), ('<u>',)])]
  page = pages.render(
    'plans', smallest=['a < b & c'], **PLANS | {'scaling': scaling}
  )
  assert '<li>a &lt; b &amp; c</li>' in page
  assert 'the same batch: &lt;b&gt;' in page and '<svg></svg>' in page
  assert '<th>&lt;i&gt;</th>' in page and '<td>&lt;u&gt;</td>' in page


def test_a_missing_value_is_an_error():
  with pytest.raises(jinja2.UndefinedError, match='smallest'):
    pages.render('plans', **PLANS)


def test_an_installed_package_has_the_templates(tmp_path):
  build = ['build', '--build-base', tmp_path / 'base', '--build-lib', tmp_path]
  command = [sys.executable, 'setup.py', '-q', 'egg_info', '-e', tmp_path]
  subprocess.run([*command, *build], cwd=ROOT, check=True, capture_output=True)
  folder = pathlib.Path('instructrl', 'reports', 'templates')
  names = {path.name for path in (ROOT / folder).iterdir()}
  assert 'study.html.j2' in names
  assert {path.name for path in (tmp_path / folder).iterdir()} == names
