"""Runs one stage in its folder."""

import contextlib
import math
import pathlib
import time

from absl import logging

from instructrl.evaluators import evaluator
from instructrl.rewards.function import FunctionReward
from instructrl.runtime import errors
from instructrl.runtime import files
from instructrl.runtime import origins
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime import storage
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import registry


def check_same(config) -> None:
  """Raises a ConfigError if the processes have different configs."""
  if not processes.same(config.to_json()):
    raise checks.ConfigError(
      'the processes were not given the same config: start the same command '
      'in each, with its own --process_id'
    )


def user_code(config) -> dict[str, str]:
  """Returns the fingerprints of the user's Python code that a stage calls.

  Returns:
    {'rewards.NAME' or 'evals.NAME': hash of the source}.

  Raises:
    ConfigError: the code cannot be imported.
  """
  found = {
    f'rewards.{name}': FunctionReward(name, term['function']).identity
    for name, term in config.get('rewards', {}).items()
    if term.get('kind') == 'function' and term.get('weight', 1)
  }
  for name, fields in config.get('evals', {}).items():
    found[f'evals.{name}'] = evaluator.identity(fields.get('type', ''))
  return {name: identity for name, identity in found.items() if identity}


def check_inputs(config, workdir) -> None:
  """Records what a stage is made from; on a later start, compares it.

  A finished stage may have lost its inputs, which is logged.

  Raises:
    ConfigError: an input does not exist or is not finished.
    ValueError: see `origins.check`.
  """
  finished = run_folder.read_done(workdir) is not None

  def lost(error):
    if not finished:
      raise error
    files.warn_once(f'{workdir} is finished, but lost an input: {error}')

  found, code = {}, {}
  for key, (group, name) in inputs.paths(config).items():
    try:
      found[key] = inputs.input_path(config, workdir, name, group)
    except checks.ConfigError as error:
      lost(error)
  try:
    code = user_code(config)
  except checks.ConfigError as error:
    lost(error)
  sources = registry.sources(config)
  origins.check(workdir, found, sources=sources, code=code)


def run_stage(config, workdir, label: str = '') -> dict:
  """Runs a stage to its end, unless it is finished.

  Returns:
    The contents of the DONE file: 'seconds' and 'result'.

  Raises:
    ValueError: the folder has another configuration, or was made from inputs
      that have changed since, or its files have changed since it finished.
  """
  if processes.stop_requested():
    raise processes.Stopped
  try:
    return _run_stage(config, pathlib.Path(workdir), label)
  except Exception as error:
    if storage.transient(error) and str(workdir) not in str(error):
      error.add_note(f'the run folder is {workdir}')
    raise


def _run_stage(config, workdir: pathlib.Path, label: str) -> dict:
  config = registry.resolve(config, workdir)
  fresh = not (workdir / run_folder.CONFIG).exists()
  run_folder.check_config(workdir, config.to_dict())
  done = run_folder.read_done(workdir)
  if done is None:
    registry.validate(config)
    registry.check_mesh(config)
  primary = processes.primary()
  if primary:
    check_inputs(config, workdir)
  with alone(workdir) if done is None else contextlib.nullcontext():
    done = run_folder.read_done(workdir)  # another process may have finished it
    if processes.agree(done is not None):
      if primary:
        missing = run_folder.check_files(workdir, may_miss=True, by_date=True)
        for text in missing:
          files.warn_once(f'{workdir} is finished, but {text}')
        run_folder.write_config(workdir, config.to_dict())
        print(f'{label or config.stage}: finished before', flush=True)
      return run_folder.read_done(workdir)
    began = time.perf_counter()
    seconds = _earlier_seconds(workdir)
    try:
      result = registry.load(config.stage).run(config, workdir, label)
    except (checks.ConfigError, errors.CheckpointError):
      if (
        primary and fresh and not any((workdir / 'checkpoints').glob('[0-9]*'))
      ):
        # Nothing was computed: leave the folder to another config.
        for name in (run_folder.CONFIG, origins.INPUTS):
          (workdir / name).unlink(missing_ok=True)
      raise
    finally:
      total = seconds + time.perf_counter() - began
      if primary and workdir.is_dir():
        _write_seconds(workdir, total)
    if primary:
      run_folder.write_done(workdir, {'seconds': total, 'result': result})
  processes.agree(0)  # the next stage reads what process 0 has written
  return run_folder.read_done(workdir)


def alone(workdir):
  """Locks a run folder in process 0, for all processes."""
  return run_folder.only_process(workdir, primary=processes.primary())


def _write_seconds(workdir: pathlib.Path, total: float) -> None:
  try:
    files.atomic_write(workdir / 'seconds', f'{total:.3f}\n')
  except OSError as error:  # must not replace the error that ended the stage
    logging.warning('the seconds so far are not recorded: %s', error)


def _earlier_seconds(workdir) -> float:
  """Returns the seconds that earlier attempts took, as far as recorded."""
  path = pathlib.Path(workdir) / 'seconds'
  if not path.exists():
    return 0.0
  with files.named(path):
    seconds = float(files.read_text(path))
    checks.require(math.isfinite(seconds), f'{seconds} is not finite')
  return seconds
