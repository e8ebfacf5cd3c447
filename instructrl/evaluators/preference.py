"""Preferences between the responses of policies, and their ratings.

The paper's main measure (section 4.1): each policy's response to a held-out
prompt is compared with a response of the SFT policy; a tie counts half. The
paper's baseline is the largest SFT model; a study of one size has only its own.
Three readers compare: the judge, which has no noise and is never used in
training; the training labelers, whose rankings trained the reward model; and
the held-out labelers (Fig. 3). The same responses are rated on the Likert scale
(Fig. 31) and flagged by the rows of the paper's Table 3 (Fig. 4).

SFT's own row compares a second, independent sample of SFT with the first. It
measures the method (about 50%) and is not 50% by definition.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools

import numpy as np

from instructrl.data import records
from instructrl.evaluators import evaluator
from instructrl.evaluators import statistics
from instructrl.evaluators.language_model import LanguageModel
from instructrl.lab.marking.judge import has_constraints
from instructrl.lab.marking.judge import is_closed_domain
from instructrl.lab.marking.judge import Judge
from instructrl.lab.marking.judge import likert
from instructrl.lab.people import labelers as people

REFERENCE = 'sft'  # win rates are against this policy
LABELERS = ('train', 'heldout')  # groups; results have the key 'GROUP_labelers'

# Rows of Table 3 that apply to some prompts only.
APPLIES = {
  'hallucination': is_closed_domain,
  'satisfies_constraint': has_constraints,
}


class Evaluator:
  """Samples, compares, rates and flags answers. Needs a lab.

  Results: see `evaluate_preference`, or `rate` without a reference.
  """

  def __init__(
    self,
    context: evaluator.Context,
    *,
    num_prompts: int,
    temperature: float = 1.0,
    split: str = 'test',
    reference: str = REFERENCE,
  ):
    """Takes the settings.

    Args:
      context: the run.
      num_prompts: the first prompts of the split that fit.
      temperature: of the responses, above 0, as the reference is sampled twice.
      split: of the prompts; no policy was trained on 'test'.
      reference: the policy that all are compared with; '' rates and flags only.
    """
    self._context, self._temperature = context, temperature
    self._num_prompts, self._split = num_prompts, split
    self._reference = reference

  def run(self, policies: Mapping[str, LanguageModel]) -> evaluator.Outcome:
    context, reference = self._context, self._reference
    if reference and reference not in policies:
      raise ValueError(
        f'preference: the policies must include {reference!r}, which the '
        f'others are compared with; got {", ".join(policies)}'
      )
    second = second_sample(reference)
    if reference and second in policies:
      raise ValueError(
        f'policies.{second}: the second sample of {reference} has this name; '
        'take another one'
      )
    prompts = context.prompts(self._split)[: self._num_prompts]
    responses = {
      name: self._responses(policies, name, prompts, name) for name in policies
    }
    judge = Judge(context.world(), context.labelers())
    if not reference:
      results, samples = rate(
        prompts, responses, judge, applies=APPLIES, seed=context.seed
      )
      return evaluator.Outcome(results, samples)
    responses[second] = self._responses(policies, reference, prompts, second)
    context.progress('judging')
    results, samples = evaluate_preference(
      prompts,
      responses,
      judge,
      {
        group: [l for l in context.labelers() if l.group == group]
        for group in LABELERS
      },
      seed=context.seed,
      applies=APPLIES,
      reference=reference,
    )
    return evaluator.Outcome(results, samples)

  def _responses(self, policies, policy: str, prompts, name: str) -> list[str]:
    """Returns a policy's responses; `name` gives the part and its seed."""
    context = self._context
    context.progress(f'responses of {name}')
    return context.kept(
      name,
      lambda: policies[policy].respond(
        prompts,
        temperature=self._temperature,
        seed=sample_seed(context.seed, name),
      ),
    )


def second_sample(reference: str) -> str:
  """Returns the name of the reference's second sample."""
  return f'{reference}_second'


def sample_seed(seed: int, name: str) -> int:
  """Returns the seed of a policy's samples; all samples are independent."""
  return int(statistics.generator(seed, 'responses', name).integers(2**31))


def evaluate_preference(
  prompts: Sequence[records.Prompt],
  responses: Mapping[str, Sequence[str]],
  judge: Judge,
  labelers: Mapping[str, Sequence[people.Labeler]],
  *,
  seed: int,
  applies: Mapping[str, Callable[[records.Prompt], bool]] | None = None,
  reference: str = REFERENCE,
) -> tuple[dict, list[dict]]:
  """Compares and rates the responses of policies to the same prompts.

  Args:
    prompts: N prompts no policy was trained on.
    responses: policy -> N responses. Must include the reference and its
      `second_sample`, drawn with other random numbers.
    judge: has no noise; decides the win rates, Likert scores and flags.
    labelers: group -> its labelers. Each ranks all responses of a prompt at
      once, as on the paper's labeling page; a prompt's outcome is their mean.
    seed: evaluation seed, for the labelers' noise and the bootstrap.
    applies: row of the metadata -> whether it applies to a prompt; rows that
      are not named apply to every prompt.
    reference: the policy that all are compared with.

  Returns:
    (results, samples). Results:
      'preference': policy -> {'win_rate', 'ci95', 'n', 'train_labelers':
        {'win_rate', 'ci95', 'n'}, 'heldout_labelers': the same}, against the
        reference.
      'head_to_head': left -> right -> the same, for each pair of policies.
      'likert': policy -> {'value', 'ci95', 'n', 'train_labelers': {'value',
        'ci95', 'n'}, 'heldout_labelers': the same, 'by_use_case': {use case:
        {'value', 'ci95', 'n'}}}, 1 to 7.
      'metadata': policy -> row -> {'value', 'ci95', 'n'}, a rate over the
        prompts the row applies to.
      'differences': {'likert', 'metadata'}: paired differences of the two.
    A sample per prompt: its text, and per policy the response, its utility,
    Likert score, the flags that apply to the prompt, and its outcomes against
    the reference.

  Raises:
    ValueError: a policy's responses do not match the prompts, the reference or
      its second sample is missing, or a group has no labeler.
  """
  _check(prompts, responses, labelers, reference)
  second = second_sample(reference)
  readings = _Readings(
    {
      name: np.asarray([judge.utility(*pair) for pair in zip(prompts, texts)])
      for name, texts in responses.items()
    },
    {
      group: _labels(prompts, responses, group, labelers[group], seed)
      for group in labelers
    },
    seed,
  )
  policies = [name for name in responses if name != second]
  in_row = {name: second if name == reference else name for name in policies}
  results = {
    'preference': {
      name: readings.win_rates(in_row[name], reference) for name in policies
    },
    'head_to_head': {
      left: {
        right: readings.win_rates(left, right)
        for right in policies
        if right != left
      }
      for left in policies
    },
  }
  shown = {name: responses[name] for name in policies}
  rated, samples = rate(prompts, shown, judge, applies=applies or {}, seed=seed)
  for name in policies:
    rated['likert'][name] |= readings.ratings(name)
    readings.mark(samples, name, in_row[name], reference)
  for sample, text in zip(samples, responses[second]):
    sample['second_sample'] = text
  return results | rated, samples


@dataclasses.dataclass(frozen=True)
class _Readings:
  """Compares responses as the judge and the labelers read them.

  Attributes:
    utility: policy -> the judge's utility [N].
    labels: group -> its labels, see `_labels`.
    seed: of the bootstrap.
  """

  utility: Mapping[str, np.ndarray]
  labels: Mapping[str, tuple[dict, dict]]
  seed: int

  def outcomes(self, left: str, right: str) -> tuple[np.ndarray, dict]:
    """Returns outcomes [N]: the judge's, and group of labelers -> theirs."""
    labeled = {
      group: _outcomes(-ranks[left], -ranks[right]).mean(0)
      for group, (ranks, _) in self.labels.items()
    }
    return _outcomes(self.utility[left], self.utility[right]), labeled

  def win_rates(self, left: str, right: str) -> dict:
    judged, labeled = self.outcomes(left, right)
    groups = {
      f'{group}_labelers': _win_rate(found, self.seed)
      for group, found in labeled.items()
    }
    return {**_win_rate(judged, self.seed), **groups}

  def ratings(self, name: str) -> dict:
    """Returns 'GROUP_labelers' -> the mean rating of a policy."""
    return {
      f'{group}_labelers': statistics.summarize(
        statistics.mean_rating(ratings[name].mean(0)), seed=self.seed
      )
      for group, (_, ratings) in self.labels.items()
    }

  def mark(self, samples, name: str, left: str, right: str) -> None:
    """Adds a policy's utility and its outcomes to the samples."""
    judged, labeled = self.outcomes(left, right)
    keys = ('utility', 'win', *(f'{group}_win' for group in labeled))
    measured = zip(self.utility[name], judged, *labeled.values())
    for sample, values in zip(samples, measured):
      sample['policies'][name].update(zip(keys, map(float, values)))


def _check(prompts, responses, labelers, reference: str) -> None:
  if not prompts:
    raise ValueError('preference: no prompt to evaluate on')
  for group, members in labelers.items():
    if not members:
      raise ValueError(f'preference: the group {group!r} has no labeler')
  for name in (reference, second_sample(reference)):
    if name not in responses:
      raise ValueError(
        f'preference: responses of {name!r} are missing; win rates are '
        f'against {reference!r}, and its own row needs a second sample'
      )
  for name, texts in responses.items():
    if len(texts) != len(prompts):
      raise ValueError(
        f'preference: policy {name!r} has {len(texts)} '
        f'responses to {len(prompts)} prompts'
      )


def _labels(prompts, responses, group, labelers, seed) -> tuple[dict, dict]:
  """Returns (policy -> ranks, 0 = best; policy -> ratings), [labelers, N]."""
  read = people.readings(
    labelers,
    zip(prompts, zip(*responses.values())),
    lambda labeler, prompt: statistics.generator(
      seed, group, labeler.name, prompt.id
    ),
  )
  ranks = np.stack(
    [people.dense_ranks(r, l.tie_width) for r, l in zip(read, labelers)]
  )
  by_policy = lambda rows: dict(zip(responses, np.moveaxis(rows, -1, 0)))
  return by_policy(ranks), by_policy(likert(read))


def _outcomes(left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Returns 1 where left is higher, 0 where it is lower, 1/2 for a tie."""
  tie = np.isclose(left, right, rtol=0, atol=1e-9)
  return np.where(tie, 0.5, (left > right).astype(np.float64))


def _win_rate(outcomes: np.ndarray, seed: int) -> dict:
  measure = statistics.mean(outcomes)
  return {
    'win_rate': measure.value,
    'ci95': statistics.proportion_interval(measure, seed=seed),
    'n': len(outcomes),
  }


def _by_use_case(prompts, ratings, seed) -> dict:
  """Returns the summary of the ratings of the prompts of each use case."""
  cases: dict[str, list[float]] = {}
  for prompt, rating in zip(prompts, ratings):
    cases.setdefault(prompt.use_case, []).append(rating)
  return {
    case: statistics.summarize(statistics.mean_rating(found), seed=seed)
    for case, found in sorted(cases.items())
  }


def rate(
  prompts, responses, judge, *, applies, seed
) -> tuple[dict, list[dict]]:
  """Rates and flags responses; arguments as for `evaluate_preference`.

  Returns:
    (results, samples): 'likert', 'metadata' and 'differences' of the results,
    and a sample per prompt.
  """
  likert = {
    name: [float(judge.likert(p, r)) for p, r in zip(prompts, texts)]
    for name, texts in responses.items()
  }
  flags = {
    name: [judge.metadata(p, r) for p, r in zip(prompts, texts)]
    for name, texts in responses.items()
  }
  rows = list(
    dict.fromkeys(
      itertools.chain.from_iterable(
        itertools.chain.from_iterable(flags.values())
      )
    )
  )
  summaries, differences = statistics.compare(
    {name: statistics.mean_rating(values) for name, values in likert.items()},
    seed=seed,
  )
  for name, values in likert.items():
    summaries[name]['by_use_case'] = _by_use_case(prompts, values, seed)
  results = {
    'likert': summaries,
    'metadata': {name: {} for name in responses},
    'differences': {'likert': differences, 'metadata': {}},
  }
  counts = {
    row: [
      bool(applies[row](prompt)) if row in applies else True
      for prompt in prompts
    ]
    for row in rows
  }
  for row in rows:
    summaries, differences = statistics.compare(
      {
        name: statistics.mean([float(f[row]) for f in per_prompt], counts[row])
        for name, per_prompt in flags.items()
      },
      seed=seed,
    )
    results['differences']['metadata'][row] = differences
    for name, summary in summaries.items():
      results['metadata'][name][row] = summary
  samples = [
    {
      'kind': 'preference',
      'id': prompt.id,
      'use_case': prompt.use_case,
      'prompt': prompt.text,
      'policies': {
        name: {
          'response': responses[name][i],
          'likert': likert[name][i],
          'metadata': {
            row: flag for row, flag in flags[name][i].items() if counts[row][i]
          },
        }
        for name in responses
      },
    }
    for i, prompt in enumerate(prompts)
  ]
  return results, samples
