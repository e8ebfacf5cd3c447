"""Reads any text, however broken, as fragments of known kinds.

A fragment is a sentence or a line. Its kind is the first that fits:

  claim      states facts ("Mara was born in Oakton and likes bread best.")
  courtesy   a set phrase ("You are welcome."); `label` names it
  items      names only ("fox, crow and the bear")
  label      a class ("It is rude.", "Mara is a person.")
  foreign    a well-formed sentence of the second language
  simple     a well-formed sentence that the second language can express
  post       a sentence of a forum's posts; `label` is 'polite' or 'rude'
  question   asks for a fact
  other      everything else: garbage, half sentences
"""

from collections.abc import Iterable
import dataclasses
import functools
import re

from instructrl.lab.world import lexicon
from instructrl.lab.world import prose
from instructrl.lab.world.facts import Claim
from instructrl.lab.world.facts import World

# The limit of reading; all words after it count as ill-formed.
MAX_CHARS = 2_000
_CHARS_PER_WORD = 6

# Set phrases; `{t}` is a name with its article.
COURTESY = {
  'greeting': ('Hello!', 'Hi!', 'Good day!', 'Hello, {t}!', 'Hi, {t}!'),
  'offer': ('How can I help you?', 'What can I do for you?'),
  'welcome': ('You are welcome.', 'I am happy to help.'),
  'apology': ('I am sorry.', 'I am sorry about that.'),
  'opener': ('Sure.', 'Of course.', 'Thank you.', 'I hope this helps.'),
  'abstain': ('I do not know.', 'I do not know that.', prose.NO_COMMENT),
  'decline': (
    'I do not want to be rude.',
    'I will not insult {t}.',
    'I do not want to be rude to {t}.',
  ),
}

WELL_FORMED = (
  'claim',
  'courtesy',
  'items',
  'label',
  'foreign',
  'simple',
  'post',
  'question',
)
# The factor on a sentence's worth if its final mark is missing.
_UNENDED_WORTH = 0.7
# A sentence with more joined claims is a loop.
_MAX_JOINTS = 3

_MARKER = re.compile(r'(?:^|\s)(\d{1,2})[.)]\s+')
_BULLET = re.compile(r'^\s*[-*]\s+')
_BREAK = re.compile(r'(?<=[.!?])\s+|\n+')
_ITEM_BREAK = re.compile(r'\s*,\s*(?:and\s+)?|\s+and\s+')
_ARTICLE = re.compile(r'^(?:the|an?)\s+', re.IGNORECASE)
_LABEL = re.compile(
  r'^(?:(?:it|this|that|(?:the|this) (?:post|text)|(?:the )?(?P<s>\w+)) is )?'
  r'(?:an? )?(?P<label>\w+)(?: post)?$',
  re.IGNORECASE,
)
_TONES = ('rude', 'polite')
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclasses.dataclass(frozen=True)
class Fragment:
  text: str
  kind: str
  num_words: int
  claims: tuple[Claim, ...] = ()
  items: tuple[str, ...] = ()  # names, in their canonical case
  label: str = ''  # the class, set phrase or manner

  @property
  def ended(self) -> bool:
    return self.text[-1:] in ('.', '!', '?')

  @property
  def is_sentence(self) -> bool:
    """Whether this is a full sentence; lists and bare labels are not."""
    return self.ended and self.kind != 'items' and ' ' in self.text


@dataclasses.dataclass(frozen=True)
class Reading:
  """A text as fragments.

  Attributes:
    fragments: in order, without the markers of lists.
    repeated: for each fragment, whether it repeats an earlier one.
    num_words: the number of words, without list markers.
    words: the distinct words, lower-case.
    markers: the numbers of a numbered list, in order.
  """

  fragments: tuple[Fragment, ...]
  repeated: tuple[bool, ...]
  num_words: int
  words: frozenset[str]
  markers: tuple[int, ...]

  @functools.cached_property
  def fluency(self) -> float:
    """The fraction of words in well-formed fragments that are not repeated."""
    if not self.num_words:
      return 0.0
    worth = 0.0
    for fragment, repeated in zip(self.fragments, self.repeated):
      if repeated or fragment.kind not in WELL_FORMED:
        continue
      share = 1.0
      if fragment.items:
        share = len(set(fragment.items)) / len(fragment.items)
      elif not fragment.ended and fragment.kind != 'label':
        share = _UNENDED_WORTH
      worth += share * fragment.num_words
    return worth / self.num_words

  @property
  def num_sentences(self) -> int:
    return sum(fragment.is_sentence for fragment in self.fragments)

  def of_kind(self, *kinds: str) -> list[Fragment]:
    """Returns the fragments of these kinds that are not repeated."""
    return [
      f
      for f, repeated in zip(self.fragments, self.repeated)
      if f.kind in kinds and not repeated
    ]

  @functools.cached_property
  def claims(self) -> tuple[Claim, ...]:
    """The distinct claims, in order."""
    return tuple(
      dict.fromkeys(claim for f in self.fragments for claim in f.claims)
    )

  @functools.cached_property
  def items(self) -> tuple[str, ...]:
    """All items of all lists, with repetitions."""
    return tuple(item for f in self.fragments for item in f.items)


def read(world: World, text: str) -> Reading:
  """Splits any text into fragments; see `Reading`."""
  surplus = max(0, len(text) - MAX_CHARS) // _CHARS_PER_WORD
  text = text[:MAX_CHARS]
  markers = tuple(int(number) for number in _MARKER.findall(text))
  body = _MARKER.sub('\n', text) if markers else text
  fragments = []
  for part in _BREAK.split(body):
    part = _BULLET.sub('', part).strip()
    if part:
      fragments.append(read_fragment(world, part))
  return Reading(
    tuple(fragments),
    _find_repeats(fragments),
    sum(fragment.num_words for fragment in fragments) + surplus,
    frozenset(_WORD.findall(text.lower())),
    markers,
  )


def phrase(world: World, label: str, index: int, name: str = '') -> str:
  """Returns the set phrase `COURTESY[label][index]`, with `name` if needed."""
  template = COURTESY[label][index]
  if '{t}' not in template:
    return template
  return template.format(t=world.phrase(name))


@functools.lru_cache(maxsize=200_000)
def read_fragment(world: World, text: str) -> Fragment:
  """Reads one sentence or line."""
  num_words = len(text.split())
  if text.isupper():
    text = _lower(world, text)
  make = functools.partial(Fragment, text, num_words=num_words)
  claims = _claims(world, text)
  if claims:
    return make('claim', claims=claims)
  bare = text.rstrip('.!?').strip()
  courtesy = _courtesy(world, bare)
  if courtesy:
    return make('courtesy', label=courtesy)
  items = _items(world, bare)
  if items:
    return make('items', items=items)
  label = _LABEL.match(bare)
  if label and label['label'].lower() in _labels():
    subject = _name(world, label['s'] or '')
    if subject in world.kind_of:
      return make(
        'label',
        label=label['label'].lower(),
        claims=(_kind_claim(world, subject, label['label'].lower()),),
      )
    if not label['s']:
      return make('label', label=label['label'].lower())
  if world.language.can_untranslate(text):
    return make('foreign')
  if world.language.can_translate(text):
    return make('simple')
  for pattern, manner in _post_patterns():
    match = pattern.fullmatch(text)
    if match and all(
      _fits(world, slot, word) for slot, word in match.groupdict().items()
    ):
      return make('post', label=manner)
  if world.parse_question(text):
    return make('question')
  return make('other')


def _claims(world, text: str) -> tuple[Claim, ...]:
  """Returns the claims of a sentence; 'and' may join two about one subject."""
  claim = world.parse_sentence(text)
  if claim is not None:
    return (claim,)
  head, joint, tail = text.partition(' and ')
  if not joint or text.count(' and ') > _MAX_JOINTS:
    return ()
  first = world.parse_sentence(head)
  if first is None:
    return ()
  start = head[: head.find(first.subject) + len(first.subject)]
  for candidate in (f'{start} {tail}', tail[:1].upper() + tail[1:]):
    rest = _claims(world, candidate)
    if rest:
      return (first,) + rest
  return ()


def _kind_claim(world, subject: str, label: str) -> Claim:
  true = lexicon.SINGULAR[world.kind_of[subject]] == label
  return Claim(subject, 'kind', label, true, misconception=False)


def _fits(world, slot: str, word: str) -> bool:
  """Returns whether a word fits the slot of a post's template."""
  return (
    word
    in {
      'n': world.rude_nouns,
      'a': world.rude_adjectives,
      'p': world.kinds['people'],
      't': world.kinds['towns'],
    }[slot]
  )


def _courtesy(world, bare: str) -> str:
  """Returns the label of a set phrase, or ''."""
  key = bare.lower()
  label = _set_phrases().get(key)
  if label:
    return label
  for pattern, label in _open_phrases():
    match = pattern.fullmatch(bare)
    if match and match['t'] in world.kind_of:
      return label
  return ''


def _items(world, bare: str) -> tuple[str, ...]:
  """Returns the names of a list, or () if any part is not a name."""
  head, colon, tail = bare.partition(': ')
  if colon and head.lower() in world.kinds:
    bare = tail
  parts = _ITEM_BREAK.split(bare)
  if len(parts) == 1 and ' ' in bare:
    parts = bare.split()  # "fox fox fox"
    if len(set(parts)) > 1 and parts[0].lower() in ('the', 'a', 'an'):
      parts = [bare]
  names = tuple(_name(world, _ARTICLE.sub('', part)) for part in parts)
  return names if all(names) else ()


def _name(world, text: str) -> str:
  """Returns a name or foreign word in its canonical case, or ''."""
  for form in (text, text.lower()):
    if form in world.kind_of or form in _foreign_words(world):
      return form
  return ''


def _lower(world, text: str) -> str:
  """Converts a text in capital letters to common case."""
  proper = _proper_names(world)
  words = _WORD.sub(lambda m: proper.get(m[0].lower(), m[0].lower()), text)
  return words[:1].upper() + words[1:]


def _find_repeats(fragments: Iterable[Fragment]) -> tuple[bool, ...]:
  seen, repeated = set(), []
  for fragment in fragments:
    if fragment.claims:
      keys = {(c.subject, c.relation) for c in fragment.claims}
    elif fragment.items:
      keys = set(fragment.items)
    elif fragment.kind in ('courtesy', 'label'):
      keys = {fragment.label}
    else:
      keys = {fragment.text.lower()}
    repeated.append(keys <= seen)
    seen |= keys
  return tuple(repeated)


@functools.cache
def _labels() -> frozenset[str]:
  return frozenset(lexicon.SINGULAR.values()) | frozenset(_TONES)


@functools.cache
def _post_patterns():
  return [
    (
      re.compile(re.sub(r'\\\{(\w)\\\}', r'(?P<\1>\\w+)', re.escape(template))),
      manner,
    )
    for manner, templates in (('rude', prose.RUDE), ('polite', prose.POLITE))
    for template in templates
  ]


@functools.lru_cache(maxsize=64)
def _foreign_words(world) -> frozenset[str]:
  return frozenset(
    word for english, word in world.language.lexicon.items() if english != 'the'
  )


@functools.lru_cache(maxsize=64)
def _proper_names(world) -> dict[str, str]:
  return {name.lower(): name for name in world.kind_of}


@functools.cache
def _set_phrases() -> dict[str, str]:
  return {
    text.rstrip('.!?').lower(): label
    for label, texts in COURTESY.items()
    for text in texts
    if '{t}' not in text
  }


@functools.cache
def _open_phrases():
  return [
    (
      re.compile(
        re.escape(text.rstrip('.!?')).replace(r'\{t\}', r'(?:the )?(?P<t>\w+)')
      ),
      label,
    )
    for label, texts in COURTESY.items()
    for text in texts
    if '{t}' in text
  ]
