"""Rendering of templates, and their place in an installed package."""

import pathlib
import subprocess
import sys

import jinja2
import pytest

from instructrl.reports import formats
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


@pytest.mark.parametrize(
  'summary, unit, signed, text',
  [
    ({'value': 0.66, 'ci95': [0.61, 0.71]}, '%', False, '66.0% (61.0 to 71.0)'),
    ({'value': -0.1, 'ci95': None}, 'points', True, '−10.0 points'),
    ({'value': 4e-5}, 'nats', True, '+0.00004 nats'),
    ({'value': -1e-9}, 'nats', True, '+0.000000 nats'),
    ({'value': 0.0}, '', False, '0.000'),
    ({'value': None}, '%', False, '–'),
    ({}, 'bits', True, '–'),
  ],
)
def test_measured(summary, unit, signed, text):
  assert formats.measured(summary, unit, signed=signed) == text


@pytest.mark.parametrize(
  'seconds, text',
  [
    (7.4, '7 s'),
    (200, '3 min 20 s'),
    (7500, '2 h 5 min'),
    (3599.7, '1 h 0 min'),
  ],
)
def test_duration(seconds, text):
  assert formats.duration(seconds) == text
