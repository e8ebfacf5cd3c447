"""Trackers, with stand-ins for packages that would call home."""

import sys
import types

import pytest

from instructrl.runtime import metrics
from instructrl.runtime import trackers


@pytest.fixture
def calls(monkeypatch):
  """Stand-ins of wandb and trackio, and what they were called with."""
  found = []

  def note(name):
    return lambda *args, **kwargs: found.append((name, args, kwargs))

  run = types.SimpleNamespace(log=note('log'), finish=note('finish'))

  def init(**kwargs):
    note('init')(**kwargs)
    return run

  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=init))
  trackio = types.SimpleNamespace(init=init, log=run.log, finish=run.finish)
  monkeypatch.setitem(sys.modules, 'trackio', trackio)
  return found


@pytest.mark.parametrize('name', ['wandb', 'trackio'])
def test_scalars_are_sent_under_the_name_of_the_run(name, calls, tmp_path):
  folder = tmp_path / 'study' / 'ppo'
  with metrics.RunWriter(folder, trackers=(name,)) as writer:
    (folder / 'config.json').write_text('{"stage": "ppo"}')
    writer.scalars(1, {'objective/kl': 0.5})
    writer.scalars(2, {'objective/kl': 0.75})
  (first, _, about), *logs, (last, _, _) = calls
  assert (first, last) == ('init', 'finish')
  assert about['name'] == 'study/ppo' and about['config'] == {'stage': 'ppo'}
  assert about['resume'] == 'allow' and about['project'] == 'instructrl'
  assert logs == [
    ('log', ({'objective/kl': 0.5},), {'step': 1}),
    ('log', ({'objective/kl': 0.75},), {'step': 2}),
  ]


def test_other_processes_and_runs_without_values_start_nothing(calls, tmp_path):
  with metrics.RunWriter(tmp_path, trackers=('wandb',)):
    pass
  with metrics.RunWriter(tmp_path, primary=False, trackers=('wandb',)):
    pass
  assert calls == []


def test_a_tracker_that_cannot_be_used_is_named(monkeypatch):
  assert trackers.fault(('tensorboard',)) == ''
  assert 'among tensorboard, wandb, trackio; got' in trackers.fault(('mlflow',))
  monkeypatch.setitem(trackers.PACKAGES, 'wandb', 'no_such_package')
  assert 'pip install -e ".[wandb]"' in trackers.fault(('wandb',))
