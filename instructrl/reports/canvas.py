"""The canvas of a plot: style, size, grid of panels, and output as SVG or PNG.

Text and axes use the page's own colour (`currentColor`), so that plots follow
light and dark mode. A plot of several panels is a `Drawing`, whose panels the
page arranges: two in a row on a phone, four on a desktop. Other plots are drawn
at about the width of a phone. Pages enlarge both and never shrink them.
"""

from collections.abc import Sequence
import dataclasses
import functools
import io
import math
import re
import textwrap

import matplotlib
from matplotlib import figure as mpl_figure
from matplotlib import ticker

INK = '#010203'  # becomes `currentColor` in the page
GRAY = '#8c8c8c'
WIDTH = 4.5  # inches; one point is then about 1.1 pixels on a phone
PANEL = 2.25  # inches, of a panel of a `Drawing`
COLUMNS = 2  # of a grid
_IN_FILE = 3  # panels in a row of a file
_TITLE_WIDTH = 25  # characters
_PANEL_TITLE_WIDTH = 29
# Ticks at whole numbers, also where a single point leaves no room for two.
whole_ticks = functools.partial(ticker.MaxNLocator, integer=True, min_n_ticks=1)
styled = matplotlib.rc_context(
  {
    'svg.fonttype': 'none',
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
    'legend.handlelength': 1.4,
    'xtick.labelsize': 8.5,
    'ytick.labelsize': 8.5,
    'legend.fontsize': 8.5,
    'grid.color': GRAY,
    'grid.alpha': 0.25,
    'grid.linewidth': 0.6,
    'lines.linewidth': 1.5,
    'lines.solid_capstyle': 'butt',
  }
)


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A plot, as the parts that a page arranges.

  Attributes:
    panels: inline SVG of each panel.
    legend: inline SVG of the marks that need a name, or ''.
    note: a sentence about what has no panel, or ''.
    wide: whether it is a single plot, `WIDTH` wide.
  """

  panels: Sequence[str] = ()
  legend: str = ''
  note: str = ''
  wide: bool = False


def figure(height: float, width: float = WIDTH) -> mpl_figure.Figure:
  return mpl_figure.Figure(figsize=(width, height), layout='constrained')


def panel(height: float, text: str):
  """Returns (figure, axes) of a panel of a `Drawing`.

  Args:
    height: inches, without that of the title.
    text: the title; it begins at the left of the labels.
  """
  lines = textwrap.wrap(text, _PANEL_TITLE_WIDTH, break_on_hyphens=False)
  fig = figure(height + 0.16 * len(lines), PANEL)
  size = matplotlib.rcParams['axes.titlesize']
  fig.suptitle('\n'.join(lines), x=0.01, ha='left', fontsize=size)
  return fig, fig.subplots()


def legend(handles: Sequence, ncols: int) -> str:
  """Returns the SVG of a legend, `ncols` marks in a row."""
  fig = figure(0.05 + 0.2 * math.ceil(len(handles) / ncols))
  where = dict(loc='upper left', borderpad=0, borderaxespad=0)
  fig.legend(handles=handles, ncols=ncols, handletextpad=0.5, **where)
  return svg(fig)


def grid(count: int, *, row_height: float, head: float = 0.0, xlabel: str = ''):
  """Makes a figure of `count` panels in `COLUMNS` columns.

  Heights are in inches. The lowest axis of each column gets the label.

  Returns:
    (figure, [count] axes, row by row).
  """
  columns = min(COLUMNS, count)
  num_rows = math.ceil(count / columns)
  fig = figure(head + row_height * num_rows)
  fig.get_layout_engine().set(h_pad=0.08)
  axes = fig.subplots(num_rows, columns, squeeze=False).flatten()
  for ax in axes[count:]:
    ax.set_axis_off()
  for ax in axes[count - columns : count]:
    ax.set_xlabel(textwrap.fill(xlabel, _TITLE_WIDTH))
  return fig, axes[:count]


def title(ax, text: str) -> None:
  ax.set_title(textwrap.fill(text, _TITLE_WIDTH, break_on_hyphens=False))


def png(fig) -> bytes:
  fig.patch.set_alpha(1)
  buffer = io.BytesIO()
  fig.savefig(buffer, format='png', dpi=200, facecolor='white')
  return buffer.getvalue()


def svg(fig) -> str:
  """Returns SVG for a page: no prologue, no fixed size, no unused ids."""
  for part in (fig, *fig.axes):
    part.patch.set_alpha(0)
  buffer = io.StringIO()
  fig.savefig(buffer, format='svg', metadata={'Date': None})
  text = buffer.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  for size in ('height', 'width'):
    text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r'\1', text, count=1)
  text = re.sub(r"(font: [\d.]+px )'[^;\"]*", r'\1sans-serif', text)
  text = text.replace(INK, 'currentColor')
  # Unused ids repeat from figure to figure. Used ones (clip paths, glyphs) are
  # hashes of their content, so repeats are equal.
  used = set(re.findall(r'#([\w.-]+)', text))
  return re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else '', text)


def standalone(svg_of_page: str) -> str:
  """Returns SVG of a page as a file of its own, dark on white."""
  end = svg_of_page.index('>') + 1
  white = '<rect width="100%" height="100%" fill="white"/>'
  text = svg_of_page[:end] + white + svg_of_page[end:]
  return text.replace('currentColor', '#1c2128')


def joined(drawing: Drawing) -> str:
  """Returns a drawing as one SVG: the legend above rows of panels."""
  if len(drawing.panels) == 1 and not drawing.legend:
    return drawing.panels[0]
  rows = [[drawing.legend]] if drawing.legend else []
  panels = drawing.panels
  rows += [panels[i : i + _IN_FILE] for i in range(0, len(panels), _IN_FILE)]
  placed, width, top = [], 0.0, 0.0
  for row in rows:
    left, below = 0.0, top
    for part in row:
      w, h = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', part).groups())
      place = f'<svg x="{left:g}" y="{top:g}" width="{w:g}" height="{h:g}"'
      placed.append(part.replace('<svg', place, 1))
      left, below = left + w, max(below, top + h)
    width, top = max(width, left), below
  box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {top:g}"'
  return f'<svg {box}>{"".join(placed)}</svg>'
