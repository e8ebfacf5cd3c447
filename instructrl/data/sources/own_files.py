"""Your own data: JSON lines with the fields below.

| fields of a line | record |
|---|---|
| `text` | a Document |
| `prompt`, `response` (or `completion`) | a Demonstration |
| `prompt`, `chosen`, `rejected` | a Ranking of two |
| `prompt`, `responses`, `ranks` (low is good) | a Ranking of K |
| `prompt`, `responses`, `scores` (high is good) | a Ranking of K |
| `prompt` alone | a Prompt |

Prompts and responses may also be messages (see `messages`).

`responses` are K texts, or K objects `{text, score?, rank?, model?, ratings?,
temperature?}` with their own scores or ranks. Two fields with the same meaning,
such as `scores` and `ranks`, are an error. Some responses of a ranking may be
empty, but not all. Equal ranks are ties; with the option `tie_margin=M`, so are
scores less than M apart. `ratings` are the rows of Table 3: `overall_quality`
from 1 to 7, and flags of 0 or 1; all responses of a line have the same rows.
`line_of` writes a record in this form.

Optional fields: `id`, `user` (the person who asked; data is split by user),
`labeler` (the person who wrote or ranked), `group` (the labeler's: 'train' or
'heldout'), `use_case` (a name of Ouyang et al. 2022, Table 1), `split`
('train', 'validation', 'test'), `source` (the kind of a document; the writer of
a ranking's responses without `model`). Other fields are not read; the summary
lists them. All lines of a file have one kind. gzip, parquet and a JSON list are
read too. CSV and tables by columns, as pandas writes by default, are not.
"""

import dataclasses
import itertools
from typing import Any

from instructrl.data import records
from instructrl.data.records import Demonstration, Document, Prompt, Ranking
from instructrl.data.sources import base
from instructrl.data.sources import fields
from instructrl.data.sources import messages
from instructrl.data.sources import row_files
from instructrl.data.sources.row_files import Row
from instructrl.tokenizers import dialogue

_PAIR = ('chosen', 'rejected')
_ABOUT_PROMPT = {'id', 'prompt', 'user', 'use_case', 'split'}
_ABOUT_RANKING = {'labeler', 'group', 'source'}
# Record type -> the fields that are read.
_READ = {
  Document: {'id', 'text', 'source', 'split'},
  Prompt: _ABOUT_PROMPT,
  Demonstration: {*_ABOUT_PROMPT, 'response', 'labeler'},
  Ranking: {'responses', 'ranks', 'scores', *_PAIR}
  | _ABOUT_PROMPT
  | _ABOUT_RANKING,
}
_LISTED = 20  # fields that are not read, in the summary
_READ_OF_A_RESPONSE = {
  *('text', 'score', 'rank', 'model', 'role', 'ratings', 'temperature')
}


class Own(base.Source):
  """Your own rows; the module's docstring has their fields."""

  NAME = 'jsonl'
  ABOUT = 'your own JSON lines, of any record type'
  STRICT = True
  PUBLIC = False
  OPTIONS = {
    'tie_margin': base.TIE_MARGIN,
    'split': base.Option(
      'train', base.one_of(*records.SPLITS), 'split of lines that name none'
    ),
    'system': base.Option(
      'refuse', base.one_of(*messages.SYSTEM), 'system messages of the rows'
    ),
  }

  def __init__(self, subset='', options=None):
    super().__init__(subset, options)
    self._kind, self._first = None, ''
    self._unread = {}  # field -> rows

  def kind(self):
    return self._kind

  def find(self, path):
    return [
      dataclasses.replace(file, split=self.options['split'], part='')
      for file in super().find(path)
    ]

  def _order(self, path):
    return path

  def record(self, row):
    value = row.value
    if not isinstance(value, dict):
      fields.field(value, 'prompt')  # raises an error with the type
    if _is_table(value):
      raise fields.Malformed(
        "is a whole table: write a row a line, such as with pandas' "
        "to_json(FILE, orient='records', lines=True)"
      )
    reader = messages.MessageReader(self.options['system'])
    value = reader.in_texts(value)
    if isinstance(value.get('responses'), list):
      value['responses'] = [
        _response(item, f'responses[{i}]', reader)
        for i, item in enumerate(value['responses'])
      ]
    row = dataclasses.replace(row, value=value)
    kind = kind_of(value)
    if self._kind is None:
      self._kind, self._first = kind, row.place
    if kind is not self._kind:
      raise fields.Malformed(
        f'is a {kind.__name__}, but the first row ({self._first}) is a '
        f'{self._kind.__name__}: keep them in separate files'
      )
    record = self._made(kind, row)
    unread = (value.keys() - _READ[kind]) | reader.unread
    for item in value.get('responses', ()):
      names = item.keys() - _READ_OF_A_RESPONSE
      unread |= {f'responses[].{name}' for name in names}
    for name in unread:
      self._unread[name] = self._unread.get(name, 0) + 1
    return record

  def _made(self, kind: type, row: Row) -> records.Record:
    value = row.value
    if kind is Document:
      text = fields.text(value, 'text')
      own_id = fields.optional_text(value, 'id', fields.text_id(text))
      return Document(own_id, text, fields.name(value, 'source'), _split(row))
    prompt = prompt_of(row)
    if kind is Prompt:
      return prompt
    labeler = fields.name(value, 'labeler')
    if kind is Demonstration:
      return Demonstration(prompt, fields.text(value, 'response'), labeler)
    if value.get('responses') is not None:
      texts, ranks, models = _responses(value, self.options['tie_margin'])
    else:
      texts = [fields.ranked_text(value, name) for name in _PAIR]
      if texts[0] == texts[1]:
        raise fields.Unusable(fields.SAME)
      ranks, models = [0, 1], [None, None]
    default = fields.name(value, 'source')
    ranking = fields.ranking(
      prompt,
      texts,
      ranks,
      labeler=labeler,
      group=fields.optional_text(value, 'group', 'train'),
      sources=[model or default for model in models],
      metadata=_ratings(value),
    )
    return dataclasses.replace(
      ranking,
      temperatures=tuple(
        fields.number(item.get('temperature', known), 'temperature', 0)
        for item, known in zip(
          value.get('responses', [{}] * 2), ranking.temperatures
        )
      ),
    )

  def notes(self):
    plain = lambda name: name.encode('utf-8', 'backslashreplace').decode()
    unread = sorted(self._unread.items())
    listed = [
      f'{plain(name)} ({count:,} rows)' for name, count in unread[:_LISTED]
    ]
    if unread[_LISTED:]:
      listed.append(f'and {len(unread) - _LISTED:,} more')
    return [f'fields that were not read: {", ".join(listed)}'] * bool(listed)


def _is_table(value: dict[str, Any]) -> bool:
  """Returns whether a row is a table: by columns, by index, or in parts."""
  columns = list(value.values())
  if value.keys() in ({'columns', 'index', 'data'}, {'schema', 'data'}):
    return True
  if all(isinstance(column, list) for column in columns):
    texts = any(isinstance(text, str) for text in value.get('prompt', ()))
    return len(value) > 1 and texts and len({*map(len, columns)}) == 1
  return all(isinstance(column, dict) for column in columns)


def _response(
  item: Any, name: str, reader: messages.MessageReader
) -> dict[str, Any]:
  """Returns one of K responses as an object with `text`."""
  if isinstance(item, list) and len(item) == 1:
    item = item[0]
  if not isinstance(item, dict):
    return {'text': item}
  own = 'text' if item.get('text') is not None else 'content'
  if item.get(own) is None:
    return item
  rest = {key: value for key, value in item.items() if key != own}
  message = {'role': item.get('role'), 'content': item[own]}
  return {**rest, 'text': reader.answer(message, name)}


def kind_of(value: dict[str, Any]) -> type:
  """Returns the record type of a line with these fields."""
  has = {name for name, item in value.items() if item is not None}
  if 'text' in has and 'prompt' not in has:
    return Document
  if 'prompt' not in has:
    hint = f'; it has {", ".join(sorted(has)[:8])}' if has else ''
    if {'chosen', 'rejected'} <= has:
      hint += ' (dialogues in one text are read as hh-rlhf:PATH)'
    raise fields.Malformed(f"has neither the field 'prompt' nor 'text'{hint}")
  if 'responses' in has or 'chosen' in has or 'rejected' in has:
    return Ranking
  return Demonstration if 'response' in has else Prompt


def _split(row: Row) -> str:
  name = fields.optional_text(row.value, 'split', row.file.split)
  return row_files.split_named(name) or name  # `problems` refuses unknown ones


def prompt_of(row: Row) -> Prompt:
  """Returns the prompt of a row whose messages are texts (`in_texts`)."""
  value = row.value
  turns = value['prompt'] if isinstance(value.get('prompt'), list) else []
  text = dialogue.join_turns(turns) if turns else fields.text(value, 'prompt')
  of_turns = fields.text_id('\0'.join(turns)) if len(turns) > 1 else ''
  return fields.prompt(
    text,
    turns=turns,
    split=_split(row),
    own_id=fields.optional_text(value, 'id', of_turns),
    user=fields.optional_text(value, 'user'),
    use_case=fields.optional_text(value, 'use_case', 'other'),
  )


def _responses(value, tie_margin):
  """Returns the texts, ranks and models of a row's K responses."""
  items = fields.items(value, 'responses')
  texts, models = [], []
  for i, item in enumerate(items):
    text, name = item.get('text'), f'responses[{i}]'
    texts.append(fields.checked_text(text, name, may_be_empty=True))
    models.append(fields.optional_text(item, 'model'))
  found = {}  # field -> ('rank' or 'score', K numbers)
  for each, all_of_them in (('rank', 'ranks'), ('score', 'scores')):
    given = {f'responses[].{each}': [item.get(each) for item in items]}
    if value.get(all_of_them) is not None:
      entries = given[all_of_them] = fields.items(value, all_of_them)
      if len(entries) != len(items):
        raise fields.Malformed(
          f'{all_of_them} has {len(entries)} entries for {len(items)} responses'
        )
    for name, entries in given.items():
      if any(entry is not None for entry in entries):
        numbers = [
          fields.number(entry, f'{all_of_them}[{i}]')
          for i, entry in enumerate(entries)
        ]
        found[name] = each, numbers
  for name, other in itertools.combinations(found, 2):  # they may disagree
    messages.refuse_both(found, name, other)
  if len(items) < 2:  # before ranks are required
    raise fields.Unusable(fields.TOO_FEW.format(len(items)))
  if not found:
    raise fields.Malformed('has responses, but neither ranks nor scores')
  ((each, numbers),) = found.values()
  if each == 'score':
    numbers = fields.ranks_of_scores(numbers, tie_margin)
  return texts, numbers, models


def _ratings(value: dict[str, Any]) -> list[dict[str, int]]:
  """Returns the ratings of K responses; [] if no response has any."""
  given = [item.get('ratings') for item in value.get('responses', ())]
  if all(ratings is None for ratings in given):
    return []
  for i, ratings in enumerate(given):
    fields.is_object(ratings, f'responses[{i}].ratings')
  return given


def line_of(record: Demonstration | Prompt | Ranking) -> dict[str, Any]:
  """Returns the line from which this source reads a record, without tokens."""
  line = prompt_fields(records.prompt_of(record))
  if isinstance(record, Demonstration):
    line |= {'response': record.response, 'labeler': record.labeler}
  elif isinstance(record, Ranking):
    ratings = record.metadata or [None] * len(record.responses)
    columns = zip(
      record.responses,
      record.ranks,
      record.sources,
      record.temperatures,
      ratings,
    )
    line['responses'] = [
      dict(text=text, rank=rank, model=model, temperature=temperature)
      | ({'ratings': rated} if rated else {})
      for text, rank, model, temperature, rated in columns
    ]
    line |= {'labeler': record.labeler, 'group': record.group}
  return line


def prompt_fields(prompt: Prompt) -> dict[str, Any]:
  """Returns the fields of a line that describe its prompt."""
  roles = itertools.cycle(('user', 'assistant'))
  turns = [dict(role=r, content=t) for r, t in zip(roles, prompt.turns)]
  line = {'id': prompt.id, 'prompt': turns or prompt.text}
  for name in ('user', 'use_case', 'split'):
    line |= {name: getattr(prompt, name)} if getattr(prompt, name) else {}
  return line
