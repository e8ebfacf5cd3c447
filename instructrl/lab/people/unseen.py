"""Requests that web pages have and no user: in the second language, and code.

So pretraining covers them, but no demonstration and no ranking does (Ouyang et
al. 2022, section 4.3). See `prompt_writers`.
"""

from instructrl.lab.world import prose
from instructrl.lab.world import specs
from instructrl.lab.world.prose import pick
from instructrl.lab.world.specs import Spec

# Tasks with many requests: a hash of the specification reserves a tenth.
HELD_OUT = ('copy', 'repeat')
_FOREIGN = (specs.Constraint('foreign'),)


def foreign_list(world, rng, say):
  """Writes "Name two animals." in the second language."""
  del say
  words = world.language.requests
  kind, count = pick(rng, ('animals', 'jobs')), pick(rng, (2, 3))
  text = f'{words["name"]} {words[specs.NUMBERS[count]]} {words[kind]}.'
  args = {'kind': kind, 'count': count}
  return text.capitalize(), Spec('list', args, _FOREIGN)


def foreign_write(world, rng, say):
  """Asks for a sentence with a noun, in the second language."""
  del say
  noun = pick(rng, world.language.nouns)
  text = f'{world.language.requests["write"]} {world.language.lexicon[noun]}.'
  return text.capitalize(), Spec('foreign_sentence', {'noun': noun}, _FOREIGN)


def foreign_repeat(world, rng, say):
  """Asks to repeat a sentence, in the second language."""
  del say
  target = world.language.translate(prose.random_sentence(world, rng))
  order = world.language.requests['repeat'].capitalize()
  return f'{order}: {target}', Spec('copy', {'target': target})


def code_repeat(world, rng, say):
  """Writes "repeat(fox, three)", for which the answer is "fox fox fox."."""
  kind = pick(rng, tuple(world.kinds))
  word, count = pick(rng, world.kinds[kind]), 2 + int(rng.random() * 4)
  text = f'repeat({word}, {specs.NUMBERS[count]})'
  return say('code', x=text), Spec('repeat', {'word': word, 'count': count})


def code_list(world, rng, say):
  """Writes "list(animals, two)"; an answer is "fox, hen."."""
  kinds = [kind for kind, names in world.kinds.items() if len(names) > 2]
  kind, count = pick(rng, kinds), pick(rng, (2, 3))
  text = say('code', x=f'list({kind}, {specs.NUMBERS[count]})')
  return text, Spec('list', {'kind': kind, 'count': count})
