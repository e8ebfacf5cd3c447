"""Which policy's responses are preferred, and how they are rated.

The paper's main measure (section 4.1): each policy's response to a held-out
prompt is compared with a response of the SFT policy, and a tie counts half.
Two readers compare here: the judge, which is noise-free and is never used in
training, and the held-out labelers, none of whose rankings the reward model
was trained on. The same responses are rated on the Likert scale and flagged
by the rows of the paper's Table 3.

SFT's own row compares a second, independent sample of SFT with the first, so
that it is a measurement of the method (about 50%) and not 50% by definition.
"""

import itertools
from typing import Callable, Mapping, Protocol, Sequence

import numpy as np

from instructrl.data import records
from instructrl.evaluators import statistics

REFERENCE = 'sft'  # win rates are against this policy
SECOND_SAMPLE = 'sft_second'  # its second sample; stands for it in its row


class Judge(Protocol):
  def utility(self, prompt: records.Prompt, response: str) -> float: ...

  def likert(self, prompt: records.Prompt, response: str) -> float: ...

  def metadata(self, prompt: records.Prompt, response: str) -> dict: ...


class Labeler(Protocol):
  name: str

  def rank(
    self,
    prompt: records.Prompt,
    responses: Sequence[str],
    rng: np.random.Generator,
  ) -> tuple: ...


def evaluate_preference(
  prompts: Sequence[records.Prompt],
  responses: Mapping[str, Sequence[str]],
  judge: Judge,
  labelers: Sequence[Labeler],
  *,
  seed: int,
  applies: Mapping[str, Callable[[records.Prompt], bool]] | None = None,
) -> tuple[dict, list[dict]]:
  """Compares and rates the responses of policies to the same prompts.

  Args:
    prompts: N prompts no policy was trained on.
    responses: policy -> N responses. Must hold 'sft' and 'sft_second', a
      second sample of the same policy with other random numbers.
    judge: noise-free; decides the win rates, the Likert scores and the flags.
    labelers: the held-out ones. Each ranks all responses of a prompt at once,
      as on the paper's labeling page; a prompt's outcome is their mean.
    seed: evaluation seed, for the labelers' noise and the bootstrap.
    applies: row of the metadata -> whether it means something for a prompt;
      rows that are not named apply to every prompt.

  Returns:
    (figures, samples). Figures:
      'preference': policy -> {'win_rate', 'ci95', 'n', 'heldout_labelers':
        {'win_rate', 'ci95', 'n'}}, against 'sft'.
      'head_to_head': left -> right -> the same, for each pair of policies.
      'likert': policy -> {'value', 'ci95', 'n'}, 1 to 7.
      'metadata': policy -> row -> {'value', 'ci95', 'n'}, a rate over the
        prompts the row applies to.
      'differences': {'likert', 'metadata'}: paired differences of the two.
    A sample per prompt: its text, and per policy the response, its utility,
    Likert score, the flags that apply to the prompt, and its outcomes against
    'sft'.

  Raises:
    ValueError: if a policy's responses do not match the prompts, if 'sft' or
      its second sample is missing, or if there is no held-out labeler.
  """
  _check(prompts, responses, labelers)
  utility = {
    name: np.asarray(
      [judge.utility(p, r) for p, r in zip(prompts, texts)], np.float64
    )
    for name, texts in responses.items()
  }
  ranks = _heldout_ranks(prompts, responses, labelers, seed)

  def versus(left, right):
    return {
      **_win_rate(_outcomes(utility[left], utility[right]), seed),
      'heldout_labelers': _win_rate(
        _outcomes(-ranks[left], -ranks[right]).mean(0), seed
      ),
    }

  policies = [name for name in responses if name != SECOND_SAMPLE]
  in_row = {
    name: SECOND_SAMPLE if name == REFERENCE else name for name in policies
  }
  figures = {
    'preference': {name: versus(in_row[name], REFERENCE) for name in policies},
    'head_to_head': {
      left: {right: versus(left, right) for right in policies if right != left}
      for left in policies
    },
  }
  rated, samples = _rate(
    prompts,
    {name: responses[name] for name in policies},
    judge,
    applies or {},
    seed,
  )
  figures.update(rated)
  for i, sample in enumerate(samples):
    for name in policies:
      left = in_row[name]
      sample['policies'][name].update(
        utility=float(utility[name][i]),
        win=float(_outcomes(utility[left], utility[REFERENCE])[i]),
        heldout_win=float(
          _outcomes(-ranks[left], -ranks[REFERENCE]).mean(0)[i]
        ),
      )
    sample['second_sample'] = responses[SECOND_SAMPLE][i]
  return figures, samples


def _check(prompts, responses, labelers) -> None:
  if not prompts:
    raise ValueError('preference: there is no prompt to evaluate on')
  if not labelers:
    raise ValueError('preference: there is no held-out labeler')
  for name in (REFERENCE, SECOND_SAMPLE):
    if name not in responses:
      raise ValueError(
        f'preference: responses of {name!r} are missing; win '
        f'rates are against {REFERENCE!r}, whose own row needs '
        'a second sample of it'
      )
  for name, texts in responses.items():
    if len(texts) != len(prompts):
      raise ValueError(
        f'preference: policy {name!r} has {len(texts)} '
        f'responses to {len(prompts)} prompts'
      )


def _heldout_ranks(prompts, responses, labelers, seed) -> dict:
  """Policy -> [labelers, N] ranks, 0 = best."""
  texts = list(zip(*responses.values()))
  ranks = np.asarray(
    [
      [
        labeler.rank(
          prompt,
          row,
          statistics.generator(seed, 'heldout', labeler.name, prompt.id),
        )[0]
        for prompt, row in zip(prompts, texts)
      ]
      for labeler in labelers
    ]
  )
  return {name: ranks[:, :, i] for i, name in enumerate(responses)}


def _outcomes(left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """1 where left is higher, 0 where it is lower, 1/2 for a tie."""
  tie = np.isclose(left, right, rtol=0, atol=1e-9)
  return np.where(tie, 0.5, (left > right).astype(np.float64))


def _win_rate(outcomes: np.ndarray, seed: int) -> dict:
  measure = statistics.mean(outcomes)
  return {
    'win_rate': measure.value,
    'ci95': statistics.proportion_interval(measure, seed=seed),
    'n': len(outcomes),
  }


def _rate(prompts, responses, judge, applies, seed) -> tuple[dict, list[dict]]:
  """Likert scores and flags, as figures and as one sample per prompt."""
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
    {name: statistics.mean(values) for name, values in likert.items()},
    seed=seed,
  )
  figures = {
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
    figures['differences']['metadata'][row] = differences
    for name, summary in summaries.items():
      figures['metadata'][name][row] = summary
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
  return figures, samples
