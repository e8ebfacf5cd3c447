import numpy as np
import pytest
import sacrebleu

from instructrl.evaluators import statistics


def test_wilson_interval_equals_published_example():
  # Newcombe 1998, table I: 81 of 263 and 15 of 148.
  np.testing.assert_allclose(
    statistics.wilson_interval(81, 263), [0.2553, 0.3662], atol=1e-4
  )
  np.testing.assert_allclose(
    statistics.wilson_interval(15, 148), [0.0624, 0.1605], atol=1e-4
  )


def test_wilson_interval_has_width_at_the_ends():
  low, high = statistics.wilson_interval(0, 20)
  assert low == 0 and 0.1 < high < 0.2
  with pytest.raises(ValueError, match='21'):
    statistics.wilson_interval(21, 20)


def test_difference_interval_equals_published_example():
  # Newcombe 1998 (interval estimation for the difference), 56/70 - 48/80,
  # method 10: .0524 to .3339.
  left = (56 / 70, statistics.wilson_interval(56, 70))
  right = (48 / 80, statistics.wilson_interval(48, 80))
  np.testing.assert_allclose(
    statistics.difference_interval(left, right), [0.0524, 0.3339], atol=1e-4
  )


def test_bootstrap_interval_covers_like_the_normal_one():
  values = np.random.default_rng(0).normal(3, 2, size=400)
  summary = statistics.summarize(statistics.mean(values), seed=1)
  half = statistics.Z95 * values.std() / np.sqrt(len(values))
  assert summary['value'] == pytest.approx(values.mean())
  assert summary['n'] == 400
  np.testing.assert_allclose(
    summary['ci95'], [values.mean() - half, values.mean() + half], atol=0.03
  )


def test_bootstrap_is_a_function_of_seed_and_number_of_items():
  first = statistics.mean([0.0, 1.0, 1.0, 0.5, 3.0])
  second = statistics.mean([5.0, 2.0, 1.0, 0.5, 3.0])
  draw = lambda measure, seed: statistics.replicates(
    measure, seed=seed, num_resamples=50
  )
  np.testing.assert_array_equal(draw(first, 3), draw(first, 3))
  assert (draw(first, 3) != draw(first, 4)).any()
  both = statistics.mean(first.stats[:, 0] + second.stats[:, 0])
  np.testing.assert_allclose(
    draw(both, 3), draw(first, 3) + draw(second, 3), atol=1e-12
  )


def test_differences_are_paired():
  """The item effect is far larger than the difference, and cancels."""
  items = np.random.default_rng(0).normal(0, 100, size=50)
  summaries, differences = statistics.compare(
    {'old': statistics.mean(items), 'new': statistics.mean(items + 1)}, seed=0
  )
  assert list(differences) == ['new'] and list(differences['new']) == ['old']
  np.testing.assert_allclose(
    differences['new']['old']['ci95'], [1, 1], atol=1e-6
  )
  assert np.ptp(summaries['new']['ci95']) > 10


def test_items_that_share_a_fact_are_drawn_together():
  """Ten copies of each of four outcomes say as much as four outcomes."""
  outcomes = [1.0, 0.0, 1.0, 0.0]
  facts = np.repeat(list('abcd'), 10)
  many = statistics.mean(np.repeat(outcomes, 10), clusters=facts)
  few = statistics.mean(outcomes, clusters=list('abcd'))
  alone = statistics.mean(np.repeat(outcomes, 10))
  assert many.value == few.value == 0.5 and many.num_items == 40
  np.testing.assert_allclose(
    statistics.replicates(many, seed=0), statistics.replicates(few, seed=0)
  )
  width = lambda measure: np.ptp(statistics.summarize(measure, seed=0)['ci95'])
  assert width(many) == width(few) > 2 * width(alone)


def test_clusters_weigh_by_their_items():
  measure = statistics.mean([1.0, 1.0, 1.0, 0.0], clusters=['a', 'b', 'a', 'b'])
  np.testing.assert_array_equal(measure.drawn, [[2, 2], [1, 2]])
  assert measure.value == 0.75
  with pytest.raises(ValueError, match='4 items has 2 clusters'):
    statistics.mean([1.0] * 4, clusters=['a', 'b'])


def test_equal_answers_to_few_questions_leave_the_difference_open():
  few = {name: statistics.mean([1.0, 0.0, 1.0, 0.0]) for name in 'ab'}
  many = {name: statistics.mean([1.0, 0.0] * 500) for name in 'ab'}
  half = lambda measures: statistics.compare(measures, seed=0)[1]['b']['a']
  assert half(few)['value'] == 0
  assert half(few)['ci95'] == pytest.approx([-0.4899, 0.4899], abs=1e-4)
  assert half(many)['ci95'] == pytest.approx([-0.0038, 0.0038], abs=1e-4)


def test_equal_outcomes_of_clusters_do_not_give_an_interval_of_width_zero():
  measure = statistics.mean([1.0] * 20, clusters=list('ab') * 10)
  low, high = statistics.summarize(measure, seed=0)['ci95']
  assert high == 1 and low == pytest.approx(
    1 - statistics.wilson_interval(0, 2)[1]
  )


def test_compare_refuses_different_items():
  with pytest.raises(ValueError, match='different numbers'):
    statistics.compare(
      {'a': statistics.mean([1.0, 2.0]), 'b': statistics.mean([1.0])}, seed=0
    )


def test_mean_leaves_out_items_it_does_not_apply_to():
  measure = statistics.mean([1.0, 0.0, 1.0, 1.0], [True, True, False, True])
  summary = statistics.summarize(measure, seed=0)
  assert summary['value'] == pytest.approx(2 / 3)
  assert summary['n'] == 3
  none = statistics.mean([0.0, 0.0], [False, False])
  assert statistics.summarize(none, seed=0) == {
    'value': None,
    'ci95': None,
    'n': 0,
  }


def test_equal_outcomes_do_not_give_an_interval_of_width_zero():
  measure = statistics.mean([1.0] * 10)
  low, high = statistics.proportion_interval(measure, seed=0)
  assert low < 0.75 and high == 1


def test_ratio_is_sum_over_sum():
  assert statistics.ratio([10.0, 2.0], [5.0, 1.0]).value == 2
  assert statistics.ratio([10.0, 0.0], [1.0, 9.0]).value == 1


def test_measure_refuses_what_it_cannot_average():
  with pytest.raises(ValueError, match='N > 0'):
    statistics.Measure(np.zeros([0, 2]), lambda sums: sums[:, 0])
  with pytest.raises(ValueError, match='finite'):
    statistics.mean([1.0, float('nan')])


def test_entropy_in_bits():
  assert statistics.entropy_bits(np.log([0.5, 0.5])) == pytest.approx(1)
  assert statistics.entropy_bits(np.log([0.25] * 4)) == pytest.approx(2)
  assert statistics.entropy_bits([0.0, -1e9]) == pytest.approx(0)
  # Normalised: only the differences of the log probabilities count.
  assert statistics.entropy_bits([-50.0, -50.0]) == pytest.approx(1)


@pytest.mark.parametrize(
  'prediction,answers,expected',
  [
    ('The red barn.', ['red barn'], 1.0),
    ('red', ['red barn'], 2 / 3),
    ('a blue barn', ['red barn', 'blue'], 2 / 3),
    ('', ['red'], 0.0),
    ('', [''], 1.0),
    ('red red', ['red'], 2 / 3),
  ],
)
def test_token_f1(prediction, answers, expected):
  assert statistics.token_f1(prediction, answers) == pytest.approx(expected)


def test_bleu_equals_sacrebleu(caplog):
  hypotheses = ['the cat sat on the mat today', 'a dog ran home quickly', 'x']
  references = ['the cat sat on a mat today', 'a dog ran home slowly', 'y z']
  measure = statistics.bleu(hypotheses, references)
  expected = sacrebleu.corpus_bleu(hypotheses, [references]).score
  assert measure.value == pytest.approx(expected)
  assert 10 < expected < 90
  summary = statistics.summarize(measure, seed=0)
  assert summary['ci95'][0] < expected < summary['ci95'][1]
  assert not caplog.records  # a warning a sentence would drown a study


def test_bleu_of_copies_is_100_and_of_nothing_is_0():
  texts = ['one two three four five', 'six seven eight nine ten']
  assert statistics.bleu(texts, texts).value == pytest.approx(100)
  assert statistics.bleu(['', ''], texts).value == 0
