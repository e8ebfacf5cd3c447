"""The texts that `instructrl.sample` reads and writes."""

import io
import sys

import pytest

import instructrl
from instructrl import sample
from instructrl.runtime import command
from instructrl.runtime import files


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


def test_a_warning_names_the_lengths(monkeypatch, capsys):
  class Run:
    is_reward_model = False
    config = type('', (), {'model': type('', (), {'max_len': 256})})
    tok = type('', (), {'prompt': staticmethod(lambda text: [1] * 5)})
    generate = staticmethod(lambda prompts, **_: [['x']])

  monkeypatch.setattr(instructrl, 'load', lambda path: Run, raising=False)
  said = []
  for most in ('--max_tokens=2000', '--max_tokens=251'):
    args = sample.parse(['run', '--prompt=hi', most])
    sample.answer(args, ['hi'], said.append)
  assert said == ['x', 'x']
  assert capsys.readouterr().err == (
    'warning: the prompt has 5 tokens and --max_tokens=2000; in training both '
    'have at most 256 together\n'
  )


def test_output_without_an_encoding_of_a_character(monkeypatch):
  written = io.BytesIO()
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(written, 'ascii'))
  command.setup_output()
  print('é 汉', flush=True)
  assert written.getvalue() == b'\\xe9 \\u6c49\n'
