"""People's win rates, ratings and flags, and their place in the report."""

import json

import pytest

from instructrl.feedback import measures
from instructrl.feedback import questions
from instructrl.reports import people_files
from instructrl.runtime.errors import ConfigError
from tests.feedback import labeling


@pytest.fixture
def desk(tmp_path):
  """Four prompts: model1 beats model0 twice, ties once, loses once."""
  folder = labeling.make(
    tmp_path / 'p', labeling.rows(4, k=2), tasks=('rate', 'rank')
  )
  desk = labeling.open_desk(folder)
  ada = desk.person_of(desk.invite('Ada', 'train'))
  for ranks in ([2, 1], [2, 1], [1, 1], [1, 2]):
    key = desk.next_item(ada)
    for place, response in enumerate(ada.items[key].order):
      rating = dict.fromkeys(questions.QUESTIONS, 0) | {'notes': ''}
      rating |= {'include': 1, 'overall_quality': 7 - ranks[response]}
      rating['hallucination'] = int(response == 0)
      desk.save(ada, key, f'rate/{place}', rating, {})
    desk.save(ada, key, 'rank', {'ranks': ranks}, {})
    desk.submit(ada, key, desk.show_instructions()[0])
  return desk


def test_win_rates_ratings_and_flags(desk):
  found = measures.measure(desk, 'model0')['groups']
  assert list(found) == ['train']
  won = found['train']['win_rate']
  assert list(won) == ['model1'] and won['model1']['n'] == 4
  assert won['model1']['value'] == (1 + 1 + 0.5 + 0) / 4
  low, high = won['model1']['ci95']
  assert 0 <= low < 0.625 < high <= 1
  assert found['train']['likert']['model1']['value'] == 5.75
  assert found['train']['metadata']['model0']['hallucination']['value'] == 1
  with pytest.raises(ConfigError, match='one of model0, model1; got'):
    measures.measure(desk, 'sft')


def test_equal_answers_are_ties(tmp_path):
  """The second of two prompts was not shown; the third was not reached."""
  lines = labeling.rows(4, k=2)
  lines[0]['responses'][1]['also'] = ['model2']
  for line in (lines[1], lines[3]):
    line['responses'] = [
      {'text': 'Yes.', 'model': 'model0', 'also': ['model1']}
    ]
  desk = labeling.open_desk(labeling.make(tmp_path / 'p', lines))
  assert desk.needed()['train'] == 2
  ada = desk.person_of(desk.invite('Ada'))
  for key in ('p0', 'p2'):
    assert desk.next_item(ada) == key
    desk.save(ada, key, 'rank', {'ranks': [2, 1]}, {})
    desk.submit(ada, key, desk.show_instructions()[0])
  assert desk.next_item(ada) is None
  won = measures.measure(desk, 'model0')['groups']['train']['win_rate']
  assert (won['model1']['value'], won['model1']['n']) == (2.5 / 3, 3)
  assert (won['model2']['value'], won['model2']['n']) == (1, 1)
  same = measures.measure(desk, 'model1')['groups']['train']['win_rate']
  assert same['model2']['value'] == 0.5  # one text


def test_nobody_labeled(tmp_path):
  desk = labeling.open_desk(labeling.make(tmp_path / 'p'))
  with pytest.raises(ConfigError, match='nobody has submitted'):
    measures.measure(desk, 'model0')


def test_the_report_has_people_beside_the_judge(desk, tmp_path):
  content = measures.measure(desk, 'model0') | {'reference': 'sft'}
  (tmp_path / 'people.json').write_text(json.dumps(content))
  judged = {'win_rate': 0.7, 'ci95': [0.6, 0.8], 'n': 9}
  likert = {'value': 4.0, 'ci95': [3.0, 5.0], 'n': 9}
  evaluation = {'preference': {'ppo': judged}, 'likert': {'ppo': likert}}
  tables = people_files.read(tmp_path, evaluation)
  assert list(tables['people']) == [
    'win rate against sft, judge',
    'win rate against sft, train labelers',
    'Likert, judge',
    'Likert, train labelers',
  ]
  people = tables['people']['win rate against sft, train labelers']
  assert people['policies']['model1']['value'] == 0.625
  (flag,) = tables['people: flags']
  assert flag == 'hallucination, train labelers'
  (tmp_path / 'people.json').write_text('{"format_version": 0}')
  with pytest.raises(ValueError, match='format_version 0'):
    people_files.read(tmp_path, evaluation)
  assert people_files.read(tmp_path / 'elsewhere', evaluation) == {}
