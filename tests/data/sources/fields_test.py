"""Fields: checks, dialogues, and ranks from scores."""

import math

import pytest

from instructrl.data.sources import fields
from instructrl.data.sources.fields import Malformed
from instructrl.data.sources.fields import Unusable


@pytest.mark.parametrize(
  'row, reason',
  [
    ({}, "lacks the field 'a'"),
    ({'a': None}, "lacks the field 'a'"),
    ({'a': 3}, 'a is a number, not text'),
    ({'a': [1]}, 'a is a list'),
    ({'a': ' \n'}, 'a is empty'),
    ([1], 'is a list, not an object'),
    (None, 'is null, not an object'),
  ],
)
def test_texts_that_are_none(row, reason):
  with pytest.raises(Malformed, match=reason):
    fields.text(row, 'a')


def test_optional_texts():
  assert fields.optional_text({'a': None}, 'a', 'b') == 'b'
  assert fields.optional_text({'a': 17}, 'a') == '17'
  with pytest.raises(Malformed, match='a is true or false, not text'):
    fields.optional_text({'a': True}, 'a')


def test_numbers():
  assert fields.number('4.5', 'a') == 4.5
  for value in ('x', None, True, math.nan, math.inf, 'nan', [], 10**400):
    with pytest.raises(Malformed, match='^a is .*number'):
      fields.number(value, 'a')


@pytest.mark.parametrize(
  'scores, margin, ranks',
  [
    ((3, 1, 2), 0, (0, 2, 1)),
    ((1, 1, 2), 0, (1, 1, 0)),
    ((5, 5, 5), 0, (0, 0, 0)),
    ((-1.0, -1.4, -1.5), 0.5, (0, 0, 1)),  # a difference of .5 is no tie
    ((0.0, -0.3, -0.6, -0.9), 0.5, (0, 0, 1, 1)),  # chains are cut
    ((0.0, -0.3, -0.6, -0.9), 9.0, (0, 0, 0, 0)),
    ((0.0, -0.6, -1.2, -1.3, -1.8), 0.5, (0, 1, 2, 2, 3)),
  ],
)
def test_ranks_of_scores(scores, margin, ranks):
  assert fields.ranks_of_scores(scores, margin) == ranks


def test_no_two_of_a_tie_differ_by_the_margin():
  scores = [math.sin(i * 7.3) * 4 for i in range(60)]
  ranks = fields.ranks_of_scores(scores, 0.5)
  for a, rank_a in zip(scores, ranks):
    for b, rank_b in zip(scores, ranks):
      if rank_a == rank_b:
        assert abs(a - b) < 0.5
      else:
        assert (rank_a < rank_b) == (a > b)


def test_dense_ranks():
  assert fields.dense_ranks([7, 1, 7, 3]) == (2, 0, 2, 1)


DIALOGUE = (
  '\n\nHuman: Hello.\nYou?\n\nAssistant: I am.\n\nHuman: What?'
  '\n\nAssistant: An assistant.'
)


def test_the_template_gives_the_dialogue_back():
  prompt, response = fields.split_dialogue(DIALOGUE)
  assert prompt == 'Hello.\nYou?\n\nAssistant: I am.\n\nHuman: What?'
  assert response == 'An assistant.'
  assert f'\n\nHuman: {prompt}\n\nAssistant: {response}' == DIALOGUE


@pytest.mark.parametrize(
  'dialogue, reason',
  [
    ('Hello', 'does not begin'),
    ('\n\nHuman: Hello', 'has no'),
    ('\n\nHuman: a\n\nAssistant: b\n\nHuman: c', 'does not end'),
    ('\n\nHuman: a\n\nAssistant: ', 'the response is empty'),
    ('\n\nHuman: \n\nAssistant: b', 'the prompt is empty'),
  ],
)
def test_malformed_dialogues(dialogue, reason):
  with pytest.raises(Malformed, match=reason):
    fields.split_dialogue(dialogue)


def test_rankings():
  prompt = fields.prompt('Why?', split='train')
  assert prompt.id == fields.text_id('Why?') == '5d8a995a6fa7cf7c'
  got = fields.ranking(
    prompt, ['a', '', 'c'], [3.5, 3.5, 1], humans=[True, False, False]
  )
  assert got.ranks == (1, 1, 0) and got.response_tokens == ()
  assert got.temperatures == (0.0, 1.0, 1.0)
  assert got.sources == ('unknown',) * 3
  with pytest.raises(Unusable, match='has 1 responses'):
    fields.ranking(prompt, ['a'], [0])
  with pytest.raises(Malformed, match='all responses are empty'):
    fields.ranking(prompt, ['', ' '], [0, 1])
