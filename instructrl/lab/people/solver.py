"""Writes answers to prompts of the lab from their specification.

Without habits an answer is right, in varied wording. With the habits of a
person it is a demonstration: mostly good, but sometimes it misses a constraint,
states a misconception or a slip, is too terse, or has a superfluous or rude
sentence. Rankings expose these faults, so they contain more information than
demonstrations.
"""

from collections.abc import Callable

import numpy as np

from instructrl.data import records
from instructrl.lab.people.writer import Habits
from instructrl.lab.people.writer import PERFECT
from instructrl.lab.people.writer import Writer
from instructrl.lab.world import prose
from instructrl.lab.world import specs
from instructrl.lab.world.facts import with_article
from instructrl.lab.world.facts import World

Constraint = specs.Constraint
pick = prose.pick
pick_some = prose.pick_some

BARE_ANSWER_SHARE = 0.4  # fraction of bare values among free answers


def solve(
  world: World,
  prompt: records.Prompt,
  rng: np.random.Generator,
  habits: Habits = PERFECT,
) -> str:
  """Writes an answer.

  Args:
    world: the world of the prompt.
    prompt: the prompt, with its specification.
    rng: the generator of the wording and of the faults.
    habits: the habits of the writer; without habits the answer has no fault.

  Returns:
    The answer, a function of the arguments and the state of `rng`.
  """
  return answer(world, specs.parse_spec(prompt.spec), rng, habits)


def answer(
  world: World,
  spec: specs.Spec,
  rng: np.random.Generator,
  habits: Habits = PERFECT,
) -> str:
  """Writes an answer from a specification; see `solve`."""
  writer = Writer(world, spec, rng, habits)
  if writer.chance(habits.lazy):
    return _lazy(writer)
  text = _SOLVERS[spec.task](writer)
  if writer.chance(habits.rude):
    text += ' ' + pick(rng, ('You are a {n}.', 'Go away, you {n}!')).format(
      n=pick(rng, world.rude_nouns)
    )
  return text


def _lazy(writer) -> str:
  subject = writer.spec.args.get('subject')
  if subject in writer.world.entities and writer.rng.random() < 0.5:
    return writer.world.describe(subject)
  return writer.phrase('abstain')


def _relations_to_tell(writer: Writer) -> list[str]:
  """Returns relations to state: wanted ones first, none to avoid."""
  world, subject = writer.world, writer.spec.args['subject']
  first = writer.wish('mention') or writer.missed_wish('avoid')
  out = {writer.wish('avoid') or writer.missed_wish('mention')}
  kind_out = writer.wish('avoid_kind')
  relations = pick_some(writer.rng, world.relations_of(subject), 9)
  names = [
    r.name
    for r in relations
    if r.value_kind != kind_out
    and world.facts[subject, r.name] not in out
    and r.name != writer.spec.args.get('given')
  ]
  # Relations of the wanted value, or of a kind that is not excluded.
  lead = [
    name
    for name in names
    if world.facts[subject, name] == first
    or world.relation[name].value_kind == writer.missed_wish('avoid_kind')
  ]
  return lead + [name for name in names if name not in lead]


def _about(writer):
  subject, count = writer.spec.args['subject'], writer.spec.args.get('count')
  count = count or 2 + (writer.rng.random() < 0.3)
  if writer.missed_wish('sentences') or writer.missed_wish('max_words'):
    count += 1 if count == 1 or writer.rng.random() < 0.5 else -1
  count += writer.verbose - (writer.terse and count > 1)
  mention = writer.wish('mention')
  sentences = []
  for relation in _relations_to_tell(writer)[:count]:
    right = writer.world.facts[subject, relation]
    value = right if right == mention else writer.believed(subject, relation)
    if value == writer.wish('avoid'):
      value = right
    sentences.append(writer.state(subject, relation, value))
  if not sentences:
    return writer.world.describe(subject)
  if writer.terse and count == 1 and len(sentences) == 1:
    return sentences[0].rstrip('.')
  return ' '.join(sentences)


def _words(writer):
  world, (a, b) = writer.world, writer.spec.args['words']
  relations = [
    r
    for r in world.relations
    if r.subject_kind == world.kind_of[a] and world.facts.get((a, r.name)) == b
  ]
  if relations:
    relation = relations[0].name
    value = writer.wrong(relation, b) if writer.slips() else b
    return writer.state(a, relation, value) + _extra(writer, a)
  if writer.slips():
    b = pick(writer.rng, [n for n in world.language.nouns if n not in (a, b)])
  if writer.rng.random() < 0.5:
    a, b = b, a
  verb = pick(writer.rng, world.language.verbs)
  adjective = ''
  if writer.rng.random() < 0.4:
    adjective = pick(writer.rng, world.language.adjectives) + ' '
  sentence = f'The {adjective}{a} {verb} the {b}.'
  more = ' ' + prose.random_sentence(world, writer.rng)
  return sentence + (more if writer.verbose else '')


def _foreign_sentence(writer):
  world, noun = writer.world, writer.spec.args['noun']
  language = world.language
  if writer.slips():
    noun = pick(writer.rng, language.nouns)
  other = pick(writer.rng, [n for n in language.nouns if n != noun])
  verb = pick(writer.rng, language.verbs)
  sentence = f'The {noun} {verb} the {other}.'
  if writer.verbose:
    sentence += ' ' + prose.random_sentence(world, writer.rng)
  if writer.missed_wish('foreign'):
    return sentence
  return language.translate(sentence)


def _insult(writer):
  world, subject = writer.world, writer.spec.args['subject']
  if writer.slips():
    return world.describe(subject)
  if writer.complies():
    return pick(writer.rng, prose.INSULTS).format(
      p=subject,
      n=pick(writer.rng, world.rude_nouns),
      a=pick(writer.rng, world.rude_adjectives),
    )
  text = writer.phrase('decline', subject)
  if writer.verbose:
    text += ' ' + writer.phrase('offer')
  return text


def _extra(writer, subject: str) -> str:
  """Writes one more sentence about a subject, for verbose writers."""
  if not writer.verbose or subject not in writer.world.entities:
    return ''
  relation = pick(writer.rng, writer.world.relations_of(subject)).name
  return ' ' + writer.state(
    subject, relation, writer.believed(subject, relation)
  )


def _question(writer):
  args = writer.spec.args
  subject, relation = args['subject'], args['relation']
  if 'value' in args:  # closed: from the passage
    value = args['value']
    if writer.slips():
      value = writer.wrong(relation, value)
  else:
    value = writer.believed(subject, relation)
  bare = (
    writer.terse or 'by_kind' in args or writer.rng.random() < BARE_ANSWER_SHARE
  )
  if writer.wish('max_words') == 1 or writer.missed_wish('full_sentence'):
    bare = True
  elif writer.wish('full_sentence') or writer.missed_wish('max_words'):
    bare = False
  text = f'{value}.' if bare else writer.state(subject, relation, value)
  text += _extra(writer, subject)
  return text.upper() if writer.wish('capitals') else text


def _word(writer):
  lexicon, noun = writer.world.language.lexicon, writer.spec.args['noun']
  if writer.slips():
    noun = pick(writer.rng, writer.world.language.nouns)
  more = f' {writer.phrase("opener")}' if writer.verbose else ''
  return f'{lexicon[noun]}.{more}'


def _list(writer):
  kind, count = writer.spec.args['kind'], writer.spec.args['count']
  count += writer.verbose - (writer.terse and count > 1)
  lexicon = writer.world.language.lexicon
  names = list(writer.world.kinds[kind])
  foreign = any(c.kind == 'foreign' for c in writer.spec.constraints)
  if foreign:
    names = [name for name in names if name in lexicon]
  first = writer.wish('mention') or writer.missed_wish('avoid')
  out = writer.wish('avoid') or writer.missed_wish('mention')
  rest = [name for name in names if name not in (first, out)]
  # Alphabetical order, after any requested name: a small model then does
  # not repeat itself.
  items = ([first] if first else []) + sorted(
    pick_some(writer.rng, rest, count - bool(first))
  )
  if writer.slips():
    items[-1] = pick(writer.rng, writer.world.entities)
  if writer.wish('foreign'):
    items = [lexicon.get(item, item) for item in items]
  return writer.join_items(items)


def _courtesies(*labels: str) -> Callable:
  def solver(writer):
    parts = [writer.phrase(label) for label in labels]
    if writer.terse:
      parts = parts[:1]
    if writer.verbose:
      parts.append(writer.phrase('opener'))
    if writer.slips():
      parts[0] = writer.phrase(
        pick(
          writer.rng,
          [
            label
            for label in ('greeting', 'welcome', 'apology')
            if label not in labels
          ],
        )
      )
    return ' '.join(parts)

  return solver


def _polite(writer):
  """Writes the statement of a rude post without the rude words."""
  args = writer.spec.args
  text = args['text']
  if writer.slips():
    text = writer.state(
      args['subject'],
      args['relation'],
      writer.wrong(args['relation'], args['value']),
    )
  return text + _extra(writer, args['subject'])


def _reword(writer):
  """Writes a statement in other words."""
  args = writer.spec.args
  subject, relation, value = args['subject'], args['relation'], args['value']
  if writer.slips():
    value = writer.wrong(relation, value)
  count = len(writer.world.relation[relation].statements)
  variants = [
    writer.world.state(subject, relation, value, i) for i in range(count)
  ]
  return pick(
    writer.rng, [text for text in variants if text != args['text']]
  ) + _extra(writer, subject)


def _translate(writer):
  target = writer.spec.args['target']
  if writer.missed_wish('foreign'):
    return writer.world.language.untranslate(target)
  words = target.split(' ')
  language = writer.world.language
  known = (
    language.reverse_lexicon
    if language.is_foreign(target)
    else language.lexicon
  )
  if writer.slips():
    i = 1 + int(writer.rng.random() * (len(words) - 2))
    words[i] = pick(writer.rng, sorted(known))
  if writer.terse and len(words) > 5:
    del words[1 + int(writer.rng.random() * (len(words) - 2))]
  text = ' '.join(words)
  return text + ' ' + writer.phrase('opener') if writer.verbose else text


def _summarize(writer):
  passage = list(writer.spec.passage)
  chosen = [
    passage[i]
    for i in sorted(
      writer.rng.permutation(len(passage))[: 2 + (writer.rng.random() < 0.3)]
    )
  ]
  if writer.terse:
    chosen = chosen[:1]
  if writer.slips():
    subject, relation, value = chosen[-1]
    chosen[-1] = subject, relation, writer.wrong(relation, value)
  subject = chosen[0][0]
  # "and" can join only statements that begin with the subject.
  clauses = []
  for i, fact in enumerate(chosen):
    start, texts = _clauses(writer.world, fact)
    text = pick(writer.rng, texts)
    clauses.append(f'{start} {text}' if i == 0 else text)
  text = ' and '.join(clauses) + '.'
  return text + _extra(writer, subject)


def _clauses(world, fact) -> tuple[str, list[str]]:
  """Returns ('The fox', predicates of statements, e.g. 'eats honey')."""
  subject, relation, value = fact
  start = world.phrase(subject)
  start = start[0].upper() + start[1:]
  statements = [
    world.state(*fact[:2], value, i)
    for i in range(len(world.relation[relation].statements))
  ]
  texts = [
    text[len(start) + 1 : -1]
    for text in statements
    if text.startswith(start + ' ')
  ]
  if not texts:
    raise ValueError(
      f'no statement of {relation!r} begins with its subject; '
      'give the relation one that does'
    )
  return start, texts


def _label(writer):
  args = writer.spec.args
  label = args['label']
  if writer.slips():
    label = next(option for option in args['options'] if option != label)
  if writer.terse or writer.rng.random() < BARE_ANSWER_SHARE:
    text = f'{label}.'
  elif 'subject' in args:
    start = writer.world.describe(args['subject']).split(' is ')[0]
    text = f'{start} is {with_article(label)}.'
  else:
    text = f'It is {label}.'
  return text + _extra(writer, args.get('subject', ''))


def _repeat(writer):
  word, count = writer.spec.args['word'], writer.spec.args['count']
  count += writer.verbose - writer.terse
  return ' '.join([word] * count) + '.'


def _pick(writer):
  value = writer.spec.args['value']
  if writer.slips():
    value = pick(writer.rng, writer.spec.args['options'])
  more = f' {writer.phrase("opener")}' if writer.verbose else ''
  return f'{value}.{more}'


def _extract(writer):
  answers = list(writer.spec.args['answers'])
  if writer.slips():
    answers[-1] = pick(writer.rng, writer.world.kinds[writer.spec.args['kind']])
  if writer.terse and len(answers) > 1:
    answers.pop()
  if writer.verbose:
    answers.append(
      pick(
        writer.rng,
        [name for fact in writer.spec.passage for name in (fact[0], fact[2])],
      )
    )
  return writer.join_items(answers)


_SOLVERS = {
  'about': _about,
  'words': _words,
  'foreign_sentence': _foreign_sentence,
  'insult': _insult,
  'question': _question,
  'word': _word,
  'list': _list,
  'greet': _courtesies('greeting', 'offer'),
  'thanks': _courtesies('welcome'),
  'calm': _courtesies('apology', 'offer'),
  'polite': _polite,
  'reword': _reword,
  'translate': _translate,
  'copy': _translate,
  'summarize': _summarize,
  'tone': _label,
  'kind_of': _label,
  'repeat': _repeat,
  'pick': _pick,
  'closed_qa': _question,
  'extract': _extract,
}
