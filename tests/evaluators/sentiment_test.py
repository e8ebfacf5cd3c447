"""Outside judges of sentiment: by hand, and on policies of known sentiment."""

import math
import types

import pytest

from instructrl.data.sources import lookup
from instructrl.evaluators import sentiment
from tests.data.sources import film_packages


def test_naive_bayes_by_hand():
  """Four words are known; a word counts once a text."""
  judge = sentiment.naive_bayes(
    ['Good good film', 'good', 'bad film'], [True, True, False]
  )
  rest = math.log((2 + 3) / (3 + 3))
  good, film, bad = math.log(3) + rest, rest, math.log(1 / 2) + rest
  assert judge('GOOD, film!') == pytest.approx(good + film)
  assert judge('good good') == pytest.approx(good)
  assert judge('bad unknown') == pytest.approx(bad)
  assert judge('unknown') == judge('') == 0


def test_the_lexicon_adds_the_words_of_a_text():
  judge = sentiment.lexicon({'great': 3.0, "can't": -1.5})
  assert judge("Great, GREAT: I can't") == 4.5
  assert judge('neither') == 0


class FakeLM:
  def __init__(self, *answers):
    self._answers = answers

  def respond(self, prompts, *, temperature, seed):
    return [self._answers[i % len(self._answers)] for i in range(len(prompts))]


@pytest.fixture(name='packages')
def _packages(tmp_path):
  return film_packages.write(tmp_path / 'packages', count=400)


def evaluate(packages, policies, **fields):
  """Returns the results of 8 prompts; rankings are those of the packages."""
  spec = f'film_reviews/rankings:{packages}'
  data = types.SimpleNamespace(
    records=lambda name, split: lookup.load(spec).records
  )
  context = types.SimpleNamespace(
    seed=0,
    prompts=lambda split: [split] * 99,
    kept=lambda name, make: make(),
    data=lambda name: data,
  )
  evaluator = sentiment.Evaluator(
    context, packages=str(packages), num_prompts=8, **fields
  )
  return evaluator.run(policies).results


def test_answers_are_judged_and_compared(packages):
  policies = {
    'sft': FakeLM('great', 'dull'),
    'ppo': FakeLM('great'),
    'ppo_ptx': FakeLM('unknown'),
  }
  found = evaluate(packages, policies)
  assert set(found) == {'naive_bayes', 'lexicon'}
  for judge in found.values():
    values = {name: s['value'] for name, s in judge['policies'].items()}
    assert values == {'sft': 0.5, 'ppo': 1.0, 'ppo_ptx': 0.5}
    assert judge['policies']['ppo']['n'] == 8
    low, high = judge['difference']['ppo']['sft']['ci95']
    assert 0 < low <= 0.5 <= high


def test_judges_are_measured_on_the_held_out_rankings(packages):
  """The lexicon lacks three of the six words."""
  found = evaluate(packages, {'sft': FakeLM('a')}, accuracy=True)['judges']
  found = found['rankings']['judges']
  assert found['naive_bayes']['value'] == 1
  assert 0.7 < found['lexicon']['value'] < 1


def test_a_missing_package_is_named_before_anything_is_sampled(tmp_path):
  with pytest.raises(ValueError, match='pip download vaderSentiment'):
    evaluate(tmp_path, {})
