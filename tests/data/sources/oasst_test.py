"""OpenAssistant: trees and flat messages are the same threads."""

import copy

import pyarrow
from pyarrow import parquet

from instructrl.data.sources import lookup
from instructrl.data.sources.row_files import File
from instructrl.data.sources.row_files import Row
from tests.data.sources import source_files


def message(name, role, rank=None, replies=(), **more):
  return {
    'message_id': name,
    'text': f' {name}. ',
    'role': role,
    'lang': 'en',
    'rank': rank,
    'user_id': f'u-{name}',
    'deleted': False,
    'review_result': True,
    'synthetic': False,
    'model_name': None,
    'replies': list(replies),
    **more,
  }


def tree(name='q'):
  second = message(
    'q2',
    'prompter',
    replies=[message('b1', 'assistant', 1), message('b0', 'assistant', 0)],
  )
  return {
    'message_tree_id': name,
    'tree_state': 'ready_for_export',
    'prompt': message(
      name,
      'prompter',
      replies=[
        message('a2', 'assistant', 2),
        message('a0', 'assistant', 0, [second]),
        message('a1', 'assistant', 1, synthetic=True, model_name='m'),
        message('none', 'assistant'),
        message('gone', 'assistant', 3, deleted=True),
        message('deutsch', 'assistant', 4, lang='de'),
      ],
    ),
  }


def flat(of):
  """The messages of a tree, as the other export has them."""
  rows, stack = [], [(of['prompt'], None)]
  while stack:
    at, parent = stack.pop(0)
    own = dict(at, parent_id=parent, message_tree_id=of['message_tree_id'])
    stack += [(reply, at['message_id']) for reply in own.pop('replies')]
    rows.append(own)
  return rows


def load(tmp_path, rows, spec='oasst1', query=''):
  return source_files.load(
    f'{spec}:PATH{query}', tmp_path / 'x_ready.trees.jsonl.gz', rows
  )


def test_siblings_are_a_ranking(tmp_path):
  got = load(tmp_path, [tree()])
  first, second = got.records
  assert got.read == 2 and not got.dropped
  assert first.prompt.text == 'q.' and first.prompt.id == 'q'
  assert first.responses == ('a2.', 'a0.', 'a1.') and first.ranks == (2, 0, 1)
  assert first.sources == ('human', 'human', 'm')
  assert first.temperatures == (0.0, 0.0, 1.0)
  assert second.prompt.text == 'q.\n\nAssistant: a0.\n\nHuman: q2.'
  assert second.responses == ('b1.', 'b0.') and second.ranks == (1, 0)
  # The whole tree has one user, so that a split by user keeps it together.
  assert first.prompt.user == second.prompt.user == 'u-q'


def test_flat_messages_and_parquet_are_the_same(tmp_path):
  expected = load(tmp_path, [tree()]).records
  rows = flat(tree())
  key = lambda record: record.prompt.id
  got = source_files.load('oasst1:PATH', tmp_path / 'm.jsonl', rows[::-1])
  assert [sorted(r.responses) for r in sorted(got.records, key=key)] == [
    sorted(r.responses) for r in sorted(expected, key=key)
  ]
  got = source_files.load('oasst1:PATH', tmp_path / 'm.jsonl', rows)
  assert got.records == expected
  parquet.write_table(
    pyarrow.Table.from_pylist(rows), tmp_path / 'validation-00000.parquet'
  )
  got = lookup.load(f'oasst2:{tmp_path}/validation-00000.parquet')
  assert [r.responses for r in got.records] == [r.responses for r in expected]
  assert {r.prompt.split for r in got.records} == {'validation'}


def test_a_folder_with_several_exports_is_read_once(tmp_path):
  expected = load(tmp_path, [tree()])
  source_files.write_lines(tmp_path / 'x_ready.messages.jsonl.gz', flat(tree()))
  assert lookup.load(f'oasst1:{tmp_path}').read == expected.read


def test_languages(tmp_path):
  german = tree('d')
  german['prompt']['lang'] = 'de'
  german['prompt']['replies'][0]['lang'] = 'de'
  (got,) = load(tmp_path, [tree(), german], query='?lang=de').records
  assert got.prompt.id == 'd' and got.responses == ('a2.', 'deutsch.')
  everything = load(tmp_path, [tree()], query='?lang=all').records[0]
  assert 'deutsch.' in everything.responses


def test_few_ranks_and_damage_are_counted(tmp_path):
  few = {
    'message_tree_id': 'f',
    'prompt': message('f', 'prompter', replies=[message('f0', 'assistant', 0)]),
  }
  gone = tree('g')
  gone['prompt']['deleted'] = True
  roles = {
    'message_tree_id': 'r',
    'prompt': message(
      'r',
      'assistant',
      replies=[
        message('r0', 'prompter', replies=[message('r1', 'assistant', 0)])
      ],
    ),
  }
  got = load(tmp_path, [tree(), few, gone, roles, {'a': 1}, {'prompt': 'x'}])
  assert got.dropped == {
    'has fewer than 2 ranked replies': 1,
    'a message of the thread was deleted': 2,
    'the roles of the thread are not prompter and assistant by turns': 1,
    "has neither the field 'message_id' nor 'prompt'": 1,
    'a message of the tree is not an object': 1,
  }
  assert got.read == len(got.records) + sum(got.dropped.values())


def test_broken_threads_of_flat_messages(tmp_path):
  rows = flat(tree())
  lost = copy.deepcopy(rows)
  lost.remove(next(row for row in lost if row['message_id'] == 'a0'))
  got = source_files.load(
    'oasst1:PATH',
    tmp_path / 'm.jsonl',
    [*lost, rows[0], dict(rows[0], message_id=3)],
  )
  assert got.dropped == {
    'a message that it answers is not in the file': 1,
    'its message_id is there twice': 1,
    'message_id is not text': 1,
  }
  circle = [
    dict(rows[0], parent_id='x'),
    dict(message('x', 'assistant', 0), parent_id='q'),
  ]
  source = lookup.parse('oasst1').source()
  path = source_files.write_lines(tmp_path / 'c.jsonl', circle)
  (row,) = source.rows([File(path)])
  assert isinstance(row, Row) and row.fault == 'the thread is a circle'


def test_demonstrations_are_the_best_replies_of_people(tmp_path):
  synthetic = {
    'message_tree_id': 's',
    'prompt': message(
      's',
      'prompter',
      replies=[
        message('s0', 'assistant', 0, synthetic=True),
        message('s1', 'assistant', 1),
      ],
    ),
  }
  only = {
    'message_tree_id': 'o',
    'prompt': message('o', 'prompter', replies=[message('o0', 'assistant')]),
  }
  unranked = {
    'message_tree_id': 'n',
    'prompt': message(
      'n',
      'prompter',
      replies=[message('n0', 'assistant'), message('n1', 'assistant')],
    ),
  }
  got = load(
    tmp_path, [tree(), synthetic, only, unranked], 'oasst1/demonstrations'
  )
  assert [(r.prompt.id, r.response, r.labeler) for r in got.records] == [
    ('q', 'a0.', 'u-a0'),
    ('q2', 'b0.', 'u-b0'),
    ('s', 's1.', 'u-s1'),
    ('o', 'o0.', 'u-o0'),
  ]
  assert got.dropped == {'has several replies and none is ranked': 1}


def test_what_is_downloaded():
  (remote,) = lookup.parse('oasst2/demonstrations').source().remotes()
  assert remote.url == (
    'https://huggingface.co/datasets/OpenAssistant/oasst2/resolve/main/'
    '2023-11-05_oasst2_ready.trees.jsonl.gz'
  )
