"""The page about all claims as Markdown."""

from instructrl.reports import reproduction_markdown
from instructrl.reports.canvas import Drawing
from tests import docs_test


def section(title, **other):
  return {
    'title': title,
    'paper': 'Fig. 1',
    'note': '',
    'summary': '1 shown',
    'checks': [],
    'tables': [],
    'figures': [('01_wins', 'wins', Drawing(['<svg></svg>'], note='n = 3.'))],
    'commands': {'worlds': 'run worlds'},
    **other,
  }


def test_a_table_at_the_top_links_to_each_claim(tmp_path):
  sections = [section('PPO beats SFT, (mostly)'), section('People’s view')]
  contents = {
    'title': 'All claims',
    'headline': '2 of 2 claims are measured',
    'about': ['Here: a lab.'],
    'command': 'run all',
    'alarms': [],
    'sections': sections,
  }
  text = reproduction_markdown.page(contents)
  assert '| [2. People’s view](#2-peoples-view) | 1 shown |' in text
  (tmp_path / 'figures').mkdir()
  (tmp_path / 'figures' / '01_wins.svg').touch()
  (tmp_path / 'paper.md').touch()
  assert not docs_test.faults_of(tmp_path / 'paper.md', text)
  assert '![wins](figures/01_wins.svg) n = 3.' in text
