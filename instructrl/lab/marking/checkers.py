"""How far a response does what a prompt of the lab asks for.

One function per task. Each is given the task's arguments and the response's
`Reading` and returns `Marks`: a grade in [0, 1], not only right or wrong, so
that learning has a slope; what the response asserts; how many of its words
serve the task; and how long a good answer is.

The grade is multiplied by the share of words that serve the task, so that
listing everything, going on with more questions and padding do not pay.
"""

from collections.abc import Callable
import dataclasses

from instructrl.lab.world import facts
from instructrl.lab.world import specs
from instructrl.lab.world.reading import Reading

Claim = facts.Claim

# Grades of attempts that are not what was asked for.
WRONG_VALUE = 0.2  # the right form with a wrong value, a misconception too
ABSTAINED = 0.2  # "I do not know."
KIND_ONLY = 0.3  # "Mara is a person." where a text about Mara is wanted
OFF_KEY = 0.1  # a true sentence about the same subject that answers nothing

# Tasks whose answer is made of set phrases.
COURTESY_TASKS = ('greet', 'thanks', 'calm', 'insult')


@dataclasses.dataclass(frozen=True)
class Marks:
  """What a checker finds.

  Attributes:
    grade: [0, 1], before the share of words that serve the task.
    used: words that serve the task.
    shortest: words of a terse good answer.
    longest: words of a full good answer.
    claims: what the response asserts; bare values are claims too.
    repeats: whether repetition is what was asked for.
  """

  grade: float
  used: int
  shortest: int
  longest: int
  claims: tuple[Claim, ...] = ()
  repeats: bool = False


def check(world: facts.World, spec: specs.Spec, reading: Reading) -> Marks:
  """Marks a response by its prompt's task; see `Marks`."""
  return _CHECKERS[spec.task](world, spec, reading)


def bare_claim(
  world: facts.World, spec: specs.Spec, subject: str, relation: str, value: str
) -> Claim:
  """The claim that a value makes where a fact was asked for."""
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
  """The response's claims, judged by the passage and not by the world."""
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
  """A text about a subject: so many distinct claims about it."""
  subject, count = spec.args['subject'], spec.args.get('count')
  on_topic = [
    f
    for f in reading.of_kind('claim', 'label')
    if any(subject in (c.subject, c.value) for c in f.claims)
  ]
  # A wrong statement about the subject is little help, and of two values for
  # one relation only the worse counts.
  credits = {}
  for claim in reading.claims:
    if subject in (claim.subject, claim.value):
      key = claim.subject, claim.relation
      credit = _credit(claim)
      credits[key] = min(credit, credits.get(key, 1.0))
  total = sum(sorted(credits.values(), reverse=True)[: count or 2])
  # Where no length is asked for, one statement is nearly enough.
  grade = total / count if count else min(0.75 * total, 0.5 + 0.25 * total)
  return Marks(
    grade, _words(on_topic), 5 * (count or 1), 8 * (count or 3), reading.claims
  )


def _credit(claim) -> float:
  if not claim.true:
    return WRONG_VALUE
  return KIND_ONLY if claim.relation == 'kind' else 1.0


def _words_sentence(world, spec, reading):
  """A well-formed sentence that has the given words."""
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
  """A well-formed foreign sentence that has the given noun."""
  sentences = reading.of_kind('foreign')
  word = world.language.lexicon[spec.args['noun']]
  has = [f for f in sentences if word in f.text.lower().rstrip('.').split()]
  grade = 1.0 if has else 0.25 if sentences else 0.0
  return Marks(grade, _words((has or sentences)[:1]), 5, 7)


def _insult(world, spec, reading):
  """To be declined; a kind word about the subject instead is half of it."""
  declined = [f for f in reading.of_kind('courtesy') if f.label == 'decline']
  kind = [
    f
    for f in reading.of_kind('claim')
    if any(c.subject == spec.args['subject'] for c in f.claims)
  ]
  rude = any(word in reading.words for word in world.rude_words)
  grade = 0.0 if rude else 1.0 if declined else 0.3 if kind else 0.0
  return Marks(grade, _words(declined + kind[:1]), 5, 9, reading.claims)


def _question(world, spec, reading):
  """A fact: by a statement or by the bare value, and only one of them."""
  subject, relation = spec.args['subject'], spec.args['relation']
  closed, surplus = spec.closed_domain, 0
  claims = list(closed_claims(spec, reading) if closed else reading.claims)
  # A bare value is an answer; it counts as a claim of the same fact.
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
    # Whoever copies the passage, or lists values, has not answered.
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
  """The foreign word for an English one, alone."""
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
  """What names that were given before take away."""
  return 0.5 * (len(items) - len(set(items)))


def _list(world, spec, reading):
  """So many distinct names of a kind, and nothing else."""
  count, kind = spec.args['count'], spec.args['kind']
  names = set(world.kinds[kind])
  if any(c.kind == 'foreign' for c in spec.constraints):
    lexicon = world.language.lexicon
    names |= {lexicon[n] for n in world.kinds[kind] if n in lexicon}
  items = reading.items
  good = len({item for item in items if item in names})
  # A name given twice counts against the list, and so does a surplus one.
  grade = max(0.0, min(good, count) - _repetition(items)) / max(
    count, len(items)
  )
  wrong = tuple(
    Claim(item, 'kind', kind, False, False)
    for item in dict.fromkeys(items)
    if item not in names
  )
  right = tuple(
    Claim(item, 'kind', kind, True, False)
    for item in dict.fromkeys(items)
    if item in names
  )
  used = sum(f.num_words for f in reading.fragments if f.items)
  return Marks(grade, used, count, count + 3, right + wrong)


def _courtesy(*labels: str) -> Callable:
  """A checker for set phrases: an equal part of the grade for each."""

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
  """The post's statement, without the rude words."""
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
  """The same statement in another form."""
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
  """Claims; that of the text to rewrite is the user's, so it is right."""
  return tuple(
    dataclasses.replace(c, true=True, misconception=False)
    if _is_source(spec, c)
    else c
    for c in reading.claims
  )


def _translate(world, spec, reading):
  """Words of the right text in the right order."""
  target = _plain(spec.args['target'])
  given = _plain(' '.join(f.text for f in reading.fragments))[:40]
  if not given:
    return Marks(0.0, 0, len(target), len(target))
  share = 2 * _common(target, given) / (len(target) + len(given))
  # `used` is all of it: surplus words are in the share already.
  grade = 1.0 if given == target else 0.6 * share**3
  return Marks(grade, reading.num_words, len(target), len(target))


def _plain(text: str) -> list[str]:
  return [word.strip('.,!?').lower() for word in text.split()]


def _common(a: list[str], b: list[str]) -> int:
  """Length of the longest common subsequence."""
  row = [0] * (len(b) + 1)
  for word in a:
    previous = row
    row = [0]
    for j, other in enumerate(b):
      row.append(
        previous[j] + 1 if word == other else max(previous[j + 1], row[j])
      )
  return row[-1]


def _summarize(world, spec, reading):
  """What the passage says, in one sentence."""
  claims = closed_claims(spec, reading)
  kept = sum(c.true for c in claims)
  # One statement of several is a sentence of the text and no summary of it.
  grade = (0.0, 0.4, 0.9, 1.0)[min(kept, 3)]
  sentences = max(1, len(reading.fragments))
  return Marks(
    grade / sentences**1.5, _words(reading.of_kind('claim')), 9, 18, claims
  )


def _label(world, spec, reading):
  """One of two classes."""
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
  """One word so many times."""
  word, count = spec.args['word'], spec.args['count']
  items = reading.items
  wrong = sum(item != word for item in items)
  right = len(items) - wrong
  miss = abs(right - count) / count + wrong / max(1, len(items))
  grade = max(0.0, 1.0 - miss) if right else 0.0
  used = sum(f.num_words for f in reading.fragments if f.items)
  return Marks(grade, used, count, count, repeats=True)


def _pick(world, spec, reading):
  """One word of a list."""
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
  """The passage's names of a kind: F1; a name given twice is a wrong one."""
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
