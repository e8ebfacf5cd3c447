"""Accuracy of the reward model on held-out rankings.

Accuracy is the fraction of pairs of responses that the model orders as the
labeler did. Two baselines are measured too: "longer is better", and a fresh
head on the model that the reward model was trained from.
"""

import collections
from collections.abc import Mapping, Sequence
import itertools

import numpy as np

from instructrl.data import tasks
from instructrl.data.records import Ranking
from instructrl.evaluators import evaluator
from instructrl.evaluators import statistics
from instructrl.evaluators.language_model import LanguageModel
from instructrl.runtime.errors import ConfigError

REWARD_MODEL = 'reward model'
ALL = 'all'  # the data sets together


class Evaluator:
  """Measures the accuracy on the validation rankings; needs no policy.

  Results: {'accuracy': {data set: {
    'judges': {'longer is better', 'untrained head', 'reward model': summary},
    'difference': {baseline: summary of the reward model - baseline},
    'pairs': number of pairs, 'prompts': number of rankings}}}.
  """

  def __init__(self, context: evaluator.Context):
    self._context = context

  def run(self, policies: Mapping[str, LanguageModel]) -> evaluator.Outcome:
    del policies
    found = self._context.kept('accuracy', self._accuracy)
    self._context.progress(
      'reward model: '
      + ', '.join(
        f'{100 * part["judges"][REWARD_MODEL]["value"]:.1f}% of {name}'
        for name, part in found.items()
      )
    )
    return evaluator.Outcome({'accuracy': found})

  def _accuracy(self) -> dict:
    context = self._context
    rankings, prompts, responses = [], [], []
    for ranking in context.data('rankings').records('rankings', 'validation'):
      prompt = tasks.chat_prompt(context.tok, ranking.prompt)
      if tasks.fits(prompt, context.prompt_len):
        rankings.append(ranking)
        prompts += [prompt] * len(ranking.responses)
        responses += [list(t) for t in ranking.response_tokens]
    if not rankings:
      raise ConfigError(
        'inputs.rankings has no validation ranking whose prompt fits '
        f'prompt_len={context.prompt_len}'
      )
    model = context.reward_model()
    flat = {
      'longer is better': np.asarray([len(r) for r in responses], np.float32),
      'untrained head': model.score_untrained(prompts, responses),
      REWARD_MODEL: model.score(prompts, responses),
    }
    ends = np.cumsum([len(r.responses) for r in rankings])[:-1]
    scores = {name: np.split(x, ends) for name, x in flat.items()}
    return accuracies(rankings, scores, seed=context.seed)


def pair_counts(
  scores: Sequence[float], ranks: Sequence[int]
) -> tuple[float, int]:
  """Returns (pairs ordered as in the ranks, pairs) of one ranking.

  Args:
    scores: [K], higher is better; a tie of scores is half right.
    ranks: [K], 0 = best; pairs of equal rank do not count.
  """
  right, total = 0.0, 0
  for i, j in itertools.permutations(range(len(ranks)), 2):
    if ranks[i] < ranks[j]:
      total += 1
      right += 0.5 * (1 + np.sign(scores[i] - scores[j]))
  return right, total


def accuracies(
  rankings: Sequence[Ranking], scores: Mapping[str, Sequence], *, seed: int
) -> dict:
  """Returns the results of `Evaluator`, by data set.

  Args:
    rankings: N rankings, see `data_set`.
    scores: judge -> [N][K]; the last is compared with the others.
    seed: of the bootstrap, which draws prompts.
  """
  places = collections.defaultdict(list)
  for i, ranking in enumerate(rankings):
    if len(set(ranking.ranks)) > 1:  # a full tie has no pair
      places[ALL].append(i)
      places[data_set(ranking)].append(i)
  if len(places) == 2:
    del places[ALL]
  found = {}
  for name, rows in places.items():
    measures = {
      judge: statistics.ratio(
        *zip(*(pair_counts(values[i], rankings[i].ranks) for i in rows))
      )
      for judge, values in scores.items()
    }
    judges, differences = statistics.compare(measures, seed=seed)
    last = [*measures][-1]
    found[name] = {
      'judges': judges,
      'difference': differences.get(last, {}),
      'pairs': int(measures[last].stats[:, 1].sum()),
      'prompts': len(rows),
    }
  return found


def data_set(ranking: Ranking) -> str:
  """Returns the data set of a ranking: its prompt's id up to the last '/'."""
  return ranking.prompt.id.rpartition('/')[0] or 'rankings'
