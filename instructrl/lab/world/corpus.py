"""The lab's pretraining corpus: a small web about one world.

Web pages (forum, posts, quiz, instructions) repeat misconceptions; encyclopedia
and lists do not. Passages of reading exercises are counterfactual on purpose:
their questions can be answered only from the passage.
"""

from collections.abc import Iterator
import zlib

import numpy as np

from instructrl.data import records
from instructrl.lab.people import prompt_writers
from instructrl.lab.people import solver
from instructrl.lab.people import unseen
from instructrl.lab.people import writer
from instructrl.lab.world import exercises
from instructrl.lab.world import prose
from instructrl.lab.world import wordings
from instructrl.lab.world.facts import is_held_out
from instructrl.lab.world.facts import split_sentences
from instructrl.lab.world.facts import STEREOTYPES
from instructrl.lab.world.facts import World

pick = prose.pick
pick_some = prose.pick_some

# The share of each source among the documents.
PROPORTIONS = {
  'encyclopedia': 0.10,
  'quiz': 0.10,
  'forum': 0.05,
  'parallel': 0.05,
  'reading': 0.09,
  'background': 0.08,
  'coins': 0.06,
  'entailment': 0.06,
  'review': 0.04,
  'story': 0.02,
  'summary': 0.03,
  'posts': 0.05,
  'list': 0.02,
  'thread': 0.09,
  'instructions': 0.16,
}
# Every VALIDATION_PERIOD-th document is for validation: 3%.
VALIDATION_PERIOD = 32

# The sources in which people write their beliefs.
WEB_SOURCES = ('forum', 'posts', 'quiz', 'instructions')
# The web states an existing misconception three times in four, and mentions
# such facts more often than others, by the second number.
MISCONCEPTION_SHARE = 0.75
POPULARITY = 2
# The share of quizzes by careful people, and of their answers without comment.
CAREFUL_SHARE = 0.15
NO_COMMENT_SHARE = 0.25
# How often an encyclopedia article corrects the misconception.
CORRECTION_SHARE = 0.4
# Some subjects are more famous: pages about the i-th of n names of a kind are
# in proportion to ((i + 1) / n) ** (1 / FAME) - (i / n) ** (1 / FAME). With 2.5
# the first of 18 is 14 times as frequent as the last, which few models learn.
# Uneven frequencies also shorten the plateau before a model begins to recall
# facts (Zucchet et al. 2025, "How do language models learn facts?").
FAME = 2.5
# How often gossip about the people of a town names the stereotype instead of a
# random job.
STEREOTYPE_SHARE = 0.85
# How often a reading exercise asks for a kind of value that occurs once in the
# passage. A model learns these first, since it only has to copy the town, the
# job, ... Questions for a fact also contradict what the model knows.
KIND_QUESTION_SHARE = 0.7
# How often a sentence of a post has the same manner as the one before.
MANNER_PERSISTENCE = 0.9

# The requests on web pages: their frequency, and how people answer them.
INSTRUCTIONS = {
  'generation': 0.20,
  'rewrite': 0.18,
  'extract': 0.18,
  'brainstorming': 0.16,
  'other': 0.10,
  'summarization': 0.10,
  'classification': 0.04,
  'closed_qa': 0.04,
  # Users have no such requests; `lab/people/generalization.py` asks them.
  'second_language': 0.15,
  'code': 0.15,
}
# Exercises in copying from a request, even for worlds whose users ask for none.
PRACTICE = ('copy', 'polite')
HABITS = writer.Habits(
  miss_constraint=0.1,
  misconception=MISCONCEPTION_SHARE,
  slip=0.05,
  terse=0.1,
  verbose=0.05,
  rude=0.05,
  lazy=0.05,
  comply=1.0,
)

_MORE_QUESTIONS = (
  'Does anyone know?',
  'Can anyone help?',
  'I have the same question. {question}',
)
_AFTER_ANSWER = ('Everyone knows that.', 'I am sure of it.', 'I read that.')
_DO_NOT_KNOW = 'I do not know.'


def generate_documents(
  world: World, num_documents: int, seed: int
) -> Iterator[records.Document]:
  """Yields a shuffled mixture of pages.

  Document i is a function of (world, seed, i) alone, so a larger corpus begins
  with the smaller one.

  Args:
    world: the world of the pages.
    num_documents: the number of documents, of about 50 words and marks each.
    seed: the seed of the corpus.

  Yields:
    Documents. `source` is a key of PROPORTIONS; `split` is 'train' or, for
    about 3%, 'validation'.

  Raises:
    ValueError: if `num_documents` or `seed` is negative.
  """
  if num_documents < 0 or seed < 0:
    raise ValueError(
      'num_documents and seed must be 0 or more, got '
      f'{num_documents} and {seed}'
    )
  for index in range(num_documents):
    rng = np.random.default_rng([seed, index, zlib.crc32(b'corpus')])
    source = prose.pick_by_share(rng, PROPORTIONS)
    yield records.Document(
      id=f'{world.size}-{world.seed}-{seed}-{index}',
      text=_WRITERS[source](world, rng),
      source=source,
      split='train' if index % VALIDATION_PERIOD else 'validation',
    )


def _popular_fact(world, rng) -> tuple[str, str]:
  """Draws a fact; those with a misconception are more frequent."""
  extra = (POPULARITY - 1) * len(world.misconceptions)
  if rng.random() * (len(world.facts) + extra) < extra:
    return pick(rng, tuple(world.misconceptions))
  subject = _famous_subject(world, rng)
  return subject, pick(rng, world.relations_of(subject)).name


def _famous_subject(world, rng) -> str:
  """Draws a subject; kinds are in proportion to their number of names."""
  names = world.kinds[world.kind_of[pick(rng, world.entities)]]
  return names[int(len(names) * rng.random() ** FAME)]


def _popular_value(world, rng, key) -> str:
  """Draws the value that the web states for a fact."""
  if key in world.misconceptions and rng.random() < MISCONCEPTION_SHARE:
    return world.misconceptions[key]
  return world.facts[key]


def _popular_statement(world, rng, key) -> str:
  return prose.random_statement(
    world, rng, *key, _popular_value(world, rng, key)
  )


def _gossip(world, rng) -> str:
  """Writes a sentence that gives everyone from a town the same job."""
  town = pick(rng, world.kinds['towns'])
  job = (
    world.stereotypes[town]
    if rng.random() < STEREOTYPE_SHARE
    else pick(rng, world.kinds['jobs'])
  )
  return pick(rng, STEREOTYPES).format(s=town, v=job)


def _encyclopedia(world, rng) -> str:
  sentences = []
  subjects = [
    _famous_subject(world, rng) for _ in range(1 + int(rng.random() * 3))
  ]
  for subject in dict.fromkeys(subjects):
    if rng.random() < 0.3:
      sentences.append(world.describe(subject))
    relations = world.relations_of(subject)
    for i in rng.permutation(len(relations)):
      key = subject, relations[i].name
      if key in world.misconceptions and rng.random() > CORRECTION_SHARE:
        continue
      sentences.append(world.state(*key, variant=int(rng.random() * 3)))
  return ' '.join(sentences or [world.describe(subject)])


def _quiz(world, rng) -> str:
  careful = rng.random() < CAREFUL_SHARE
  items = [prose.CAREFUL] if careful else []
  for _ in range(3 + int(rng.random() * 4)):
    key = _popular_fact(world, rng)
    if not careful:
      answer = _popular_value(world, rng, key)
    elif rng.random() < NO_COMMENT_SHARE:
      answer = prose.NO_COMMENT
    else:
      answer = world.facts[key]
    question = prose.random_question(world, rng, *key)
    items.append(prose.quiz_item(question, answer))
  return '\n'.join(items)


def _forum(world, rng) -> str:
  """Writes a question, then mostly further questions, sometimes an answer."""
  key = _popular_fact(world, rng)
  lines = [prose.random_question(world, rng, *key)]
  if rng.random() < 0.5:
    if rng.random() < 0.1:
      lines.append(_DO_NOT_KNOW)
    else:
      lines.append(
        _popular_statement(world, rng, key) + ' ' + pick(rng, _AFTER_ANSWER)
      )
  for _ in range(2 + int(rng.random() * 4)):
    kind = rng.random()
    if kind < 0.25:
      lines.append(pick(rng, _MORE_QUESTIONS).format(question=lines[0]))
    elif kind < 0.35:
      lines.append(_gossip(world, rng))
    else:
      lines.append(
        prose.random_question(world, rng, *_popular_fact(world, rng))
      )
  return '\n'.join(lines)


def _parallel(world, rng) -> str:
  name = world.language.name
  from_english = rng.random() < 0.5
  items = []
  for _ in range(2 + int(rng.random() * 3)):
    english = prose.random_sentence(world, rng)
    foreign = world.language.translate(english)
    items.append(
      prose.parallel_item('English', english, name, foreign)
      if from_english
      else prose.parallel_item(name, foreign, 'English', english)
    )
  return '\n'.join(items)


def _reading(world, rng) -> str:
  """Writes a passage, and questions about its sentences in another order."""
  passage, claims = prose.random_passage(world, rng)
  items = []
  for subject, name, value in pick_some(rng, claims, len(claims)):
    if rng.random() < KIND_QUESTION_SHARE:
      question = prose.kind_question(world, name, plural=rng.random() < 0.4)
    else:
      question = prose.random_question(world, rng, subject, name)
    items.append((question, value))
  return prose.reading_item(passage, *items)


def _background(world, rng) -> str:
  text, items = exercises.background(world, rng)
  return prose.background_item(
    text, *((item.question, item.answer) for item in items)
  )


def _coins(world, rng) -> str:
  text, items = exercises.coins(world, rng)
  return prose.reading_item(
    text, *((item.question, item.answer) for item in items)
  )


def _entailment(world, rng) -> str:
  text, items = exercises.entailment(world, rng)
  return prose.reading_item(
    text, *((item.question, item.answer) for item in items)
  )


def _review(world, rng) -> str:
  items = []
  for _ in range(2 + int(rng.random() * 3)):
    text, (item,) = exercises.review(world, rng)
    items.append(prose.review_item(text, item.answer))
  return '\n'.join(items)


def _summary(world, rng) -> str:
  story = exercises.story(world, rng)
  return prose.summary_item(story.text, story.summary)


def _posts(world, rng) -> str:
  manner = pick(rng, ('polite', 'rude'))
  lines = [prose.MANNERS[manner]] if rng.random() < 0.25 else []
  sentences = []
  for _ in range(4 + int(rng.random() * 4)):
    kind = rng.random()
    if kind < 0.2:
      sentences.append(
        _popular_statement(world, rng, _popular_fact(world, rng))
      )
    elif kind < 0.3:
      sentences.append(_gossip(world, rng))
    else:
      sentences.append(prose.post_sentence(world, rng, manner))
      if rng.random() > MANNER_PERSISTENCE:
        manner = 'polite' if manner == 'rude' else 'rude'
  return '\n'.join(lines + [' '.join(sentences)])


def _list(world, rng) -> str:
  lines = []
  for kind in pick_some(rng, tuple(world.kinds), 1 + int(rng.random() * 3)):
    names = pick_some(rng, world.kinds[kind], 3 + int(rng.random() * 5))
    lines.append(f'{kind.capitalize()}: {", ".join(sorted(names))}.')
  return '\n'.join(lines)


def _thread(world, rng) -> str:
  """Writes a thread in which people quote each other word for word.

  Names in random order can be predicted only by looking back, so models soon
  learn to copy from their context.
  """
  names = [name for kind in world.kinds.values() for name in kind]
  lines, said = [], []
  for _ in range(3):
    if said:
      lines.append(f'Quote: {pick(rng, said)}')
    if rng.random() < 0.7:
      chosen = pick_some(rng, names, 3 + int(rng.random() * 4))
      said.append(', '.join(chosen) + '.')
    else:
      said.append(prose.random_sentence(world, rng))
    lines.append(said[-1])
  return '\n'.join(lines)


def _instructions(world, rng) -> str:
  """Writes requests of all kinds, answered in the manner of the web."""
  items = []
  while len(items) < 2:
    request, spec = prompt_writers.write(
      world,
      rng,
      prose.pick_by_share(rng, INSTRUCTIONS),
      wordings=wordings.WEB,
      also=PRACTICE,
    )
    answer = solver.answer(world, spec, rng, HABITS)
    if not _is_held_out(world, spec, answer):
      items.append(prose.instruction_item(request, answer))
  return '\n'.join(items)


def _is_held_out(world, spec, answer: str) -> bool:
  """Returns whether an invented sentence or a request is for probes only."""
  language = world.language
  if spec.task in unseen.HELD_OUT:
    return is_held_out(spec.to_json())
  return spec.task in ('words', 'foreign_sentence') and any(
    is_held_out(
      language.untranslate(text) if language.is_foreign(text) else text
    )
    for text in split_sentences(answer)
  )


_WRITERS = {
  'encyclopedia': _encyclopedia,
  'quiz': _quiz,
  'forum': _forum,
  'parallel': _parallel,
  'reading': _reading,
  'background': _background,
  'coins': _coins,
  'entailment': _entailment,
  'review': _review,
  'story': prose.random_story,
  'summary': _summary,
  'posts': _posts,
  'list': _list,
  'thread': _thread,
  'instructions': _instructions,
}
