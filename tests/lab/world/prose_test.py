"""Tests of the pieces of text."""

import numpy as np
import pytest

from instructrl.lab.world import prose
from instructrl.lab.world.facts import is_held_out
from instructrl.lab.world.facts import make_world


@pytest.fixture(scope='module')
def world():
  return make_world(0, 'tiny')


def test_stories_use_the_hero():
  world = make_world(0, 'micro')
  hero = world.kinds['people'][0]
  story = prose.random_story(world, np.random.default_rng(0), hero)
  assert story.count(hero) >= 4
  assert not world.parse(story).claims


def test_exercise_forms(world):
  assert prose.kind_question(world, 'birthplace') == 'Which town is named?'
  assert (
    prose.kind_question(world, 'birthplace', plural=True)
    == 'Which towns are named?'
  )
  assert prose.quiz_item('Who?', 'Mara') == 'Question: Who?\nAnswer: Mara'
  # An open item ends where the answer's token, its space included, begins.
  assert prose.quiz_item('Who?', '') == 'Question: Who?\nAnswer:'
  assert prose.reading_item('A.', ('Who?', 'Mara'), ('Why?', '')) == (
    'Passage: A.\nQuestion: Who?\nAnswer: Mara\nQuestion: Why?\nAnswer:'
  )
  assert prose.parallel_item('English', 'A.', 'Lumo', '') == (
    'English: A.\nLumo:'
  )
  assert prose.instruction_item('Do.', 'Done.') == (
    'Instruction: Do.\nResponse: Done.'
  )


@pytest.mark.parametrize('held_out', [False, True])
def test_held_out_texts_are_disjoint(world, held_out):
  rng = np.random.default_rng(0)
  for _ in range(30):
    passage, _ = prose.random_passage(world, rng, held_out=held_out)
    sentence = prose.random_sentence(world, rng, held_out=held_out)
    assert is_held_out(passage) == held_out
    assert is_held_out(sentence) == held_out


def test_shares_are_kept():
  rng = np.random.default_rng(0)
  drawn = [
    prose.pick_by_share(rng, {'a': 1.0, 'b': 2.0, 'c': 5.0})
    for _ in range(8000)
  ]
  counts = [drawn.count(name) / 1000 for name in 'abc']
  np.testing.assert_allclose(counts, [1, 2, 5], atol=0.15)
