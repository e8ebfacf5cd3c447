"""Downloads: whole or not at all, checked, and resumed."""

import json
import multiprocessing
import os
import signal
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
def test_checksums_of_both_hosts_are_compared(web, tmp_path, good):
  said = DATA if good else b'other'
  web.headers['/a.gz'] = {'Content-MD5': web_lib.md5(said)}
  web.redirects['/hub/a.gz'] = (
    '/b.gz',
    {
      'X-Linked-ETag': f'"{web_lib.sha256(said)}"',
      'X-Linked-Size': str(len(DATA)),
    },
  )
  web.files['/b.gz'] = DATA
  for url, name in (('/a.gz', 'md5'), ('/hub/a.gz', 'sha256')):
    path = tmp_path / name / 'a.gz'
    if good:
      downloads.fetch(web.address + url, path)
      assert path.read_bytes() == DATA
    else:
      with pytest.raises(downloads.DownloadError, match=f'its {name} is not'):
        downloads.fetch(web.address + url, path)
      assert not leftovers(path.parent)


def test_a_size_that_is_not_the_published_one(web, tmp_path):
  web.redirects['/hub/a.gz'] = ('/a.gz', {'X-Linked-Size': '99'})
  with pytest.raises(downloads.DownloadError, match='2,304,000 bytes of 99'):
    downloads.fetch(f'{web.address}/hub/a.gz', tmp_path / 'a.gz')


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
