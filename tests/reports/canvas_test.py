"""The canvas of plots: its ticks and its files."""

import re
from xml.etree import ElementTree

from instructrl.reports import canvas


def test_steps_are_ticks_at_different_whole_numbers():
  for steps in ([1], [0, 1], range(9)):
    locator = canvas.whole_ticks(4)
    ticks = locator.tick_values(min(steps) - 0.05, max(steps) + 0.05)
    assert all(tick == round(tick) for tick in ticks)
    assert len({*ticks}) == len(ticks)


def test_a_grid_has_labels_below_each_column_and_no_empty_axes():
  fig, axes = canvas.grid(3, row_height=1.0, xlabel='step')
  assert [ax.get_xlabel() for ax in axes] == ['', 'step', 'step']
  assert sum(ax.axison for ax in fig.axes) == 3 < len(fig.axes)


def test_png_is_an_image_on_white():
  fig, _ = canvas.grid(1, row_height=1.0)
  assert canvas.png(fig).startswith(b'\x89PNG') and fig.patch.get_alpha() == 1


@canvas.styled
def test_a_file_of_its_own_is_dark_on_white():
  fig = canvas.figure(1)
  fig.subplots().plot([0, 1], color=canvas.INK)
  text = canvas.svg(fig)
  assert 'currentColor' in text
  alone = canvas.standalone(text)
  assert 'currentColor' not in alone and alone.startswith('<svg')
  assert alone.index('fill="white"') < alone.index('<g')


@canvas.styled
def test_a_drawing_is_one_file_with_its_legend_above():
  parts = []
  for _ in range(4):
    fig, ax = canvas.panel(1.0, '')
    ax.plot([0, 1])
    parts.append(canvas.svg(fig))
  legend = canvas.legend(ax.lines, 1)
  text = canvas.joined(canvas.Drawing(parts, legend))
  ElementTree.fromstring(text)
  assert text.count('<svg') == 6
  lefts = [float(x) for x in re.findall(r'<svg x="([\d.]+)"', text)]
  tops = [float(y) for y in re.findall(r'<svg x="[\d.]+" y="([\d.]+)"', text)]
  assert lefts == [0, 0, 162, 324, 0]  # points
  assert tops[0] == 0 < tops[1] == tops[3] < tops[4] == tops[1] + 72
  assert canvas.joined(canvas.Drawing(parts[:1])) == parts[0]
