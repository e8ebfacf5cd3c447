"""UltraFeedback and Nectar: scores, ties and ratings; seven ranks."""

import pyarrow
from pyarrow import parquet

from instructrl.data.sources import ai_feedback
from instructrl.data.sources import lookup
from tests.data.sources import source_files


def completion(name, overall, ratings='4444'):
  return {
    'model': name,
    'principle': 'honesty',
    'custom_system_prompt': 'You',
    'response': f' {name} says. ',
    'critique': 'Good.',
    'overall_score': overall,
    'fine-grained_score': 4.0,
    'annotations': {
      aspect: {'Rating': 'N/A' if rating == '-' else rating, 'Rationale': 'r'}
      for aspect, rating in zip(ai_feedback.ASPECTS, ratings)
    },
  }


def ultra(i, *completions):
  return {
    'source': 'flan',
    'instruction': f'Do {i}. ',
    'models': [],
    'correct_answers': ['None'],
    'completions': list(completions),
  }


def load(tmp_path, rows, query=''):
  return source_files.load(
    f'ultrafeedback:PATH{query}', tmp_path / 'flan.jsonl', rows
  )


ROW = ultra(
  0,
  completion('a', 7.5, '5544'),
  completion('b', 8, '1111'),
  completion('c', 7.5, '5555'),
  completion('d', '3', '2345'),
)


def test_scores_rank_and_ratings_are_metadata(tmp_path):
  (got,) = load(tmp_path, [ROW]).records
  assert got.prompt.text == 'Do 0.' and got.sources == tuple('abcd')
  assert got.responses[0] == 'a says.'
  assert got.ranks == (1, 0, 1, 2) and got.labeler == 'gpt-4'
  assert got.metadata[3] == {
    'instruction_following': 2,
    'honesty': 3,
    'truthfulness': 4,
    'helpfulness': 5,
  }
  (got,) = load(tmp_path, [ROW], '?score=mean').records
  assert got.ranks == (1, 3, 0, 2)
  (got,) = load(tmp_path, [ROW], '?tie_margin=1').records
  assert got.ranks == (0, 0, 0, 1)


def test_a_ten_that_was_a_one_and_ratings_that_are_missing(tmp_path):
  row = ultra(
    1,
    completion('a', 10, '2222'),
    completion('b', 10, '3333'),
    completion('c', 2, '1-11'),
  )
  (got,) = load(tmp_path, [row]).records
  assert got.ranks == (2, 0, 1) and got.metadata == ()


def test_silence_is_a_response(tmp_path):
  row = ultra(1, completion('a', 1), dict(completion('b', 1), response=''))
  assert load(tmp_path, [row]).records[0].responses == ('a says.', '')


def test_what_is_dropped(tmp_path):
  no_score = completion('a', 1)
  del no_score['overall_score']
  got = load(
    tmp_path,
    [
      ROW,
      ultra(1),
      ultra(2, completion('a', 1)),
      ultra(3, no_score, completion('b', 1)),
      ultra(
        4,
        dict(completion('a', 1), response=' '),
        dict(completion('b', 1), response=''),
      ),
    ],
  )
  assert got.dropped == {
    'has 0 responses, a ranking needs 2 or more': 1,
    'has 1 responses, a ranking needs 2 or more': 1,
    "lacks the field 'overall_score'": 1,
    'all responses are empty': 1,
  }


def test_parts_of_ultrafeedback(tmp_path):
  for part in ('flan', 'sharegpt'):
    source_files.write_lines(
      tmp_path / f'{part}.jsonl', [dict(ROW, instruction=part)]
    )
  assert [
    r.prompt.text for r in lookup.load(f'ultrafeedback:{tmp_path}').records
  ] == ['flan', 'sharegpt']
  assert [
    r.prompt.text for r in lookup.load(f'ultrafeedback/flan:{tmp_path}').records
  ] == ['flan']
  assert len(lookup.parse('ultrafeedback').source().remotes()) == 6


def nectar(i, prompt='\n\nHuman: Hi {}.\n\nAssistant: ', k=7):
  return {
    'prompt': prompt.format(i),
    'turns': 1,
    'num_responses': k,
    'source': ['x'],
    'good_natured': True,
    'answers': [
      {'answer': f' {j}', 'model': f'm{j}', 'rank': float(k - j)}
      for j in range(k)
    ],
  }


def test_nectar(tmp_path):
  rows = [nectar(0), nectar(1, 'Hi {}'), nectar(2, k=1)]
  rows[0]['prompt'] = '\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: '
  got = source_files.load('nectar:PATH', tmp_path / 'n.jsonl', rows)
  (record,) = got.records
  assert record.prompt.text == 'A\n\nAssistant: B\n\nHuman: C'
  assert record.ranks == (6, 5, 4, 3, 2, 1, 0)
  assert record.responses[0] == '0' and record.sources[6] == 'm6'
  assert got.dropped == {
    'prompt is not \\n\\nHuman: ... \\n\\nAssistant:': 1,
    'has 1 responses, a ranking needs 2 or more': 1,
  }
  parquet.write_table(
    pyarrow.Table.from_pylist(rows), tmp_path / 'rlaif.parquet'
  )
  assert lookup.load(f'nectar:{tmp_path}/rlaif.parquet').records == got.records


def test_a_score_outside_the_scale_is_no_score(tmp_path):
  wrong = [
    ultra(i, completion('a', 7), completion('b', score))
    for i, score in enumerate((85, 0, 10.5, -1), 1)
  ]
  got = load(tmp_path, [ROW, *wrong])
  assert len(got.records) == 1
  assert got.dropped == {
    f'overall_score must be from 1 to 10; got {score}': 1
    for score in ('85', '0', '10.5', '-1')
  }
