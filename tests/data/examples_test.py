"""Examples as text: what is trained on is marked, nothing is obeyed."""

import pytest

from instructrl.data import examples
from instructrl.data import tasks
from instructrl.tokenizers.trained import Tokenizer
from instructrl.tokenizers.trained import train_tokenizer
from tests.data import toys


@pytest.fixture(scope='module', name='tok')
def _tok():
  return Tokenizer(
    train_tokenizer(['what is red', 'it is a colour', 'say no more'] * 4, 300)
  )


def lines_of(text):
  lines = text.splitlines()
  assert all(examples.width_of(line) <= 80 for line in lines), text
  return lines


def test_the_response_and_its_end_are_marked(tok):
  record = toys.shown('what is red', 'it is\na colour')
  text = examples.render([record], tok)
  assert (
    '  <s><|user|>what is red<|assistant|>\n  ⟦it is\n  a colour</s>⟧\n' in text
  )


def test_marks_are_those_of_the_loss(tok):
  """What is shown as trained on decodes from the targets of the example."""
  record = toys.shown('what is red', 'it is a colour')
  example = tasks.sft_example(record, tok, 64)
  targets = example.targets[example.loss_mask].tolist()
  (before, prompt), (trained, response) = examples.spans(record, tok)
  assert (before, trained) == (False, True)
  assert response == examples.text_of(tok, targets)
  assert prompt == examples.text_of(
    tok, example.tokens[: len(example.tokens) - len(targets) + 1].tolist()
  )


def test_a_cut_response_shows_no_end(tok):
  record = toys.shown('what', 'it is a colour')
  text = examples.render([record], tok, response_len=2)
  assert '</s>⟧' not in text and '⟦it is⟧' in text


def test_all_but_the_first_token_of_a_document_is_marked(tok):
  assert '  <s>\n  ⟦say no more</s>⟧' in examples.render(
    [toys.page('say no more')], tok
  )


def test_without_a_tokenizer_the_bare_text_is_shown():
  text = examples.render(
    [
      toys.shown('ask', 'answer'),
      toys.page('page'),
      toys.prompt('alone', user='u1'),
    ]
  )
  assert '  ask\n  ⟦answer⟧' in text and '⟦page⟧' in text
  assert 'Prompt id-alone · train · user u1' in text and '\n  alone\n' in text


def test_on_a_terminal_it_is_colour(tok):
  text = examples.render([toys.shown('a', 'b')], tok, colour=True)
  assert '\x1b[32mb</s>\x1b[0m' in text and '⟦' not in text
  assert '\x1b' not in examples.render([toys.shown('a', 'b')], tok)


def test_what_a_terminal_would_obey_is_spelled_out():
  text = examples.render([toys.shown('a\x1b[31mb\x07\r', '\u202eevil\tx')])
  assert r'a\x1b[31mb\x07\r' in text and r'\u202eevil  x' in text
  assert '\x1b' not in text and '\u202e' not in text


@pytest.mark.parametrize('k, columns', [(2, 2), (3, 3), (4, 3), (9, 3)])
def test_responses_stand_side_by_side_the_best_first(k, columns):
  ranks = [k - 1 - i for i in range(k)]
  lines = lines_of(
    examples.render(
      [
        toys.ranked(
          'ask',
          responses=[f'answer {i} ' + 'word ' * 60 for i in range(k)],
          ranks=ranks,
        )
      ]
    )
  )
  heads = [line for line in lines if 'rank ' in line]
  assert len(heads) == -(-k // columns)
  shown = [int(cell.split()[1]) for line in heads for cell in line.split('│')]
  assert shown == list(range(k))
  answers = [
    cell.split()[1]
    for line in lines
    if 'answer' in line
    for cell in line.split('│')
  ]
  assert answers == [str(k - 1 - i) for i in range(k)]
  assert any('more lines' in line for line in lines)


def test_ties_and_empty_responses_are_named():
  text = examples.render(
    [toys.ranked('ask', responses=('', 'b', 'c'), ranks=(0, 1, 1))]
  )
  assert text.count('(tie)') == 2 and '(empty)' in text


@pytest.mark.parametrize(
  'text, width, expected',
  [
    ('a bb ccc', 5, ['a bb', 'ccc']),
    ('abcdefgh', 3, ['abc', 'def', 'gh']),
    ('a\n\nb', 5, ['a', '', 'b']),
    ('  indented', 20, ['  indented']),
    ('你好世界', 4, ['你好', '世界']),
    ('e\u0301e\u0301e\u0301', 2, ['e\u0301e\u0301', 'e\u0301']),
    ('', 5, ['']),
  ],
)
def test_lines_are_as_wide_as_they_look(text, width, expected):
  assert examples.wrap(text, width) == expected


def test_a_long_text_keeps_its_end():
  assert examples.clip([str(i) for i in range(9)], 4) == [
    '0',
    '1',
    '... (6 more lines)',
    '8',
  ]
  assert examples.clip(['a', 'b'], 2) == ['a', 'b']
