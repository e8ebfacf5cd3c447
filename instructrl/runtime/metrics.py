"""What a run writes as it goes: metrics, timings and samples."""

from collections.abc import Mapping
import json
import math
import os
import pathlib
from typing import Any

from instructrl.runtime import files

METRICS, TIMINGS, SAMPLES = 'metrics.jsonl', 'timings.jsonl', 'samples.jsonl'


class NonFiniteError(ArithmeticError):
  """A loss, reward or other quantity is NaN or infinite."""


def check_finite(step: int, metrics: Mapping[str, Any]) -> None:
  """Raises NonFiniteError naming the step and each quantity not finite."""
  bad = [
    f'{name} is {float(value)}'
    for name, value in metrics.items()
    if not math.isfinite(value)
  ]
  if bad:
    raise NonFiniteError(f'step {step}: {", ".join(bad)}')


class RunWriter:
  """Appends to the files of a run's folder.

  Each line is handed to the operating system at once, so a killed process
  loses nothing; `flush` also makes the lines survive a power cut.
  """

  def __init__(
    self, workdir, *, primary: bool = True, tensorboard: bool = False
  ):
    """Opens the files, and removes a last line that was cut off.

    Args:
      workdir: the run's folder, created if need be.
      primary: whether this process writes; the others' calls do nothing.
      tensorboard: also write the scalars as TensorBoard events.
    """
    self._workdir = pathlib.Path(workdir)
    self._primary = primary
    self._tensorboard = tensorboard and primary
    self._events = None
    self._purge_step = None
    self._files = {}
    if primary:
      self._workdir.mkdir(parents=True, exist_ok=True)
      for name in (METRICS, TIMINGS, SAMPLES):
        _drop_torn_line(self._workdir / name)
        self._open(name)

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends one line of floats to metrics.jsonl.

    Raises:
      NonFiniteError: a value is not finite; nothing is written.
    """
    values = {name: float(value) for name, value in values.items()}
    check_finite(step, values)
    self._append(METRICS, step, values)
    if self._tensorboard:
      for name, value in values.items():
        self._event_writer().add_scalar(name, value, step)

  def timings(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends one line of seconds or rates to timings.jsonl."""
    values = {name: round(float(value), 6) for name, value in values.items()}
    self._append(TIMINGS, step, values)

  def sample(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends one evaluated sample, any JSON, to samples.jsonl."""
    self._append(SAMPLES, step, values)

  def trim(self, step: int) -> None:
    """Drops metrics and samples past `step`, before a run goes on from there.

    Raises:
      ValueError: a line other than a torn last one is not JSON.
    """
    if not self._primary:
      return
    for name in (METRICS, SAMPLES):
      path = self._workdir / name
      lines = path.read_text(encoding='utf-8').split('\n')[:-1]
      records = _parse(lines, path)
      kept = [
        line
        for line, record in zip(lines, records, strict=True)
        if record['step'] <= step
      ]
      if len(kept) < len(lines):
        self._files.pop(name).close()
        files.atomic_write(path, ''.join(f'{line}\n' for line in kept))
        self._open(name)
    self._purge_step = step + 1

  def flush(self) -> None:
    """Makes all lines durable; call it before a checkpoint is committed."""
    for file in self._files.values():
      os.fsync(file.fileno())
    if self._events is not None:
      self._events.flush()

  def close(self) -> None:
    self.flush()
    for file in self._files.values():
      file.close()
    self._files = {}
    if self._events is not None:
      self._events.close()
      self._events = None

  def __enter__(self):
    return self

  def __exit__(self, *exc_info):
    self.close()

  def _open(self, name: str) -> None:
    # Unbuffered: one line is one write.
    self._files[name] = (self._workdir / name).open('ab', buffering=0)

  def _append(self, name: str, step: int, values: Mapping[str, Any]) -> None:
    if not self._primary:
      return
    if 'step' in values:
      raise ValueError(f"{name}: 'step' is the line's own key")
    line = json.dumps(
      {'step': int(step), **dict(sorted(values.items()))},
      ensure_ascii=False,
      allow_nan=False,
    )
    self._files[name].write(f'{line}\n'.encode())

  def _event_writer(self):
    if self._events is None:
      import tensorboardX  # Slow to import, and rarely asked for.

      self._events = tensorboardX.SummaryWriter(
        str(self._workdir / 'tensorboard'), purge_step=self._purge_step
      )
    return self._events


def read_metrics(path) -> list[dict[str, Any]]:
  """The records of a .jsonl file, or of a run folder's metrics.jsonl.

  A last line without an end is left out: its writer was killed.

  Raises:
    ValueError: another line is not JSON; file and line are named.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / METRICS
  return _parse(path.read_text(encoding='utf-8').split('\n')[:-1], path)


def _parse(lines, path) -> list[dict[str, Any]]:
  records = []
  for number, line in enumerate(lines, 1):
    try:
      record = json.loads(line)
      if not isinstance(record.get('step'), int):
        raise ValueError('no step')
    except (ValueError, AttributeError) as error:
      raise ValueError(f'{path}:{number}: not a record ({error})') from error
    records.append(record)
  return records


def _drop_torn_line(path: pathlib.Path) -> None:
  """Cuts the file after its last newline."""
  if path.exists():
    with path.open('r+b') as file:
      file.truncate(file.read().rfind(b'\n') + 1)
