"""Dialogues as text and as turns."""

import pytest

from instructrl.tokenizers import dialogue


def test_turns_become_text_and_turns_again():
  turns = ('Hello.\nYou?', 'I am.', 'What?', 'An assistant.', 'Human: so?')
  text = dialogue.join_turns(turns)
  assert text == (
    'Hello.\nYou?\n\nAssistant: I am.\n\nHuman: What?'
    '\n\nAssistant: An assistant.\n\nHuman: Human: so?'
  )
  assert dialogue.split_turns(text) == turns
  assert dialogue.join_turns(turns[:1]) == turns[0]
  # Spaces are of the text only.
  assert dialogue.split_turns(text.replace('I am.', '  I am. \n')) == turns


@pytest.mark.parametrize(
  'text',
  [
    'Hello.',
    'a\n\nHuman: b',
    'a\n\nAssistant: b',
    ' \n\nAssistant: b\n\nHuman: c',
    'a\n\nAssistant: \n\nHuman: c',
    'a\n\nAssistant: b\n\nHuman: ',
    'a\n\nAssistant: b\n\nAssistant: c\n\nHuman: d',
    'a\n\nHuman: b\n\nAssistant: c\n\nHuman: d',
  ],
)
def test_what_is_no_dialogue_has_no_turns(text):
  assert dialogue.split_turns(text) == ()
