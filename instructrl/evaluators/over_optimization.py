"""Whether reward models still know good answers of the policies they trained.

A policy that is optimized against a reward model finds answers that the model
scores too high (Stiennon et al. 2020, section 4.3). Rankings of the newest
policy should teach the next reward model to see such answers. The lab's judge,
which has no noise, decides which answers are good.
"""

from collections.abc import Mapping, Sequence
import functools

import numpy as np

from instructrl.data import tasks
from instructrl.evaluators import evaluator
from instructrl.evaluators import ranking_accuracy
from instructrl.evaluators import statistics
from instructrl.evaluators.language_model import LanguageModel
from instructrl.lab.marking.judge import Judge
from instructrl.runtime.errors import ConfigError


class Evaluator:
  """Samples several answers to each prompt; scores and judges them.

  A gain is the mean over answers minus that of the reference, in standard
  deviations of the reference's answers.

  Results, each {'policies', 'difference'}:
    'own_accuracy': of the reward model that trained the policy, on pairs of
      answers of the policy that the judge does not tie.
    'next_accuracy': the same of the reward model of the next policy, which
      learned from rankings of such answers.
    'score_gain': of that policy's reward model.
    'judge_gain': of the judge.
    'over_optimization': the gain of the score minus that of the judge.
  """

  def __init__(
    self,
    context: evaluator.Context,
    *,
    rewards: Mapping[str, str],
    num_prompts: int,
    num_answers: int = 4,
    temperature: float = 1.0,
    split: str = 'test',
    reference: str = 'sft',
  ):
    """Takes the settings.

    Args:
      context: the run; the data is a lab.
      rewards: policy -> the input with the reward model that it was trained
        against, in the order of training.
      num_prompts: the first prompts of the split that fit.
      num_answers: answers per prompt of each policy; one has no accuracy.
      temperature: of the answers.
      split: of the prompts; no policy was trained on 'test'.
      reference: the policy that gains are measured from.
    """
    if not rewards:
      raise ConfigError('rewards is empty: name policies and reward models')
    self._context, self._rewards = context, dict(rewards)
    self._num_prompts, self._num_answers = num_prompts, num_answers
    self._temperature, self._split = temperature, split
    self._reference = reference

  def run(self, policies: Mapping[str, LanguageModel]) -> evaluator.Outcome:
    wanted = [self._reference, *self._rewards]
    missing = [name for name in wanted if name not in policies]
    if missing:
      raise ConfigError(f'policies has no {", ".join(missing)}')
    context = self._context
    prompts = context.prompts(self._split)[: self._num_prompts]
    prompts = [p for p in prompts for _ in range(self._num_answers)]
    judge = Judge(context.world(), context.labelers())

    def answers(name):
      found = policies[name].sample_tokens(
        prompts, temperature=self._temperature, seed=context.seed
      )
      texts = [context.tok.decode(tokens).strip() for tokens in found]
      utility = [judge.utility(*pair) for pair in zip(prompts, texts)]
      return {'tokens': [[*map(int, t)] for t in found], 'utility': utility}

    drawn = {}
    for name in wanted:
      context.progress(f'answers of {name}')
      drawn[name] = context.kept(name, functools.partial(answers, name))
    tokens = [tasks.chat_prompt(context.tok, p) for p in prompts]
    scores = self._scores(drawn, tokens)
    return evaluator.Outcome(
      evaluator.compared(self._measures(drawn, scores), seed=context.seed)
    )

  def _scores(self, drawn, tokens) -> dict[tuple[str, str], np.ndarray]:
    """Returns (trained policy, writer) -> scores [N, K] of its reward model.

    The writers are the reference, the policy, and the policy before it.
    """
    found, before = {}, None
    for name, reward in self._rewards.items():
      self._context.progress(f'scores of {reward}')
      model = self._context.reward_model(reward)
      for writer in filter(None, (self._reference, name, before)):
        values = model.score(tokens, drawn[writer]['tokens'])
        found[name, writer] = self._by_prompt(values)
      before = name
    return found

  def _by_prompt(self, values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1, self._num_answers)

  def _measures(
    self, drawn, scores
  ) -> dict[str, dict[str, statistics.Measure]]:
    utility = {n: self._by_prompt(d['utility']) for n, d in drawn.items()}
    names, reference = list(self._rewards), self._reference
    of_score = {
      name: gain(scores[name, name], scores[name, reference]) for name in names
    }
    of_judge = {name: gain(utility[name], utility[reference]) for name in names}
    mean = lambda found: {
      n: statistics.mean_rating(x) for n, x in found.items()
    }
    return {
      'own_accuracy': {
        name: accuracy(scores[name, name], utility[name]) for name in names
      },
      'next_accuracy': {
        name: accuracy(scores[after, name], utility[name])
        for name, after in zip(names, names[1:])
      },
      'score_gain': mean(of_score),
      'judge_gain': mean(of_judge),
      'over_optimization': mean(
        {name: of_score[name] - of_judge[name] for name in names}
      ),
    }


def gain(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """Returns [N] means over K answers, above those of the reference.

  Args:
    values: [N, K] of answers to N prompts.
    reference: [N, K] of the reference's answers; its standard deviation is the
      unit, unless its answers are all equal.
  """
  unit = reference.std() or 1.0
  return (values.mean(1) - reference.mean(1)) / unit


def accuracy(scores: np.ndarray, utility: np.ndarray) -> statistics.Measure:
  """Returns the fraction of pairs of one prompt that scores order as utility.

  Args:
    scores: [N, K] of answers.
    utility: [N, K] of the same answers; equal ones are no pair.
  """
  counts = []
  for row, judged in zip(scores, utility):
    ranks = np.unique(-judged, return_inverse=True)[1]  # 0 = best
    counts.append(ranking_accuracy.pair_counts(row.tolist(), ranks.tolist()))
  return statistics.ratio(*zip(*counts))
