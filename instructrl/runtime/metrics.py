"""The files that a run appends to: metrics, timings and samples."""

from collections.abc import Mapping, Sequence
import hashlib
import json
import math
import os
import pathlib
from typing import Any

from instructrl.runtime import files
from instructrl.runtime import storage
from instructrl.runtime import trackers as tracking
from instructrl.runtime.errors import NonFiniteError

METRICS, TIMINGS, SAMPLES = 'metrics.jsonl', 'timings.jsonl', 'samples.jsonl'


def check_finite(step: int, metrics: Mapping[str, Any]) -> None:
  """Raises a NonFiniteError that names the step and each bad quantity."""
  bad = [
    f'{name} is {float(value)}'
    for name, value in metrics.items()
    if not math.isfinite(value)
  ]
  if bad:
    raise NonFiniteError(f'step {step}: {", ".join(bad)}')


class RunWriter:
  """Appends lines to the files of a run folder.

  Each line is one write to the operating system, so a killed process loses
  nothing. After `flush` the lines survive a power cut too.
  """

  def __init__(
    self, workdir, *, primary: bool = True, trackers: Sequence[str] = ()
  ):
    """Opens the files, and removes an incomplete last line.

    Args:
      workdir: the run folder; created if missing.
      primary: whether this process writes; otherwise calls do nothing.
      trackers: also send the scalars to these, see `trackers`.
    """
    self._workdir = pathlib.Path(workdir)
    self._primary = primary
    self._names = trackers if primary else ()
    self._trackers: list[tracking.Tracker] = []  # once there is a value
    self._purge_step = None
    self._files = {}
    self._digests = {}  # name -> SHA-256 of the file so far
    if primary:
      self._workdir.mkdir(parents=True, exist_ok=True)
      for name in (METRICS, TIMINGS, SAMPLES):
        _drop_torn_line(self._workdir / name)
        self._open(name)

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends one line of floats to metrics.jsonl.

    Raises:
      NonFiniteError: a value is not finite. Nothing is written.
    """
    values = {name: float(value) for name, value in values.items()}
    check_finite(step, values)
    self._append(METRICS, step, values)
    if len(self._trackers) < len(self._names):
      self._trackers = [
        tracking.start(name, self._workdir, self._purge_step)
        for name in self._names
      ]
    for tracker in self._trackers:
      tracker.log(step, values)

  def timings(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends one line of seconds or rates to timings.jsonl."""
    values = {name: round(float(value), 6) for name, value in values.items()}
    self._append(TIMINGS, step, values)

  def sample(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends one evaluated sample, any JSON, to samples.jsonl."""
    self._append(SAMPLES, step, values)

  def written(self) -> dict[str, list]:
    """Returns {name: [size, SHA-256]} of the values and samples so far.

    A checkpoint keeps this; `trim` compares it.
    """
    return {
      name: [os.fstat(self._files[name].fileno()).st_size, digest.hexdigest()]
      for name, digest in self._digests.items()
    }

  def trim(self, step: int, written: Mapping[str, list] | None = None) -> None:
    """Drops metrics and samples after `step`, before a run resumes there.

    Args:
      step: the step of the checkpoint; -1 for a fresh start.
      written: what `written` returned at that step; None compares nothing.

    Raises:
      ValueError: a complete line is not a record, or the lines up to `step` are
        not those of the run.
    """
    if not self._primary:
      return
    for name in (METRICS, SAMPLES):
      path = self._workdir / name
      with files.named(path):
        lines = files.read_bytes(path).decode('utf-8').split('\n')[:-1]
      records = read_metrics(path)
      kept = [
        l for l, r in zip(lines, records, strict=True) if r['step'] <= step
      ]
      content = ''.join(f'{line}\n' for line in kept).encode()
      if written is not None:
        _check_written(path, step, content, written[name])
      if len(kept) < len(lines):
        self._files.pop(name).close()
        files.atomic_write(path, content)
        self._open(name)
    self._purge_step = step + 1

  def flush(self) -> None:
    """Makes all lines durable. Call it before a checkpoint is committed."""
    for file in self._files.values():
      os.fsync(file.fileno())
    for tracker in self._trackers:
      tracker.flush()

  def close(self) -> None:
    """Flushes and closes all files."""
    self.flush()
    for file in self._files.values():
      file.close()
    self._files = {}
    for tracker in self._trackers:
      tracker.close()
    self._trackers = []

  def __enter__(self):
    return self

  def __exit__(self, *exc_info):
    self.close()

  def _open(self, name: str) -> None:
    path = self._workdir / name
    descriptor = files.open_new_or_own(path, os.O_WRONLY | os.O_APPEND)
    # Unbuffered: one line is one write.
    self._files[name] = open(descriptor, 'ab', buffering=0)
    if name != TIMINGS:
      self._digests[name] = hashlib.sha256(files.read_bytes(path))

  def _append(self, name: str, step: int, values: Mapping[str, Any]) -> None:
    if not self._primary:
      return
    if 'step' in values:
      raise ValueError(f"{name}: 'step' is a reserved key")
    record = {'step': int(step), **dict(sorted(values.items()))}
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    content = f'{line}\n'.encode()
    _write_all(self._files[name], content, self._workdir / name)
    if name in self._digests:
      self._digests[name].update(content)


def read_metrics(path) -> list[dict[str, Any]]:
  """Returns the records of a .jsonl file, or of a run folder's metrics.jsonl.

  Raises:
    ValueError: a complete line is not a JSON object with a step; the message
      names file and line.
  """
  path = pathlib.Path(path)
  path = path / METRICS if path.is_dir() else path
  records = files.read_jsonl(path)
  for number, record in enumerate(records, 1):
    if not isinstance(record.get('step'), int):
      raise ValueError(f'{path}:{number}: not a record (no step)')
  return records


def _write_all(file, content: bytes, path: pathlib.Path) -> None:
  """Appends bytes to an unbuffered file; what fails leaves nothing behind."""
  size = os.fstat(file.fileno()).st_size

  def write():
    os.ftruncate(file.fileno(), size)  # of a try that failed
    left = memoryview(content)
    while left:
      left = left[file.write(left) :]  # a disk that gets full takes a part

  storage.retrying(write, path)


def _check_written(path, step: int, content: bytes, recorded: list) -> None:
  found = [len(content), hashlib.sha256(content).hexdigest()]
  if found != recorded:
    raise ValueError(
      f'{path} is not what the run wrote: the checkpoint of step {step} '
      f'recorded {recorded[0]:,} bytes up to that step (SHA-256 '
      f'{recorded[1][:10]}), now they are {found[0]:,} bytes (SHA-256 '
      f'{found[1][:10]}); restore the file, or remove {path.parent} to make it '
      'again'
    )


def _drop_torn_line(path: pathlib.Path) -> None:
  """Truncates the file after its last newline."""
  if path.exists():
    content = files.read_bytes(path)
    if not content.endswith(b'\n'):
      descriptor = files.open_new_or_own(path, os.O_WRONLY)
      with open(descriptor, 'r+b') as file:
        file.truncate(content.rfind(b'\n') + 1)
