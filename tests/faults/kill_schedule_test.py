"""Runs that are killed at file-system events and at random end with the same
bits as runs that are not."""

import random
import shutil
import signal

import pytest

from tests.stages.resume_test import assert_same_run

# Stage -> kills at events, kills at random times.
KILLS = {'pretrain': (8, 2), 'reward': (3, 1), 'dpo': (2, 1), 'ppo_ptx': (4, 1)}


@pytest.mark.slow
@pytest.mark.parametrize('stage', KILLS)
def test_a_killed_run_ends_as_one_that_is_not(
  server, workdir, tmp_path, stage, report_counts
):
  expected = tmp_path / 'expected'
  events = server.finish(stage, expected)['events']
  draw = random.Random(stage)
  at_events, at_random = KILLS[stage]
  schedule = [{'kill_at': draw.randint(1, events)} for _ in range(at_events)]
  schedule += [
    {'stop': {'after': draw.uniform(0.2, 6), 'signal': signal.SIGKILL}}
    for _ in range(at_random)
  ]
  draw.shuffle(schedule)
  killed = 0
  for fault in schedule:
    result, output = server.run(stage, workdir, **fault)
    assert result['status'] in (0, -signal.SIGKILL), output[-3000:]
    killed += result['status'] != 0
    if result['status'] == 0:  # it finished before the kill
      assert_same_run(workdir, expected)
      shutil.rmtree(workdir)
  assert killed >= at_events // 2
  server.finish(stage, workdir)
  assert_same_run(workdir, expected)
  report_counts(f'kills: {stage}: {killed} tried, {killed} survived')
