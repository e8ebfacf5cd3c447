"""HH-RLHF: the template gives the dialogues back; what has none is counted."""

import pytest

from instructrl.data.sources import hh_rlhf
from instructrl.data.sources import lookup
from instructrl.data.sources.row_files import SourceError
from tests.data.sources import source_files


def pair(prompt, chosen='good', rejected='bad'):
  return {
    'chosen': f'\n\nHuman: {prompt}\n\nAssistant: {chosen}',
    'rejected': f'\n\nHuman: {prompt}\n\nAssistant: {rejected}',
  }


LONG = 'Hi.\n\nAssistant: Yes?\n\nHuman: Why?  '


def test_a_pair_is_a_ranking_of_two(tmp_path):
  row = pair(LONG, ' two spaces', 'bad\n')
  (got,) = source_files.load(
    'hh-rlhf:PATH', tmp_path / 'hh.jsonl.gz', [row]
  ).records
  assert got.prompt.text == LONG and got.prompt.split == 'train'
  assert got.prompt.turns == ('Hi.', 'Yes?', 'Why?')
  assert got.responses == (' two spaces', 'bad\n') and got.ranks == (0, 1)
  for side, response in zip(('chosen', 'rejected'), got.responses):
    assert f'\n\nHuman: {got.prompt.text}\n\nAssistant: {response}' == row[side]
  assert got.response_tokens == () and got.prompt.use_case == 'chat'


def test_what_is_no_pair_is_dropped_and_counted(tmp_path):
  path = tmp_path / 'hh.jsonl'
  apart = {'chosen': pair('a')['chosen'], 'rejected': pair('b')['rejected']}
  rows = [
    pair('a'),
    apart,
    apart,
    pair('c', 'same', 'same'),
    pair('d', ''),
    {'chosen': 'Hello', 'rejected': 'Hello'},
    {'chosen': 3},
    '{',
    pair('a'),
  ]
  got = source_files.load('hh-rlhf:PATH', path, rows)
  assert len(got.records) == 1 and got.read == 9
  assert got.records[0].prompt.turns == ()  # the user's only turn
  assert got.dropped == {
    'the dialogues differ before the last turn of the assistant': 2,
    'chosen and rejected are the same': 1,
    'chosen: the response is empty': 1,
    'chosen: does not begin with \\n\\nHuman:': 1,
    'chosen is a number, not text': 1,
    'is not JSON: Expecting property name enclosed in double quotes '
    '(column N)': 1,
    'is an exact duplicate of an earlier row': 1,
  }
  assert got.first['chosen: the response is empty'] == (
    f'{path}:5: chosen: the response is empty'
  )
  with pytest.raises(SourceError, match='hh.jsonl:5: chosen: the resp'):
    lookup.load(f'hh-rlhf:{path}?strict=true')


def test_a_folder_with_the_release(tmp_path):
  for part in (*hh_rlhf.PARTS, 'red-team-attempts'):
    for split in ('test', 'train'):
      rows = [pair(f'{part} {split}')]
      if part == 'red-team-attempts':
        rows = [{'transcript': 'a'}]
      source_files.write_lines(tmp_path / part / f'{split}.jsonl.gz', rows)
  got = lookup.load(f'hh-rlhf:{tmp_path}')
  assert [r.prompt.split for r in got.records] == ['train'] * 4 + ['test'] * 4
  assert got.read == 8 and not got.dropped
  got = lookup.load(f'hh-rlhf/harmless-base:{tmp_path}')
  assert [r.prompt.text for r in got.records] == [
    'harmless-base train',
    'harmless-base test',
  ]
  remotes = lookup.parse('hh-rlhf/harmless-base').source().remotes()
  assert [(r.url.partition('/main/')[2], r.split) for r in remotes] == [
    ('harmless-base/train.jsonl.gz', 'train'),
    ('harmless-base/test.jsonl.gz', 'test'),
  ]
