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
  assert counts == (16, 8, 6)


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
