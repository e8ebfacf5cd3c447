"""Downloads of public files: whole or not at all.

Files of the Hugging Face hub come through `huggingface_hub` into its cache. Its
environment variables apply: HF_TOKEN for gated data sets, HF_ENDPOINT for a
mirror, HF_HUB_OFFLINE, HF_HOME. A file's SHA-256 is compared with the one that
the hub published.

Other files are fetched into `NAME.part` and renamed once they have the size,
and the MD5 if there is one, that the server published. A part that a kill left
is continued if the server still has the same file (If-Range).

Tested with a local server only, with no file of a public source.
"""

import base64
from collections.abc import Iterator
import contextlib
import fcntl
import hashlib
import http.client
import json
import pathlib
import re
import sys
import time
import urllib.error
import urllib.request

import huggingface_hub

from instructrl.data.sources.row_files import SourceError
from instructrl.runtime import files
from instructrl.runtime import progress

_HUB = re.compile(
  r'https://huggingface\.co/datasets/(\w[\w.-]*/[\w.-]+)/resolve/(\w+)/(.+)'
)
_TIMEOUT = 60.0  # seconds without a byte
_TRIES = 3  # without progress
_PAUSE = 2.0  # seconds after the first failure
_BLOCK = 1 << 20


class DownloadError(SourceError):
  """A file that could not be fetched whole."""


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
  """Lets one process at a time write to a folder; a kill frees the lock."""
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
    url: where the file is published.
    path: where a user may have put the file; a file there is used as it is.

  Returns:
    `path`, or for a file of the hub its path in the hub's cache.

  Raises:
    DownloadError: the file cannot be fetched, or is not as published.
  """
  if path.is_file():
    return path
  on_hub = _HUB.fullmatch(url)
  if on_hub:
    return _from_hub(*on_hub.groups())
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'{path.name}.part')
  published = _retrying(url, part)
  md5 = published.get('md5')
  if md5 and base64.b64decode(md5).hex() != _digest(part, 'md5'):
    _forget(part)
    raise DownloadError('its md5 is not the published one')
  part.replace(path)
  _state(part).unlink(missing_ok=True)
  files.sync_folder(path.parent)
  return path


# --- The hub -----------------------------------------------------------------


def _from_hub(repository: str, revision: str, name: str) -> pathlib.Path:
  options = dict(repo_type='dataset', library_name='instructrl')
  try:
    path = huggingface_hub.hf_hub_download(
      repository, name, revision=revision, **options
    )
  except huggingface_hub.errors.GatedRepoError as error:
    raise DownloadError(
      'the data set is gated: accept its terms on the hub, then set HF_TOKEN'
    ) from error
  except OSError as error:  # also what the hub answers, and no connection
    reason = error.__cause__ or error
    raise DownloadError(' '.join(str(reason).split())) from error
  # The cache names a large file by its published SHA-256.
  path = pathlib.Path(path)
  blob = path.resolve()
  if re.fullmatch('[0-9a-f]{64}', blob.name) and blob.name != _digest(blob):
    blob.unlink()
    raise DownloadError('its sha256 is not the published one')
  return path


def _digest(path: pathlib.Path, name: str = 'sha256') -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, name).hexdigest()


# --- Other hosts -------------------------------------------------------------


def _retrying(url: str, part: pathlib.Path) -> dict[str, str]:
  """Calls `_fetch_part` until it succeeds.

  Gives up after `_TRIES` failures in a row that fetched nothing.
  """
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


def _state(part: pathlib.Path) -> pathlib.Path:
  """Returns the path of what the server published of a part's whole file."""
  return part.with_name(f'{part.name}.json')


def _forget(part: pathlib.Path) -> None:
  part.unlink(missing_ok=True)
  _state(part).unlink(missing_ok=True)


def _fetch_part(url: str, part: pathlib.Path) -> dict[str, str]:
  """Fetches the missing bytes of a part; returns what the server published."""
  known = {}
  if part.is_file() and _state(part).is_file():
    try:
      known = json.loads(_state(part).read_text('utf-8'))
    except ValueError:
      pass  # a kill while the state was written: begin again
  have = part.stat().st_size if known.get('etag') else 0
  if have and str(have) == known.get('size'):
    return known  # killed before the rename
  asked = {'User-Agent': 'instructrl', 'Accept-Encoding': 'identity'}
  if have:
    asked |= {'Range': f'bytes={have}-', 'If-Range': known['etag']}
  request = urllib.request.Request(url, headers=asked)
  try:
    response = urllib.request.urlopen(request, timeout=_TIMEOUT)
  except urllib.error.HTTPError as error:
    if error.code == 416:  # the server has another file now
      _forget(part)
    raise
  with response:
    if response.status != 206:
      have, known = 0, _published(response.headers)
      _forget(part)
      _state(part).write_text(json.dumps(known), 'utf-8')
    _save(response, part, have, known.get('size'))
  return known


def _published(headers) -> dict[str, str]:
  """Returns the published size, MD5 and version of the whole file."""
  etag = headers.get('ETag', '')
  known = {
    'size': headers.get('Content-Length'),
    'md5': headers.get('Content-MD5'),
    'etag': etag * (not etag.startswith('W/')),  # If-Range needs a strong one
  }
  return {name: value for name, value in known.items() if value}


def _save(response, part: pathlib.Path, have: int, size: str | None) -> None:
  """Appends the response to the part, which has `have` bytes."""
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
