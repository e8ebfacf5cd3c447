"""Worker processes: their results, their errors and their end."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from instructrl.runtime import workers

SLEEPER = """
import os, time
from instructrl.runtime import workers
from tests.runtime import workers_test
if __name__ == '__main__':
  with workers.pool(2) as submit:
    [submit(workers_test.note_and_sleep, {folder!r}) for _ in range(3)]
    time.sleep(60)
"""


def note_and_sleep(folder):
  (pathlib.Path(folder) / str(os.getpid())).touch()
  time.sleep(60)


def refuse(message):
  raise ValueError(message)


def alive(pid):
  """Whether a process runs; one that has ended may wait for its parent."""
  try:
    state = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]
  except FileNotFoundError:
    return False
  return state.split()[0] not in 'ZX'


@pytest.mark.parametrize('count', [1, 2])
def test_results_and_errors(count):
  with workers.pool(count) as submit:
    found = [submit(divmod, n, 3) for n in range(4)]
    assert [f.result() for f in found] == [divmod(n, 3) for n in range(4)]
    numbers = [1, 2]
    total = submit(sum, numbers)
    numbers.append(4)
    assert total.result() == 3
    pid = submit(os.getpid).result()
    assert (pid == os.getpid()) == (count == 1)
    with pytest.raises(ValueError, match='no such row'):
      submit(refuse, 'no such row').result()
  assert count == 1 or not alive(pid)


@pytest.mark.skipif(
  not pathlib.Path('/proc/self/stat').exists(), reason='/proc'
)
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
  """In the middle of their work, after a kill or Ctrl-C."""
  (tmp_path / 'pids').mkdir()
  script = tmp_path / 'sleeper.py'
  script.write_text(SLEEPER.format(folder=str(tmp_path / 'pids')))
  root = pathlib.Path(__file__).resolve().parents[2]
  process = subprocess.Popen(
    [sys.executable, str(script)],
    cwd=root,
    env={**os.environ, 'PYTHONPATH': str(root)},
    start_new_session=True,
    stderr=subprocess.DEVNULL,
  )
  wait_for = lambda done: any(done() or time.sleep(0.02) for _ in range(3000))
  pids = lambda: [int(path.name) for path in (tmp_path / 'pids').iterdir()]
  assert wait_for(lambda: len(pids()) == 2)
  if number == signal.SIGINT:  # a terminal sends it to all of them
    os.killpg(process.pid, number)
  else:
    process.send_signal(number)
  assert process.wait(30) != 0
  assert wait_for(lambda: not any(map(alive, pids())))
