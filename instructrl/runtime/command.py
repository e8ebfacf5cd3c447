"""What all commands share: flags, errors in one line, exit statuses."""

from collections.abc import Callable, Sequence
import os
import pathlib
import re
import signal
import sys
import traceback

from absl import app
from absl import flags
from absl import logging
import jax

from instructrl.runtime import checkpoint
from instructrl.runtime import memory
from instructrl.runtime import metrics
from instructrl.runtime import processes

# Raised with one clear line; anything else is a defect and keeps its trace.
EXPECTED_ERRORS = (
  ValueError,
  checkpoint.CheckpointError,
  metrics.NonFiniteError,
  OSError,
)


def setup_jax():
  """Prepares the process: memory, and a cache of compiled programs on disk.

  Results do not depend on either.
  """
  memory.keep_freed_memory()
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    cache = (
      pathlib.Path(
        os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
      )
      / 'instructrl'
      / 'jax'
    )
    jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def run_door(main: Callable[..., None], arguments: Sequence[str] = ()):
  """Runs a command: expected errors become one line and exit status 1.

  Args:
    main: is given the arguments that are no flags.
    arguments: what they are called, for the message where one is missing.
  """

  def guarded(argv):
    logging.set_verbosity(logging.WARNING)  # Orbax and TFDS tell every step.
    # What Orbax's threads fail at is raised too, as one line.
    logging.get_absl_handler().addFilter(
      lambda record: 'orbax' not in pathlib.Path(record.pathname).parts
    )
    given = argv[1:]
    if len(given) > len(arguments):
      sys.exit(f'error: unexpected argument {given[len(arguments)]!r}')
    if len(given) < len(arguments):
      sys.exit(
        f'error: {arguments[len(given)]} is missing; the arguments are '
        f'{" ".join(arguments)}'
      )
    processes.handle_sigterm()
    try:
      main(*given)
    except KeyboardInterrupt as stop:
      _leave(
        processes.EXIT_STOPPED
        if isinstance(stop, processes.Stopped)
        else 128 + signal.SIGINT,
        'stopped; the same command goes on from the last checkpoint, or '
        'begins the stage again if it has none',
      )
    except Exception as error:
      several = jax.distributed.is_initialized()
      if several and processes.is_loss(error):
        _leave(
          processes.EXIT_LOST,
          f'error: another process was lost '
          f'({_last_line(error)[:200]}); the same command goes on from '
          'the last checkpoint',
        )
      if isinstance(error, EXPECTED_ERRORS):
        _leave(1, f'error: {error}')
      if not several:
        raise
      traceback.print_exc()
      _leave(1, 'error: see above')

  app.run(guarded, flags_parser=_parse_flags)


def _leave(status: int, message: str):
  """Ends the program; one of several processes does not wait for the others,
  which may wait for it, except where all of them stop.
  """
  print(message, file=sys.stderr, flush=True)
  if status != processes.EXIT_STOPPED and jax.distributed.is_initialized():
    sys.stdout.flush()
    os._exit(status)
  sys.exit(status)


def _parse_flags(argv):
  """Reads the flags and the config; a mistake in them is one line."""
  try:
    return flags.FLAGS(argv)
  except (
    flags.Error,
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
  ) as error:
    # What ml_collections raises for an unknown field, a value of another
    # type, a config file that is not there, or a size it does not know; the
    # reason is the last line, under the trace of the config file.
    reason = _last_line(error)
    if "no attribute 'get_config" in str(error):
      reason = '--config: the file has no get_config(size)'
    elif isinstance(error, (AttributeError, KeyError)):
      reason = f'the config has no field {reason}'.replace(
        ' Did you mean', '; did you mean'
      )
    sys.exit(f'error: {reason.removeprefix("ValueError: ")}')


def _last_line(error: Exception) -> str:
  """The reason at the end of a message that spans lines, without its quotes."""
  reason = str(error.args[0] if error.args else type(error).__name__)
  reason = reason.replace('\\n', '\n').replace('\\', '').strip('\'"')
  lines = [line.strip(" '") for line in reason.splitlines() if line.strip()]
  return ' '.join(lines) if len(lines) < 3 else lines[-1]


def missing_file(error: OSError) -> str:
  """What ml_collections says of a config file that is not there, in a line."""
  name = re.findall("'([^']+)'", str(error))
  return (
    f'there is no file {name[-1]} in {os.getcwd()}'
    if name
    else _last_line(error)
  )


def read_flags(config_flag, workdir_flag, kind: str, field: str):
  """(config, workdir), or one line that says which flag is missing or wrong.

  Args:
    config_flag: holder of --config.
    workdir_flag: holder of --workdir.
    kind: what the config should be of, for the message.
    field: a field that such a config has.
  """
  names = {'stage': 'ppo', 'sweep': 'ablations/kl_coef'}
  example = f'experiments/{names.get(kind, kind)}.py:tiny'
  config, workdir = config_flag.value, workdir_flag.value
  if config is None:
    sys.exit(
      f'error: --config is missing: give a {kind} of experiments/ and '
      f'its size, such as {example}'
    )
  try:
    fits = field in config
  except OSError as error:  # ml_collections', for a file that is not there
    sys.exit(
      f'error: --config: {missing_file(error)}; give one such as {example}'
    )
  if not fits:
    sys.exit(f'error: --config is not of a {kind}: it has no field {field!r}')
  if not workdir:
    sys.exit(f'error: --workdir is missing: say where the {kind} goes')
  if os.path.exists(workdir) and not os.path.isdir(workdir):
    sys.exit(
      f'error: --workdir: {workdir} is in the way: a directory is needed there'
    )
  return config, workdir


def define_processes() -> Callable[[], None]:
  """Defines the flags of several processes; returns what makes them one."""
  coordinator = flags.DEFINE_string(
    'coordinator',
    '',
    'HOST:PORT of process 0, in all of several processes; '
    "'auto' on a cluster that JAX knows. Not needed on TPU VMs.",
  )
  number = flags.DEFINE_integer(
    'num_processes', 0, 'How many processes there are, with --coordinator.'
  )
  own = flags.DEFINE_integer('process_id', -1, 'Which of them this is, from 0.')
  return lambda: processes.initialize(
    coordinator.value, number.value, own.value
  )
