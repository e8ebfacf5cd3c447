"""Rates of generalization and of simple mistakes, for known answerers."""

import numpy as np
import pytest

from instructrl.evaluators import generalization
from instructrl.lab.people import generalization as prompts_lib
from instructrl.lab.people import solver
from instructrl.lab.people.writer import Habits
from instructrl.lab.world import specs
from instructrl.lab.world.facts import is_held_out
from instructrl.lab.world.facts import make_world

COUNT = 12


@pytest.fixture(scope='module')
def world():
  return make_world(0, 'tiny')


@pytest.fixture(scope='module')
def sets(world):
  return prompts_lib.make_sets(world, 0, COUNT)


def measured(world, sets, write):
  responses = {name: [write(p) for p in found] for name, found in sets.items()}
  found = generalization.measure(world, sets, responses)
  return {path: measure.value for path, measure in found.items()}


def test_sets_are_a_function_of_the_seed(world, sets):
  assert prompts_lib.make_sets(world, 0, COUNT) == sets
  assert prompts_lib.make_sets(world, 1, COUNT) != sets
  assert {len(found) for found in sets.values()} == {COUNT}
  ids = [prompt.id for found in sets.values() for prompt in found]
  assert len(set(ids)) == len(ids)


@pytest.mark.parametrize('size', ['micro', 'small'])
def test_every_size_has_all_sets(size):
  assert len(prompts_lib.make_sets(make_world(0, size), 0, 20)) == 8


def test_many_requests_are_reserved_from_the_corpus(sets):
  for name, task in (('code', 'repeat'), ('second_language', 'copy')):
    found = [specs.parse_spec(prompt.spec) for prompt in sets[name]]
    reserved = [spec.to_json() for spec in found if spec.task == task]
    assert len(reserved) >= COUNT / 4
    assert all(map(is_held_out, reserved))


def test_premises_are_wrong_and_about_the_question_beside_them(world, sets):
  for question, premise in zip(sets['question'], sets['false_premise']):
    args = specs.parse_spec(premise.spec).args
    assert args == specs.parse_spec(question.spec).args
    key = args['subject'], args['relation']
    assert args['premise'] not in (world.facts[key], *world.misconceptions)
    assert args['premise'] in premise.text
    assert args['premise'] not in question.text


def test_constraints_are_added_to_the_same_request(sets):
  for row in zip(*(sets[f'constraints_{n}'] for n in (1, 2, 3))):
    found = [specs.parse_spec(prompt.spec) for prompt in row]
    assert [len(spec.constraints) for spec in found] == [1, 2, 3]
    assert len({spec.args['subject'] for spec in found}) == 1
    assert found[2].constraints[:2] == found[1].constraints


def test_a_perfect_writer_makes_no_mistake(world, sets):
  rng = np.random.default_rng(0)
  found = measured(world, sets, lambda p: solver.solve(world, p, rng))
  ones = {
    'second_language/followed',
    'second_language/in_language',
    'code/followed',
    'question/right',
    'false_premise/right',
    *(f'constraints_{n}/kept' for n in (1, 2, 3)),
    *(f'constraints_{n}/all_kept' for n in (1, 2, 3)),
  }
  assert found == {path: float(path in ones) for path in found}


def test_a_writer_who_does_as_asked_is_rude(world, sets):
  rng, habits = np.random.default_rng(0), Habits(comply=1.0)
  found = measured(world, sets, lambda p: solver.solve(world, p, rng, habits))
  assert found['harmful/obeyed'] == 1


def test_who_repeats_the_prompt_accepts_premises(world, sets):
  found = measured(world, sets, lambda p: p.text)
  assert found['false_premise/accepted'] == 1
  assert found['false_premise/right'] == found['question/right'] == 0
  assert found['second_language/followed'] == found['code/followed'] == 0


def test_hedges_are_no_value_or_several(world, sets):
  found = measured(world, sets, lambda p: 'I do not know.')
  assert found['question/hedged'] == 1

  def several(prompt):
    relation = specs.parse_spec(prompt.spec).args.get('relation')
    return ', '.join(world.values(relation)[:2]) if relation else ''

  assert measured(world, sets, several)['question/hedged'] == 1


def test_changes_are_of_the_same_items(world, sets):
  """One constraint is always kept; of three, only that there is a sentence."""

  def write(prompt):
    spec = specs.parse_spec(prompt.spec)
    if spec.task == 'question':
      return (
        ''
        if 'why' in prompt.text
        else world.state(spec.args['subject'], spec.args['relation'])
      )
    rng = np.random.default_rng(0)
    if len(spec.constraints) == 3:
      return ''
    return solver.answer(world, spec, rng)

  found = measured(world, sets, write)
  assert found['false_premise/right_change'] == -1
  assert found['constraints_2/kept_change'] == 0
  assert found['constraints_3/kept_change'] == -1
  assert found['constraints_3/all_kept_change'] == -1


def test_intervals_are_over_facts(world, sets):
  responses = {name: [p.text for p in found] for name, found in sets.items()}
  found = generalization.measure(world, sets, responses)
  facts = {
    (s.args['subject'], s.args['relation'])
    for s in (specs.parse_spec(p.spec) for p in sets['question'])
  }
  assert len(found['question/right'].drawn) == len(facts)
