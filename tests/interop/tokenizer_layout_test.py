"""Chat templates, cut around texts, and what cannot be cut."""

import datetime

import pytest

from instructrl.interop import tokenizer_layout as layouts
from tests import tokenizer_families as families

VARIABLES = {'bos_token': '<s>', 'eos_token': '</s>'}
SPECIALS = ('<s>', '</s>', '<|im_start|>', '<|im_end|>', '<end_of_turn>',
            '<start_of_turn>', '<|eot_id|>', '<|end_header_id|>')


def cut(template, **options):
  return layouts.chat_layout(
      template, variables=VARIABLES, specials=SPECIALS, **options)


def test_chatml():
  lay = cut(families.CHATML)
  assert lay.before == (
      '<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n')
  assert lay.after == '<|im_end|>\n<|im_start|>assistant\n'
  assert (lay.response_before, lay.response_after, lay.end) == (
      '', '', '<|im_end|>')
  assert lay.strip_prompt == lay.strip_response == (False, False)
  assert not lay.bos  # a template writes its own
  other = cut(families.CHATML, system='Be brief.')
  assert other.before == lay.before.replace('Be kind.', 'Be brief.')


def test_llama2_trims_and_puts_spaces_around_an_answer():
  lay = cut(families.LLAMA2)
  assert (lay.before, lay.after) == ('<s>[INST] ', ' [/INST]')
  assert (lay.response_before, lay.response_after, lay.end) == (
      ' ', ' ', '</s>')
  assert lay.strip_prompt == lay.strip_response == (True, True)


def test_gemma():
  lay = cut(families.GEMMA)
  assert (lay.before, lay.end) == ('<s><start_of_turn>user\n', '<end_of_turn>')
  assert lay.after == '<end_of_turn>\n<start_of_turn>model\n'


def test_a_date_is_that_of_the_import():
  lay = cut(families.LLAMA3)
  assert f'It is {datetime.datetime.now():%Y}<|eot_id|>' in lay.before
  assert lay.end == '<|eot_id|>'


def test_a_template_without_an_end_leaves_the_models_own():
  lay = cut("{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}"
            '{% endif %}')
  assert (lay.end, lay.after) == ('', '\nassistant: ')


def test_blocks_of_transformers_are_known():
  text = layouts.render(
      '{%- for m in messages %}\n  {% generation %}{{ m | tojson }}'
      '{% endgeneration %}\n  {% break %}\n{%- endfor %}',
      [{'role': '\u00e9'}, {}], add_generation_prompt=False, variables={})
  assert text == '{"role": "\u00e9"}'


TURNS = "{% for m in messages %}{{ '<s>' + m.content + '</s>' }}{% endfor %}"


@pytest.mark.parametrize('template,message', [
    ("{{ 'a' }}", "drops or changes the user's text"),
    (TURNS.replace('m.content', 'm.content | upper'), 'drops or changes'),
    (TURNS.replace('m.content', 'm.content | e'), "changes the user's text"),
    (TURNS.replace('m.content', 'm.content + m.content'), 'repeats'),
    (TURNS.replace('m.content', "m.content.split('\\n')[0]"), 'changes'),
    (TURNS.replace('m.content', 'm.content[:40]'), 'changes'),
    (TURNS + "{% if add_generation_prompt %}{{ 'x' }}{% endif %}",
     'opens an answer in one way'),
    (TURNS.replace("+ '</s>'", "+ ' (end)</s>'"), "the text ' \\(end\\)'"),
    ('{% for %}', 'the chat template fails'),
    ("{{ messages[9]['content'] + 1 }}", 'the chat template fails'),
    ("{{ raise_exception('not today') }}", 'fails: not today'),
    ("{{ messages.__class__.__mro__ }}", 'the chat template fails'),
])
def test_what_cannot_be_cut_is_refused(template, message):
  with pytest.raises(ValueError, match=message) as error:
    cut(template)
  assert 'prompt_template=' in str(error.value)  # what to do instead


def test_a_system_message_that_is_dropped_is_refused():
  with pytest.raises(ValueError, match='drops the system message'):
    cut("{% for m in messages if m.role != 'system' %}{{ '<s>' + m.content }}"
        '{% endfor %}', system='Be brief.')


def test_a_plain_layout_as_a_chat_template():
  lay = layouts.plain_layout("Q: '{prompt}'\n", ' {response}!')
  assert (lay.before, lay.after) == ("Q: '", "'\n")
  template = layouts.plain_as_chat_template(lay, '</s>', '<s>')
  text = layouts.render(template, [
      {'role': 'user', 'content': '{prompt}'},
      {'role': 'assistant', 'content': 'a'}], add_generation_prompt=False,
                        variables={})
  assert text == "<s>Q: '{prompt}'\n a!</s>"
  assert layouts.plain_layout('{prompt}', '{response}').before == ''
