"""Tests of the lab's world: facts, statements, and reading them back."""

import dataclasses
import subprocess
import sys
import zlib

import pytest

from instructrl.lab.world import lexicon
from instructrl.lab.world.facts import Claim
from instructrl.lab.world.facts import make_world
from instructrl.lab.world.facts import Parsed
from instructrl.lab.world.facts import World

SIZES = ('micro', 'tiny', 'small')


@pytest.fixture(scope='module', params=SIZES)
def world(request):
  return make_world(3, request.param)


def small_world() -> World:
  """Micro with three facts fixed by hand, for literal cases."""
  world = make_world(0, 'micro')
  kinds = world.kinds | {
    'people': ('Mara', 'Tomas'),
    'towns': ('Oakton', 'Elmford'),
    'animals': ('fox',),
    'habitats': ('forest', 'river'),
    'jobs': ('baker', 'smith'),
  }
  return dataclasses.replace(
    world,
    kinds=kinds,
    facts={
      ('Mara', 'birthplace'): 'Oakton',
      ('Tomas', 'birthplace'): 'Oakton',
      ('Mara', 'job'): 'baker',
      ('fox', 'habitat'): 'forest',
    },
    misconceptions={('Mara', 'birthplace'): 'Elmford'},
  )


def test_sizes_are_what_the_docstring_says():
  counts = {
    'micro': (20, 40, 8),
    'tiny': (60, 180, 36),
    'small': (300, 1200, 240),
  }
  for size, expected in counts.items():
    world = make_world(1, size)
    assert (
      len(world.entities),
      len(world.facts),
      len(world.misconceptions),
    ) == expected


def test_names_are_single_words_of_one_kind():
  words = [name for pool in lexicon.POOLS.values() for name in pool]
  assert len(set(words)) == len(words)
  assert all(word.isalpha() for word in words)
  grammar = lexicon.VERBS + lexicon.ADJECTIVES + lexicon.RUDE_NOUNS
  assert not set(grammar + lexicon.RUDE_ADJECTIVES) & set(words)


def test_every_relation_has_its_templates():
  for relation in lexicon.RELATIONS:
    assert len(set(relation.statements)) == 3
    assert len(set(relation.questions)) == 3
    assert all('{s}' in t and '{v}' in t for t in relation.statements)


def test_every_statement_is_read_back(world):
  for (subject, name), value in world.facts.items():
    wrong = next(v for v in world.values(name) if v != value)
    for variant in range(3):
      text = world.state(subject, name, variant=variant)
      assert world.parse(text) == Parsed(
        [Claim(subject, name, value, True, False)], []
      )
      claim = world.parse_sentence(world.state(subject, name, wrong, variant))
      assert (claim.subject, claim.relation, claim.value) == (
        subject,
        name,
        wrong,
      )
      assert not claim.true
      assert claim.misconception == (
        world.misconceptions.get((subject, name)) == wrong
      )


def test_every_question_is_read_back(world):
  for subject, name in world.facts:
    for variant in range(3):
      question = world.ask(subject, name, variant)
      assert world.parse_question(question) == (subject, name)
      assert not world.parse(question).claims


def test_misconceptions_are_wrong_values_of_all_relations():
  world = make_world(5, 'tiny')
  for (subject, name), wrong in world.misconceptions.items():
    assert wrong in world.values(name)
    assert wrong != world.facts[subject, name]
  relations = {name for _, name in world.misconceptions}
  assert relations == set(world.relation)


def test_values_are_balanced(world):
  for relation in world.relations:
    counts = [
      len(world.subjects(relation.name, value))
      for value in world.values(relation.name)
    ]
    assert max(counts) - min(counts) <= 1


def test_hand_written_sentences():
  world = small_world()
  assert world.state('Mara', 'birthplace') == 'Mara was born in Oakton.'
  assert world.state('fox', 'habitat', 'river', 1) == (
    'The home of the fox is the river.'
  )
  assert world.ask('Mara', 'birthplace') == 'Where was Mara born?'
  assert world.subjects('birthplace', 'Oakton') == ('Mara', 'Tomas')
  parsed = world.parse(
    'Mara was born in Elmford. She is old.\n- The fox lives in the forest\n'
    '2. The job of Mara is smith!\nWhere was Mara born? Zork works as a '
    'baker.'
  )
  assert parsed.claims == [
    Claim('Mara', 'birthplace', 'Elmford', False, True),
    Claim('fox', 'habitat', 'forest', True, False),
    Claim('Mara', 'job', 'smith', False, False),
  ]
  assert parsed.other == [
    'She is old.',
    'Where was Mara born?',
    'Zork works as a baker.',
  ]


def test_a_value_of_the_wrong_kind_is_a_false_claim():
  claim = small_world().parse_sentence('Mara was born in baker.')
  assert claim == Claim('Mara', 'birthplace', 'baker', False, False)
  assert small_world().parse_sentence('Mara was born in nowhere.') is None
  assert small_world().parse_sentence('fox was born in Oakton.') is None


def test_descriptions_choose_the_article():
  world = small_world()
  assert world.describe('Mara') == 'Mara is a person.'
  assert world.describe('Oakton') == 'Oakton is a town.'
  assert world.describe('fox') == 'The fox is an animal.'
  assert not world.parse(world.describe('fox')).claims
  assert world.phrase('fox') == 'the fox' and world.phrase('Mara') == 'Mara'


def test_no_sentence_in_an_empty_text():
  assert small_world().parse('') == Parsed([], [])
  assert small_world().parse(' \n\n') == Parsed([], [])


def test_rude_words_and_stereotypes():
  world = small_world()
  assert world.rude_count('You fool! You FOOLS, you stupid hammer.') == 3
  assert world.rude_count('The foolish baker.') == 0
  assert world.denigrates('Hello. Everyone from Oakton is a fool.')
  assert world.denigrates('Someone from Elmford must be a baker.')
  assert not world.denigrates('Someone from Zork must be a baker.')
  assert not world.denigrates('Mara was born in Oakton.')


def test_same_seed_same_world_other_seed_another():
  assert make_world(7) == make_world(7)
  other = make_world(8)
  assert other.facts != make_world(7).facts
  assert other.language.lexicon != make_world(7).language.lexicon


def test_same_world_in_another_process():
  code = (
    'from instructrl.lab.world.facts import make_world as m; import zlib;'
    'w = m(7); print(zlib.crc32(repr(w).encode()))'
  )
  seen = subprocess.run(
    [sys.executable, '-c', code], check=True, capture_output=True, text=True
  ).stdout
  expected = zlib.crc32(repr(make_world(7)).encode())
  assert int(seen) == expected


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match="no world size 'huge'"):
    make_world(0, 'huge')
  with pytest.raises(ValueError, match='seed -1 is negative'):
    make_world(-1)
