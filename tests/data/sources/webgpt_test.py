"""WebGPT: both published forms, ties, and citations."""

from instructrl.data.sources import lookup
from tests.data.sources import source_files

QUESTION = {'dataset': 'eli5', 'id': '7x', 'full_text': 'Why is the sky blue?'}


def original(first, scores=(0.5, -0.5)):
  return [
    {
      'question': QUESTION,
      'quotes': {'title': [], 'extract': []},
      'answer': answer,
      'tokens': {'prefix': [], 'completion': []},
      'score': score,
    }
    for answer, score in zip((first, 'No [2].'), scores)
  ]


def copied(first, scores=(0.5, -0.5)):
  return {
    'question': QUESTION,
    'answer_0': first,
    'answer_1': 'No [2].',
    'score_0': scores[0],
    'score_1': scores[1],
  }


def test_both_forms_and_ties(tmp_path):
  got = []
  for form in (original, copied):
    rows = [
      form('Light [1, 2] scatters. [1][3]'),
      form('B', (-1.0, 1.0)),
      form('C', (0, 0)),
    ]
    got.append(
      source_files.load(
        'webgpt_comparisons:PATH', tmp_path / 'comparisons.jsonl', rows
      )
    )
  assert got[0].records == got[1].records
  assert [r.ranks for r in got[0].records] == [(0, 1), (1, 0), (0, 0)]
  first = got[0].records[0]
  assert first.prompt.text == 'Why is the sky blue?'
  assert first.prompt.id == 'webgpt/eli5/7x'
  assert first.responses == ('Light [1, 2] scatters. [1][3]', 'No [2].')
  dropped = lookup.load(
    f'webgpt_comparisons:{tmp_path}/comparisons.jsonl?citations=drop'
  )
  assert dropped.records[0].responses == ('Light scatters.', 'No.')


def test_what_is_malformed(tmp_path):
  rows = [
    original('a'),
    original('b')[:1],
    original(''),
    {'question': 'Why?'},
    original('c', (0.5, None)),
  ]
  got = source_files.load('webgpt_comparisons:PATH', tmp_path / 'c.jsonl', rows)
  assert got.dropped == {
    'has 1 answers, not 2': 1,
    'answer is empty': 1,
    "lacks the field 'answer_0'": 1,
    "lacks the field 'score'": 1,
  }
