"""Summarize from feedback: TL;DR posts, human summaries and comparisons.

Stiennon et al. 2020, 'Learning to summarize from human feedback', and the
files that OpenAI released with it (see openai/summarize-from-feedback), with
the posts of Voelske et al. 2017. Prompts are in the format of the paper
(Appendix B.2): SUBREDDIT, TITLE, POST, TL;DR:.
"""

from instructrl.data.records import Demonstration, Ranking
from instructrl.data.sources import base
from instructrl.data.sources import fields
from instructrl.data.sources import row_files

_URL = 'https://openaipublic.blob.core.windows.net/summarize-from-feedback/'
_TLDR = tuple(f'batch{i}' for i in (*range(3, 21), 22)) + ('edit_b2_eval_test',)
_NEWS = ('batch0_cnndm', 'cnndm0', 'cnndm2')
# `valid1` chose the models in the paper, `valid2` measured them.
_SPLITS = {
  'train': 'train',
  'valid1': 'validation',
  'valid2': 'test',
  'valid': 'validation',
  'validation': 'validation',
  'test': 'test',
}


def render(info: dict) -> str:
  """Returns a post or a news article as a prompt for a summary."""
  title = fields.optional_text(info, 'title').strip()
  if info.get('article'):
    body = fields.text(info, 'article').strip()
    return f'TITLE: {title}\n\nARTICLE: {body}\n\nTL;DR:'
  body = fields.text(info, 'post').strip()
  subreddit = fields.text(info, 'subreddit').strip().removeprefix('r/')
  return f'SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {body}\n\nTL;DR:'


def _prompt(info, split):
  number = fields.optional_text(info, 'id')
  return fields.prompt(
    render(info),
    split=split,
    use_case='summarization',
    own_id=f'tldr/{number}' if number else '',
  )


class Comparisons(base.Source):
  """Pairs of summaries; the labeler is the worker who chose.

  The splits are the file's: train, valid1 (here validation), valid2 (test).
  """

  NAME = 'summarize_from_feedback/comparisons'
  RECORD = Ranking
  ABOUT = 'pairs of summaries of Reddit posts (OpenAI)'
  OPTIONS = {
    'posts': base.Option(
      'tldr',
      base.one_of('tldr', 'cnndm', 'all'),
      'which texts: Reddit posts, news articles or both',
    )
  }

  def remotes(self):
    names = {'tldr': _TLDR, 'cnndm': _NEWS, 'all': _TLDR + _NEWS}
    files_of = [f'comparisons/{n}.json' for n in names[self.options['posts']]]
    return tuple(
      base.Remote(f'{_URL}dataset/{name}', name) for name in files_of
    )

  def find(self, path):
    """Returns the comparisons only, not a folder's other files."""
    own = lambda found: (
      found.name.startswith(('batch', 'cnndm', 'edit_'))
      and found.parent.name != 'axis_evals'
      or row_files.suffix_of(found) == '.parquet'
    )
    found = super().find(path)
    return [file for file in found if path.is_file() or own(file.path)]

  def record(self, row):
    value = row.value
    info = fields.field(value, 'info')
    summaries = fields.items(value, 'summaries')
    kind = 'cnndm' if fields.is_object(info, 'info').get('article') else 'tldr'
    if self.options['posts'] not in (kind, 'all'):
      raise fields.Unusable(f'belongs to posts={kind}')
    if len(summaries) != 2:
      raise fields.Malformed(f'has {len(summaries)} summaries, not 2')
    choice = fields.field(value, 'choice')
    if isinstance(choice, bool) or choice not in (0, 1):
      raise fields.Malformed(f'choice is {choice!r}, neither 0 nor 1')
    name = fields.optional_text(value, 'split', row.file.split)
    if name not in _SPLITS:
      raise fields.Malformed(
        f'split is {name!r}, not one of {", ".join(_SPLITS)}'
      )
    policies = [
      fields.name(fields.is_object(summary, 'summary'), 'policy')
      for summary in summaries
    ]
    return fields.ranking(
      _prompt(info, _SPLITS[name]),
      [fields.text(summary, 'text').strip() for summary in summaries],
      (choice, 1 - choice),
      sources=policies,
      humans=[policy == 'ref' for policy in policies],
      labeler=fields.name(value, 'worker'),
    )


class Posts(base.Source):
  """Reddit posts with the summaries their authors wrote, filtered."""

  NAME = 'summarize_from_feedback/posts'
  RECORD = Demonstration
  ABOUT = 'Reddit posts and their TL;DR, filtered (OpenAI)'

  def remotes(self):
    url = f'{_URL}datasets/tldr_3_filtered/'
    return tuple(
      base.Remote(f'{url}{name}.jsonl', f'posts/{name}.jsonl', _SPLITS[name])
      for name in ('train', 'valid', 'test')
    )

  def find(self, path):
    """Returns the posts only, not a folder's other files."""
    own = lambda found: row_files.split_named(found.name.partition('.')[0])
    found = super().find(path)
    return [file for file in found if path.is_file() or own(file.path)]

  def record(self, row):
    response = fields.text(row.value, 'summary').strip()
    return Demonstration(_prompt(row.value, row.file.split), response, 'reddit')
