"""The records every data source is turned into.

A record is text; tokens are made in `tasks.py`. The same four types serve the
simulated lab and real data. `validate` refuses a malformed record with the
file it came from, its index there and the reason.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import json
import math
import numbers
from typing import Any, TypeVar
import unicodedata

FORMAT_VERSION = 2  # raised when a field changes its meaning

# The use cases of Ouyang et al. 2022, Table 1.
USE_CASES = (
  'generation',
  'open_qa',
  'brainstorming',
  'chat',
  'rewrite',
  'summarization',
  'classification',
  'other',
  'closed_qa',
  'extract',
)
SPLITS = ('train', 'validation', 'test')
DOCUMENT_SPLITS = ('train', 'validation')
GROUPS = ('train', 'heldout')


@dataclasses.dataclass(frozen=True)
class Document:
  id: str
  text: str
  source: str  # what kind of page, e.g. 'forum'
  split: str  # 'train' or 'validation'


@dataclasses.dataclass(frozen=True)
class Prompt:
  id: str
  text: str
  user: str
  use_case: str  # a name of PAPER Table 1, e.g. 'open_qa'
  split: str  # 'train', 'validation' or 'test'; split by user
  spec: str = ''  # JSON, what a checker needs; '' for real data
  turns: tuple[str, ...] = ()  # of a dialogue, whose `text` is all of them:
  # user, assistant, ..., user; () where the text is the user's only turn


@dataclasses.dataclass(frozen=True)
class Demonstration:
  prompt: Prompt
  response: str
  labeler: str


@dataclasses.dataclass(frozen=True)
class Ranking:
  prompt: Prompt
  labeler: str
  group: str  # 'train' or 'heldout'; which group the labeler belongs to
  responses: tuple[str, ...]  # K texts
  response_tokens: tuple[tuple[int, ...], ...]  # K; as sampled, EOS included;
  # () where the texts came without tokens and have not been given any yet
  sources: tuple[str, ...]  # K; which policy wrote it
  temperatures: tuple[float, ...]  # K; 0 for a human's demonstration
  ranks: tuple[int, ...]  # K; dense, 0 = best, equal = tie
  metadata: tuple[dict[str, int], ...] = ()  # K; Table 3: Likert and flags


RECORD_TYPES = (Document, Prompt, Demonstration, Ranking)
Record = Document | Prompt | Demonstration | Ranking
RecordT = TypeVar('RecordT', Document, Prompt, Demonstration, Ranking)


@dataclasses.dataclass(frozen=True)
class Limits:
  """What is too long to be a record (a token is at least one character).

  The paper drops prompts above 1,024 tokens and stops responses at 1,024; that
  is the trainer's business. These limits catch what is no prompt at all, such
  as a whole file in one field.
  """

  prompt_chars: int = 65_536
  response_chars: int = 65_536
  response_tokens: int = 8_192
  document_chars: int = 4_194_304
  name_chars: int = 1_024  # ids, users, labelers, sources


class RecordError(ValueError):
  """A record that is malformed.

  Attributes:
    source: the file, or what else the record came from; may be ''.
    index: the record's index there, or None.
    reason: what is wrong with it.
  """

  def __init__(self, source: str, index: int | None, reason: str):
    super().__init__(source, index, reason)
    self.source, self.index, self.reason = source, index, reason

  def __str__(self) -> str:
    where = self.source or 'record'
    if self.index is not None:
      where += f'[{self.index}]'
    return f'{where}: {self.reason}'


def validate(
  record: RecordT,
  *,
  source: str = '',
  index: int | None = None,
  limits: Limits = Limits(),
) -> RecordT:
  """Returns the record as it is, or refuses it.

  Args:
    record: one of the four record types.
    source: the file it came from, for the message.
    index: its index there, for the message.
    limits: what is too long.

  Raises:
    RecordError: the first thing that is wrong with the record.
  """
  reason = next(problems(record, limits), None)
  if reason is not None:
    raise RecordError(source, index, reason)
  return record


def problems(record: Record, limits: Limits = Limits()) -> Iterator[str]:
  """Yields all that is wrong with a record, the gravest first."""
  match record:
    case Document():
      yield from _document_problems(record, limits)
    case Prompt():
      yield from _prompt_problems(record, limits)
    case Demonstration():
      yield from _owner_problems(record, limits)
      yield from _text_problems(
        'response', record.response, limits.response_chars
      )
    case Ranking():
      yield from _owner_problems(record, limits)
      yield from _ranking_problems(record, limits)
    case _:
      yield f'{type(record).__name__} is not a record type'


def _text_problems(
  name: str, value: Any, max_chars: int, *, may_be_empty: bool = False
) -> Iterator[str]:
  if not isinstance(value, str):
    yield f'{name} is {type(value).__name__}, not text'
    return
  if not may_be_empty and not value.strip():
    yield f'{name} is empty'
  if len(value) > max_chars:
    yield f'{name} has {len(value):,} characters, the limit is {max_chars:,}'
  if not value.isascii():
    try:
      value.encode('utf-8')
    except UnicodeEncodeError as error:
      yield f'{name} is not UTF-8 at character {error.start}'


def _choice_problems(name: str, value: Any, choices: tuple[str, ...]):
  if value not in choices:
    yield f'{name} is {value!r}, not one of {", ".join(choices)}'


def _document_problems(record: Document, limits: Limits) -> Iterator[str]:
  yield from _text_problems('id', record.id, limits.name_chars)
  yield from _text_problems('text', record.text, limits.document_chars)
  yield from _text_problems('source', record.source, limits.name_chars)
  yield from _choice_problems('split', record.split, DOCUMENT_SPLITS)


def _prompt_problems(record: Prompt, limits: Limits) -> Iterator[str]:
  yield from _text_problems('id', record.id, limits.name_chars)
  yield from _text_problems('text', record.text, limits.prompt_chars)
  yield from _turn_problems(record, limits)
  # Real prompts may come without a known user.
  yield from _text_problems(
    'user', record.user, limits.name_chars, may_be_empty=True
  )
  yield from _choice_problems('use_case', record.use_case, USE_CASES)
  yield from _choice_problems('split', record.split, SPLITS)
  yield from _text_problems(
    'spec', record.spec, limits.prompt_chars, may_be_empty=True
  )
  if isinstance(record.spec, str) and record.spec:
    try:
      json.loads(record.spec)
    except ValueError as error:
      yield f'spec is not JSON: {error}'


def _turn_problems(record: Prompt, limits: Limits) -> Iterator[str]:
  if not isinstance(record.turns, tuple):
    yield f'turns is {type(record.turns).__name__}, not a tuple'
    return
  k = len(record.turns)
  if k and (k < 3 or k % 2 == 0):
    yield (
      f'turns has {k} entries: a dialogue goes from the user to the user '
      'by turns, so it has 3, 5, ...'
    )
  for i, turn in enumerate(record.turns):
    yield from _text_problems(f'turns[{i}]', turn, limits.prompt_chars)


def _owner_problems(
  record: Demonstration | Ranking, limits: Limits
) -> Iterator[str]:
  """What demonstrations and rankings share: a prompt and a labeler."""
  if isinstance(record.prompt, Prompt):
    for reason in _prompt_problems(record.prompt, limits):
      yield f'prompt {reason}'
  else:
    yield f'prompt is {type(record.prompt).__name__}, not a Prompt'
  yield from _text_problems('labeler', record.labeler, limits.name_chars)


def _is_count(value: Any) -> bool:
  return (
    isinstance(value, numbers.Integral)
    and not isinstance(value, bool)
    and value >= 0
  )


# What a ranking may do without: real data has texts but no tokens, and rarely
# Table 3's judgements.
_MAY_LACK = ('metadata', 'response_tokens')


def _ranking_problems(record: Ranking, limits: Limits) -> Iterator[str]:
  yield from _choice_problems('group', record.group, GROUPS)
  aligned = (
    'responses',
    'response_tokens',
    'sources',
    'temperatures',
    'ranks',
    'metadata',
  )
  for name in aligned:
    if not isinstance(getattr(record, name), tuple):
      yield f'{name} is {type(getattr(record, name)).__name__}, not a tuple'
      return
  k = len(record.responses)
  if k < 2:
    yield f'a ranking needs 2 responses or more, it has {k}'
  for name in aligned[1:]:
    length = len(getattr(record, name))
    if length != k and not (name in _MAY_LACK and length == 0):
      yield f'{name} has {length} entries for {k} responses'
  for i, response in enumerate(record.responses):
    yield from _text_problems(  # an empty response is the token EOS alone
      f'responses[{i}]', response, limits.response_chars, may_be_empty=True
    )
  for i, name in enumerate(record.sources):
    yield from _text_problems(f'sources[{i}]', name, limits.name_chars)
  yield from _number_problems(record, limits)


def _number_problems(record: Ranking, limits: Limits) -> Iterator[str]:
  """Yields what is wrong with the tokens, temperatures, ranks, metadata."""
  for i, tokens in enumerate(record.response_tokens):
    name = f'response_tokens[{i}]'
    if not isinstance(tokens, tuple) or not all(map(_is_count, tokens)):
      yield f'{name} is not a tuple of token ids'
    elif not tokens:
      yield f'{name} is empty; an empty response is the token EOS'
    elif len(tokens) > limits.response_tokens:
      yield (
        f'{name} has {len(tokens):,} tokens, the limit is '
        f'{limits.response_tokens:,}'
      )
  for i, value in enumerate(record.temperatures):
    if not (
      isinstance(value, numbers.Real) and math.isfinite(value) and value >= 0
    ):
      yield f'temperatures[{i}] is {value!r}, not a number from 0 up'
  if not all(map(_is_count, record.ranks)):
    yield f'ranks {record.ranks} are not integers from 0 up'
  elif set(record.ranks) != set(range(len(set(record.ranks)))):
    yield (
      f'ranks {tuple(map(int, record.ranks))} are not dense: the best is '
      '0, ties share a rank, and no rank is left out'
    )
  for i, row in enumerate(record.metadata):
    if not isinstance(row, dict):
      yield f'metadata[{i}] is {type(row).__name__}, not a dict'
      return
    if row.keys() != record.metadata[0].keys():
      yield f'metadata[{i}] has other keys than metadata[0]'
    for key, value in row.items():
      if not isinstance(key, str):
        yield f'metadata[{i}] has the key {key!r}, which is not text'
      if not (isinstance(value, numbers.Integral) and 0 <= value <= 7):
        yield (
          f'metadata[{i}][{key!r}] is {value!r}, neither a flag (0, 1) '
          'nor a Likert score (1 to 7)'
        )


def to_dict(record: Record) -> dict[str, Any]:
  """Turns a record into plain values that `json.dumps` takes."""
  values = dict(vars(record))
  if 'prompt' in values:
    values['prompt'] = dict(vars(record.prompt))
  if isinstance(record, Ranking):
    values['responses'] = list(record.responses)
    values['response_tokens'] = [
      [int(token) for token in tokens] for tokens in record.response_tokens
    ]
    values['sources'] = list(record.sources)
    values['temperatures'] = [float(value) for value in record.temperatures]
    values['ranks'] = [int(rank) for rank in record.ranks]
    values['metadata'] = [
      {key: int(value) for key, value in row.items()} for row in record.metadata
    ]
  return {
    'format_version': FORMAT_VERSION,
    'type': type(record).__name__,
    **values,
  }


def from_dict(
  values: Mapping[str, Any],
  *,
  source: str = '',
  index: int | None = None,
  limits: Limits = Limits(),
) -> Record:
  """The inverse of `to_dict`, for values that were read from a file.

  Args:
    values: what `to_dict` gave, possibly through JSON.
    source: the file, for the message.
    index: the index in the file, for the message.
    limits: what is too long.

  Returns:
    A valid record.

  Raises:
    RecordError: an unknown format version, type or field, a missing field, or
      whatever `validate` refuses.
  """

  def refuse(reason):
    raise RecordError(source, index, reason)

  if not isinstance(values, Mapping):
    refuse(f'is {type(values).__name__}, not an object')
  values = dict(values)
  version = values.pop('format_version', None)
  if version != FORMAT_VERSION:
    refuse(
      f'has format version {version!r}, this program reads {FORMAT_VERSION}'
    )
  types = {cls.__name__: cls for cls in RECORD_TYPES}
  name = values.pop('type', None)
  if not isinstance(name, str) or name not in types:
    refuse(f'has type {name!r}, not one of {", ".join(types)}')
  cls = types[name]
  _check_fields(cls, values, refuse)
  if 'prompt' in values:
    if not isinstance(values['prompt'], Mapping):
      refuse(f'prompt is {type(values["prompt"]).__name__}, not an object')
    _check_fields(Prompt, values['prompt'], refuse)
    values['prompt'] = Prompt(**_tuples(values['prompt']))
  values = _tuples(values)
  return validate(cls(**values), source=source, index=index, limits=limits)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
  """With lists, which JSON has for them, as tuples, to two levels."""
  tuples = lambda value, levels: (
    value
    if (not levels or not isinstance(value, list))
    else tuple(tuples(item, levels - 1) for item in value)
  )
  return {key: tuples(value, 2) for key, value in values.items()}


def _check_fields(cls, values, refuse):
  fields = dataclasses.fields(cls)
  unknown = set(values) - {field.name for field in fields}
  if unknown:
    refuse(f'{cls.__name__} has no field {sorted(map(str, unknown))[0]!r}')
  for field in fields:
    if field.name not in values and field.default is dataclasses.MISSING:
      refuse(f'{cls.__name__} lacks the field {field.name!r}')


def prompt_of(record: Record) -> Prompt | Document:
  """What has the id and the split of a record: its prompt, or it is that."""
  return getattr(record, 'prompt', record)


def fold(text: str) -> str:
  """A text without regard to case and spacing, to compare prompts by.

  Nor to whether an accent is a character of its own.
  """
  folded = text.casefold()
  if not folded.isascii():
    folded = unicodedata.normalize(
      'NFC', unicodedata.normalize('NFD', text).casefold()
    )
  return ' '.join(folded.split())


def check_no_leak(
  train: Iterable[Prompt | Demonstration | Ranking],
  held_out: Iterable[Prompt | Demonstration | Ranking],
) -> None:
  """Refuses a split that is none: a prompt or a user on both sides.

  Prompts are compared by id and by their text without regard to case and
  spacing; users by name, as the paper splits by user (Ouyang et al. 2022,
  Appendix A.2). Unknown users ('') are not compared.

  Raises:
    ValueError: names the first prompt that is on both sides and why.
  """

  def keys(prompt):
    yield 'id', prompt.id
    yield 'text', fold(prompt.text)
    if prompt.user:
      yield 'user', prompt.user

  seen = {}
  for record in train:
    prompt = prompt_of(record)
    for key in keys(prompt):
      seen.setdefault(key, prompt.id)
  for record in held_out:
    prompt = prompt_of(record)
    for key in keys(prompt):
      if key in seen:
        raise ValueError(
          f'prompt {prompt.id!r} is held out but shares its {key[0]} '
          f'({key[1][:60]!r}) with the training prompt {seen[key]!r}'
        )
