"""Contrasts of an ablation's points and their verdicts, by hand."""

import pytest

from instructrl.reports import shapes
from instructrl.reports import verdicts

X, BY = 'ppo.ppo.kl_coef', 'ppo.ppo.ptx_coef'


def point(seed, value, *, x, by=1.0, diverged=False, **measures):
  return {
    'overrides': {X: x, BY: by},
    'seed': seed,
    'diverged': diverged,
    'measures': {'F1': value, **measures},
  }


def statement(*terms, region='positive', **other):
  return dict(
    statement='F1 rises',
    paper='52 to 61',
    measure='F1',
    terms=terms,
    region=region,
    **other,
  )


def judge(entry, points, lines=None):
  (row,) = shapes.judge([entry], points, lines or {})
  return row


RISING = [
  point(seed, value + 0.1 * seed, x=x)
  for seed in range(3)
  for x, value in ((0.1, 1.0), (0.2, 2.0), (0.3, 4.0 + 0.1 * seed))
]


def test_a_contrast_is_a_mean_over_seeds_with_students_interval():
  row = judge(statement((1, {X: (0.2, 0.3)}), (-1, {X: 0.1})), RISING)
  # The seeds give 2.0, 2.05 and 2.1; their standard error is 0.05 / sqrt(3).
  assert row.value == pytest.approx(2.05)
  half = 4.302653 * 0.05 / 3**0.5
  assert row.ci95 == pytest.approx((2.05 - half, 2.05 + half))
  assert (row.n, row.verdict) == (3, verdicts.SHOWN)
  assert row.quantity == 'F1: kl_coef 0.2, 0.3 minus kl_coef 0.1'


@pytest.mark.parametrize(
  'region, verdict',
  [
    ('positive', verdicts.SHOWN),
    ('negative', verdicts.NOT_SHOWN),
    ((2.0, 2.1), verdicts.UNDECIDED),
  ],
)
def test_the_verdict_is_that_of_the_interval(region, verdict):
  terms = (1, {X: (0.2, 0.3)}), (-1, {X: 0.1})
  assert judge(statement(*terms, region=region), RISING).verdict == verdict


def test_a_single_seed_shows_nothing():
  row = judge(statement((1, {X: 0.3}), (-1, {X: 0.1})), RISING[:3])
  assert (row.value, row.ci95, row.verdict) == (3.0, None, verdicts.UNDECIDED)


def test_the_best_point_is_compared_with_a_line():
  lines = {'F1': {'GPT': 5.0}}
  entry = statement((1, {X: (0.1, 0.2, 0.3)}, 'max'), (-1, 'GPT'))
  row = judge(entry, RISING, lines)
  assert row.value == pytest.approx(-0.8)
  assert row.quantity == 'F1: largest at kl_coef 0.1, 0.2, 0.3 minus GPT'
  assert judge(entry, RISING).verdict == verdicts.NOT_MEASURED


def test_a_checkpoint_is_named_by_its_step():
  path = '../ppo/checkpoints/00000040'
  row = judge(statement((1, {X: path})), [point(0, 1.0, x=path)])
  assert row.quantity == 'F1: kl_coef 40'


def test_every_field_of_a_term_must_match():
  points = [point(0, 1.0, x=0.1), point(0, 9.0, x=0.1, by=2.0)]
  row = judge(statement((1, {X: 0.1, BY: 1.0})), points)
  assert row.value == 1.0
  assert judge(statement((1, {X: 7.0})), points).value is None


def test_a_run_that_diverged_has_the_value_that_is_given():
  points = [point(0, 5.0, x=0.1), point(0, None, x=0.2, diverged=True)]
  terms = (1, {X: 0.1}), (-1, {X: 0.2})
  assert judge(statement(*terms), points).verdict == verdicts.NOT_MEASURED
  assert judge(statement(*terms, diverged=0.5), points).value == 4.5
  points[1]['diverged'] = False  # it was killed
  row = judge(statement(*terms, diverged=0.5), points)
  assert row.verdict == verdicts.NOT_MEASURED


def test_a_term_needs_a_point_of_each_of_its_values():
  entry = statement((1, {X: (0.2, 0.3)}), (-1, {X: 0.1}))
  found = [one for one in RISING if one['overrides'][X] != 0.3]
  assert judge(entry, found).verdict == verdicts.NOT_MEASURED


@pytest.mark.parametrize('equal', [0.1 + 0.2, 0.3])
def test_repetitions_with_one_value_show_nothing(equal):
  points = [point(seed, 0.3, x=0.1) for seed in range(3)]
  points += [point(seed, equal, x=0.2) for seed in range(3)]
  for region in ('positive', (-0.1, 0.1)):
    row = judge(statement((1, {X: 0.2}), (-1, {X: 0.1}), region=region), points)
    assert (row.verdict, row.ci95) == (verdicts.UNDECIDED, None)
    assert row.note == shapes.EQUAL


def test_folds_are_the_repetitions_and_measures_are_subtracted():
  """Seeds of a fold are averaged first (E.2)."""
  points = [
    point(seed, 70.0 + fold + seed, x=fold, out=68.0 + seed)
    for fold in range(5)
    for seed in range(3)
  ]
  row = judge(statement((1, {}), over=X, less='out'), points)
  assert row.value == pytest.approx(4.0) and row.n == 5
  half = 2.776445 * 2.5**0.5 / 5**0.5
  assert row.ci95 == pytest.approx((4 - half, 4 + half))
  assert row.quantity == 'F1 minus out: all points'
  row = judge(statement((1, {}), quantity='in words'), points)
  assert row.quantity == 'in words'


def test_a_term_may_have_a_measure_of_its_own():
  """A small policy's win rate is compared with another policy's, larger."""
  points = [
    point(seed, value, x=x, other=other + 0.01 * seed)
    for seed in range(3)
    for x, value, other in ((1, 0.5, 0.1), (2, 0.6, 0.2))
  ]
  row = judge(statement((1, {X: 1}), (-1, {X: 2}, 'mean', 'other')), points)
  assert row.value == pytest.approx(0.5 - 0.21)
  assert row.quantity == 'F1: kl_coef 1 minus other kl_coef 2'
  with_ratio = statement((1, {X: 1}), (-1, {X: 2}), ratio='other')
  row = judge(with_ratio, points)
  assert row.quantity == 'F1: kl_coef 1 minus kl_coef 2; other 1 : 1.91'
  entry = statement((1, {X: 1}), (-1, {X: 2}, 'mean', 'another'))
  (fault,) = shapes.faults([entry], ['F1', 'other'], [X])
  assert "terms must be one of F1, other; got 'another'" in fault


def test_a_statement_about_each_value_is_as_strong_as_the_weakest():
  points = [
    point(seed, value + 0.01 * seed, x=x, less=1.0)
    for seed in range(3)
    for x, value in ((0.1, 1.5), (0.2, 1.3), (0.3, 2.0))
  ]
  entry = statement((1, {}), less='less', each=X)
  row = judge(entry, points)
  assert row.verdict == verdicts.SHOWN
  assert row.value == pytest.approx(0.31)
  assert row.quantity == 'F1 minus less: kl_coef 0.2'
  assert (
    judge({**entry, 'quantity': 'F1'}, points).quantity == 'F1, kl_coef 0.2'
  )
  # One value that does not show it outweighs the others that do, and one that
  # was not measured outweighs both.
  points[1]['measures']['F1'] = 0.8
  assert judge(entry, points).verdict == verdicts.UNDECIDED
  for one in points[1::3]:
    one['measures']['F1'] = 0.5 + 0.01 * one['seed']
  assert judge(entry, points).verdict == verdicts.NOT_SHOWN
  for one in points[2::3]:
    one['measures'] = {}
  row = judge(entry, points)
  assert (row.verdict, row.quantity) == (
    verdicts.NOT_MEASURED,
    'F1 minus less: kl_coef 0.3',
  )


def test_mistakes_are_named():
  found = shapes.faults(
    [
      statement((1, {X: 1})),
      statement((1, {X: 1}), less='loss'),
      statement((1, {}), each='ppo.kl_coef'),
      statement(region='postive', unit='percent'),
      statement((1, {BY: 1}, 'median'), region=(0.5, -0.5), ratio='F1'),
      {'statement': 'x'},
    ],
    ['F1'],
    [X],
  )
  assert found == [
    "expected, 'F1 rises': less must be one of F1; got 'loss'",
    "expected, 'F1 rises': each must be a field of the points, one of "
    "ppo.ppo.kl_coef; got 'ppo.kl_coef'",
    "expected, 'F1 rises': region must be one of positive, negative or (low, "
    "high); got 'postive'",
    "expected, 'F1 rises': unit must be one of '%', 'points', 'bits', 'BLEU', "
    "'nats', 'epochs', 's', ''; got 'percent'",
    "expected, 'F1 rises': terms is empty",
    "expected, 'F1 rises': region must be one of positive, negative or (low, "
    'high); got (0.5, -0.5)',
    "expected, 'F1 rises': the third element of a term must be one of mean, "
    "max, min; got 'median'",
    "expected, 'F1 rises': a term names 'ppo.ppo.ptx_coef'; the fields of the "
    'points are ppo.ppo.kl_coef',
    "expected, 'F1 rises': ratio needs two terms with fields",
    "expected, 'x': the keys must be measure, paper, region, statement, terms, "
    'and may be diverged, each, less, over, quantity, ratio, '
    'unit; got statement',
  ]
