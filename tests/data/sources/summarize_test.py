"""Summaries: the paper's prompt, the worker's choice, the file's split."""

import pyarrow
from pyarrow import parquet
import pytest

from instructrl.data.sources import lookup
from tests.data.sources import source_files

INFO = {
  'id': 't3_1',
  'post': 'I fell.\n\nIt hurts. ',
  'title': 'A fall',
  'subreddit': 'legaladvice',
}
PROMPT = (
  'SUBREDDIT: r/legaladvice\n\nTITLE: A fall\n\nPOST: I fell.\n\nIt '
  'hurts.\n\nTL;DR:'
)
NEWS = {'id': 'abc', 'article': 'It rained.', 'title': 'Rain', 'site': 'cnn'}


def comparison(i=0, **changes):
  return {
    'info': INFO,
    'choice': 1,
    'worker': 'w1',
    'batch': 'batch9',
    'split': 'train',
    'extra': {'confidence': 8},
    'summaries': [
      {'text': f' fell {i}', 'policy': 'sup4', 'note': None},
      {'text': ' hurts', 'policy': 'ref', 'note': 'n'},
    ],
    **changes,
  }


def test_a_comparison(tmp_path):
  (got,) = source_files.load(
    'summarize_from_feedback/comparisons:PATH',
    tmp_path / 'batch9.json',
    [comparison()],
  ).records
  assert got.prompt.text == PROMPT and got.prompt.id == 'tldr/t3_1'
  assert got.responses == ('fell 0', 'hurts') and got.ranks == (1, 0)
  assert got.labeler == 'w1' and got.sources == ('sup4', 'ref')
  assert got.temperatures == (1.0, 0.0)
  assert got.prompt.use_case == 'summarization'


def test_splits_texts_and_drops(tmp_path):
  rows = [
    comparison(1, split='valid1'),
    comparison(2, split='valid2'),
    comparison(3, info=NEWS),
    comparison(4, choice=2),
    comparison(5, split='x'),
    comparison(6, summaries=[]),
    comparison(7, info=dict(INFO, post='')),
  ]
  path = tmp_path / 'batch3.json'
  got = source_files.load(
    'summarize_from_feedback/comparisons:PATH', path, rows
  )
  assert [r.prompt.split for r in got.records] == ['validation', 'test']
  assert got.dropped == {
    'belongs to posts=cnndm': 1,
    'choice is 2, neither 0 nor 1': 1,
    "split is 'x', not one of "
    'train, valid1, valid2, valid, validation, test': 1,
    'has 0 summaries, not 2': 1,
    'post is empty': 1,
  }
  spec = f'summarize_from_feedback/comparisons:{path}?posts=cnndm'
  (news,) = lookup.load(spec).records
  assert news.prompt.text == 'TITLE: Rain\n\nARTICLE: It rained.\n\nTL;DR:'


def test_the_copy_in_parquet_is_the_same(tmp_path):
  parquet.write_table(
    pyarrow.Table.from_pylist([comparison(i) for i in range(3)]),
    tmp_path / 'train-00000-of-00001.parquet',
  )
  name = 'summarize_from_feedback/comparisons'
  got = lookup.load(f'{name}:{tmp_path}')
  assert (
    got.records
    == source_files.load(
      f'{name}:PATH',
      tmp_path / 'x' / 'batch3.json',
      [comparison(i) for i in range(3)],
    ).records
  )


def test_posts(tmp_path):
  for split in ('train', 'valid', 'test'):
    source_files.write_lines(
      tmp_path / 'posts' / f'{split}.jsonl',
      [dict(INFO, id=f't3_{split}', summary=f' {split}. ')],
    )
  source_files.write_lines(
    tmp_path / 'comparisons' / 'batch3.json', [comparison()]
  )
  source_files.write_lines(
    tmp_path / 'axis_evals' / 'cnndm1.json', [{'summary': {}}]
  )
  got = lookup.load(f'summarize_from_feedback/posts:{tmp_path}')
  assert [(r.prompt.split, r.response) for r in got.records] == [
    ('train', 'train.'),
    ('validation', 'valid.'),
    ('test', 'test.'),
  ]
  assert got.records[0].prompt.text == PROMPT and not got.dropped
  got = lookup.load(f'summarize_from_feedback/comparisons:{tmp_path}')
  assert got.read == len(got.records) == 1


@pytest.mark.parametrize(
  'spec, count, name',
  [
    ('comparisons', 20, 'comparisons/batch3.json'),
    ('comparisons?posts=all', 23, 'comparisons/batch3.json'),
    ('comparisons?posts=cnndm', 3, 'comparisons/batch0_cnndm.json'),
    ('posts', 3, 'posts/train.jsonl'),
  ],
)
def test_what_is_downloaded(spec, count, name):
  remotes = lookup.parse(f'summarize_from_feedback/{spec}').source().remotes()
  assert len(remotes) == count and remotes[0].name == name
  assert len({remote.name for remote in remotes}) == count
