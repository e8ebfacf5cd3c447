"""Tests of the progress display."""

import io
import os
import pty
import time

import pytest

from instructrl.runtime.progress import format_seconds
from instructrl.runtime.progress import Progress


class Clock:
  """A clock that is set by hand."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def run_progress(stream, *, steps=1000, seconds=0.1, fail_at=None):
  clock = Clock()
  with Progress(
    'ppo', steps, label='[8/12] ppo', stream=stream, clock=clock, interval=10.0
  ) as progress:
    clock.now += 30.0  # the first step compiles
    for step in range(1, steps + 1):
      clock.now += seconds
      if step == fail_at:
        raise RuntimeError('no')
      progress.update(
        step,
        {
          'loss/value': 1,
          'objective/kl': step / 8,
          'objective/scores': 0.5,
          'response/length': 9,
        }
        | ({'objective/judge': 0.25} if step == 1 else {}),
      )
    progress.message('a message')


def test_progress_without_terminal_is_a_line_now_and_then():
  stream = io.StringIO()
  run_progress(stream)
  lines = stream.getvalue().splitlines()
  assert lines[0] == '[8/12] ppo: starts'
  assert lines[1] == (
    '[8/12] ppo: 1/1000  score=0.5  KL=0.125  judge=0.25  length=9'
  )
  assert lines[2] == (
    '[8/12] ppo: 101/1000  score=0.5  1m30s left  KL=12.62  judge=0.25  '
    'length=9  10 steps/s'
  )
  assert lines[-2:] == [
    '[8/12] ppo: a message',
    '[8/12] ppo: done at 1000/1000 after 2m10s',
  ]
  assert 10 <= len(lines) <= 14
  assert '\x1b' not in stream.getvalue()


def test_the_time_left_follows_the_last_minute():
  stream, clock = io.StringIO(), Clock()
  with Progress(
    'rm', 300, stream=stream, clock=clock, interval=10.0
  ) as progress:
    for step in range(1, 201):  # the first ten compile, one shape after another
      clock.now += 5.0 if step <= 10 else 0.5
      progress.update(step)
  lines = stream.getvalue().splitlines()
  assert '0.2 steps/s' in lines[2]
  assert lines[-2] == 'rm: 190/300  55s left  2 steps/s'


def test_the_first_time_left_does_not_count_what_compiles():
  stream, clock = io.StringIO(), Clock()
  with Progress('rm', 1000, stream=stream, clock=clock) as progress:
    for step in range(1, 16):
      clock.now += 4.0 if step in (1, 4, 7) else 0.5
      progress.update(step, {'pieces': 7, 'b': 1})
  lines = stream.getvalue().splitlines()
  assert lines[1] == 'rm: 6/1000  pieces=7  8m17s left  b=1  2 steps/s'


def test_progress_says_where_it_stopped_and_resumed():
  stream = io.StringIO()
  with pytest.raises(RuntimeError):
    run_progress(stream, seconds=1.0, fail_at=5)
  assert stream.getvalue().endswith('stopped at 4/1000 after 35s\n')
  stream = io.StringIO()
  with Progress('sft', 9, start=4, stream=stream):
    pass
  assert stream.getvalue().startswith('sft: resumes at 4\n')


def show_on_a_terminal(monkeypatch, width):
  monkeypatch.setenv('TERM', 'xterm-256color')
  monkeypatch.setenv('COLUMNS', str(width))
  clock = Clock()
  reader, writer = pty.openpty()
  with os.fdopen(writer, 'w') as stream:
    with Progress('rm [1]', 4, stream=stream, clock=clock) as progress:
      for step in (1, 2):
        clock.now += 65.0
        progress.update(step, {'optimizer/lr': 0.75, 'loss/train': 0.5})
      time.sleep(0.7)  # it is drawn twice a second
      progress.message('a [message]')
  shown = b''
  try:
    while part := os.read(reader, 1 << 12):
      shown += part
  except OSError:  # how Linux says that the other end is closed
    pass
  finally:
    os.close(reader)
  return shown.decode()


def test_progress_on_a_terminal_is_a_live_bar(monkeypatch):
  shown = show_on_a_terminal(monkeypatch, 120)
  for text in (
    'rm [1]',
    'a [message]',
    'done after 2m10s',
    '\x1b[',
    '2m10s left',
  ):
    assert text in shown


@pytest.mark.parametrize('width', [60, 50])
def test_a_narrow_terminal_cuts_the_loss_last(monkeypatch, width):
  wide, narrow = (show_on_a_terminal(monkeypatch, w) for w in (200, width))
  assert 'lr=0.75' in wide
  assert 'lr=0.75' not in narrow
  for text in ('rm [1]', '2/4', 'loss=0.5', '━' * 8):
    assert text in narrow


def test_other_processes_show_nothing():
  stream = io.StringIO()
  with Progress('sft', 2, primary=False, stream=stream) as progress:
    progress.update(1)
    progress.message('text')
  assert not stream.getvalue()


def test_seconds_for_people():
  for seconds, text in (
    (0, '0s'),
    (59.4, '59s'),
    (65, '1m05s'),
    (3600, '1h00m'),
    (45296, '12h34m'),
  ):
    assert format_seconds(seconds) == text
