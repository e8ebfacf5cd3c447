"""OpenAssistant conversations: threads whose replies volunteers ranked.

Koepf et al. 2023, 'OpenAssistant Conversations'; Apache-2.0. The exports read
here are the project's own: `*_ready.trees.jsonl.gz` (a tree a line), or
`*_ready.messages.jsonl.gz` and the hub's parquet (a message a row).
"""

from collections.abc import Iterator
import dataclasses
from typing import Any

from instructrl.data.records import Demonstration, Ranking
from instructrl.data.sources import base
from instructrl.data.sources import fields
from instructrl.data.sources import row_files
from instructrl.data.sources.row_files import Row
from instructrl.tokenizers import dialogue


def _language(value: str) -> str:
  if not value:
    raise ValueError("a language such as 'en', or 'all'")
  return value


class _Oasst(base.Source):
  """Base class: a row is a message of a user that has replies.

  The prompt is the thread that ends with this message, as a dialogue
  (`dialogue.join_turns`). The prompt's user is the person who began the tree,
  so a split by user keeps a tree together.
  """

  RELEASE: str  # '2023-04-12_oasst_ready'
  OPTIONS = {
    'lang': base.Option('en', _language, "language of the messages, or 'all'")
  }

  def remotes(self):
    repository = f'OpenAssistant/{self.NAME.partition("/")[0]}'
    name = f'{self.RELEASE}.trees.jsonl.gz'
    url = f'{base.HUB}{repository}/resolve/main/{name}'
    return (base.Remote(url, name),)

  def find(self, path):
    """Returns the files of one form, if a folder has the data in several."""
    found = super().find(path)
    named = lambda form: [f for f in found if form in f.path.name]
    return named('_ready.trees') or named('_ready.messages') or found

  def rows(self, found):
    for file in found:
      flat = {}
      for row in row_files.read_rows(file):
        if row.fault or not isinstance(row.value, dict):
          yield dataclasses.replace(row, fault=row.fault or 'is not an object')
        elif 'prompt' in row.value:
          yield from _threads_of_tree(row)
        elif fault := _fault_of_message(row.value, flat):
          yield dataclasses.replace(row, fault=fault)
        else:
          flat[row.value['message_id']] = row
      yield from _threads_of_messages(flat)

  def _asked(self, row):
    """Returns (prompt, usable replies) of a row."""
    turns, lang = row.value['turns'], self.options['lang']
    for turn in turns:
      if turn.get('deleted'):
        raise fields.Unusable('a message of the thread was deleted')
    roles = [turn.get('role') for turn in turns]
    if roles != (['prompter', 'assistant'] * len(turns))[: len(turns)]:
      raise fields.Malformed(
        'the roles of the thread are not prompter and assistant by turns'
      )
    if lang != 'all' and turns[-1].get('lang') != lang:
      raise fields.Unusable(f'is not in the language {lang!r}')
    replies = [
      reply
      for reply in row.value['replies']
      if not reply.get('deleted')
      and reply.get('review_result') is not False
      and (lang == 'all' or reply.get('lang') == lang)
    ]
    texts = [fields.text(turn, 'text').strip() for turn in turns]
    first = fields.text(turns[0], 'message_id')
    tree = fields.optional_text(turns[0], 'message_tree_id', first)
    prompt = fields.prompt(
      dialogue.join_turns(texts),
      split=row.file.split,
      use_case='chat',
      own_id=fields.text(turns[-1], 'message_id'),
      turns=texts,
      user=fields.optional_text(turns[0], 'user_id', tree),
    )
    return prompt, replies


class _OasstRankings(_Oasst):
  """Sibling replies with their ranks from the volunteers' votes.

  Replies without a rank are dropped, and threads with fewer than two ranks.
  """

  RECORD = Ranking

  def record(self, row):
    prompt, replies = self._asked(row)
    ranked = [reply for reply in replies if reply.get('rank') is not None]
    if len(ranked) < 2:
      raise fields.Unusable('has fewer than 2 ranked replies')
    return fields.ranking(
      prompt,
      [fields.text(reply, 'text').strip() for reply in ranked],
      [fields.number(reply['rank'], 'rank', 0) for reply in ranked],
      labeler=self.NAME,
      sources=[_writer(reply) for reply in ranked],
      humans=[not reply.get('synthetic') for reply in ranked],
    )


class _OasstDemonstrations(_Oasst):
  """The best-ranked reply by a person; a single reply needs no rank."""

  RECORD = Demonstration

  def record(self, row):
    prompt, replies = self._asked(row)
    best = None
    for reply in replies:
      if reply.get('synthetic'):
        continue
      rank = reply.get('rank')
      rank = float('inf') if rank is None else fields.number(rank, 'rank', 0)
      if best is None or rank < best[0]:
        best = rank, reply
    if best is None:
      raise fields.Unusable('has no reply that a person wrote')
    if best[0] == float('inf') and len(replies) > 1:
      raise fields.Unusable('has several replies and none is ranked')
    return Demonstration(
      prompt,
      fields.text(best[1], 'text').strip(),
      fields.optional_text(best[1], 'user_id', self.NAME.partition('/')[0]),
    )


class Oasst1(_OasstRankings):
  NAME = 'oasst1'
  RELEASE = '2023-04-12_oasst_ready'
  ABOUT = 'OpenAssistant, April 2023: ranked replies (Apache-2.0)'


class Oasst2(_OasstRankings):
  NAME = 'oasst2'
  RELEASE = '2023-11-05_oasst2_ready'
  ABOUT = 'OpenAssistant, November 2023: ranked replies (Apache-2.0)'


class Oasst1Demonstrations(_OasstDemonstrations):
  NAME = 'oasst1/demonstrations'
  RELEASE = Oasst1.RELEASE
  ABOUT = 'OpenAssistant, April 2023: the best replies (Apache-2.0)'


class Oasst2Demonstrations(_OasstDemonstrations):
  NAME = 'oasst2/demonstrations'
  RELEASE = Oasst2.RELEASE
  ABOUT = 'OpenAssistant, November 2023: the best replies (Apache-2.0)'


def _writer(reply: dict[str, Any]) -> str:
  if reply.get('synthetic'):
    return fields.name(reply, 'model_name')
  return 'human'


def _fault_of_message(value, known) -> str:
  if 'message_id' not in value:
    return "has neither the field 'message_id' nor 'prompt'"
  for name in ('message_id', 'parent_id'):
    own = value.get(name)
    if not isinstance(own, str) and not (name == 'parent_id' and own is None):
      return f'{name} is not text'
  if value['message_id'] in known:
    return 'its message_id is there twice'
  return ''


def _threads_of_tree(row: Row) -> Iterator[Row]:
  """Yields a row for each message of a user in a tree that has replies."""
  stack = [(row.value['prompt'], ())]
  while stack:  # not recursive: a tree may be deep
    message, before = stack.pop()
    replies = message.get('replies') or [] if isinstance(message, dict) else ''
    if not isinstance(replies, list):
      fault = 'a message of the tree is not an object'
      yield dataclasses.replace(row, value=None, fault=fault)
      continue
    turns = (*before, message)
    if message.get('role') == 'prompter' and replies:
      objects = [reply for reply in replies if isinstance(reply, dict)]
      value = {'turns': turns, 'replies': objects}
      yield dataclasses.replace(row, value=value)
    stack.extend((reply, turns) for reply in reversed(replies))


def _threads_of_messages(rows: dict[str, Row]) -> Iterator[Row]:
  """Yields the same rows for messages that name their parent."""
  replies = {}
  for row in rows.values():
    parent = row.value.get('parent_id')
    if parent is not None:
      replies.setdefault(parent, []).append(row)
  for number, row in rows.items():
    if row.value.get('role') != 'prompter' or number not in replies:
      continue
    turns, at, seen = [], number, set()
    while at is not None and at in rows and at not in seen:
      seen.add(at)
      turns.insert(0, rows[at].value)
      at = rows[at].value.get('parent_id')
    if at is not None:
      fault = (
        'the thread is a circle'
        if at in seen
        else 'a message that it answers is not in the file'
      )
      yield dataclasses.replace(row, fault=fault)
      continue
    answers = [reply.value for reply in replies[number]]
    value = {'turns': tuple(turns), 'replies': answers}
    yield dataclasses.replace(row, value=value)
