"""The canvas of a plot: style, size, grid of panels, and output as SVG or PNG.

Text and axes use the page's own colour (`currentColor`), so that plots follow
light and dark mode. Plots are drawn at about the width of a phone: pages
enlarge them on a desktop and never shrink them.
"""

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
COLUMNS = 2
_TITLE_WIDTH = 25  # characters
# Ticks at whole numbers, also where a single point leaves no room for two.
whole_ticks = functools.partial(ticker.MaxNLocator, integer=True, min_n_ticks=1)
styled = matplotlib.rc_context(
  {
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


def figure(height: float) -> mpl_figure.Figure:
  return mpl_figure.Figure(figsize=(WIDTH, height), layout='constrained')


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
    ax.set_xlabel(xlabel)
  return fig, axes[:count]


def title(ax, text: str) -> None:
  ax.set_title(textwrap.fill(text, _TITLE_WIDTH))


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
