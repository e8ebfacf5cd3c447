"""The sentiment of answers, by two judges that no training run saw.

A reward model that learned the sentiment of reviews is one judge of PPO's
answers, and PPO was trained against it. The judges here were made from other
sentences: naive Bayes from people's ratings of the sentences that the source
`film_reviews` keeps for judges, and a lexicon from people's ratings of words.
If their opinion rises with the reward model's, PPO did not only exploit the
reward model.
"""

import collections
from collections.abc import Callable, Iterable, Mapping
import math
import pathlib
import re

import numpy as np

from instructrl.data.sources import film_reviews
from instructrl.evaluators import evaluator
from instructrl.evaluators import ranking_accuracy
from instructrl.evaluators import statistics
from instructrl.evaluators.language_model import LanguageModel

Judge = Callable[[str], float]  # text -> score, positive if the text is


class Evaluator:
  """Samples an answer to each prompt and judges whether it is positive.

  Results:
    'naive_bayes', 'lexicon': {'policies', 'difference'}: the share of positive
      answers; one that a judge cannot decide counts half.
    'judges': with `accuracy`, how often the judges order the held-out rankings
      as people did, as in `ranking_accuracy`.
  """

  def __init__(
    self,
    context: evaluator.Context,
    *,
    packages: str,
    num_prompts: int,
    temperature: float = 1.0,
    split: str = 'validation',
    accuracy: bool = False,
  ):
    """Makes the judges.

    Args:
      context: the run.
      packages: folder with the packages, see `film_reviews.FETCH`.
      num_prompts: the first prompts of the split that fit.
      temperature: of the answers, for all policies.
      split: of the prompts.
      accuracy: whether to judge the validation rankings of inputs.rankings.
    """
    self._context, self._temperature = context, temperature
    self._num_prompts, self._split = num_prompts, split
    self._accuracy = accuracy
    self._judges = judges(pathlib.Path(packages).expanduser())

  def run(self, policies: Mapping[str, LanguageModel]) -> evaluator.Outcome:
    context = self._context
    prompts = context.prompts(self._split)[: self._num_prompts]
    answer = lambda name: policies[name].respond(
      prompts, temperature=self._temperature, seed=context.seed
    )
    answers = {
      name: context.kept(name, lambda: answer(name)) for name in policies
    }
    measures = {
      judge: {
        name: statistics.mean([0.5 + 0.5 * np.sign(score(a)) for a in found])
        for name, found in answers.items()
      }
      for judge, score in self._judges.items()
    }
    results = evaluator.compared(measures, seed=context.seed)
    if self._accuracy:
      results['judges'] = self._judge_rankings()
    return evaluator.Outcome(results)

  def _judge_rankings(self) -> dict:
    data = self._context.data('rankings')
    rankings = list(data.records('rankings', 'validation'))
    scores = {
      judge: [[score(text) for text in r.responses] for r in rankings]
      for judge, score in self._judges.items()
    }
    return ranking_accuracy.accuracies(
      rankings, scores, seed=self._context.seed
    )


def judges(packages: pathlib.Path) -> dict[str, Judge]:
  """Returns the judges by the names of their measures."""
  rated, valences = film_reviews.read_judging(packages)
  clear = [one for one in rated if abs(one.mean) > one.error]
  return {
    'lexicon': lexicon(valences),
    'naive_bayes': naive_bayes(
      [one.text for one in clear], [one.mean > 0 for one in clear]
    ),
  }


def lexicon(valences: Mapping[str, float]) -> Judge:
  """Returns a judge that adds the valences of a text's words."""
  return lambda text: sum(valences.get(word, 0.0) for word in words(text))


def naive_bayes(texts: Iterable[str], positive: Iterable[bool]) -> Judge:
  """Returns a judge: the log odds that a text is positive.

  Multinomial naive Bayes on the different words of a text, with equal priors
  and one added to each count.
  """
  counts: dict[bool, collections.Counter[str]] = {
    label: collections.Counter() for label in (True, False)
  }
  for text, label in zip(texts, positive, strict=True):
    counts[label].update(set(words(text)))
  good, bad = counts[True], counts[False]
  known = good.keys() | bad.keys()
  rest = math.log((bad.total() + len(known)) / (good.total() + len(known)))
  weights = {
    word: math.log((good[word] + 1) / (bad[word] + 1)) + rest for word in known
  }
  return lambda text: math.fsum(weights.get(w, 0.0) for w in {*words(text)})


def words(text: str) -> list[str]:
  """Returns the words of a text in lower case."""
  return re.findall(r"[a-z']+", text.lower())
