"""A storage that fails for a moment costs nothing, or a restart (status 74)."""

import random

import pytest

from instructrl.runtime import storage
from tests.faults.server import TRANSIENT
from tests.stages.resume_test import assert_same_run

TRIES = 10


@pytest.mark.slow
@pytest.mark.parametrize('times', [2, 100])
def test_errors_that_pass(server, workdir, tmp_path, times, report_counts):
  """Two events fail in a row, or all for longer than a run tries again."""
  expected = tmp_path / 'expected'
  events = server.finish('pretrain', expected)['events']
  draw = random.Random(times)
  through = restarted = 0
  for number in range(TRIES):
    run = workdir.with_name(f'run{number}')
    fault = {'fail_at': draw.randint(1, events), 'times': times}
    fault['errno'] = TRANSIENT[number % len(TRANSIENT)]
    result, output = server.run('pretrain', run, **fault)
    where = f'{fault}: {output[-2000:]}'
    assert result['status'] in (0, storage.EXIT_STORAGE), where
    if result['status']:
      last = output.splitlines()[-1]
      assert last.startswith('error: ') and str(tmp_path) in last, where
      restarted += 1
      server.finish('pretrain', run)
    else:
      through += 1
    assert_same_run(run, expected)
  report_counts(
    f'errors of {times} events: {TRIES} tried, {through} went through, '
    f'{restarted} ended with status 74 and resumed'
  )
