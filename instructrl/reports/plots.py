"""Figures of the report, as SVG text to stand inside a page.

Text and axes are drawn in the page's own colour (`currentColor`), so figures
follow light and dark mode. Every policy keeps one colour, none of which is
near another with any colour-blindness, and is named beside its mark, never by
colour alone. Figures are drawn at about the width of a phone, so
that they are enlarged on a desktop instead of shrunk on a phone.
"""

import contextlib
import dataclasses
import io
import math
import re
import textwrap
from typing import Any, Mapping, Sequence

import matplotlib
from matplotlib import figure as mpl_figure
from matplotlib import ticker

POLICIES = ('base', 'prompted', 'sft', 'ppo', 'ppo_ptx')
LABELS = {
  'base': 'pretrained',
  'prompted': 'prompted',
  'sft': 'SFT',
  'ppo': 'PPO',
  'ppo_ptx': 'PPO-ptx',
}
COLORS = {
  'base': '#8c8c8c',
  'prompted': '#f0c000',
  'sft': '#56b4e9',
  'ppo': '#d55e00',
  'ppo_ptx': '#9550b0',
}
INK = '#010203'  # stands for the page's text colour
OTHER = '#009e73'  # what is no policy of these
_PARTS = (INK, '#0072b2', '#e69f00', OTHER)  # a whole, and its parts

WIDTH = 4.5  # inches; a point is then about 1.1 pixels on a phone
_TITLE_WIDTH = 25  # characters
_STYLE = {
  'svg.fonttype': 'path',
  'svg.hashsalt': 'instructrl',
  'font.size': 9.5,
  'axes.titlesize': 9.5,
  'axes.titlelocation': 'left',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'text.color': INK,
  'axes.labelcolor': INK,
  'axes.edgecolor': INK,
  'xtick.color': INK,
  'ytick.color': INK,
  'axes.linewidth': 0.6,
  'xtick.major.width': 0.6,
  'ytick.major.width': 0.6,
  'legend.frameon': False,
  'xtick.labelsize': 8.5,
  'ytick.labelsize': 8.5,
  'legend.fontsize': 8.5,
}


@dataclasses.dataclass(frozen=True)
class Panel:
  """One group of bars, a bar per policy.

  Attributes:
    title: what is measured.
    summaries: policy -> {'value', 'ci95', ...}; a None value is left out.
    percent: whether the values are fractions to be shown as percentages.
    digits: decimals of the numbers beside the bars.
  """

  title: str
  summaries: Mapping[str, Mapping]
  percent: bool = True
  digits: int = 0


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line of a training panel."""

  label: str
  steps: Sequence[float]
  values: Sequence[float]
  color: str
  dashed: bool = False  # tells two lines apart where they cover each other


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of a panel of a sweep.

  Attributes:
    label: of the line; '' if there is no other.
    points: (x, values of its seeds, their mean, their spread or None).
  """

  label: str
  points: Sequence[tuple[Any, Sequence[float], float, float | None]]


def color(policy: str) -> str:
  return COLORS.get(policy, OTHER)


def panels(
  results: Mapping[str, Mapping], entries: Sequence[tuple[str, str, bool, int]]
) -> list[Panel]:
  """The panels of those measures that some policy has.

  Args:
    results: policy -> tree of summaries.
    entries: (title, path of the measure, percent, digits) of each panel.
  """
  found = []
  for title, path, percent, digits in entries:
    summaries = {}
    for policy, tree in results.items():
      for key in path.split('/'):
        tree = tree.get(key, {})
      if tree:
        summaries[policy] = tree
    if summaries:
      found.append(Panel(title, summaries, percent, digits))
  return found


def num_items(summaries: Mapping[str, Mapping]) -> str:
  """'n = 1,500', or the range if policies differ; empty if unknown."""
  counts = {found['n'] for found in summaries.values() if found.get('n')}
  return (
    'n\xa0=\xa0'
    + ' to '.join(f'{n:,}' for n in sorted({min(counts), max(counts)}))
    if counts
    else ''
  )


def label(policy: str) -> str:
  return LABELS.get(policy, policy)


def preference(rows: Mapping[str, Mapping]) -> str:
  """Win rates against SFT: bars from the judge, diamonds from labelers.

  Args:
    rows: policy -> the row of `evaluators.preference`.
  """
  with _figure(height=3.3) as (fig, result):
    ax = fig.subplots()
    for x, (policy, row) in enumerate(rows.items()):
      value, (low, high) = row['win_rate'], row['ci95']
      ax.bar(x, value, 0.62, color=color(policy))
      _whisker(ax, x, low, high)
      held_out = row['heldout_labelers']
      low2, high2 = held_out['ci95']
      ax.plot([x + 0.4] * 2, [low2, high2], color=INK, lw=1)
      ax.plot(
        x + 0.4,
        held_out['win_rate'],
        'D',
        ms=4.5,
        color=color(policy),
        mec=INK,
        mew=0.8,
      )
      ax.text(
        x,
        max(high, high2) + 0.02,
        f'{100 * value:.0f}%',
        ha='center',
        va='bottom',
      )
    ax.axhline(0.5, color=INK, lw=0.8, ls=(0, (4, 3)))
    ax.set_xticks(range(len(rows)), [label(p) for p in rows])
    ax.set_xlim(-0.5, len(rows) - 0.3)
    ax.set_ylim(0, 1.1)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
    ax.set_ylabel('win rate against SFT')
    ax.plot([], [], 's', ms=7, color='#8c8c8c', label='judge')
    ax.plot(
      [], [], 'D', ms=4.5, color='#8c8c8c', mec=INK, label='held-out labelers'
    )
    ax.legend(
      loc='lower left',
      bbox_to_anchor=(-0.02, 1.0),
      ncols=2,
      handletextpad=0.2,
      columnspacing=1.2,
    )
  return result()


def bar_panels(panels: Sequence[Panel], *, columns: int = 2) -> str:
  """Small multiples of horizontal bars with intervals, names at the left."""
  columns = min(columns, len(panels))
  num_rows = math.ceil(len(panels) / columns)
  bars = max(len(panel.summaries) for panel in panels)
  # Percentages of one figure share a scale, so that bars compare.
  percent_top = max([_end(panel) for panel in panels if panel.percent] or [1.0])
  with _figure(height=num_rows * (0.2 * bars + 0.7)) as (fig, result):
    fig.get_layout_engine().set(h_pad=0.12)
    axes = fig.subplots(num_rows, columns, squeeze=False).flat
    for i, ax in enumerate(axes):
      if i < len(panels):
        _bars(
          ax,
          panels[i],
          named=i % columns == 0,
          top=percent_top if panels[i].percent else _end(panels[i]),
        )
      else:
        ax.set_axis_off()
  return result()


def _end(panel: Panel) -> float:
  """Where the longest bar or interval of a panel ends."""
  ends = [
    end
    for summary in panel.summaries.values()
    if summary.get('value') is not None
    for end in (summary['value'], *(summary.get('ci95') or ()))
  ]
  return max(ends, default=0.0) or 1.0


def _bars(ax, panel: Panel, *, named: bool, top: float) -> None:
  shown = panel.summaries
  for y, (policy, summary) in enumerate(shown.items()):
    text, end = 'none', 0.0
    if summary.get('value') is not None:
      low, high = summary.get('ci95') or [summary['value']] * 2
      ax.barh(y, summary['value'], 0.72, color=color(policy))
      _whisker(ax, y, low, high, horizontal=True)
      scale, sign = (100, '%') if panel.percent else (1, '')
      text = f'{scale * summary["value"]:.{panel.digits}f}{sign}'
      end = max(summary['value'], high)
    ax.text(end + 0.02 * top, y, text, va='center', fontsize=8.5)
  n = num_items(shown)
  ax.set_title(
    textwrap.fill(panel.title + (f' ({n})' if n else ''), _TITLE_WIDTH)
  )
  ax.set_ylim(len(shown) - 0.45, -0.55)
  ax.set_yticks(
    range(len(shown)), [label(p) for p in shown] if named else [''] * len(shown)
  )
  ax.tick_params(axis='y', length=0)
  ax.set_xlim(0, 1.27 * top)
  ax.set_xticks([])
  ax.spines['bottom'].set_visible(False)


def curves(
  panels: Sequence[tuple[str, Sequence[Curve]]],
  *,
  columns: int = 2,
  xlabel: str = 'iteration',
) -> str:
  """Training curves; one panel per quantity, one line per run.

  Args:
    panels: (title, curves of that quantity).
    columns: panels beside each other.
    xlabel: unit of the steps.
  """
  columns = min(columns, len(panels))
  num_rows = math.ceil(len(panels) / columns)
  with _figure(height=0.35 + 1.5 * num_rows) as (fig, result):
    fig.get_layout_engine().set(h_pad=0.08)
    axes = fig.subplots(num_rows, columns, squeeze=False).flat
    lines = {}
    for i, ax in enumerate(axes):
      if i >= len(panels):
        ax.set_axis_off()
        continue
      title, drawn = panels[i]
      for curve in drawn:
        marker = 'o' if len(curve.steps) <= 12 else None
        (lines[curve.label],) = ax.plot(
          curve.steps,
          curve.values,
          color=curve.color,
          lw=1.5,
          ls=(0, (4, 2)) if curve.dashed else '-',
          marker=marker,
          ms=3,
          label=curve.label,
        )
      ax.set_title(textwrap.fill(title, _TITLE_WIDTH))
      ax.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
      ax.yaxis.set_major_locator(ticker.MaxNLocator(4))
      ax.xaxis.set_major_formatter('{x:,.0f}')
      ax.grid(color='#8c8c8c', alpha=0.25, lw=0.6)
      if i >= len(panels) - columns:
        ax.set_xlabel(xlabel)
    fig.legend(
      handles=list(lines.values()),
      loc='outside upper left',
      ncols=max(1, len(lines)),
      handlelength=1.4,
    )
  return result()


def sweep(
  panels: Sequence[tuple[str, Sequence[Line]]],
  *,
  xlabel: str,
  log: bool = False,
  columns: int = 2,
) -> tuple[str, bytes]:
  """What depends on a swept field: the mean over seeds and each seed.

  Args:
    panels: (title, lines of that quantity); all are over the same field.
    xlabel: the field.
    log: whether its axis is logarithmic; 0 stands at the left of the others.
    columns: panels beside each other.

  Returns:
    SVG to stand inside a page, and a PNG with a white ground.
  """
  values = dict.fromkeys(
    x for _, lines in panels for line in lines for x, *_ in line.points
  )
  at = _positions(list(values), log)
  columns = min(columns, len(panels))
  num_rows = math.ceil(len(panels) / columns)
  with _figure(height=0.5 + 1.7 * num_rows) as (fig, result):
    fig.get_layout_engine().set(h_pad=0.08)
    axes = fig.subplots(num_rows, columns, squeeze=False).flat
    shown = {}
    for i, ax in enumerate(axes):
      if i >= len(panels):
        ax.set_axis_off()
        continue
      title, lines = panels[i]
      for line, ink, mark in zip(lines, _LINE_COLORS * 3, _MARKS * 3):
        shown.setdefault(line.label, _draw_line(ax, line, at, ink, mark))
      ax.set_title(textwrap.fill(title, _TITLE_WIDTH))
      dense = dict(rotation=90, fontsize=7.5) if len(values) > 4 else {}
      ax.set_xticks(
        [at[x] for x in values], [_tick(x) for x in values], **dense
      )
      ax.yaxis.set_major_locator(ticker.MaxNLocator(4))
      ax.grid(color='#8c8c8c', alpha=0.25, lw=0.6)
      ax.margins(0.08, 0.12)
      if i >= len(panels) - columns:
        ax.set_xlabel(xlabel)
    if len(shown) > 1:
      fig.legend(
        handles=list(shown.values()),
        loc='outside upper left',
        ncols=1 if max(map(len, shown)) > 20 else min(3, len(shown)),
        handlelength=1.6,
      )
  return result(), result('png')


# By the side of the marks, so that lines are told apart without colour.
_LINE_COLORS = (*COLORS.values(),)[::-1]
_MARKS = ('o', 's', '^', 'D', 'v')


def _draw_line(ax, line: Line, at: Mapping, ink: str, mark: str):
  """The means, their spread, and the seeds, faintly."""
  points = sorted((at[x], *rest) for x, *rest in line.points)
  for x, values, mean, spread in points:
    ax.plot(
      [x] * len(values), values, mark, color=ink, ms=3, alpha=0.45, mec='none'
    )
    ax.plot(
      [x, x],
      [mean - (spread or 0), mean + (spread or 0)],
      color=ink,
      lw=1.2,
      solid_capstyle='butt',
    )
  (handle,) = ax.plot(
    [x for x, *_ in points],
    [mean for *_, mean, _ in points],
    color=ink,
    lw=1.5,
    marker=mark,
    ms=4.5,
    label=line.label,
  )
  return handle


def _positions(values: Sequence, log: bool) -> dict:
  """Value of a field -> its place on the axis."""
  if any(
    isinstance(x, bool) or not isinstance(x, (int, float)) for x in values
  ):
    return {x: i for i, x in enumerate(values)}
  if not log or min(values) < 0:
    return {x: float(x) for x in values}
  above = sorted(math.log10(x) for x in values if x > 0)
  steps = sorted(b - a for a, b in zip(above, above[1:])) or [1.0]
  zero = (above[0] if above else 0.0) - steps[len(steps) // 2]
  return {x: math.log10(x) if x else zero for x in values}


def _tick(x) -> str:
  number = isinstance(x, float) or isinstance(x, int) and abs(x) >= 1e5
  return f'{x:.3g}' if number else str(x)


def scaling(
  chips: Sequence[int],
  times: Mapping[str, Sequence[float]],
  ideal: Sequence[float],
  shares: Mapping[str, Sequence[float]],
) -> str:
  """Time, and the share that communication takes of it, against chips.

  Args:
    chips: of each slice.
    times: what is timed -> seconds on each slice; the whole comes first.
    ideal: seconds of the whole if it scaled linearly.
    shares: what is timed -> fractions of its time.
  """
  with _figure(height=2.9) as (fig, result):
    left, right = fig.subplots(1, 2)
    for (name, seconds), paint in zip(times.items(), _PARTS):
      style = dict(color=paint, lw=1.5, marker='o', ms=3.5)
      left.plot(chips, seconds, label=name, **style)
      right.plot(chips, shares[name], **style)
    left.plot(chips, ideal, color=INK, lw=1, ls=(0, (4, 3)), label='ideal')
    left.set_title('seconds, at least')
    right.set_title('communication alone')
    left.set_yscale('log', base=10)
    left.yaxis.set_major_formatter('{x:,g}')
    left.yaxis.set_minor_formatter(ticker.NullFormatter())
    right.set_ylim(0, 1.05)
    right.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
    for ax in (left, right):
      ax.set_xscale('log', base=2)
      ax.set_xticks(chips, [f'{n:,}' for n in chips])
      ax.xaxis.set_minor_locator(ticker.NullLocator())
      ax.set_xlabel('chips')
      ax.grid(color='#8c8c8c', alpha=0.25, lw=0.6)
    fig.legend(
      loc='outside upper left',
      ncols=len(times) + 1,
      handlelength=1.4,
      columnspacing=1.2,
    )
  return result()


def selection(table: Sequence[Mapping], selected: int) -> str:
  """Validation loss and reward-model score of each SFT epoch."""
  with _figure(height=2.3) as (fig, result):
    for ax, key, title, best in zip(
      fig.subplots(1, 2),
      ('validation_loss', 'rm_score'),
      ('validation loss', 'reward-model score'),
      (min, max),
    ):
      values = {row['epoch']: row[key] for row in table if row[key] is not None}
      ax.set_title(title)
      if values:
        ax.plot(*zip(*values.items()), 'o-', color=color('sft'), ms=4, lw=1.5)
        at = best(values, key=values.get)
        ax.plot(at, values[at], 'o', ms=4, color=INK)
      if selected in values:
        ax.plot(
          selected, values[selected], 'o', ms=9, mfc='none', mec=INK, mew=1.2
        )
      ax.set_xlabel('epoch')
      ax.margins(0.12)
      ax.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
      ax.yaxis.set_major_locator(ticker.MaxNLocator(4))
      ax.grid(color='#8c8c8c', alpha=0.25, lw=0.6)
  return result()


def _whisker(ax, at, low, high, *, horizontal: bool = False) -> None:
  ends = ([low, high], [at, at]) if horizontal else ([at, at], [low, high])
  ax.plot(*ends, color=INK, lw=1, solid_capstyle='butt')


@contextlib.contextmanager
def _figure(*, height: float):
  """Yields a figure, and a function that draws it as SVG to stand inside a
  page, or as 'png'.
  """

  def draw(kind: str = 'svg'):
    with matplotlib.rc_context(_STYLE):
      if kind == 'png':
        fig.patch.set_alpha(1)
        buffer = io.BytesIO()
        fig.savefig(buffer, format='png', dpi=200, facecolor='white')
        return buffer.getvalue()
      fig.patch.set_alpha(0)
      for ax in fig.axes:
        ax.patch.set_alpha(0)
      buffer = io.StringIO()
      fig.savefig(buffer, format='svg', metadata={'Date': None})
      return _inline(buffer.getvalue())

  with matplotlib.rc_context(_STYLE):
    fig = mpl_figure.Figure(figsize=(WIDTH, height), layout='constrained')
    yield fig, draw


def _inline(svg: str) -> str:
  """What may stand in a page: no prologue, no fixed size, no stray ids."""
  svg = svg[svg.index('<svg') :]
  svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
  svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1', svg, count=1)
  svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1', svg, count=1)
  svg = svg.replace(INK, 'currentColor')
  # Ids that nothing refers to repeat from figure to figure. The others (clip
  # paths, glyphs) are named by their content, so repeats are equal.
  used = set(re.findall(r'#([\w.-]+)', svg))
  return re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else '', svg)
