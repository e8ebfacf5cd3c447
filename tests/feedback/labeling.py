"""A small labeling project, its desk, and clients of its pages."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

from starlette.testclient import TestClient

from instructrl.feedback import desk
from instructrl.feedback import events
from instructrl.feedback import project
from instructrl.feedback import web

ROOT = pathlib.Path(__file__).resolve().parents[2]
ANSWERS = ['Cat, dog, cow.', '<script>document.title="x"</script>', 'A whale']


def rows(count=3, k=3, **fields):
  """Returns lines of items.jsonl."""
  return [
    {
      'id': f'p{i}',
      'prompt': f'List animals, number {i}.',
      'responses': [
        {'text': f'{ANSWERS[j % 3]} {i}.{j}', 'model': f'model{j}'}
        for j in range(k)
      ],
      **fields,
    }
    for i in range(count)
  ]


def make(folder, lines=None, **settings):
  """Makes a project folder from lines."""
  path = folder.parent / f'{folder.name}.jsonl'
  path.write_text(''.join(f'{json.dumps(x)}\n' for x in lines or rows()))
  known = project.ProjectSettings(**settings)
  project.create(folder, project.read_items(path, known.tasks), known)
  return folder


class Clock:
  """A clock that moves when a test says so."""

  def __init__(self):
    self.now = 1e9

  def __call__(self):
    return self.now


def open_desk(folder, url='', clock=time.time):
  log = events.EventLog(folder, url)
  return desk.Desk(project.Project(folder), log, clock)


def client_of(site, link=''):
  """Returns a client of the pages; with a link, in its session."""
  client = TestClient(web.make_app(site))
  if link:
    page = client.get(link)
    assert page.status_code == 200, page.text
    client.post(link, data={'token': token_in(page.text)})
  return client


def token_in(html):
  return re.search(r'name="token" value="([^"]+)"', html)[1]


def fields_in(html):
  """Returns the hidden fields of a page's form."""
  return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', html))


@contextlib.contextmanager
def server(folder, *flags):
  """Runs the command; yields (address, owner's link, process)."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  command = [sys.executable, '-m', 'instructrl.label', 'serve', str(folder)]
  process = subprocess.Popen(
    [*command, '--port', str(port), *flags],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    link = process.stdout.readline().strip()
    assert '/owner/' in link, link
    for _ in range(200):
      with contextlib.suppress(OSError):
        socket.create_connection(('127.0.0.1', port), 1).close()
        break
      time.sleep(0.05)
    yield f'http://127.0.0.1:{port}', link, process
  finally:
    if process.poll() is None:
      process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
