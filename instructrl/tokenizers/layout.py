"""Prompt layouts: the fixed text around what a user asks and what is answered.

A layout is written as two templates with a placeholder each, or taken from the
chat template (Jinja) of an imported model. A chat template is rendered once,
with marks where texts go, and cut at the marks; what is kept are the parts, so
that later stages lay out prompts without rendering anything.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import datetime
import itertools
import json
import re
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from instructrl.tokenizers import dialogue

CHAT = 'chat'  # the prompt template that stands for the model's own
PROMPT_TEMPLATE = 'Human: {prompt}\n\nAssistant:'
RESPONSE_TEMPLATE = ' {response}'
_USER, _ANSWER = 'zqUSERqz', 'zqANSWERqz'
# In a dialogue each has its own.
_TURNS = ('zqFIRSTqz', 'zqSECONDqz', 'zqTHIRDqz', 'zqFOURTHqz')
# What a template that escapes, rewraps or recases its text would change.
_AROUND = ('Ab "c" \'d\' <e> & f\n\n{g} \u00e9 ', ' h\n  - I, \\n 1.')
_INSTEAD = (
  f'give a plain layout instead, as prompt_template='
  f'{PROMPT_TEMPLATE!r}, response_template={RESPONSE_TEMPLATE!r}'
)


# The date of templates that write one, which is that of training for good: the
# one that Llama 3's fall back on.
DATE = datetime.datetime(2024, 7, 26)

# What a template drops at an end of a text: nothing, newlines, white space.
Side = bool | str
Sides = tuple[Side, Side]
_SIDES = tuple(itertools.product((False, '\n', True), repeat=2))


@dataclasses.dataclass(frozen=True)
class Layout:
  """What stands around a prompt and a response.

  Attributes:
    prompt_template: as configured: 'chat', or text with `{prompt}`.
    response_template: text with `{response}`; empty for 'chat'.
    system: the system message of 'chat', or empty.
    before, after: text around a prompt; special tokens in it are meant.
    response_before, response_after: text around a response.
    strip_prompt, strip_response: what the template drops at the start and at
      the end of a text.
    end: the special token that ends a response; empty for the model's EOS.
    bos: whether BOS is put in front; a chat template writes its own.
    between_turns: text of a dialogue from a turn of the user to that of the
      assistant, and from there to the next; empty where a dialogue is laid
      out as one text, which is always so in a plain layout.
    strip_turns: as `strip_prompt`: of the assistant's earlier turns, and of the
      user's after the first.
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
  def from_dict(cls, found: Mapping[str, Any]) -> 'Layout':
    """Reads what `dataclasses.asdict` made, also after JSON."""
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    needed = {
      name for name, value in defaults.items() if value is dataclasses.MISSING
    }
    if not needed <= set(found) <= set(defaults):
      raise ValueError(
        f'a layout has the fields {sorted(defaults)}, not {sorted(found)}'
      )
    return cls(**{name: _tuples(value) for name, value in found.items()})

  def prompt(
    self, text: str, turns: Sequence[str] = ()
  ) -> list[tuple[str, bool]]:
    """(text, whether special tokens in it are meant) of a prompt, in order.

    Args:
      text: what is asked; of a dialogue, all of it (see `dialogue`).
      turns: of a dialogue; see `between_turns`.
    """
    asked = [(strip(text, self.strip_prompt), False)]
    if turns and self.between_turns:
      asked = [(strip(turns[0], self.strip_prompt), False)]
      for i, turn in enumerate(turns[1:]):
        asked += [
          (self.between_turns[i % 2], True),
          (strip(turn, self.strip_turns[i % 2]), False),
        ]
    return [(self.before, True), *asked, (self.after, True)]


def _tuples(value):
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def strip(text: str, sides: Sides) -> str:
  """Drops white space as a template does: (at the start, at the end)."""
  for drop, side in zip((str.lstrip, str.rstrip), sides):
    if side:
      text = drop(text, None if side is True else side)
  return text


def make_layout(
  prompt_template: str,
  response_template: str,
  system: str,
  chat_template: str | None,
  variables: Mapping[str, str],
  specials: Iterable[str],
) -> Layout:
  """The layout that is asked for; see `HFTokenizer.with_layout`.

  Args:
    prompt_template: 'chat', or text with `{prompt}`.
    response_template: text with `{response}`; empty for 'chat'.
    system: a system message, or empty; for 'chat' only.
    chat_template: Jinja, or None.
    variables: see `render`.
    specials: special tokens, as text.

  Raises:
    ValueError: these do not go together, or see `plain_layout` and
      `chat_layout`.
  """
  if prompt_template != CHAT:
    if system:
      raise ValueError(
        "system is for prompt_template='chat': write it into the template"
      )
    return plain_layout(prompt_template, response_template or RESPONSE_TEMPLATE)
  if response_template:
    raise ValueError(
      "response_template is not for prompt_template='chat', which says it all"
    )
  if not chat_template:
    raise ValueError(
      "prompt_template='chat', but the model brings no chat template: give "
      f'text with {{prompt}}, such as {PROMPT_TEMPLATE!r}'
    )
  return chat_layout(
    chat_template, variables=variables, specials=list(specials), system=system
  )


def plain_layout(prompt_template: str, response_template: str) -> Layout:
  """A layout from two templates.

  Args:
    prompt_template: text with `{prompt}` once; all else is literal.
    response_template: text with `{response}` once.

  Raises:
    ValueError: a placeholder is missing or repeated.
  """
  before, after = _cut('prompt_template', prompt_template, '{prompt}')
  response = _cut('response_template', response_template, '{response}')
  return Layout(
    prompt_template, response_template, '', before, after, *response
  )


def _cut(name: str, template: str, placeholder: str) -> list[str]:
  parts = template.split(placeholder)
  if len(parts) != 2:
    raise ValueError(
      f'{name}={template!r} must have {placeholder} once, it '
      f'has it {len(parts) - 1} times'
    )
  return parts


def plain_as_chat_template(layout: Layout, end: str, bos: str) -> str:
  """A Jinja template that lays out as a plain layout does, a dialogue too.

  Args:
    layout: made by `plain_layout`.
    end: text of the token that ends a response.
    bos: text of the token that begins a text, or empty.
  """
  text = lambda value: json.dumps(value, ensure_ascii=False)
  mark = lambda value: '{{ ' + text(value) + ' }}'
  return ''.join(
    [
      mark(bos + layout.before),
      '{% for message in messages %}',
      "{% set answers = message['role'] == 'assistant' %}",
      '{% if answers and loop.last %}',
      mark(layout.after + layout.response_before),
      "{{ message['content'] }}",
      mark(layout.response_after + end),
      '{% else %}{% if not loop.first %}{% if answers %}',
      mark(dialogue.ASSISTANT + ' '),
      '{% else %}',
      mark(dialogue.HUMAN + ' '),
      "{% endif %}{% endif %}{{ message['content'] }}",
      '{% if loop.last %}',
      mark(layout.after),
      '{% endif %}',
      '{% endif %}{% endfor %}',
    ]
  )


def with_dialogue_as_one_turn(chat_template: str) -> str:
  """A chat template that gets a dialogue, all but an answer, as one turn.

  This is how a layout without `between_turns` takes one.
  """
  marks = json.dumps([f'{dialogue.HUMAN} ', f'{dialogue.ASSISTANT} '])
  return (
    "{% set dialogue = namespace(text='', answer=[], system=[]) %}"
    '{% for message in messages %}'
    "{% set answers = message['role'] == 'assistant' %}"
    "{% if message['role'] == 'system' %}"
    '{% set dialogue.system = dialogue.system + [message] %}'
    '{% elif answers and loop.last %}'
    '{% set dialogue.answer = [message] %}'
    '{% else %}{% if dialogue.text %}{% set dialogue.text = dialogue.text + '
    + marks
    + '[1 if answers else 0] %}{% endif %}'
    "{% set dialogue.text = dialogue.text + message['content'] %}"
    '{% endif %}{% endfor %}'
    "{% set messages = dialogue.system + [{'role': 'user', 'content': "
    'dialogue.text}] + dialogue.answer %}' + chat_template
  )


def with_system(chat_template: str, system: str) -> str:
  """A chat template with a system message where a dialogue brings none."""
  return (
    "{% if messages[0]['role'] != 'system' %}{% set messages = "
    "[{'role': 'system', 'content': "
    + json.dumps(system)
    + '}] + messages %}{% endif %}'
    + chat_template
  )


def exported_chat_template(
  layout: Layout, chat_template: str, variables: Mapping[str, str]
) -> str:
  """A chat template that lays out as a layout that was cut from it does.

  It brings the system message and the date, opens an answer as answers in a
  dialogue begin, and gets a dialogue as one turn where the layout does.

  Args:
    layout: from `chat_layout`.
    chat_template: Jinja.
    variables: see `render`.

  Raises:
    ValueError: the layout was not cut from this template.
  """
  messages = [{'role': 'user', 'content': _USER}]
  if layout.system:
    messages.insert(0, {'role': 'system', 'content': layout.system})
  wanted, dates = layout.before + _USER + layout.after, {}
  ask = lambda template: render(
    template,
    messages,
    add_generation_prompt=True,
    variables=variables,
    dates=dates,
  )
  opening = wanted.removeprefix(ask(chat_template))
  # Jinja would drop a newline at the end, and no longer does with more there.
  for template in (
    chat_template,
    '{% set enable_thinking = false %}' + chat_template,
    chat_template.removesuffix('\n')
    + '{% if add_generation_prompt %}{{ '
    + json.dumps(opening, ensure_ascii=False)
    + ' }}{% endif %}',
  ):
    if ask(template) == wanted:
      break
  else:
    raise ValueError(
      'the chat template does not give the layout that was '
      'trained with: import the model again'
    )
  if not layout.between_turns:
    template = with_dialogue_as_one_turn(template)
  if layout.system:
    template = with_system(template, layout.system)
  if dates:
    template = (
      '{% macro strftime_now(form) %}{{ '
      + json.dumps(dates)
      + '[form] }}{% endmacro %}'
      + template
    )
  return template


class _Generation(jinja2.ext.Extension):
  """`{% generation %}`, with which templates mark what is trained on."""

  tags = {'generation'}

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return jinja2.nodes.Scope(body, lineno=line)


def render(
  chat_template: str,
  messages: Sequence[Mapping[str, str]],
  *,
  add_generation_prompt: bool,
  variables: Mapping[str, str],
  dates: dict[str, str] | None = None,
) -> str:
  """Renders a chat template as transformers does, but for the date: `DATE`.

  Args:
    chat_template: Jinja, run in a sandbox.
    messages: of 'role' and 'content' each.
    add_generation_prompt: whether the start of an answer follows.
    variables: 'bos_token' and the like.
    dates: is given what the template asks of the date: form -> text.

  Raises:
    ValueError: the template is not valid, or refuses the messages.
  """

  def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)

  def tojson(
    value, ensure_ascii=False, indent=None, separators=None, sort_keys=False
  ):
    return json.dumps(
      value,
      ensure_ascii=ensure_ascii,
      indent=indent,
      separators=separators,
      sort_keys=sort_keys,
    )

  def strftime_now(form):
    text = DATE.strftime(form)
    if dates is not None:
      dates[form] = text
    return text

  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, jinja2.ext.loopcontrols],
  )
  environment.filters['tojson'] = tojson
  environment.globals['raise_exception'] = raise_exception
  environment.globals['strftime_now'] = strftime_now
  try:
    return environment.from_string(chat_template).render(
      messages=list(messages),
      tools=None,
      documents=None,
      add_generation_prompt=add_generation_prompt,
      **variables,
    )
  # A template is a program: it may also fail as programs do.
  except (
    jinja2.exceptions.TemplateError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ValueError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    MemoryError,
  ) as error:
    raise ValueError(
      f'the chat template fails: {error or repr(error)}'
    ) from error


def chat_layout(
  chat_template: str,
  *,
  variables: Mapping[str, str],
  specials: Sequence[str],
  system: str = '',
) -> Layout:
  """The layout of a chat template, from its parts around marks.

  A part between the start of an answer, as the template opens it, and the
  text of an answer in a dialogue (an empty block of thought, say) belongs to
  the prompt, so that a response is its text and the end.

  Args:
    chat_template: Jinja.
    variables: see `render`.
    specials: all special tokens, as text.
    system: a system message, or empty for none.

  Raises:
    ValueError: the template cannot be cut: it drops, repeats or changes texts.
  """

  def rendered(*turns):
    messages = [{'role': 'system', 'content': system}] if system else []
    messages += [
      {'role': dialogue.ROLES[i % 2], 'content': turn}
      for i, turn in enumerate(turns)
    ]
    try:
      return render(
        chat_template,
        messages,
        variables=variables,
        add_generation_prompt=len(turns) % 2 == 1,
      )
    except ValueError as error:
      raise ValueError(f'{error}; {_INSTEAD}') from error

  before, after, strip_prompt = _around(rendered, _USER, "the user's text")
  if system and system.strip() not in before + after:
    raise ValueError(f'the chat template drops the system message; {_INSTEAD}')
  opened, tail, strip_response = _around(
    lambda answer: rendered(_USER, answer), _ANSWER, 'an answer'
  )
  prompt = before + _USER + after
  if not opened.startswith(prompt):
    raise ValueError(
      'the chat template opens an answer in one way to generate and in '
      f'another in a dialogue ({prompt[-40:]!r} and {opened[-40:]!r}); '
      f'{_INSTEAD}'
    )
  gap, opened_by = opened.removeprefix(prompt), after
  if gap.strip():
    after, gap = after + gap, ''
  end, close = _end(tail, specials)
  if close.strip():
    raise ValueError(
      f'the chat template ends an answer with the text '
      f'{close!r} before {end!r}; {_INSTEAD}'
    )
  return _with_turns(
    Layout(
      CHAT,
      '',
      system,
      before,
      after,
      gap,
      close,
      strip_prompt,
      strip_response,
      end,
      bos=False,
    ),
    rendered,
    opening=after.removeprefix(opened_by),
  )


def _with_turns(layout: Layout, rendered, opening: str) -> Layout:
  """The layout with the turns of a dialogue, where they can be cut at marks.

  Templates may leave out, move or merge earlier turns; then a dialogue is laid
  out as one text, since a response would be taught after what it did not have.

  Args:
    layout: of a single turn.
    rendered: turns -> text.
    opening: end of `after` that the template writes with an answer only.
  """
  try:
    parts = re.split('|'.join(_TURNS[:3]), rendered(*_TURNS[:3]))
    if len(parts) != 4 or parts[0] != layout.before:
      return layout
    wide = [
      f'\n {_AROUND[0]}{turn}{_AROUND[1]} \n' for turn in (*_TURNS, _USER)
    ]
    asked, answered = rendered(*wide) + opening, rendered(*wide[:4])
    ending = (
      layout.response_before
      + strip(wide[3], layout.strip_response)
      + layout.response_after
      + layout.end
    )
    for sides in itertools.product(_SIDES, repeat=2):
      found = dataclasses.replace(
        layout, between_turns=tuple(parts[1:3]), strip_turns=sides
      )
      text_of = lambda turns: ''.join(
        text for text, _ in found.prompt('', turns)
      )
      if text_of(wide) == asked and answered.startswith(
        text_of(wide[:3]) + ending
      ):
        return found
  except ValueError:  # the template refuses a dialogue
    pass
  return layout


def _around(rendered, mark: str, what: str):
  """(text before, text after, which sides are stripped) of a mark."""
  parts = rendered(mark).split(mark)
  if len(parts) != 2:
    fault = 'repeats' if len(parts) > 2 else 'drops or changes'
    raise ValueError(f'the chat template {fault} {what}; {_INSTEAD}')
  before, after = parts
  for text in (_AROUND[0] + mark + _AROUND[1], mark + ' ' + mark):
    if rendered(text) != before + text + after:
      raise ValueError(f'the chat template changes {what}; {_INSTEAD}')
  wide = f'\n {mark} \n'
  for sides in _SIDES:
    if rendered(wide) == before + strip(wide, sides) + after:
      return before, after, sides
  raise ValueError(
    f'the chat template changes white space around {what}; {_INSTEAD}'
  )


def _end(tail: str, specials: Sequence[str]) -> tuple[str, str]:
  """(the first special token in a text, the text before it), or ('', '')."""
  found = first_special(specials).search(tail)
  return (found[0], tail[: found.start()]) if found else ('', '')


def first_special(specials: Sequence[str]) -> re.Pattern:
  """Finds special tokens in text; of those at one place, the longest."""
  longest_first = sorted(filter(None, specials), key=len, reverse=True)
  return re.compile('|'.join(map(re.escape, longest_first)) or r'(?!)')
