"""What a run writes beside its checkpoints, and what it shows while it runs.

A run's folder:

  config.json    the configuration, written once
  metrics.jsonl  one line a step, values only: a run that was killed and resumed
                 leaves the same bytes as one that was not
  timings.jsonl  seconds and rates, which never repeat
  samples.jsonl  every evaluated sample
  tensorboard/   the metrics again, if asked for
  DONE           the result, written atomically at the end
"""

from collections.abc import Callable, Mapping
import collections
import contextlib
import hashlib
import json
import math
import os
import pathlib
import sys
import time
from typing import Any

import rich.console
import rich.progress

FORMAT_VERSION = 1
METRICS, TIMINGS, SAMPLES = 'metrics.jsonl', 'timings.jsonl', 'samples.jsonl'
_MAX_LIVE_METRICS = 4
_SPEED_WINDOW = 60.0  # seconds


class NonFiniteError(ArithmeticError):
  """A loss, reward or other quantity is NaN or infinite."""


def check_finite(step: int, metrics: Mapping[str, Any]) -> None:
  """Raises NonFiniteError naming the step and each quantity not finite."""
  bad = [f'{name} is {float(value)}' for name, value in metrics.items()
         if not math.isfinite(value)]
  if bad:
    raise NonFiniteError(f'step {step}: {", ".join(bad)}')


class RunWriter:
  """Appends to the files of a run's folder.

  Each line is handed to the operating system at once, so a killed process
  loses nothing; `flush` also makes the lines survive a power cut.
  """

  def __init__(self, workdir, *, primary: bool = True,
               tensorboard: bool = False):
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
      kept = [line for line, record in zip(lines, records, strict=True)
              if record['step'] <= step]
      if len(kept) < len(lines):
        self._files.pop(name).close()
        atomic_write(path, ''.join(f'{line}\n' for line in kept))
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
    line = json.dumps({'step': int(step), **dict(sorted(values.items()))},
                      ensure_ascii=False, allow_nan=False)
    self._files[name].write(f'{line}\n'.encode())

  def _event_writer(self):
    if self._events is None:
      import tensorboardX  # Slow to import, and rarely asked for.
      self._events = tensorboardX.SummaryWriter(
          str(self._workdir / 'tensorboard'), purge_step=self._purge_step)
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


def atomic_write(path, content: str | bytes) -> None:
  """Replaces a file's contents durably; a kill leaves the old or the new."""
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.tmp')
  try:
    with temporary.open('wb') as file:
      file.write(content.encode() if isinstance(content, str) else content)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  sync_folder(path.parent)


def sync_folder(path) -> None:
  """Makes renames inside a folder durable."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_done(workdir, result: Mapping[str, Any]) -> None:
  """Marks a run as finished, with its result."""
  atomic_write(
      pathlib.Path(workdir) / 'DONE',
      _to_json({'format_version': FORMAT_VERSION, **result}))


def read_done(workdir) -> dict[str, Any] | None:
  """The result of a finished run, None for one that is not finished."""
  path = pathlib.Path(workdir) / 'DONE'
  if not path.exists():
    return None
  result = json.loads(path.read_text(encoding='utf-8'))
  version = result.pop('format_version', None)
  if version != FORMAT_VERSION:
    raise ValueError(
        f'{path}: format_version {version}, this program reads '
        f'{FORMAT_VERSION}')
  return result


# How a run is watched, saved and laid out; none of it says what it computes.
MAY_CHANGE = ('checkpoint', 'log', 'mesh', 'rules')


def write_config(workdir, config: Mapping[str, Any]) -> None:
  """Writes config.json; one that is there may differ in `MAY_CHANGE` only.

  Raises:
    ValueError: the folder belongs to another configuration; the fields that
      differ are named.
  """
  path = pathlib.Path(workdir) / 'config.json'
  text = _to_json(config)
  if path.exists():
    old = _flat(json.loads(path.read_text(encoding='utf-8')))
    new = _flat(json.loads(text))
    changed = [f'{key}: {old.get(key, "absent")} -> {new.get(key, "absent")}'
               for key in sorted({*old, *new}) if old.get(key) != new.get(key)
               and key.split('.')[0] not in MAY_CHANGE]
    if changed:
      raise ValueError(
          f'{path} is of another configuration ({"; ".join(changed[:5])}): '
          'take another workdir, or remove this one')
  path.parent.mkdir(parents=True, exist_ok=True)
  atomic_write(path, text)


def config_fingerprint(config: Mapping[str, Any]) -> str:
  """SHA-256, in hex, of a configuration; the order of keys does not matter."""
  return hashlib.sha256(_to_json(config).encode()).hexdigest()


def _to_json(value) -> str:
  return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + '\n'


def _flat(tree, prefix='') -> dict[str, str]:
  """{'a': {'b': 1}} -> {'a.b': '1'}."""
  if not isinstance(tree, dict) or not tree:
    return {prefix: json.dumps(tree)}
  flat = {}
  for key, value in tree.items():
    flat.update(_flat(value, f'{prefix}.{key}' if prefix else key))
  return flat


class Timer:
  """Adds up seconds by name; `pop` gives them as metrics.

  JAX returns before the work is done: let what is timed end with
  `jax.block_until_ready` or with reading a value.
  """

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    self._clock = clock
    self._seconds = {}

  @contextlib.contextmanager
  def __call__(self, name: str):
    start = self._clock()
    try:
      yield
    finally:
      self._seconds[name] = (
          self._seconds.get(name, 0.) + self._clock() - start)

  def pop(self) -> dict[str, float]:
    """`{'perf/NAME_s': seconds}` since the last call."""
    seconds, self._seconds = self._seconds, {}
    return {f'perf/{name}_s': value for name, value in seconds.items()}


class Progress:
  """Shows how far a stage is: a live bar, or a line now and then.

  On a terminal it is a bar with speed, time left and a few metrics. Elsewhere
  (a file, CI, nohup) it prints at most one line every `interval` seconds.

    with Progress('ppo', total=200, start=40, label='stage 8/12') as progress:
      for step in range(40, 200):
        ...
        progress.update(step + 1, {'objective/kl': kl})
  """

  def __init__(
      self,
      name: str,
      total: int,
      *,
      start: int = 0,
      label: str = '',
      unit: str = 'step',
      interval: float = 10.,
      primary: bool = True,
      stream=None,
      clock: Callable[[], float] = time.monotonic,
  ):
    """Prepares the display; `with` starts it.

    Args:
      name: what is running.
      total: number of steps at the end.
      start: steps that are done already, after a resume.
      label: where in the whole this is, e.g. 'stage 3/12'.
      unit: what a step is, in the singular.
      interval: least seconds between two lines when there is no terminal.
      primary: whether this process shows anything.
      stream: where to; sys.stdout by default.
      clock: gives seconds, for tests.
    """
    self._title = f'{label} {name}'.strip()
    self._total = total
    self._unit = unit
    self._interval = interval
    self._stream = stream or sys.stdout
    self._clock = clock
    self._step = self._start = start
    self._metrics = {}
    # (time, step) of the last minute's updates, for the speed. The first steps
    # compile, so it is measured from the first one's end.
    self._recent = collections.deque()
    console = rich.console.Console(file=self._stream)
    self._live = (
        primary and console.is_terminal and not console.is_dumb_terminal)
    self._plain = primary and not self._live
    if self._live:
      columns = (
          rich.progress.SpinnerColumn(),
          rich.progress.TextColumn('{task.description}', markup=False),
          rich.progress.BarColumn(bar_width=20),
          rich.progress.TextColumn('{task.fields[text]}', markup=False))
      self._bar = rich.progress.Progress(
          *columns, console=console, refresh_per_second=2)

  def __enter__(self):
    self._begin = self._printed = self._clock()
    if self._live:
      self._bar.start()
      self._task = self._bar.add_task(
          self._title, total=self._total, completed=self._step,
          text=self._text())
    self._line('starts' if not self._start else f'resumes at {self._start}')
    return self

  def update(self, step: int, metrics: Mapping[str, Any] | None = None):
    """Tells that `step` steps are done, and the newest metrics if any."""
    now = self._clock()
    self._step = step
    self._metrics = dict(metrics) if metrics else self._metrics
    self._recent.append((now, step))
    while len(self._recent) > 2 and now - self._recent[1][0] > _SPEED_WINDOW:
      self._recent.popleft()
    if self._live:
      self._bar.update(self._task, completed=step, text=self._text())
    elif now - self._printed >= self._interval:
      self._printed = now
      self._line(self._text())

  def message(self, text: str) -> None:
    """Shows a line of text, above the bar if there is one."""
    if self._live:
      self._bar.console.print(text, markup=False, highlight=False)
    self._line(text)

  def __exit__(self, exc_type, *exc_info):
    seconds = format_seconds(self._clock() - self._begin)
    word = 'stopped' if exc_type else 'done'
    if self._live:
      self._bar.update(self._task, text=f'{word} after {seconds}')
      self._bar.stop()
    self._line(f'{word} at {self._step}/{self._total} after {seconds}')

  def _text(self) -> str:
    parts = [f'{self._step}/{self._total}']
    if self._recent and self._clock() > self._recent[0][0]:
      began, first = self._recent[0]
      speed = (self._step - first) / (self._clock() - began)
      if speed > 0:
        left = format_seconds((self._total - self._step) / speed)
        parts += [f'{speed:.3g} {self._unit}s/s', f'{left} left']
    for name, value in list(self._metrics.items())[:_MAX_LIVE_METRICS]:
      parts.append(f'{name}={float(value):.4g}')
    return '  '.join(parts)

  def _line(self, text: str) -> None:
    if self._plain:
      print(f'{self._title}: {text}', file=self._stream, flush=True)


def format_seconds(seconds: float) -> str:
  """Seconds for people: 8s, 2m05s, 3h20m."""
  seconds = int(round(seconds))
  if seconds < 60:
    return f'{seconds}s'
  if seconds < 3600:
    return f'{seconds // 60}m{seconds % 60:02}s'
  return f'{seconds // 3600}h{seconds % 3600 // 60:02}m'
