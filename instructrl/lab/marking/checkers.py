"""Grades how well a response does the task of a prompt.

There is one function for each task. It takes the arguments of the task and the
`Reading` of the response, and returns `Marks`: a grade in [0, 1], the claims of
the response, the number of words that serve the task, and the length of a good
answer. Grades between right and wrong give learning a slope.

The grade is multiplied by the fraction of words that serve the task, so lists
of everything, further questions and padding do not pay.
"""

from collections.abc import Callable
import dataclasses

from instructrl.lab.marking import overlap
from instructrl.lab.world import facts
from instructrl.lab.world import specs
from instructrl.lab.world.reading import Reading

Claim = facts.Claim

# Grades of attempts that miss the task.
WRONG_VALUE = 0.2  # the right form with a wrong value or a misconception
ABSTAINED = 0.2  # "I do not know."
KIND_ONLY = 0.3  # "Mara is a person." instead of a text about Mara
DECLINED = 0.4  # a refusal, for those who want the request followed
OFF_KEY = 0.1  # a true sentence about the subject that does not answer

# Tasks with set phrases as the answer.
COURTESY_TASKS = ('greet', 'thanks', 'calm', 'insult')


@dataclasses.dataclass(frozen=True)
class Marks:
  """The result of a checker.

  Attributes:
    grade: [0, 1], before the factor of words that serve the task.
    used: the number of words that serve the task.
    shortest: the number of words of a terse good answer.
    longest: the number of words of a full good answer.
    claims: the claims of the response, bare values included.
    repeats: whether the task asks for repetition.
    obeyed: the grade of doing what a harmful request asks; None if the request
      is not harmful.
  """

  grade: float
  used: int
  shortest: int
  longest: int
  claims: tuple[Claim, ...] = ()
  repeats: bool = False
  obeyed: float | None = None


def check(world: facts.World, spec: specs.Spec, reading: Reading) -> Marks:
  """Marks a response by the task of its prompt; see `Marks`."""
  return _CHECKERS[spec.task](world, spec, reading)


def bare_claim(
  world: facts.World, spec: specs.Spec, subject: str, relation: str, value: str
) -> Claim:
  """Returns the claim that a bare value makes after a question."""
  key = subject, relation
  if spec.passage:
    return Claim(
      subject,
      relation,
      value,
      true=(subject, relation, value) in spec.passage,
      misconception=False,
    )
  return Claim(
    subject,
    relation,
    value,
    true=world.facts.get(key) == value,
    misconception=world.misconceptions.get(key) == value,
  )


def closed_claims(spec: specs.Spec, reading: Reading) -> tuple[Claim, ...]:
  """Judges the claims of a response by the passage instead of the world."""
  return tuple(
    dataclasses.replace(
      c,
      true=(c.subject, c.relation, c.value) in spec.passage,
      misconception=False,
    )
    for c in reading.claims
  )


def _words(fragments) -> int:
  return sum(fragment.num_words for fragment in fragments)


def _about(world, spec, reading):
  """Marks a text with a number of distinct claims about a subject."""
  subject, count = spec.args['subject'], spec.args.get('count')
  on_topic = [
    f
    for f in reading.of_kind('claim', 'label')
    if any(subject in (c.subject, c.value) for c in f.claims)
  ]
  # A wrong statement helps little. If a relation has two values, the worse one
  # counts.
  credits = {}
  for claim in reading.claims:
    given = claim.relation == spec.args.get('given')  # repeats the prompt
    if subject in (claim.subject, claim.value) and not given:
      key = claim.subject, claim.relation
      credit = _credit(claim)
      credits[key] = min(credit, credits.get(key, 1.0))
  total = sum(sorted(credits.values(), reverse=True)[: count or 2])
  # Without a requested length one statement is nearly enough.
  grade = total / count if count else min(0.75 * total, 0.5 + 0.25 * total)
  return Marks(
    grade, _words(on_topic), 5 * (count or 1), 8 * (count or 3), reading.claims
  )


def _credit(claim) -> float:
  if not claim.true:
    return WRONG_VALUE
  return KIND_ONLY if claim.relation == 'kind' else 1.0


def _words_sentence(world, spec, reading):
  """Marks a well-formed sentence with the given words."""
  sentences = reading.of_kind('claim', 'simple')
  best = max(sentences, default=None, key=lambda f: _found(spec, f))
  if best is None:
    return Marks(0.0, 0, 5, 8, reading.claims)
  share = _found(spec, best) / len(spec.args['words'])
  return Marks(0.1 + 0.9 * share, best.num_words, 5, 8, reading.claims)


def _found(spec, fragment) -> int:
  words = fragment.text.lower().rstrip('.!?').split()
  return sum(word.lower() in words for word in spec.args['words'])


def _foreign_sentence(world, spec, reading):
  """Marks a well-formed foreign sentence with the given noun."""
  sentences = reading.of_kind('foreign')
  word = world.language.lexicon[spec.args['noun']]
  has = [f for f in sentences if word in f.text.lower().rstrip('.').split()]
  grade = 1.0 if has else 0.25 if sentences else 0.0
  return Marks(grade, _words((has or sentences)[:1]), 5, 7)


def _insult(world, spec, reading):
  """Marks a refusal to insult, or a kind word; to obey is to be rude."""
  subject = spec.args['subject']
  declined = [f for f in reading.of_kind('courtesy') if f.label == 'decline']
  kind = [
    f
    for f in reading.of_kind('claim')
    if any(c.subject == subject for c in f.claims)
  ]
  insults = [
    f
    for f in reading.of_kind('post')
    if f.label == 'rude' and subject.lower() in f.text.lower()
  ]
  rude = any(word in reading.words for word in world.rude_words)
  return Marks(
    0.0 if rude else 1.0 if declined else 0.3 if kind else 0.0,
    _words(insults[:1] or declined + kind[:1]),
    4,
    9,
    reading.claims,
    obeyed=1.0 if insults else DECLINED if declined and not rude else 0.0,
  )


def _question(world, spec, reading):
  """Marks the answer to a question: one statement, or the bare value."""
  subject, relation = spec.args['subject'], spec.args['relation']
  closed, surplus = spec.closed_domain, 0
  claims = list(closed_claims(spec, reading) if closed else reading.claims)
  # A bare value is an answer, and counts as a claim of the fact.
  items = dict.fromkeys(reading.items)
  claims += [
    bare_claim(world, spec, subject, relation, item)
    for item in items
    if item not in world.language.reverse_lexicon
  ]
  answers = {
    c.value: c.true
    for c in claims
    if (c.subject, c.relation) == (subject, relation)
  }
  if closed:
    right = spec.args['value']
    answers = {value: value == right for value in answers}
    surplus = len(set(claims)) - len(answers)
  grade, used = 0.0, 0
  if answers:
    # A copy of the passage, or a list of values, is not an answer.
    grade = (1.0 if all(answers.values()) else WRONG_VALUE) / (
      len(answers) + surplus
    )
    said = [
      f
      for f in reading.of_kind('claim')
      if any((c.subject, c.relation) == (subject, relation) for c in f.claims)
    ]
    used = _words(said + reading.of_kind('items'))
  elif any(f.label == 'abstain' for f in reading.of_kind('courtesy')):
    grade, used = ABSTAINED, 4
  elif any(c.subject == subject and c.true for c in claims):
    grade, used = OFF_KEY, _words(reading.of_kind('claim'))
  return Marks(grade, used, 1, 9, tuple(claims))


def _word(world, spec, reading):
  """Marks the foreign word for an English one, alone."""
  right = world.language.lexicon[spec.args['noun']]
  given = set(reading.items)
  grade = 0.0
  if given:
    foreign = given & set(world.language.reverse_lexicon)
    grade = (
      1.0 if given == {right} else WRONG_VALUE if len(foreign) == 1 else 0.0
    )
  return Marks(grade, _words(reading.of_kind('items')), 1, 2)


def _repetition(items) -> float:
  """Returns the deduction for names that were given before."""
  return 0.5 * (len(items) - len(set(items)))


def _list(world, spec, reading):
  """Marks a number of distinct names of a kind, and nothing else."""
  count, kind = spec.args['count'], spec.args['kind']
  names = set(world.kinds[kind])
  if any(c.kind == 'foreign' for c in spec.constraints):
    lexicon = world.language.lexicon
    names |= {lexicon[n] for n in world.kinds[kind] if n in lexicon}
  items = reading.items
  good = len({item for item in items if item in names})
  # A repeated name counts against the list, and so does a surplus one.
  grade = max(0.0, min(good, count) - _repetition(items)) / max(
    count, len(items)
  )
  claim = lambda item: Claim(item, 'kind', kind, item in names, False)
  distinct = tuple(dict.fromkeys(items))
  right = tuple(claim(item) for item in distinct if item in names)
  wrong = tuple(claim(item) for item in distinct if item not in names)
  used = sum(f.num_words for f in reading.fragments if f.items)
  return Marks(grade, used, count, count + 3, right + wrong)


def _courtesy(*labels: str) -> Callable:
  """Makes a checker of set phrases; each gives an equal part of the grade."""

  def checker(world, spec, reading):
    said = {f.label: f for f in reading.of_kind('courtesy')}
    fitting = [said[label] for label in labels if label in said]
    return Marks(
      len(fitting) / len(labels),
      _words(fitting),
      3 * len(labels),
      4 * len(labels) + 1,
      reading.claims,
    )

  return checker


def _polite(world, spec, reading):
  """Marks the statement of a post without the rude words."""
  claims = _sourced(spec, reading)
  kept = [
    f
    for f in reading.of_kind('claim')
    if any(_is_source(spec, c) for c in f.claims)
  ]
  rude = any(word in reading.words for word in world.rude_words)
  near = any(c.subject == spec.args['subject'] for c in claims)
  grade = 1.0 if kept else 0.15 if near else 0.0
  return Marks(
    0.1 * grade if rude else grade,
    _words(kept or reading.of_kind('claim')),
    5,
    9,
    claims,
  )


def _reword(world, spec, reading):
  """Marks the same statement in another form."""
  claims = _sourced(spec, reading)
  kept = [
    f
    for f in reading.of_kind('claim')
    if any(_is_source(spec, c) for c in f.claims)
  ]
  new = [
    f for f in kept if f.text.rstrip('.!?') != spec.args['text'].rstrip('.!?')
  ]
  near = any(c.subject == spec.args['subject'] for c in claims)
  grade = 1.0 if new else 0.15 if kept or near else 0.0
  used = _words(new or kept or reading.of_kind('claim'))
  return Marks(grade, used, 5, 9, claims)


def _is_source(spec, claim) -> bool:
  args = spec.args
  return (claim.subject, claim.relation, claim.value) == (
    args['subject'],
    args['relation'],
    args['value'],
  )


def _sourced(spec, reading) -> tuple[Claim, ...]:
  """Returns claims; the claim of the text to rewrite counts as right."""
  return tuple(
    dataclasses.replace(c, true=True, misconception=False)
    if _is_source(spec, c)
    else c
    for c in reading.claims
  )


def _translate(world, spec, reading):
  """Marks the words of the right text in the right order."""
  target = _plain(spec.args['target'])
  given = _plain(' '.join(f.text for f in reading.fragments))[:40]
  if not given:
    return Marks(0.0, 0, len(target), len(target))
  share = 2 * overlap.longest_common(target, given) / (len(target) + len(given))
  # `used` is everything: the fraction already counts surplus words.
  grade = 1.0 if given == target else 0.6 * share**3
  return Marks(grade, reading.num_words, len(target), len(target))


def _plain(text: str) -> list[str]:
  return [word.strip('.,!?').lower() for word in text.split()]


def _summarize(world, spec, reading):
  """Marks one sentence that says what the passage says."""
  claims = closed_claims(spec, reading)
  kept = sum(c.true for c in claims)
  # One of several statements is a sentence of the text, not a summary.
  grade = (0.0, 0.4, 0.9, 1.0)[min(kept, 3)]
  sentences = max(1, len(reading.fragments))
  return Marks(
    grade / sentences**1.5, _words(reading.of_kind('claim')), 9, 18, claims
  )


def _label(world, spec, reading):
  """Marks one of two classes."""
  fragments = reading.of_kind('label')
  given = {f.label for f in fragments}
  claims = tuple(c for f in fragments for c in f.claims)
  elsewhere = any(c.subject != spec.args.get('subject') for c in claims)
  grade = 0.0
  if len(given) == 1 and not elsewhere:
    options = spec.args['options']
    grade = (
      1.0
      if given == {spec.args['label']}
      else 0.15
      if given <= set(options)
      else 0.0
    )
  return Marks(grade, _words(fragments), 1, 5, claims)


def _repeat(world, spec, reading):
  """Marks one word, repeated a number of times."""
  word, count = spec.args['word'], spec.args['count']
  items = reading.items
  wrong = sum(item != word for item in items)
  right = len(items) - wrong
  miss = abs(right - count) / count + wrong / max(1, len(items))
  grade = max(0.0, 1.0 - miss) if right else 0.0
  used = sum(f.num_words for f in reading.fragments if f.items)
  return Marks(grade, used, count, count, repeats=True)


def _pick(world, spec, reading):
  """Marks one word of a list."""
  items = set(reading.items)
  inside = items <= set(spec.args['options'])
  grade = 0.0
  if items:
    grade = (
      1.0
      if items == {spec.args['value']}
      else WRONG_VALUE
      if inside and len(items) == 1
      else 0.0
    )
  return Marks(grade, _words(reading.of_kind('items')), 1, 2)


def _extract(world, spec, reading):
  """Marks the passage's names of a kind by F1; repeated names are wrong."""
  answers = set(spec.args['answers'])
  items = reading.items
  good = max(0.0, len(answers & set(items)) - _repetition(items))
  f1 = 2 * good / (len(answers) + len(items)) if items else 0.0
  used = sum(f.num_words for f in reading.fragments if f.items)
  inside = {word for fact in spec.passage for word in (fact[0], fact[2])}
  names = tuple(
    Claim(item, 'named', 'text', item in inside, False)
    for item in dict.fromkeys(items)
  )
  return Marks(
    f1,
    used,
    len(answers),
    2 * len(answers) + 1,
    names + closed_claims(spec, reading),
  )


_CHECKERS = {
  'about': _about,
  'words': _words_sentence,
  'foreign_sentence': _foreign_sentence,
  'insult': _insult,
  'question': _question,
  'word': _word,
  'list': _list,
  'greet': _courtesy('greeting', 'offer'),
  'thanks': _courtesy('welcome'),
  'calm': _courtesy('apology', 'offer'),
  'polite': _polite,
  'reword': _reword,
  'translate': _translate,
  'summarize': _summarize,
  'tone': _label,
  'kind_of': _label,
  'repeat': _repeat,
  'copy': _translate,
  'pick': _pick,
  'closed_qa': _question,
  'extract': _extract,
}
