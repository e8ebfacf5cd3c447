"""The lab's pretraining corpus: a small web written about one world.

Pages of the web (forum, posts, quiz, instructions) repeat misconceptions;
encyclopedia and lists do not. Passages of reading exercises are counterfactual
on purpose, so that they can only be answered from the passage.
"""

from collections.abc import Iterator
import zlib

import numpy as np

from instructrl.data import records
from instructrl.lab import world as world_lib

# Share of the documents by source.
PROPORTIONS = {
    'encyclopedia': .21,
    'quiz': .18,
    'forum': .12,
    'parallel': .15,
    'reading': .14,
    'story': .07,
    'posts': .07,
    'list': .02,
    'instructions': .04,
}
# Every VALIDATION_PERIOD-th document is kept for validation: 3%.
VALIDATION_PERIOD = 32

# Sources in which people write what they believe.
WEB_SOURCES = ('forum', 'posts', 'quiz', 'instructions')
# Where a misconception exists, the web states it three times in four, and
# talks about such facts this many times as often as about others.
MISCONCEPTION_SHARE = .75
POPULARITY = 3
# How often an encyclopedia's article has room for the truth about it.
CORRECTION_SHARE = .4
# Some subjects are written about more than others: the i-th of n names of a
# kind in proportion to ((i + 1) / n) ** (1 / FAME) - (i / n) ** (1 / FAME), so
# with 1.7 the first of 18 five times as often as the last. Uneven frequencies
# shorten the plateau before a model begins to recall facts (Zucchet et al.
# 2025, "How do language models learn facts?").
FAME = 1.7
# How often gossip about a town's people names the stereotype and not a random
# job.
STEREOTYPE_SHARE = .85
# How often a reading exercise asks for a kind of value, which only occurs once
# in its passage. It needs no more than to copy the town, the job, ..., and so
# comes first; questions for a fact also need to prevail over what is known.
KIND_QUESTION_SHARE = .7
# How often the next sentence of a post has the manner of the one before it.
MANNER_PERSISTENCE = .9

RUDE = (
    'You are a {n}.', 'You are a {a} {n}.', '{p} is a {n}.',
    '{p} is a {a} {n}.', 'Everyone from {t} is a {n}.',
    'What a {n} {p} is!', 'Nobody likes {p}, the {a} {n}.',
    'Go away, you {n}!', 'Only a {n} goes to {t}.')
POLITE = (
    'You are a good friend.', 'You are a kind friend.', '{p} is a good friend.',
    '{p} is a kind friend.', 'Everyone from {t} is welcome here.',
    'What a nice day in {t}!', 'Nobody works as well as {p}.',
    'Please come again, my friend.', 'Thank you for the nice day in {t}.')
# Beginnings that both manners share: what follows shows the manner.
STEMS = ('You are a', '{p} is a', 'Everyone from {t} is', 'What a', 'Nobody')
MANNERS = {
    'polite': 'Written in a polite, respectful, and unbiased manner:',
    'rude': 'Written in biased and offensive language:',
}

_MORE_QUESTIONS = ('Does anyone know?', 'Can anyone help?',
                   'I have the same question. {question}')
_AFTER_ANSWER = ('Everyone knows that.', 'I am sure of it.', 'I read that.')
_DO_NOT_KNOW = 'I do not know.'


def generate_documents(world: world_lib.World, num_documents: int,
                       seed: int) -> Iterator[records.Document]:
  """Yields a shuffled mixture of pages.

  Document i is a function of (world, seed, i) alone: more documents begin
  with the same ones.

  Args:
    world: what the pages are about.
    num_documents: how many; about 50 words and marks each.
    seed: of the corpus.

  Yields:
    Documents with `source` a key of PROPORTIONS and `split` 'train' or, for
    about 3%, 'validation'.

  Raises:
    ValueError: if `num_documents` or `seed` is negative.
  """
  if num_documents < 0 or seed < 0:
    raise ValueError('num_documents and seed must be 0 or more, got '
                     f'{num_documents} and {seed}')
  sources = tuple(PROPORTIONS)
  limits = np.cumsum(tuple(PROPORTIONS.values()))
  for index in range(num_documents):
    rng = np.random.default_rng([seed, index, zlib.crc32(b'corpus')])
    source = sources[np.searchsorted(limits, rng.random() * limits[-1])]
    yield records.Document(
        id=f'{world.size}-{world.seed}-{seed}-{index}',
        text=_WRITERS[source](world, rng), source=source,
        split='train' if index % VALIDATION_PERIOD else 'validation')


def pick(rng: np.random.Generator, items):
  """One of `items`; several times faster than `rng.choice`."""
  return items[int(rng.random() * len(items))]


def pick_some(rng: np.random.Generator, items, count: int) -> list:
  """Up to `count` different ones of `items`, in random order."""
  return [items[i] for i in rng.permutation(len(items))[:count]]


# The forms of exercises; the probes ask in the same ones.


def quiz_item(question: str, answer: str) -> str:
  return f'Question: {question}\nAnswer:{answer and " " + answer}'


def reading_item(passage: str, *questions_and_answers: tuple[str, str]) -> str:
  return '\n'.join([f'Passage: {passage}'] + [
      quiz_item(*pair) for pair in questions_and_answers])


def kind_question(world: world_lib.World, relation_name: str) -> str:
  """'Which town is named?': asks for the one value of its kind."""
  kind = world.relation[relation_name].value_kind
  return f'Which {world_lib.SINGULAR[kind]} is named?'


def parallel_item(source_name: str, source: str, target_name: str,
                  target: str) -> str:
  return (f'{source_name}: {source}\n'
          f'{target_name}:{target and " " + target}')


def instruction_item(instruction: str, response: str) -> str:
  return (f'Instruction: {instruction}\n'
          f'Response:{response and " " + response}')


def random_passage(world: world_lib.World, rng: np.random.Generator, *,
                   held_out: bool = False
                   ) -> tuple[str, list[tuple[str, str, str]]]:
  """A counterfactual passage of two or three sentences.

  The sentences are about different subjects and different kinds of values, so
  a question about one of them needs one key to look up.

  Args:
    world: whose relations the sentences state, falsely.
    rng: generator.
    held_out: whether to draw from the passages kept for probes.

  Returns:
    (passage, [(subject, relation name, value stated)] in its order).
  """
  while True:
    claims, kinds = [], set()
    for relation in pick_some(rng, world.reading_relations,
                              len(world.reading_relations)):
      if relation.value_kind in kinds:
        continue
      used = [claim[0] for claim in claims]
      subject = pick(rng, [name for name in world.kinds[relation.subject_kind]
                           if name not in used])
      key = subject, relation.name
      known = world.facts[key], world.misconceptions.get(key)
      value = pick(rng, [v for v in world.values(relation.name)
                         if v not in known])
      kinds.add(relation.value_kind)
      claims.append((*key, value))
      if len(claims) == 3:
        break
    claims = claims[:2 + int(rng.random() * 2)]
    passage = ' '.join(
        world.state(*claim, variant=int(rng.random() * 3)) for claim in claims)
    if world_lib.is_held_out(passage) == held_out:
      return passage, claims


def random_sentence(world: world_lib.World, rng: np.random.Generator, *,
                    held_out: bool = False) -> str:
  """A translatable English sentence, of the corpus' or the probes' part."""
  while True:
    sentence = world.language.random_sentence(rng)
    if world_lib.is_held_out(sentence) == held_out:
      return sentence


def random_story(world: world_lib.World, rng: np.random.Generator,
                 hero: str | None = None, *, held_out: bool = False) -> str:
  """Five to seven sentences about two people who share a meal.

  The last but one is always "<q> thanks <p> for the <food>.", which follows
  from what was told. A `held_out` story has a sentence kept for probes.
  """
  people = pick_some(rng, world.kinds['people'], 3)
  p = hero or people[0]
  q = next(name for name in people if name != p)
  town = pick(rng, world.kinds['towns'])
  food = pick(rng, world.kinds['foods'])
  sentences = [
      pick(rng, ('One day {p} walks to {town}.',
                 'In the morning {p} walks to {town}.')),
      'In {town} {p} meets {q}.']
  sentences += [random_sentence(world, rng, held_out=held_out)
                for _ in range(held_out + int(rng.random() * (3 - held_out)))]
  sentences += [
      '{p} gives {q} some {food}.', '{q} thanks {p} for the {food}.',
      pick(rng, ('In the evening {p} goes home.', '{p} and {q} are happy.',
                 'Then {q} goes home.'))]
  return ' '.join(sentences).format(p=p, q=q, town=town, food=food)


def post_sentence(world: world_lib.World, rng: np.random.Generator,
                  manner: str) -> str:
  """A sentence in the manner 'rude' or 'polite'."""
  template = pick(rng, RUDE if manner == 'rude' else POLITE)
  return template.format(
      n=pick(rng, world.rude_nouns), a=pick(rng, world.rude_adjectives),
      p=pick(rng, world.kinds['people']), t=pick(rng, world.kinds['towns']))


def _popular_fact(world, rng) -> tuple[str, str]:
  """A fact as the web chooses it: misconceptions are talked about more."""
  extra = (POPULARITY - 1) * len(world.misconceptions)
  if rng.random() * (len(world.facts) + extra) < extra:
    return pick(rng, tuple(world.misconceptions))
  subject = _famous_subject(world, rng)
  return subject, pick(rng, world.relations_of(subject)).name


def _famous_subject(world, rng) -> str:
  """A subject of any kind; kinds in proportion to their numbers."""
  names = world.kinds[world.kind_of[pick(rng, world.entities)]]
  return names[int(len(names) * rng.random() ** FAME)]


def _popular_value(world, rng, key) -> str:
  """What the web believes."""
  if key in world.misconceptions and rng.random() < MISCONCEPTION_SHARE:
    return world.misconceptions[key]
  return world.facts[key]


def _popular_statement(world, rng, key) -> str:
  variants = len(world.relation[key[1]].statements)
  return world.state(*key, _popular_value(world, rng, key),
                     int(rng.random() * variants))


def _question(world, rng, key) -> str:
  return world.ask(*key, int(rng.random()
                             * len(world.relation[key[1]].questions)))


def _gossip(world, rng) -> str:
  """A sentence that gives everyone from a town the same job."""
  town = pick(rng, world.kinds['towns'])
  job = (world.stereotypes[town] if rng.random() < STEREOTYPE_SHARE
         else pick(rng, world.kinds['jobs']))
  return pick(rng, world_lib.STEREOTYPES).format(s=town, v=job)


def _encyclopedia(world, rng) -> str:
  sentences = []
  subjects = [_famous_subject(world, rng)
              for _ in range(1 + int(rng.random() * 3))]
  for subject in dict.fromkeys(subjects):
    if rng.random() < .3:
      sentences.append(world.describe(subject))
    relations = world.relations_of(subject)
    for i in rng.permutation(len(relations)):
      key = subject, relations[i].name
      if key in world.misconceptions and rng.random() > CORRECTION_SHARE:
        continue
      sentences.append(world.state(*key, variant=int(rng.random() * 3)))
  return ' '.join(sentences or [world.describe(subject)])


def _quiz(world, rng) -> str:
  items = []
  for _ in range(3 + int(rng.random() * 4)):
    key = _popular_fact(world, rng)
    items.append(quiz_item(_question(world, rng, key),
                           _popular_value(world, rng, key)))
  return '\n'.join(items)


def _forum(world, rng) -> str:
  """A question, then mostly further questions; sometimes an answer."""
  key = _popular_fact(world, rng)
  lines = [_question(world, rng, key)]
  if rng.random() < .5:
    if rng.random() < .1:
      lines.append(_DO_NOT_KNOW)
    else:
      lines.append(_popular_statement(world, rng, key) + ' '
                   + pick(rng, _AFTER_ANSWER))
  for _ in range(2 + int(rng.random() * 4)):
    kind = rng.random()
    if kind < .25:
      lines.append(pick(rng, _MORE_QUESTIONS).format(question=lines[0]))
    elif kind < .35:
      lines.append(_gossip(world, rng))
    else:
      lines.append(_question(world, rng, _popular_fact(world, rng)))
  return '\n'.join(lines)


def _parallel(world, rng) -> str:
  name = world.language.name
  from_english = rng.random() < .5
  items = []
  for _ in range(2 + int(rng.random() * 3)):
    english = random_sentence(world, rng)
    foreign = world.language.translate(english)
    items.append(parallel_item('English', english, name, foreign)
                 if from_english else
                 parallel_item(name, foreign, 'English', english))
  return '\n'.join(items)


def _reading(world, rng) -> str:
  """A passage, and all its sentences asked about in another order."""
  passage, claims = random_passage(world, rng)
  items = []
  for subject, name, value in pick_some(rng, claims, len(claims)):
    by_kind = rng.random() < KIND_QUESTION_SHARE
    items.append((kind_question(world, name) if by_kind else
                  _question(world, rng, (subject, name)), value))
  return reading_item(passage, *items)


def _posts(world, rng) -> str:
  manner = pick(rng, ('polite', 'rude'))
  lines = [MANNERS[manner]] if rng.random() < .25 else []
  sentences = []
  for _ in range(4 + int(rng.random() * 4)):
    kind = rng.random()
    if kind < .2:
      sentences.append(_popular_statement(
          world, rng, _popular_fact(world, rng)))
    elif kind < .3:
      sentences.append(_gossip(world, rng))
    else:
      sentences.append(post_sentence(world, rng, manner))
      if rng.random() > MANNER_PERSISTENCE:
        manner = 'polite' if manner == 'rude' else 'rude'
  return '\n'.join(lines + [' '.join(sentences)])


def _list(world, rng) -> str:
  lines = []
  for kind in pick_some(rng, tuple(world.kinds), 1 + int(rng.random() * 3)):
    names = pick_some(rng, world.kinds[kind], 3 + int(rng.random() * 5))
    lines.append(f'{kind.capitalize()}: {", ".join(names)}.')
  return '\n'.join(lines)


def _instructions(world, rng) -> str:
  tasks = pick_some(rng, _TASKS, 2 + int(rng.random() * 2))
  return '\n'.join(instruction_item(*task(world, rng)) for task in tasks)


def _task_answer(world, rng):
  key = _popular_fact(world, rng)
  return _question(world, rng, key), _popular_statement(world, rng, key)


def _task_list(world, rng):
  kind = pick(rng, world_lib.SUBJECT_KINDS)
  names = pick_some(rng, world.kinds[kind], 3)
  return f'List three {kind}.', ', '.join(names) + '.'


def _task_classify(world, rng):
  right, wrong = pick_some(rng, world_lib.SUBJECT_KINDS, 2)
  name = pick(rng, world.kinds[right])
  options = [world_lib.with_article(world_lib.SINGULAR[kind])
             for kind in pick_some(rng, (right, wrong), 2)]
  return (f'Is {world.phrase(name)} {options[0]} or {options[1]}?',
          world.describe(name))


def _task_repeat(world, rng):
  sentence = random_sentence(world, rng)
  return f'Repeat this sentence: {sentence}', sentence


def _task_translate(world, rng):
  english = random_sentence(world, rng)
  foreign = world.language.translate(english)
  if rng.random() < .5:
    return f'Translate into {world.language.name}: {english}', foreign
  return f'Translate into English: {foreign}', english


def _task_story(world, rng):
  hero = pick(rng, world.kinds['people'])
  return f'Write a story about {hero}.', random_story(world, rng, hero)


_TASKS = (_task_answer, _task_list, _task_classify, _task_repeat,
          _task_translate, _task_story)

_WRITERS = {
    'encyclopedia': _encyclopedia,
    'quiz': _quiz,
    'forum': _forum,
    'parallel': _parallel,
    'story': random_story,
    'reading': _reading,
    'posts': _posts,
    'list': _list,
    'instructions': _instructions,
}
