"""Prompt layouts: the fixed text around a prompt and a response.

A layout is written as two templates with a placeholder each, or is cut from the
chat template of an imported model (see `chat_template`).
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import re
import string
from typing import Any

from instructrl.tokenizers import dialogue

CHAT = 'chat'  # the prompt template that means the model's chat template
PROMPT_TEMPLATE = 'Human: {prompt}\n\nAssistant:'
RESPONSE_TEMPLATE = ' {response}'

# White space that is dropped at one end of a text: none, newlines, or all.
Side = bool | str
Sides = tuple[Side, Side]

# A plain layout as a chat template; in a dialogue, marks separate the turns.
_PLAIN = string.Template(
  '{{ $before }}{% for message in messages %}'
  "{% set answers = message['role'] == 'assistant' %}"
  '{% if answers and loop.last %}'
  "{{ $answer }}{{ message['content'] }}{{ $end }}"
  '{% else %}{% if not loop.first %}{% if answers %}{{ $assistant }}'
  "{% else %}{{ $human }}{% endif %}{% endif %}{{ message['content'] }}"
  '{% if loop.last %}{{ $after }}{% endif %}{% endif %}{% endfor %}'
)


@dataclasses.dataclass(frozen=True)
class PromptLayout:
  """The text around a prompt and a response.

  Attributes:
    prompt_template: as configured: 'chat', or text with `{prompt}`.
    response_template: text with `{response}`; empty for 'chat'.
    system: system message of 'chat'; may be empty.
    before, after: text around a prompt, with special tokens.
    response_before, response_after: text around a response.
    strip_prompt, strip_response: white space that the chat template drops at
      the start and at the end of a text.
    end: special token that ends a response; empty for the model's EOS.
    bos: whether BOS comes first. A chat template writes its own.
    between_turns: text after a user's turn and after an assistant's turn of a
      dialogue. Empty if a dialogue is laid out as one text, as plain layouts
      do.
    strip_turns: like `strip_prompt`, for the assistant's earlier turns and for
      the user's later turns.
  """

  prompt_template: str
  response_template: str
  system: str
  before: str
  after: str
  response_before: str
  response_after: str
  strip_prompt: Sides = (False, False)
  strip_response: Sides = (False, False)
  end: str = ''
  bos: bool = True
  between_turns: tuple[str, ...] = ()
  strip_turns: tuple[Sides, ...] = ()

  @classmethod
  def from_dict(cls, found: Mapping[str, Any]) -> 'PromptLayout':
    """Reverses `dataclasses.asdict`, also after a round trip through JSON."""
    fields = dataclasses.fields(cls)
    names = {field.name for field in fields}
    needed = {f.name for f in fields if f.default is dataclasses.MISSING}
    if not needed <= set(found) <= names:
      raise ValueError(
        f'a layout has the fields {sorted(names)}; got {sorted(found)}'
      )
    return cls(**{name: _tuples(value) for name, value in found.items()})

  def prompt(
    self, text: str, turns: Sequence[str] = ()
  ) -> list[tuple[str, bool]]:
    """Returns the parts of a prompt as (text, whether it has special tokens).

    Args:
      text: of the user; for a dialogue, the whole text (see `dialogue`).
      turns: of a dialogue; used if the layout has `between_turns`.
    """
    if not (turns and self.between_turns):
      turns = (text,)
    parts = [(self.before, True), (strip(turns[0], self.strip_prompt), False)]
    for i, turn in enumerate(turns[1:]):
      parts.append((self.between_turns[i % 2], True))
      parts.append((strip(turn, self.strip_turns[i % 2]), False))
    return [*parts, (self.after, True)]


def _tuples(value):
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def strip(text: str, sides: Sides) -> str:
  """Drops white space at the start and at the end, as `sides` says."""
  for drop, side in zip((str.lstrip, str.rstrip), sides):
    if side:
      text = drop(text, None if side is True else side)
  return text


def plain_layout(prompt_template: str, response_template: str) -> PromptLayout:
  """Returns a layout for two templates.

  Args:
    prompt_template: text with `{prompt}` once; everything else is literal.
    response_template: text with `{response}` once.

  Raises:
    ValueError: a placeholder is missing or repeated.
  """
  before, after = _cut('prompt_template', prompt_template, '{prompt}')
  response = _cut('response_template', response_template, '{response}')
  return PromptLayout(
    prompt_template, response_template, '', before, after, *response
  )


def _cut(name: str, template: str, placeholder: str) -> list[str]:
  parts = template.split(placeholder)
  if len(parts) != 2:
    raise ValueError(
      f'{name} must have {placeholder} once; got {template!r}, which has it '
      f'{len(parts) - 1} times'
    )
  return parts


def plain_as_chat_template(layout: PromptLayout, end: str, bos: str) -> str:
  """Returns a Jinja template that writes what a plain layout writes.

  Args:
    layout: made by `plain_layout`.
    end: text of the token that ends a response.
    bos: text of the token that begins a text, or empty.
  """
  parts = {
    'before': bos + layout.before,
    'after': layout.after,
    'answer': layout.after + layout.response_before,
    'end': layout.response_after + end,
    'human': dialogue.HUMAN + ' ',
    'assistant': dialogue.ASSISTANT + ' ',
  }
  return _PLAIN.substitute({k: literal(part) for k, part in parts.items()})


def literal(text) -> str:
  """Returns a value as Jinja writes it."""
  return json.dumps(text, ensure_ascii=False)


def first_special(specials: Iterable[str]) -> re.Pattern:
  """Returns a pattern that finds special tokens; the longest wins."""
  longest_first = sorted(filter(None, specials), key=len, reverse=True)
  return re.compile('|'.join(map(re.escape, longest_first)) or r'(?!)')
