"""The page about all claims, from studies and ablations that are made up."""

import dataclasses
import json
import math

import pytest

from instructrl.reports import paper_checks
from instructrl.reports import reproduction
from instructrl.reports import shapes
from instructrl.reports import study_files
from instructrl.reports import verdicts
from instructrl.reports.policies import ShownPolicies
from tests.reports import alarms_test
from tests.reports import report_test

CLAIMS = (
  dict(
    title='Order',
    paper='Fig. 1',
    studies='^Preference',
    figures=('preference', 'head_to_head'),
  ),
  dict(
    title='Ablation',
    paper='Fig. 36',
    parts={'kl_coef': '.'},
    panels={'kl_coef': 'Likert'},
    why={
      'larger': 'missing: {probes[base][no_task][value]:.1%}',
      'is worse': 'no room above {probes[base][facts][accuracy][value]:.0%}',
    },
  ),
  dict(
    title='Cost',
    paper='5.1',
    cost=True,
    note='Facts {probes[base][facts][accuracy][value]:.0%}.',
  ),
)


def row(value, half, statement='larger is worse', note=''):
  found = None
  if value is not None:
    found = {'value': value, 'ci95': [value - half, value + half], 'n': 3}
  return verdicts.make_row(
    'Likert', statement, '2.1', 'x', found, verdicts.POSITIVE, '', note
  )


@pytest.fixture(name='written', scope='module')
def fixture_written(tmp_path_factory):
  folder = tmp_path_factory.mktemp('reproduction')
  (folder / 'study').mkdir()
  report_test.write_study(folder / 'study')
  panels = lambda pattern: '<svg></svg>' if pattern == 'Likert' else ''
  studies = reproduction.Evidence(
    'worlds', 'run worlds', (), '2 studies', lambda panels: '<svg></svg>'
  )
  ablation = reproduction.Evidence(
    'kl_coef', 'run kl_coef', [row(-1.0, 0.1)], '3 seeds', panels
  )
  page = reproduction.write(
    folder / 'paper',
    'The paper',
    'run all',
    CLAIMS,
    [folder / 'study'] * 2,
    studies,
    [studies, ablation],
    ['A made-up world.'],
  )
  results = json.loads((page.parent / 'results.json').read_text())
  return page, results


def test_each_statement_is_in_one_place(written):
  _, results = written
  titles = [claim['title'] for claim in results['claims']]
  assert titles == ['Order', 'Ablation', 'Cost', 'Other statements']
  rows = [
    (entry['topic'], entry['statement'], entry['quantity'])
    for claim in results['claims']
    for entry in claim['statements']
  ]
  assert len(rows) == len({*rows}) > 40
  order, ablation, cost, _ = results['claims']
  assert {entry['part'] for entry in order['statements']} == {'worlds'}
  assert cost['statements'] == []  # a table
  (entry,) = ablation['statements']
  assert entry['verdict'] == verdicts.NOT_SHOWN
  # The first reason needs a number that no study has.
  assert entry['why'] == 'no room above 90%'
  assert results['headline'].startswith(
    '1 of 3 claims are measured, 1 in part, 1 has no verdict. Of '
  )


def test_what_studies_cannot_measure_is_left_to_others(written):
  _, results = written
  statements = [
    entry['statement'] for entry in results['claims'][0]['statements']
  ]
  assert not any('a hundred times its size' in text for text in statements)


def test_what_a_study_has_not_measured_is_counted_beside_a_part():
  claim = dict(title='Order', paper='', studies='.', parts={'kl_coef': '.'})
  studies = reproduction.Evidence(
    'worlds',
    'run',
    [row(None, 0.0, 'order'), row(None, 0.0, 'sizes')],
    '2 studies',
  )
  studies.rows[1] = dataclasses.replace(
    studies.rows[1], quantity=paper_checks.SIZES
  )
  part = reproduction.Evidence('kl_coef', 'run', [row(1.0, 0.5)], '3 seeds')
  (_, rows), _ = reproduction.assign([claim], studies, [part])
  section = reproduction._section(
    1, claim, rows, studies, {}, [part], {}, ShownPolicies(), {}
  )
  assert section['measured'] == 'part'
  assert section['summary'] == '1 shown, 1 not measured'


def test_what_a_part_has_not_measured_yet_is_counted(tmp_path):
  missing = verdicts.make_row('', 'later', '', '', None, verdicts.POSITIVE)
  parts = [
    reproduction.Evidence('kl_coef', 'run', [row(1.0, 0.5), missing], '3 seeds')
  ]
  page = reproduction.write(
    tmp_path / 'paper', 'x', 'run', CLAIMS, [], None, parts
  )
  results = json.loads((page.parent / 'results.json').read_text())
  assert results['headline'] == (
    '0 of 3 claims are measured, 1 in part. Of 2 statements of the paper: '
    '1 shown, 1 not measured'
  )


def study_of(world, seed, win_rate):
  found = {'win_rate': win_rate, 'ci95': [win_rate - 0.01, win_rate + 0.01]}
  return study_files.Study(
    header={'seeds': {'world_seed': world, 'train_seed': seed}},
    done={},
    metrics={},
    evaluation={'ppo': found},
    policies=ShownPolicies(),
    data_summary='',
    samples=[],
    answers=[],
    others={},
  )


def test_worlds_are_repetitions_too():
  """Three worlds that differ; the seeds of a world hardly do."""
  studies = [
    study_of(world, seed, 0.52 + 0.02 * world + 0.001 * seed)
    for world in range(3)
    for seed in range(3)
  ]
  pooled = reproduction.pool_studies(studies).evaluation['ppo']
  by_world = reproduction.pool_worlds(studies).evaluation['ppo']
  assert pooled['win_rate'] == pytest.approx(by_world['win_rate'])
  # Student's t over 0.521, 0.541 and 0.561.
  half = 4.302653 * 0.02 / 3**0.5
  ends = by_world['ci95'][1] - by_world['win_rate']
  assert ends == pytest.approx(half)
  rows = [
    verdicts.make_row(
      '', 'PPO wins', '', '', {**v, 'value': v['win_rate']}, verdicts.WINS
    )
    for v in (pooled, by_world)
  ]
  assert [r.verdict for r in rows] == [verdicts.SHOWN, verdicts.UNDECIDED]
  (text,) = reproduction._weaker(rows[:1], rows[1:])
  assert text.startswith('Of the 1 statements of the paper') and (
    'The others would be undecided: PPO wins.' in text
  )


def test_the_page_for_docs_has_its_figures_beside_it(written):
  page, _ = written
  text = (page.parent / 'paper.md').read_text()
  assert '# The paper\n' in text and 'run kl_coef' in text
  for name in ('01_preference', '02_kl_coef'):
    assert f'(figures/{name}.svg)' in text
    svg = (page.parent / 'figures' / f'{name}.svg').read_text()
    assert 'currentColor' not in svg and 'fill="white"' in svg
  assert 'of pretraining' in text  # the table of costs
  assert 'Facts 90%.' in text and 'A made-up world.' in text
  # Statements of the studies have the figures that their claim names only.
  assert 'run worlds' in text and 'worlds.svg' not in text
  html = page.read_text()
  assert 'href="../kl_coef/index.html"' in html and 'PPO-ptx against' in html


def test_alarms_of_a_study_are_above_the_claims(tmp_path):
  """A pooled study has no curves, so that its own alarms would miss them."""
  (tmp_path / 'study').mkdir()
  report_test.write_study(tmp_path / 'study')
  alarms_test.write_metrics(tmp_path / 'study', **{'objective/kl': (0, 138)})
  page = reproduction.write(
    tmp_path / 'paper', 'x', 'run', CLAIMS, [tmp_path / 'study'], None, []
  )
  (alarm,) = json.loads((page.parent / 'results.json').read_text())['alarms']
  html = page.read_text()
  assert html.index(alarm['title']) < html.index('<h1')
  assert (
    f'**Alarm: {alarm["title"]}.**' in (page.parent / 'paper.md').read_text()
  )


@pytest.mark.parametrize(
  'found, reason',
  [
    (row(1.0, 0.5), ''),
    (row(1.0, 0.5, note='both at the ceiling'), ''),
    (row(0.2, 0.5), 'the interval is ± 0.500, and the border is 0.200 away'),
    (row(-1.0, 0.5), 'the reason is unknown'),
    (row(-1.0, 0.5, note='no room'), 'no room'),
    (
      verdicts.make_row('', '', '', '', None, verdicts.POSITIVE),
      'no finished run has this number',
    ),
    (
      verdicts.make_row(
        '', '', '', '', shapes.mean_of([1.0]), verdicts.POSITIVE
      ),
      'a single run has no interval',
    ),
  ],
)
def test_what_is_not_shown_has_a_reason(found, reason):
  text = reproduction.why(found, CLAIMS[0], {})
  assert text.endswith(reason) and bool(text) == bool(reason)


def test_a_verdict_of_a_sweep_is_read_back():
  from_sweep = {
    **row(1.0, 0.5).__dict__,
    'ci95': [0.5, 1.5],
    'region': [0, None],
  }
  found = verdicts.from_json(from_sweep)
  assert found == row(1.0, 0.5) and found.region == (0, math.inf)


def test_a_claim_with_a_wrong_key_is_refused():
  parts = ['kl_coef']
  (message,) = reproduction.faults([*CLAIMS, dict(title='X', part={})], parts)
  assert message == (
    "claim 'X': the keys must be paper, title, and may be cost, figures, "
    'note, panels, parts, studies, why; got part, title'
  )
  wrong = dict(
    title='X', paper='', studies='(', parts={'kl': '.'}, why={'.': 'is {'}
  )
  assert [*reproduction.faults([wrong], parts)] == [
    "claim 'X': parts names 'kl'; the parts are kl_coef",
    "claim 'X': the pattern '(' is invalid: missing ), unterminated subpattern "
    'at position 0',
    "claim 'X': the text 'is {' is invalid: Single '{' encountered in format "
    'string',
  ]
