"""Lengths in tokens: what is dropped, cut and drawn, with counts."""

import dataclasses
import types

import pytest

from instructrl.data.curate import fitting
from instructrl.data.curate import parts
from instructrl.data.curate.fitting import Lengths
from instructrl.data.records import pick
from tests.data import toys

# A token a word; a prompt has two more.
TOK = types.SimpleNamespace(
  prompt=lambda text, turns=(): [1, *map(len, text.split()), 4],
  response=lambda text: [*map(len, text.split()), 2],
  eos_id=2,
)


def ranking(*responses, ranks=None, **fields):
  return toys.ranked(
    'p', responses=responses, ranks=ranks or range(len(responses)), **fields
  )


def tokenized(rankings, **lengths):
  drops, made = parts.Drops(), []
  lengths = {'prompt_len': 9, 'response_len': 3, 'row_len': 12, **lengths}
  for row in rankings:
    chosen = fitting.choose(row, TOK, Lengths(**lengths), 0, drops)
    if chosen:
      whole = fitting.in_tokens(pick(row, chosen), TOK, lengths['response_len'])
      made.append(dataclasses.replace(whole, prompt_tokens=()))
  return made, drops.counts


def test_prompts_that_do_not_fit_are_dropped_and_counted():
  rows = [toys.ranked(text, ('a', 'bb')) for text in ('a b', 'a b c', 'x')]
  long = toys.prompt('x y z')
  made = fitting.fit(
    parts.Curated(
      demonstrations=[toys.shown('a b c')],
      rankings=rows,
      prompts={'train': [toys.prompt('x'), long], 'ppo': [long]},
      documents=[],
      drops=parts.Drops(),
      notes=[],
    ),
    TOK,
    Lengths(prompt_len=4, response_len=9, row_len=13),
    0,
  )
  assert [r.prompt.text for r in made.rankings] == ['a b', 'x']
  assert made.demonstrations == []
  assert made.prompts == {'train': [toys.prompt('x')]}
  reason = 'prompt has more than 4 tokens'
  assert made.drops.counts == {
    ('demonstrations', reason): 1,
    ('rankings', reason): 1,
    ('prompts', reason): 1,  # in two splits, and counted once
  }
  assert made.drops.first['rankings', reason] == 'id-a b c'


def test_long_responses_are_left_out_of_their_ranking():
  made, counts = tokenized(
    [
      ranking('aa bb', 'a b c', 'dddd', ranks=(2, 0, 1)),
      ranking('a b c', 'a b c d', 'e'),
    ]
  )
  assert [r.responses for r in made] == [('aa bb', 'dddd')]
  assert made[0].response_tokens == ((2, 2, 2), (4, 2))
  assert made[0].ranks == (1, 0)  # dense again
  assert len(made[0].sources) == len(made[0].temperatures) == 2
  assert counts == {
    ('responses', 'ranked, left out: more than 3 tokens'): 3,
    ('rankings', 'fewer than 2 responses of at most 3 tokens'): 1,
  }


def test_or_they_are_cut_and_lose_their_end():
  row = ranking('aa bb', 'a b c', 'dddd', ranks=(2, 0, 1))
  made, counts = tokenized([row], long_responses='cut')
  assert made == [
    dataclasses.replace(row, response_tokens=((2, 2, 2), (1, 1, 1), (4, 2)))
  ]
  assert counts == {('responses', 'ranked, cut: more than 3 tokens'): 1}


@pytest.mark.parametrize('most', [2, 3, 5, 8])
def test_of_too_many_responses_a_best_and_a_worst_stay(most):
  words = [letter * i for i, letter in enumerate('abcdefgh', 1)]
  row = ranking(*words, ranks=(3, 1, 0, 0, 4, 2, 4, 1))
  made, counts = tokenized([row], max_responses=most)
  got = made[0]
  assert len(got.responses) == most == len(got.response_tokens)
  first = {text[0] for text in got.responses}
  assert set('cd') & first and set('eg') & first
  assert list(got.responses) == sorted(got.responses)
  rank = dict(zip(row.responses, row.ranks))
  order = sorted({rank[text] for text in got.responses})
  assert got.ranks == tuple(order.index(rank[text]) for text in got.responses)
  assert counts == (
    {('responses', f'ranked, left out: K above {most}'): 8 - most}
    if most < 8
    else {}
  )


def test_the_draw_follows_from_the_seed_and_the_prompt():
  rows = [ranking(*'abcdefgh', id=str(i)) for i in range(6)]
  draw = lambda seed: [(*fitting.subsample(r, 4, seed),) for r in rows]
  assert draw(0) == draw(0) != draw(1)
  assert len(set(draw(0))) > 1


def test_a_ranking_that_is_one_tie_keeps_two_different_responses():
  row = ranking(*'abcd', ranks=(0, 0, 0, 0))
  got = pick(row, fitting.subsample(row, 2, 0))
  assert len(set(got.responses)) == 2 and got.ranks == (0, 0)


@pytest.mark.parametrize('action', fitting.LONG_RESPONSES)
def test_long_demonstrations_are_dropped_or_cut_and_counted(action):
  """Row 'r' has two tokens more of its prompt, and so less room."""
  rows = [
    toys.shown('p', 'a b'),
    toys.shown('q', 'a b c'),
    toys.shown('r r r', 'a b'),
  ]
  drops = parts.Drops()
  lengths = Lengths(9, 3, row_len=6, long_responses=action)
  made = [r for r in rows if fitting.demonstrated(r, TOK, lengths, drops)]
  if action == 'cut':
    assert made == rows
    assert drops.counts == {
      ('responses', 'demonstrated, cut: more than 3 tokens'): 1,
      ('responses', 'demonstrated, cut: more than 2 tokens'): 1,
    }
  else:
    assert made == rows[:1]
    assert drops.counts == {
      ('demonstrations', 'response has more than 3 tokens'): 1,
      ('demonstrations', 'response has more than 2 tokens'): 1,
    }


def cut_rankings(*balances):
  """Rankings of two, one of them cut: it is better (1), worse (-1), equal."""
  rows = [
    ranking('a b c', 'd', ranks={1: (0, 1), -1: (1, 0), 0: (0, 0)}[balance])
    for balance in balances
  ]
  made, _ = tokenized(rows, long_responses='cut')
  assert [r.response_tokens[0] for r in made] == [(1, 1, 1)] * len(made)
  return made


def test_a_preference_for_cut_responses_is_warned_of():
  found = fitting.cut_preference(cut_rankings(*[1] * 22, *[-1] * 3), TOK.eos_id)
  assert 'in 100% of 25 pairs exactly one response is cut' in found
  assert 'it is preferred in 88% of them' in found
  less = fitting.cut_preference(cut_rankings(*[-1] * 6), TOK.eos_id)
  assert 'it is preferred in 0% of them' in less


@pytest.mark.parametrize(
  'rankings',
  [
    cut_rankings(*[1, -1] * 30, 1),
    cut_rankings(*[0] * 30),
    cut_rankings(1, 1, 1, 1),  # chance gives four of four in one case of eight
    [tokenized([ranking('a b c', *'defgh')], long_responses='cut')[0][0]],
    tokenized([ranking('a', 'b')] * 30)[0],
    [],
  ],
  ids=['even', 'ties', 'few', 'one ranking', 'none cut', 'empty'],
)
def test_no_preference_for_cut_responses_is_not_warned_of(rankings):
  assert fitting.cut_preference(rankings, TOK.eos_id) is None


@pytest.mark.parametrize(
  'ranks, responses, kept',
  [
    ((0, 1), 'aa', [0]),
    ((0, 0), 'aa', [0, 1]),
    ((0, 1, 2), 'aab', [0, 2]),
    ((2, 1, 0), 'aab', [0, 2]),
    ((0, 1, 2), 'aba', [1]),  # b is worse than a, and better
    ((0, 0, 1), 'aba', [1]),  # b is as good as a, and better
    ((0, 1, 1), 'aba', [1]),
    ((0, 1, 2, 3), 'aabb', [0, 2]),
    ((0, 1, 2, 3), 'abab', []),
    ((0, 1, 1, 2, 3), 'baacc', [0, 1, 2, 3]),
  ],
)
def test_equal_responses_with_different_ranks(ranks, responses, kept):
  assert fitting.learnable(ranks, responses) == kept


def test_responses_that_are_equal_after_the_cut_are_counted():
  made, counts = tokenized(
    [
      ranking('aa bb cc d', 'aa bb cc ddd'),
      ranking('aa bb cc d', 'a', 'aa bb cc e'),
      ranking('aa bb cc d', 'aa bb cc ddd', 'a'),
      ranking('a b', 'a c d e'),
    ],
    long_responses='cut',
  )
  assert [(r.response_tokens, r.ranks) for r in made] == [
    (((2, 2, 2), (1, 2)), (0, 1)),
    (((1, 1, 2), (1, 1, 1)), (0, 1)),
  ]
  reason = 'ranked, left out: equal tokens with different ranks'
  assert counts['responses', reason] == 4
  assert counts['rankings', 'responses have equal tokens'] == 2
