"""Tests of the run's files, the progress display and the timer."""

import io
import json
import os
import pty
import signal
import subprocess
import sys

from instructrl import metrics as metrics_lib
import jax.numpy as jnp
import numpy as np
import pytest


def write_steps(writer, first, last):
  for step in range(first, last + 1):
    writer.scalars(step, {'loss/policy': np.float32(1) / step, 'a': step})
    writer.timings(step, {'perf/iter_s': 1e-9 + step / 3})
    writer.sample(step, {'prompt': 'Où?\u2028\n', 'tokens': [1, step]})


def test_lines_are_values_with_the_step_first(tmp_path):
  with metrics_lib.RunWriter(tmp_path) as writer:
    writer.scalars(3, {'b': jnp.float32(0.1), 'a': np.int32(2)})
    writer.timings(3, {'perf/iter_s': 1 / 3})
    writer.sample(3, {'text': 'né\u2028\n'})
  assert (tmp_path / 'metrics.jsonl').read_text() == (
      '{"step": 3, "a": 2.0, "b": 0.10000000149011612}\n')
  assert (tmp_path / 'timings.jsonl').read_text() == (
      '{"step": 3, "perf/iter_s": 0.333333}\n')
  assert metrics_lib.read_metrics(tmp_path / 'samples.jsonl') == [
      {'step': 3, 'text': 'né\u2028\n'}]


def test_a_killed_and_resumed_run_leaves_the_same_bytes(tmp_path):
  with metrics_lib.RunWriter(tmp_path / 'whole') as writer:
    write_steps(writer, 1, 9)
  writer = metrics_lib.RunWriter(tmp_path / 'killed')
  write_steps(writer, 1, 6)  # not closed: the process is gone
  for name in ('metrics.jsonl', 'samples.jsonl', 'timings.jsonl'):
    with (tmp_path / 'killed' / name).open('a') as file:
      file.write('{"step": 7, "loss')
  with metrics_lib.RunWriter(tmp_path / 'killed') as writer:
    writer.trim(4)
    write_steps(writer, 5, 9)
  for name in ('metrics.jsonl', 'samples.jsonl'):
    assert ((tmp_path / 'killed' / name).read_bytes()
            == (tmp_path / 'whole' / name).read_bytes())
  timings = metrics_lib.read_metrics(tmp_path / 'killed' / 'timings.jsonl')
  assert [r['step'] for r in timings] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9]
  assert not list((tmp_path / 'killed').glob('.*'))


def test_trim_to_nothing_and_past_the_end(tmp_path):
  with metrics_lib.RunWriter(tmp_path) as writer:
    write_steps(writer, 1, 3)
    before = (tmp_path / 'metrics.jsonl').stat()
    writer.trim(3)
    after = (tmp_path / 'metrics.jsonl').stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
    writer.trim(0)
    assert (tmp_path / 'metrics.jsonl').read_bytes() == b''
    assert (tmp_path / 'samples.jsonl').read_bytes() == b''
    write_steps(writer, 1, 1)
  assert [r['step'] for r in metrics_lib.read_metrics(tmp_path)] == [1]


def test_trim_killed_before_the_rename_keeps_the_old_file(
    tmp_path, monkeypatch):
  writer = metrics_lib.RunWriter(tmp_path)
  write_steps(writer, 1, 3)
  before = (tmp_path / 'metrics.jsonl').read_bytes()

  def die(self, target):
    raise KeyboardInterrupt
  monkeypatch.setattr(metrics_lib.pathlib.Path, 'replace', die)
  with pytest.raises(KeyboardInterrupt):
    writer.trim(1)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


def test_reading_leaves_out_a_torn_last_line_only(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"step": 2}\n{"st')
  assert metrics_lib.read_metrics(tmp_path) == [{'step': 1}, {'step': 2}]
  for broken in ('{"step"', '{}', '[1]', '3', ''):
    path.write_text(f'{{"step": 1}}\n{broken}\n{{"step": 3}}\n')
    with pytest.raises(ValueError, match=r'metrics.jsonl:2: not a record'):
      metrics_lib.read_metrics(path)
    with pytest.raises(ValueError, match=r'metrics.jsonl:2: not a record'):
      metrics_lib.RunWriter(tmp_path).trim(1)


def test_a_killed_process_loses_no_line(tmp_path):
  code = (
      'import os, signal, sys\n'
      'from instructrl import metrics\n'
      'writer = metrics.RunWriter(sys.argv[1])\n'
      'for step in range(5): writer.scalars(step, {"loss": step})\n'
      'os.kill(os.getpid(), signal.SIGKILL)\n')
  done = subprocess.run([sys.executable, '-c', code, tmp_path], check=False)
  assert done.returncode == -signal.SIGKILL
  assert [r['loss'] for r in metrics_lib.read_metrics(tmp_path)] == [
      0, 1, 2, 3, 4]


@pytest.mark.parametrize('value', [float('nan'), jnp.inf, -np.float32('inf')])
def test_non_finite_values_are_refused_by_name(tmp_path, value):
  with metrics_lib.RunWriter(tmp_path) as writer:
    with pytest.raises(
        metrics_lib.NonFiniteError,
        match=r'^step 7: loss/value is (nan|inf|-inf)$'):
      writer.scalars(7, {'loss/policy': 1., 'loss/value': value})
  assert (tmp_path / 'metrics.jsonl').read_bytes() == b''
  metrics_lib.check_finite(7, {'loss/policy': 1e30})


def test_other_processes_write_nothing(tmp_path):
  with metrics_lib.RunWriter(
      tmp_path / 'run', primary=False, tensorboard=True) as writer:
    write_steps(writer, 1, 2)
    writer.trim(1)
    with pytest.raises(metrics_lib.NonFiniteError):
      writer.scalars(3, {'loss': float('nan')})
  assert not (tmp_path / 'run').exists()
  stream = io.StringIO()
  with metrics_lib.Progress('sft', 2, primary=False, stream=stream) as progress:
    progress.update(1)
    progress.message('text')
  assert not stream.getvalue()


def test_tensorboard_events_are_written_when_asked_for(tmp_path):
  with metrics_lib.RunWriter(tmp_path, tensorboard=True) as writer:
    write_steps(writer, 1, 3)
  (events,) = (tmp_path / 'tensorboard').iterdir()
  assert b'loss/policy' in events.read_bytes()
  with metrics_lib.RunWriter(tmp_path / 'without') as writer:
    write_steps(writer, 1, 3)
  assert not (tmp_path / 'without' / 'tensorboard').exists()


def test_done_is_absent_until_written(tmp_path):
  assert metrics_lib.read_done(tmp_path) is None
  metrics_lib.write_done(tmp_path, {'accuracy': .5})
  assert metrics_lib.read_done(tmp_path) == {'accuracy': .5}
  assert [p.name for p in tmp_path.iterdir()] == ['DONE']
  (tmp_path / 'DONE').write_text('{"format_version": 99}')
  with pytest.raises(ValueError, match='format_version 99'):
    metrics_lib.read_done(tmp_path)


def test_a_workdir_belongs_to_one_config(tmp_path):
  config = {'seed': 1, 'ppo': {'kl_coef': .02, 'sizes': (1, 2)}, 'x': None}
  metrics_lib.write_config(tmp_path / 'run', config)
  metrics_lib.write_config(tmp_path / 'run', config)  # a resume
  changed = {'seed': 1, 'ppo': {'kl_coef': .05, 'sizes': (1, 2)}}
  with pytest.raises(
      ValueError, match=r'ppo.kl_coef: 0.02 -> 0.05; x: null -> absent'):
    metrics_lib.write_config(tmp_path / 'run', changed)
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['seed'] == 1


def test_how_a_run_is_watched_saved_and_laid_out_may_change(tmp_path):
  config = lambda **fields: {'seed': 1, 'log': {'every': 1}, **fields}
  metrics_lib.write_config(tmp_path, config(mesh={'data': -1}))
  new = config(mesh={'data': 4}, log={'every': 5}, checkpoint={'keep': 3})
  metrics_lib.write_config(tmp_path, new)
  assert json.loads((tmp_path / 'config.json').read_text()) == new
  with pytest.raises(ValueError, match='inputs.init'):
    metrics_lib.write_config(tmp_path, config(inputs={'init': 'other'}))


def test_config_fingerprint_ignores_the_order_of_keys():
  fingerprint = metrics_lib.config_fingerprint
  assert fingerprint({'a': 1, 'b': (2,)}) == fingerprint({'b': [2], 'a': 1})
  assert fingerprint({'a': 1}) != fingerprint({'a': 2})


class Clock:
  """A clock that is set by hand."""

  def __init__(self):
    self.now = 0.

  def __call__(self):
    return self.now


def test_timer_adds_up_by_name_and_starts_over():
  clock = Clock()
  timer = metrics_lib.Timer(clock)
  for seconds in (1., 2.):
    with timer('generate'):
      clock.now += seconds
  with pytest.raises(KeyError), timer('update'):
    clock.now += .5
    raise KeyError
  assert timer.pop() == {'perf/generate_s': 3., 'perf/update_s': .5}
  assert timer.pop() == {}


def run_progress(stream, *, steps=1000, seconds=.1, fail_at=None):
  clock = Clock()
  with metrics_lib.Progress(
      'ppo', steps, label='stage 8/12', stream=stream, clock=clock,
      interval=10.) as progress:
    clock.now += 30.  # the first step compiles
    for step in range(1, steps + 1):
      clock.now += seconds
      if step == fail_at:
        raise RuntimeError('no')
      progress.update(step, {'objective/kl': step / 8, 'b': 1, 'c': 1, 'd': 1,
                             'never shown': 1})
    progress.message('a message')


def test_progress_without_terminal_is_a_line_now_and_then():
  stream = io.StringIO()
  run_progress(stream)
  lines = stream.getvalue().splitlines()
  assert lines[0] == 'stage 8/12 ppo: starts'
  assert lines[1] == (
      'stage 8/12 ppo: 1/1000  objective/kl=0.125  b=1  c=1  d=1')
  assert lines[2].startswith('stage 8/12 ppo: 101/1000  10 steps/s  1m30s left')
  assert lines[-2:] == [
      'stage 8/12 ppo: a message',
      'stage 8/12 ppo: done at 1000/1000 after 2m10s']
  assert 10 <= len(lines) <= 14
  assert '\x1b' not in stream.getvalue()


def test_the_time_left_follows_the_last_minute():
  stream, clock = io.StringIO(), Clock()
  with metrics_lib.Progress(
      'rm', 300, stream=stream, clock=clock, interval=10.) as progress:
    for step in range(1, 201):  # the first ten compile, one shape after another
      clock.now += 5. if step <= 10 else .5
      progress.update(step)
  lines = stream.getvalue().splitlines()
  assert '0.2 steps/s' in lines[2]
  assert lines[-2].startswith('rm: 190/300  2 steps/s  55s left')


def test_progress_says_where_it_stopped_and_resumed():
  stream = io.StringIO()
  with pytest.raises(RuntimeError):
    run_progress(stream, seconds=1., fail_at=5)
  assert stream.getvalue().endswith('stopped at 4/1000 after 35s\n')
  stream = io.StringIO()
  with metrics_lib.Progress('sft', 9, start=4, stream=stream):
    pass
  assert stream.getvalue().startswith('sft: resumes at 4\n')


def test_progress_on_a_terminal_is_a_live_bar(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm-256color')
  monkeypatch.setenv('COLUMNS', '120')
  reader, writer = pty.openpty()
  with os.fdopen(writer, 'w') as stream:
    with metrics_lib.Progress('rm [1]', 4, stream=stream) as progress:
      progress.update(2, {'accuracy': .75})
      progress.message('a [message]')
  shown = b''
  try:
    while part := os.read(reader, 1 << 12):
      shown += part
  except OSError:  # how Linux says that the other end is closed
    pass
  finally:
    os.close(reader)
  shown = shown.decode()
  for text in ('rm [1]', 'a [message]', 'done after 0s', '\x1b['):
    assert text in shown


def test_seconds_for_people():
  for seconds, text in ((0, '0s'), (59.4, '59s'), (65, '1m05s'),
                        (3600, '1h00m'), (45296, '12h34m')):
    assert metrics_lib.format_seconds(seconds) == text
