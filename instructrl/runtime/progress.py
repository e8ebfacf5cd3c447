"""Shows the progress of a stage: a live bar, or a line from time to time."""

import collections
from collections.abc import Callable, Mapping
import sys
import time
from typing import Any

import rich.console
import rich.progress
import rich.table

_MAX_LIVE_METRICS = 4
_SPEED_WINDOW = 60.0  # seconds
_BAR = 20  # characters


class Progress:
  """Shows progress on a terminal or in a log.

  On a terminal: a bar with speed, time left and a few metrics. Elsewhere (a
    file,
  CI, nohup): at most one line every `interval` seconds.

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
    interval: float = 10.0,
    primary: bool = True,
    stream=None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Prepares the display; `with` starts it.

    Args:
      name: the name of the stage.
      total: the number of steps at the end.
      start: the number of finished steps, after a resume.
      label: the place in a larger sequence, e.g. 'stage 3/12'.
      unit: the unit of a step, in the singular; '%' and 'MB' have no plural.
      interval: the least seconds between two lines without a terminal.
      primary: whether this process shows anything.
      stream: the output; sys.stdout by default.
      clock: returns seconds; replaced in tests.
    """
    self._title = f'{label} {name}'.strip()
    self._total = total
    self._units = unit if unit in ('%', 'MB') else f'{unit}s'
    self._interval = interval
    self._stream = stream or sys.stdout
    self._clock = clock
    self._step = self._start = start
    self._metrics = {}
    # (time, step) of the updates of the last minute, for the speed. The speed
    # is measured from the end of the first step, which compiles.
    self._recent = collections.deque()
    console = rich.console.Console(file=self._stream)
    self._live = (
      primary and console.is_terminal and not console.is_dumb_terminal
    )
    self._plain = primary and not self._live
    if self._live:
      # A narrow terminal cuts the metrics first, in the last column.
      fixed = lambda width: rich.table.Column(min_width=width, no_wrap=True)
      columns = (
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn(
          '{task.description}',
          markup=False,
          table_column=fixed(len(self._title)),
        ),
        rich.progress.BarColumn(bar_width=_BAR, table_column=fixed(_BAR)),
        rich.progress.TextColumn(
          '{task.fields[text]}',
          markup=False,
          table_column=rich.table.Column(
            no_wrap=True, overflow='ellipsis', ratio=1
          ),
        ),
      )
      self._bar = rich.progress.Progress(
        *columns, console=console, refresh_per_second=2, expand=True
      )

  def __enter__(self):
    self._begin = self._printed = self._clock()
    if self._live:
      self._bar.start()
      self._task = self._bar.add_task(
        self._title, total=self._total, completed=self._step, text=self._text()
      )
    self._line('starts' if not self._start else f'resumes at {self._start}')
    return self

  def update(self, step: int, metrics: Mapping[str, Any] | None = None):
    """Shows that `step` steps are done, with the newest metrics if given."""
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
    """Shows a line of text; on a terminal, above the bar."""
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
        parts += [f'{speed:.3g} {self._units}/s', f'{left} left']
    for name, value in list(self._metrics.items())[:_MAX_LIVE_METRICS]:
      parts.append(f'{name}={float(value):.4g}')
    return '  '.join(parts)

  def _line(self, text: str) -> None:
    if self._plain:
      print(f'{self._title}: {text}', file=self._stream, flush=True)


def format_seconds(seconds: float) -> str:
  """Formats seconds as 8s, 2m05s or 3h20m."""
  seconds = int(round(seconds))
  if seconds < 60:
    return f'{seconds}s'
  if seconds < 3600:
    return f'{seconds // 60}m{seconds % 60:02}s'
  return f'{seconds // 3600}h{seconds % 3600 // 60:02}m'
