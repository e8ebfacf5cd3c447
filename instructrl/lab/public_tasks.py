"""A mixture of public tasks with instructions, like FLAN and T0 (section 3.5).

The tasks are those of the alignment tax and questions about facts, with other
texts than the probes. Each has several instructions, and answers are a few
words. No person wrote an answer: they are a data set's labels.
"""

from collections.abc import Callable
import zlib

import numpy as np

from instructrl.data.records import Demonstration, Prompt
from instructrl.lab.world import exercises
from instructrl.lab.world import prose
from instructrl.lab.world.facts import World

LABELER = 'public'
# Every VALIDATION_PERIOD-th example is for validation.
VALIDATION_PERIOD = 32

# Task -> its instructions; '{}' is the text.
INSTRUCTIONS = {
  'reading': (
    '{}',
    'Answer from the background. {}',
    '{} If the background does not say, answer: not in background.',
  ),
  'arithmetic': ('{}', 'Read and answer. {}', '{} Answer in a word.'),
  'entailment': ('{}', 'Read the passage and answer. {}', 'Is it so? {}'),
  'sentiment': (
    'Is this positive or negative? {}',
    'Label the text as positive or negative. {}',
    '{} Is the text positive or negative?',
  ),
  'completion': ('Finish the story. {}', 'Continue. {}', '{} What is next?'),
  'translation': (
    '{}',
    'Translate. {}',
    'Write this in the other language. {}',
  ),
  'summary': ('{} TL;DR:', 'Summarize the story. {}', '{} In short:'),
  'facts': ('{}', 'Answer the question. {}', '{} Answer in a word.'),
}

Example = tuple[str, str]  # text, answer


def generate(world: World, count: int, seed: int) -> list[Demonstration]:
  """Returns examples of all tasks in turn; example i depends on i alone."""
  makers = list(MAKERS.items())
  found = []
  for i in range(count):
    rng = np.random.default_rng([seed, zlib.crc32(b'public tasks'), i])
    task, make = makers[i % len(makers)]
    text, answer = make(world, rng)
    instruction = prose.pick(rng, INSTRUCTIONS[task])
    validation = i % VALIDATION_PERIOD == VALIDATION_PERIOD - 1
    prompt = Prompt(
      id=f'public-{world.size}-{world.seed}-{seed}-{i}',
      text=instruction.format(text),
      user=task,
      use_case='classification' if task in _CLASSES else 'closed_qa',
      split='validation' if validation else 'train',
    )
    found.append(Demonstration(prompt, answer, LABELER))
  return found


_CLASSES = ('entailment', 'sentiment')


def _question(
  draw: Callable,
) -> Callable[[World, np.random.Generator], Example]:
  """Returns a maker of one question about a text."""

  def make(world, rng):
    text, items = draw(world, rng)
    item = prose.pick(rng, items)
    return f'{text} {item.question}'.strip(), item.answer

  return make


def _completion(world, rng) -> Example:
  story = exercises.story(world, rng)
  return (
    story.start,
    f'{story.taker} thanks {story.giver} for the {story.gift}.',
  )


def _translation(world, rng) -> Example:
  english = prose.random_sentence(world, rng, held_out=False)
  foreign = world.language.translate(english)
  if rng.random() < 0.5:
    return f'{world.language.name}: {foreign} English:', english
  return f'English: {english} {world.language.name}:', foreign


def _summary(world, rng) -> Example:
  story = exercises.story(world, rng)
  return story.text, story.summary


def _facts(world, rng) -> Example:
  subject, relation = prose.pick(rng, tuple(world.facts))
  question = prose.random_question(world, rng, subject, relation)
  return question, world.facts[subject, relation]


MAKERS = {
  'reading': _question(exercises.background),
  'arithmetic': _question(exercises.coins),
  'entailment': _question(exercises.entailment),
  'sentiment': _question(exercises.review),
  'completion': _completion,
  'translation': _translation,
  'summary': _summary,
  'facts': _facts,
}
