r"""Paths with ~ and texts with \n are read in one way everywhere."""

import os
import pathlib

import pytest

from instructrl.runtime import typed


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert typed.path('~') == tmp_path
  assert typed.path('~/a/b') == tmp_path / 'a' / 'b'
  assert typed.path(pathlib.Path('~/a')) == tmp_path / 'a'
  assert typed.path('a/~/b') == pathlib.Path('a/~/b')


def test_a_home_of_nobody_is_refused_unless_the_file_exists(
  monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match='no home folder ~no-such-user; .* ./~n'):
    typed.path('~no-such-user/a')
  (tmp_path / '~no-such-user').touch()
  assert typed.path('~no-such-user') == pathlib.Path('~no-such-user')


def test_a_path_that_is_not_utf8_is_refused(monkeypatch, tmp_path):
  with pytest.raises(ValueError, match=r"caf\\udce9' is not .*: rename it"):
    typed.path(os.fsdecode(b'/a/caf\xe9'))
  monkeypatch.setattr(typed.sys, 'getfilesystemencoding', lambda: 'ascii')
  with pytest.raises(ValueError, match='reads names as ascii: set PYTHONUTF8'):
    typed.path(os.fsdecode(b'/a/caf\xe9'))


@pytest.mark.parametrize(
  'given, read',
  [
    (r'Human: {prompt}\n\nAssistant:', 'Human: {prompt}\n\nAssistant:'),
    (r'a\tb', 'a\tb'),
    (r'\\n', r'\n'),
    (r'\\\n', '\\\n'),
    (r'\d\q', r'\d\q'),
    ('a\nb', 'a\nb'),
    ('\\', '\\'),
    ('\udcc3\udca9 \u00e9', '\u00e9 \u00e9'),  # as the C locale reads it
    ('\udcff', '\udcff'),
  ],
)
def test_escapes_of_a_shell(given, read):
  assert typed.text(given) == read
