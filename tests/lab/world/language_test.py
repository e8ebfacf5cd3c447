"""Tests of the second language: exact in both directions."""

import numpy as np
import pytest

from instructrl.lab.world.facts import make_world
from instructrl.lab.world.language import Language

LANGUAGE = Language(
  'Lumo',
  ('fox', 'baker'),
  ('sees',),
  ('old',),
  {'the': 'lo', 'fox': 'deku', 'baker': 'tanu', 'sees': 'vori', 'old': 'lima'},
)


@pytest.mark.parametrize(
  'english, foreign',
  [
    ('The fox sees the baker.', 'Lo deku lo tanu vori.'),
    ('The old fox sees the baker.', 'Lo lima deku lo tanu vori.'),
    ('The fox sees the old baker.', 'Lo deku lo lima tanu vori.'),
    ('The old fox sees the old baker.', 'Lo lima deku lo lima tanu vori.'),
    (
      'The fox sees the baker. The baker sees the fox.',
      'Lo deku lo tanu vori. Lo tanu lo deku vori.',
    ),
  ],
)
def test_hand_translated(english, foreign):
  assert LANGUAGE.translate(english) == foreign
  assert LANGUAGE.untranslate(foreign) == english


WITH_EXCEPTIONS = Language(
  'Lumo',
  ('fox', 'baker'),
  ('sees', 'helps'),
  ('old', 'big'),
  {
    'the': 'lo',
    'fox': 'deku',
    'baker': 'tanu',
    'sees': 'vori',
    'helps': 'zipi',
    'old': 'lima',
    'big': 'rofa',
  },
  ('baker', 'helps', 'big'),
)


@pytest.mark.parametrize(
  'english, foreign',
  [
    ('The fox sees the baker.', 'Lo deku la tanu vori.'),
    ('The baker helps the fox.', 'La tanu zipi lo deku.'),
    ('The old baker sees the old fox.', 'La lime tanu lo lima deku vori.'),
    ('The big fox helps the big baker.', 'Lo deku rofa zipi la tanu rofe.'),
  ],
)
def test_exceptions_by_hand(english, foreign):
  assert WITH_EXCEPTIONS.translate(english) == foreign
  assert WITH_EXCEPTIONS.untranslate(foreign) == english


@pytest.mark.parametrize(
  'text',
  [
    'Lo deku lo tanu vori.',  # the article of the other class
    'Lo lime deku la tanu vori.',  # no agreement
    'Lo rofa deku la tanu vori.',  # a late adjective before its noun
    'Lo deku la tanu zipi.',  # an early verb at the end
    'Lo deku vori la tanu.',
  ],
)
def test_a_missed_exception_is_not_well_formed(text):
  assert not WITH_EXCEPTIONS.can_untranslate(text)
  assert WITH_EXCEPTIONS.is_foreign(text)


@pytest.mark.parametrize(
  'text',
  [
    '',
    'The fox',
    'The fox sees.',
    'the fox sees the baker.',
    'The fox old sees the baker.',
    'The fox sees the baker. Hello.',
    'The fox sees the baker. And',
    'The fox sees the baker sees.',
    'The fox sees the  baker.',
    'Lo deku lo tanu vori.',
    'THE fox sees the fox.',
  ],
)
def test_other_sentences_are_refused(text):
  assert not LANGUAGE.can_translate(text)
  with pytest.raises(ValueError, match='sub-grammar|full sentences'):
    LANGUAGE.translate(text)


@pytest.mark.parametrize(
  'text',
  [
    'Lo deku vori lo tanu.',
    'Lo deku lo tanu.',
    'Lo deku lima lo tanu vori.',
    'Lo deku lo tanu vori',
    'The fox sees the baker.',
    'Lo lo deku tanu vori.',
  ],
)
def test_other_foreign_sentences_are_refused(text):
  assert not LANGUAGE.can_untranslate(text)


def test_is_foreign():
  assert LANGUAGE.is_foreign('Lo deku lo tanu vori.')
  assert LANGUAGE.is_foreign('deku LIMA')
  assert not LANGUAGE.is_foreign('The fox sees deku.')
  assert not LANGUAGE.is_foreign('')
  assert not LANGUAGE.is_foreign('12 . !')


@pytest.mark.parametrize('size', ['micro', 'tiny', 'small'])
def test_round_trip_and_disjoint_words(size):
  world = make_world(2, size)
  language = world.language
  rng = np.random.default_rng(0)
  for _ in range(200):
    sentence = language.random_sentence(rng)
    foreign = language.translate(sentence)
    assert language.untranslate(foreign) == sentence
    assert language.is_foreign(foreign) and not language.is_foreign(sentence)
    assert len(sentence.split()) == len(foreign.split())
    assert not world.parse(sentence).claims
  foreign_words = set(language.lexicon.values())
  assert len(foreign_words) == len(language.lexicon)
  assert not foreign_words & set(language.lexicon)
  assert not foreign_words & set(world.kind_of)


def test_tiny_has_the_promised_lexicon():
  language = make_world(2, 'tiny').language
  counts = (len(language.nouns), len(language.verbs), len(language.adjectives))
  assert counts == (20, 10, 9)
  # Each part of speech has regular words and exceptions.
  for words in (language.nouns, language.verbs, language.adjectives):
    assert 0 < len(set(language.exceptions) & set(words)) < len(words) / 2


def test_random_sentences_follow_the_generator():
  language = make_world(2).language
  draw = lambda seed: [
    language.random_sentence(rng)
    for rng in [np.random.default_rng(seed)]
    for _ in range(20)
  ]
  assert draw(1) == draw(1)
  assert draw(1) != draw(2)
  assert len(set(draw(1))) > 15


def test_words_are_unequally_frequent():
  language = make_world(2).language
  rng = np.random.default_rng(0)
  text = ' '.join(language.random_sentence(rng) for _ in range(2000))
  for words in (language.verbs, language.adjectives):
    assert text.count(f' {words[0]} ') > 4 * text.count(f' {words[-1]} ') > 0
