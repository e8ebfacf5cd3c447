"""Shows the progress of a stage: a live bar, or a line from time to time."""

import collections
from collections.abc import Callable, Mapping
import math
import statistics
import sys
import time
from typing import Any

import rich.console
import rich.progress
import rich.table

# Metric -> its name on the screen, in the order of the display. A stage that
# has none of these metrics shows its first ones under their own names.
_SHOWN = {
  'objective/scores': 'score',
  'objective/kl': 'KL',
  'objective/judge': 'judge',
  'response/length': 'length',
  'response/eos_frac': 'ended',
  'loss/train': 'loss',
  'accuracy/train': 'accuracy',
  'optimizer/lr': 'lr',
  'optimizer/grad_norm': 'grad norm',
}
_MAX_LIVE_METRICS = 5
_SPEED_WINDOW = 60.0  # seconds
_BAR = 20  # characters


class Progress:
  """Shows progress on a terminal or in a log.

  On a terminal: a bar with speed, time left and a few metrics. Elsewhere (a
    file,
  CI, nohup): at most one line every `interval` seconds.

    with Progress('ppo', total=200, start=40) as progress:
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
      label: shown instead of the name, e.g. '[3/12] nlp' in a study.
      unit: the unit of a step, in the singular; '%' and 'MB' have no plural.
      interval: the least seconds between two lines without a terminal.
      primary: whether this process shows anything.
      stream: the output; sys.stdout by default.
      clock: returns seconds; replaced in tests.
    """
    self._title = label or name
    self._total = total
    self._units = unit if unit in ('%', 'MB') else f'{unit}s'
    self._interval = interval
    self._stream = stream or sys.stdout
    self._clock = clock
    self._step = self._start = start
    self._metrics = {}
    # (time, step) of the updates of the last minute, for the speed.
    self._recent = collections.deque()
    console = rich.console.Console(file=self._stream)
    self._live = (
      primary and console.is_terminal and not console.is_dumb_terminal
    )
    self._plain = primary and not self._live
    if self._live:
      # A narrow terminal cuts the end of the last column: the lesser metrics.
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
    self._metrics |= metrics or {}  # some are not measured at every step
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
    """Returns the step, the first metric, the time left, then the rest."""
    known = [
      (n, self._metrics[m]) for m, n in _SHOWN.items() if m in self._metrics
    ]
    shown = (known or list(self._metrics.items()))[:_MAX_LIVE_METRICS]
    first, *others = [f'{name}={float(x):.4g}' for name, x in shown] or ['']
    left, speed = '', self._speed()
    if speed:
      left = f'{format_seconds((self._total - self._step) / speed)} left'
      others.append(f'{speed:.3g} {self._units}/s')
    parts = [f'{self._step}/{self._total}', first, left, *others]
    return '  '.join(part for part in parts if part)

  def _speed(self) -> float:
    """Returns steps per second; 0 if it is not known yet.

    The speed is that of the last minute. Before the first minute is over, it is
    that of the median step: a stage compiles in its first steps.
    """
    times, steps = zip(*self._recent) if self._recent else ((), ())
    if len(times) < 2 or times[-1] <= times[0] or steps[-1] <= steps[0]:
      return 0.0
    if times[-1] - times[0] >= _SPEED_WINDOW:
      return (steps[-1] - steps[0]) / (times[-1] - times[0])
    took = (
      (times[i] - times[i - 1]) / (steps[i] - steps[i - 1])
      for i in range(1, len(times))
      if steps[i] > steps[i - 1]
    )
    return 1 / (statistics.median(took) or math.inf)

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
