"""A dialogue as one text, which plain prompt templates take, and as its turns,
which chat templates lay out one by one.

As text, the turns after the first begin with '\\n\\nHuman: ' or
'\\n\\nAssistant: ', as in the HH-RLHF release (Bai et al. 2022), so that the
prompt template '\\n\\nHuman: {prompt}\\n\\nAssistant:' and the response
template ' {response}' give the whole dialogue back.
"""

from collections.abc import Sequence
import re

ROLES = ('user', 'assistant')  # of messages, by turns
HUMAN, ASSISTANT = '\n\nHuman:', '\n\nAssistant:'
_MARK = re.compile(f'({HUMAN}|{ASSISTANT})')


def join_turns(turns: Sequence[str]) -> str:
  """The text of a dialogue: user and assistant by turns, the user first."""
  marks = (HUMAN, ASSISTANT)
  return turns[0] + ''.join(
    f'{marks[i % 2]} {turn}' for i, turn in enumerate(turns) if i
  )


def split_turns(text: str) -> tuple[str, ...]:
  """The turns of a text that begins with the user's first, without its mark.

  Returns:
    An odd number of turns from 3 up, the last the user's, without spaces
    around them; () where the text is a single turn, or one is missing or
    empty.
  """
  first, *rest = _MARK.split(text)
  turns = [first.strip(), *(turn.strip() for turn in rest[1::2])]
  by_turns = rest[::2] == [ASSISTANT, HUMAN] * (len(turns) // 2)
  return tuple(turns) if rest and by_turns and all(turns) else ()
