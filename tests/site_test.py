"""The site of docs/ builds, without a broken link."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_site_builds_and_has_the_docstrings(tmp_path):
  # --quiet would drop the warnings that --strict counts.
  command = [sys.executable, '-m', 'mkdocs', 'build', '--strict']
  found = subprocess.run(
    [*command, '--site-dir', str(tmp_path)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 0, found.stdout + found.stderr
  api = (tmp_path / 'api' / 'index.html').read_text('utf-8')
  for name in ('ppo_policy_loss', 'gae', 'LoadedRun.generate', 'Evaluator'):
    assert name in api
