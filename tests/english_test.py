"""The prose of the code is plain technical English.

Docstrings, comments and messages avoid openings and phrases that make a reader
read twice. CONTRIBUTING.md says what to write instead.
"""

import ast
import io
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ('instructrl', 'experiments', 'scripts', 'examples')

# How no docstring or comment begins.
OPENINGS = re.compile(r'^(Of|As|By|What|That|Which|Whose|Likewise)\b')
# Prose: docstrings and comments.
PROSE = re.compile(
  r"""\b(
    likewise | see\ there | so\ many | is\ none\ of | are\ none\ of
    | of\ which\ | in\ which\ there | what\ there\ is | than\ there\ are
    | lies | lie\ (in|under|beside|on|at|where) | stands?\ (in|at|on|there|beside|above|below)
    | tells | told | brings | brought
    | (has|have|is|are|does|do)\ not,\ | have\ not\b(?=[.,;:)]) | has\ not\b(?=[.,;:)])
    | the\ like | as\ it\ was\ before | those\ of\ the\ others
    | thereof | therein | thereby | wherein
  )\b""",
  re.VERBOSE | re.IGNORECASE,
)
# Messages: any other text in the code.
MESSAGES = re.compile(
  r"""\b(
    is\ none\ of | are\ none\ of | likewise | see\ there | is\ of\ (import|export)
    | is\ no\ (lab|run|study|stage|field|number|int|float|bool|str)\b
    | what\ there\ is\ not | which\ public\ data\ have\ not
  )\b""",
  re.VERBOSE | re.IGNORECASE,
)


def docstrings_of(tree):
  """Yields (line, text) of each docstring."""
  kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
  for node in ast.walk(tree):
    if isinstance(node, kinds) and ast.get_docstring(node):
      yield node.body[0].lineno, ast.get_docstring(node)


def comments_of(source):
  """Yields (line, text) of each comment; comments on adjacent lines are one."""
  text, first, last = '', 0, -1
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type != tokenize.COMMENT:
      continue
    words = token.string.lstrip('#! ')
    whole_line = token.line.lstrip().startswith('#')
    if whole_line and token.start[0] == last + 1 and text:
      text, last = f'{text} {words}', token.start[0]
      continue
    if text:
      yield first, text
    text, first = words, token.start[0]
    last = token.start[0] if whole_line else -1
  if text:
    yield first, text


def messages_of(tree):
  """Yields (line, text) of each text that is not a docstring."""
  docs = {line for line, _ in docstrings_of(tree)}
  for node in ast.walk(tree):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      if node.lineno not in docs:
        yield node.lineno, node.value


def faults_of(source):
  """Returns 'line: phrase' of everything that is to be said otherwise."""
  tree = ast.parse(source)
  faults = []
  for line, text in (*docstrings_of(tree), *comments_of(source)):
    found = OPENINGS.search(text) or PROSE.search(' '.join(text.split()))
    if found:
      faults.append(f'{line}: {found[0]!r}')
  for line, text in messages_of(tree):
    found = MESSAGES.search(text)
    if found:
      faults.append(f'{line}: {found[0]!r}')
  return faults


FILES = sorted(
  path.relative_to(ROOT)
  for folder in FOLDERS
  for path in (ROOT / folder).rglob('*.py')
)


@pytest.mark.parametrize('path', FILES, ids=str)
def test_the_prose_is_plain(path):
  faults = faults_of((ROOT / path).read_text('utf-8'))
  assert not faults, '\n'.join(f'{path}:{fault}' for fault in faults)


@pytest.mark.parametrize(
  'source, fault',
  [
    ('"""Of each layer, which of `kinds`."""', 'Of'),
    ('x = 1  # What a stage reads', 'What'),
    ('# A comment that\n# tells a story', 'tells'),
    ("raise ValueError('stage=3 is none of 1, 2')", 'is none of'),
    ('def f():\n  """Return it, likewise."""', 'likewise'),
  ],
)
def test_a_phrase_to_avoid_is_found(source, fault):
  assert [fault in found for found in faults_of(source)] == [True]


def test_plain_prose_is_let_through():
  assert not faults_of(
    '"""Return the parameters."""\n'
    '# Keep one prompt per prefix; 0 = no deduplication\n'
    "raise ValueError('stage must be one of import, lab; got pppo')\n"
  )
