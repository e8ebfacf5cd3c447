"""A dialogue as one text and as its turns.

Plain prompt templates use the text; chat templates lay out the turns one by
one. In the text, turns after the first begin with '\\n\\nHuman: ' or
'\\n\\nAssistant: ', as in the HH-RLHF release (Bai et al. 2022). So the prompt
template '\\n\\nHuman: {prompt}\\n\\nAssistant:' and the response template
' {response}' restore the whole dialogue.
"""

from collections.abc import Sequence
import re

ROLES = ('user', 'assistant')  # of alternating messages
HUMAN, ASSISTANT = '\n\nHuman:', '\n\nAssistant:'
_MARK = re.compile(f'({HUMAN}|{ASSISTANT})')


def join_turns(turns: Sequence[str]) -> str:
  """Returns the text of a dialogue; the user speaks first."""
  marks = (HUMAN, ASSISTANT)
  return turns[0] + ''.join(
    f'{marks[i % 2]} {turn}' for i, turn in enumerate(turns) if i
  )


def split_turns(text: str) -> tuple[str, ...]:
  """Splits the text of a dialogue at the marks.

  Args:
    text: begins with the user's first turn, without a mark.

  Returns:
    The turns without spaces around them: 3, 5, ... turns, the last one the
    user's. () if the text is a single turn, or if a turn is missing or empty.
  """
  first, *rest = _MARK.split(text)
  turns = [first.strip(), *(turn.strip() for turn in rest[1::2])]
  by_turns = rest[::2] == [ASSISTANT, HUMAN] * (len(turns) // 2)
  return tuple(turns) if rest and by_turns and all(turns) else ()
