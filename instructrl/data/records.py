"""Records: the four types that every data source is turned into.

A record is text; `tasks.py` makes the tokens. The simulated lab and real data
share the types. `validate` raises an error for a malformed record, with the
file, the index in it and the reason.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
import dataclasses
import json
import math
import numbers
from typing import Any, TypeVar
import unicodedata

FORMAT_VERSION = 3  # raise it when a field changes its meaning

# The use cases of Ouyang et al. 2022, Table 1.
USE_CASES = tuple(
  'generation open_qa brainstorming chat rewrite summarization classification '
  'other closed_qa extract'.split()
)
SPLITS = ('train', 'validation', 'test')
DOCUMENT_SPLITS = ('train', 'validation')
GROUPS = ('train', 'heldout')


@dataclasses.dataclass(frozen=True)
class Document:
  id: str
  text: str
  source: str  # kind of page, such as 'forum'
  split: str  # one of DOCUMENT_SPLITS


@dataclasses.dataclass(frozen=True)
class Prompt:
  id: str
  text: str
  user: str  # '' if unknown
  use_case: str  # one of USE_CASES
  split: str  # one of SPLITS; a user's prompts share a split
  spec: str = ''  # JSON for a checker of the lab; '' for real data
  # Turns of a dialogue: user, assistant, ..., user; `text` joins them. () if
  # the text is the user's only turn.
  turns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Demonstration:
  prompt: Prompt
  response: str
  labeler: str


@dataclasses.dataclass(frozen=True)
class Ranking:
  prompt: Prompt
  labeler: str
  group: str  # one of GROUPS: the labeler's
  responses: tuple[str, ...]  # K texts
  # K; as sampled, EOS included. () for texts that are not in tokens yet.
  response_tokens: tuple[tuple[int, ...], ...]
  sources: tuple[str, ...]  # K; the policy or person that wrote it
  temperatures: tuple[float, ...]  # K; 0 for a human's demonstration
  ranks: tuple[int, ...]  # K; dense, 0 = best, equal = tie
  metadata: tuple[dict[str, int], ...] = ()  # K; Table 3: Likert and flags
  prompt_tokens: tuple[int, ...] = ()  # in its layout, beside response_tokens


RECORD_TYPES = (Document, Prompt, Demonstration, Ranking)
Record = Document | Prompt | Demonstration | Ranking
RecordT = TypeVar('RecordT', Document, Prompt, Demonstration, Ranking)


@dataclasses.dataclass(frozen=True)
class Limits:
  """Lengths above which a value is no part of a record (see `LIMITS`).

  The paper drops prompts above 1,024 tokens and stops responses at 1,024; that
  is up to the trainers. These limits find mistakes, such as a whole file in one
  field. A token has at least one character, and K responses have K * K pairs.
  """

  prompt_chars: int = 65_536
  response_chars: int = 65_536
  response_tokens: int = 8_192
  responses: int = 1_024
  document_chars: int = 4_194_304
  name_chars: int = 1_024  # ids, users, labelers, sources


LIMITS = Limits()


class RecordError(ValueError):
  """A malformed record.

  Attributes:
    source: the file or other origin of the record; may be ''.
    index: the record's index there, or None.
    reason: what is wrong with the record.
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
  record: RecordT, *, source: str = '', index: int | None = None
) -> RecordT:
  """Returns the record unchanged if it is valid.

  Args:
    record: one of the four record types.
    source: the record's file, for the message.
    index: the record's index in the file, for the message.

  Raises:
    RecordError: the first thing that is wrong with the record.
  """
  reason = next(problems(record), None)
  if reason is not None:
    raise RecordError(source, index, reason)
  return record


class Excess(str):
  """A problem of a record without a mistake: a value beyond `LIMITS`."""


def problems(record: Record) -> Iterator[str]:
  """Yields all that is wrong with a record, the gravest first."""
  match record:
    case Document():
      yield from _text_problems('id', record.id, LIMITS.name_chars)
      yield from _text_problems('text', record.text, LIMITS.document_chars)
      yield from _text_problems('source', record.source, LIMITS.name_chars)
      yield from _choice_problems('split', record.split, DOCUMENT_SPLITS)
    case Prompt():
      yield from _prompt_problems(record)
    case Demonstration():
      yield from _owner_problems(record)
      yield from _text_problems(
        'response', record.response, LIMITS.response_chars
      )
    case Ranking():
      yield from _owner_problems(record)
      yield from _ranking_problems(record)
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
    yield Excess(
      f'{name} has {len(value):,} characters, the limit is {max_chars:,}'
    )
  if not value.isascii():
    try:
      value.encode('utf-8')
    except UnicodeEncodeError as error:
      yield f'{name} is not UTF-8 at character {error.start}'


def _choice_problems(name: str, value: Any, choices: tuple[str, ...]):
  if value not in choices:
    yield f'{name} is {value!r}, not one of {", ".join(choices)}'


def _prompt_problems(record: Prompt) -> Iterator[str]:
  names, most = LIMITS.name_chars, LIMITS.prompt_chars
  yield from _text_problems('id', record.id, names)
  yield from _text_problems('text', record.text, most)
  yield from _turn_problems(record.turns)
  yield from _text_problems('user', record.user, names, may_be_empty=True)
  yield from _choice_problems('use_case', record.use_case, USE_CASES)
  yield from _choice_problems('split', record.split, SPLITS)
  yield from _text_problems('spec', record.spec, most, may_be_empty=True)
  if isinstance(record.spec, str) and record.spec:
    try:
      json.loads(record.spec)
    except ValueError as error:
      yield f'spec is not JSON: {error}'


def _turn_problems(turns: Any) -> Iterator[str]:
  if not isinstance(turns, tuple):
    yield f'turns is {type(turns).__name__}, not a tuple'
    return
  k = len(turns)
  if k and (k < 3 or k % 2 == 0):
    yield (
      f'turns has {k} entries: a dialogue goes from the user to the user by '
      'turns, so it has 3, 5, ...'
    )
  for i, turn in enumerate(turns):
    yield from _text_problems(f'turns[{i}]', turn, LIMITS.prompt_chars)


def _owner_problems(record: Demonstration | Ranking) -> Iterator[str]:
  """Yields what is wrong with the prompt and the labeler."""
  if isinstance(record.prompt, Prompt):
    for reason in _prompt_problems(record.prompt):
      yield type(reason)(f'prompt {reason}')
  else:
    yield f'prompt is {type(record.prompt).__name__}, not a Prompt'
  yield from _text_problems('labeler', record.labeler, LIMITS.name_chars)


def _is_count(value: Any) -> bool:
  whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  return whole and value >= 0


def _are_tokens(value: Any) -> bool:
  if not isinstance(value, tuple):
    return False
  if {*map(type, value)} <= {int}:  # quick, and almost always so
    return not value or min(value) >= 0
  return all(map(_is_count, value))


_PER_RESPONSE = (
  'responses response_tokens sources temperatures ranks metadata'.split()
)
# Real data has texts without tokens, and rarely the judgements of Table 3.
_MAY_LACK = ('metadata', 'response_tokens')


def _ranking_problems(record: Ranking) -> Iterator[str]:
  yield from _choice_problems('group', record.group, GROUPS)
  for name in _PER_RESPONSE:
    if not isinstance(getattr(record, name), tuple):
      yield f'{name} is {type(getattr(record, name)).__name__}, not a tuple'
      return
  k = len(record.responses)
  if k < 2:
    yield f'a ranking needs 2 responses or more, it has {k}'
  if k > LIMITS.responses:
    yield Excess(f'has {k:,} responses, the limit is {LIMITS.responses:,}')
    return
  for name in _PER_RESPONSE[1:]:
    length = len(getattr(record, name))
    if length != k and not (name in _MAY_LACK and length == 0):
      yield f'{name} has {length} entries for {k} responses'
  for i, response in enumerate(record.responses):
    yield from _text_problems(  # an empty response is the token EOS alone
      f'responses[{i}]', response, LIMITS.response_chars, may_be_empty=True
    )
  for i, name in enumerate(record.sources):
    yield from _text_problems(f'sources[{i}]', name, LIMITS.name_chars)
  yield from _number_problems(record)


def _number_problems(record: Ranking) -> Iterator[str]:
  """Yields what is wrong with the tokens, temperatures, ranks, metadata."""
  most = LIMITS.response_tokens
  if not _are_tokens(record.prompt_tokens):
    yield 'prompt_tokens is not a tuple of token ids'
  for i, tokens in enumerate(record.response_tokens):
    name = f'response_tokens[{i}]'
    if not _are_tokens(tokens):
      yield f'{name} is not a tuple of token ids'
    elif not tokens:
      yield f'{name} is empty; an empty response is the token EOS'
    elif len(tokens) > most:
      yield f'{name} has {len(tokens):,} tokens, the limit is {most:,}'
  for i, value in enumerate(record.temperatures):
    if not (
      isinstance(value, numbers.Real) and math.isfinite(value) and value >= 0
    ):
      yield f'temperatures[{i}] is {value!r}, not a number from 0 up'
  if not all(map(_is_count, record.ranks)):
    yield f'ranks {record.ranks} are not integers from 0 up'
  elif set(record.ranks) != set(range(len(set(record.ranks)))):
    yield (
      f'ranks {tuple(map(int, record.ranks))} are not dense: the best is 0, '
      'ties share a rank, and no rank is left out'
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
          f'metadata[{i}][{key!r}] is {value!r}, neither a flag (0, 1) nor a '
          'Likert score (1 to 7)'
        )


def to_dict(record: Record) -> dict[str, Any]:
  """Turns a record into plain values for `json.dumps`."""
  values = dict(vars(record))
  if 'prompt' in values:
    values['prompt'] = dict(vars(record.prompt))
  if isinstance(record, Ranking):
    values['prompt_tokens'] = list(map(int, record.prompt_tokens))
    values['responses'] = list(record.responses)
    values['response_tokens'] = [
      list(map(int, tokens)) for tokens in record.response_tokens
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


_NOT_FIELDS = ('format_version', 'type')


def from_dict(values: dict[str, Any]) -> Record:
  """Reverses `to_dict`, also after a round trip through JSON.

  Raises:
    ValueError: the values are not those of a record.
  """
  names = {cls.__name__: cls for cls in RECORD_TYPES}
  try:
    cls = names[values['type']]
    fields = {k: v for k, v in values.items() if k not in _NOT_FIELDS}
    if 'prompt' in fields:
      fields['prompt'] = _restored(Prompt, fields['prompt'])
    return _restored(cls, fields)
  except (KeyError, TypeError) as error:
    raise ValueError(f'has other fields than a record: {error}') from error


def _restored(cls: type, fields: dict[str, Any]) -> Any:
  fields = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in fields.items()
  }
  if fields.get('response_tokens'):
    fields['response_tokens'] = tuple(map(tuple, fields['response_tokens']))
  return cls(**fields)


def prompt_of(record: Record) -> Prompt | Document:
  """Returns a record's prompt, or the record if it is a prompt or document.

  The result has the record's id and split.
  """
  return getattr(record, 'prompt', record)


def pick(ranking: Ranking, chosen: Sequence[int]) -> Ranking:
  """Returns the ranking with only the chosen responses; ranks stay dense."""
  if [*chosen] == [*range(len(ranking.ranks))]:
    return ranking
  of = lambda values: tuple(values[i] for i in chosen) if values else ()
  picked = {name: of(getattr(ranking, name)) for name in _PER_RESPONSE}
  order = sorted(set(picked['ranks']))
  picked['ranks'] = tuple(map(order.index, picked['ranks']))
  return dataclasses.replace(ranking, **picked)


def fold(text: str) -> str:
  """Returns a form of the text to compare prompts by.

  Ignores case, spacing, and whether an accent is a character of its own.
  """
  folded = text.casefold()
  if not folded.isascii():
    decomposed = unicodedata.normalize('NFD', text)
    folded = unicodedata.normalize('NFC', decomposed.casefold())
  return ' '.join(folded.split())


def check_no_leak(
  train: Iterable[Prompt | Demonstration | Ranking],
  held_out: Collection[Prompt | Demonstration | Ranking],
) -> None:
  """Raises an error if a prompt or a user is on both sides of a split.

  Prompts are compared by id and by `fold`; users by name, as the paper splits
  by user (Ouyang et al. 2022, section 3.2). Unknown users are not compared.

  Raises:
    ValueError: names the first prompt that is on both sides, and why.
  """

  def keys(prompt):
    yield 'id', prompt.id
    yield 'text', fold(prompt.text)
    if prompt.user:
      yield 'user', prompt.user

  shared = {}  # key of a held-out prompt -> the first training prompt with it
  for prompt in map(prompt_of, held_out):
    shared.update((key, None) for key in keys(prompt))
  for prompt in map(prompt_of, train):
    for key in keys(prompt):
      if key in shared and shared[key] is None:
        shared[key] = prompt.id
  for prompt in map(prompt_of, held_out):
    for key in keys(prompt):
      known = shared[key]
      if known is not None:
        raise ValueError(
          f'prompt {prompt.id!r} is held out but shares its {key[0]} '
          f'({key[1][:60]!r}) with the training prompt {known!r}'
        )
