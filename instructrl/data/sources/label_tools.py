"""Rankings that people made with other tools: Argilla, Label Studio, Potato.

Each class reads the tool's own export. One row of an export may have labels of
several people: each is a ranking of its own. Names of fields are up to the
project, so options say where the prompt and the responses are.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import pathlib
import string
from typing import Any

from instructrl.data.records import Ranking
from instructrl.data.sources import base
from instructrl.data.sources import fields
from instructrl.data.sources import row_files
from instructrl.data.sources.row_files import File
from instructrl.data.sources.row_files import Row
from instructrl.runtime import files

_PROMPT = base.Option('prompt', str, 'field of the prompt')
_TEXTS = ('text', 'body', 'html', 'title')  # of a response that is an object


class _Labeled(base.Source):
  """Rows with labels of several people."""

  RECORD = Ranking
  PUBLIC = False

  def rows(self, found: Sequence[File]) -> Iterator[Row]:
    for row in super().rows(found):
      if row.fault or not isinstance(row.value, dict):
        yield row
        continue
      try:
        labels = list(self.labels(row.value))
      except fields.Malformed as error:
        yield dataclasses.replace(row, value=None, fault=str(error))
        continue
      for labeler, label in labels:
        value = {'row': row.value, 'labeler': labeler, 'label': label}
        yield dataclasses.replace(row, value=value)

  def labels(self, value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields (labeler, label) of a row of the export."""
    raise NotImplementedError

  def _ranking(self, row: Row, data: Any, named, ranks, own_id='') -> Ranking:
    """Makes a ranking.

    Args:
      row: of one label.
      data: the object with the prompt.
      named: name -> response; the names that were ranked.
      ranks: name -> number, low is good.
      own_id: id of the prompt.
    """
    names = [name for name in named if name in ranks]
    return fields.ranking(
      fields.prompt(
        fields.text(data, self.options['prompt']),
        split=row.file.split,
        own_id=own_id,
      ),
      [
        fields.checked_text(_text(named[n]), n, may_be_empty=True)
        for n in names
      ],
      [ranks[name] for name in names],
      labeler=row.value['labeler'],
      sources=[_model(named[name], name) for name in names],
    )

  def _of_scores(self, scores: Mapping[str, float]) -> dict[str, float]:
    """Returns name -> rank of name -> rating, where high is good."""
    if not scores:
      raise fields.Unusable('has neither a ranking nor ratings of responses')
    margin = self.options['tie_margin']
    return dict(zip(scores, fields.ranks_of_scores([*scores.values()], margin)))


def _text(response: Any) -> Any:
  if not isinstance(response, dict):
    return response
  return next((response[n] for n in _TEXTS if response.get(n)), None)


def _model(response: Any, name: str) -> str:
  model = response.get('model') if isinstance(response, dict) else None
  return model if isinstance(model, str) and model else name


def _of_order(order: Any, name: str) -> dict[str, float]:
  """Returns name -> rank of a list of names, or of groups of tied names."""
  if not isinstance(order, list):
    raise fields.Malformed(f'{name} is not a list')
  ranks: dict[str, float] = {}
  for rank, group in enumerate(order):
    for one in group if isinstance(group, list) else [group]:
      if not isinstance(one, (str, int)) or str(one) in ranks:
        raise fields.Malformed(f'{name} has {one!r} twice, or not as a name')
      ranks[str(one)] = rank
  return ranks


def _known(ranks: Mapping[str, float], named: Mapping[str, Any]) -> None:
  unknown = sorted(ranks.keys() - named.keys())
  if unknown:
    raise fields.Malformed(
      f'ranks {unknown[0]!r}, which is not a response; there are '
      f'{", ".join(sorted(named)) or "none"}'
    )


class Argilla(_Labeled):
  """Records of `dataset.records.to_json`, with ranking or rating questions.

  A ranking question ranks the names of fields, in order or with a rank each
  (equal ranks are ties). Without one, a rating question whose name contains the
  name of a field rates that field; a higher rating is better.
  """

  NAME = 'argilla'
  ABOUT = 'exports of Argilla, ranking and rating questions'
  OPTIONS = {
    'prompt': _PROMPT,
    'question': base.Option('', str, 'name of the ranking question'),
    'tie_margin': base.TIE_MARGIN,
  }

  def labels(self, value):
    answers: dict[str, dict[str, Any]] = {}
    responses = fields.is_object(fields.field(value, 'responses'), 'responses')
    for question, given in responses.items():
      for answer in given or ():
        user = fields.optional_text(answer, 'user_id', fields.UNKNOWN)
        answers.setdefault(user, {})[question] = answer.get('value')
    yield from answers.items()

  def record(self, row):
    data = fields.is_object(
      fields.field(fields.field(row.value, 'row'), 'fields'), 'fields'
    )
    named = {n: text for n, text in data.items() if n != self.options['prompt']}
    ranks = self._ranks(row.value['label'], named)
    own_id = fields.optional_text(row.value['row'], 'id')
    return self._ranking(row, data, named, ranks, own_id)

  def _ranks(self, label, named) -> dict[str, float]:
    question = self.options['question']
    for name, value in label.items():
      if isinstance(value, list) and question in ('', name):
        if value and all(isinstance(entry, dict) for entry in value):
          ranks = {
            fields.text(entry, 'value'): fields.number(
              fields.field(entry, 'rank'), f'{name}.rank'
            )
            for entry in value
          }
        else:
          ranks = dict(_of_order(value, name))
        if question or ranks.keys() <= named.keys():
          _known(ranks, named)
          return ranks
    return self._rated(label, named)

  def _rated(self, label, named) -> dict[str, float]:
    scores = {}
    for name in named:
      found = [q for q in label if name in q and not isinstance(label[q], list)]
      # 'response-1' is in 'response-10-rating' too: the longest name counts.
      found = [
        q
        for q in found
        if not any(len(o) > len(name) and o in q for o in named)
      ]
      if len(found) > 1:
        raise fields.Malformed(
          f'{", ".join(found)} all rate {name}: name one ranking question'
        )
      if found and label[found[0]] is not None:
        scores[name] = fields.number(label[found[0]], found[0])
    return self._of_scores(scores)


class LabelStudio(_Labeled):
  """Tasks of the JSON export, with Ranker, Rating or Pairwise results.

  A Ranker orders the ids of `items`. In a Ranker with buckets, the responses of
  a bucket are ties, and the option `buckets` orders the buckets. Pairwise
  selects one of the two fields of the option `responses`; no selection is a
  tie. Ratings rate the fields of `responses` whose names they have in
  `to_name`.
  """

  NAME = 'label_studio'
  ABOUT = 'exports of Label Studio: Ranker, Rating, Pairwise'
  OPTIONS = {
    'prompt': _PROMPT,
    'items': base.Option('items', str, 'field of the list that is ranked'),
    'responses': base.Option(
      ('text1', 'text2'),
      lambda text: tuple(text.split(',')),
      'fields of the responses of Pairwise and Rating, with commas',
    ),
    'buckets': base.Option(
      (),
      lambda text: tuple(text.split(',')),
      'buckets of a Ranker from best to worst, with commas',
    ),
    'tie_margin': base.TIE_MARGIN,
  }

  def labels(self, value):
    for annotation in fields.items(value, 'annotations'):
      if annotation.get('was_cancelled'):
        continue  # the labeler skipped the task
      who = annotation.get('completed_by')
      who = who.get('email') or who.get('id') if isinstance(who, dict) else who
      yield str(who or fields.UNKNOWN), fields.items(annotation, 'result')

  def record(self, row):
    task = fields.field(row.value, 'row')
    data = fields.is_object(fields.field(task, 'data'), 'data')
    own_id = f'label_studio/{task["id"]}' if task.get('id') is not None else ''
    kinds = {result.get('type') for result in row.value['label']}
    if 'ranker' in kinds:
      listed = fields.items(data, self.options['items'])
      named = {
        str(item.get('id') if isinstance(item, dict) else i): item
        for i, item in enumerate(listed)
      }
    else:
      named = {n: data[n] for n in self.options['responses'] if n in data}
    ranks = self._ranks(row.value['label'], named)
    _known(ranks, named)
    return self._ranking(row, data, named, ranks, own_id)

  def _ranks(self, results, named) -> dict[str, float]:
    scores: dict[str, float] = {}
    for result in results:
      value = fields.is_object(fields.field(result, 'value'), 'value')
      if result.get('type') == 'ranker':
        return self._ranker(fields.field(value, 'ranker'))
      if result.get('type') == 'pairwise':
        sides = dict(zip(('left', 'right'), named))
        chosen = sides.get(value.get('selected'))
        return {name: float(chosen not in (None, name)) for name in named}
      if result.get('type') == 'rating' and result.get('to_name') in named:
        scores[result['to_name']] = fields.number(value.get('rating'), 'rating')
    return self._of_scores(scores)

  def _ranker(self, value) -> dict[str, float]:
    if isinstance(value, list):
      return _of_order(value, 'ranker')
    filled = [name for name in fields.is_object(value, 'ranker') if value[name]]
    order = self.options['buckets']
    if not order and len(filled) == 1:  # one list: its order is the ranking
      return _of_order(value[filled[0]], 'ranker')
    if not order or not {*filled} <= {*order, '_'}:
      raise fields.Malformed(
        f'ranker has the buckets {", ".join(filled)}: order them with the '
        'option buckets=BEST,...,WORST'
      )
    # '_' has the items that were not put into a bucket.
    return _of_order([value.get(name, []) for name in order], 'ranker')


class Potato(_Labeled):
  """The folder `annotation_output` of Potato, with ranking schemes.

  `rank_order` is the order of the items from the best, separated by commas;
  tied items are separated by `=`. Items are named by their text, their field,
  their letter ('A', 'Response A') or their id.
  """

  NAME = 'potato'
  ABOUT = 'annotation_output of Potato: rank_order with ties'
  OPTIONS = {
    'prompt': _PROMPT,
    'items': base.Option('', str, "the project's data file; needed"),
    'responses': base.Option(
      ('responses',),
      lambda text: tuple(text.split(',')),
      'field of the list of responses, or their fields with commas',
    ),
    'scheme': base.Option('', str, 'name of the ranking scheme'),
  }

  def find(self, path):
    states = [path] if path.is_file() else sorted(path.rglob('user_state.json'))
    return [File(state) for state in states]

  def rows(self, found):
    if not self.options['items']:
      raise row_files.SourceError(
        'potato: name the data file of the project, such as '
        'potato:annotation_output?items=data/items.jsonl'
      )
    items = self._items()
    for file in found:
      try:
        state = files.read_json(file.path)
      except ValueError as error:
        raise row_files.SourceError(str(error)) from error
      labeled = state.get('instance_id_to_label_to_value') or {}
      for number, (key, schemes) in enumerate(labeled.items(), 1):
        for scheme, answer in schemes.items():
          order = answer.get('rank_order') if isinstance(answer, dict) else None
          if order and self.options['scheme'] in ('', scheme):
            user = fields.optional_text(state, 'user_id', file.path.parent.name)
            value = {'row': items.get(key), 'labeler': user, 'label': order}
            yield Row(file, number, value | {'id': key})

  def _items(self) -> dict[str, Any]:
    path = pathlib.Path(self.options['items'])
    return {
      str(row.value['id']): row.value
      for row in row_files.read_rows(File(path))
      if isinstance(row.value, dict) and 'id' in row.value
    }

  def record(self, row):
    data, key = row.value['row'], row.value['id']
    if data is None:
      raise fields.Malformed(
        f'labels {key!r}, which {self.options["items"]} does not have'
      )
    names = self.options['responses']
    responses = (
      fields.items(data, names[0])
      if len(names) == 1
      else [fields.field(data, name) for name in names]
    )
    ranks: dict[str, float] = {}
    places = _places(responses, names)
    for rank, group in enumerate(_groups(row.value['label'], places)):
      ranks |= {str(places[name]): rank for name in group}
    named = {str(i): response for i, response in enumerate(responses)}
    return self._ranking(row, data, named, ranks, f'potato/{key}')


def _places(responses: Sequence[Any], names: Sequence[str]) -> dict[str, int]:
  """Returns each name that an item may have in `rank_order` -> its place."""
  places: dict[str, int] = {}
  for i, response in enumerate(responses):
    letter = string.ascii_uppercase[i % 26]
    known = [letter, f'Response {letter}', str(_text(response))]
    if len(names) > 1:
      known.append(names[i])
    if isinstance(response, dict) and 'id' in response:
      known.append(str(response['id']))
    places |= {name: i for name in known if name not in places}
  return places


def _groups(order: str, places: Mapping[str, int]) -> list[list[str]]:
  """Splits 'B,D=A,C' into [['B'], ['D', 'A'], ['C']].

  Texts may have commas: the longest known name that ends at a separator is
  taken.
  """
  names = sorted(filter(None, places), key=len, reverse=True)
  groups: list[list[str]] = [[]]
  rest = order.strip()
  while rest:
    found = next(
      (
        name
        for name in names
        if rest.startswith(name) and rest[len(name) :].lstrip()[:1] in ',='
      ),
      None,
    )
    if found is None:
      raise fields.Malformed(f'rank_order names no response at {rest[:40]!r}')
    groups[-1].append(found)
    rest = rest[len(found) :].lstrip()
    if rest.startswith(','):
      groups.append([])
    rest = rest[1:].lstrip()
  return groups
