"""Labels become the records that training reads."""

from instructrl.data.sources import lookup
from instructrl.feedback import exports
from instructrl.feedback import questions
from tests.feedback import labeling


def test_rankings_and_demonstrations_are_read_by_the_source(tmp_path):
  """Ties, ratings, flags, temperatures and the labeler survive the file."""
  lines = labeling.rows(1, split='validation', use_case='brainstorming')
  lines[0]['responses'][2]['temperature'] = 0.5
  folder = labeling.make(
    tmp_path / 'p', lines, tasks=('demonstrate', 'rate', 'rank')
  )
  desk = labeling.open_desk(folder)
  ada = desk.person_of(desk.invite('Ada', 'heldout'))
  key = desk.next_item(ada)
  for place, response in enumerate(ada.items[key].order):
    rating = dict.fromkeys(questions.QUESTIONS, 0)
    rating |= {'include': 1, 'notes': '', 'overall_quality': response + 1}
    rating['harmful_advice'] = int(response == 2)
    desk.save(ada, key, f'rate/{place}', rating, {'unclear': 1})
  desk.save(ada, key, 'demonstrate', {'text': 'Cats, dogs. '}, {'unclear': 1})
  desk.save(ada, key, 'rank', {'ranks': [3, 1, 3]}, {'unclear': 1})
  desk.submit(ada, key, desk.show_instructions()[0])
  counts = exports.write(desk, tmp_path / 'out')
  assert counts == {
    'rankings.jsonl': 1,
    'demonstrations.jsonl': 1,
    'labels.jsonl': 1,
  }
  found = lookup.load(f'jsonl:{tmp_path}/out/rankings.jsonl')
  assert found.records == exports.rankings(desk) and not found.notes
  (ranking,) = found.records
  assert ranking.ranks == (1, 0, 1) and ranking.group == 'heldout'
  assert ranking.prompt.split == 'validation' and ranking.labeler == 'Ada'
  assert ranking.sources == ('model0', 'model1', 'model2')
  assert ranking.temperatures == (1.0, 1.0, 0.5)
  assert [m['overall_quality'] for m in ranking.metadata] == [1, 2, 3]
  assert [m['harmful_advice'] for m in ranking.metadata] == [0, 0, 1]
  (shown,) = lookup.load(f'jsonl:{tmp_path}/out/demonstrations.jsonl').records
  assert shown.response == 'Cats, dogs.' and shown.labeler == 'Ada'
  (line,) = exports.lines(desk)['labels.jsonl']
  assert line['label']['marks'] == {'unclear': 1}
  assert line['label']['order'] == ada.items[key].order


def test_outputs_that_are_not_included_are_left_out(tmp_path):
  folder = labeling.make(
    tmp_path / 'p', labeling.rows(1), tasks=('rate', 'rank')
  )
  desk = labeling.open_desk(folder)
  ada = desk.person_of(desk.invite('Ada'))
  key = desk.next_item(ada)
  for place, response in enumerate(ada.items[key].order):
    rating = dict.fromkeys(questions.QUESTIONS, 0)
    rating |= {'include': int(response != 1), 'notes': '', 'overall_quality': 4}
    desk.save(ada, key, f'rate/{place}', rating, {})
  desk.save(ada, key, 'rank', {'ranks': [3, 1, 2]}, {})
  desk.submit(ada, key, desk.show_instructions()[0])
  (ranking,) = exports.rankings(desk)
  assert ranking.sources == ('model0', 'model2') and ranking.ranks == (1, 0)
