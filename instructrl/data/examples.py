"""Shows a few records as text, with the trained text marked.

The predicted tokens of a demonstration or a document are marked: by colour on a
terminal, elsewhere by ⟦ and ⟧. A ranking's responses are side by side, in the
order of their ranks. Special tokens are shown by name, and control characters
by their codes.
"""

from collections.abc import Iterator, Sequence
import itertools
import unicodedata

from instructrl.data import summary_text
from instructrl.data import tasks
from instructrl.data.records import (
  Demonstration,
  Document,
  Prompt,
  prompt_of,
  Ranking,
  Record,
)

WIDTH = summary_text.WIDTH
MARKS = ('⟦', '⟧')
_COLOURS = ('\x1b[32m', '\x1b[0m')  # green
_DIM = ('\x1b[2m', '\x1b[0m')
_MOST_LINES = 14  # of one text
_LONGEST = 100_000  # tokens of a text, at most

Span = tuple[bool, str]  # (whether the text is trained on, text)


def printable(text: str) -> str:
  """Returns the text with control characters escaped, except newlines."""
  text = text.replace('\r\n', '\n').replace('\t', '  ')
  return ''.join(
    c if c.isprintable() or c == '\n' else c.encode('unicode_escape').decode()
    for c in text
  )


def width_of(text: str) -> int:
  """Returns the columns that a text takes on a terminal."""
  wide = lambda c: unicodedata.east_asian_width(c) in 'WF'
  return sum(1 + wide(c) for c in text if not unicodedata.combining(c))


def wrap(text: str, width: int) -> list[str]:
  """Wraps text to `width` columns; breaks longer words."""
  lines = []
  for paragraph in text.split('\n'):
    line, used = '', 0
    for word in _pieces(paragraph, width):
      columns = width_of(word)
      if used + columns > width and not word.isspace():
        lines.append(line.rstrip())
        line, used = '', 0
      line, used = line + word, used + columns
    lines.append(line.rstrip())
  return lines


def _pieces(paragraph: str, width: int) -> Iterator[str]:
  """Yields words and the spaces between them, none wider than a line."""
  for _, group in itertools.groupby(paragraph, str.isspace):
    word = ''
    for char in group:
      if word and width_of(word + char) > width:
        yield word
        word = ''
      word += char
    yield word


def clip(lines: Sequence[str], most: int = _MOST_LINES) -> list[str]:
  """Returns at most `most` lines: the first ones and the last one."""
  if len(lines) <= most:
    return list(lines)
  left = len(lines) - most + 1
  return [*lines[: most - 2], f'... ({left:,} more lines)', lines[-1]]


# --- Marks -------------------------------------------------------------------


def spans(record: Record, tok, response_len: int = 0) -> list[Span]:
  """Splits a record into text that is predicted and text that is not.

  Args:
    record: a Demonstration, Document or Prompt.
    tok: tokenizer, to show the layout with specials by name; None shows the
      bare text.
    response_len: tokens of a response at most; 0 = all.
  """
  prompt = prompt_of(record)
  if isinstance(record, Document):
    if tok is None:
      return [(True, record.text)]
    first, *rest = tok.document(record.text[: 4 * _LONGEST])
    return [(False, text_of(tok, [first])), (True, text_of(tok, rest))]
  asked = (
    prompt.text if tok is None else text_of(tok, tasks.chat_prompt(tok, prompt))
  )
  match record:
    case Prompt():
      return [(False, asked)]
    case Demonstration():
      if tok is None:
        return [(False, f'{asked}\n'), (True, record.response)]
      most = response_len or _LONGEST
      tokens = tasks.response_tokens(tok, record.response, most)
      return [(False, asked), (True, text_of(tok, tokens))]
    case _:
      raise TypeError(f'{type(record).__name__} has no single sequence')


def text_of(tok, tokens: Sequence[int]) -> str:
  """Decodes tokens; shows specials, which `decode` drops, by name."""
  # Decode each token twice: the space at the start of a line is dropped too.
  special = {token: tok.decode([token] * 2) == '' for token in set(tokens)}
  return ''.join(
    ''.join(tok.piece(t) for t in group)
    if is_special
    else tok.decode(list(group))
    for is_special, group in itertools.groupby(tokens, key=special.__getitem__)
  )


def marked(
  parts: Sequence[Span], colour: bool, width: int = WIDTH - 2
) -> list[str]:
  """Wraps text and marks the trained lines."""
  lines = []
  for trained, text in parts:
    wrapped = clip(wrap(printable(text).rstrip(), width - 2))
    if colour:
      before, after = _COLOURS if trained else ('', '')
      lines += [f'{before}{line}{after}' for line in wrapped]
    elif trained:
      wrapped[0] = MARKS[0] + wrapped[0]
      wrapped[-1] += MARKS[1]
      lines += wrapped
    else:
      lines += wrapped
  return [f'  {line}' for line in lines]


# --- Whole examples ----------------------------------------------------------


def ranking_lines(ranking: Ranking, colour: bool) -> list[str]:
  """Draws the prompt, then the responses side by side, the best first."""
  prompt = clip(wrap(printable(ranking.prompt.text), WIDTH - 4), 10)
  lines = [f'  {line}' for line in prompt]
  k = len(ranking.responses)
  columns = 2 if k == 2 else 3
  width = (WIDTH - 2 - 3 * (columns - 1)) // columns
  order = sorted(range(k), key=lambda i: ranking.ranks[i])
  tied = {rank for rank in ranking.ranks if ranking.ranks.count(rank) > 1}
  for start in range(0, k, columns):
    cells = []
    for i in order[start : start + columns]:
      rank = ranking.ranks[i]
      head = f'rank {rank}{" (tie)" if rank in tied else ""}'
      writer = wrap(printable(ranking.sources[i]), width)[0]
      text = printable(ranking.responses[i]).strip() or '(empty)'
      body = clip(wrap(text, width), 8)
      cells.append([head, writer, *body])
    lines += ['', *_table(cells, 2, width, colour)]
  return lines


def _table(
  cells: Sequence[Sequence[str]], heads: int, width: int, colour: bool
) -> list[str]:
  """Draws cells beside each other; the first `heads` lines are a head."""
  height = max(map(len, cells))
  lines = []
  for row in range(height):
    parts = []
    for cell in cells:
      text = cell[row] if row < len(cell) else ''
      padded = text + ' ' * (width - width_of(text))
      bold = colour and row < heads
      parts.append(f'\x1b[1m{padded}\x1b[0m' if bold else padded)
    lines.append('  ' + ' │ '.join(parts).rstrip())
  lines.insert(heads, '  ' + '─┼─'.join(['─' * width] * len(cells)))
  return lines


def render(
  records: Sequence[Record],
  tok=None,
  *,
  colour: bool = False,
  response_len: int = 0,
) -> str:
  """Draws examples in lines of at most 80 columns.

  Args:
    records: records of any types.
    tok: tokenizer, to show the layout; None shows the bare text.
    colour: whether to mark by colour, for a terminal, instead of ⟦ and ⟧.
    response_len: tokens of a response at most; 0 = all.
  """
  lines = []
  for record in records:
    prompt = prompt_of(record)
    about = [f'{type(record).__name__} {prompt.id}', prompt.split]
    about += [f'user {prompt.user}'] if getattr(prompt, 'user', '') else []
    about += [f'labeler {record.labeler}'] if hasattr(record, 'labeler') else []
    title = summary_text.rule(printable(' · '.join(about)))
    lines.append(f'{_DIM[0]}{title}{_DIM[1]}' if colour else title)
    if isinstance(record, Ranking):
      lines += ranking_lines(record, colour)
    else:
      lines += marked(spans(record, tok, response_len), colour)
    lines.append('')
  return '\n'.join(lines)
