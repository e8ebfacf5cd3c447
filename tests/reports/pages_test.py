"""Rendering of templates, and their place in an installed package."""

import pathlib
import re
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


def _contrast(first: str, second: str) -> float:
  """Returns the contrast of two colours '#rgb' or '#rrggbb' (WCAG 2)."""

  def luminance(color):
    digits = color[1:] if len(color) == 7 else ''.join(2 * c for c in color[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [
      x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

  dark, light = sorted(map(luminance, (first, second)))
  return (light + 0.05) / (dark + 0.05)


def test_text_has_the_contrast_of_aa():
  """4.5 to 1, in light, in dark and on paper."""
  assert _contrast('#000', '#ffffff') == pytest.approx(21)
  style = (ROOT / 'instructrl/reports/templates/style.css').read_text()
  schemes = [
    dict(re.findall(r'--(\w+):\s*(#\w+)', block))
    for block in re.findall(r':root \{([^}]*)\}', style)
  ]
  assert len(schemes) == 3
  for scheme in schemes:
    for name in ('ink', 'soft', 'good', 'bad', 'open'):
      for behind in ('paper', 'card'):
        found = _contrast(scheme[name], scheme[behind])
        assert found >= 4.5, (name, behind, found)
