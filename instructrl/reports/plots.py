"""Plots of the reports, as inline SVG.

Each policy has one colour, and its name is always written beside the mark.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

from matplotlib import lines as mpl_lines
from matplotlib import ticker

from instructrl.reports import canvas
from instructrl.reports import formats
from instructrl.reports.canvas import Drawing
from instructrl.reports.canvas import GRAY
from instructrl.reports.canvas import INK
from instructrl.reports.policies import ShownPolicies

OTHER = '#009e73'  # a line that is no policy
_PARTS = (INK, '#0072b2', '#e69f00', OTHER)  # a total and its parts
_LINES = ('#9550b0', '#d55e00', '#56b4e9', '#f0c000', GRAY, OTHER)
_MARKS = ('o', 's', '^', 'D', 'v', 'P')  # tell lines apart without colour
_ROOM = 50  # characters in a row of labels
_DASHES = (0, (4, 3))
_LEVELS = (_DASHES, (0, (1, 2)), (0, (7, 2, 1, 2)))  # of horizontal lines


_IN_LEGEND_ROW = 4  # lines of a legend


@dataclasses.dataclass(frozen=True)
class Panel:
  """One group of bars, a bar per policy.

  Attributes:
    title: what is measured.
    summaries: policy -> {'value', 'ci95', 'n'}; a None value has no bar.
    percent: whether to show the values, which are fractions, as percentages.
    digits: decimals of the numbers beside the bars.
    paper: policy -> the paper's value.
  """

  title: str
  summaries: Mapping[str, Mapping]
  percent: bool = True
  digits: int = 0
  paper: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line of a training panel.

  Attributes:
    label: name in the legend.
    steps: [N] training steps.
    values: [N] values at these steps.
    color: of the line.
    dashed: draw dashes, to see two lines that cover each other.
  """

  label: str
  steps: Sequence[float]
  values: Sequence[float]
  color: str
  dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of a panel of a sweep.

  Attributes:
    label: name in the legend; '' if the panel has one line.
    points: (x, values of its seeds, their mean, their spread or None).
    paper: (x, value of the paper).
  """

  label: str
  points: Sequence[tuple[Any, Sequence[float], float, float | None]]
  paper: Sequence[tuple[Any, float]] = ()


# A value of the paper.
_PAPER = dict(
  marker='D', ls='none', ms=5, mfc='none', mec=INK, mew=0.9, zorder=3
)
_HOLLOW = 'hollow: the paper'
_LARGEST = '175B'  # the paper's model whose values are drawn beside bars
# Group of labelers -> its name, mark, and place right of the bar.
_LABELERS = {
  'train_labelers': ('training labelers', 'o', 0.24),
  'heldout_labelers': ('held-out labelers', 'D', 0.4),
}


@canvas.styled
def preference(
  rows: Mapping[str, Mapping],
  policies: ShownPolicies,
  paper: Mapping[str, Mapping[str, float]],
) -> Drawing:
  """Draws win rates against SFT: bars of the judge, marks of labelers.

  Args:
    rows: policy -> its row of `evaluators.preference`.
    policies: their labels and colours.
    paper: group of labelers -> policy -> the paper's win rate.
  """
  fig = canvas.figure(4.0)
  ax = fig.subplots()
  names = policies.sort(rows)
  for x, policy in enumerate(names):
    color, row = policies.color(policy), rows[policy]
    ax.bar(x - 0.1, row['win_rate'], 0.5, color=color)
    ax.plot([x - 0.1] * 2, row['ci95'], color=INK, lw=1)
    # Above its bar the number would cover marks.
    text, below = f'{row["win_rate"]:.0%}', dict(textcoords='offset points')
    ax.annotate(text, (x, 0), (0, -3), ha='center', va='top', **below)
    for group, (_, mark, place) in _LABELERS.items():
      found = row[group]
      ax.plot([x + place] * 2, found['ci95'], color=INK, lw=1)
      filled = dict(ms=4.5, color=color, mec=INK, mew=0.8)
      ax.plot(x + place, found['win_rate'], mark, **filled)
      if policy in paper[group]:
        drawn = paper[group][policy]
        ax.plot(x + place, drawn, **{**_PAPER, 'marker': mark, 'ms': 6})
  ax.axhline(0.5, color=INK, lw=0.8, ls=_DASHES)
  labels = [policies.label(name) for name in names]
  crowded = len(labels) * max(map(len, labels)) > _ROOM
  slanted = dict(rotation=25, ha='right', rotation_mode='anchor')
  ax.set_xticks(range(len(names)), labels, **(slanted if crowded else {}))
  ax.tick_params(axis='x', pad=15, length=0)
  ax.set_xlim(-0.5, len(rows) - 0.3)
  ax.set_ylim(0, 1.1)
  ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
  ax.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
  ax.set_ylabel('win rate against SFT')
  ax.plot([], [], 's', ms=7, color=GRAY, label='judge')
  for label, mark, _ in _LABELERS.values():
    ax.plot([], [], mark, ms=4.5, color=GRAY, mec=INK, label=label)
  ax.plot([], [], **_PAPER, label=f'{_HOLLOW}, {_LARGEST}')
  above = dict(loc='lower left', bbox_to_anchor=(-0.02, 1.0))
  ax.legend(ncols=2, handletextpad=0.2, columnspacing=1.2, **above)
  return Drawing([canvas.svg(fig)], wide=True)


@canvas.styled
def bar_panels(
  panels: Sequence[Panel], policies: ShownPolicies, models: str = _LARGEST
) -> Drawing:
  """Draws small multiples of horizontal bars with intervals.

  A panel whose values all round to 0 becomes a part of the note.

  Args:
    panels: the groups of bars.
    policies: their labels and colours.
    models: whose values the paper's are.
  """
  zeros = [panel.title for panel in panels if not _seen(panel)]
  panels = [panel for panel in panels if _seen(panel)]
  # Percentages of one figure share a scale, so that bars compare.
  percent_top = max([_end(panel) for panel in panels if panel.percent] or [1.0])
  drawn = []
  for panel in panels:
    n = formats.count_items(panel.summaries)
    title = panel.title + (f' ({n})' if n else '')
    fig, ax = canvas.panel(0.2 * len(panel.summaries) + 0.15, title)
    _bars(ax, panel, policies, percent_top if panel.percent else _end(panel))
    drawn.append(canvas.svg(fig))
  legend = ''
  if any(panel.paper for panel in panels):
    mark = mpl_lines.Line2D([], [], **_PAPER, label=f'{_HOLLOW}, {models}')
    legend = canvas.legend([mark], 1)
  note = f'Rounded to 0 for every policy: {"; ".join(zeros)}.' if zeros else ''
  return Drawing(drawn, legend, note)


def _seen(panel: Panel) -> bool:
  values = [summary.get('value') or 0.0 for summary in panel.summaries.values()]
  return any(_text(panel, value) != _text(panel, 0.0) for value in values)


def _text(panel: Panel, value: float) -> str:
  scale, sign = (100, '%') if panel.percent else (1, '')
  return f'{scale * value:.{panel.digits}f}{sign}'


def _end(panel: Panel) -> float:
  """Returns where the longest bar or interval of a panel ends."""
  ends = [
    end
    for summary in panel.summaries.values()
    if summary.get('value') is not None
    for end in (summary['value'], *(summary.get('ci95') or ()))
  ]
  ends += [x for policy, x in panel.paper.items() if policy in panel.summaries]
  return max(ends, default=0.0) or 1.0


def _bars(ax, panel: Panel, policies: ShownPolicies, top: float) -> None:
  names = policies.sort(panel.summaries)
  for y, policy in enumerate(names):
    summary = panel.summaries[policy]
    value, text = summary.get('value'), 'none'
    if value is not None:
      ci95 = summary.get('ci95') or [value, value]
      ax.barh(y, value, 0.72, color=policies.color(policy))
      ax.plot(ci95, [y, y], color=INK, lw=1)
      text = _text(panel, value)
    if policy in panel.paper:
      ax.plot(panel.paper[policy], y, **_PAPER)
    right = dict(ha='right', transform=ax.get_yaxis_transform())
    ax.text(1, y, text, va='center', fontsize=8.5, **right)
  ax.set_ylim(len(panel.summaries) - 0.45, -0.55)
  ax.set_yticks(range(len(names)), [policies.label(name) for name in names])
  ax.tick_params(axis='y', length=0)
  ax.set_xlim(0, 1.42 * top)
  ax.set_xticks([])
  ax.spines['bottom'].set_visible(False)


@canvas.styled
def curves(
  panels: Sequence[tuple[str, Sequence[Curve]]], *, xlabel: str = 'iteration'
) -> Drawing:
  """Draws training curves: a panel per quantity, a line per run.

  A panel whose values are all 0 becomes a part of the note.

  Args:
    panels: (title, curves of that quantity).
    xlabel: unit of the steps.
  """
  handles: dict[str, Any] = {}
  parts, zeros = [], []
  for title, drawn in panels:
    if not any(value for curve in drawn for value in curve.values):
      zeros.append(title)
      continue
    fig, ax = canvas.panel(1.5, title)
    for curve in drawn:
      dashes = (0, (4, 2)) if curve.dashed else '-'
      mark = 'o' if len(curve.steps) <= 12 else None
      style = dict(color=curve.color, ls=dashes, marker=mark, ms=3)
      xy = curve.steps, curve.values
      (handles[curve.label],) = ax.plot(*xy, label=curve.label, **style)
    ax.set_xlabel(xlabel)
    ax.xaxis.set_major_locator(canvas.whole_ticks(4))
    ax.yaxis.set_major_locator(ticker.MaxNLocator(4))
    ax.xaxis.set_major_formatter('{x:,.0f}')
    ax.grid()
    parts.append(canvas.svg(fig))
  legend = ''
  if handles:
    legend = canvas.legend([*handles.values()], _IN_LEGEND_ROW)
  note = f'0 throughout: {"; ".join(zeros)}.' if zeros else ''
  return Drawing(parts, legend, note)


@canvas.styled
def sweep(
  panels: Sequence[tuple[str, Sequence[Line]]],
  *,
  xlabel: str,
  log: bool = False,
  joined: bool = True,
  levels: Mapping[str, Mapping[str, float]] | None = None,
  colors: Mapping[str, str] | None = None,
) -> tuple[str, bytes]:
  """Draws measures against a swept field: the mean over seeds and each seed.

  Args:
    panels: (title, lines of that quantity), all over the same field.
    xlabel: name of the field.
    log: whether its axis is logarithmic; 0 is drawn left of the other values.
    joined: whether a line joins the means; it does not if the values are names.
    levels: title -> label -> value of a policy that the field does not change,
      drawn as a dashed line.
    colors: label of a line -> '#rrggbb'; other lines have colours of their own.

  Returns:
    (inline SVG, PNG on white).
  """
  drawn = [line for _, lines in panels for line in lines]
  labels = dict.fromkeys((*(colors or ()), *(line.label for line in drawn)))
  styles = dict(zip(labels, itertools.cycle(zip(_LINES, _MARKS))))
  styles |= {k: (color, styles[k][1]) for k, color in (colors or {}).items()}
  values = list(dict.fromkeys(x for line in drawn for x, *_ in line.points))
  places = _positions(values, log)
  dense = dict(rotation=90, fontsize=7.5) if len(values) > 4 else {}
  size = dict(row_height=1.7 if len(panels) > 1 else 2.6, head=0.5)
  fig, axes = canvas.grid(len(panels), **size, xlabel=xlabel)
  levels, shown = levels or {}, {}
  names = dict.fromkeys(label for level in levels.values() for label in level)
  dashes = dict(zip(names, itertools.cycle(_LEVELS)))
  joined = joined and all(type(x) in (int, float) for x in values)
  for ax, (title, lines) in zip(axes, panels):
    for line in lines:
      style = styles[line.label]
      handle = _draw_line(ax, line, places, *style, joined=joined)
      shown.setdefault(line.label, handle)
    for label, value in levels.get(title, {}).items():
      style = dict(color=INK, lw=1, ls=dashes[label])
      handle = ax.axhline(value, label=label, **style)
      shown.setdefault(label, handle)
    canvas.title(ax, title)
    ax.set_xticks(list(places.values()), list(map(_tick, values)), **dense)
    ax.yaxis.set_major_locator(ticker.MaxNLocator(4))
    ax.grid()
    ax.margins(0.08, 0.12)
  shown.pop('', None)  # the only line of a panel has no name
  if any(line.paper for line in drawn):
    shown['paper'] = mpl_lines.Line2D([], [], **_PAPER, label=_HOLLOW)
  if shown:
    fig.legend(
      handles=list(shown.values()),
      loc='outside upper left',
      ncols=max(1, min(3, len(shown), 40 // max(map(len, shown)))),
      handlelength=1.6,
    )
  return canvas.svg(fig), canvas.png(fig)


def _draw_line(
  ax, line: Line, places: Mapping, color: str, mark: str, *, joined: bool
):
  """Draws means, their spread, faint seeds, and the paper's values.

  Returns:
    The line of means.
  """
  points = sorted((places[x], *rest) for x, *rest in line.points)
  for x, values, mean, spread in points:
    faint = dict(ms=3, alpha=0.45, mec='none')
    ax.plot([x] * len(values), values, mark, color=color, **faint)
    half = spread or 0
    ax.plot([x, x], [mean - half, mean + half], color=color, lw=1.2)
  style = dict(color=color, marker=mark, ms=4.5, label=line.label)
  style |= {} if joined else dict(ls='none')
  means = [mean for *_, mean, _ in points]
  (handle,) = ax.plot([x for x, *_ in points], means, **style)
  if line.paper:
    hollow = dict(color=color, marker=mark, ms=5, mfc='none', mew=0.9)
    xs, values = zip(*((places[x], value) for x, value in line.paper))
    ax.plot(xs, values, lw=0.7, ls=_LEVELS[1], **hollow)
  return handle


def _positions(values: Sequence, log: bool) -> dict:
  """Returns {value of a field: its place on the axis}."""
  if any(type(x) not in (int, float) for x in values):
    return {x: i for i, x in enumerate(values)}
  if not log or min(values) < 0:
    return {x: float(x) for x in values}
  above = sorted(math.log10(x) for x in values if x > 0)
  steps = sorted(b - a for a, b in zip(above, above[1:])) or [1.0]
  zero = (above[0] if above else 0.0) - steps[len(steps) // 2]
  return {x: math.log10(x) if x else zero for x in values}


def _tick(x) -> str:
  if isinstance(x, (int, float)) and abs(x) >= 1e5:
    return f'{x / 1e6:.2g}M'
  if isinstance(x, float) and abs(x) >= 1e4:
    return f'{x / 1e3:.2g}k'
  if isinstance(x, bool):
    return 'on' if x else 'off'
  return f'{x:.3g}' if isinstance(x, float) else str(x).removeprefix('../')


@canvas.styled
def scaling(
  chips: Sequence[int],
  times: Mapping[str, Sequence[float]],
  ideal: Sequence[float],
  shares: Mapping[str, Sequence[float]],
) -> str:
  """Draws time, and the share of communication in it, against chips.

  Args:
    chips: [N] chips of each slice.
    times: what is timed -> [N] seconds; the total comes first.
    ideal: [N] seconds of the total under linear scaling.
    shares: what is timed -> [N] fractions of its time.
  """
  fig = canvas.figure(2.9)
  left, right = fig.subplots(1, 2)
  for (name, seconds), color in zip(times.items(), _PARTS):
    style = dict(color=color, marker='o', ms=3.5)
    left.plot(chips, seconds, label=name, **style)
    right.plot(chips, shares[name], **style)
  left.plot(chips, ideal, color=INK, lw=1, ls=_DASHES, label='ideal')
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
    ax.grid()
  fig.legend(loc='outside upper left', ncols=len(times) + 1, columnspacing=1.2)
  return canvas.svg(fig)


@canvas.styled
def selection(found: Mapping[str, Any], color: str) -> Drawing:
  """Draws validation loss and reward-model score of each SFT epoch.

  Args:
    found: 'epochs', with {'epoch', 'validation_loss', 'rm_score'} of each, and
      'selected_epoch', which gets a ring; None gets none.
    color: of the lines.
  """
  selected = found['selected_epoch']
  fig = canvas.figure(2.3)
  for ax, key, title, best in zip(
    fig.subplots(1, 2),
    ('validation_loss', 'rm_score'),
    ('validation loss', 'reward-model score'),
    (min, max),
  ):
    values = {
      row['epoch']: row[key] for row in found['epochs'] if row[key] is not None
    }
    ax.set_title(title)
    if values:
      ax.plot(*zip(*values.items()), 'o-', color=color, ms=4)
      at = best(values, key=values.get)
      ax.plot(at, values[at], 'o', ms=4, color=INK)
    if selected in values:
      ring = dict(ms=9, mfc='none', mec=INK, mew=1.2)
      ax.plot(selected, values[selected], 'o', **ring)
    ax.set_xlabel('epoch')
    ax.margins(0.12)
    ax.xaxis.set_major_locator(canvas.whole_ticks(5))
    ax.yaxis.set_major_locator(ticker.MaxNLocator(4))
    ax.grid()
  ring = ' Ring: the chosen one.' if selected else ''
  note = f'Black: the best epoch.{ring}'
  return Drawing([canvas.svg(fig)], note=note, wide=True)
