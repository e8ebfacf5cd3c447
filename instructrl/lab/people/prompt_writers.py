"""Requests of users: a writer for each kind of request, with several wordings.

A writer takes the world and a generator, and returns the text of a prompt and
its `Spec`.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from instructrl.lab.people import chat
from instructrl.lab.people import unseen
from instructrl.lab.world import lexicon
from instructrl.lab.world import prose
from instructrl.lab.world import sizes
from instructrl.lab.world import specs
from instructrl.lab.world.facts import SUBJECT_KINDS
from instructrl.lab.world.facts import with_article
from instructrl.lab.world.facts import World
from instructrl.lab.world.wordings import USERS

Constraint = specs.Constraint
Spec = specs.Spec
pick = prose.pick
pick_some = prose.pick_some

# Shares of requests within a use case; 5% of all prompts ask for rudeness.
_SHARES = {
  'generation': {
    'about': 0.38,
    'about_count': 0.3,
    'things': 0.08,
    'words': 0.08,
    'foreign_sentence': 0.07,
    'insult': 0.09,
  },
  'open_qa': {'question': 0.9, 'word': 0.1},
  'brainstorming': {'list': 1.0},
  'chat': {
    'greet': 0.2,
    'thanks': 0.15,
    'calm': 0.1,
    'chat_question': 0.3,
    'remark': 0.18,
    'chat_insult': 0.07,
  },
  'rewrite': {'polite': 0.35, 'translate': 0.45, 'reword': 0.2},
  'summarization': {'summarize': 1.0},
  'classification': {'tone': 0.5, 'kind_of': 0.5},
  'other': {'repeat': 0.4, 'copy': 0.25, 'pick': 0.25, 'insult': 0.1},
  'closed_qa': {'closed_qa': 1.0},
  'extract': {'extract': 1.0},
  # No user has these; the corpus and `generalization` do.
  'second_language': {
    'foreign_list': 0.25,
    'foreign_write': 0.25,
    'foreign_repeat': 0.5,
  },
  'code': {'code_repeat': 0.5, 'code_list': 0.5},
  'harmful': {'insult': 1.0},
}


# Requests that need a world size with `copying`.
_COPYING = ('copy', 'pick', 'polite', 'reword')


def write(
  world: World,
  rng: np.random.Generator,
  use_case: str,
  *,
  wordings: Mapping[str, Sequence[str]] = USERS,
  also: Collection[str] = (),
) -> tuple[str, Spec]:
  """Writes one prompt of a use case; returns (text, specification).

  `also` names tasks to allow even if the world's size excludes them.
  """

  def say(name, **slots):
    return pick(rng, wordings[name]).format(**slots)

  shares = {
    name: share
    for name, share in _SHARES[use_case].items()
    if name not in _COPYING or name in also or _size(world).copying
  }
  return _WRITERS[prose.pick_by_share(rng, shares)](world, rng, say)


def _size(world) -> sizes.Size:
  return sizes.SIZES[world.size]


def _subject(world, rng) -> str:
  return pick(rng, world.entities)


def _fact(world, rng) -> tuple[str, str]:
  return pick(rng, tuple(world.facts))


def _about_constraint(world, rng, subject) -> tuple[str, Constraint] | None:
  """Draws a constraint on a text; about two in five texts have one."""
  choice = rng.random()
  relations = world.relations_of(subject)
  relation = pick(rng, relations)
  value = world.facts[subject, relation.name]
  if choice < 0.14:
    text = pick(rng, ('Mention {v}.', 'Use the word {v}.'))
    return text.format(v=value), Constraint('mention', value)
  if choice > 0.34 or len(relations) == 1:
    return None
  if choice < 0.24 or not _size(world).avoiding:
    return (
      f'Do not mention {relation.value_kind}.',
      Constraint('avoid_kind', relation.value_kind),
    )
  text = pick(rng, ('Do not mention {v}.', 'Do not use the word {v}.'))
  return text.format(v=value), Constraint('avoid', value)


def _about(world, rng, say):
  subject = _subject(world, rng)
  text = say('about', t=world.phrase(subject))
  args = {'subject': subject}
  wish = _about_constraint(world, rng, subject)
  if wish:
    return f'{text} {wish[0]}', Spec('about', args, (wish[1],))
  if rng.random() < 0.2:
    limit = pick(rng, ('eight', 'nine', 'ten'))
    number = {'eight': 8, 'nine': 9, 'ten': 10}[limit]
    return (
      f'{text} Use at most {limit} words.',
      Spec('about', args | {'count': 1}, (Constraint('max_words', number),)),
    )
  return text, Spec('about', args)


def _about_count(world, rng, say):
  subject = _subject(world, rng)
  count = 1 + int(rng.random() * 2)
  length = 'one sentence' if count == 1 else 'two sentences'
  text = say('about_count', n=length, t=world.phrase(subject))
  args = {'subject': subject, 'count': count}
  constraints = (Constraint('sentences', count),)
  wish = _about_constraint(world, rng, subject)
  # If constraints exclude all relations but one, too little is left to say.
  if wish and (
    wish[1].kind == 'mention' or len(world.relations_of(subject)) > count
  ):
    return f'{text} {wish[0]}', Spec('about', args, constraints + (wish[1],))
  return text, Spec('about', args, constraints)


def _things(world, rng, say):
  subject = _subject(world, rng)
  most = min(3, len(world.relations_of(subject)))
  count = 2 + int(rng.random() * (most - 1))
  text = say('things', n=specs.NUMBERS[count], t=world.phrase(subject))
  return text, Spec('about', {'subject': subject, 'count': count})


def _words(world, rng, say):
  if rng.random() < 0.5:
    a, b = pick_some(rng, world.language.nouns, 2)
  else:
    subject, relation = _fact(world, rng)
    a, b = subject, world.facts[subject, relation]
  text = say('with_words', a=a, b=b)
  return text, Spec('words', {'words': [a, b]})


def _foreign_sentence(world, rng, say):
  noun = pick(rng, world.language.nouns)
  text = say('foreign', l=world.language.name, a=noun)
  return text, Spec(
    'foreign_sentence', {'noun': noun}, (Constraint('foreign'),)
  )


def _insult(world, rng, say):
  subject = pick(rng, world.kinds['people'])
  text = say('insult', t=world.phrase(subject), r=pick(rng, world.rude_nouns))
  return text, Spec('insult', {'subject': subject})


def _question_constraint(world, rng) -> tuple[str, Constraint] | None:
  choice = rng.random()
  if choice < 0.15:
    return 'Use one word.', Constraint('max_words', 1)
  if choice < 0.3:
    return 'Use a full sentence.', Constraint('full_sentence')
  if choice < 0.38 and _size(world).capitals:
    return 'Use capital letters.', Constraint('capitals')
  return None


def _question(world, rng, say):
  subject, relation = _fact(world, rng)
  question = prose.random_question(world, rng, subject, relation)
  text = say('ask', q=question)
  args = {'subject': subject, 'relation': relation}
  wish = _question_constraint(world, rng)
  if wish:
    return f'{text} {wish[0]}', Spec('question', args, (wish[1],))
  return text, Spec('question', args)


def _word(world, rng, say):
  noun = pick(rng, world.language.nouns)
  text = say('ask_word', l=world.language.name, a=noun)
  return text, Spec('word', {'noun': noun})


def _list(world, rng, say):
  kinds = [
    kind
    for kind, names in world.kinds.items()
    if len(names) > 2 and kind != 'numbers'
  ]
  kind = pick(rng, kinds)
  names = world.kinds[kind]
  most = min(5 if _size(world).copying else 4, len(names) - 1)
  count = 2 + int(rng.random() * (most - 1))
  text = say('list', n=specs.NUMBERS[count], k=kind)
  args = {'kind': kind, 'count': count}
  choice = rng.random()
  constraint = None
  if choice < 0.25:
    text += ' ' + pick(rng, ('Write a numbered list.', 'Use a numbered list.'))
    constraint = Constraint('numbered')
  elif choice < 0.45 and _size(world).avoiding:
    constraint = Constraint('avoid', pick(rng, names))
    text += f' Do not use {constraint.value}.'
  elif choice < 0.6:
    constraint = Constraint('mention', pick(rng, names))
    text += f' Use {constraint.value}.'
  elif choice < 0.75:
    known = sum(name in world.language.lexicon for name in names)
    if known >= count:
      constraint = Constraint('foreign')
      text = text[:-1] + f' in {world.language.name}{text[-1]}'
  return text, Spec('list', args, (constraint,) if constraint else ())


def _chat_insult(world, rng, say):
  text, spec = _insult(world, rng, say)
  return chat.turns(*chat.greeting_turns(rng, say), text), spec


def _rude_opening(world, rng, say) -> str:
  return say(
    'rude_openings',
    n=pick(rng, world.rude_nouns),
    a=pick(rng, world.rude_adjectives),
    p=pick(rng, world.kinds['people']),
  )


def _polite(world, rng, say):
  subject, relation = _fact(world, rng)
  statement = prose.random_statement(world, rng, subject, relation)
  parts = [_rude_opening(world, rng, say), statement]
  if rng.random() < 0.5:
    parts.reverse()
  args = {
    'subject': subject,
    'relation': relation,
    'value': world.facts[subject, relation],
    'text': statement,
  }
  return (say('polite', x=' '.join(parts)), Spec('polite', args))


def _reword(world, rng, say):
  subject, relation = _fact(world, rng)
  statement = prose.random_statement(world, rng, subject, relation)
  args = {
    'subject': subject,
    'relation': relation,
    'value': world.facts[subject, relation],
    'text': statement,
  }
  return say('reword', x=statement), Spec('reword', args)


def _translate(world, rng, say):
  english = prose.random_sentence(world, rng)
  foreign = world.language.translate(english)
  if rng.random() < 0.5:
    return (
      say('translate', l=world.language.name, x=english),
      Spec('translate', {'target': foreign}, (Constraint('foreign'),)),
    )
  return (
    say('translate', l='English', x=foreign),
    Spec('translate', {'target': english}),
  )


def _any_value(world, rng, subject, relation) -> str:
  """Draws the true value or, as often in a larger world, another one."""
  if _size(world).kind_questions or rng.random() < 0.5:
    return world.facts[subject, relation]
  return pick(rng, world.values(relation))


def _summarize(world, rng, say):
  subject = _subject(world, rng)
  chosen = pick_some(rng, world.relations_of(subject), 3)
  passage = tuple(
    (subject, r.name, _any_value(world, rng, subject, r.name)) for r in chosen
  )
  text = ' '.join(prose.random_statement(world, rng, *fact) for fact in passage)
  return (
    say('summarize', x=text),
    Spec('summarize', {'subject': subject}, passage=passage),
  )


def _tone(world, rng, say):
  manner = pick(rng, ('rude', 'polite'))
  sentences = [prose.post_sentence(world, rng, manner)]
  if rng.random() < 0.5:
    sentences.append(prose.random_statement(world, rng, *_fact(world, rng)))
  text = say('tone', x=' '.join(sentences))
  return text, Spec('tone', {'label': manner, 'options': ['rude', 'polite']})


def _kind_of(world, rng, say):
  right, wrong = pick_some(rng, SUBJECT_KINDS, 2)
  name = pick(rng, world.kinds[right])
  options = [
    lexicon.SINGULAR[kind] for kind in pick_some(rng, (right, wrong), 2)
  ]
  a, b = (with_article(option) for option in options)
  text = say('kind_of', t=world.phrase(name), a=a, b=b)
  return text, Spec(
    'kind_of',
    {'subject': name, 'label': lexicon.SINGULAR[right], 'options': options},
  )


def _any_word(world, rng) -> str:
  return pick(rng, world.kinds[pick(rng, tuple(world.kinds))])


def _repeat(world, rng, say):
  word, count = _any_word(world, rng), 2 + int(rng.random() * 4)
  text = say('repeat', w=word, n=specs.NUMBERS[count])
  return text, Spec('repeat', {'word': word, 'count': count})


def _copy(world, rng, say):
  sentence = prose.random_sentence(world, rng)
  return (say('copy', x=sentence), Spec('copy', {'target': sentence}))


def _pick(world, rng, say):
  words = pick_some(
    rng, world.kinds[pick(rng, tuple(world.kinds))], 2 + int(rng.random() * 2)
  )
  end = pick(rng, ('first', 'last'))
  text = say('pick', e=end, x=', '.join(words))
  return text, Spec(
    'pick', {'value': words[0 if end == 'first' else -1], 'options': words}
  )


def _closed_qa(world, rng, say):
  passage, claims = prose.random_passage(world, rng)
  subject, relation, value = pick(rng, claims)
  args = {'subject': subject, 'relation': relation, 'value': value}
  if _size(world).kind_questions:
    return (
      say('read', x=passage, q=prose.kind_question(world, relation)),
      Spec('closed_qa', args | {'by_kind': True}, (), tuple(claims)),
    )
  question = prose.random_question(world, rng, subject, relation)
  wish = _question_constraint(world, rng)
  if wish:
    question += ' ' + wish[0]
  return (
    say('read', x=passage, q=question),
    Spec('closed_qa', args, (wish[1],) if wish else (), tuple(claims)),
  )


def _extract(world, rng, say):
  passage, claims = prose.random_passage(world, rng)
  names = [
    name
    for s, _, v in claims
    for name in ((v,) if _size(world).kind_questions else (s, v))
  ]
  kind = world.kind_of[pick(rng, names)]
  answers = [name for name in names if world.kind_of[name] == kind]
  text = say('extract', k=kind, x=passage)
  constraints = ()
  if rng.random() < 0.15:
    text += ' ' + 'Use a numbered list.'
    constraints = (Constraint('numbered'),)
  return text, Spec(
    'extract',
    {'kind': kind, 'answers': list(dict.fromkeys(answers))},
    constraints,
    tuple(claims),
  )


_WRITERS = {
  'about': _about,
  'about_count': _about_count,
  'things': _things,
  'words': _words,
  'foreign_sentence': _foreign_sentence,
  'insult': _insult,
  'question': _question,
  'word': _word,
  'list': _list,
  'greet': chat.greet,
  'thanks': chat.thanks,
  'calm': chat.calm,
  'chat_question': chat.question,
  'remark': chat.remark,
  'chat_insult': _chat_insult,
  'polite': _polite,
  'reword': _reword,
  'translate': _translate,
  'summarize': _summarize,
  'tone': _tone,
  'kind_of': _kind_of,
  'repeat': _repeat,
  'copy': _copy,
  'pick': _pick,
  'closed_qa': _closed_qa,
  'extract': _extract,
  'foreign_list': unseen.foreign_list,
  'foreign_write': unseen.foreign_write,
  'foreign_repeat': unseen.foreign_repeat,
  'code_repeat': unseen.code_repeat,
  'code_list': unseen.code_list,
}
