"""Results of a sweep, from the files of its runs."""

import json

import pytest

from experiments.ablations import base
from instructrl.orchestration import children
from instructrl.orchestration import graph
from instructrl.orchestration import outcomes
from instructrl.runtime import run_folder

EPOCHS, RATE = 'reward.num_epochs', 'reward.optimizer.peak_lr'


@pytest.fixture(name='config')
def _config():
  config = base.get_config(
    'micro',
    ('reward',),
    (
      ('accuracy', 'reward', 'DONE', 'result.accuracy.heldout.accuracy'),
      ('loss', 'reward', 'metrics.jsonl', 'loss/train'),
    ),
  )
  config.seeds = (0, 1)
  config.plot.x, config.plot.by = EPOCHS, ''
  return config


def sweep_of(config, *points, workdir='/x'):
  return graph.of_sweep(config, points, workdir)


def finish(folder, accuracy, losses=(2.0, 1.0)):
  """Makes a finished run folder of the reward stage."""
  folder.mkdir()
  (folder / 'metrics.jsonl').write_text(
    ''.join(
      json.dumps({'step': i, 'loss/train': loss}) + '\n'
      for i, loss in enumerate(losses)
    )
  )
  run_folder.write_done(
    folder,
    {'seconds': 5, 'result': {'accuracy': {'heldout': {'accuracy': accuracy}}}},
  )


def test_of_metrics_the_last_fifth_is_averaged(tmp_path):
  finish(tmp_path / 'a', 0.5, [9.0] * 8 + [1.0, 2.0])
  read = lambda *place: outcomes.read_measure(tmp_path / 'a', *place)
  assert read('metrics.jsonl', 'loss/train') == 1.5
  assert read('DONE', 'result.accuracy.heldout.accuracy') == 0.5
  assert read('metrics.jsonl', 'loss/train@rise') == 2.0 - 9.0
  for file, place, message in [
    ('metrics.jsonl', 'loss', "metrics.jsonl has no metric 'loss'"),
    ('DONE', 'result.accuracy', "DONE has no number at 'result.accuracy'"),
    ('results.json', 'x', 'results.json does not exist'),
  ]:
    with pytest.raises(outcomes.MissingError, match=message):
      read(file, place)


def test_mean_and_spread_are_over_the_seeds_that_are_done(tmp_path, config):
  sweep = sweep_of(config, {EPOCHS: 1}, {EPOCHS: 2})
  accuracies = iter((0.5, 0.7, 0.6))
  for point in sweep.points[:3]:
    finish(tmp_path / point.runs['reward'], next(accuracies))
  last = sweep.points[3].runs['reward']
  found = outcomes.collect(
    'name',
    config,
    sweep,
    tmp_path,
    {last: children.FAILED},
    {last: 'error: no'},
  )
  assert [p['status'] for p in found['points']] == ['done'] * 3 + ['failed']
  assert found['points'][2]['measures'] == {'accuracy': 0.6, 'loss': 1.0}
  assert found['points'][2]['results']['reward']['seconds'] == 5
  assert found['settings'][0]['measures']['accuracy'] == {
    'mean': pytest.approx(0.6),
    'values': [0.5, 0.7],
    'spread': pytest.approx(0.1 * 2**0.5),
  }
  assert found['settings'][1]['measures']['accuracy']['spread'] is None
  assert found['failed'] == {
    last: {
      'title': 'reward (num_epochs=2, seed 1)',
      'reason': 'error: no',
      'log': str(tmp_path / last / 'log.txt'),
    }
  }
  assert outcomes.table(found) == (
    ['num_epochs', 'accuracy', 'loss', 'seeds'],
    [['1', '0.60 ± 0.14', '1 ± 0', '2 of 2'], ['2', '0.6', '1', '1 of 2']],
  )


@pytest.mark.parametrize(
  'states, status',
  [
    ({'reward': 'left', 'sft': 'failed'}, 'failed'),
    ({'reward': 'left', 'sft': 'interrupted'}, 'interrupted'),
    ({'reward': 'running'}, 'running'),
    ({'reward': 'left'}, 'left'),
    ({'reward': 'done', 'sft': 'left'}, 'done'),
  ],
)
def test_a_point_is_as_its_runs_are(tmp_path, config, states, status):
  sweep = sweep_of(config, {EPOCHS: 1})
  runs = sweep.points[0].runs
  found = outcomes.collect(
    'name',
    config,
    sweep,
    tmp_path,
    {runs[stage]: state for stage, state in states.items()},
    {},
  )
  assert found['points'][0]['status'] == status


def test_all_files_are_written_and_what_is_missing_is_told(tmp_path, config):
  config.measures += (('odd <b>', 'reward', 'DONE', 'nothing'),)
  config.plot.by = RATE
  points = [{EPOCHS: e, RATE: r} for e in (1, 2) for r in (1e-3, 2e-3)]
  sweep = sweep_of(config, *points)
  for point in sweep.points:
    finish(tmp_path / point.runs['reward'], 0.5 + 0.1 * point.seed)
  found = outcomes.collect('name', config, sweep, tmp_path, {}, {})
  assert len(found['missing']) == 8
  folder = tmp_path / 'out'
  folder.mkdir()
  outcomes.write(folder, found, 'The title & more.\n\nWhat\nwas found.')
  assert json.loads((folder / 'sweep.json').read_text()) == found
  assert (folder / 'table.md').read_text().splitlines()[2] == (
    '| 1 | 0.001 | 0.550 ± 0.071 | 1 ± 0 |  | 2 of 2 |'
  )
  assert (folder / 'figure.png').read_bytes()[:4] == b'\x89PNG'
  page = (folder / 'index.html').read_text()
  assert '<p class="soft">What was found.</p>' in page
  assert '<h1>The title &amp; more.</h1>' in page and '<svg' in page
  assert 'odd &lt;b&gt;: ' in page and 'odd <b>' not in page
  assert f'href="../{sweep.points[0].runs["reward"]}"' in page
  (lines,) = [
    lines for title, lines in outcomes._panels(found) if title == 'accuracy'
  ]
  assert [(line.label, [x for x, *_ in line.points]) for line in lines] == [
    ('peak_lr 0.001', [1, 2]),
    ('peak_lr 0.002', [1, 2]),
  ]


def test_statements_are_judged_beside_lines(tmp_path, config):
  """The page, the table and sweep.json have the verdicts."""
  loss = 'result.accuracy.heldout.accuracy'
  config.lines = (('accuracy', 'GPT', 'reward', 'DONE', loss),)
  config.plot.label = 'passes'
  config.expected = (
    dict(
      statement='More epochs are worse',
      paper='plainly worse',
      measure='accuracy',
      terms=((1, {EPOCHS: 2}), (-1, {EPOCHS: 1})),
      region='negative',
      unit='points',
    ),
  )
  sweep = sweep_of(config, {EPOCHS: 1}, {EPOCHS: 2})
  for point, accuracy in zip(sweep.points, (0.7, 0.72, 0.6, 0.63)):
    finish(tmp_path / point.runs['reward'], accuracy)
  found = outcomes.collect('name', config, sweep, tmp_path, {}, {})
  assert found['lines'] == {'accuracy': {'GPT': pytest.approx(0.6625)}}
  (row,) = found['verdicts']
  assert row['verdict'] == 'shown' and row['region'] == [None, 0]
  outcomes.write(tmp_path, found, 'A title')
  assert json.loads((tmp_path / 'sweep.json').read_text()) == found
  line = (
    '| More epochs are worse | plainly worse | shown | −9.5 (−15.9 to −3.1) '
    'points | accuracy: num_epochs 2 minus num_epochs 1 | 2 |'
  )
  assert line in (tmp_path / 'table.md').read_text()
  page = (tmp_path / 'index.html').read_text()
  assert 'What must be seen' in page and '>GPT</text>' in page
  assert '>passes</text>' in page and '>num_epochs</text>' not in page
  config.expected = ()
  found = outcomes.collect('name', config, sweep, tmp_path, {}, {})
  outcomes.write(tmp_path, found, 'A title')
  assert 'What must be seen' not in (tmp_path / 'index.html').read_text()


def test_a_checkpoint_is_drawn_at_its_step():
  assert outcomes._place('../ppo/checkpoints/00000040') == 40
  assert outcomes._place('../pretrain') == '../pretrain'
  assert outcomes._value('../ppo/checkpoints/00000040') == '40'


def test_nothing_is_drawn_of_nothing(tmp_path, config):
  found = outcomes.collect(
    'name', config, sweep_of(config, {EPOCHS: 1}), tmp_path, {}, {}
  )
  outcomes.write(tmp_path, found, 'A title')
  assert not (tmp_path / 'figure.png').exists()
  assert '0 of 2' in (tmp_path / 'index.html').read_text()


@pytest.mark.parametrize(
  'by, fields, label',
  [
    ('', [{EPOCHS: 1, RATE: 2e-3}, {EPOCHS: 2, RATE: 1e-3}], ['']),
    (
      RATE,
      [
        {EPOCHS: 1, RATE: 1e-3, 'reward.batch_size': 8},
        {EPOCHS: 1, RATE: 2e-3, 'reward.batch_size': 16},
      ],
      ['peak_lr 0.001', 'peak_lr 0.002'],
    ),
    (
      '',
      [{EPOCHS: 1, RATE: 1e-3}, {EPOCHS: 1, RATE: 2e-3}],
      ['peak_lr 0.001', 'peak_lr 0.002'],
    ),
  ],
)
def test_a_line_is_named_by_what_tells_its_points_apart(
  tmp_path, config, by, fields, label
):
  config.plot.by = by
  sweep = sweep_of(config, *fields)
  for point in sweep.points:
    finish(tmp_path / point.runs['reward'], 0.5)
  found = outcomes.collect('name', config, sweep, tmp_path, {}, {})
  (_, lines), _ = outcomes._panels(found)
  assert [line.label for line in lines] == label


def test_a_panel_has_a_line_for_each_policy_over_the_parameters(
  tmp_path, config
):
  """As Fig. 1: a panel for a quantity, and the size of the model below it."""
  config.measures = (
    ('size', 'reward', 'metrics.jsonl', 'loss/train'),
    ('sft: wins', 'reward', 'DONE', 'result.accuracy.heldout.accuracy'),
    ('ppo: wins', 'reward', 'DONE', 'result.accuracy.heldout.accuracy'),
  )
  config.plot.at, config.plot.lines = 'size', True
  config.plot.label = 'parameters'
  config.paper = (('ppo: wins', 2, 0.6), ('ppo: wins', 9, 0.7))
  sweep = sweep_of(config, {EPOCHS: 1}, {EPOCHS: 2})
  for i, one in enumerate(sweep.points):
    size = 2e5 if one.overrides[EPOCHS] == 1 else 3e6
    finish(tmp_path / one.runs['reward'], 0.1 * i, [size])
  found = outcomes.collect('name', config, sweep, tmp_path, {}, {})
  ((title, lines),) = outcomes._panels(found)
  assert title == 'wins'
  assert [line.label for line in lines] == ['sft', 'ppo']
  assert [x for x, *_ in lines[0].points] == [2e5, 3e6]
  # The paper's number is at the same setting; there is no setting 9.
  assert [line.paper for line in lines] == [[], [(3e6, 0.6)]]
  svg, _ = outcomes.figure(found)
  texts = '0.2M', '3M', 'ppo', 'parameters', 'hollow: the paper'
  assert all(text in svg for text in texts)
  assert outcomes.figure(found, 'win')[0] == svg
  assert outcomes.figure(found, '^ppo') == ('', b'')


def test_a_single_point_of_several_shows_no_shape(tmp_path, config):
  sweep = sweep_of(config, {EPOCHS: 1}, {EPOCHS: 2})
  for point in sweep.points:
    before = outcomes.collect('name', config, sweep, tmp_path, {}, {})
    assert outcomes.figure(before) == ('', b'')
    finish(tmp_path / point.runs['reward'], 0.1)
    if point.overrides[EPOCHS] == 2:
      break
  found = outcomes.collect('name', config, sweep, tmp_path, {}, {})
  assert outcomes.figure(found)[0]


@pytest.mark.parametrize(
  'mean, spread, text',
  [
    (0.12345, 0.0012, '0.1235 ± 0.0012'),
    (1234.5, 12.0, '1234 ± 12'),
    (1234.5, 250.0, '1234 ± 250'),
    (-0.5, 0.25, '-0.50 ± 0.25'),
    (0.12345, None, '0.123'),
    (0.12345, 0.0, '0.123 ± 0'),
    (2.0, 1e-9, '2 ± 1e-09'),
  ],
)
def test_a_mean_is_told_as_finely_as_its_spread(mean, spread, text):
  assert outcomes._cell({'mean': mean, 'spread': spread}) == text
