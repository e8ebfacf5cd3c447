"""What a run writes beside its checkpoints.

A run's folder:

  config.json    the configuration, written once
  inputs.json    what each input was made from, so that none can be exchanged
  metrics.jsonl  one line a step, values only: a run that was killed and resumed
                 leaves the same bytes as one that was not
  timings.jsonl  seconds and rates, which never repeat
  samples.jsonl  every evaluated sample
  tensorboard/   the metrics again, if asked for
  DONE           the result, written atomically at the end
  lock           held by the process that is at work, and its number
"""

from collections.abc import Iterator, Mapping
import contextlib
import fcntl
import hashlib
import json
import math
import os
import pathlib
from typing import Any

FORMAT_VERSION = 1
METRICS, TIMINGS, SAMPLES = 'metrics.jsonl', 'timings.jsonl', 'samples.jsonl'
CONFIG, INPUTS, LOCK = 'config.json', 'inputs.json', 'lock'


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
  """Replaces a file's contents durably; a kill leaves the old or the new.

  A file that has these contents is left alone: a finished run can be read-only.
  """
  path = pathlib.Path(path)
  content = content.encode() if isinstance(content, str) else content
  if path.is_file() and path.read_bytes() == content:
    return
  temporary = path.with_name(f'.{path.name}.tmp')
  try:
    with temporary.open('wb') as file:
      file.write(content)
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


def read_json(path) -> dict[str, Any]:
  """The object in a JSON file; ValueError names the file if there is none."""
  path = pathlib.Path(path)
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except RecursionError as error:
    raise ValueError(f'{path} is damaged: it is nested too deep') from error
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} is damaged: it holds no JSON object')
  return found


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
  result = read_json(path)
  version = result.pop('format_version', None)
  if version != FORMAT_VERSION:
    raise ValueError(
        f'{path}: format_version {version}, this program reads '
        f'{FORMAT_VERSION}')
  return result


# How a run is watched, saved and laid out; none of it says what it computes.
MAY_CHANGE = (
    'checkpoint', 'log', 'mesh', 'model_rules', 'offload', 'rules')


def check_config(workdir, config: Mapping[str, Any]) -> None:
  """Refuses a run folder of another configuration.

  Raises:
    ValueError: the config.json that is there differs in more than `MAY_CHANGE`;
      the fields are named.
  """
  path = pathlib.Path(workdir) / CONFIG
  if not path.exists():
    return
  old = _flat(read_json(path))
  new = _flat(json.loads(_to_json(config)))
  changed = [f'{key}: {old.get(key, "absent")} -> {new.get(key, "absent")}'
             for key in sorted({*old, *new}) if old.get(key) != new.get(key)
             and key.split('.')[0] not in MAY_CHANGE]
  if changed:
    raise ValueError(
        f'{path.parent} was made with another configuration '
        f'({"; ".join(changed[:5])}): take another workdir, or remove that '
        'folder and those that were made from it')


def write_config(workdir, config: Mapping[str, Any]) -> None:
  """Writes config.json, after `check_config`."""
  check_config(workdir, config)
  pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
  atomic_write(pathlib.Path(workdir) / CONFIG, _to_json(config))


def identity(path) -> str:
  """Names what a run, or a file or checkpoint in its folder, was made from.

  It changes with the configuration of that run and with that of any run whose
  results it started from; all else follows from these. Empty where no run
  folder is above the path.
  """
  path = pathlib.Path(os.path.abspath(path))
  folder = run_folder(path)
  if folder is None:
    return ''
  config = read_json(folder / CONFIG)
  for name in MAY_CHANGE:
    config.pop(name, None)
  return config_fingerprint({
      'config': config, 'inputs': _made_from(folder),
      'part': str(path.relative_to(folder))})


def run_folder(path: pathlib.Path) -> pathlib.Path | None:
  """The run folder that a path is or lies in, None if it is in none."""
  folders = (f for f in (path, *path.parents) if (f / CONFIG).is_file())
  return next(folders, None)


def _made_from(folder: pathlib.Path) -> dict[str, str]:
  """Input -> identity, of a run."""
  path = folder / INPUTS
  return read_json(path) if path.exists() else {}


def write_inputs(workdir, inputs: Mapping[str, Any]) -> None:
  """Writes the identity of each input, or compares with what is there.

  Args:
    workdir: of the run.
    inputs: name -> path.

  Raises:
    ValueError: this run started from other inputs, which have since been made
      anew; or an input was not made from the data that this run is given. They
      are named.
  """
  path = pathlib.Path(workdir) / INPUTS
  found = {name: identity(value) for name, value in inputs.items()}
  for name, value in inputs.items():
    folder = run_folder(pathlib.Path(os.path.abspath(value)))
    data = _made_from(folder).get('data') if folder else None
    if data and found.get('data') and data != found['data']:
      raise ValueError(
          f'inputs.{name}: {value} was made from other data than '
          f'{inputs["data"]}')
  if path.exists():
    old = read_json(path)
    changed = sorted(k for k in found if old.get(k) != found[k])
    if changed:
      raise ValueError(
          f'{path.parent} was made from another {" and ".join(changed)} than '
          f'{inputs[changed[0]]}: remove {path.parent} to make it again')
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  atomic_write(path, _to_json(found))


def add_input(workdir, name: str, identity: str) -> None:
  """Notes what else a run is made from, such as files that no input names.

  Args:
    workdir: of the run.
    name: of what it is, in inputs.json.
    identity: its fingerprint.

  Raises:
    ValueError: the run began with another one.
  """
  path = pathlib.Path(workdir) / INPUTS
  found = read_json(path) if path.exists() else {}
  if found.setdefault(name, identity) != identity:
    raise ValueError(
        f'{path.parent} was made from other {name}, which have since changed: '
        f'remove {path.parent} to make it again')
  atomic_write(path, _to_json(found))


@contextlib.contextmanager
def only_process(workdir, primary: bool = True) -> Iterator[None]:
  """Keeps a run folder to one process at a time; the kernel lets go of a lock
  when its process dies, in whatever way.

  Args:
    workdir: of the run.
    primary: whether this process is the first of a run's; the others rely on
      it, and do nothing here.

  Raises:
    ValueError: another process is at work there.
  """
  if not primary:
    yield
    return
  path = pathlib.Path(workdir) / LOCK
  if path.exists() and not path.is_file():
    raise ValueError(f'{path} is in the way: remove it')
  with open(path, 'r+b' if path.exists() else 'w+b') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      number = f.read().decode(errors='replace').strip()
      raise ValueError(
          f'{path.parent}: {f"process {number}" if number else "a process"} is '
          'at work in this folder; wait for its end, or take another folder'
      ) from None
    f.truncate(0)
    f.write(f'{os.getpid()}\n'.encode())
    f.flush()
    yield


def holder(workdir) -> str | None:
  """The number of the process at work in a run folder ('' if it has not said
  so yet), or None.
  """
  try:
    with open(pathlib.Path(workdir) / LOCK, 'rb') as f:
      try:
        fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
      except BlockingIOError:
        return f.read().decode(errors='replace').strip()
  except FileNotFoundError:
    pass
  return None


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
