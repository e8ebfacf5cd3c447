"""Plots: what they draw, and that they load nothing."""

import re

import pytest

from instructrl.reports import plots
from instructrl.reports.policies import ShownPolicies

SUMMARY = {'value': 0.25, 'ci95': [0.125, 0.5], 'n': 8}


def test_a_figure_is_inline_svg_in_the_colour_of_the_page():
  policies = ShownPolicies(
    {'a': {'label': 'A', 'color': '#123456', 'order': 0}}
  )
  panel = plots.Panel(
    'title', {'b': SUMMARY, 'a': SUMMARY, 'c': {'value': None}}
  )
  (svg,) = plots.bar_panels([panel], policies).panels
  assert [svg] == plots.bar_panels([panel], policies).panels
  assert svg.startswith('<svg') and 'currentColor' in svg
  assert plots.INK not in svg and '#123456' in svg
  # No size of its own, no metadata, and no id that nothing refers to.
  assert not re.search(r'^<svg[^>]* (width|height)=', svg)
  assert '<metadata>' not in svg
  ids = re.findall(r' id="([^"]+)"', svg)
  assert ids and all(f'#{name}' in svg for name in ids)


@pytest.mark.parametrize(
  'values, log, places',
  [
    ([0.0, 0.01, 0.1, 1.0], True, [-3, -2, -1, 0]),
    ([1, 4, 2], False, [1, 4, 2]),
    ([0.0, 0.5], False, [0, 0.5]),
    ([False, True], True, [0, 1]),
    (['b', 'a'], False, [0, 1]),
    ([0.0], True, [-1]),
  ],
)
def test_places_on_an_axis(values, log, places):
  assert list(plots._positions(values, log).values()) == places


def test_a_legend_of_many_lines_has_several_rows():
  """In one row the names of seven policies would be cut."""
  size = lambda drawing: [
    float(x) for x in re.search(r'viewBox="([^"]+)"', drawing.legend)[1].split()
  ]
  line = lambda i: plots.Curve(f'policy {i}', [0, 1], [0.0, 1.0], '#123456')
  few = plots.curves([('a', [line(i) for i in range(4)])])
  many = plots.curves([('a', [line(i) for i in range(7)])])
  assert size(many)[2] == size(few)[2]
  assert size(many)[3] > size(few)[3]


def test_panels_of_zeros_are_a_sentence():
  zero, some = {'a': {'value': 0.004}}, {'a': {'value': 0.5}}
  panels = [plots.Panel('lies', zero), plots.Panel('facts', some)]
  drawn = plots.bar_panels(panels, ShownPolicies())
  assert len(drawn.panels) == 1 and 'facts' in drawn.panels[0]
  assert drawn.note == 'Rounded to 0 for every policy: lies.'
  flat = plots.Curve('p', [0, 1], [0.0, 0.0], '#123456')
  drawn = plots.curves([('clipped', [flat])])
  assert not drawn.panels and drawn.note == '0 throughout: clipped.'


def test_values_of_the_paper_are_hollow_marks_inside_the_panel():
  """The axis reaches the mark, and the legend names it."""
  found = {'ppo': {'value': 0.2, 'ci95': [0.1, 0.3], 'n': 10}}
  shown = ShownPolicies()
  drawn = plots.Panel('true', found, paper={'ppo': 0.8, 'sft': 5.0})
  plain = plots.bar_panels([plots.Panel('true', found)], shown)
  marked = plots.bar_panels([drawn], shown)
  plain, marked = plain.panels[0], marked.panels[0]
  assert plots._end(drawn) == 0.8  # that of a policy without a bar is not drawn
  assert marked.count('<use') > plain.count('<use')
  assert 'the paper' in plots.bar_panels([drawn], shown).legend


def test_a_line_has_its_colour_in_every_panel_of_a_sweep():
  line = lambda label: plots.Line(label, [(1, [0.5], 0.5, None)])
  both, one = ('x', [line('a'), line('b')]), ('y', [line('b')])
  count = lambda panels, color: plots.sweep(panels, xlabel='n')[0].count(color)
  first, second = plots._LINES[:2]
  assert count([both], first) == count([both, one], first)
  assert count([both], second) < count([both, one], second)


def test_a_line_has_the_given_colour_in_every_figure_of_a_sweep():
  line = lambda label: plots.Line(label, [(1, [0.5], 0.5, None)])
  colors = {'a': '#0a0b0c', 'b': '#0d0e0f'}
  svg, _ = plots.sweep([('x', [line('b')])], xlabel='n', colors=colors)
  assert colors['b'] in svg and colors['a'] not in svg
  assert not any(color in svg for color in plots._LINES[:2])


def test_a_level_has_its_dashes_in_every_panel_of_a_sweep():
  line = plots.Line('', [(1, [0.5], 0.5, None), (2, [0.6], 0.6, None)])
  levels = {'x': {'GPT': 0.1, 'start': 0.2}, 'y': {'start': 0.3}}
  panels = [('x', [line]), ('y', [line])]
  svg, _ = plots.sweep(panels, xlabel='n', levels=levels)
  counts = [svg.count(f'stroke-dasharray: {dash}') for dash in ('4,3', '1,2')]
  assert counts == [2, 3]  # in the panels and in the legend


def test_names_are_not_joined_by_a_line():
  def paths(first, second, **other):
    points = [(first, [0.5], 0.5, None), (second, [0.6], 0.6, None)]
    panels = [('x', [plots.Line('', points)])]
    svg, _ = plots.sweep(panels, xlabel='n', **other)
    return svg.count('fill: none')

  assert paths(1, 2) == 1 + paths(1, 2, joined=False)
  assert paths('../sft', '../nlp') == paths(1, 2, joined=False)
  assert '../' not in plots._tick('../sft') and plots._tick(True) == 'on'
