"""The way out of a command: signals before its work begins, and its last line.

`instructrl/__init__.py` calls `at_start` in a program that is started as
`python -m instructrl.COMMAND`. Imports nothing that takes time.
"""

import importlib.util
import os
import pathlib
import signal
import sys
from typing import NoReturn

EXIT_WAITING = 77  # a run waits for people; see runtime/processes.py
EXIT_DIVERGED = 3  # a loss or another quantity is NaN or infinite

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STREAMS = {'stdin': 'r', 'stdout': 'w', 'stderr': 'w'}  # in order of number


class Waiting(Exception):
  """A run needs the work of people; the message names the work and its page."""


def at_start() -> None:
  """Prepares a program; SIGINT and SIGTERM now end it with one line, at once.

  An exception in the first seconds would be raised inside an import, which may
  turn it into another one. A signal that is ignored, as in a background job of
  a shell, stays ignored.
  """
  for number in _SIGNALS:
    if signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, end)
  _open_streams()


def _open_streams() -> None:
  """Opens /dev/null for each standard stream that the shell has closed.

  The next file would get the number of the stream, and with it what libraries
  print.
  """
  while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
    os.set_inheritable(descriptor, True)
  os.close(descriptor)
  for number, (name, mode) in enumerate(_STREAMS.items()):
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, mode, closefd=False))


def need_environment() -> None:
  """Ends the program if its Python lacks the packages; says what to do."""
  if importlib.util.find_spec('absl') is not None:
    return
  root = pathlib.Path(__file__).resolve().parents[2]
  remedy = f'source {root / ".venv/bin/activate"}'
  if not (root / '.venv').is_dir():
    remedy = f'bash {root / "scripts/env.sh"} && {remedy}'
  sys.exit(
    f'error: {sys.executable} lacks the packages of instructrl; run: {remedy}'
  )


def end(number, frame=None) -> NoReturn:
  """Ends the program at a signal, before its work begins."""
  del frame
  name = signal.Signals(number).name
  leave(128 + number, f'stopped by {name}; nothing was lost')


def before_work() -> bool:
  """Returns whether the work has not begun: `at_start`, and no `at_work`."""
  return signal.getsignal(signal.SIGINT) == end


def at_work() -> None:
  """Makes SIGINT raise KeyboardInterrupt, so that a run saves what it can."""
  if before_work():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore_signals() -> None:
  """Ignores signals at the end of a program, whose work is done."""
  for number in _SIGNALS:
    signal.signal(number, signal.SIG_IGN)


def leave(status: int, message: str = '') -> NoReturn:
  """Prints a last line and ends the program, whatever its threads do.

  The end of the interpreter would destroy what XLA computes with.
  """
  ignore_signals()
  for stream, text in ((sys.stdout, ''), (sys.stderr, message)):
    try:
      print(text, end='\n' if text else '', file=stream, flush=True)
    except (OSError, ValueError):  # a full disk, a closed stream
      status = status or 1
  os._exit(status)
