"""Downloads of public files: whole or not at all, resumed after a kill.

A file is fetched into `NAME.part` and renamed when it has the size, and the
checksum if there is one, that the server publishes: Content-Length anywhere,
the SHA-256 of a large file in X-Linked-ETag on the Hugging Face hub,
Content-MD5 on Azure. What a kill left is continued where the server still has
the same file (If-Range) and begun again otherwise. Proxies of the environment
are used.

Tried against a local server only, and with no file of a public source.
"""

import base64
from collections.abc import Iterator
import contextlib
import fcntl
import hashlib
import http.client
import json
import pathlib
import sys
import time
import urllib.error
import urllib.request

from instructrl.data.sources.files import SourceError
from instructrl.runtime import files
from instructrl.runtime import progress

_TIMEOUT = 60.0  # seconds without a byte
_TRIES = 3  # without a byte more
_PAUSE = 2.0  # seconds after the first failure
_BLOCK = 1 << 20
_AGENT = 'instructrl'


class DownloadError(SourceError):
  """A file that could not be fetched whole."""


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
  """Lets one process at a time write to a folder; a kill frees it."""
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / '.lock').open('w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(
        f'waiting for another process that prepares data in {folder}',
        file=sys.stderr,
        flush=True,
      )
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def fetch(url: str, path: pathlib.Path) -> pathlib.Path:
  """Downloads a file unless it is there.

  Args:
    url: where from.
    path: where to; a file that a user put there is taken as it is.

  Returns:
    The path.

  Raises:
    DownloadError: it cannot be had, or is not what the server says it is.
  """
  if path.is_file():
    return path
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(path.name + '.part')
  headers = _fetch_stubbornly(url, part)
  fault = _fault(part, headers)
  if fault:
    _forget(part)
    raise DownloadError(f'what came is not the whole file: {fault}')
  part.replace(path)
  _state(part).unlink(missing_ok=True)
  files.sync_folder(path.parent)
  return path


def _fetch_stubbornly(url, part) -> dict[str, str]:
  """Tries again after what may pass; tries that got further do not count."""
  failures, size = 0, 0
  while True:
    try:
      return _fetch_part(url, part)
    except urllib.error.HTTPError as error:
      reason = f'HTTP {error.code} {error.reason}'
      final = error.code < 500 and error.code not in (416, 429)
      cause = error
    except http.client.IncompleteRead as error:
      reason, final, cause = 'the connection was lost', False, error
    except (OSError, http.client.HTTPException) as error:
      reason, final = f'{getattr(error, "reason", None) or error}', False
      cause = error
    have = part.stat().st_size if part.is_file() else 0
    failures, size = 1 if have > size else failures + 1, max(have, size)
    if final or failures == _TRIES:
      raise DownloadError(reason) from cause
    time.sleep(_PAUSE * failures)


def _state(part):
  """Beside the part: the server's headers of the file that it belongs to."""
  return part.with_name(part.name + '.json')


def _forget(part):
  part.unlink(missing_ok=True)
  _state(part).unlink(missing_ok=True)


def _fetch_part(url, part) -> dict[str, str]:
  """Fetches what is missing of a part; returns what the server published."""
  known = {}
  if part.is_file() and _state(part).is_file():
    try:
      known = json.loads(_state(part).read_text('utf-8'))
    except ValueError:
      pass  # a kill while it was written: begin again
  have = part.stat().st_size if known.get('etag') else 0
  if have and str(have) == known.get('size'):
    return known  # killed before the rename
  asked = {'User-Agent': _AGENT, 'Accept-Encoding': 'identity'}
  if have:
    asked |= {'Range': f'bytes={have}-', 'If-Range': known['etag']}
  linked = _Redirects()
  opener = urllib.request.build_opener(linked)
  request = urllib.request.Request(url, headers=asked)
  try:
    response = opener.open(request, timeout=_TIMEOUT)
  except urllib.error.HTTPError as error:
    if error.code == 416:  # the file is another one now
      _forget(part)
    raise
  with response:
    resumed = response.status == 206
    if not resumed:
      have, known = 0, _published(linked.headers, response.headers)
      _forget(part)
      _state(part).write_text(json.dumps(known), 'utf-8')
    _save(response, part, have, known.get('size'))
  return known


class _Redirects(urllib.request.HTTPRedirectHandler):
  """Follows redirects, keeping what the hub says of the file it links to."""

  def __init__(self):
    self.headers = {}

  def redirect_request(self, req, fp, code, msg, headers, newurl):
    for name in ('X-Linked-ETag', 'X-Linked-Size'):
      if headers.get(name):
        self.headers[name] = headers[name]
    return super().redirect_request(req, fp, code, msg, headers, newurl)


def _published(linked, headers) -> dict[str, str]:
  """Size, checksums and version of the whole file, as far as told."""
  known = {}
  size = linked.get('X-Linked-Size') or headers.get('Content-Length')
  digest = (linked.get('X-Linked-ETag') or '').strip('W/"').lower()
  etag = headers.get('ETag') or ''
  if size:
    known['size'] = size
  if len(digest) == 64 and set(digest) <= set('0123456789abcdef'):
    known['sha256'] = digest
  if headers.get('Content-MD5'):
    known['md5'] = headers['Content-MD5']
  if etag and not etag.startswith('W/'):  # a weak one does not fit If-Range
    known['etag'] = etag
  return known


def _save(response, part, have, size):
  total = int(size) if size else 0
  show = progress.Progress(
    f'download {part.parent.name}/{part.name.removesuffix(".part")}',
    -(-total // _BLOCK) or 1,
    start=have // _BLOCK,
    unit='MiB',
    stream=sys.stderr,
  )
  with part.open('ab') as file, show as bar:
    while block := response.read(_BLOCK):
      file.write(block)
      have += len(block)
      bar.update(-(-have // _BLOCK))
  if total and have < total:  # the connection was closed early
    raise http.client.IncompleteRead(b'', total - have)


def _fault(part, known) -> str:
  """Compares a file with what the server published; '' if nothing is wrong."""
  size = part.stat().st_size
  if known.get('size') and size != int(known['size']):
    return f'{size:,} bytes of {int(known["size"]):,}'
  for name in ('sha256', 'md5'):
    if name in known:
      with part.open('rb') as file:
        digest = hashlib.file_digest(file, name)
      if known[name] not in (
        digest.hexdigest(),
        base64.b64encode(digest.digest()).decode(),
      ):
        return f'its {name} is not the published one'
  return ''
