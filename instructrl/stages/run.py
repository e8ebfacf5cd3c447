"""A run folder and the loop in it.

A run folder is a function of its config. `Run` opens the folder: config.json,
metrics, checkpoints. `Run.loop` calls a step function from the newest
checkpoint to the end. A run that is killed and started again ends with the same
parameters and the same metrics.jsonl.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import os
import pathlib
import time
from typing import Any

import jax
import numpy as np

from instructrl.runtime import metrics
from instructrl.runtime import origins
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime import sharding
from instructrl.runtime import tracing
from instructrl.runtime.checkpointer import Checkpointer
from instructrl.runtime.progress import Progress
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import opening
from instructrl.stages.inputs import data_folder
from instructrl.stages.inputs import input_path
from instructrl.stages.inputs import paths
from instructrl.tokenizers import protocol
from instructrl.types import Params, TrainState

FORMAT_VERSION = 1


class Run:
  """An open run folder. Use as a context manager."""

  def __init__(self, config, workdir: str | os.PathLike, label: str = ''):
    self.config = config
    self.workdir = pathlib.Path(workdir)
    self.label = label  # shown before the stage's name
    self.primary = processes.primary()
    self.mesh = sharding.make_mesh(config.mesh.to_dict())
    self._exit = contextlib.ExitStack()

  def __enter__(self):
    self.workdir.mkdir(parents=True, exist_ok=True)
    if self.primary:
      run_folder.write_config(self.workdir, self.config.to_dict())
    self._exit.enter_context(jax.set_mesh(self.mesh))
    self.writer = self._exit.enter_context(
      metrics.RunWriter(
        self.workdir, primary=self.primary, trackers=self.config.log.trackers
      )
    )
    self.checkpointer = self._exit.enter_context(
      Checkpointer(
        self.workdir / 'checkpoints', keep_latest=self.config.checkpoint.keep
      )
    )
    return self

  def __exit__(self, *error):
    return self._exit.__exit__(*error)

  def input(self, name: str) -> pathlib.Path:
    """Returns the path of an input, by its key in `inputs.paths`."""
    return input_path(self.config, self.workdir, *self._field(name))

  def _field(self, name: str) -> tuple[str, str]:
    """Returns (name, group) of an input; see `inputs.paths`."""
    group, field = paths(self.config).get(name, ('inputs', name))
    return field, group

  @functools.cache
  def tokenizer(self) -> protocol.AnyTokenizer:
    """Returns the tokenizer of inputs.data.

    A copy is saved in the run folder, so that the folder can be moved; a copy
    that is damaged is replaced.
    """
    tok = data_folder(self).tokenizer()
    if self.primary:
      tok.save(self.workdir / tok.FILE)
    return tok

  def load_params(self, name: str, wanted: Params, model):
    """Loads what an input exports; see `opening.load_params`."""
    return opening.load_params(
      self.input(name),
      self.tokenizer(),
      wanted,
      name='.'.join(reversed(self._field(name))),
      model=model,
    )

  def rows(self, batch_size: int) -> np.ndarray:
    """Returns the indices of the rows of a batch that this process reads."""
    return sharding.process_rows(self.mesh, batch_size)

  def put(self, batch):
    """Puts this process's rows of a batch on the devices."""
    return sharding.put_batch(batch, self.mesh)

  def restore(
    self,
    make_state: Callable[..., TrainState],
    shardings,
    inputs: Sequence[Params] = (),
    load: Callable[[], Sequence[Params]] = tuple,
  ) -> TrainState:
    """Returns the newest checkpoint's state, or a fresh one.

    Lines of the run's files after that step are removed.

    Args:
      make_state: traceable; builds the state at step 0 from parameters that
        another stage trained.
      shardings: shardings of the state.
      inputs: abstract parameters that `make_state` takes.
      load: returns these parameters; not called if there is a checkpoint.
    """
    step = self.checkpointer.latest()
    if step is None:
      # Also remove the evaluation at step 0 of an earlier attempt.
      self.writer.trim(-1)
      return jax.jit(make_state, out_shardings=shardings)(*load())
    state, meta = self.checkpointer.restore(
      build.abstract(jax.eval_shape(make_state, *inputs), shardings), step
    )
    checks.require(
      meta['format_version'] == FORMAT_VERSION,
      f'{self.workdir}/checkpoints has format {meta["format_version"]}, '
      f'this code reads {FORMAT_VERSION}',
    )
    if self.primary:
      self._check_own(meta, step)
    self.writer.trim(step, meta.get('written'))
    return state

  def _check_own(self, meta, step: int) -> None:
    """Refuses a checkpoint that another run wrote."""
    config = self.config.to_dict()
    faults = run_folder.changed_fields(meta.get('config', config), config)
    made_from = origins.digest(self.workdir)
    if meta.get('made_from', made_from) != made_from:
      faults.append('it was made from other inputs')
    checks.require(
      not faults,
      f'{self.workdir}/checkpoints/{step:08d} is not a checkpoint of this run '
      f'({"; ".join(faults[:5])}): remove it, or restore the one of this run',
    )

  def meta(self, export: Sequence[str] = ('params',)) -> dict[str, Any]:
    """Returns the metadata of a checkpoint."""
    return {
      'format_version': FORMAT_VERSION,
      'config': self.config.to_dict(),
      'tokenizer': self.tokenizer().fingerprint,
      'export': list(export),
      'made_from': origins.digest(self.workdir),
    }

  def loop(
    self,
    state: TrainState,
    step_fn,
    num_steps: int,
    *,
    evaluate=None,
    eval_every: int = 0,
    evals: Sequence[tuple[int, Callable]] = (),
    save_every: int = 0,
    export: Sequence[str] = ('params',),
  ) -> TrainState:
    """Runs `step_fn` from `state.step` to `num_steps`.

    Metrics of step t are read after step t + 1 is dispatched. A checkpoint is
    taken only after the metrics up to its step were read and were finite.
    SIGTERM ends the run with a checkpoint after the step under way.

    Args:
      state: state to start from, fresh or restored.
      step_fn: (state, step) -> (state, metrics of device scalars).
      num_steps: steps of the whole run.
      evaluate: (state, step) -> dict of floats, written with that step.
      eval_every: steps between evaluations; 0 = never. The last step is always
        evaluated if `evaluate` is given.
      evals: (steps between, function like `evaluate`) of more evaluations, such
        as `evals.in_training`.
      save_every: steps between checkpoints; config.checkpoint.every by default.
      export: path in the state of the parameters that other runs load.

    Raises:
      processes.Stopped: SIGTERM came.
    """
    config, start = self.config, int(state.step)
    meta = self.meta(export)
    save_every = save_every or config.checkpoint.every
    step_fn = tracing.traced(step_fn, config.log.profile, self.workdir)
    evaluations = [(eval_every, evaluate)] if evaluate else []
    evaluations += evals
    shown = dict(start=start, label=self.label, primary=self.primary)

    with (
      Progress(config.stage, num_steps, **shown) as progress,
      processes.Watchdog(minimum=config.log.hang_seconds) as watchdog,
      processes.deferring_stop(),
    ):
      recorder = _Recorder(self, num_steps, progress, watchdog)
      if evaluations and start == 0:
        recorder.evaluate(state, 0, [fn for _, fn in evaluations])
      for step in range(start, num_steps):
        watchdog.phase('step')
        began = time.perf_counter()
        state, values = step_fn(state, step)
        done = step + 1
        recorder.record()
        recorder.pending = (done, values, began)
        last = done == num_steps
        stop = processes.stop_requested()
        due_evals = [
          fn for every, fn in evaluations if last or every and done % every == 0
        ]
        due_save = last or save_every and done % save_every == 0
        if due_evals or due_save or stop:
          recorder.record()
        if due_evals:
          recorder.evaluate(state, done, due_evals)
        if due_save or stop:
          watchdog.phase('checkpoint')
          self.writer.flush()
          meta['written'] = self.writer.written()
          save = self.checkpointer.save
          if last or stop:
            save = self.checkpointer.save_and_wait
          save(done, state, meta, temporary=not due_save)
        if stop:
          progress.message(f'SIGTERM: step {done} is saved')
          raise processes.Stopped
      watchdog.phase('checkpoint')
      self.checkpointer.wait()
    return state


class _Recorder:
  """Writes the metrics of a loop.

  Attributes:
    pending: (step, metrics on the devices, time at which the step began) of the
      newest step, until `record` reads and writes the metrics.
  """

  def __init__(self, run: Run, num_steps: int, progress, watchdog):
    self._run, self._num_steps = run, num_steps
    self._progress, self._watchdog = progress, watchdog
    self.pending = None

  def record(self) -> None:
    """Reads and writes the pending metrics, which must be finite."""
    if self.pending is None:
      return
    step, values, began = self.pending
    self.pending = None
    values = {k: float(v) for k, v in jax.device_get(values).items()}
    metrics.check_finite(step, values)
    if step % self._run.config.log.every == 0 or step == self._num_steps:
      self._run.writer.scalars(step, values)
      seconds = time.perf_counter() - began
      self._run.writer.timings(step, {'seconds': seconds})
    self._progress.update(step, values)

  def evaluate(self, state: TrainState, step: int, due) -> None:
    """Writes what the functions `due` measure after a step, in one line."""
    self._watchdog.phase('evaluation')
    values = {}
    for fn in due:
      values |= fn(state, step)
    metrics.check_finite(step, values)
    self._run.writer.scalars(step, values)
