"""Downloads: whole or not at all, checked, and resumed."""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from instructrl.data.sources import downloads
from tests.data.sources import web as web_lib

DATA = bytes(range(256)) * 9000  # 2.3 MB


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
  monkeypatch.setattr(downloads, '_PAUSE', 0.0)


@pytest.fixture
def web():
  with web_lib.serve() as (server, address):
    server.files['/a.gz'] = DATA
    server.address = address
    yield server


def leftovers(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once(web, tmp_path):
  path = tmp_path / 'x' / 'a.gz'
  for _ in range(2):
    assert downloads.fetch(f'{web.address}/a.gz', path) == path
  assert path.read_bytes() == DATA and len(web.asked) == 1
  assert leftovers(path.parent) == ['a.gz']


def test_a_file_that_is_there_is_taken(tmp_path):
  (tmp_path / 'a.gz').write_text('mine')
  downloads.fetch('http://127.0.0.1:1/a.gz', tmp_path / 'a.gz')
  assert (tmp_path / 'a.gz').read_text() == 'mine'


def test_a_lost_connection_is_resumed(web, tmp_path):
  web.cut['/a.gz'] = [2_000_000, None]
  downloads.fetch(f'{web.address}/a.gz', tmp_path / 'a.gz')
  assert (tmp_path / 'a.gz').read_bytes() == DATA
  assert [asked for _, asked in web.asked] == [None, 'bytes=2000000-']
  assert web.resumed == 1


def test_tries_that_get_further_do_not_count(web, tmp_path):
  web.cut['/a.gz'] = [400_000 * i for i in range(1, 6)] + [None]
  downloads.fetch(f'{web.address}/a.gz', tmp_path / 'a.gz')
  assert (tmp_path / 'a.gz').read_bytes() == DATA and len(web.asked) == 6


def test_another_file_under_the_same_name_is_begun_again(web, tmp_path):
  web.cut['/a.gz'] = [1_500_000, 0, 0, 0]
  with pytest.raises(downloads.DownloadError, match='connection was lost'):
    downloads.fetch(f'{web.address}/a.gz', tmp_path / 'a.gz')
  assert not (tmp_path / 'a.gz').exists()
  assert leftovers(tmp_path) == ['a.gz.part', 'a.gz.part.json']
  web.files['/a.gz'] = new = DATA[::-1]
  web.cut['/a.gz'] = [1_500_000, None]  # what came before is not counted
  downloads.fetch(f'{web.address}/a.gz', tmp_path / 'a.gz')
  assert (tmp_path / 'a.gz').read_bytes() == new


def test_a_server_without_etag_is_asked_for_all_again(web, tmp_path):
  web.etags['/a.gz'] = 'W/"weak"'
  web.cut['/a.gz'] = [1_500_000, None]
  downloads.fetch(f'{web.address}/a.gz', tmp_path / 'a.gz')
  assert (tmp_path / 'a.gz').read_bytes() == DATA
  assert [asked for _, asked in web.asked] == [None, None]


@pytest.mark.parametrize('good', [True, False])
def test_a_published_checksum_is_compared(web, tmp_path, good):
  said = DATA if good else b'other'
  web.headers['/a.gz'] = {'Content-MD5': web_lib.md5(said)}
  path = tmp_path / 'x' / 'a.gz'
  if good:
    downloads.fetch(f'{web.address}/a.gz', path)
    assert path.read_bytes() == DATA
  else:
    with pytest.raises(downloads.DownloadError, match='its md5 is not'):
      downloads.fetch(f'{web.address}/a.gz', path)
    assert not leftovers(path.parent)


def test_what_is_not_there(web, tmp_path):
  with pytest.raises(downloads.DownloadError, match='HTTP 404'):
    downloads.fetch(f'{web.address}/b.gz', tmp_path / 'b.gz')
  assert len(web.asked) == 1  # and it is not tried again
  with pytest.raises(downloads.DownloadError, match='refused'):
    downloads.fetch('http://127.0.0.1:1/b.gz', tmp_path / 'b.gz')


def test_a_kill_before_the_rename(web, tmp_path):
  (tmp_path / 'a.gz.part').write_bytes(DATA)
  (tmp_path / 'a.gz.part.json').write_text(
    json.dumps({'etag': '"x"', 'size': str(len(DATA))})
  )
  downloads.fetch(f'{web.address}/a.gz', tmp_path / 'a.gz')
  assert (tmp_path / 'a.gz').read_bytes() == DATA and not web.asked


def test_a_part_of_unknown_origin_is_not_used(web, tmp_path):
  (tmp_path / 'a.gz.part').write_bytes(b'?' * 100)
  (tmp_path / 'a.gz.part.json').write_text('{"etag": ')
  downloads.fetch(f'{web.address}/a.gz', tmp_path / 'a.gz')
  assert (tmp_path / 'a.gz').read_bytes() == DATA


def _hold(folder):
  with downloads.lock(folder):
    (folder / 'held').touch()
    time.sleep(600)


def test_a_lock_is_free_after_a_kill(tmp_path):
  child = multiprocessing.get_context('spawn').Process(
    target=_hold, args=(tmp_path,)
  )
  child.start()
  while not (tmp_path / 'held').exists():
    assert child.is_alive()
    time.sleep(0.05)
  os.kill(child.pid, signal.SIGKILL)
  child.join()
  with downloads.lock(tmp_path):
    pass


# --- The hub -----------------------------------------------------------------

HUB = 'https://huggingface.co/datasets/some-org/some.data/resolve/main/'
FILE = '/datasets/some-org/some.data/resolve/main/part/a.gz'


@pytest.fixture
def hub(web, tmp_path):
  """(a hub that has `FILE`, fetch of a file under an environment)."""
  web.files['/lfs'] = DATA
  publish(web, web_lib.sha256(DATA), len(DATA))

  def fetch(name='part/a.gz', **environment):
    """Returns the path, or the message of a DownloadError."""
    program = (
      'import pathlib, sys\n'
      'from instructrl.data.sources import downloads\n'
      'try: print(downloads.fetch(sys.argv[1], pathlib.Path(sys.argv[2])))\n'
      'except downloads.DownloadError as error: print(error)\n'
    )
    done = subprocess.run(
      [sys.executable, '-c', program, HUB + name, str(tmp_path / 'own.gz')],
      env={
        **os.environ,
        'HF_ENDPOINT': web.address,
        'HF_HOME': str(tmp_path / 'home'),
        **environment,
      },
      check=True,
      capture_output=True,
      text=True,
    )
    return done.stdout.strip()

  return web, fetch


def publish(web, digest, size):
  about = {
    'X-Repo-Commit': '0' * 40,
    'X-Linked-ETag': f'"{digest}"',
    'X-Linked-Size': str(size),
  }
  # Another host, as the hub's files are.
  address = web.address.replace('127.0.0.1', 'localhost')
  web.redirects[FILE] = (f'{address}/lfs', about)


def test_a_file_of_the_hub_comes_from_a_mirror_and_then_from_the_cache(
  hub, tmp_path
):
  web, fetch = hub
  web.cut['/lfs'] = [1_000_000, None]  # a lost connection
  path = pathlib.Path(fetch())
  assert path.is_relative_to(tmp_path / 'home') and path.name == 'a.gz'
  assert path.read_bytes() == DATA
  asked = len(web.asked)
  assert fetch(HF_HUB_OFFLINE='1') == str(path) and len(web.asked) == asked
  (tmp_path / 'own.gz').write_text('mine')
  assert fetch() == str(tmp_path / 'own.gz') and len(web.asked) == asked


@pytest.mark.parametrize(
  'digest, size, message',
  [
    (web_lib.sha256(b'other'), len(DATA), 'its sha256 is not the published'),
    (web_lib.sha256(DATA), 99, 'file should be of size 99'),
  ],
)
def test_a_file_of_the_hub_that_is_not_the_published_one(
  hub, tmp_path, digest, size, message
):
  web, fetch = hub
  publish(web, digest, size)
  assert message in fetch()
  publish(web, web_lib.sha256(DATA), len(DATA))
  assert pathlib.Path(fetch()).read_bytes() == DATA  # nothing bad is kept


def test_a_gated_data_set_needs_a_token(hub):
  web, fetch = hub
  web.gated = 'Bearer hf_mine'
  assert 'is gated: accept its terms on the hub, then set HF_TOKEN' in fetch()
  assert pathlib.Path(fetch(HF_TOKEN='hf_mine')).read_bytes() == DATA


def test_what_the_hub_does_not_have(hub):
  _, fetch = hub
  for message in (fetch('b.gz'), fetch(HF_HUB_OFFLINE='1')):
    assert ('404' in message or 'offline' in message) and '\n' not in message
