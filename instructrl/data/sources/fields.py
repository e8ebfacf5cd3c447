"""From the fields of a row to a record: what every source has to check."""

from collections.abc import Sequence
import hashlib
import math
import numbers
from typing import Any

from instructrl.data.records import Prompt, Ranking
from instructrl.tokenizers.dialogue import ASSISTANT
from instructrl.tokenizers.dialogue import HUMAN

UNKNOWN = 'unknown'  # who wrote or judged it, where nobody says
TOO_FEW = 'has {} responses, a ranking needs 2 or more'


class Malformed(ValueError):
  """Why a row is no record."""


class Unusable(Malformed):
  """Why a row is no record although nothing is wrong with it.

  Such rows are dropped and counted even where a malformed one is an error.
  """


def field(row: Any, name: str) -> Any:
  """The value of a field that must be there."""
  if not isinstance(row, dict):
    raise Malformed(f'is {_kind(row)}, not an object')
  if row.get(name) is None:
    raise Malformed(f'lacks the field {name!r}')
  return row[name]


def is_object(value: Any, name: str) -> dict[str, Any]:
  """An object as it is; refuses anything else."""
  if not isinstance(value, dict):
    raise Malformed(f'{name} is {_kind(value)}, not an object')
  return value


def text(row: Any, name: str) -> str:
  """A text that must be there and hold more than spaces."""
  return checked_text(field(row, name), name)


def response(row: Any, name: str) -> str:
  """A response to be ranked; silence is one, and loses as a rule."""
  return checked_text(field(row, name), name, may_be_empty=True).strip()


def checked_text(value: Any, name: str, *, may_be_empty: bool = False) -> str:
  """Refuses what is no text, or an empty one."""
  if not isinstance(value, str):
    raise Malformed(f'{name} is {_kind(value)}, not text')
  if not value.strip() and not may_be_empty:
    raise Malformed(f'{name} is empty')
  return value


def optional_text(row: dict[str, Any], name: str, default: str = '') -> str:
  """A text, or the default where the field is missing, null or empty."""
  value = row.get(name)
  if value is None or value == '':
    return default
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)  # ids and workers are often numbers
  if not isinstance(value, str):
    raise Malformed(f'{name} is {_kind(value)}, not text')
  return value


def number(value: Any, name: str) -> float:
  """A finite number; text that is one, as '4', is taken too."""
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
  return value


def items(row: Any, name: str) -> list:
  """A list that must be there."""
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
  """A stable id of a text: the same in every source and on every machine."""
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
  """A prompt; its id is that of its text where the source has none.

  Args:
    value: the text; of a dialogue, all of it (see `interop.dialogue`).
    split: 'train', 'validation' or 'test'.
    own_id: the source's.
    user: who asks.
    use_case: of the paper's Table 1.
    turns: of a dialogue; one or none is none.
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
  """A ranking whose texts are not in tokens yet.

  Args:
    asked: the prompt.
    responses: K texts.
    ranks: K; the lower the better, any numbers; equal is a tie.
    labeler: who ranked them.
    group: the group of labelers.
    sources: K; who wrote each; unknown where empty.
    humans: K; whether a person wrote it, which sets its temperature to 0. No
      public source tells a model's, so theirs is 1.
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
    temperatures=tuple(
      0.0 if human else 1.0 for human in humans or [False] * k
    ),
    ranks=dense_ranks(ranks),
    metadata=tuple(metadata),
  )


def dense_ranks(values: Sequence[float]) -> tuple[int, ...]:
  """Ranks from 0 without gaps, of numbers of which the lowest is best."""
  order = {value: i for i, value in enumerate(sorted(set(values)))}
  return tuple(order[value] for value in values)


def ranks_of_scores(
  scores: Sequence[float], tie_margin: float = 0.0
) -> tuple[int, ...]:
  """Ranks of scores, of which the highest is best.

  From the best on, a response joins the tie above it while it is less than
  `tie_margin` below that tie's best; else it begins the next rank. So no two
  of a tie differ by the margin or more. (Chains are cut somewhere, so a pair
  on both sides of a cut may differ by less than the margin.)

  Args:
    scores: K finite numbers.
    tie_margin: in the unit of the scores, from 0 up; at 0 only equal scores
      are ties.

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
    The prompt, without what the template adds (the first '\\n\\nHuman: ' and
    the last '\\n\\nAssistant:'), and the response without the one space that
    parts it from '\\n\\nAssistant:'.

  Raises:
    Malformed: it has no such form, or either part is empty.
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
