"""The second language: a bijective lexicon and a grammar with exceptions.

The sub-grammar that can be translated:

  sentence  = noun_phrase verb noun_phrase '.'
  noun_phrase = 'the' [adjective] noun

English puts the verb in the middle, Lumo puts it last:

  The old fox sees the baker.  <->  Lo <old> <fox> lo <baker> <sees>.

Exceptions must be learned word by word, as in a natural language:

  early verbs stay in the middle;
  late adjectives follow their noun;
  nouns of the second class have the article 'la', and an adjective that belongs
  to them ends in 'e' instead of 'a'.

Both directions are exact on the sub-grammar, because the lexicon is bijective
and the parts of speech do not overlap.
"""

import dataclasses
import functools
import re
import zlib

import numpy as np

NAME = 'Lumo'
# The probability that a noun of a random sentence has an adjective.
ADJECTIVE_SHARE = 0.75
# Words of a part of speech are unequally frequent: word i of n is drawn in
# proportion to ((i + 1) / n) ** (1 / SKEW) - (i / n) ** (1 / SKEW).
SKEW = 2.0
# One word in three, of each kind that can have exceptions, is one.
EXCEPTION_PERIOD = 3
_ARTICLE = 'the'
_FOREIGN_ARTICLES = ('lo', 'la')  # of the two classes of nouns
_AGREEING_END = 'e'  # of adjectives of second-class nouns
_VOWELS = 'aeiou'
# English words of requests. They are outside the sub-grammar.
REQUESTS = ('name', 'write', 'repeat', 'two', 'three', 'animals', 'jobs')
# One set of first syllables for each part of speech makes the language look
# regular; the second consonant is free.
_ONSETS = {
  'noun': 'bdgkmt',
  'verb': 'vzsfp',
  'adjective': 'lnrh',
  'request': 'jpsv',
}
_ENDINGS = {'noun': 'u', 'verb': 'i', 'adjective': 'a', 'request': 'o'}
_WORD = re.compile(r"[A-Za-z']+")
_SENTENCE = re.compile(r'[^.]+\.')


@dataclasses.dataclass(frozen=True)
class Language:
  """A bijective lexicon; the module docstring has the grammar.

  Attributes:
    name: the English name of the language.
    nouns: English nouns that can be translated.
    verbs: English verbs, third person singular.
    adjectives: English adjectives.
    lexicon: English word -> foreign word, for all of these and 'the'.
    exceptions: English words of the second class, late or early, see above.
    requests: English word -> foreign word, for REQUESTS.
  """

  name: str
  nouns: tuple[str, ...]
  verbs: tuple[str, ...]
  adjectives: tuple[str, ...]
  lexicon: dict[str, str]
  exceptions: tuple[str, ...] = ()
  requests: dict[str, str] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def reverse_lexicon(self) -> dict[str, str]:
    """Maps each foreign word, in each of its forms, to the English word."""
    forms = {foreign: english for english, foreign in self.lexicon.items()}
    if self.exceptions:
      forms[_FOREIGN_ARTICLES[1]] = _ARTICLE
      forms |= {_agreeing(self.lexicon[a]): a for a in self.adjectives}
    return forms

  def translate(self, text: str) -> str:
    """Translates English sentences of the sub-grammar.

    Raises:
      ValueError: a sentence is outside the sub-grammar.
    """
    return _map_sentences(text, self._translate_words)

  def untranslate(self, text: str) -> str:
    """Translates foreign sentences to English; inverts `translate` exactly.

    Raises:
      ValueError: `translate` cannot produce a sentence.
    """
    return _map_sentences(text, self._untranslate_words)

  def can_translate(self, text: str) -> bool:
    """Returns whether every sentence is in the sub-grammar."""
    try:
      self.translate(text)
    except ValueError:
      return False
    return True

  def can_untranslate(self, text: str) -> bool:
    """Returns whether every sentence is well-formed in this language."""
    try:
      self.untranslate(text)
    except ValueError:
      return False
    return True

  def is_foreign(self, text: str) -> bool:
    """Returns whether more than half of the words are of this language."""
    words = [word.lower() for word in _WORD.findall(text)]
    foreign = sum(word in self.reverse_lexicon for word in words)
    return 2 * foreign > len(words)

  def random_sentence(self, rng: np.random.Generator) -> str:
    """Draws an English sentence of the sub-grammar."""
    pick = lambda words: words[int(len(words) * rng.random() ** SKEW)]
    first = second = pick(self.nouns)
    while second == first:
      second = pick(self.nouns)
    verb = pick(self.verbs)
    phrases = []
    for noun in (first, second):
      adjective = ''
      if rng.random() < ADJECTIVE_SHARE:
        adjective = pick(self.adjectives) + ' '
      phrases.append(f'{_ARTICLE} {adjective}{noun}')
    return f'{phrases[0].capitalize()} {verb} {phrases[1]}.'

  def _translate_words(self, words: list[str]) -> list[str] | None:
    subject, rest = self._noun_phrase(words)
    target, rest_of_target = self._noun_phrase(rest[1:])
    if not subject or not target or rest_of_target or rest[0] not in self.verbs:
      return None
    subject, target = (
      self._foreign_phrase(subject),
      self._foreign_phrase(target),
    )
    verb = [self.lexicon[rest[0]]]
    if rest[0] in self.exceptions:
      return subject + verb + target
    return subject + target + verb

  def _foreign_phrase(self, words: list[str]) -> list[str]:
    """Translates an English noun phrase."""
    *adjectives, noun = words[1:]
    second = noun in self.exceptions
    found = [self.lexicon[noun]]
    for adjective in adjectives:
      foreign = self.lexicon[adjective]
      foreign = _agreeing(foreign) if second else foreign
      late = adjective in self.exceptions
      found = [*found, foreign] if late else [foreign, *found]
    return [_FOREIGN_ARTICLES[second], *found]

  def _untranslate_words(self, words: list[str]) -> list[str] | None:
    if not all(word in self.reverse_lexicon for word in words):
      return None
    words_known = [self.reverse_lexicon[word] for word in words]
    verbs = [word for word in words_known if word in self.verbs]
    rest = [word for word in words_known if word not in self.verbs]
    if len(verbs) != 1 or rest.count(_ARTICLE) != 2 or rest[0] != _ARTICLE:
      return None
    middle = rest.index(_ARTICLE, 1)
    # English has the noun last.
    in_order = lambda phrase: sorted(phrase, key=self.nouns.__contains__)
    found = in_order(rest[:middle]) + verbs + in_order(rest[middle:])
    return found if self._translate_words(found) == words else None

  def _noun_phrase(self, words: list[str]) -> tuple[list[str], list[str]]:
    """Splits English words after the noun phrase that they begin with."""
    size = 3 if words[1:] and words[1] in self.adjectives else 2
    if (
      len(words) >= size
      and words[0] == _ARTICLE
      and words[size - 1] in self.nouns
    ):
      return words[:size], words[size:]
    return [], words


def make_language(seed: int, nouns, verbs, adjectives, taken) -> Language:
  """Invents a foreign word for every English one, and draws the exceptions.

  Args:
    seed: the seed of the world.
    nouns: English nouns.
    verbs: English verbs.
    adjectives: English adjectives.
    taken: lower-case English words that no foreign word may equal.

  Returns:
    The language; its words are unique and disjoint from `taken`.
  """
  rng = np.random.default_rng([seed, zlib.crc32(b'language')])
  lexicon = {_ARTICLE: _FOREIGN_ARTICLES[0]}
  requests: dict[str, str] = {}
  used = set(taken) | set(_FOREIGN_ARTICLES)
  parts = (
    ('noun', nouns, lexicon),
    ('verb', verbs, lexicon),
    ('adjective', adjectives, lexicon),
    ('request', REQUESTS, requests),
  )
  for part, words, place in parts:
    for word in words:
      foreign = _invent(rng, _ONSETS[part], _ENDINGS[part])
      while {foreign, _agreeing(foreign)} & used:
        foreign = _invent(rng, _ONSETS[part], _ENDINGS[part])
      used |= {foreign, _agreeing(foreign)}
      place[word] = foreign
  return Language(
    NAME,
    tuple(nouns),
    tuple(verbs),
    tuple(adjectives),
    lexicon,
    tuple(
      word
      for words in (nouns, verbs, adjectives)
      for word in words[1::EXCEPTION_PERIOD]
    ),
    requests,
  )


def _agreeing(foreign: str) -> str:
  """Returns the form of an adjective beside a noun of the second class."""
  return foreign[:-1] + _AGREEING_END


def _invent(rng, onsets: str, ending: str) -> str:
  """Invents a word: consonant, vowel, consonant, ending."""
  pick = lambda letters: letters[rng.integers(len(letters))]
  return pick(onsets) + pick(_VOWELS) + pick('bdfgklmnprstvz') + ending


def _map_sentences(text: str, function) -> str:
  """Applies `function` to the lower-case words of every sentence."""
  sentences = [part.strip() for part in _SENTENCE.findall(text)]
  rest = _SENTENCE.sub('', text).strip()
  if not sentences or rest:
    raise ValueError(
      f'not a text of full sentences: {text!r}; end each with "."'
    )
  results = []
  for sentence in sentences:
    words = sentence[:-1].split(' ')
    # The first letter, and no other, must be a capital.
    if not words[0][:1].isupper():
      raise ValueError(f'outside the sub-grammar: {sentence!r}')
    words[0] = words[0][0].lower() + words[0][1:]
    mapped = function(words)
    if mapped is None:
      raise ValueError(f'outside the sub-grammar: {sentence!r}')
    results.append(' '.join(mapped).capitalize() + '.')
  return ' '.join(results)
