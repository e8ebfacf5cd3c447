"""Bring your own: JSON lines with the fields below.

| a line has | and is |
|---|---|
| `text` | a Document |
| `prompt`, `response` (or `completion`) | a Demonstration |
| `prompt`, `chosen`, `rejected` | a Ranking of two |
| `prompt`, `responses`, `ranks` (low is good) | a Ranking of K |
| `prompt`, `responses`, `scores` (high is good) | a Ranking of K |
| `prompt` alone | a Prompt |
| `messages` | a Demonstration: the last message answers the others |

A prompt may be a list of messages `{role, content}` of the user and the
assistant by turns, and a response such a message, alone or in a list; without
`prompt`, `chosen` and `rejected` may be whole dialogues that end differently.

`responses` are K texts (one may be empty, but not all), or K objects
`{text, score?, rank?, model?}`, which have the scores or ranks themselves.
Equal ranks are ties, and with the option `tie_margin=M` scores less than M
apart as well. Optional beside them: `id`, `user` (who asked; data is split by
user), `labeler` (who wrote or ranked), `group` ('train' or 'heldout', the
labeler's), `use_case` (a name of Ouyang et al. 2022, Table 1), `split`
('train', 'validation', 'test'), `source` (of a document: what kind of page; of
a ranking without `model`: who wrote the responses). A `reference` (what a judge
compared with) and other fields are not read; the summary lists them once. All
lines of a file are of one kind. gzip, parquet and a JSON list are read too.
"""

import dataclasses
from typing import Any

from instructrl.data import records as records_lib
from instructrl.data.datasets import fields, files
from instructrl.data.datasets.files import Row
from instructrl.data.datasets.source import Option, Source, at_least, one_of
from instructrl.data.records import Demonstration, Document, Prompt, Ranking
from instructrl.interop import dialogue

_ABOUT_PROMPT = {'id', 'prompt', 'user', 'use_case', 'split'}
# What is read of each kind of line.
_READ = {
    Document: {'id', 'text', 'source', 'split'},
    Prompt: _ABOUT_PROMPT,
    Demonstration: _ABOUT_PROMPT | {
        'response', 'completion', 'labeler', 'messages'},
    Ranking: _ABOUT_PROMPT | {
        'responses', 'ranks', 'scores', 'chosen', 'rejected', 'labeler',
        'group', 'source'},
}
_READ_OF_A_RESPONSE = {'text', 'score', 'rank', 'model', 'role', 'content'}


class Own(Source):
  """Your own rows, in the schema of this file's docstring."""

  NAME = 'jsonl'
  ABOUT = 'your own JSON lines, of any record type'
  STRICT = True
  PUBLIC = False
  OPTIONS = {
      'tie_margin': Option(
          0.0, at_least(0.0), 'scores less than this apart are ties'),
      'split': Option(
          'train', one_of(*records_lib.SPLITS), 'of lines that name none'),
  }

  def __init__(self, subset='', options=None):
    super().__init__(subset, options)
    self._kind, self._first = None, ''
    self._unread = {}  # field -> rows

  def kind(self):
    return self._kind

  def find(self, path):
    return [dataclasses.replace(file, split=self.options['split'], part='')
            for file in super().find(path)]

  def _order(self, path):
    return path

  def record(self, row):
    value = row.value
    if not isinstance(value, dict):
      fields.field(value, 'prompt')  # says what it is
    row = dataclasses.replace(row, value=_in_texts(value))
    kind = kind_of(row.value)
    if self._kind is None:
      self._kind, self._first = kind, row.place
    if kind is not self._kind:
      raise fields.Malformed(
          f'is a {kind.__name__}, and the first row ({self._first}) is a '
          f'{self._kind.__name__}: keep them in files of their own')
    record = _MAKERS[kind](row, self.options)
    unread = {name for name, item in value.items()
              if item is not None} - _READ[kind]
    if isinstance(value.get('responses'), list):
      unread |= {f'responses[].{name}' for item in value['responses']
                 if isinstance(item, dict)
                 for name in item.keys() - _READ_OF_A_RESPONSE}
    for name in unread:
      self._unread[name] = self._unread.get(name, 0) + 1
    return record

  def notes(self):
    plain = lambda name: name.encode('utf-8', 'backslashreplace').decode()
    listed = ', '.join(
        f'{plain(name)} ({count:,} rows)'
        for name, count in sorted(self._unread.items()))
    return [f'fields that were not read: {listed}'] if listed else []


def _in_texts(value: dict[str, Any]) -> dict[str, Any]:
  """A row without messages: of a prompt its turns, of a response the text."""
  value = dict(value)
  sides = [value.get(name) for name in ('chosen', 'rejected')]
  completion = value.pop('completion', None)
  if completion is not None:
    if value.get('label') is not None:
      raise fields.Malformed(
          'has a label for a single completion; what is read are '
          'demonstrations and rankings of two or more')
    value['response'] = completion
  if value.get('prompt') is None:
    if value.get('messages') is not None:
      value['prompt'], value['response'] = _answered(
          value['messages'], 'messages')
    elif all(isinstance(side, list) for side in sides):
      value['prompt'], value['chosen'] = _answered(sides[0], 'chosen')
      other, value['rejected'] = _answered(sides[1], 'rejected')
      if other != value['prompt']:
        raise fields.Unusable(
            'the dialogues part before the last turn of the assistant')
  elif isinstance(value['prompt'], list):
    value['prompt'] = fields.turns(value['prompt'], 'prompt')
    if len(value['prompt']) % 2 == 0:
      raise fields.Malformed('prompt does not end with a turn of the user')
  for name in ('response', 'chosen', 'rejected'):
    if value.get(name) is not None:
      value[name] = fields.answer(value[name], name)
  return value


def _answered(messages, name: str) -> tuple[list[str], str]:
  """The turns before the last one, and that."""
  turns = fields.turns(messages, name)
  if len(turns) % 2:
    raise fields.Malformed(f'{name} does not end with a turn of the assistant')
  return turns[:-1], turns[-1]


def kind_of(value: dict[str, Any]) -> type:
  """The record type that the fields of a line tell."""
  has = {name for name, item in value.items() if item is not None}
  if 'text' in has and 'prompt' not in has:
    return Document
  if 'prompt' not in has:
    hint = f'; it has {", ".join(sorted(has)[:8])}' if has else ''
    if {'chosen', 'rejected'} <= has:
      hint += ' (dialogues in one text are read as hh-rlhf:PATH)'
    raise fields.Malformed(
        f"has neither the field 'prompt' nor 'text'{hint}")
  if 'responses' in has or 'chosen' in has or 'rejected' in has:
    return Ranking
  return Demonstration if 'response' in has else Prompt


def _split(row: Row) -> str:
  name = fields.optional_text(row.value, 'split', row.file.split)
  return files.split_named(name) or name  # `problems` refuses unknown ones


def _document(row, options) -> Document:
  del options
  text = fields.text(row.value, 'text')
  return Document(
      id=fields.optional_text(row.value, 'id', fields.text_id(text)),
      text=text, split=_split(row),
      source=fields.optional_text(row.value, 'source', fields.UNKNOWN))


def _prompt(row, options) -> Prompt:
  del options
  value = row.value
  turns = value['prompt'] if isinstance(value.get('prompt'), list) else []
  text = (dialogue.join_turns(turns) if turns else
          fields.text(value, 'prompt'))
  return fields.prompt(
      text, turns=turns, split=_split(row),
      own_id=fields.optional_text(value, 'id'),
      user=fields.optional_text(value, 'user'),
      use_case=fields.optional_text(value, 'use_case', 'other'))


def _demonstration(row, options) -> Demonstration:
  return Demonstration(
      _prompt(row, options), fields.text(row.value, 'response'),
      fields.optional_text(row.value, 'labeler', fields.UNKNOWN))


def _ranking(row, options) -> Ranking:
  value = row.value
  if value.get('responses') is not None:
    texts, ranks, models = _responses(value, options['tie_margin'])
  else:
    texts = [fields.text(value, 'chosen'), fields.text(value, 'rejected')]
    ranks, models = [0, 1], [None, None]
  default = fields.optional_text(value, 'source', fields.UNKNOWN)
  return fields.ranking(
      _prompt(row, options), texts, ranks,
      labeler=fields.optional_text(value, 'labeler', fields.UNKNOWN),
      group=fields.optional_text(value, 'group', 'train'),
      sources=[model or default for model in models])


def _responses(value, tie_margin):
  """The texts, ranks and models of a row's K responses."""
  given = fields.items(value, 'responses')
  items = []
  for i, item in enumerate(given):
    if isinstance(item, list) or isinstance(item, dict) and 'content' in item:
      text = fields.answer(item, f'responses[{i}]')
      item = {**(item if isinstance(item, dict) else {}), 'text': text}
    items.append(item if isinstance(item, dict) else {'text': item})
  texts, models = [], []
  for i, item in enumerate(items):
    texts.append(fields.checked_text(  # silence is a response to be judged
        item.get('text'), f'responses[{i}]', may_be_empty=True))
    models.append(fields.optional_text(item, 'model'))
  found = {}
  for each, all_of_them in (('rank', 'ranks'), ('score', 'scores')):
    own = [item.get(each) for item in items]
    if value.get(all_of_them) is not None:
      own = fields.items(value, all_of_them)
      if len(own) != len(items):
        raise fields.Malformed(
            f'{all_of_them} has {len(own)} entries for {len(items)} responses')
    if any(entry is not None for entry in own):
      found[each] = [fields.number(entry, f'{all_of_them}[{i}]')
                     for i, entry in enumerate(own)]
  if len(items) < 2:  # before it is asked for ranks
    raise fields.Unusable(fields.TOO_FEW.format(len(items)))
  if 'rank' in found:
    return texts, found['rank'], models
  if 'score' in found:
    return texts, fields.ranks_of_scores(found['score'], tie_margin), models
  raise fields.Malformed(
      'has responses and neither ranks nor scores for them')


_MAKERS = {Document: _document, Prompt: _prompt,
           Demonstration: _demonstration, Ranking: _ranking}
