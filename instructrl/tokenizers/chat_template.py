"""Chat templates (Jinja) of imported models, as layouts and back.

A chat template is rendered once, with marks in place of the texts, and cut at
the marks. Later stages lay out prompts from the parts and render nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import itertools
import json
import re

import jinja2

from instructrl.tokenizers import dialogue
from instructrl.tokenizers import jinja_process
from instructrl.tokenizers.layout import CHAT
from instructrl.tokenizers.layout import first_special
from instructrl.tokenizers.layout import literal
from instructrl.tokenizers.layout import plain_layout
from instructrl.tokenizers.layout import PROMPT_TEMPLATE
from instructrl.tokenizers.layout import PromptLayout
from instructrl.tokenizers.layout import RESPONSE_TEMPLATE
from instructrl.tokenizers.layout import strip

_USER, _ANSWER = 'zqUSERqz', 'zqANSWERqz'
_TURNS = ('zqFIRSTqz', 'zqSECONDqz', 'zqTHIRDqz', 'zqFOURTHqz')  # a dialogue
# Text that shows whether a template escapes, rewraps or recases its input.
_AROUND = ('Ab "c" \'d\' <e> & f\n\n{g} \u00e9 ', ' h\n  - I, \\n 1.')
_SIDES = tuple(itertools.product((False, '\n', True), repeat=2))
_INSTEAD = (
  f'give a plain layout instead, as prompt_template='
  f'{PROMPT_TEMPLATE!r}, response_template={RESPONSE_TEMPLATE!r}'
)
# Makes all turns of a dialogue except an answer at the end one turn.
_ONE_TURN = (
  "{% set dialogue = namespace(text='', answer=[], system=[]) %}"
  '{% for message in messages %}'
  "{% set answers = message['role'] == 'assistant' %}"
  "{% if message['role'] == 'system' %}"
  '{% set dialogue.system = dialogue.system + [message] %}'
  '{% elif answers and loop.last %}'
  '{% set dialogue.answer = [message] %}'
  '{% else %}{% if dialogue.text %}{% set dialogue.text = dialogue.text + '
  + json.dumps([f'{dialogue.HUMAN} ', f'{dialogue.ASSISTANT} '])
  + '[1 if answers else 0] %}{% endif %}'
  "{% set dialogue.text = dialogue.text + message['content'] %}"
  '{% endif %}{% endfor %}'
  "{% set messages = dialogue.system + [{'role': 'user', 'content': "
  'dialogue.text}] + dialogue.answer %}'
)


def make_layout(
  prompt_template: str,
  response_template: str,
  system: str,
  chat_template: str | None,
  variables: Mapping[str, str],
  specials: Iterable[str],
) -> PromptLayout:
  """Returns the layout that a user asks for.

  Args:
    prompt_template: 'chat', or text with `{prompt}`.
    response_template: text with `{response}`; empty for 'chat'.
    system: a system message; only for 'chat'.
    chat_template: Jinja, or None.
    variables: see `render`.
    specials: special tokens, as text.

  Raises:
    ValueError: the arguments contradict each other, or see `plain_layout` and
      `chat_layout`.
  """
  if prompt_template != CHAT:
    if system:
      raise ValueError(
        "system can only be used with prompt_template='chat': write the system "
        'message into prompt_template'
      )
    return plain_layout(prompt_template, response_template or RESPONSE_TEMPLATE)
  if response_template:
    raise ValueError(
      "response_template cannot be used with prompt_template='chat', which "
      'defines the response too'
    )
  if not chat_template:
    raise ValueError(
      "prompt_template='chat' needs a chat template, which this model lacks: "
      f'give text with {{prompt}}, such as {PROMPT_TEMPLATE!r}'
    )
  return chat_layout(
    chat_template, variables=variables, specials=list(specials), system=system
  )


# --- Rendering ---------------------------------------------------------------


def render(
  chat_template: str,
  messages: Sequence[Mapping[str, str]],
  *,
  add_generation_prompt: bool,
  variables: Mapping[str, str],
  dates: dict[str, str] | None = None,
) -> str:
  """Renders a chat template as transformers does, within limits.

  Args:
    chat_template: Jinja; see `jinja_process`.
    messages: with 'role' and 'content' each.
    add_generation_prompt: whether the start of an answer follows.
    variables: 'bos_token' and other roles.
    dates: receives {format: text} of each date that the template asks for.

  Raises:
    ValueError: the template is not valid, refuses the messages, or takes too
      long.
  """
  request = dict(
    variables,
    chat_template=chat_template,
    messages=list(messages),
    add_generation_prompt=add_generation_prompt,
  )
  try:
    text, found = jinja_process.render(request)
  except ValueError as error:
    raise ValueError(f'the chat template fails: {error}') from error
  if dates is not None:
    dates.update(found)
  return text


# --- From a template to a layout ---------------------------------------------


def chat_layout(
  chat_template: str,
  *,
  variables: Mapping[str, str],
  specials: Sequence[str],
  system: str = '',
) -> PromptLayout:
  """Cuts a chat template into a layout.

  The template may write something between the start of an answer and its text,
  such as an empty block of thought. This part belongs to the prompt, so that a
  response is its text and the end.

  Args:
    chat_template: Jinja.
    variables: see `render`.
    specials: all special tokens, as text.
    system: a system message, or empty.

  Raises:
    ValueError: the template drops, repeats or changes texts.
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

  sought = _sought(chat_template, specials)
  before, after, strip_prompt = _around(
    rendered, _USER, "the user's text", sought
  )
  if system and system.strip() not in before + after:
    raise ValueError(f'the chat template drops the system message; {_INSTEAD}')
  opened, tail, strip_response = _around(
    lambda answer: rendered(_USER, answer), _ANSWER, 'an answer', sought
  )
  prompt = before + _USER + after
  if not opened.startswith(prompt):
    raise ValueError(
      'the chat template opens an answer in one way to generate and in '
      f'another in a dialogue ({prompt[-40:]!r} and {opened[-40:]!r}); '
      f'{_INSTEAD}'
    )
  gap, opening = opened.removeprefix(prompt), ''
  if gap.strip():
    gap, opening = '', gap
  found = first_special(specials).search(tail)
  end, close = (found[0], tail[: found.start()]) if found else ('', '')
  if close.strip():
    raise ValueError(
      f'the chat template ends an answer with the text {close!r} before '
      f'{end!r}; {_INSTEAD}'
    )
  layout = PromptLayout(
    prompt_template=CHAT,
    response_template='',
    system=system,
    before=before,
    after=after + opening,
    response_before=gap,
    response_after=close,
    strip_prompt=strip_prompt,
    strip_response=strip_response,
    end=end,
    bos=False,
  )
  return _with_turns(layout, rendered, opening)


def _with_turns(
  layout: PromptLayout, rendered: Callable[..., str], opening: str
) -> PromptLayout:
  """Adds the turns of a dialogue to a layout, if they can be cut at marks.

  Some templates leave out, move or merge earlier turns. Then a dialogue is laid
  out as one text; otherwise a response would be trained after another prompt
  than the one that it answers.

  Args:
    layout: of a single turn.
    rendered: turns -> text.
    opening: end of `after` that the template writes only with an answer.
  """
  try:
    parts = re.split('|'.join(_TURNS[:3]), rendered(*_TURNS[:3]))
    if len(parts) != 4 or parts[0] != layout.before:
      return layout
    wide = [
      f'\n {_AROUND[0]}{turn}{_AROUND[1]} \n' for turn in (*_TURNS, _USER)
    ]
    asked, answered = rendered(*wide) + opening, rendered(*wide[:4])
  except ValueError:  # the template refuses dialogues
    return layout
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
    answer = _laid_out(found, wide[:3]) + ending
    if _laid_out(found, wide) == asked and answered.startswith(answer):
      return found
  return layout


def _laid_out(layout: PromptLayout, turns: Sequence[str]) -> str:
  return ''.join(text for text, _ in layout.prompt('', turns))


def _sought(chat_template: str, specials: Sequence[str]) -> list[str]:
  """Returns the texts that a template may look for in a message.

  Special tokens are left out: text that a user types never has one.
  """
  tokens = jinja2.Environment().lexer.tokenize(chat_template)
  found = {token.value for token in tokens if token.type == 'string'}
  special = first_special(specials)
  return sorted(t for t in found if t.strip() and not special.search(t))


def _around(
  rendered: Callable[[str], str], mark: str, name: str, sought: Sequence[str]
):
  """Returns (text before a mark, text after the mark, sides that are dropped).

  Args:
    rendered: text -> what the template writes.
    mark: stands for the text.
    name: of the text, for messages.
    sought: texts that the template may look for.
  """
  parts = rendered(mark).split(mark)
  if len(parts) != 2:
    fault = 'repeats' if len(parts) > 2 else 'drops or changes'
    raise ValueError(f'the chat template {fault} {name}; {_INSTEAD}')
  before, after = parts
  for text in (_AROUND[0] + mark + _AROUND[1], mark + ' ' + mark):
    if rendered(text) != before + text + after:
      raise ValueError(f'the chat template changes {name}; {_INSTEAD}')
  text = mark.join(['', *sought, ''])
  if rendered(text) != before + text + after:
    raise ValueError(
      f'the chat template changes {name} if it has one of the texts '
      f'{", ".join(map(repr, sought))[:300]}; {_INSTEAD}'
    )
  wide = f'\n {mark} \n'
  for sides in _SIDES:
    if rendered(wide) == before + strip(wide, sides) + after:
      return before, after, sides
  raise ValueError(
    f'the chat template changes white space around {name}; {_INSTEAD}'
  )


# --- From a layout to a template ---------------------------------------------


def exported_chat_template(
  layout: PromptLayout,
  chat_template: str,
  variables: Mapping[str, str],
  end: str,
) -> str:
  """Returns a chat template that writes what a layout writes.

  The result has the system message and the date, opens an answer as the layout
  does, ends the last one as in training, and joins a dialogue to one turn if
  the layout does.

  Args:
    layout: made by `chat_layout`.
    chat_template: Jinja that the layout was cut from.
    variables: see `render`.
    end: text of the token that ends a response.

  Raises:
    ValueError: the layout was not cut from this template.
  """
  messages = [{'role': 'user', 'content': _USER}]
  if layout.system:
    messages.insert(0, {'role': 'system', 'content': layout.system})
  wanted, dates = layout.before + _USER + layout.after, {}
  answer = [*messages, {'role': 'assistant', 'content': _ANSWER}]

  def write(template, messages=messages, opens=True):
    return render(
      template,
      messages,
      add_generation_prompt=opens,
      variables=variables,
      dates=dates,
    )

  opening = literal(wanted.removeprefix(write(chat_template)))
  candidates = (
    chat_template,
    '{% set enable_thinking = false %}' + chat_template,
    # Jinja drops a newline only at the end of a template.
    chat_template.removesuffix('\n')
    + f'{{% if add_generation_prompt %}}{{{{ {opening} }}}}{{% endif %}}',
  )
  template = next((each for each in candidates if write(each) == wanted), '')
  answered = wanted + layout.response_before + _ANSWER
  answered += layout.response_after + end
  if template and not write(template, answer, False).startswith(answered):
    _, _, after = write(template, answer, False).partition(_ANSWER)
    template = _ending(template, layout.response_after + end, len(after))
    if write(template) != wanted or write(template, answer, False) != answered:
      template = ''
  if not template:
    raise ValueError(
      'the chat template does not give the layout of the training: import the '
      'model again'
    )
  if not layout.between_turns:
    template = _ONE_TURN + template
  if layout.system:
    template = (
      "{% if messages[0]['role'] != 'system' %}{% set messages = "
      "[{'role': 'system', 'content': "
      + json.dumps(layout.system)
      + '}] + messages %}{% endif %}'
      + template
    )
  if dates:
    template = (
      '{% macro strftime_now(form) %}{{ '
      + json.dumps(dates)
      + '[form] }}{% endmacro %}'
      + template
    )
  return template


def _ending(chat_template: str, tail: str, dropped: int) -> str:
  """Returns a chat template that writes `tail` after an answer at the end.

  Args:
    chat_template: Jinja.
    tail: the text.
    dropped: characters that the template writes there.
  """
  return (
    '{% set written %}'
    + chat_template.removesuffix('\n')
    + "{% endset %}{% if messages[-1]['role'] == 'assistant' %}"
    + f'{{{{ written[:written | length - {dropped}] + {literal(tail)} }}}}'
    + '{% else %}{{ written }}{% endif %}'
  )
