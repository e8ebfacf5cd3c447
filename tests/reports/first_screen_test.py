"""The first screen: its sentence, and its figures beside the paper's."""

from instructrl.reports import first_screen
from instructrl.reports import report
from tests.reports import real_report_test
from tests.reports import report_test

finished = report_test.finished  # fixtures
study = real_report_test.study


def test_the_lab_has_three_figures_of_the_paper(finished):
  _, results, html = finished
  assert first_screen.title(results).startswith('PPO-ptx is preferred to SFT')
  figures = first_screen.key_figures(results)
  assert [x['paper'] for x in figures] == [
    '85 ± 3%',
    '43% and 22%',
    '70% and 52%',
  ]
  assert [x['value'] for x in figures] == ['95%', '84%', '75%']
  assert figures[1]['text'] == 'constraints kept by PPO-ptx; pretrained: 12%'
  assert figures[2]['text'] == 'F1 of reading with PPO-ptx; PPO: 50%'
  first = html[: html.index('What was run')]
  for text in (first_screen.title(results), '85 ± 3%', 'drawn by seed'):
    assert text in first
  assert first.count('style="--c:') == 3


def test_a_square_leads_to_the_row_of_each_finding(finished):
  _, results, html = finished
  strip = html[html.index('<div class="strip">') :]
  strip = strip[: strip.index('</div>')]
  rows = [i for i, row in enumerate(results['expectations'], 1)]
  for i in rows:
    assert f'<details class="finding" id="finding{i}">' in html
  links = strip.count('<a href="#finding')
  assert 25 < links <= len(rows)
  assert strip.count('class="shown"') > 10


def test_real_data_has_the_figures_of_its_own(study):
  report.make_report(study)
  results = report.read_results(study)
  assert first_screen.title(results) == (
    'The reward model scores PPO-ptx 0.70 above SFT on 40 held-out prompts'
  )
  figures = first_screen.key_figures(results)
  assert figures[0] == {
    'value': '66%',
    'text': 'of held-out pairs in the reward model’s order (own)',
    'paper': '72.4 ± 0.4%',
  }
  assert [x['value'] for x in figures[1:]] == ['3.0 nats', '95%']


def test_a_study_with_nothing_measured_has_a_title():
  assert first_screen.title({}) == 'What this run measured'
  assert first_screen.key_figures({}) == []
