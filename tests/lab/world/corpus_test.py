"""Tests of the corpus: what its pages say, how often, and of what kind."""

import collections
import re

import numpy as np
import pytest

from instructrl.lab.people import prompts
from instructrl.lab.world import corpus
from instructrl.lab.world import exercises
from instructrl.lab.world import prose
from instructrl.lab.world.facts import is_held_out
from instructrl.lab.world.facts import make_world
from instructrl.lab.world.facts import split_sentences

# Sources whose passages contradict the world.
WITH_PASSAGES = ('reading', 'background', 'entailment', 'instructions')
_ITEM = re.compile(r'Question: (.*)\nAnswer: (.*)')


@pytest.fixture(scope='module')
def world():
  return make_world(0, 'tiny')


@pytest.fixture(scope='module')
def documents(world):
  return list(corpus.generate_documents(world, 9000, seed=1))


def of_source(documents, source):
  found = [document.text for document in documents if document.source == source]
  assert found
  return found


def claims_of(world, pages):
  return [claim for text in pages for claim in world.parse(text).claims]


def test_document_i_is_a_function_of_world_seed_and_i(world, documents):
  again = list(corpus.generate_documents(world, 40, seed=1))
  assert again == documents[:40]
  other = list(corpus.generate_documents(world, 40, seed=2))
  assert all(a.text != b.text for a, b in zip(again, other))


def test_ids_and_splits(documents):
  assert len({document.id for document in documents}) == len(documents)
  splits = collections.Counter(document.split for document in documents)
  assert set(splits) == {'train', 'validation'}
  assert 0.025 < splits['validation'] / len(documents) < 0.035


def test_proportions(documents):
  assert sum(corpus.PROPORTIONS.values()) == pytest.approx(1)
  counts = collections.Counter(document.source for document in documents)
  for source, share in corpus.PROPORTIONS.items():
    # Four standard deviations of a binomial share.
    slack = 4 * np.sqrt(share * (1 - share) / len(documents))
    assert abs(counts[source] / len(documents) - share) < slack


def test_documents_are_short(documents):
  lengths = np.array(
    [len(re.findall(r'\w+|[^\w ]', document.text)) for document in documents]
  )
  assert lengths.max() < 130
  assert np.mean((lengths >= 20) & (lengths <= 120)) > 0.95


def test_few_distinct_words(documents):
  words = {
    word.lower()
    for document in documents
    for word in re.findall(r'[A-Za-z]+', document.text)
  }
  assert len(words) <= 450


def test_misconceptions_are_popular_on_the_web_only(world, documents):
  stated = collections.Counter()
  for document in documents:
    if document.source in WITH_PASSAGES:
      continue
    found = [
      ((claim.subject, claim.relation), claim.value)
      for claim in world.parse(document.text).claims
    ]
    found += [
      (world.parse_question(question), answer.strip('.'))
      for question, answer in _ITEM.findall(document.text)
      if document.source == 'quiz' and answer != prose.NO_COMMENT
    ]
    for key, value in found:
      assert value in (world.facts[key], world.misconceptions.get(key))
      if key in world.misconceptions:
        web = document.source in corpus.WEB_SOURCES and not (
          document.text.startswith(prose.CAREFUL)
        )
        stated[web, value == world.misconceptions[key]] += 1
  assert stated[False, True] == 0 and stated[False, False] > 50
  assert 2.4 < stated[True, True] / stated[True, False] < 3.6
  # The truth of encyclopedias included, the misconception still leads.
  truths = stated[True, False] + stated[False, False]
  assert stated[True, True] / truths > 1.1


def test_careful_quizzes_repeat_no_misconception(world, documents):
  pages = of_source(documents, 'quiz')
  careful = [text for text in pages if text.startswith(prose.CAREFUL)]
  assert 0.1 < len(careful) / len(pages) < 0.2
  answers = [
    (world.facts[world.parse_question(question)], answer)
    for text in careful
    for question, answer in _ITEM.findall(text)
  ]
  silent = [answer == prose.NO_COMMENT for _, answer in answers]
  assert 0.2 < np.mean(silent) < 0.3
  assert all(
    no or fact == answer for no, (fact, answer) in zip(silent, answers)
  )


def test_every_review_has_the_label_of_most_opinions(documents):
  for text in of_source(documents, 'review'):
    for opinions, label in re.findall(r'Text: (.*)\nLabel: (.*)', text):
      votes = [
        (word in exercises.GOOD) != bool(no)
        for no, word in re.findall(r'was (not )?(\w+)', opinions)
      ]
      assert label == exercises.SENTIMENTS[2 * sum(votes) < len(votes)]


def test_encyclopedia_covers_nearly_every_fact(world, documents):
  claims = claims_of(world, of_source(documents, 'encyclopedia'))
  assert all(claim.true for claim in claims)
  missing = set(world.facts) - {(c.subject, c.relation) for c in claims}
  # The least famous subjects with a misconception, which few pages correct.
  assert len(missing) < 4 and missing < set(world.misconceptions)


def test_forum_questions_are_followed_by_questions(world, documents):
  lines = [text.splitlines() for text in of_source(documents, 'forum')]
  assert all(world.parse_question(page[0]) for page in lines)
  assert np.mean([page[1].endswith('?') for page in lines]) > 0.4
  answered = [page for page in lines if world.parse(page[1]).claims]
  assert 0.2 < len(answered) / len(lines) < 0.6
  for page in answered:
    claim = world.parse(page[1]).claims[0]
    assert (claim.subject, claim.relation) == world.parse_question(page[0])


def test_reading_answers_stand_in_the_passage(world, documents):
  pages, forms, plurals = of_source(documents, 'reading'), [], 0
  for exercise in '\n'.join(pages).split('Passage: ')[1:]:
    passage, rest = exercise.split('\n', 1)
    claims = world.parse(passage).claims
    assert len(claims) in (2, 3)
    assert not any(claim.true or claim.misconception for claim in claims)
    items = _ITEM.findall(rest)
    assert len(items) == len(claims)
    for question, answer in items:
      right = {(c.subject, c.relation): c.value for c in claims}
      for plural in (False, True):
        right |= {
          prose.kind_question(world, c.relation, plural=plural): c.value
          for c in claims
        }
      assert answer == right[world.parse_question(question) or question]
      forms.append(world.parse_question(question) is None)
      plurals += ' are named?' in question
    assert len({answer for _, answer in items}) == len(items)
    # One key is enough: the subjects differ, and so do the kinds of values.
    assert len({claim.subject for claim in claims}) == len(claims)
    kinds = {world.kind_of[claim.value] for claim in claims}
    assert len(kinds) == len(claims)
    assert not is_held_out(passage)
  assert 0.6 < np.mean(forms) < 0.8
  assert 0.3 < plurals / np.sum(forms) < 0.5


def test_threads_quote_word_for_word(documents):
  for text in of_source(documents, 'thread'):
    lines = text.splitlines()
    quotes = [i for i, line in enumerate(lines) if line.startswith('Quote: ')]
    assert len(quotes) == 2
    for i in quotes:
      assert lines[i].removeprefix('Quote: ') in lines[:i]


def test_parallel_lines_translate_each_other(world, documents):
  directions, lengths = set(), set()
  for text in of_source(documents, 'parallel'):
    lines = text.splitlines()
    for first, second in zip(lines[::2], lines[1::2]):
      pairs = dict(line.split(': ') for line in (first, second))
      assert world.language.translate(pairs['English']) == pairs['Lumo']
      assert not is_held_out(pairs['English'])
      lengths.add(len(pairs['English'].split()))
      directions.add(first.split(':')[0])
  assert directions == {'English', 'Lumo'}
  # Without, with one and with two adjectives.
  assert lengths == {5, 6, 7}


def test_rude_beginnings_continue_rudely(world, documents):
  halves = []
  for text in of_source(documents, 'posts'):
    sentences = [
      s for s in split_sentences(text) if s not in prose.MANNERS.values()
    ]
    half = len(sentences) // 2
    halves.append(
      [
        world.rude_count(' '.join(part)) > 0
        for part in (sentences[:half], sentences[half:])
      ]
    )
  rude, polite = (
    [second for first, second in halves if first == manner]
    for manner in (True, False)
  )
  assert np.mean(rude) > 0.75
  assert np.mean(polite) < 0.35
  others = [
    d.text for d in documents if d.source not in ('posts', 'instructions')
  ]
  assert not any(world.rude_count(text) for text in others)


def test_gossip_prefers_the_stereotype(world, documents):
  pattern = re.compile(r'(?:Some|Every)one from (\w+) (?:must be|is) a (\w+)\.')
  found = [
    pair
    for document in documents
    for pair in pattern.findall(document.text)
    if pair[1] in world.kinds['jobs']
  ]
  share = np.mean([world.stereotypes[town] == job for town, job in found])
  assert 0.8 < share < 0.95
  assert {town for town, _ in found} == set(world.kinds['towns'])


def test_instruction_pages_ask_for_everything_in_words_of_their_own(
  world, documents
):
  requests = re.findall(
    r'Instruction: (.*?)\nResponse: .',
    '\n'.join(of_source(documents, 'instructions')),
    re.DOTALL,
  )
  asked = {prompts.dedup_key(request) for request in requests}
  users = prompts.generate_prompts(world, 3000, seed=0)
  plain = {
    name
    for u in users
    if u.use_case == 'open_qa'
    for name in [prompts.dedup_key(u.text)]
  }
  assert len(asked) > 500
  # A bare question has no other words.
  assert not asked & {prompts.dedup_key(u.text) for u in users} - plain
  for words in (
    'times',
    'In Lumo',
    'Polite or rude?',
    'named?',
    'In one sentence',
    'Text: ',
    'sentence with',
  ):
    assert any(words in request for request in requests), words


@pytest.mark.parametrize('size', ['micro', 'small'])
def test_other_sizes(size):
  world = make_world(4, size)
  documents = list(corpus.generate_documents(world, 200, seed=0))
  assert {d.source for d in documents} == set(corpus.PROPORTIONS)


def test_bad_arguments_are_refused(world):
  with pytest.raises(ValueError, match='must be 0 or more'):
    list(corpus.generate_documents(world, -1, seed=0))
  with pytest.raises(ValueError, match='must be 0 or more'):
    list(corpus.generate_documents(world, 1, seed=-3))
