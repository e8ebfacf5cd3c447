"""Each text is encoded once, also if the process is killed between."""

import pytest

from instructrl.data.curate import remembering
from instructrl.data.curate.remembering import Remembering
from tests.data import toys


class Tok:
  """Counts what it encodes; a token a character."""

  fingerprint, eos_id = 'f' * 64, 2

  def __init__(self):
    self.seen = []

  def _ids(self, kind, *texts):
    self.seen.append((kind, *texts))
    return [70_000, *map(ord, ''.join(texts))]

  def prompt(self, text, turns=()):
    return self._ids('prompt', text, *turns)

  def response(self, text):
    return self._ids('response', text)

  def document(self, text):
    return self._ids('document', text)

  def prompts(self, asked):
    return [self.prompt(*one) for one in asked]

  def responses(self, texts):
    return list(map(self.response, texts))

  def documents(self, texts):
    return list(map(self.document, texts))


@pytest.fixture(name='tok')
def _tok(tmp_path):
  return Remembering(Tok(), tmp_path)


def test_a_text_is_laid_out_once_and_as_it_was(tok):
  for _ in range(2):
    assert tok.prompt('a') == [70_000, ord('a')]
    assert tok.response('a') == tok.document('a') == tok.prompt('a')
    assert tok.prompt('a', ('x', 'a', 'z')) == [70_000, *map(ord, 'axaz')]
    assert tok.response('') == [70_000] and tok.eos_id == 2
  assert len(tok.seen) == 5
  tok.prompt('a').append(3)  # what is returned is the caller's
  assert tok.prompt('a') == [70_000, ord('a')]


def test_texts_of_records_are_learned_together(tok):
  rows = [toys.ranked('p', ('r', 's')), toys.shown('p', 'r'), toys.page('d')]
  assert list(tok.learn([*rows, toys.prompt('q'), toys.ranked('p')])) == [5]
  learned = [*tok.seen]
  assert sorted(learned) == [
    ('document', 'd'),
    ('prompt', 'p'),
    ('prompt', 'q'),
    *(('response', text) for text in 'abrs'),
  ]
  assert tok.prompt('q') == [70_000, ord('q')] and tok.seen == learned


def test_blocks_that_share_texts_encode_them_once(tok, monkeypatch):
  """Also a text that the block before has, which is still being encoded."""
  monkeypatch.setattr(remembering, '_BLOCK', 2)
  rows = [toys.shown(f'p{i // 2}', f'r{i // 3}') for i in range(7)]
  assert list(tok.learn(iter(rows))) == [2, 4, 6, 7]
  assert len(tok.seen) == len({*tok.seen}) == 4 + 3
  assert tok.response('r2') == [70_000, *map(ord, 'r2')]


def test_what_was_encoded_before_an_error_is_kept(tok, monkeypatch):
  monkeypatch.setattr(remembering, '_BLOCK', 1)

  def responses(texts):
    if texts == ['bad']:
      raise ValueError('a lone surrogate')
    return list(map(tok._tok.response, texts))

  tok._tok.responses = responses
  done = tok.learn([toys.shown('p', 'a'), toys.shown('p', 'bad')])
  assert next(done) == 1
  with pytest.raises(ValueError, match='surrogate'):
    next(done)
  seen = [*tok.seen]
  assert tok.response('a') == [70_000, ord('a')] and tok.seen == seen


@pytest.mark.parametrize('cut', [0, 1, 3, 9, 21, 40])
def test_a_later_start_encodes_what_is_not_whole(tmp_path, cut):
  first = Remembering(Tok(), tmp_path)
  texts = ['one', 'two', '', 'three']
  for text in texts:
    first.response(text)
  data = first.path.read_bytes()
  first.path.write_bytes(data[: len(data) - cut])
  again = Remembering(Tok(), tmp_path)
  assert [again.response(text) for text in texts] == [
    [70_000, *map(ord, text)] for text in texts
  ]
  assert bool(again.seen) == bool(cut) and len(again.seen) < 4
  assert again.path.read_bytes() == data
  again.forget()
  assert not list(tmp_path.iterdir())


def test_another_tokenizer_has_another_file(tmp_path):
  Remembering(Tok(), tmp_path).response('a')
  other = Tok()
  other.fingerprint = 'e' * 64
  other.response = lambda text: [1]
  assert Remembering(other, tmp_path).response('a') == [1]


def test_a_link_in_the_place_of_the_file_is_refused(tmp_path):
  path = tmp_path / f'tokens.{"f" * 16}.partial'
  path.symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(ValueError, match='link'):
    Remembering(Tok(), tmp_path)
  assert not (tmp_path / 'elsewhere').exists()
