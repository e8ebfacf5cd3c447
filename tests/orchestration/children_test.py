"""Jobs run after the jobs they need, several at a time, and resume."""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from instructrl.orchestration import children
from instructrl.runtime import exits
from instructrl.runtime import run_folder

# The command of a job: logs its start and end, and leaves DONE.
WORK = """
import json, os, pathlib, sys, time
folder, seconds, code = pathlib.Path(sys.argv[1]), *map(float, sys.argv[2:])
journal = os.open(
    folder.parent / 'journal', os.O_APPEND | os.O_CREAT | os.O_WRONLY)
(folder / 'pid').write_text(str(os.getpid()))
os.write(journal, f'+{folder.name}\\n'.encode())
time.sleep(seconds)
os.write(journal, f'-{folder.name}\\n'.encode())
if code:
  print('some line', flush=True)
  sys.exit('error: it does not work' if code == 1 else int(code))
(folder / 'DONE').write_text(json.dumps({'format_version': 1, 'seconds': 60}))
"""


@pytest.fixture(autouse=True)
def _often(monkeypatch):
  monkeypatch.setattr(children, 'POLL_SECONDS', 0.01)


def job(folder, name, needs=(), seconds=0.0, code=0):
  return children.Job(
    name,
    name.split('-')[0],
    [sys.executable, '-c', WORK, str(folder / name), str(seconds), str(code)],
    folder / name,
    tuple(needs),
  )


def journal(folder):
  return (folder / 'journal').read_text().split()


def test_each_runs_once_and_after_what_it_needs(tmp_path, capsys):
  jobs = [
    job(tmp_path, 'a'),
    job(tmp_path, 'b-1', 'a', 0.2),
    job(tmp_path, 'b-2', 'a'),
    job(tmp_path, 'c', ['b-1', 'b-2']),
  ]
  changes = []
  runs = children.Children(jobs, 2, lambda: changes.append(dict(runs.status)))
  assert runs.run() == dict.fromkeys(('a', 'b-1', 'b-2', 'c'), children.DONE)
  seen = journal(tmp_path)
  assert sorted(seen) == sorted(f'{s}{j.name}' for s in '+-' for j in jobs)
  at = seen.index
  assert at('-a') < min(at('+b-1'), at('+b-2'))
  assert max(at('-b-1'), at('-b-2')) < at('+c')
  assert changes[0]['a'] == children.RUNNING and changes[-1]['c'] == 'done'
  # What is called after a change may take minutes: both have started before it.
  assert changes[2]['b-1'] == changes[2]['b-2'] == children.RUNNING
  out = capsys.readouterr().out
  # b-2 ends first. b-1 is of the same kind; no job of c's kind has run yet.
  assert re.search(r'2 of 4 done, 2 left, 1 of them take about (1m0|5).s', out)
  assert out.splitlines()[-1].endswith('4 of 4 done')
  children.Children(jobs, 2).run()
  assert journal(tmp_path) == seen


@pytest.mark.parametrize('parallel', [1, 2])
def test_as_many_at_a_time_as_it_says(tmp_path, parallel):
  children.Children(
    [job(tmp_path, f'a-{i}', seconds=0.3) for i in range(4)], parallel
  ).run()
  count, most = 0, 0
  for line in journal(tmp_path):
    count += 1 if line[0] == '+' else -1
    most = max(most, count)
  assert most == parallel


def test_what_fails_stops_only_what_needs_it(tmp_path, capsys):
  jobs = [
    job(tmp_path, 'a', code=1),
    job(tmp_path, 'b'),
    job(tmp_path, 'c', 'a'),
    job(tmp_path, 'd', 'c'),
    job(tmp_path, 'e', 'b'),
  ]
  runs = children.Children(jobs, 1)
  assert list(runs.run().values()) == [
    children.FAILED,
    children.DONE,
    children.LEFT,
    children.LEFT,
    children.DONE,
  ]
  assert runs.blocked() == ['c', 'd']
  assert runs.reasons == {'a': 'error: it does not work (exit status 1)'}
  (told,) = [
    line for line in capsys.readouterr().out.splitlines() if 'FAILED' in line
  ]
  assert told.endswith(
    f'error: it does not work (exit status 1); log: {tmp_path}/a/log.txt'
  )
  jobs[0] = job(tmp_path, 'a')  # the next start tries again
  assert set(children.Children(jobs, 1).run().values()) == {children.DONE}
  assert journal(tmp_path).count('+b') == 1
  assert (tmp_path / 'a' / 'log.txt').read_text().count('\n--- ') == 1


def test_the_time_left_is_that_of_the_longest_chain(tmp_path):
  chain = [job(tmp_path, 'a'), job(tmp_path, 'b', 'a'), job(tmp_path, 'c', 'a')]
  chain = [
    dataclasses.replace(one, seconds=took)
    for one, took in zip(chain, (10, 20, 5), strict=True)
  ]
  assert '3 left, about 30s' in children.Children(chain, 2)._summary()
  assert '3 left, about 35s' in children.Children(chain, 1)._summary()


def test_what_jobs_print_is_shown_as_it_comes(tmp_path, capsys):
  jobs = [job(tmp_path, 'a', code=1), job(tmp_path, 'b')]
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'log.txt').write_text('of an earlier start\n')
  children.Children(jobs, 2, follow=True).run()
  out = capsys.readouterr().out
  assert out.index('some line\n') < out.index('error: it does not work\n')
  assert out.count('some line') == 1
  assert 'starts' not in out and 'earlier' not in out and '---' not in out


@pytest.mark.parametrize('code', [74, 75, 76, 77, 130, 143])
def test_what_was_interrupted_has_not_failed(tmp_path, code):
  runs = children.Children(
    [job(tmp_path, 'a', code=code), job(tmp_path, 'b', 'a')], 1
  )
  assert runs.run() == {'a': children.STOPPED, 'b': children.LEFT}
  assert not runs.reasons and not runs.blocked()
  assert runs.codes == {'a': code}


def test_a_link_in_the_place_of_the_log_is_refused(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'target').write_text('precious')
  (tmp_path / 'a' / 'log.txt').symlink_to(tmp_path / 'target')
  with pytest.raises(ValueError, match='a/log.txt is a symbolic link to'):
    children.Children([job(tmp_path, 'a')], 1).run()
  assert (tmp_path / 'target').read_text() == 'precious'


def test_a_job_that_is_killed_or_leaves_nothing_has_failed(tmp_path):
  jobs = [
    children.Job('a', 'a', [sys.executable, '-c', script], tmp_path / str(i))
    for i, script in enumerate(['import os; os.kill(os.getpid(), 9)', ''])
  ]
  reasons = []
  for one in jobs:
    runs = children.Children([one], 1)
    runs.run()
    reasons.append(runs.reasons['a'])
  assert reasons == ['ended by SIGKILL', f'it ended without {tmp_path}/1/DONE']


def test_a_job_that_diverged_is_told_from_one_that_failed(tmp_path):
  jobs = [
    job(tmp_path, 'a', code=exits.EXIT_DIVERGED),
    job(tmp_path, 'b', code=1),
  ]
  runs = children.Children(jobs, 1)
  assert set(runs.run().values()) == {children.FAILED}
  assert runs.diverged == {'a'}


HOLD = """
import json, pathlib, sys, time
from instructrl.runtime import run_folder
folder = pathlib.Path(sys.argv[1])
with run_folder.only_process(folder):
  print('held', flush=True)
  sys.stdin.readline()
  if sys.argv[2] == 'ends':
    run_folder.write_done(folder, {'seconds': 1})
"""


@pytest.mark.parametrize('other', ['ends', 'dies'])
def test_what_another_process_makes_is_waited_for(tmp_path, other, capsys):
  folder = tmp_path / 'a'
  folder.mkdir()
  with subprocess.Popen(
    [sys.executable, '-c', HOLD, folder, other],
    text=True,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
  ) as process:
    assert process.stdout.readline() == 'held\n'
    assert run_folder.holder(folder) == str(process.pid)
    runs = children.Children(
      [job(tmp_path, 'b'), job(tmp_path, 'a')],
      1,
      lambda: (
        runs.status['b'] == children.DONE
        and (process.stdin.close() if not process.stdin.closed else None)
      ),
    )
    assert set(runs.run().values()) == {children.DONE}
  assert f'a: process {process.pid} is at work' in capsys.readouterr().out
  assert journal(tmp_path).count('+a') == (other == 'dies')
  assert run_folder.holder(folder) is None


START = """
import pathlib, signal, sys
sys.path.insert(0, sys.argv[2])
import children_test as test
from instructrl.orchestration import children
from instructrl.runtime import command
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = pathlib.Path(sys.argv.pop(1))
sys.argv[1:] = []
command.run_door(children.Children(
    [test.job(folder, 'a', seconds=60)], 1).run)
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_children(tmp_path, number):
  with subprocess.Popen(
    [
      sys.executable,
      '-c',
      START,
      tmp_path,
      pathlib.Path(__file__).resolve().parent,
    ],
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
  ) as process:
    while not (tmp_path / 'journal').exists() or not journal(tmp_path):
      assert process.poll() is None, process.stderr.read()
      time.sleep(0.05)
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
  assert process.returncode not in (0, 1)
  assert 'stopping 1 runs' in out
  assert error.splitlines()[-1].startswith('stopped; the same command resumes')
  assert journal(tmp_path) == ['+a']
  with pytest.raises(ProcessLookupError):
    os.kill(int((tmp_path / 'a' / 'pid').read_text()), 0)
