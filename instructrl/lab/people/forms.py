"""Prompts that are no instruction: few-shot examples, and texts to continue.

Tasks come as an instruction, as examples, or as the beginning of a text (Ouyang
et al. 2022, section 3.3). Prompts to GPT-3 are mostly of the latter two.
"""

from collections.abc import Callable

from instructrl.lab.world import lexicon
from instructrl.lab.world import prose
from instructrl.lab.world.facts import SUBJECT_KINDS
from instructrl.lab.world.specs import Spec

pick = prose.pick
pick_some = prose.pick_some

Written = tuple[str, Spec]


def _quiz(world, rng) -> Written:
  shot, key = pick_some(rng, tuple(world.facts), 2)
  items = [
    prose.quiz_item(
      prose.random_question(world, rng, *shot), world.facts[shot]
    ),
    prose.quiz_item(prose.random_question(world, rng, *key), ''),
  ]
  return '\n'.join(items), Spec('question', dict(zip(_FACT, key)))


def _words(world, rng) -> Written:
  *shots, noun = pick_some(rng, world.language.nouns, 4)
  items = [f'{shot}: {world.language.lexicon[shot]}' for shot in shots]
  return '\n'.join([*items, f'{noun}:']), Spec('word', {'noun': noun})


def _classes(world, rng) -> Written:
  kinds = pick_some(rng, SUBJECT_KINDS, 2)
  options = [lexicon.SINGULAR[kind] for kind in kinds]
  names = [pick(rng, world.kinds[kind]) for kind in kinds]
  asked = pick(rng, (0, 1))
  name = pick(rng, [n for n in world.kinds[kinds[asked]] if n not in names])
  items = [f'{n}: {option}' for n, option in zip(names, options)]
  return '\n'.join([*items, f'{name}:']), Spec(
    'kind_of', {'subject': name, 'label': options[asked], 'options': options}
  )


def _lists(world, rng) -> Written:
  kinds = [k for k, names in world.kinds.items() if len(names) > 2]
  shot, kind = pick_some(rng, kinds, 2)
  names = ', '.join(pick_some(rng, world.kinds[shot], 2))
  text = f'{shot.capitalize()}: {names}.\n{kind.capitalize()}:'
  return text, Spec('list', {'kind': kind, 'count': 2})


def _begun_text(world, rng) -> Written:
  subject = pick(rng, world.entities)
  relation = pick(rng, world.relations_of(subject)).name
  text = prose.random_statement(world, rng, subject, relation)
  return text, Spec('about', {'subject': subject, 'given': relation})


def _begun_statement(world, rng) -> Written:
  """Breaks a statement off before its value."""
  while True:
    key = pick(rng, tuple(world.facts))
    template = pick(rng, world.relation[key[1]].statements)
    start, _, rest = template.partition('{v}')
    if '{s}' in start and rest == '.':
      text = start.format(s=key[0]).rstrip()
      return text, Spec('question', dict(zip(_FACT, key)))


_FACT = ('subject', 'relation')
# Use case -> form -> writers.
WRITERS: dict[str, dict[str, tuple[Callable, ...]]] = {
  'generation': {'continuation': (_begun_text,)},
  'open_qa': {'few_shot': (_quiz, _words), 'continuation': (_begun_statement,)},
  'brainstorming': {'few_shot': (_lists,)},
  'classification': {'few_shot': (_classes,)},
}


def write(world, rng, use_case: str, form: str) -> Written | None:
  """Writes a prompt of a form; None if the use case has no such prompt."""
  writers = WRITERS.get(use_case, {}).get(form)
  return pick(rng, writers)(world, rng) if writers else None
