"""Shared by all commands: flags, --help, one-line errors, exit statuses.

JAX and everything that imports it are imported inside functions: --help and a
mistake in the flags do not wait for them.
"""

from collections.abc import Callable, Sequence
import os
import pathlib
import re
import signal
import sys
import textwrap
import threading
import traceback

from absl import app
from absl import flags
from absl import logging

from instructrl.runtime import config_fields
from instructrl.runtime import exits
from instructrl.runtime import storage
from instructrl.runtime import typed
from instructrl.runtime.errors import EXPECTED_ERRORS
from instructrl.runtime.errors import NonFiniteError

_HELP = ('-h', '-help', '--help', '--helpshort')
# A field that only configs of one kind have -> the command that runs them.
_RUNS = {
  'plans': 'aot',
  'ends': 'sweep',
  'parts': 'sweep',
  'order': 'study',
  'stage': 'main',
}


def setup_output():
  r"""Writes characters that the output's encoding lacks in the form \xe9."""
  for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(errors='backslashreplace')


def setup_jax():
  """Tunes the memory's management, and caches compiled programs on disk.

  JAX's environment variables have priority. Results depend on neither.
  """
  import jax

  from instructrl.runtime import memory

  memory.keep_freed_memory()
  memory.collect_rarely()
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    cache = typed.path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
    jax.config.update(
      'jax_compilation_cache_dir', str(cache / 'instructrl' / 'jax')
    )
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def status_of(work: Callable[[], None]) -> int:
  """Runs a command without absl's flags; returns its exit status.

  An expected error becomes one line.
  """
  try:
    work()
  except BrokenPipeError:  # a reader such as `head` has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except Exception as error:
    status, message = _explained(error)
    print(message, file=sys.stderr)
    return status
  except KeyboardInterrupt:
    print('stopped', file=sys.stderr)
    return 128 + signal.SIGINT
  return 0


def _explained(error: Exception) -> tuple[int, str]:
  """Returns the exit status for an error, and what to print."""
  if isinstance(error, exits.Waiting):
    return exits.EXIT_WAITING, str(error)
  reason, expected = storage.transient(error), str(error)
  if not isinstance(error, EXPECTED_ERRORS):
    expected = reason
  message = '; '.join([f'error: {expected}', *getattr(error, '__notes__', ())])
  if reason:
    return storage.EXIT_STORAGE, f'{message}; {storage.REMEDY}'
  if expected:
    diverged = isinstance(error, NonFiniteError)
    return exits.EXIT_DIVERGED if diverged else 1, message
  return 1, ''.join(traceback.format_exception(error)).rstrip()


def run_door(main: Callable[..., None], arguments: Sequence[str] = ()):
  """Runs a command; an expected error becomes one line and exit status 1.

  Args:
    main: the command; it receives the positional arguments.
    arguments: the names of the positional arguments, for error messages.
  """

  setup_output()

  def guarded(argv):
    logging.set_verbosity(logging.WARNING)  # Orbax and TFDS log every step.
    # Errors in Orbax's threads are raised again, so their log is redundant.
    logging.get_absl_handler().addFilter(
      lambda record: 'orbax' not in pathlib.Path(record.pathname).parts
    )
    sys.unraisablehook = _unless_late
    given = argv[1:]
    if len(given) > len(arguments):
      sys.exit(f'error: unexpected argument {given[len(arguments)]!r}')
    if len(given) < len(arguments):
      sys.exit(
        f'error: {arguments[len(given)]} is missing; the arguments are '
        f'{" ".join(arguments)}'
      )
    _run_guarded(main, given)

  if 'config' in flags.FLAGS:
    flags.DEFINE_bool(
      'fields', False, 'Print all fields of the config, and run nothing.'
    )
  app.run(guarded, flags_parser=_parse_flags)


def _unless_late(unraisable) -> None:
  """Prints an exception, unless it is of the rest of a failed save.

  Orbax closes its event loop when a save fails. Threads that still write tell
  the loop that they have ended, and each prints a traceback.
  """
  error = unraisable.exc_value
  in_thread = threading.current_thread() is not threading.main_thread()
  late = type(error) is RuntimeError and str(error) == 'Event loop is closed'
  if not (in_thread and late):
    sys.__unraisablehook__(unraisable)


def _run_guarded(main: Callable[..., None], given: Sequence[str]):
  """Calls `main`, and turns what it raises into a message and a status."""
  import jax

  from instructrl.runtime import processes

  stopped = (
    'stopped; the same command resumes from the last checkpoint, or restarts '
    'the stage if it has none'
  )
  processes.handle_sigterm()
  try:
    main(*given)
    exits.ignore_signals()
  except processes.Stopped:
    _leave_together(processes.EXIT_STOPPED, stopped)
  except KeyboardInterrupt:
    exits.leave(128 + signal.SIGINT, stopped)
  except exits.Waiting as waiting:
    _leave_together(*_explained(waiting))
  except Exception as error:
    if jax.distributed.is_initialized() and processes.is_loss(error):
      exits.leave(
        processes.EXIT_LOST,
        f'error: another process was lost ({_last_line(error)[:200]}); the '
        'same command resumes from the last checkpoint',
      )
    if processes.sigterm_came():  # an import turned `Stopped` into this error
      exits.leave(processes.EXIT_STOPPED, stopped)
    exits.leave(*_explained(error))


def _leave_together(status: int, message: str):
  """Ends the program where all processes stop, for which JAX waits."""
  import jax

  if jax.distributed.is_initialized():
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)
  exits.leave(status, message)


def _parse_flags(argv):
  """Parses the flags and the config; prints --help; reports mistakes."""
  if any(argument in _HELP for argument in argv[1:]):
    print(_help())
    sys.exit(0)
  try:
    return flags.FLAGS(
      [re.sub('^(--?config=)(~.*)', _at_home, argument) for argument in argv]
    )
  except (
    flags.Error,
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
  ) as error:
    # ml_collections raises all of these: for an unknown field, a value of
    # another type, a missing config file, or an unknown size. The reason is the
    # last line, below the traceback of the config file.
    reason = _last_line(error)
    if "no attribute 'get_config" in str(error):
      reason = '--config: the file has no get_config(size)'
    elif isinstance(error, (AttributeError, KeyError)):
      found, _, similar = reason.partition(' Did you mean')
      reason = f'the config has no field {found}; ' + (
        f'did you mean{similar}'
        if similar
        else 'a flag changes a field that exists: add one in a Python file'
      )
    sys.exit(f'error: {reason.removeprefix("ValueError: ")}')


def _at_home(found: re.Match) -> str:
  """Returns --config=PATH with the home folder in place of its `~`."""
  return f'{found[1]}{typed.path(found[2])}'


def _help() -> str:
  """Returns the command's docstring and its flags."""
  lines = [(sys.modules['__main__'].__doc__ or '').strip(), '', 'Flags:']
  # absl names the main module by the path of the program.
  for module in (sys.argv[0], __name__):
    for flag in flags.FLAGS.get_flags_for_module(module):
      # The default of --config is a whole config: the docstring names its file.
      short = flag.default and isinstance(flag.default, (str, int, float))
      default = f' (default: {flag.default})' if short else ''
      text = ' '.join(f'--{flag.name}: {flag.help}{default}'.split())
      lines += textwrap.wrap(
        text, width=80, initial_indent='  ', subsequent_indent='      '
      )
  return '\n'.join(lines)


def _last_line(error: Exception) -> str:
  """Returns the reason at the end of a multi-line message, without quotes."""
  reason = str(error.args[0] if error.args else type(error).__name__)
  reason = _unquoted(reason.replace('\\n', '\n').replace('\\', ''))
  lines = [_unquoted(line.strip()) for line in reason.splitlines()]
  lines = [line for line in lines if line]
  return ' '.join(lines) if len(lines) < 3 else lines[-1]


def _unquoted(text: str) -> str:
  """Strips quotes around a text, and a quote at one end without its pair."""
  for quote in '\'"':
    if text.count(quote) % 2:
      text = text.strip(quote)
    elif text.count(quote) == 2 and text[0] == quote == text[-1]:
      text = text[1:-1]
  return text


def missing_file(error: OSError) -> str:
  """Returns ml_collections' error about a missing config file, as one line."""
  name = re.findall("'([^']+)'", str(error))
  if not name:
    return _last_line(error)
  return f'there is no file {name[-1]} in {os.getcwd()}'


def read_config(config_flag, kind: str, *fields: str):
  """Returns the config; exits with one line if --config is missing or wrong.

  Args:
    config_flag: the holder of --config.
    kind: what the config describes: 'stage', 'study', 'sweep' or 'plan'.
    *fields: every such config has one of these fields.
  """
  names = {'stage': 'ppo', 'sweep': 'ablations/kl_coef', 'plan': 'ppo_ptx'}
  size = '1.3b' if kind == 'plan' else 'tiny'
  example = f'experiments/{names.get(kind, kind)}.py:{size}'
  config = config_flag.value
  if config is None:
    sys.exit(
      f'error: --config is missing: give a {kind} of experiments/ and '
      f'its size, such as {example}'
    )
  try:
    fits = any(field in config for field in fields)
  except OSError as error:  # ml_collections', for a missing file
    sys.exit(
      f'error: --config: {missing_file(error)}; give one such as {example}'
    )
  if not fits:
    wanted = ' or '.join(map(repr, fields))
    runs = [name for field, name in _RUNS.items() if field in config]
    sys.exit(
      f'error: --config is not of a {kind}: it has no field {wanted}'
      + (f'; run it with python -m instructrl.{runs[0]}' if runs else '')
    )
  if flags.FLAGS.fields:
    path = flags.FLAGS['config'].config_filename
    path = path if os.path.isfile(path) else path.rpartition(':')[0]
    text = config_fields.render(config, path)
    sys.exit(status_of(lambda: print(text, flush=True)))
  return config


def read_flags(config_flag, workdir_flag, kind: str, *fields: str):
  """Returns (config, workdir); exits with one line if a flag is wrong.

  Args:
    config_flag: the holder of --config.
    workdir_flag: the holder of --workdir.
    kind: what the config describes, see `read_config`.
    *fields: every such config has one of these fields.
  """
  config = read_config(config_flag, kind, *fields)
  if not workdir_flag.value:
    sys.exit(f'error: --workdir is missing: give the folder of the {kind}')
  workdir = str(typed.path(workdir_flag.value))
  if os.path.exists(workdir) and not os.path.isdir(workdir):
    sys.exit(f'error: --workdir: {workdir} is a file; give a folder')
  return config, workdir


def define_processes() -> Callable[[], None]:
  """Defines the flags of several processes; returns the function that joins."""
  coordinator = flags.DEFINE_string(
    'coordinator',
    '',
    "of process 0, HOST:PORT or 'auto' (docs/distributed.md).",
  )
  number = flags.DEFINE_integer(
    'num_processes', 0, 'their number, with --coordinator.'
  )
  own = flags.DEFINE_integer('process_id', -1, 'of this process, from 0.')

  def join():
    from instructrl.runtime import processes

    processes.initialize(coordinator.value, number.value, own.value)

  return join
