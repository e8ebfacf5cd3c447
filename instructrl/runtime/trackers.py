"""Sends the metrics of a run to trackers, besides metrics.jsonl.

tensorboard  event files in the run folder's `tensorboard`
wandb        Weights & Biases; WANDB_MODE=offline keeps it on this machine
trackio      Trackio, which keeps it on this machine
"""

from collections.abc import Mapping, Sequence
import importlib.util
import pathlib
from typing import Any, Protocol

from instructrl.runtime import files

PROJECT = 'instructrl'  # in wandb and trackio
# Tracker -> the package that it needs; its extra has the tracker's name.
PACKAGES = {
  'tensorboard': 'tensorboardX',
  'wandb': 'wandb',
  'trackio': 'trackio',
}


class Tracker(Protocol):
  """Receives scalars; a step after a resume may come a second time."""

  def log(self, step: int, values: Mapping[str, float]) -> None: ...

  def flush(self) -> None: ...

  def close(self) -> None: ...


def fault(names: Sequence[str]) -> str:
  """Returns why trackers cannot be used; '' if they can."""
  for name in names:
    if name not in PACKAGES:
      return f'must be among {", ".join(PACKAGES)}; got {name!r}'
    if importlib.util.find_spec(PACKAGES[name]) is None:
      return (
        f'{name!r} needs the package {PACKAGES[name]}: pip install -e '
        f'".[{name}]", or leave it out'
      )
  return ''


def start(name: str, workdir: pathlib.Path, purge_step: int | None) -> Tracker:
  """Starts a tracker for a run.

  Args:
    name: one of `PACKAGES`.
    workdir: the run folder; config.json in it is sent along.
    purge_step: the first step that is written again after a resume, or None.
  """
  if name == 'tensorboard':
    return _TensorBoard(workdir, purge_step)
  config = workdir / 'config.json'
  about = dict(
    project=PROJECT,
    name='/'.join(workdir.absolute().parts[-2:]),
    config=files.read_json(config) if config.exists() else {},
  )
  return {'wandb': _Wandb, 'trackio': _Trackio}[name](workdir, about)


class _TensorBoard:
  def __init__(self, workdir: pathlib.Path, purge_step: int | None):
    import tensorboardX  # slow to import, as all packages here

    self._events = tensorboardX.SummaryWriter(
      str(workdir / 'tensorboard'), purge_step=purge_step
    )

  def log(self, step, values):
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def flush(self):
    self._events.flush()

  def close(self):
    self._events.close()


class _Wandb:
  def __init__(self, workdir: pathlib.Path, about: Mapping[str, Any]):
    import wandb

    # The same folder continues the same run.
    own = files.fingerprint({'folder': str(workdir.absolute())})[:16]
    self._run = wandb.init(dir=workdir, id=own, resume='allow', **about)

  def log(self, step, values):
    self._run.log(dict(values), step=step)

  def flush(self):
    pass  # a process of its own writes

  def close(self):
    self._run.finish()


class _Trackio:
  def __init__(self, workdir: pathlib.Path, about: Mapping[str, Any]):
    del workdir
    import trackio

    self._trackio = trackio
    trackio.init(resume='allow', **about)

  def log(self, step, values):
    self._trackio.log(dict(values), step=step)

  def flush(self):
    pass  # a thread of its own writes

  def close(self):
    self._trackio.finish()
