"""Alpaca, Dolly, Self-Instruct: prompts of an instruction and its input."""

import json

from instructrl.data.records import USE_CASES
from instructrl.data.sources import instructions
from instructrl.data.sources import lookup
from tests.data.sources import source_files


def test_alpaca_is_a_json_list(tmp_path):
  path = tmp_path / 'alpaca_data.json'
  path.write_text(
    json.dumps(
      [
        {'instruction': 'Add.', 'input': '1 and 2', 'output': '3'},
        {'instruction': 'Name a colour.', 'input': '', 'output': 'Red'},
        {'instruction': 'Write code.', 'input': '', 'output': ''},
      ],
      indent=1,
    )
  )
  got = lookup.load(f'alpaca:{path}')
  assert [(r.prompt.text, r.response) for r in got.records] == [
    ('Add.\n\n1 and 2', '3'),
    ('Name a colour.', 'Red'),
  ]
  assert got.records[0].labeler == 'text-davinci-003'
  assert got.dropped == {'output is empty': 1}
  assert got.first['output is empty'] == f'{path}:3: output is empty'


def test_dolly_has_use_cases(tmp_path):
  rows = [
    {
      'instruction': f'Do {name}',
      'context': '',
      'response': 'Done',
      'category': name,
    }
    for name in (*instructions.Dolly.USE_CASES, 'x')
  ]
  rows[0]['context'] = 'A page.'
  got = source_files.load('dolly:PATH', tmp_path / 'd.jsonl', rows).records
  assert got[0].prompt.text == 'Do brainstorming\n\nA page.'
  assert [r.prompt.use_case for r in got] == [
    *instructions.Dolly.USE_CASES.values(),
    'other',
  ]
  assert set(instructions.Dolly.USE_CASES.values()) <= set(USE_CASES)


def test_self_instruct(tmp_path):
  rows = [
    {
      'id': 'a',
      'motivation_app': 'Gmail',
      'instruction': 'Rewrite.',
      'instances': [
        {'input': 'Hi', 'output': 'Hello'},
        {'input': 'Bye', 'output': 'Goodbye'},
      ],
    },
    {'instruction': 'Sing.', 'input': '<noinput>', 'output': 'La'},
    {'prompt': 'Dance.', 'completion': ' Hop '},
    {'prompt': 'Sit.', 'response': 'Sat'},
    {'instruction': 'Sing.', 'instances': [{'input': ''}]},
  ]
  got = source_files.load('self-instruct:PATH', tmp_path / 'user.jsonl', rows)
  assert [(r.prompt.text, r.response) for r in got.records] == [
    ('Rewrite.\n\nHi', 'Hello'),
    ('Rewrite.\n\nBye', 'Goodbye'),
    ('Sing.', 'La'),
    ('Dance.', 'Hop'),
    ('Sit.', 'Sat'),
  ]
  assert got.read == 6 and got.dropped == {"lacks the field 'output'": 1}


def test_subsets_of_self_instruct(tmp_path):
  for part, name in instructions.SelfInstruct.FILES.items():
    source_files.write_lines(
      tmp_path / name, [{'instruction': part, 'input': '', 'output': 'x'}]
    )
  for part in ('user', 'seed', 'generated'):
    got = lookup.load(f'self-instruct/{part}:{tmp_path}').records
    assert [r.prompt.text for r in got] == [part]
    (remote,) = lookup.parse(f'self-instruct/{part}').source().remotes()
    assert remote.url.endswith(instructions.SelfInstruct.FILES[part])
