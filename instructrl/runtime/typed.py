r"""Reads paths and texts as a user types them in flags, configs and specs.

A shell leaves `~` behind `=` and `\n` in quotes as they are.
"""

import os
import pathlib
import re
import sys

_ESCAPES = {'n': '\n', 't': '\t', '\\': '\\'}


def path(value: str | os.PathLike) -> pathlib.Path:
  """Returns a path; `~` or `~USER` at its start becomes a home folder.

  Raises:
    ValueError: there is no such user, or the path is not UTF-8, which libraries
      need.
  """
  given = os.fspath(value)
  found = os.path.expanduser(given)
  first = found.split(os.sep)[0]
  if first.startswith('~') and not os.path.lexists(first):
    raise ValueError(
      f'{given}: there is no home folder {first}; for a file of this name '
      f'write ./{given}'
    )
  try:
    os.path.abspath(found).encode()
  except UnicodeEncodeError as error:
    encoding = sys.getfilesystemencoding()
    remedy = (
      'rename it'
      if encoding == 'utf-8'
      else f'Python reads names as {encoding}: set PYTHONUTF8=1'
    )
    raise ValueError(
      f'{ascii(os.path.abspath(found))} is not a path in UTF-8: {remedy}'
    ) from error
  return pathlib.Path(found)


def text(value: str) -> str:
  r"""Returns a text; \n, \t and \\ in it become a newline, a tab and \.

  Bytes that Python could not read in the locale are read as UTF-8.
  """
  data = value.encode('utf-8', 'surrogateescape')
  value = data.decode('utf-8', 'surrogateescape')
  return re.sub(r'\\([nt\\])', lambda found: _ESCAPES[found[1]], value)
