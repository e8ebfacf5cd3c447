r"""Runs one stage.

  python -m instructrl.main --config=experiments/ppo.py:tiny --workdir=DIR \
      --config.ppo.kl_coef=0.05

A stage that is finished (its folder has DONE) is not run again; one that was
interrupted goes on where its newest checkpoint stands.

On several machines the same command is started on each: on TPU VMs as it is,
elsewhere with --coordinator=HOST:PORT --num_processes=N --process_id=I (see
`processes`, also for the exit statuses).
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import os
import pathlib
import re
import signal
import sys
import time
import traceback

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import config_flags
import numpy as np

from instructrl.runtime import checkpoint
from instructrl.runtime import files
from instructrl.runtime import metrics
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime import sharding
from instructrl.trainers import common
from instructrl.trainers import data
from instructrl.trainers import evaluation
from instructrl.trainers import exporting
from instructrl.trainers import heldout
from instructrl.trainers import importing
from instructrl.trainers import lab
from instructrl.trainers import lm
from instructrl.trainers import ppo
from instructrl.trainers import rankings
from instructrl.trainers import reward
from instructrl.trainers import selection





















































































def _train_ppo(config, workdir, label=''):
  """PPO, with the lab's judge on the curves where there is a lab."""
  folder = common.input_path(config, workdir, 'data')
  if not lab.is_lab(folder):
    return ppo.train(config, workdir, label)
  judge = lab.make_judge(folder)

  def utilities(prompts, responses):
    return np.asarray([judge.utility(p, r)
                       for p, r in zip(prompts, responses)])

  return ppo.train(config, workdir, label, judge=utilities)


def _build(build):
  """What is text, not arrays, process 0 makes, and the others wait."""
  def run(config, workdir, label=''):
    return build(config, workdir, label) if processes.primary() else {}
  return run


# Stage -> (validate, run). `run(config, workdir, label)` returns the result.
STAGES: dict[str, tuple[Callable, Callable]] = {
    'import': (importing.validate, importing.run),
    'lab': (lab.validate, _build(lab.build)),
    'data': (data.validate, _build(data.build)),
    'pretrain': (lm.validate, lm.train),
    'sft': (lm.validate, lm.train),
    'ppo_init': (lm.validate, lm.train),
    'rankings': (rankings.validate, rankings.collect),
    'reward': (reward.validate, reward.train),
    'select_sft': (selection.validate, selection.select),
    'ppo': (ppo.validate, _train_ppo),
    'ppo_ptx': (ppo.validate, _train_ppo),
    'evaluation': (evaluation.validate, evaluation.evaluate),
    'heldout': (heldout.validate, heldout.evaluate),
    'export': (exporting.validate, exporting.run),
}

# Raised with one clear line; anything else is a defect and keeps its trace.
EXPECTED_ERRORS = (ValueError, checkpoint.CheckpointError,
                   metrics.NonFiniteError, OSError)


def validate(config):
  """Refuses a stage's config by field name, before anything is computed.

  One whose architecture is an input's is looked at when that is known.
  """
  common.require(config.stage in STAGES,
                 f'stage={config.stage!r} is none of {", ".join(STAGES)}')
  if common.resolved(config):
    STAGES[config.stage][0](config)


def resolve(config, workdir, known=None):
  """A stage's config with what its inputs or its source say filled in.

  Args:
    config: of the stage.
    workdir: of the stage.
    known: see `common.resolve`.
  """
  if config.stage == importing.STAGE:
    return importing.resolve(config, workdir)
  return common.resolve(config, workdir, known)


def check_mesh(config) -> None:
  """Refuses a mesh or a batch that the devices here do not fit."""
  if config.get('mesh') is None:
    return
  try:
    mesh = sharding.make_mesh(config.mesh.to_dict())
  except ValueError as error:
    raise common.ConfigError(f'{config.stage}: {error}') from error
  for where, c in (('', config), ('ppo.', config.get('ppo', {}))):
    for field in ('batch_size', 'eval_batch_size'):
      if field in c:
        try:
          sharding.process_rows(mesh, c[field])
        except ValueError as error:
          raise common.ConfigError(
              f'{config.stage}: {where}{field}: {error}') from error


def check_sources(config) -> None:
  """Refuses a stage whose files, brought by the user, are not there."""
  if config.stage == 'data':
    try:
      data.check_paths(config)
    except ValueError as error:
      raise common.ConfigError(f'{config.stage}: {error}') from error


def check_same(config) -> None:
  """Refuses processes that were given different configs."""
  if not processes.same(config.to_json()):
    raise common.ConfigError(
        'the processes were not given the same config: start the same command '
        'in each, but for its --process_id')


def run_stage(config, workdir, label: str = '') -> dict:
  """Runs a stage to its end, or returns what its DONE file says.

  Raises:
    ValueError: the folder is of another configuration, or was made from inputs
      that have since been made anew.
  """
  if processes.stop_requested():
    raise processes.Stopped
  workdir = pathlib.Path(workdir)
  config = resolve(config, workdir)
  fresh = not (workdir / run_folder.CONFIG).exists()
  run_folder.check_config(workdir, config.to_dict())
  done = run_folder.read_done(workdir)
  if done is None:
    validate(config)
    check_mesh(config)
  primary = processes.primary()
  if primary:
    run_folder.write_inputs(workdir, {
        name: common.input_path(config, workdir, name)
        for name, path in config.inputs.items() if path})
  with alone(workdir) if done is None else contextlib.nullcontext():
    done = run_folder.read_done(workdir)  # another may have ended it
    if processes.agree(done is not None):
      if primary:
        run_folder.write_config(workdir, config.to_dict())
        print(f'{label} {config.stage}: finished before'.strip(), flush=True)
      return run_folder.read_done(workdir)
    began = time.perf_counter()
    seconds = _earlier_seconds(workdir)
    try:
      result = STAGES[config.stage][1](config, workdir, label)
    except (common.ConfigError, checkpoint.CheckpointError):
      if (primary and fresh
          and not any((workdir / 'checkpoints').glob('[0-9]*'))):
        # Nothing was computed, and another config may come.
        for name in (run_folder.CONFIG, run_folder.INPUTS):
          (workdir / name).unlink(missing_ok=True)
      raise
    finally:
      total = seconds + time.perf_counter() - began
      if primary and workdir.is_dir():
        files.atomic_write(workdir / 'seconds', f'{total:.3f}\n')
    if primary:
      run_folder.write_done(workdir, {'seconds': total, 'result': result})
  processes.agree(0)  # what comes next reads what process 0 has written
  return run_folder.read_done(workdir)


def alone(workdir):
  """`metrics.only_process` for process 0, on behalf of them all."""
  return run_folder.only_process(workdir, primary=processes.primary())


def _earlier_seconds(workdir) -> float:
  """Time spent before an interruption that let the process say so."""
  path = pathlib.Path(workdir) / 'seconds'
  if not path.exists():
    return 0.0
  try:
    return float(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}') from error


def setup_jax():
  """Compiled programs are kept between runs; results do not depend on it."""
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or
                         pathlib.Path.home() / '.cache') / 'instructrl' / 'jax'
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
        lambda record: 'orbax' not in pathlib.Path(record.pathname).parts)
    given = argv[1:]
    if len(given) > len(arguments):
      sys.exit(f'error: unexpected argument {given[len(arguments)]!r}')
    if len(given) < len(arguments):
      sys.exit(f'error: {arguments[len(given)]} is missing; the arguments are '
               f'{" ".join(arguments)}')
    processes.handle_sigterm()
    try:
      main(*given)
    except KeyboardInterrupt as stop:
      _leave(processes.EXIT_STOPPED if isinstance(stop, processes.Stopped)
             else 128 + signal.SIGINT,
             'stopped; the same command goes on from the last checkpoint, or '
             'begins the stage again if it has none')
    except Exception as error:
      several = jax.distributed.is_initialized()
      if several and processes.is_loss(error):
        _leave(processes.EXIT_LOST, f'error: another process was lost '
               f'({_last_line(error)[:200]}); the same command goes on from '
               'the last checkpoint')
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
  except (flags.Error, AttributeError, ImportError, KeyError, OSError,
          TypeError, ValueError) as error:
    # What ml_collections raises for an unknown field, a value of another
    # type, a config file that is not there, or a size it does not know; the
    # reason is the last line, under the trace of the config file.
    reason = _last_line(error)
    if "no attribute 'get_config" in str(error):
      reason = '--config: the file has no get_config(size)'
    elif isinstance(error, (AttributeError, KeyError)):
      reason = f'the config has no field {reason}'.replace(
          ' Did you mean', '; did you mean')
    sys.exit(f'error: {reason.removeprefix("ValueError: ")}')


def _last_line(error: Exception) -> str:
  """The reason at the end of a message that spans lines, without its quotes."""
  reason = str(error.args[0] if error.args else type(error).__name__)
  reason = reason.replace('\\n', '\n').replace('\\', '').strip('\'"')
  lines = [line.strip(' \'') for line in reason.splitlines() if line.strip()]
  return ' '.join(lines) if len(lines) < 3 else lines[-1]


def missing_file(error: OSError) -> str:
  """What ml_collections says of a config file that is not there, in a line."""
  name = re.findall("'([^']+)'", str(error))
  return (f'there is no file {name[-1]} in {os.getcwd()}' if name
          else _last_line(error))


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
    sys.exit(f'error: --config is missing: give a {kind} of experiments/ and '
             f'its size, such as {example}')
  try:
    fits = field in config
  except OSError as error:  # ml_collections', for a file that is not there
    sys.exit(f'error: --config: {missing_file(error)}; give one such as '
             f'{example}')
  if not fits:
    sys.exit(f'error: --config is not of a {kind}: it has no field {field!r}')
  if not workdir:
    sys.exit(f'error: --workdir is missing: say where the {kind} goes')
  if os.path.exists(workdir) and not os.path.isdir(workdir):
    sys.exit(f'error: --workdir: {workdir} is in the way: a directory is '
             'needed there')
  return config, workdir


def define_processes() -> Callable[[], None]:
  """Defines the flags of several processes; returns what makes them one."""
  coordinator = flags.DEFINE_string(
      'coordinator', '', 'HOST:PORT of process 0, in all of several processes; '
      "'auto' on a cluster that JAX knows. Not needed on TPU VMs.")
  number = flags.DEFINE_integer(
      'num_processes', 0, 'How many processes there are, with --coordinator.')
  own = flags.DEFINE_integer(
      'process_id', -1, 'Which of them this is, from 0.')
  return lambda: processes.initialize(
      coordinator.value, number.value, own.value)


def _main(config_flag, workdir_flag, join):
  config, workdir = read_flags(config_flag, workdir_flag, 'stage', 'stage')
  setup_jax()
  join()
  check_same(config)
  result = run_stage(config, workdir)['result']
  figures = [f'{name}={value:,}' if isinstance(value, int) else
             f'{name}={value:.4g}' for name, value in result.items()
             if isinstance(value, (int, float))]
  if processes.primary():
    print(f'{workdir}: {"  ".join(figures)}', flush=True)


if __name__ == '__main__':
  run_door(functools.partial(
      _main,
      config_flags.DEFINE_config_file(
          'config', None, 'A stage of experiments/ and its size, '
          'such as experiments/ppo.py:tiny.'),
      flags.DEFINE_string('workdir', None, 'The run folder.'),
      define_processes()))
