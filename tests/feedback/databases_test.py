"""The same work on SQLite and PostgreSQL, and a server that is killed."""

import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

from instructrl.feedback import events
from instructrl.runtime.errors import ConfigError
from tests.feedback import desk_test
from tests.feedback import labeling

SERVERS = sorted(pathlib.Path('/usr/lib/postgresql').glob('*/bin/initdb'))


@pytest.fixture(scope='session')
def postgres(tmp_path_factory):
  """Yields the URL of a PostgreSQL server of its own, on a local socket."""
  if not SERVERS:
    pytest.skip('there is no PostgreSQL server: apt-get install postgresql')
  programs = SERVERS[-1].parent
  # A path of a socket has at most 107 characters; root may not run the server.
  folder = pathlib.Path(f'/tmp/instructrl-postgres-{os.getpid()}')
  folder.mkdir()
  as_user = {}
  if os.getuid() == 0:
    account = pwd.getpwnam('postgres')
    os.chown(folder, account.pw_uid, account.pw_gid)
    as_user = dict(user=account.pw_uid, group=account.pw_gid)
  run = lambda *command: subprocess.run(
    command, check=True, capture_output=True, cwd='/', **as_user
  )
  run(programs / 'initdb', '-A', 'trust', '-U', 'lab', '-D', folder / 'data')
  server = [programs / 'pg_ctl', '-D', folder / 'data', '-w']
  options = f"-c listen_addresses='' -k {folder}"
  run(*server, '-l', folder / 'log', '-o', options, 'start')
  try:
    yield f'postgresql://lab@/postgres?host={folder}'
  finally:
    run(*server, '-m', 'immediate', 'stop')
    shutil.rmtree(folder)


@pytest.fixture
def clock():
  return labeling.Clock()


@pytest.mark.parametrize(
  'name', [name for name in vars(desk_test) if name.startswith('test_')]
)
def test_postgresql_does_what_sqlite_does(
  name, postgres, tmp_path, clock, monkeypatch
):
  engine = sa.create_engine(
    postgres.replace('postgresql:', 'postgresql+psycopg:')
  )
  with engine.begin() as connection:
    connection.exec_driver_sql('DROP TABLE IF EXISTS actions, labels')
  engine.dispose()
  opened = []

  def open_log(folder, url=''):
    opened.append(EVENT_LOG(folder, postgres))
    return opened[-1]

  EVENT_LOG = events.EventLog
  monkeypatch.setattr(events, 'EventLog', open_log)
  test = getattr(desk_test, name)
  fixtures = {'tmp_path': tmp_path, 'clock': clock}
  wanted = test.__code__.co_varnames[: test.__code__.co_argcount]
  test(**{fixture: fixtures[fixture] for fixture in wanted})
  assert opened and not list(tmp_path.rglob('*.sqlite'))
  for log in opened:
    log.close()


@pytest.mark.parametrize('kind', ['sqlite', 'postgres'])
def test_writers_at_once_lose_nothing(kind, request, tmp_path):
  url = request.getfixturevalue('postgres') if kind == 'postgres' else ''
  logs = [events.EventLog(tmp_path, url) for _ in range(4)]
  before = len(logs[0].after(0))
  threads = [
    threading.Thread(
      target=lambda log=log, i=i: [
        log.append(1.0, i, 'submit', f'p{j}', {'j': j}) for j in range(25)
      ]
    )
    for i, log in enumerate(logs)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  found = logs[0].after(0)[before:]
  assert {(a.person, a.body['j']) for a in found} == {
    (i, j) for i in range(4) for j in range(25)
  }
  assert len(found) == 100
  for log in logs:
    log.close()


def test_a_lost_connection_is_made_again(postgres, tmp_path):
  log, other = (events.EventLog(tmp_path, postgres) for _ in range(2))
  last = log.append(1.0, 1, 'about').id
  with other._engine.begin() as connection:
    connection.exec_driver_sql(
      'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '
      'WHERE datname = current_database() AND pid <> pg_backend_pid()'
    )
  log.append(2.0, 1, 'about')
  assert [action.time for action in log.after(last - 1)] == [1.0, 2.0]
  log.close()
  other.close()


def test_a_locked_database_is_one_error_and_loses_nothing(tmp_path):
  log, other = (events.EventLog(tmp_path) for _ in range(2))
  log.append(1.0, 1, 'about')
  with log._engine.connect() as connection:
    connection.exec_driver_sql('PRAGMA busy_timeout = 1')
  with other._writing():
    with pytest.raises(events.DatabaseError, match='sqlite: .*locked'):
      log.append(2.0, 1, 'about')
  log.append(3.0, 1, 'about')
  assert [action.time for action in log.after(0)] == [1.0, 3.0]
  log.close()
  other.close()


WRITER = """
import pathlib, sys
from instructrl.feedback import events
log = events.EventLog(pathlib.Path(sys.argv[1]))
for i in range(10**9):
  log.append(1.0, 1, 'submit', f'p{i}', {'i': i})
  print(i, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path):
  writer = subprocess.Popen(
    [sys.executable, '-c', WRITER, tmp_path],
    stdout=subprocess.PIPE,
    text=True,
    cwd=labeling.ROOT,
  )
  for _ in range(20):
    last = int(writer.stdout.readline())
  writer.send_signal(signal.SIGKILL)
  last = max([last, *map(int, writer.stdout.read().split())])
  writer.wait()
  log = events.EventLog(tmp_path)
  numbers = [action.body['i'] for action in log.after(0)]
  assert numbers[: last + 1] == [*range(last + 1)]
  assert len(numbers) <= last + 2  # the one under way
  with log._engine.connect() as connection:
    count = connection.scalar(sa.select(sa.func.count(events.LABELS.c.id)))
  assert count == len(numbers)  # an action and its label are one transaction
  log.close()


@pytest.mark.parametrize(
  'url',
  [
    'postgresql://lab:secret@127.0.0.1:1/nothing',
    'nonsense',
    'sqlite:////no/such/folder/x.sqlite',
  ],
)
def test_a_database_that_cannot_be_opened_is_one_error(tmp_path, url):
  with pytest.raises(ConfigError, match='--database: .* cannot be opened') as e:
    events.EventLog(tmp_path, url)
  assert 'secret' not in str(e.value)
