"""Specs: what is understood, and what is said of one that is not."""

import inspect
import json

import pytest

from instructrl.data import records
from instructrl.data.sources import lookup
from instructrl.data.sources import public
from instructrl.data.sources.row_files import SourceError
from instructrl.runtime import command
from tests.data.sources import source_files


def test_a_spec_is_understood():
  spec = lookup.parse('hh-rlhf/helpful-base:~/hh?limit=30&strict=true')
  assert (spec.name, spec.subset) == ('hh-rlhf', 'helpful-base')
  assert spec.path.is_absolute() and spec.path.name == 'hh'
  assert spec.limit == 30 and spec.strict is True and not spec.options
  spec = lookup.parse('oasst1/demonstrations')
  assert (spec.name, spec.subset, spec.path) == (
    'oasst1/demonstrations',
    '',
    None,
  )
  assert spec.limit == 0 and spec.strict is None
  spec = lookup.parse('jsonl:C:/a?b.jsonl?tie_margin=.5')
  assert str(spec.path) == 'C:/a?b.jsonl'
  assert spec.options == {'tie_margin': 0.5}


@pytest.mark.parametrize(
  'spec, reason',
  [
    ('hhrlhf', "names no known source .did you mean 'hh-rlhf'"),
    ('', 'names no known source. There are: alpaca, argilla'),
    ('rankings.jsonl', 'Your own files are jsonl:PATH or text:PATH'),
    ('hh-rlhf/helpful', "no subset 'helpful'.*did you mean 'helpful-base'"),
    ('alpaca/x', "alpaca has no subset 'x'; it has none"),
    ('oasst1/demos', "did you mean 'oasst1"),
    ('summarize_from_feedback', 'comparisons or summarize.*: say which'),
    ('jsonl', 'needs a path: jsonl:FILE'),
    ('text:', 'no path after'),
    ('jsonl:a?tie_margn=1', "no option 'tie_margn' .did you mean 'tie_margin'"),
    ('jsonl:a?tie_margin=-1', "tie_margin is '-1', not a number from 0 up"),
    ('jsonl:a?tie_margin=nan', "tie_margin is 'nan', not a number from 0 up"),
    ('jsonl:a?limit=2.5', "limit is '2.5', not a whole number from 0 up"),
    ('jsonl:a?strict=maybe', "strict is 'maybe', not true or false"),
    ('jsonl:a?limit', "'limit' is not name=value"),
    ('jsonl:a?limit=1&limit=2', "has the option 'limit' twice"),
    ('text:a?documents=page', "'page', not one of file, blank, line"),
    ('text:a?split=test', "'test', not one of train, validation"),
  ],
)
def test_a_spec_that_is_not_understood(spec, reason):
  with pytest.raises(SourceError, match=reason) as error:
    lookup.parse(spec)
  assert '\n' not in str(error.value)


def test_errors_are_one_line_at_the_door():
  assert issubclass(SourceError, command.EXPECTED_ERRORS)


@pytest.mark.parametrize('name', lookup.SOURCES)
def test_every_source_says_what_it_is(name):
  cls = lookup.SOURCES[name]
  assert cls.NAME == name and cls.ABOUT and inspect.getdoc(cls)
  assert len(cls.ABOUT) <= 60
  # A source of several types of record says which by its options or subset.
  assert 'kind' in vars(cls) or cls.RECORD in records.RECORD_TYPES
  if cls.PUBLIC:
    assert any(b.RECORD is cls.RECORD for b in public.BUILDERS)
    for subset in cls.SUBSETS or ('',):
      remotes = cls(subset).remotes()
      assert remotes
      for remote in remotes:
        assert remote.url.startswith('https://')
        assert remote.split in records.SPLITS
        assert not remote.name.startswith('/')
  else:
    with pytest.raises(SourceError, match='needs a path'):
      lookup.parse(name)


def test_the_list_of_names_has_all_options():
  listed = dict(lookup.names())
  assert len(listed) == len(lookup.SOURCES)
  assert 'harmless-base' in listed['hh-rlhf']
  assert '?tie_margin=0.0' in listed['jsonl:PATH']


def test_what_is_read_is_kept_or_counted(tmp_path):
  rows = [
    {'prompt': str(i % 4)} if i % 3 else {'prompt': ''} for i in range(20)
  ]
  path = tmp_path / 'a.jsonl'
  got = source_files.load('jsonl:PATH?strict=false', path, rows)
  assert got.read == 20 == len(got.records) + sum(got.dropped.values())
  assert set(got.first) == set(got.dropped)


_MESSAGE = {
  'message_id': 'q',
  'parent_id': None,
  'role': 'prompter',
  'text': 'q',
  'lang': 'en',
  'rank': None,
  'deleted': False,
}
_REPLIES = [
  dict(
    _MESSAGE,
    message_id=f'a{i}',
    parent_id='q',
    text=f'a{i}',
    role='assistant',
    rank=i,
  )
  for i in range(2)
]
_GOOD = {  # one row of each form
  'jsonl': {
    'prompt': 'p',
    'user': 'u',
    'split': 'test',
    'responses': [
      {'text': 'a', 'score': 1, 'model': 'm'},
      {'text': 'b', 'score': 2},
    ],
  },
  'c4': {'text': 't'},
  'hh-rlhf': {
    'chosen': '\n\nHuman: a\n\nAssistant: b',
    'rejected': '\n\nHuman: a\n\nAssistant: c',
  },
  'summarize_from_feedback/comparisons': {
    'info': {'id': 'i', 'post': 'p', 'title': 't', 'subreddit': 's'},
    'summaries': [{'text': 'a', 'policy': 'p'}, {'text': 'b'}],
    'choice': 1,
    'worker': 'w',
    'split': 'train',
  },
  'summarize_from_feedback/posts': {
    'id': 'i',
    'post': 'p',
    'title': 't',
    'subreddit': 's',
    'summary': 'a',
  },
  'webgpt_comparisons': [
    {
      'question': {'full_text': 'q', 'id': 'i', 'dataset': 'd'},
      'answer': f'a{i}',
      'score': i,
    }
    for i in range(2)
  ],
  'oasst1': {
    'message_tree_id': 'q',
    'prompt': dict(_MESSAGE, replies=_REPLIES),
  },
  'oasst1/demonstrations': {
    'message_tree_id': 'q',
    'prompt': dict(_MESSAGE, replies=_REPLIES),
  },
  'ultrafeedback': {
    'instruction': 'i',
    'completions': [
      {
        'response': f'a{i}',
        'model': 'm',
        'overall_score': i + 1,
        'annotations': {'honesty': {'Rating': '3'}},
      }
      for i in range(2)
    ],
  },
  'nectar': {
    'prompt': '\n\nHuman: a\n\nAssistant: ',
    'answers': [
      {'answer': f'a{i}', 'model': 'm', 'rank': i + 1} for i in range(2)
    ],
  },
  'alpaca': {'instruction': 'i', 'input': 'x', 'output': 'o'},
  'dolly': {
    'instruction': 'i',
    'context': 'x',
    'response': 'o',
    'category': 'open_qa',
  },
  'self-instruct': {
    'instruction': 'i',
    'instances': [{'input': 'x', 'output': 'o'}],
  },
}
_BAD = (
  None,
  True,
  0,
  -1.5,
  10**400,
  '',
  ' ',
  'x',
  '\ud800',
  [],
  [[]],
  [None],
  {},
  {'x': None},
  float('nan'),
)


def _places(value, place=()):
  """The places of all values inside a row."""
  yield place
  inside = (
    value.items()
    if isinstance(value, dict)
    else enumerate(value)
    if isinstance(value, list)
    else ()
  )
  for key, item in inside:
    yield from _places(item, (*place, key))


def _spoilt(value, place, bad):
  if not place:
    return bad
  copy = value.copy()
  copy[place[0]] = _spoilt(copy[place[0]], place[1:], bad)
  return copy


@pytest.mark.parametrize('name', _GOOD)
def test_no_row_is_too_bad_to_be_counted(tmp_path, name):
  good = _GOOD[name]
  rows = [_spoilt(good, place, bad) for place in _places(good) for bad in _BAD]
  got = source_files.load(
    f'{name}:PATH?strict=false',
    tmp_path / 'a.jsonl',
    map(json.dumps, [good, *rows]),
  )
  assert got.records and got.dropped
  assert got.read == len(got.records) + sum(got.dropped.values())
  for record in got.records:
    records.validate(record)


def test_no_message_is_too_bad_to_be_counted(tmp_path):
  messages = [_MESSAGE, *_REPLIES]
  for i, message in enumerate(messages):
    for place in _places(message):
      for bad in _BAD:
        rows = list(messages)
        rows[i] = _spoilt(message, place, bad)
        path = source_files.write_lines(
          tmp_path / 'a.jsonl', map(json.dumps, rows)
        )
        try:
          got = lookup.load(f'oasst1:{path}')
        except SourceError:
          continue
        assert got.read == len(got.records) + sum(got.dropped.values())


def test_a_folder_of_another_source(tmp_path):
  source_files.write_lines(tmp_path / 'red-team-attempts' / 'train.jsonl', [{}])
  with pytest.raises(SourceError, match='no file there belongs to hh-rlhf'):
    lookup.load(f'hh-rlhf:{tmp_path}')


def test_a_source_is_divided_into_its_files(tmp_path):
  for name in ('a', 'b'):
    (tmp_path / f'{name}.txt').write_text(f'{name} one\n\n{name} two\n')
  found = lookup.shards(f'text:{tmp_path}')
  assert list(found) == ['train'] and len(found['train']) == 2
  made = [record for make in found['train'] for record in make()]
  assert made == lookup.load(f'text:{tmp_path}').records and len(made) == 4
