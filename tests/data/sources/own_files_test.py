"""Bring your own: the schema, and what is said of a line that breaks it."""

import dataclasses

import pytest

from instructrl.data import records
from instructrl.data.records import Demonstration, Document, Prompt, Ranking
from instructrl.data.sources import fields
from instructrl.data.sources import lookup
from instructrl.data.sources import own_files
from instructrl.data.sources.row_files import SourceError
from tests.data.sources import source_files

PROMPT = Prompt(
  id=fields.text_id('Why?'),
  text='Why?',
  user='',
  use_case='other',
  split='train',
)
RANKING = Ranking(
  prompt=PROMPT,
  labeler='unknown',
  group='train',
  responses=('a', 'b'),
  response_tokens=(),
  sources=('unknown',) * 2,
  temperatures=(1.0, 1.0),
  ranks=(0, 1),
)


def user(text):
  return {'role': 'user', 'content': text}


def assistant(text):
  return {'role': 'assistant', 'content': text}


TURNS = [user('a'), assistant('b'), user('c')]
TEXT = 'a\n\nAssistant: b\n\nHuman: c'
DIALOGUE = dataclasses.replace(
  PROMPT, id=fields.text_id('a\0b\0c'), text=TEXT, turns=('a', 'b', 'c')
)


def load(tmp_path, rows, query='', **kwargs):
  return source_files.load(
    f'jsonl:PATH{query}', tmp_path / 'own.jsonl.gz', rows, **kwargs
  )


@pytest.mark.parametrize(
  'row, record',
  [
    (
      {'text': 'Once.'},
      Document(fields.text_id('Once.'), 'Once.', 'unknown', 'train'),
    ),
    (
      {'text': 'Once.', 'id': 7, 'source': 'forum', 'split': 'dev'},
      Document('7', 'Once.', 'forum', 'validation'),
    ),
    ({'prompt': 'Why?'}, PROMPT),
    (
      {
        'prompt': 'Why?',
        'response': None,
        'id': 'p',
        'user': 'u',
        'use_case': 'open_qa',
        'split': 'test',
      },
      Prompt('p', 'Why?', 'u', 'open_qa', 'test'),
    ),
    (
      {'prompt': 'Why?', 'response': 'So.', 'labeler': 'ann'},
      Demonstration(PROMPT, 'So.', 'ann'),
    ),
    ({'prompt': 'Why?', 'chosen': 'a', 'rejected': 'b'}, RANKING),
    (
      {'prompt': 'Why?', 'chosen': 'a', 'rejected': ''},
      dataclasses.replace(RANKING, responses=('a', '')),
    ),
    (
      {'prompt': 'Why?', 'chosen': assistant(''), 'rejected': 'b'},
      dataclasses.replace(RANKING, responses=('', 'b')),
    ),
    ({'prompt': 'Why?', 'responses': ['a', 'b'], 'ranks': [1, 2]}, RANKING),
    ({'prompt': 'Why?', 'responses': ['a', 'b'], 'scores': [2, 1]}, RANKING),
    (
      {
        'prompt': 'Why?',
        'responses': [{'text': 'a', 'score': 2}, {'text': 'b', 'score': -1.5}],
      },
      RANKING,
    ),
    (
      {
        'prompt': 'Why?',
        'responses': [{'text': 'a', 'rank': 1}, {'text': 'b', 'rank': 3}],
      },
      RANKING,
    ),
    # The same as messages.
    ({'prompt': [user('Why?')]}, PROMPT),
    (
      {'messages': [user('Why?'), assistant('So.')], 'labeler': 'ann'},
      Demonstration(PROMPT, 'So.', 'ann'),
    ),
    (
      {
        'prompt': [user('Why?')],
        'response': [assistant('So.')],
        'labeler': 'ann',
      },
      Demonstration(PROMPT, 'So.', 'ann'),
    ),
    (
      {
        'prompt': [user('Why?')],
        'completion': [assistant('So.')],
        'labeler': 'ann',
      },
      Demonstration(PROMPT, 'So.', 'ann'),
    ),
    (
      {
        'prompt': [user('Why?')],
        'chosen': [assistant('a')],
        'rejected': assistant('b'),
      },
      RANKING,
    ),
    (
      {
        'chosen': [user('Why?'), assistant('a')],
        'rejected': [user('Why?'), assistant('b')],
      },
      RANKING,
    ),
    (
      {
        'prompt': 'Why?',
        'responses': [[assistant('a')], assistant('b')],
        'scores': [2, 1],
      },
      RANKING,
    ),
    (
      {
        'prompt': 'Why?',
        'responses': [
          [{**assistant('a'), 'score': 2}],
          {**assistant('b'), 'score': 1},
        ],
      },
      RANKING,
    ),
    (
      {
        'prompt': 'Why?',
        'messages': [user('Why?'), assistant('So.')],
        'labeler': 'ann',
      },
      Demonstration(PROMPT, 'So.', 'ann'),
    ),
    (
      {
        'prompt': 'Why?',
        'chosen': [user('Why?'), assistant('a')],
        'rejected': [user('Why?'), assistant('b')],
      },
      RANKING,
    ),
    (
      {
        'prompt': 'Why?',
        'response': {'role': None, 'content': 'So.'},
        'labeler': 'ann',
      },
      Demonstration(PROMPT, 'So.', 'ann'),
    ),
    ({'prompt': TURNS}, DIALOGUE),
    (
      {'prompt': 'a', 'messages': [*TURNS, assistant('d')]},
      Demonstration(DIALOGUE, 'd', 'unknown'),
    ),
    (
      {'messages': [*TURNS, assistant('d')]},
      Demonstration(DIALOGUE, 'd', 'unknown'),
    ),
    (
      {
        'chosen': [*TURNS, assistant('a')],
        'rejected': [*TURNS, assistant('b')],
      },
      dataclasses.replace(RANKING, prompt=DIALOGUE),
    ),
  ],
)
def test_what_a_line_is(tmp_path, row, record):
  got = load(tmp_path, [row])
  assert got.records == [record] and got.kind is type(record)
  assert got.read == 1 and not got.dropped and not got.notes
  records.validate(record)


def test_a_ranking_of_many_with_a_margin_and_models(tmp_path):
  row = {
    'prompt': 'Why?',
    'labeler': 'judge',
    'group': 'heldout',
    'user': 'u',
    'source': 'mine',
    'responses': [
      {'text': f'r{i}', 'score': -i / 4, 'model': None if i == 2 else f'm{i}'}
      for i in range(12)
    ],
  }
  (got,) = load(tmp_path, [row], '?tie_margin=0.5').records
  assert got.ranks == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)
  assert got.sources[:4] == ('m0', 'm1', 'mine', 'm3')
  assert (got.labeler, got.group, got.prompt.user) == ('judge', 'heldout', 'u')
  assert load(tmp_path, [row]).records[0].ranks == tuple(range(12))


def test_a_full_tie_and_an_empty_response_are_kept(tmp_path):
  got = load(
    tmp_path,
    [{'prompt': 'Why?', 'responses': ['a', 'b', ''], 'scores': [3, 3, 3]}],
  )
  assert got.records[0].ranks == (0, 0, 0)


def test_dialogues_that_part_early_are_dropped_and_counted(tmp_path):
  whole = {
    'chosen': [*TURNS, assistant('a')],
    'rejected': [*TURNS, assistant('b')],
  }
  got = load(
    tmp_path, [whole, dict(whole, rejected=[TURNS[0], assistant('b')])]
  )
  assert len(got.records) == 1 and not got.notes
  assert got.dropped == {
    'the dialogues differ before the last turn of the assistant': 1
  }


def test_system_messages_are_left_out_when_asked(tmp_path):
  system = {'role': 'system', 'content': 'Be brief.'}
  rows = [{'messages': [system, *TURNS, assistant('d')]}]
  got = load(tmp_path, rows, '?system=drop')
  assert got.records == [Demonstration(DIALOGUE, 'd', 'unknown')]
  with pytest.raises(SourceError, match='option system=drop drops it'):
    load(tmp_path, rows)


def test_what_messages_hold_beside_is_listed(tmp_path):
  got = load(
    tmp_path,
    [
      {
        'messages': [
          {**user('Why?'), 'name': 'ann'},
          {**assistant('So.'), 'thinking': 'hm', 'tools': None},
        ]
      },
      {'prompt': 'Who?', 'completion': {**assistant('I.'), 'weight': 0}},
    ],
  )
  assert got.notes == [
    'fields that were not read: messages[].name (1 rows), '
    'messages[].thinking (1 rows), response[].weight (1 rows)'
  ]
  got = load(
    tmp_path,
    [
      {
        'prompt': 'Why?',
        'messages': [user('x')],
        'ranks': [0, 1],
        'responses': [{'text': 'a', 'content': 'c'}, 'b'],
      }
    ],
  )
  assert got.records == [RANKING]
  assert got.notes == [
    'fields that were not read: messages (1 rows), responses[].content (1 rows)'
  ]


def test_one_text_with_turns_and_without_is_two_prompts(tmp_path):
  got = load(tmp_path, [{'prompt': TURNS}, {'prompt': TEXT}])
  assert [p.turns for p in got.records] == [('a', 'b', 'c'), ()]


def test_a_pair_of_equals_is_dropped(tmp_path):
  got = load(
    tmp_path,
    [{'prompt': 'Why?', 'chosen': 'a', 'rejected': text} for text in 'ab'],
  )
  assert got.records == [RANKING]
  assert got.dropped == {'chosen and rejected are the same': 1}


def test_a_single_response_and_a_copy_are_dropped_and_counted(tmp_path):
  path = tmp_path / 'own.jsonl.gz'
  pair = {'prompt': 'Why?', 'chosen': 'a', 'rejected': 'b'}
  got = load(
    tmp_path,
    [
      pair,
      {'prompt': 'Why?', 'responses': ['a']},
      dict(pair, split='test'),
      dict(pair, labeler='ann'),
    ],
  )
  assert len(got.records) == 2 and got.read == 4
  assert got.dropped == {
    'has 1 responses, a ranking needs 2 or more': 1,
    'is an exact duplicate of an earlier row': 1,
  }
  assert got.first['is an exact duplicate of an earlier row'] == (
    f'{path}:3: is an exact duplicate of an earlier row'
  )


BAD = [
  ('{"prompt": ', 'is not JSON'),
  ('[]', 'is a list, not an object'),
  (
    {'question': 'Why?', 'answer': 'So.'},
    "has neither the field 'prompt' nor 'text'; it has answer, question",
  ),
  (
    {'chosen': 'Human: hi', 'rejected': 'Human: ho'},
    'it has chosen, rejected .dialogues in one text are read as hh-rlhf:PATH',
  ),
  ({'prompt': ''}, 'prompt is empty'),
  ({'prompt': 3}, 'prompt is a number, not text'),
  ({'prompt': 'Why?', 'response': ' '}, 'response is empty'),
  ({'prompt': 'Why?', 'response': ['a']}, 'response is a list, not text'),
  ({'prompt': 'Why?', 'chosen': 'a'}, "lacks the field 'rejected'"),
  (
    {'prompt': 'Why?', 'chosen': '', 'rejected': ' '},
    'all responses are empty',
  ),
  ({'prompt': 'Why?', 'responses': 'ab'}, 'responses is text, not a list'),
  ({'prompt': 'Why?', 'responses': ['a', 'b']}, 'neither ranks nor scores'),
  (
    {'prompt': 'Why?', 'responses': ['a', None], 'ranks': [0, 1]},
    'responses.1. is null, not text',
  ),
  (
    {'prompt': 'Why?', 'responses': ['a', 'b'], 'ranks': [0]},
    'ranks has 1 entries for 2 responses',
  ),
  (
    {'prompt': 'Why?', 'responses': ['a', 'b'], 'scores': [0, 'x']},
    "scores.1. is 'x', not a number",
  ),
  (
    '{"prompt": "Why?", "responses": ["a", "b"], "scores": [0, NaN]}',
    'scores.1. is nan, not a finite number',
  ),
  (
    {'prompt': 'Why?', 'responses': [{'text': 'a', 'score': 1}, {'text': 'b'}]},
    'scores.1. is null',
  ),
  (
    {
      'prompt': 'Why?',
      'chosen': 'a',
      'rejected': 'b',
      'responses': ['c', 'd'],
      'ranks': [0, 1],
    },
    'has both chosen and responses: leave one out',
  ),
  (
    {
      'prompt': 'Why?',
      'rejected': 'b',
      'responses': ['c', 'd'],
      'ranks': [0, 1],
    },
    'has both rejected and responses: leave one out',
  ),
  (
    {
      'prompt': 'Why?',
      'responses': ['a', 'b'],
      'ranks': [0, 1],
      'scores': [1, 2],
    },
    'has both ranks and scores: leave one out',
  ),
  (
    {
      'prompt': 'Why?',
      'ranks': [1, 0],
      'responses': [{'text': 'a', 'rank': 0}, {'text': 'b', 'rank': 1}],
    },
    r'has both responses\[\].rank and ranks: leave one out',
  ),
  (
    {
      'prompt': 'Why?',
      'scores': [1, 0],
      'responses': [{'text': 'a', 'score': 0}, {'text': 'b', 'score': 1}],
    },
    r'has both responses\[\].score and scores: leave one out',
  ),
  (
    {
      'prompt': 'Why?',
      'scores': [1, 0],
      'responses': [{'text': 'a', 'rank': 1}, {'text': 'b', 'rank': 0}],
    },
    r'has both responses\[\].rank and scores: leave one out',
  ),
  (
    {
      'prompt': 'Why?',
      'responses': [
        {'text': 'a', 'rank': 0, 'score': 1},
        {'text': 'b', 'rank': 1, 'score': 2},
      ],
    },
    r'has both responses\[\].rank and responses\[\].score: leave one out',
  ),
  (
    {'prompt': 'Why?', 'responses': ['', ''], 'ranks': [0, 1]},
    'all responses are empty',
  ),
  ({'prompt': 'Why?', 'split': 'half'}, "split is 'half', not one of"),
  ({'prompt': 'Why?', 'use_case': 'poetry'}, "use_case is 'poetry', not one"),
  (
    {'prompt': 'Why?', 'chosen': 'a', 'rejected': 'b', 'group': 'x'},
    "group is 'x', not one of",
  ),
  ({'text': 'Once.', 'split': 'test'}, "split is 'test', not one of"),
  ({'prompt': []}, 'prompt has no message of the user'),
  ({'prompt': ['Why?']}, r'prompt\[0\] is text, not an object'),
  (
    {'prompt': [{'from': 'human', 'value': 'Why?'}]},
    r"prompt\[0\] lacks the field 'role'",
  ),
  (
    {'prompt': [{'role': 'system', 'content': 'a'}, *TURNS]},
    r'prompt\[0\] is a system message: .*option system=drop',
  ),
  (
    {'prompt': [TURNS[1]]},
    r"prompt\[0\] has the role 'assistant'; it is the turn of the user",
  ),
  (
    {'prompt': [user('a'), user('b')]},
    r"prompt\[1\] has the role 'user'; it is the turn of the assist",
  ),
  ({'prompt': [user(' ')]}, r'prompt\[0\].content is empty'),
  ({'prompt': [user(['a'])]}, r'prompt\[0\].content is a list, not text'),
  ({'prompt': TURNS[:2]}, 'prompt does not end with a turn of the user'),
  (
    {'prompt': 'Why?', 'completion': 'a', 'label': False},
    'has a label for a single completion',
  ),
  ({'messages': TURNS}, 'messages does not end with a turn of the assistant'),
  ({'messages': 'a'}, 'messages is text, not a list'),
  (
    {'messages': [user('a'), assistant(' ')]},
    r'messages\[1\].content is empty',
  ),
  (
    {'messages': [user('a'), assistant('b')], 'response': 'c'},
    'has both response and messages: leave one out',
  ),
  (
    {'prompt': 'a', 'completion': 'b', 'response': 'c'},
    'has both response and completion: leave one out',
  ),
  (
    {'prompt': 'x', 'messages': [user('a'), assistant('b')]},
    'messages does not begin as prompt does: leave one out',
  ),
  (
    {
      'prompt': TURNS,
      'chosen': [*TURNS[:1], assistant('x')],
      'rejected': [*TURNS[:1], assistant('y')],
    },
    'chosen does not begin as prompt does',
  ),
  (
    {'chosen': [user('a'), assistant('b')], 'rejected': 'c'},
    'rejected is text, not a list',
  ),
  ({'prompt': 'Why?', 'response': user('a')}, "response has the role 'user'"),
  (
    {'prompt': 'Why?', 'response': {'a': 1}},
    "response lacks the field 'content'",
  ),
  (
    {'prompt': 'Why?', 'response': [assistant('a'), assistant('b')]},
    'response has 2 messages, not one of the assistant',
  ),
  (
    {
      'prompt': 'Why?',
      'ranks': [0, 1],
      'responses': [{'text': 'a', 'role': 'user'}, 'b'],
    },
    r"responses\[0\] has the role 'user'",
  ),
  (
    {'prompt': 'Why?', 'responses': [[], 'b'], 'ranks': [0, 1]},
    r'responses\[0\] is a list, not text',
  ),
]


@pytest.mark.parametrize('row, reason', BAD)
def test_a_malformed_line_is_an_error_with_its_place(tmp_path, row, reason):
  path = tmp_path / 'own.jsonl.gz'
  with pytest.raises(SourceError, match=f'^{path}:1: .*{reason}'):
    load(tmp_path, [row])


def test_or_it_is_dropped_and_counted(tmp_path):
  rows = [{'prompt': 'Why?'}] + [row for row, _ in BAD]
  got = load(tmp_path, rows, '?strict=false')
  assert got.records == [PROMPT]
  assert sum(got.dropped.values()) == len(BAD) == got.read - 1
  assert 'is a list, not an object' in got.dropped


def test_fields_that_are_not_read_are_listed_once(tmp_path):
  got = load(
    tmp_path,
    [
      {
        'prompt': f'Why {i}?',
        'chosen': 'a',
        'rejected': 'b',
        'extra': i,
        'reference': 'c',
      }
      for i in range(3)
    ],
  )
  assert got.notes == [
    'fields that were not read: extra (3 rows), reference (3 rows)'
  ]


def test_many_fields_that_are_not_read_are_counted(tmp_path):
  found = load(tmp_path, [{'prompt': 'a', **{f'f{i}': i for i in range(99)}}])
  assert found.notes[0].endswith(', f26 (1 rows), and 79 more')


def test_a_name_that_is_no_text_can_be_written(tmp_path):
  found = load(tmp_path, [{'prompt': 'a', '\udfff': 1}])
  assert found.notes == ['fields that were not read: \\udfff (1 rows)']


def test_kinds_are_not_mixed(tmp_path):
  with pytest.raises(SourceError, match=':2: is a Demonstration, but the firs'):
    load(tmp_path, [{'prompt': 'Why?'}, {'prompt': 'Why?', 'response': 'a'}])


def test_an_id_names_one_prompt(tmp_path):
  with pytest.raises(SourceError, match=":2: has the id 'x' of .*:1"):
    load(tmp_path, [{'prompt': 'a', 'id': 'x'}, {'prompt': 'b', 'id': 'x'}])


def test_a_limit_reads_the_first_rows_only(tmp_path):
  rows = [{'prompt': f'{i}?'} for i in range(9)] + ['not JSON']
  got = load(tmp_path, rows, '?limit=3')
  assert [r.text for r in got.records] == ['0?', '1?', '2?'] and got.read == 3
  assert load(tmp_path, rows, '?limit=3', limit=4).read == 4


def test_no_rows_and_no_records_are_errors(tmp_path):
  with pytest.raises(SourceError, match='own.jsonl.gz: there are no rows'):
    load(tmp_path, [])
  with pytest.raises(SourceError, match='no row of 1 can be used.*empty'):
    load(tmp_path, [{'prompt': ''}], '?strict=false')


def test_a_folder_of_files_is_read_in_order(tmp_path):
  source_files.write_lines(tmp_path / 'b.jsonl', [{'prompt': 'b'}])
  source_files.write_lines(tmp_path / 'test.jsonl', [{'prompt': 'c'}])
  source_files.write_lines(tmp_path / 'a.jsonl.gz', [{'prompt': 'a'}])
  got = lookup.load(f'jsonl:{tmp_path}?split=validation').records
  assert [(r.text, r.split) for r in got] == [
    (text, 'validation') for text in 'abc'
  ]


def test_what_is_too_long_is_dropped_and_counted(tmp_path):
  rows = [
    {'prompt': 'p' * 65_537, 'response': 'a'},
    {'prompt': 'a', 'response': 'r' * 70_000},
    {'prompt': 'Why?', 'response': 'a'},
  ]
  got = load(tmp_path, rows)
  assert [record.prompt for record in got.records] == [PROMPT]
  assert got.dropped == {
    'prompt text has N characters, the limit is N': 1,
    'response has N characters, the limit is N': 1,
  }


def test_a_ranking_of_thousands_is_dropped_and_counted(tmp_path):
  many = [str(i) for i in range(10_000)]
  rows = [
    {'prompt': 'Why?', 'responses': many, 'ranks': list(range(len(many)))},
    {'prompt': 'Why?', 'chosen': 'a', 'rejected': 'b'},
  ]
  got = load(tmp_path, rows)
  assert got.records == [RANKING]
  assert got.dropped == {'has N responses, the limit is N': 1}


@pytest.mark.parametrize(
  'table',
  [
    {'prompt': {'0': 'a', '1': 'b'}, 'response': {'0': 'c', '1': 'd'}},
    {'0': {'prompt': 'a', 'response': 'c'}},
    {'prompt': ['a', 'b'], 'response': ['c', 'd']},
    {'columns': ['prompt'], 'index': [0], 'data': [['a']]},
    {'schema': {}, 'data': [{'index': 0, 'prompt': 'a'}]},
  ],
)
def test_a_whole_table_is_told_how_rows_are_written(tmp_path, table):
  with pytest.raises(SourceError, match=':1: is a whole table: .*lines=True'):
    load(tmp_path, [table])


RATED = {'overall_quality': 6, 'harmful_advice': 0}


def rated(*ratings):
  responses = [
    {'text': f'r{i}', 'rank': i, 'ratings': value, 'temperature': i / 2}
    for i, value in enumerate(ratings)
  ]
  return {'prompt': 'p', 'responses': responses, 'labeler': 'Ada'}


def test_ratings_and_temperatures_are_read_and_written(tmp_path):
  path = tmp_path / 'a.jsonl'
  line = rated(RATED, RATED | {'overall_quality': 2})
  found = source_files.load('jsonl:PATH', path, [line])
  (ranking,) = found.records
  assert ranking.metadata[1] == {'overall_quality': 2, 'harmful_advice': 0}
  assert ranking.temperatures == (0.0, 0.5) and not found.notes
  again = source_files.load('jsonl:PATH', path, [own_files.line_of(ranking)])
  assert again.records == found.records


@pytest.mark.parametrize(
  'ratings, fault',
  [
    ((RATED, None), r'responses\[1\].ratings is null'),
    ((RATED, RATED | {'overall_quality': 8}), 'is 8, neither a flag'),
    ((RATED, {'overall_quality': 1}), 'has other keys'),
  ],
)
def test_ratings_that_are_malformed_are_refused(tmp_path, ratings, fault):
  with pytest.raises(lookup.SourceError, match=fault):
    source_files.load('jsonl:PATH', tmp_path / 'a.jsonl', [rated(*ratings)])


def test_a_dialogue_is_written_as_messages(tmp_path):
  turns = [
    {'role': role, 'content': text}
    for role, text in (('user', 'Hi'), ('assistant', 'Hello'), ('user', 'Bye'))
  ]
  line = {'prompt': turns, 'response': 'Goodbye', 'use_case': 'chat'}
  path = tmp_path / 'a.jsonl'
  (record,) = source_files.load('jsonl:PATH', path, [line]).records
  (again,) = source_files.load(
    'jsonl:PATH', path, [own_files.line_of(record)]
  ).records
  assert again == record and again.prompt.turns == ('Hi', 'Hello', 'Bye')
