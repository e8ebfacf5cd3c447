"""Public tasks with instructions."""

import pytest

from instructrl.lab import probes
from instructrl.lab import public_tasks
from instructrl.lab.world.facts import is_held_out
from instructrl.lab.world.facts import make_world


@pytest.fixture(scope='module', name='world')
def fixture_world():
  return make_world(5, 'micro')


def test_examples_depend_on_their_number_alone(world):
  some = public_tasks.generate(world, 40, 3)
  assert public_tasks.generate(world, 20, 3) == some[:20]
  assert public_tasks.generate(world, 20, 4) != some[:20]
  assert len({d.prompt.id for d in some}) == 40
  assert [d.prompt.user for d in some[:8]] == list(public_tasks.MAKERS)
  validation = [d for d in some if d.prompt.split == 'validation']
  assert len(validation) == 40 // public_tasks.VALIDATION_PERIOD


def test_answers_are_those_of_the_texts(world):
  """Facts are true, and what a summary says is in the story."""
  true = {
    (question.format(s=subject), value)
    for (subject, name), value in world.facts.items()
    for question in world.relation[name].questions
  }
  for d in public_tasks.generate(world, 160, 0):
    text = d.prompt.text
    assert d.response and '{' not in text
    if d.prompt.user == 'facts':
      assert any(asked in text and d.response == v for asked, v in true)
    elif d.prompt.user == 'summary':
      giver, _, rest = d.response.removesuffix('.').partition(' gives ')
      assert f'{giver} gives {rest.partition(" in ")[0]}.' in text
    elif d.prompt.user == 'sentiment':
      assert d.response in ('positive', 'negative')
    elif d.prompt.user == 'entailment':
      assert d.response in ('yes', 'no')


def test_no_text_is_that_of_a_probe(world):
  found = probes.make_probes(world, 0, 40)
  # A text of two people's coins may be the beginning of one of three.
  found.pop('arithmetic')
  texts = {p.meta.get('passage', '') for part in found.values() for p in part}
  reserved = {text for text in texts if text and is_held_out(text)}
  assert reserved
  for d in public_tasks.generate(world, 400, 0):
    assert not any(text in d.prompt.text for text in reserved)
