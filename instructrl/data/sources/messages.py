"""Turns rows of chat messages into rows of turns and texts.

A message is an object with `role` ('user' and 'assistant' by turns, after an
optional 'system') and `content`. The reader takes, among them the forms of TRL:

- `messages`: a demonstration, whose last message answers the others;
- `prompt` as a list of messages, and `response` (or `completion`), `chosen`,
  `rejected` or each of `responses` as a message, alone or in a list;
- `chosen` and `rejected` as whole dialogues that differ in the last message.

Whole dialogues need no `prompt`; if a row has one, they must begin with it.
"""

from collections.abc import Mapping
from typing import Any

from instructrl.data.sources import fields
from instructrl.data.sources.fields import Malformed
from instructrl.tokenizers import dialogue

SYSTEM = ('refuse', 'drop')  # choices for system messages
_PAIR = ('chosen', 'rejected')
_ANSWERS = ('response', *_PAIR)


class MessageReader:
  """Reads the messages of one row.

  Attributes:
    unread: names of the messages' fields beside role and content.
  """

  def __init__(self, system: str = 'refuse'):
    self._system = system
    self.unread = set()

  def in_texts(self, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row with turns as its prompt and texts as its answers.

    Args:
      row: an object; null counts as a missing field.

    Raises:
      Malformed: messages are wrong, or two fields have the same meaning.
      Unusable: the dialogues of a pair differ before their last message.
    """
    row = {name: value for name, value in row.items() if value is not None}
    if 'completion' in row:
      if row.get('label') in (False, True):  # also 0 and 1
        raise Malformed(
          'has a label for a single completion, which no stage can use: '
          'demonstrations have no label, rankings two responses or more'
        )
      refuse_both(row, 'response', 'completion')
      row['response'] = row.pop('completion')
    if row.keys() & {*_PAIR, 'responses'}:
      for name in _PAIR:
        refuse_both(row, name, 'responses')
      if any(_is_dialogue(row.get(name)) for name in _PAIR):
        return self._pair(row)
    elif 'messages' in row:
      refuse_both(row, 'response', 'messages')
      turns, row['response'] = self._answered(row, 'messages')
      del row['messages']
      return {**row, 'prompt': self._agreed(row, turns, 'messages')}
    if isinstance(row.get('prompt'), list):
      row['prompt'] = self._turns(row['prompt'], 'prompt')
      if len(row['prompt']) % 2 == 0:
        raise Malformed('prompt does not end with a turn of the user')
    for name in row.keys() & {*_ANSWERS}:
      row[name] = self.answer(row[name], name)
    return row

  def answer(self, value: Any, name: str) -> Any:
    """Returns the text of a response that may be a message or a list of one.

    Returns other values as they are; the caller checks that they are text.
    """
    if (
      isinstance(value, list)
      and value
      and all(isinstance(message, dict) for message in value)
    ):
      if len(value) > 1:
        raise Malformed(
          f'{name} has {len(value)} messages, not one of the assistant'
        )
      value = value[0]
    if not isinstance(value, dict):
      return value
    if value.get('role') not in (None, 'assistant'):
      raise Malformed(f'{name} has the role {value["role"]!r}, not assistant')
    if value.get('content') is None:
      raise Malformed(f"{name} lacks the field 'content'")
    self._note(value, name)
    return value['content']

  def _pair(self, row) -> dict[str, Any]:
    turns, chosen = self._answered(row, 'chosen')
    other, rejected = self._answered(row, 'rejected')
    if turns != other:
      raise fields.Unusable(
        'the dialogues differ before the last turn of the assistant'
      )
    prompt = self._agreed(row, turns, 'chosen')
    return {**row, 'prompt': prompt, 'chosen': chosen, 'rejected': rejected}

  def _answered(self, row, name: str) -> tuple[list[str], str]:
    """Returns the turns before the last one, and the last one."""
    turns = self._turns(fields.field(row, name), name)
    if len(turns) % 2:
      raise Malformed(f'{name} does not end with a turn of the assistant')
    return turns[:-1], turns[-1]

  def _agreed(self, row, turns: list[str], name: str) -> list[str]:
    """Returns the turns; the row's prompt, if it has one, must equal them."""
    given = row.get('prompt')
    if isinstance(given, list):
      agrees = self._turns(given, 'prompt') == turns
    elif isinstance(given, str):
      texts = turns[0], dialogue.join_turns(turns)
      agrees = given.strip() in map(str.strip, texts)
    else:
      agrees = given is None
    if not agrees:
      raise Malformed(f'{name} does not begin as prompt does: leave one out')
    return turns

  def _turns(self, value: Any, name: str) -> list[str]:
    """Returns the texts of messages of the user and the assistant by turns."""
    messages = fields.items({name: value}, name)
    first = messages[0] if messages else None
    if isinstance(first, dict) and first.get('role') == 'system':
      if self._system != 'drop':
        raise Malformed(
          f"{name}[0] is a system message: the source's option system=drop "
          'drops it; `system` of the data stage sets one for all rows'
        )
      messages = messages[1:]
    if not messages:
      raise Malformed(f'{name} has no message of the user')
    found = []
    for i, message in enumerate(messages):
      where = f'{name}[{i + len(value) - len(messages)}]'
      role = fields.is_object(message, where).get('role')
      if role is None:
        raise Malformed(f"{where} lacks the field 'role'")
      if role != dialogue.ROLES[i % 2]:
        raise Malformed(
          f'{where} has the role {role!r}; it is the turn of the '
          f'{dialogue.ROLES[i % 2]}'
        )
      ranked = name in _PAIR and i == len(messages) - 1
      text, content = message.get('content'), f'{where}.content'
      found.append(fields.checked_text(text, content, may_be_empty=ranked))
      self._note(message, name)
    return found

  def _note(self, message: Mapping[str, Any], name: str) -> None:
    self.unread |= {
      f'{name}[].{key}' for key, value in message.items() if value is not None
    } - {f'{name}[].role', f'{name}[].content'}


def _is_dialogue(value: Any) -> bool:
  return isinstance(value, list) and len(value) > 1


def refuse_both(row: Mapping[str, Any], name: str, other: str) -> None:
  """Raises Malformed if a row has both of two fields."""
  if name in row and other in row:
    raise Malformed(f'has both {name} and {other}: leave one out')
