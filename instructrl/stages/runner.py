"""Runs one stage in its folder."""

import contextlib
import pathlib
import time

from instructrl.runtime import errors
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
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


def run_stage(config, workdir, label: str = '') -> dict:
  """Runs a stage to its end, unless it is finished.

  Returns:
    The contents of the DONE file: 'seconds' and 'result'.

  Raises:
    ValueError: the folder has another configuration, or was made from inputs
      that have changed since.
  """
  if processes.stop_requested():
    raise processes.Stopped
  workdir = pathlib.Path(workdir)
  config = registry.resolve(config, workdir)
  fresh = not (workdir / run_folder.CONFIG).exists()
  run_folder.check_config(workdir, config.to_dict())
  done = run_folder.read_done(workdir)
  if done is None:
    registry.validate(config)
    registry.check_mesh(config)
  primary = processes.primary()
  if primary:
    run_folder.write_inputs(
      workdir,
      {
        key: inputs.input_path(config, workdir, name, group)
        for key, (group, name) in inputs.paths(config).items()
      },
    )
  with alone(workdir) if done is None else contextlib.nullcontext():
    done = run_folder.read_done(workdir)  # another process may have finished it
    if processes.agree(done is not None):
      if primary:
        run_folder.write_config(workdir, config.to_dict())
        print(f'{label} {config.stage}: finished before'.strip(), flush=True)
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
        for name in (run_folder.CONFIG, run_folder.INPUTS):
          (workdir / name).unlink(missing_ok=True)
      raise
    finally:
      total = seconds + time.perf_counter() - began
      if primary and workdir.is_dir():
        files.atomic_write(workdir / 'seconds', f'{total:.3f}\n')
    if primary:
      run_folder.write_done(workdir, {'seconds': total, 'result': result})
  processes.agree(0)  # the next stage reads what process 0 has written
  return run_folder.read_done(workdir)


def alone(workdir):
  """Locks a run folder in process 0, for all processes."""
  return run_folder.only_process(workdir, primary=processes.primary())


def _earlier_seconds(workdir) -> float:
  """Returns the seconds that earlier attempts took, as far as recorded."""
  path = pathlib.Path(workdir) / 'seconds'
  if not path.exists():
    return 0.0
  try:
    return float(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}') from error
