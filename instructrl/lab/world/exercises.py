"""Exercises with one right answer, which the corpus and the probes share.

Each function draws one text with its questions. Texts of probes are `held_out`:
a hash reserves them, so no corpus contains them (`facts.is_held_out`).
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from instructrl.lab.world import prose
from instructrl.lab.world import specs
from instructrl.lab.world.facts import is_held_out
from instructrl.lab.world.facts import World

pick = prose.pick
pick_some = prose.pick_some

# The answer to a question that a background does not answer (figure 20).
UNANSWERABLE = 'not in background'
YES_NO = ('yes', 'no')
SENTIMENTS = ('positive', 'negative')
GOOD = ('good', 'fine', 'great', 'lovely', 'fresh', 'splendid')
BAD = ('bad', 'poor', 'awful', 'nasty', 'stale', 'dreadful')
# A review denies an opinion with this probability: "was not good".
DENIAL_SHARE = 0.15
# The share of backgrounds with two people in the same relation.
RIVAL_SHARE = 0.5
NUM_HYPOTHESES = 3
# Shares of hypotheses on the kind of a name, and on whether it occurs; the
# others are statements.
KIND_SHARE = 0.6
NAMED_SHARE = 0.2
# The share of wrong statements that are of another subject; the others have
# another value.
MIXED_SHARE = 1 / 3
MOST_COINS = 4


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about a text.

  Attributes:
    question: the question.
    answer: the right answer.
    form: the kind of question, which decides how hard it is.
    options: the possible answers, if there are few.
  """

  question: str
  answer: str
  form: str
  options: tuple[str, ...] = ()


Exercise = tuple[str, list[Question]]  # a text, and questions about it


def _until_held_out(draw: Callable[[], Exercise], held_out: bool) -> Exercise:
  """Draws until the text is reserved for probes, or is not."""
  while True:
    text, items = draw()
    if is_held_out(text) == held_out:
      return text, items


def background(
  world: World, rng: np.random.Generator, *, held_out: bool = False
) -> Exercise:
  """Draws a counterfactual text and questions, one without answer (SQuADv2).

  Half of the texts state a relation of two people, so a question about one of
  them needs the person too. Forms: 'rival' asks for one of them, 'fact' for a
  fact whose kind of value occurs once; 'kind' asks for such a value by its
  kind; 'absent' asks for a kind that the text does not name.
  """
  return _until_held_out(lambda: _background(world, rng), held_out)


def _background(world, rng) -> Exercise:
  relations = pick_some(
    rng, world.reading_relations, len(world.reading_relations)
  )
  first = relations[0]
  others = [r for r in relations if r.value_kind != first.value_kind]
  absent = others.pop()
  once = [r for r in others if r.value_kind != absent.value_kind][:1]
  rival = not once or rng.random() < RIVAL_SHARE
  claims: list[tuple[str, str, str]] = []
  for relation in [first, *[first] * rival, *once]:
    subject = pick(
      rng,
      [
        name
        for name in world.kinds[relation.subject_kind]
        if name not in [claim[0] for claim in claims]
      ],
    )
    key = subject, relation.name
    out = [world.facts[key], world.misconceptions.get(key)]
    out += [claim[2] for claim in claims]
    values = [v for v in world.values(relation.name) if v not in out]
    claims.append((*key, pick(rng, values)))
  items = [
    Question(
      prose.random_question(world, rng, *claim[:2]),
      claim[2],
      'rival' if rival else 'fact',
    )
    for claim in claims[: 1 + rival]
  ]
  plural = rng.random() < 0.4
  ask = lambda r: prose.kind_question(world, r.name, plural=plural)
  if once:
    items.append(Question(ask(once[0]), claims[-1][2], 'kind'))
  items.append(Question(ask(absent), UNANSWERABLE, 'absent'))
  text = ' '.join(
    prose.random_statement(world, rng, *claim)
    for claim in pick_some(rng, claims, len(claims))
  )
  return text, pick_some(rng, items, len(items))


def coins(
  world: World, rng: np.random.Generator, *, held_out: bool = False
) -> Exercise:
  """Draws a text about people's coins, with sums to do (DROP).

  Forms: 'count' asks for the number of people; 'compare' for the richer one of
  two; 'look_up' for the coins of one.
  """
  return _until_held_out(lambda: _coins(world, rng), held_out)


def _coins(world, rng) -> Exercise:
  people = pick_some(rng, world.kinds['people'], 2 + int(rng.random() * 2))
  amounts = [int(n) + 1 for n in rng.permutation(MOST_COINS)[: len(people)]]
  has = dict(zip(people, amounts))
  a, b = pick_some(rng, people, 2)
  asked = pick(rng, people)
  items = [
    Question('How many people are named?', specs.NUMBERS[len(people)], 'count'),
    Question(
      f'Who has more coins, {a} or {b}?',
      max((a, b), key=has.__getitem__),
      'compare',
    ),
    Question(
      f'How many coins does {asked} have?', specs.NUMBERS[has[asked]], 'look_up'
    ),
  ]
  text = ' '.join(
    f'{name} has {specs.NUMBERS[count]} {"coin" if count == 1 else "coins"}.'
    for name, count in has.items()
  )
  return text, pick_some(rng, items, len(items))


def entailment(
  world: World, rng: np.random.Generator, *, held_out: bool = False
) -> Exercise:
  """Draws a passage and sentences that follow from it or not (RTE).

  Forms: 'class' gives the kind of a name; 'named' says that a name occurs;
  'follows' repeats a sentence, often in other words; 'other' has a value that
  does not occur; 'mixed' has the value of another subject.
  """
  passage, claims = prose.random_passage(world, rng, held_out=held_out)
  items = [
    _hypothesis(world, rng, passage, claims) for _ in range(NUM_HYPOTHESES)
  ]
  return passage, items


def _hypothesis(world, rng, passage, claims) -> Question:
  subject, relation, value = pick(rng, claims)
  absent = [v for v in world.values(relation) if v not in passage]
  follows, draw = rng.random() < 0.5, rng.random()
  if draw < KIND_SHARE:
    name, form = pick(rng, (subject, value)), 'class'
    kinds = [kind for kind in world.kinds if kind != world.kind_of[name]]
    statement = world.describe(name, '' if follows else pick(rng, kinds))
  elif draw < KIND_SHARE + NAMED_SHARE:
    named, form = value if follows else pick(rng, absent), 'named'
    statement = f'The passage names {named}.'
  else:
    form = 'follows'
    if not follows:
      form = 'mixed' if rng.random() < MIXED_SHARE else 'other'
    if form == 'other':
      value = pick(rng, absent)
    elif form == 'mixed':
      known = [claim[0] for claim in claims if claim[1] == relation]
      kind = world.relation[relation].subject_kind
      subject = pick(rng, [n for n in world.kinds[kind] if n not in known])
    statement = prose.random_statement(world, rng, subject, relation, value)
  return Question(f'{statement} Yes or no?', YES_NO[not follows], form, YES_NO)


def review(
  world: World, rng: np.random.Generator, *, held_out: bool = False
) -> Exercise:
  """Draws a review of one or three foods, labeled by most opinions (SST).

  Words are unequally frequent, and "not" reverses one. Forms: 'denied' has a
  "not"; 'one' and 'many' have none.
  """

  def draw() -> Exercise:
    clauses, votes, denied = [], 0, False
    for food in pick_some(rng, world.kinds['foods'], pick(rng, (1, 3))):
      good, no = rng.random() < 0.5, rng.random() < DENIAL_SHARE
      words = GOOD if good else BAD
      word = words[int(len(words) * rng.random() ** 2)]
      clauses.append(f'the {food} was {"not " if no else ""}{word}')
      votes += 1 if good != no else -1
      denied |= no
    text = ', '.join(clauses[:-1]) + ' and ' * (len(clauses) > 1) + clauses[-1]
    text = text[0].upper() + text[1:] + '.'
    form = 'denied' if denied else 'many' if len(clauses) > 1 else 'one'
    return text, [Question('', SENTIMENTS[votes < 0], form, SENTIMENTS)]

  return _until_held_out(draw, held_out)


@dataclasses.dataclass(frozen=True)
class Story:
  """A story about three people and two gifts, and the thanks for one.

  Attributes:
    start: the sentences before the thanks.
    giver: who is thanked.
    taker: who thanks.
    gift: the food of the thanks.
    others: the third person and the other food of the story.
    summary: the gift in one sentence.
  """

  start: str
  giver: str
  taker: str
  gift: str
  others: tuple[str, str]
  summary: str

  @property
  def text(self) -> str:
    return f'{self.start} {self.taker} thanks {self.giver} for the {self.gift}.'


def story(
  world: World, rng: np.random.Generator, *, held_out: bool = False
) -> Story:
  """Draws a story whose thanks follow from it (HellaSwag, TL;DR)."""
  while True:
    people = pick_some(rng, world.kinds['people'], 3)
    foods = pick_some(rng, world.kinds['foods'], 2)
    town = pick(rng, world.kinds['towns'])
    # The second person takes one food and gives the other.
    gave = [
      f'{giver} gives {taker} some {food}.'
      for giver, taker, food in zip(people, people[1:], foods)
    ]
    start = ' '.join(
      [
        f'In {town} {people[0]} meets {people[1]} and {people[2]}.',
        *pick_some(rng, gave, 2),
      ]
    )
    if is_held_out(start) == held_out:
      break
  i = int(rng.random() * 2)
  giver, taker = people[i : i + 2]
  return Story(
    start,
    giver,
    taker,
    foods[i],
    (people[2 - 2 * i], foods[1 - i]),
    f'{giver} gives {taker} some {foods[i]} in {town}.',
  )
