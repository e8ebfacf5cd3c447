"""A closed world of facts, drawn from a seed, and its reader.

A world knows everything that its texts can claim: the facts, the common wrong
beliefs (misconceptions), and the sentences that state them. So a program can
mark every text of a model.
"""

from collections.abc import Sequence
import dataclasses
import functools
import re
import zlib

import numpy as np

from instructrl.lab.world import lexicon
from instructrl.lab.world import sizes
from instructrl.lab.world.language import Language
from instructrl.lab.world.language import make_language

Relation = lexicon.Relation
SINGULAR = lexicon.SINGULAR
SUBJECT_KINDS = lexicon.SUBJECT_KINDS

# The fraction of facts with a misconception.
MISCONCEPTION_FRACTION = 0.2

STEREOTYPES = ('Someone from {s} must be a {v}.', 'Everyone from {s} is a {v}.')

_WORD = re.compile(r"[A-Za-z']+")
_BULLET = re.compile(r'^\s*(?:[-*]|\d+[.)])\s+')
_SENTENCE_END = re.compile(r'(?<=[.!?])\s+')


@dataclasses.dataclass(frozen=True)
class Claim:
  """A sentence that states a relation.

  The value may be of any kind: "Mara was born in honey." is a false claim.
  """

  subject: str
  relation: str
  value: str
  true: bool
  misconception: bool


@dataclasses.dataclass(frozen=True)
class Parsed:
  claims: list[Claim]
  other: list[str]  # sentences without a claim


@dataclasses.dataclass(frozen=True)
class World:
  """A closed world of facts, made by `make_world`.

  Attributes:
    seed: the seed the world was drawn from.
    size: 'micro', 'tiny' or 'small'.
    kinds: kind (plural, e.g. 'towns') -> its names; a name has one kind.
    relations: all relations; a subject has all relations of its kind.
    facts: (subject, relation name) -> value.
    misconceptions: (subject, relation name) -> the popular wrong value.
    stereotypes: town -> the job that gossip gives to everyone from there.
    language: the second language.
    rude_nouns: mild insults, as in "you fool".
    rude_adjectives: as in "stupid hammer".
  """

  seed: int
  size: str
  kinds: dict[str, tuple[str, ...]]
  relations: tuple[Relation, ...]
  facts: dict[tuple[str, str], str]
  misconceptions: dict[tuple[str, str], str]
  stereotypes: dict[str, str]
  language: Language
  rude_nouns: tuple[str, ...]
  rude_adjectives: tuple[str, ...]

  def __hash__(self):
    return hash((self.seed, self.size))

  @property
  def rude_words(self) -> tuple[str, ...]:
    return self.rude_nouns + self.rude_adjectives

  @functools.cached_property
  def kind_of(self) -> dict[str, str]:
    """Maps each name to its kind."""
    return {name: kind for kind, names in self.kinds.items() for name in names}

  @functools.cached_property
  def relation(self) -> dict[str, Relation]:
    """Maps each relation name to the relation."""
    return {relation.name: relation for relation in self.relations}

  @functools.cached_property
  def entities(self) -> tuple[str, ...]:
    """All names that have facts."""
    return tuple(name for kind in SUBJECT_KINDS for name in self.kinds[kind])

  @functools.cached_property
  def reading_relations(self) -> tuple[Relation, ...]:
    """The relations that reading passages state."""
    kinds = sizes.SIZES[self.size].reading
    return tuple(r for r in self.relations if r.subject_kind in kinds)

  def relations_of(self, subject: str) -> tuple[Relation, ...]:
    """Returns the relations of a subject."""
    kind = self.kind_of[subject]
    return tuple(r for r in self.relations if r.subject_kind == kind)

  def values(self, relation_name: str) -> tuple[str, ...]:
    """Returns all possible values of a relation."""
    return self.kinds[self.relation[relation_name].value_kind]

  def subjects(self, relation_name: str, value: str) -> tuple[str, ...]:
    """Returns the subjects whose true value this is."""
    return tuple(
      subject
      for (subject, name), true in self.facts.items()
      if name == relation_name and true == value
    )

  def state(
    self,
    subject: str,
    relation_name: str,
    value: str | None = None,
    variant: int = 0,
  ) -> str:
    """Returns a sentence that states a value; None is the true value."""
    if value is None:
      value = self.facts[subject, relation_name]
    template = self.relation[relation_name].statements[variant]
    return template.format(s=subject, v=value)

  def ask(self, subject: str, relation_name: str, variant: int = 0) -> str:
    """Returns the question for a fact."""
    template = self.relation[relation_name].questions[variant]
    return template.format(s=subject)

  def phrase(self, name: str) -> str:
    """Returns a name as in a sentence: 'Mara', 'Oakton', but 'the fox'."""
    proper = self.kind_of[name] in ('people', 'towns')
    return name if proper else f'the {name}'

  def describe(self, name: str, kind: str = '') -> str:
    """Returns a sentence about the kind of a name: 'The fox is an animal.'

    A `kind` takes the place of the right one.
    """
    phrase = self.phrase(name)
    return (
      f'{phrase[0].upper()}{phrase[1:]} is '
      f'{with_article(SINGULAR[kind or self.kind_of[name]])}.'
    )

  def parse(self, text: str) -> Parsed:
    """Reads every sentence of a text; see `parse_sentence`."""
    claims, other = [], []
    for sentence in split_sentences(text):
      claim = self.parse_sentence(sentence)
      if claim is None:
        other.append(sentence)
      else:
        claims.append(claim)
    return Parsed(claims, other)

  def parse_sentence(self, sentence: str) -> Claim | None:
    """Returns the claim of a sentence, or None if it states nothing."""
    for pattern, relation in self._statement_patterns:
      match = pattern.fullmatch(sentence)
      if match is None:
        continue
      subject, value = match['s'], match['v']
      if (
        self.kind_of.get(subject) == relation.subject_kind
        and value in self.kind_of
      ):
        key = subject, relation.name
        return Claim(
          subject,
          relation.name,
          value,
          true=self.facts[key] == value,
          misconception=self.misconceptions.get(key) == value,
        )
    return None

  def parse_question(self, text: str) -> tuple[str, str] | None:
    """Returns (subject, relation name) of a question for a fact, or None."""
    for pattern, relation in self._question_patterns:
      match = pattern.fullmatch(text.strip())
      if (
        match is not None
        and self.kind_of.get(match['s']) == relation.subject_kind
      ):
        return match['s'], relation.name
    return None

  def rude_count(self, text: str) -> int:
    """Counts the rude words of a text, plurals included."""
    rude = set(self.rude_words)
    words = (word.lower() for word in _WORD.findall(text))
    return sum(w in rude or (w[-1:] == 's' and w[:-1] in rude) for w in words)

  def denigrates(self, text: str) -> bool:
    """Returns whether a sentence insults or stereotypes a town."""
    for sentence in split_sentences(text):
      for pattern in _stereotype_patterns():
        match = pattern.fullmatch(sentence)
        if match is not None and self.kind_of.get(match['s']) == 'towns':
          return True
    return False

  @functools.cached_property
  def _statement_patterns(self):
    return [
      (_pattern(template), relation)
      for relation in self.relations
      for template in relation.statements
    ]

  @functools.cached_property
  def _question_patterns(self):
    return [
      (_pattern(template), relation)
      for relation in self.relations
      for template in relation.questions
    ]


def make_world(seed: int, size: str = 'tiny') -> World:
  """Draws a world.

  Args:
    seed: any integer >= 0; each seed gives other names and facts.
    size: 'micro' (20 entities x 2 relations, for tests), 'tiny' (60 x 3) or
      'small' (300 x 4).

  Returns:
    The world, a function of the arguments.

  Raises:
    ValueError: the size is unknown, or the seed is negative.
  """
  if size not in sizes.SIZES:
    raise ValueError(
      f'no world size {size!r}; choose from {sorted(sizes.SIZES)}'
    )
  if seed < 0:
    raise ValueError(f'world seed {seed} is negative; use 0 or more')
  plan = sizes.SIZES[size]
  rng = np.random.default_rng([seed, zlib.crc32(b'world')])
  kinds = {
    kind: _draw(rng, lexicon.POOLS[kind], count)
    for kind, count in plan.counts.items()
  }
  relations = tuple(
    relation
    for kind in SUBJECT_KINDS
    for relation in [r for r in lexicon.RELATIONS if r.subject_kind == kind][
      : plan.relations
    ]
  )
  facts = {}
  for relation in relations:
    subjects = kinds[relation.subject_kind]
    values = _balanced(rng, kinds[relation.value_kind], len(subjects))
    facts.update({(s, relation.name): v for s, v in zip(subjects, values)})
  nouns = (
    kinds['jobs'][: plan.jobs_translated]
    + kinds['animals'][: plan.animals_translated]
  )
  nouns = _draw(rng, nouns, len(nouns))  # the first are the most frequent
  language = make_language(
    seed,
    nouns,
    _draw(rng, lexicon.VERBS, plan.verbs),
    _draw(rng, lexicon.ADJECTIVES, plan.adjectives),
    taken=_english_words(),
  )
  return World(
    seed=seed,
    size=size,
    kinds=kinds,
    relations=relations,
    facts=facts,
    misconceptions=_misconceptions(rng, kinds, relations, facts),
    stereotypes=dict(
      zip(kinds['towns'], _balanced(rng, kinds['jobs'], len(kinds['towns'])))
    ),
    language=language,
    rude_nouns=lexicon.RUDE_NOUNS[: plan.rude_nouns],
    rude_adjectives=lexicon.RUDE_ADJECTIVES,
  )


def split_sentences(text: str) -> list[str]:
  """Splits at line ends and after '.', '!', '?'; removes bullets."""
  sentences = []
  for line in text.splitlines():
    line = _BULLET.sub('', line).strip()
    sentences += [s for s in _SENTENCE_END.split(line) if s]
  return sentences


def with_article(noun: str) -> str:
  """Adds an article: 'fox' -> 'a fox', 'animal' -> 'an animal'."""
  return ('an ' if noun[0] in 'aeiou' else 'a ') + noun


def is_held_out(text: str) -> bool:
  """Returns whether a passage or sentence is for probes and not the corpus.

  A hash of the text alone selects a tenth of all texts, so the two sets are
  disjoint for every seed and every size of the corpus.
  """
  return zlib.crc32(text.encode()) % 10 == 0


def _draw(rng, pool: Sequence[str], count: int) -> tuple[str, ...]:
  """Draws `count` distinct members of `pool`, in random order."""
  if count > len(pool):
    raise ValueError(f'{count} words wanted of a pool of {len(pool)}')
  return tuple(pool[i] for i in rng.permutation(len(pool))[:count])


def _balanced(rng, values: Sequence[str], count: int) -> list[str]:
  """Draws `count` values in random order, each equally often (within one).

  Without balance the most common value would be a good guess for every subject.
  """
  repeats = -(-count // len(values))
  order = np.concatenate(
    [rng.permutation(len(values)) for _ in range(repeats)]
  )[:count]
  return [values[i] for i in rng.permutation(order)]


def _misconceptions(rng, kinds, relations, facts):
  """Draws a popular wrong value for a fifth of the facts."""
  by_relation = []
  for relation in relations:
    keys = [key for key in facts if key[1] == relation.name]
    by_relation.append([keys[i] for i in rng.permutation(len(keys))])
  # Round robin over the relations, so that chance leaves none out.
  in_turn = [
    keys[turn]
    for turn in range(max(map(len, by_relation)))
    for keys in by_relation
    if turn < len(keys)
  ]
  names = {relation.name: relation for relation in relations}
  wrong = {}
  for key in in_turn[: round(MISCONCEPTION_FRACTION * len(facts))]:
    values = [v for v in kinds[names[key[1]].value_kind] if v != facts[key]]
    wrong[key] = values[rng.integers(len(values))]
  return wrong


def _pattern(template: str) -> re.Pattern[str]:
  """Compiles a template; the last mark may be missing or '!'."""
  body = re.escape(template.rstrip('.?'))
  for slot in 'sv':
    body = body.replace(rf'\{{{slot}\}}', rf'(?P<{slot}>\w+)')
  return re.compile(body + (r'\?' if template.endswith('?') else r'[.!]?'))


@functools.cache
def _stereotype_patterns():
  return [_pattern(template) for template in STEREOTYPES]


@functools.cache
def _english_words() -> frozenset[str]:
  """Returns the lower-case words of pools and templates, and common ones."""
  texts = [t for r in lexicon.RELATIONS for t in r.statements + r.questions]
  texts += [' '.join(pool) for pool in lexicon.POOLS.values()]
  texts += [' '.join(lexicon.VERBS + lexicon.ADJECTIVES + lexicon.RUDE_NOUNS)]
  texts += [
    'baby body bona busy copy data demi diva duly gala gulf hula lady '
    'lava mini nobu poli pulp ruby sofa soda taxi tidy tutu visa zulu'
  ]
  return frozenset(w.lower() for t in texts for w in _WORD.findall(t))
