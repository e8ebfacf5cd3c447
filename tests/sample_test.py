"""The texts that `instructrl.sample` reads and writes."""

import io
import json
import sys

import pytest

from instructrl import sample
from instructrl.runtime import command
from instructrl.runtime import files
from instructrl.runtime.errors import ConfigError
from instructrl.stages import loaded
from instructrl.stages.side_by_side import SideBySide


def lines_of(monkeypatch, data):
  stdin = io.TextIOWrapper(io.BytesIO(data), encoding='ascii')
  monkeypatch.setattr(sys, 'stdin', stdin)
  return sample._lines()


def test_lines_are_utf8_whatever_the_locale(monkeypatch):
  data = '\ufeffé\r\n\n \nb c \n'.encode()
  assert list(lines_of(monkeypatch, data)) == ['é', 'b c ']


def test_bytes_that_are_not_text_are_refused_by_line(monkeypatch, capsys):
  lines = lines_of(monkeypatch, b'a\n\nb\xff\n')
  assert next(lines) == 'a'
  with pytest.raises(ValueError, match='<stdin>:3: is not UTF-8 text .byte 1 '):
    next(lines)


def test_a_line_that_would_fill_the_memory_is_refused(monkeypatch):
  monkeypatch.setattr(files, 'MAX_LINE', 1 << 20)
  lines = lines_of(monkeypatch, b'a\n' + b'x' * (1 << 21))
  assert next(lines) == 'a'
  with pytest.raises(ValueError, match='<stdin>:2: .* more than 1 MiB'):
    next(lines)


def test_flags_have_the_escapes_of_a_shell():
  args = sample.parse(['run', r'--prompt=a\nb', r'--response=c\\n'])
  assert (args.prompt, args.response) == ('a\nb', r'c\n')


@pytest.mark.parametrize('flag', ['--temperature=nan', '--top_p=nan'])
def test_numbers_that_are_not_finite_are_refused(flag, capsys):
  with pytest.raises(SystemExit):
    sample.parse(['run', flag])
  assert '--temperature must be 0 or more' in capsys.readouterr().err


class Policy:
  """A policy that answers with its name and its arguments."""

  is_reward_model = False
  config = type('', (), {'model': type('', (), {'max_len': 256})})

  def __init__(self, path):
    self.name = path.rpartition('/')[2]

  def prompt_tokens(self, prompt):
    return 5

  def generate(self, prompts, n, seed, first, **_):
    (prompt,) = prompts
    return [[f'{self.name} {prompt} {seed}+{first}\n({i})' for i in range(n)]]


@pytest.fixture
def ask(monkeypatch):
  """Returns the lines that a command writes for the policies `a` and `b`."""
  monkeypatch.setattr(loaded, 'load', Policy)
  monkeypatch.setattr(sys.stdin, 'isatty', lambda: False, raising=False)

  def run(*argv, lines=None):
    args = sample.parse([*argv, '--seed=7'])
    said = []
    if args.chat:
      sample.chat(args, SideBySide(args.checkpoints), lines, said.append)
    else:
      prompts = lines or [args.prompt]
      sample.answer(args, SideBySide(args.checkpoints), prompts, said.append)
    return said

  return run


def test_a_warning_names_the_lengths(ask, monkeypatch):
  warned = []
  monkeypatch.setattr(files, 'warn_once', warned.append)
  for most in ('--max_tokens=2000', '--max_tokens=251'):
    ask('x/a', '--prompt=hi', most)
  assert warned == [
    'a: the prompt has 5 tokens and --max_tokens=2000; in training both have '
    'at most 256 together'
  ]


def test_several_checkpoints_answer_side_by_side(ask):
  assert ask('x/a', '--prompt=hi') == ['a hi 7+0\n(0)']
  assert ask('x/a', 'x/policy', '--prompt=hi', '--n=2')[0].split('\n') == [
    'hi',
    '  a       1. a hi 7+0',
    '             (0)',
    '          2. a hi 7+0',
    '             (1)',
    '  policy  1. policy hi 7+0',
    '             (0)',
    '          2. policy hi 7+0',
    '             (1)',
  ]
  (found,) = ask('1/a', '2/a', '--prompt=hi', '--json')
  assert json.loads(found)['answers'] == {
    '1/a': ['a hi 7+0\n(0)'],
    '2/a': ['a hi 7+0\n(0)'],
  }


def test_a_dialogue_has_all_turns_until_an_empty_line(ask):
  said = ask('x/a', 'x/b', '--chat', lines=['1', '2', ' ', '3'])
  first = "a ['1'] 7+0\n(0)"
  assert said[0] == f'a: {first}'
  assert said[2] == f"a: a ['1', {first!r}, '2'] 7+1\n(0)"
  assert said[4] == '--- a new dialogue'
  assert said[5] == "a: a ['3'] 7+3\n(0)"


def test_a_new_seed_each_time_unless_one_is_given(ask, monkeypatch, capsys):
  seeds = []
  for argv in ([], [], ['--seed=3']):
    assert sample.main(['x/a', '--prompt=hi', *argv]) == 0
    found = capsys.readouterr()
    seeds.append(found.out.split()[2].removesuffix('+0'))
    assert (f'--seed={seeds[-1]}' in found.err) == (not argv)
  assert seeds[0] != seeds[1] and seeds[2] == '3'


def test_a_path_that_is_given_twice_is_refused(ask):
  with pytest.raises(ConfigError, match='a path is given twice: x/a, x/../x/a'):
    ask('x/a', 'x/../x/a', '--prompt=hi')


def test_a_backslash_continues_a_prompt(monkeypatch):
  lines = lines_of(monkeypatch, b'a\\\n\\\nb\n\nc\\')
  assert list(lines) == ['a\n\nb', 'c']


def test_output_without_an_encoding_of_a_character(monkeypatch):
  written = io.BytesIO()
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(written, 'ascii'))
  command.setup_output()
  print('é 汉', flush=True)
  assert written.getvalue() == b'\\xe9 \\u6c49\n'
