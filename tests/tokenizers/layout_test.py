"""Plain layouts, and what they are in an export."""

from instructrl.tokenizers import chat_template
from instructrl.tokenizers import dialogue
from instructrl.tokenizers import layout

DIALOGUE = (' Hi.', 'Yes? ', 'Why?\n', ' So. ', 'Oh. ')


def messages(*turns):
  return [
    {'role': ('user', 'assistant')[i % 2], 'content': turn}
    for i, turn in enumerate(turns)
  ]


def test_an_exported_plain_layout_takes_dialogues_as_training_did():
  lay = layout.plain_layout('Q: {prompt}\nA:', ' {response}')
  template = layout.plain_as_chat_template(lay, '</s>', '<s>')
  text = dialogue.join_turns(DIALOGUE)
  asked = '<s>' + ''.join(part for part, _ in lay.prompt(text, DIALOGUE))
  assert asked == f'<s>Q: {text}\nA:'
  assert asked == chat_template.render(
    template, messages(*DIALOGUE), add_generation_prompt=True, variables={}
  )
  assert asked + ' So.</s>' == chat_template.render(
    template,
    messages(*DIALOGUE, 'So.'),
    add_generation_prompt=False,
    variables={},
  )


def test_a_plain_layout_as_a_chat_template():
  lay = layout.plain_layout("Q: '{prompt}'\n", ' {response}!')
  assert (lay.before, lay.after) == ("Q: '", "'\n")
  template = layout.plain_as_chat_template(lay, '</s>', '<s>')
  text = chat_template.render(
    template,
    [
      {'role': 'user', 'content': '{prompt}'},
      {'role': 'assistant', 'content': 'a'},
    ],
    add_generation_prompt=False,
    variables={},
  )
  assert text == "<s>Q: '{prompt}'\n a!</s>"
  assert layout.plain_layout('{prompt}', '{response}').before == ''
