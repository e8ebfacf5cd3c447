"""Chat templates, cut around texts, and what cannot be cut."""

import dataclasses

import pytest

from instructrl.tokenizers import chat_template
from instructrl.tokenizers import dialogue
from instructrl.tokenizers import jinja_process
from instructrl.tokenizers import layout
from tests import tokenizer_families as families

VARIABLES = {'bos_token': '<s>', 'eos_token': '</s>'}
SPECIALS = (
  '<s>',
  '</s>',
  '<|im_start|>',
  '<|im_end|>',
  '<end_of_turn>',
  '<start_of_turn>',
  '<|eot_id|>',
  '<|end_header_id|>',
  '<think>',
  '</think>',
)


def cut(template, **options):
  return chat_template.chat_layout(
    template, variables=VARIABLES, specials=SPECIALS, **options
  )


def test_chatml():
  lay = cut(families.CHATML)
  assert lay.before == (
    '<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n'
  )
  assert lay.after == '<|im_end|>\n<|im_start|>assistant\n'
  assert (lay.response_before, lay.response_after, lay.end) == (
    '',
    '',
    '<|im_end|>',
  )
  assert lay.strip_prompt == lay.strip_response == (False, False)
  assert not lay.bos  # a template writes its own
  other = cut(families.CHATML, system='Be brief.')
  assert other.before == lay.before.replace('Be kind.', 'Be brief.')


def test_llama2_trims_and_puts_spaces_around_an_answer():
  lay = cut(families.LLAMA2)
  assert (lay.before, lay.after) == ('<s>[INST] ', ' [/INST]')
  assert (lay.response_before, lay.response_after, lay.end) == (
    ' ',
    ' ',
    '</s>',
  )
  assert lay.strip_prompt == lay.strip_response == (True, True)


def test_gemma():
  lay = cut(families.GEMMA)
  assert (lay.before, lay.end) == ('<s><start_of_turn>user\n', '<end_of_turn>')
  assert lay.after == '<end_of_turn>\n<start_of_turn>model\n'


def test_a_date_stays_what_it_was():
  lay = cut(families.LLAMA3)
  assert 'It is 2024<|eot_id|>' in lay.before
  assert lay.end == '<|eot_id|>'


def test_a_template_without_an_end_leaves_the_models_own():
  lay = cut(
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}"
    '{% endif %}'
  )
  assert (lay.end, lay.after) == ('', '\nassistant: ')


def test_blocks_of_transformers_are_known():
  text = chat_template.render(
    '{%- for m in messages %}\n  {% generation %}{{ m | tojson }}'
    '{% endgeneration %}\n  {% break %}\n{%- endfor %}',
    [{'role': '\u00e9'}, {}],
    add_generation_prompt=False,
    variables={},
  )
  assert text == '{"role": "\u00e9"}'


TURNS = "{% for m in messages %}{{ '<s>' + m.content + '</s>' }}{% endfor %}"


@pytest.mark.parametrize(
  'template,message',
  [
    ("{{ 'a' }}", "drops or changes the user's text"),
    (TURNS.replace('m.content', 'm.content | upper'), 'drops or changes'),
    (TURNS.replace('m.content', 'm.content | e'), "changes the user's text"),
    (TURNS.replace('m.content', 'm.content + m.content'), 'repeats'),
    (TURNS.replace('m.content', "m.content.split('\\n')[0]"), 'changes'),
    (TURNS.replace('m.content', 'm.content[:40]'), 'changes'),
    (
      TURNS.replace('m.content', "m.content.split('##')[-1]"),
      "has one of the texts '##'",
    ),
    (
      TURNS + "{% if add_generation_prompt %}{{ 'x' }}{% endif %}",
      'opens an answer in one way',
    ),
    (TURNS.replace("+ '</s>'", "+ ' (end)</s>'"), "the text ' \\(end\\)'"),
    ('{% for %}', 'the chat template fails'),
    ("{{ messages[9]['content'] + 1 }}", 'the chat template fails'),
    ("{{ raise_exception('not today') }}", 'fails: not today'),
    ('{{ messages.__class__.__mro__ }}', 'the chat template fails'),
  ],
)
def test_what_cannot_be_cut_is_refused(template, message):
  with pytest.raises(ValueError, match=message) as error:
    cut(template)
  assert 'prompt_template=' in str(error.value)  # what to do instead


def test_a_system_message_that_is_dropped_is_refused():
  with pytest.raises(ValueError, match='drops the system message'):
    cut(
      "{% for m in messages if m.role != 'system' %}{{ '<s>' + m.content }}"
      '{% endfor %}',
      system='Be brief.',
    )


DIALOGUE = (' Hi.', 'Yes? ', 'Why?\n', ' So. ', 'Oh. ')


def messages(*turns):
  return [
    {'role': ('user', 'assistant')[i % 2], 'content': turn}
    for i, turn in enumerate(turns)
  ]


def laid_out(lay, turns):
  return ''.join(text for text, _ in lay.prompt('the text', turns))


# As Meta's and as Alibaba's releases have them, without tools.
LLAMA2_WITH_SYSTEM = (
  "{% if messages[0]['role'] == 'system' %}"
  '{% set loop_messages = messages[1:] %}'
  "{% set system_message = messages[0]['content'] %}{% else %}"
  '{% set loop_messages = messages %}{% set system_message = false %}'
  '{% endif %}{% for message in loop_messages %}'
  '{% if loop.index0 == 0 and system_message != false %}'
  "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + "
  "message['content'] %}{% else %}{% set content = message['content'] %}"
  "{% endif %}{% if message['role'] == 'user' %}"
  "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
  "{% elif message['role'] == 'assistant' %}"
  "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = r"""{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last_query_index=messages|length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- if not ns.found and message.role == "user" %}
        {%- set ns.found = true %}
        {%- set ns.last_query_index = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>user\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\n') %}
            {%- set reasoning = reasoning.split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and loop.last %}
            {{- '<|im_start|>assistant\n<think>\n' + reasoning.strip('\n') }}
            {{- '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
# A template that takes the thought out of earlier answers, as Qwen3's does.
FORGETTING = families.CHATML.replace(
  "message['content'] +",
  "('<think>\\n\\n</think>\\n\\n' if loop.last and message['role'] == "
  "'assistant' else '') + message['content'] +",
).replace(
  "{{ '<|im_start|>assistant\\n' }}",
  "{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}",
)


@pytest.mark.parametrize(
  'template, system',
  [
    (families.CHATML, ''),
    (families.LLAMA2, ''),
    (families.LLAMA3, ''),
    (families.GEMMA, ''),
    (families.THINKING, ''),
    (FORGETTING, ''),
    (QWEN3, ''),
    (QWEN3, 'Be brief.'),
    (families.CHATML, 'Be brief.'),
    (LLAMA2_WITH_SYSTEM, 'Be brief.'),
  ],
)
def test_a_dialogue_is_laid_out_as_the_template_does(template, system):
  lay = cut(template, system=system)
  assert lay.between_turns
  for turns in (DIALOGUE[:3], DIALOGUE):
    shown = messages(*turns)
    if system:
      shown.insert(0, {'role': 'system', 'content': system})
    theirs = chat_template.render(
      template, shown, variables=VARIABLES, add_generation_prompt=True
    )
    if template in (families.THINKING, QWEN3):  # of an answer, there
      theirs += '<think>\n\n</think>\n\n'
    assert laid_out(lay, turns) == theirs
  # A user's marks are text; and without turns there is one.
  specials = [text for text, meant in lay.prompt('', DIALOGUE) if meant]
  assert len(specials) == 6
  assert laid_out(lay, ()) == lay.before + 'the text' + lay.after


@pytest.mark.parametrize(
  'template,system',
  [
    (families.CHATML, ''),
    (families.CHATML, 'Say "no".'),
    (QWEN3, ''),
    (QWEN3, 'Say "no".'),
    (families.THINKING, ''),
    (families.THINKING + '\n', ''),
    (families.LLAMA2, ''),
    (families.LLAMA3, ''),
    (families.GEMMA, ''),
  ],
)
def test_an_exported_template_lays_out_as_training_did(template, system):
  lay = cut(template, system=system)
  exported = chat_template.exported_chat_template(
    lay, template, VARIABLES, lay.end
  )
  # Whoever renders it has a date of his own.
  jinja = {'strftime_now': lambda form: 'tomorrow', 'enable_thinking': True}
  for turns in (('the text',), DIALOGUE):
    text, _ = jinja_process.render_here(
      exported,
      messages=messages(*turns),
      add_generation_prompt=True,
      **VARIABLES | jinja,
    )
    assert text == laid_out(lay, turns if len(turns) > 1 else ())
  assert cut(exported).after == lay.after  # and so is one that comes back
  with pytest.raises(ValueError, match='import the model again'):
    chat_template.exported_chat_template(
      dataclasses.replace(lay, before='x' + lay.before),
      template,
      VARIABLES,
      lay.end,
    )


def test_newlines_before_an_answer_are_dropped_as_qwen3_does():
  lay = cut(QWEN3)
  assert lay.strip_response == ('\n', False)
  assert layout.strip('\n\n a \n', lay.strip_response) == ' a \n'
  assert lay.after.endswith('<|im_start|>assistant\n<think>\n\n</think>\n\n')


def test_a_template_without_dialogues_is_exported_with_what_joins_them():
  template = families.CHATML.replace(
    '{% for',
    "{% if messages | length > 3 %}{{ raise_exception('short') }}"
    '{% endif %}{% for',
  )
  lay = cut(template, system='Be brief.')
  assert lay.between_turns == ()
  exported = chat_template.exported_chat_template(
    lay, template, VARIABLES, lay.end
  )
  render = lambda *turns, more: chat_template.render(
    exported, messages(*turns), variables=VARIABLES, add_generation_prompt=more
  )
  text = dialogue.join_turns(DIALOGUE)
  asked = lay.before + text + lay.after
  assert render(*DIALOGUE, more=True) == asked
  assert render(*DIALOGUE, 'So.', more=False) == f'{asked}So.<|im_end|>\n'
  assert render('Hi.', more=True) == f'{lay.before}Hi.{lay.after}'


@pytest.mark.parametrize(
  'change',
  [
    # An answer before the last one that loses a quote; a note before the last.
    (
      "message['content']",
      "(message['content'] if loop.last or messages | "
      "length < 3 else message['content'] | replace('\"', ''))",
    ),
    (
      "message['role'] + '\\n'",
      "message['role'] + '\\n' + ('NOTE ' if "
      "messages | length == 4 and loop.last else '')",
    ),
    # Only the last turn; a count of turns; earlier answers cut; no dialogues.
    (
      'in messages',
      'in (messages[-1:] if messages | length > 2 else messages)',
    ),
    (
      "message['role'] + '\\n'",
      "message['role'] + '\\n' + "
      "('' if loop.index < 3 else loop.index | string)",
    ),
    (
      "message['content']",
      "(message['content'] if loop.last or "
      "messages | length < 3 else message['content'][:4])",
    ),
    (
      '{% for',
      "{% if messages | length > 2 %}{{ raise_exception('one turn') }}"
      '{% endif %}{% for',
    ),
  ],
)
def test_a_template_that_cannot_be_cut_takes_a_dialogue_as_one_text(change):
  lay = cut(families.CHATML.replace(*change))
  assert lay.between_turns == ()
  assert laid_out(lay, DIALOGUE) == lay.before + 'the text' + lay.after
