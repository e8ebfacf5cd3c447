"""Checks of the fields of a row, and makers of records, for all sources."""

from collections.abc import Sequence
import hashlib
import math
import numbers
from typing import Any

from instructrl.data.records import Prompt, Ranking
from instructrl.tokenizers.dialogue import ASSISTANT
from instructrl.tokenizers.dialogue import HUMAN

UNKNOWN = 'unknown'  # writer or labeler that is not named
TOO_FEW = 'has {} responses, a ranking needs 2 or more'
SAME = 'chosen and rejected are the same'


class Malformed(ValueError):
  """The reason why a row has no record."""


class Unusable(Malformed):
  """The reason why a row without a mistake has no record.

  Such rows are dropped and counted even if a malformed row is an error.
  """


def field(row: Any, name: str) -> Any:
  """Returns the value of a required field."""
  if not isinstance(row, dict):
    raise Malformed(f'is {_kind(row)}, not an object')
  if row.get(name) is None:
    raise Malformed(f'lacks the field {name!r}')
  return row[name]


def is_object(value: Any, name: str) -> dict[str, Any]:
  """Returns `value` if it is an object; raises Malformed otherwise."""
  if not isinstance(value, dict):
    raise Malformed(f'{name} is {_kind(value)}, not an object')
  return value


def text(row: Any, name: str) -> str:
  """Returns a required text with more than spaces."""
  return checked_text(field(row, name), name)


def ranked_text(row: Any, name: str) -> str:
  """Returns a required response of a ranking; it may be empty."""
  return checked_text(field(row, name), name, may_be_empty=True)


def checked_text(value: Any, name: str, *, may_be_empty: bool = False) -> str:
  """Returns `value` if it is a text; raises Malformed otherwise."""
  if not isinstance(value, str):
    raise Malformed(f'{name} is {_kind(value)}, not text')
  if not value.strip() and not may_be_empty:
    raise Malformed(f'{name} is empty')
  return value


def optional_text(row: dict[str, Any], name: str, default: str = '') -> str:
  """Returns a text; the default if it is missing, null or empty."""
  value = row.get(name)
  if value is None or value == '':
    return default
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)  # ids and workers are often numbers
  if not isinstance(value, str):
    raise Malformed(f'{name} is {_kind(value)}, not text')
  return value


def name(row: dict[str, Any], field_name: str) -> str:
  """Returns the name of a writer or labeler; `UNKNOWN` without one."""
  return optional_text(row, field_name, UNKNOWN)


def number(
  value: Any, name: str, low: float = -math.inf, high: float = math.inf
) -> float:
  """Returns a finite number within bounds; also reads text such as '4'."""
  if isinstance(value, str):
    try:
      value = float(value)
    except ValueError:
      raise Malformed(f'{name} is {value[:20]!r}, not a number') from None
  if not isinstance(value, numbers.Real) or isinstance(value, bool):
    raise Malformed(f'{name} is {_kind(value)}, not a number')
  try:
    value = float(value)
  except OverflowError:
    value = math.inf
  if not math.isfinite(value):
    raise Malformed(f'{name} is {value}, not a finite number')
  if not low <= value <= high:
    raise Malformed(f'{name} must be from {low:g} to {high:g}; got {value:g}')
  return value


def items(row: Any, name: str) -> list:
  """Returns a required list."""
  value = field(row, name)
  if not isinstance(value, list):
    raise Malformed(f'{name} is {_kind(value)}, not a list')
  return value


def _kind(value) -> str:
  names = {
    'dict': 'an object',
    'list': 'a list',
    'str': 'text',
    'int': 'a number',
    'float': 'a number',
    'bool': 'true or false',
    'NoneType': 'null',
  }
  return names.get(type(value).__name__, type(value).__name__)


def text_id(value: str) -> str:
  """Returns an id of a text: the same in every source and machine."""
  data = value.encode('utf-8', 'surrogatepass')
  return hashlib.sha256(data).hexdigest()[:16]


def prompt(
  value: str,
  *,
  split: str,
  own_id: str = '',
  user: str = '',
  use_case: str = 'other',
  turns: Sequence[str] = (),
) -> Prompt:
  """Makes a prompt.

  Args:
    value: the text; all turns of a dialogue (see `tokenizers.dialogue`).
    split: 'train', 'validation' or 'test'.
    own_id: the source's id; '' makes an id from the text.
    user: name of the person who asks; '' if unknown.
    use_case: a use case of the paper's Table 1.
    turns: turns of a dialogue; a single turn is no dialogue.
  """
  return Prompt(
    id=own_id or text_id(value),
    text=value,
    user=user,
    use_case=use_case,
    split=split,
    turns=tuple(turns) if len(turns) > 1 else (),
  )


def ranking(
  asked: Prompt,
  responses: Sequence[str],
  ranks: Sequence[float],
  *,
  labeler: str = UNKNOWN,
  group: str = 'train',
  sources: Sequence[str] = (),
  humans: Sequence[bool] = (),
  metadata: Sequence[dict[str, int]] = (),
) -> Ranking:
  """Makes a ranking whose texts are not in tokens yet.

  Args:
    asked: the prompt.
    responses: K texts.
    ranks: K numbers; lower is better, equal is a tie.
    labeler: name of the labeler.
    group: the labeler's group.
    sources: K names of writers; empty if unknown.
    humans: K; True if a person wrote the response, which sets its temperature
      to 0. Public sources do not give a model's temperature: it is set to 1.
    metadata: K, or none.

  Raises:
    Unusable: fewer than two responses.
    Malformed: all responses are empty.
  """
  k = len(responses)
  if k < 2:
    raise Unusable(TOO_FEW.format(k))
  if not any(response.strip() for response in responses):
    raise Malformed('all responses are empty')
  return Ranking(
    prompt=asked,
    labeler=labeler,
    group=group,
    responses=tuple(responses),
    response_tokens=(),
    sources=tuple(sources) or (UNKNOWN,) * k,
    temperatures=tuple(0.0 if h else 1.0 for h in humans or [False] * k),
    ranks=dense_ranks(ranks),
    metadata=tuple(metadata),
  )


def dense_ranks(values: Sequence[float]) -> tuple[int, ...]:
  """Returns ranks from 0 without gaps; the lowest number is best."""
  order = {value: i for i, value in enumerate(sorted(set(values)))}
  return tuple(order[value] for value in values)


def ranks_of_scores(
  scores: Sequence[float], tie_margin: float = 0.0
) -> tuple[int, ...]:
  """Returns ranks of scores; the highest score is best.

  From the best down, a response joins the tie above it if it is less than
  `tie_margin` below the best of the tie; otherwise it begins the next rank. So
  scores of a tie differ by less than the margin. (Scores of neighbouring ranks
  may differ by less than the margin too.)

  Args:
    scores: K finite numbers.
    tie_margin: in the unit of the scores, from 0 up; at 0 only equal scores are
      ties.

  Returns:
    K dense ranks, 0 is best.
  """
  ranks, rank, best = {}, -1, math.inf
  for score in sorted(set(scores), reverse=True):
    if rank < 0 or best - score >= tie_margin:
      rank, best = rank + 1, score
    ranks[score] = rank
  return tuple(ranks[score] for score in scores)


def split_dialogue(dialogue: str) -> tuple[str, str]:
  """Splits '\\n\\nHuman: ... \\n\\nAssistant: ...' before the last response.

  Returns:
    The prompt, without the first '\\n\\nHuman: ' and the last
    '\\n\\nAssistant:', and the response, without the space after the latter.

  Raises:
    Malformed: the dialogue has another form, or either part is empty.
  """
  if not dialogue.startswith(HUMAN + ' '):
    raise Malformed('does not begin with \\n\\nHuman:')
  head, mark, response = dialogue.rpartition(ASSISTANT)
  if not mark:
    raise Malformed('has no \\n\\nAssistant:')
  if HUMAN in response:
    raise Malformed('does not end with a turn of the assistant')
  asked = head[len(HUMAN) + 1 :]
  checked_text(asked, 'the prompt')
  checked_text(response, 'the response')
  return asked, response.removeprefix(' ')
