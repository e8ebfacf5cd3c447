"""A few records as text, with what is trained on marked.

In a demonstration and a document the tokens that are predicted are marked: by
colour on a terminal, elsewhere by ⟦ and ⟧. A ranking's responses stand side by
side in the order of their ranks. Special tokens are shown by their names, and
whatever a terminal would obey in a text is shown as its code.
"""

from collections.abc import Iterator, Sequence
import itertools
import unicodedata

from instructrl.data import summary
from instructrl.data import tasks
from instructrl.data.records import (
  Demonstration,
  Document,
  Prompt,
  prompt_of,
  Ranking,
  Record,
)

WIDTH = summary.WIDTH
MARKS = ('⟦', '⟧')
_COLOURS = ('\x1b[32m', '\x1b[0m')  # green
_DIM = ('\x1b[2m', '\x1b[0m')
_MOST_LINES = 14  # of one text
_LONGEST = 100_000  # tokens that are laid out for an example

Span = tuple[bool, str]  # whether it is trained on, text


def printable(text: str) -> str:
  """The text without what a terminal would obey; newlines stay."""
  text = text.replace('\r\n', '\n').replace('\t', '  ')
  return ''.join(
    c if c.isprintable() or c == '\n' else c.encode('unicode_escape').decode()
    for c in text
  )


def width_of(text: str) -> int:
  """Columns that a text takes on a terminal."""
  return sum(
    0
    if unicodedata.combining(c)
    else 2
    if unicodedata.east_asian_width(c) in 'WF'
    else 1
    for c in text
  )


def wrap(text: str, width: int) -> list[str]:
  """Lines of at most `width` columns; words that are longer are broken."""
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
  """Words and the spaces between them, none wider than a line."""
  for _, group in itertools.groupby(paragraph, str.isspace):
    word = ''
    for char in group:
      if word and width_of(word + char) > width:
        yield word
        word = ''
      word += char
    yield word


def clip(lines: Sequence[str], most: int = _MOST_LINES) -> list[str]:
  """The first lines and the last one, if there are more than `most`."""
  if len(lines) <= most:
    return list(lines)
  left = len(lines) - most + 1
  return [*lines[: most - 2], f'... ({left:,} more lines)', lines[-1]]


# --- Marks -------------------------------------------------------------------


def spans(record: Record, tok, response_len: int = 0) -> list[Span]:
  """A record in the order of its tokens, and what of it is predicted.

  Args:
    record: a Demonstration, Document or Prompt.
    tok: its tokens are shown where there is one, specials by name.
    response_len: tokens of a response at most; 0 = all.
  """
  match record:
    case Demonstration():
      prompt, response = record.prompt.text, record.response
      if tok is None:
        return [(False, f'{prompt}\n'), (True, response)]
      tokens = tasks.chat_prompt(tok, record.prompt)
      return [
        (False, text_of(tok, tokens)),
        (
          True,
          text_of(
            tok, tasks.response_tokens(tok, response, response_len or _LONGEST)
          ),
        ),
      ]
    case Document():
      if tok is None:
        return [(True, record.text)]
      first, *rest = tasks.document_tokens(tok, record.text[: 4 * _LONGEST])
      return [(False, text_of(tok, [first])), (True, text_of(tok, rest))]
    case Prompt():
      return [
        (
          False,
          record.text
          if tok is None
          else text_of(tok, tasks.chat_prompt(tok, record)),
        )
      ]
    case _:
      raise TypeError(f'{type(record).__name__} has no single sequence')


def text_of(tok, tokens: Sequence[int]) -> str:
  """Tokens as text, with the specials, which `decode` drops, by name."""
  # Twice, as the space before a line is dropped too.
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
  """Wrapped lines with what is trained on marked, each line for itself."""
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
  """The prompt, then the responses side by side, the best first."""
  lines = [
    f'  {line}'
    for line in clip(wrap(printable(ranking.prompt.text), WIDTH - 4), 10)
  ]
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
  """Cells beside each other; the first `heads` lines of each are its head."""
  height = max(map(len, cells))
  lines = []
  for row in range(height):
    parts = []
    for cell in cells:
      text = cell[row] if row < len(cell) else ''
      padded = text + ' ' * (width - width_of(text))
      parts.append(
        f'\x1b[1m{padded}\x1b[0m' if colour and row < heads else padded
      )
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
  """Examples as lines of at most 80 columns.

  Args:
    records: of any types.
    tok: shows what the tokenizer makes of them; None shows the bare text.
    colour: for a terminal; else ⟦ and ⟧ are put around what is trained on.
    response_len: tokens of a response at most; 0 = all.
  """
  lines = []
  for record in records:
    prompt = prompt_of(record)
    about = [f'{type(record).__name__} {prompt.id}', prompt.split]
    about += [f'user {prompt.user}'] if getattr(prompt, 'user', '') else []
    about += [f'labeler {record.labeler}'] if hasattr(record, 'labeler') else []
    title = summary.rule(printable(' · '.join(about)))
    lines.append(f'{_DIM[0]}{title}{_DIM[1]}' if colour else title)
    lines += (
      ranking_lines(record, colour)
      if isinstance(record, Ranking)
      else marked(spans(record, tok, response_len), colour)
    )
    lines.append('')
  return '\n'.join(lines)
