"""Errors of a storage that may pass: retries, and which ones they are.

A network file system fails for seconds or minutes, and a full disk gets room
again. An action that can be repeated is tried several times. If that does not
help, a command exits with `EXIT_STORAGE`, which launchers restart.
"""

from collections.abc import Callable
import errno
import os
import time
from typing import TypeVar

from absl import logging

from instructrl.runtime.errors import StorageError

Found = TypeVar('Found')

EXIT_STORAGE = 74  # EX_IOERR of sysexits.h
REMEDY = 'the storage may recover: the same command goes on'
DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each further try

# The text of these errors also counts in errors of libraries without `errno`.
_NAMED = (
  errno.EIO,
  errno.ENOSPC,
  errno.ESTALE,
  errno.EDQUOT,
  errno.EREMOTEIO,
  errno.ENOTCONN,  # a mount whose FUSE process ended
)
_TRANSIENT = frozenset(
  (*_NAMED, errno.EAGAIN, errno.EBUSY, errno.ENOMEM, errno.ETIMEDOUT)
)


def transient(error: BaseException | None) -> str:
  """Returns the reason if an error, or its cause, may pass; else ''."""
  seen: set[int] = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    if isinstance(error, StorageError):
      return str(error)
    if isinstance(error, OSError):
      if error.errno in _TRANSIENT:
        return str(error)
    else:
      text = str(error)
      if any(os.strerror(number) in text for number in _NAMED):
        return ' '.join(text.split())[:300]
    hidden = error.__suppress_context__  # raised `from None`, or with a cause
    error = error.__cause__ if hidden else error.__context__
  return ''


def size(num_bytes: float) -> str:
  """Returns '1.5 GB', '20.0 MB' or '3.0 kB'."""
  for unit, name in ((1e9, 'GB'), (1e6, 'MB')):
    if num_bytes >= unit:
      return f'{num_bytes / unit:,.1f} {name}'
  return f'{num_bytes / 1e3:.1f} kB'


def retrying(action: Callable[[], Found], path) -> Found:
  """Calls an action that can be repeated, again if it fails transiently.

  Args:
    action: reads or replaces the file `path`.
    path: the file, for messages.

  Raises:
    OSError: it failed each time; the message has the path.
  """
  for delay in (*DELAYS, None):
    try:
      return action()
    except Exception as error:
      reason = transient(error)
      if reason and delay is not None:
        logging.warning('%s: %s; next try in %g s', path, reason, delay)
        time.sleep(delay)
      elif isinstance(error, OSError) and not error.filename and error.errno:
        raise OSError(error.errno, error.strerror, str(path)) from error
      else:
        raise
  raise AssertionError('unreachable')
