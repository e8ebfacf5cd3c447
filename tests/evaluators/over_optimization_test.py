"""Gains and accuracies of reward models on answers, by hand."""

import types

import numpy as np
import pytest

from instructrl.evaluators import over_optimization
from instructrl.evaluators import statistics
from instructrl.runtime.errors import ConfigError

N, K = 3, 2


def test_a_gain_is_in_standard_deviations_of_the_reference():
  reference = np.asarray([[1.0, 3.0], [1.0, 3.0]])  # deviation 1
  values = np.asarray([[4.0, 6.0], [0.0, 2.0]])
  np.testing.assert_allclose(
    over_optimization.gain(values, 10 * reference), [-1.5, -1.9]
  )
  equal = np.ones((2, 2))
  np.testing.assert_allclose(over_optimization.gain(values, equal), [4, 0])


def test_accuracy_counts_the_pairs_that_the_judge_does_not_tie():
  scores = np.asarray([[3.0, 2.0, 1.0], [0.0, 1.0, 1.0]])
  utility = np.asarray([[0.9, 0.1, 0.1], [0.5, 0.7, 0.2]])
  # Two pairs right; then one right, one wrong, and one tie of scores.
  found = over_optimization.accuracy(scores, utility)
  assert statistics.summarize(found, seed=0)['value'] == 3.5 / 5


class Policy:
  """Its answers have the tokens that a test gives."""

  def __init__(self, tokens):
    self.tokens = tokens

  def sample_tokens(self, prompts, *, temperature, seed):
    assert len(prompts) == N * K
    return [[t] for t in self.tokens]


class Context:
  """Judges an answer by its token, and scores it by a factor of its model."""

  seed = 0
  factors = {'reward_1': -1.0, 'reward_2': 1.0}
  tok = types.SimpleNamespace(decode=lambda tokens: str(tokens[0]))

  def prompts(self, split):
    assert split == 'test'
    return [f'p{i}' for i in range(N + 2)]

  def kept(self, name, make):
    return make()

  def progress(self, text): ...

  def world(self): ...

  def labelers(self): ...

  def reward_model(self, name):
    factor = self.factors[name]
    score = lambda prompts, answers: np.asarray(
      [factor * a[0] for a in answers], np.float32
    )
    return types.SimpleNamespace(score=score)


@pytest.fixture(name='found')
def _found(monkeypatch):
  judge = types.SimpleNamespace(utility=lambda prompt, text: float(text))
  monkeypatch.setattr(over_optimization, 'Judge', lambda *_: judge)
  monkeypatch.setattr(
    over_optimization.tasks, 'chat_prompt', lambda tok, prompt: [1]
  )
  made = over_optimization.Evaluator(
    Context(),
    rewards={'ppo_1': 'reward_1', 'ppo_2': 'reward_2'},
    num_prompts=N,
    num_answers=K,
  )
  return lambda policies: made.run(policies).results


def test_rounds_that_learn_end_over_optimization(found):
  """The first reward model prefers bad answers, the second does not."""
  results = found(
    {
      'sft': Policy([1, 3] * N),
      'ppo_1': Policy([0, 1] * N),
      'ppo_2': Policy([4, 6] * N),
    }
  )
  value = lambda measure: {
    name: summary['value']
    for name, summary in results[measure]['policies'].items()
  }
  assert value('own_accuracy') == {'ppo_1': 0, 'ppo_2': 1}
  assert value('next_accuracy') == {'ppo_1': 1}
  assert value('score_gain') == {'ppo_1': 1.5, 'ppo_2': 3}
  assert value('judge_gain') == {'ppo_1': -1.5, 'ppo_2': 3}
  assert value('over_optimization') == {'ppo_1': 3, 'ppo_2': 0}
  assert 'ppo_1' in results['over_optimization']['difference']['ppo_2']


def test_a_policy_that_is_not_evaluated_is_named(found):
  with pytest.raises(ConfigError, match='policies has no ppo_2'):
    found({'sft': None, 'ppo_1': None})
