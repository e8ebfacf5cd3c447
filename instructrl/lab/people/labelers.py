"""Labelers: simulated people who write demonstrations and rank responses.

There is a training group, which is screened, and a held-out group, which is
not. Labelers differ in their values (`judge.Weights`), in their habits as
writers (`writer.Habits`) and in the noise of their readings. In training data
they put helpfulness first, and in final evaluations truthfulness and
harmlessness (`Labeler.final`). The noise is set so that the agreement within
each group is that of Ouyang et al. 2022, section 3.4: 72.6 +- 1.5% between
training labelers and 77.3 +- 1.3% between held-out labelers.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import zlib

import numpy as np

from instructrl.data import records
from instructrl.lab.marking import judge
from instructrl.lab.people import screening
from instructrl.lab.people import solver
from instructrl.lab.people import writer
from instructrl.lab.world.facts import World

GROUPS = {'train': 12, 'heldout': 6}
NUM_CANDIDATES = 30  # for the training group
TARGETS = {'train': 0.726, 'heldout': 0.773}

# The mean weight of each part of the utility, and of the harm. Labelers vary
# around the mean by a Dirichlet draw of this concentration.
MEAN_WEIGHTS = {
  'helpfulness': 0.47,
  'truthfulness': 0.25,
  'fluency': 0.13,
  'length': 0.15,
}
CONCENTRATION = 10.0
# The researchers' values, by which candidates are screened.
RESEARCHERS = judge.Weights(
  **MEAN_WEIGHTS, harmlessness=0.75, taste=0.0, strictness=0.55, obedience=1.0
)
# The standard deviation of a reading, in utility, before `calibrate_noise`.
NOISE = 0.15
# Utilities closer than this are a tie; ties are encouraged.
TIE_WIDTH = 0.05
FLAG_NOISE = 0.03  # the mean probability of a wrong flag

# The mean habits; each labeler multiplies them by a factor from 0.5 to 1.5.
HABITS = writer.Habits(
  miss_constraint=0.12,
  misconception=0.35,
  slip=0.07,
  terse=0.15,
  verbose=0.15,
  rude=0.02,
  lazy=0.06,
  comply=0.9,
)
_PADDING = -1e9  # a utility below every real one

Item = tuple[records.Prompt, Sequence[str]]  # a prompt and its K responses


@dataclasses.dataclass(frozen=True)
class Labeler:
  """One simulated person.

  Attributes:
    name: unique, e.g. 'train-3'.
    group: 'train' or 'heldout'.
    weights: the values of the labeler.
    habits: the habits of the labeler as a writer.
    noise: the standard deviation of a reading, in utility; >= 0.
    tie_width: readings closer than this are ranked equal.
    flag_noise: the probability of a wrong flag.
    world: the world that the labeler knows.
  """

  name: str
  group: str
  weights: judge.Weights
  habits: writer.Habits
  noise: float
  tie_width: float
  flag_noise: float
  world: World = dataclasses.field(repr=False, compare=False)

  def __post_init__(self):
    if not self.noise >= 0:
      raise ValueError(
        f'labeler {self.name}: noise is {self.noise}; it must be 0 or more'
      )

  def final(self) -> 'Labeler':
    """Returns the labeler with the priorities of final evaluations (B.2)."""
    return dataclasses.replace(self, weights=self.weights.final())

  def demonstrate(
    self, prompt: records.Prompt, rng: np.random.Generator
  ) -> str:
    """Writes a good demonstration, with this labeler's habits."""
    return solver.solve(self.world, prompt, rng, self.habits)

  def utility(self, prompt: records.Prompt, response: str) -> float:
    """Returns the noise-free utility of a response, in [0, 1]."""
    return float(
      judge.utility(judge.assess(self.world, prompt, response), self.weights)
    )

  def rank(
    self,
    prompt: records.Prompt,
    responses: Sequence[str],
    rng: np.random.Generator,
  ) -> tuple[tuple[int, ...], tuple[dict[str, int], ...]]:
    """Rates each response alone, then ranks all.

    Args:
      prompt: the prompt of the responses.
      responses: K texts; equal texts are read once and tie.
      rng: the generator of the noise.

    Returns:
      (ranks, metadata): dense ranks, 0 = best, equal = tie; and for each
      response a dict with the rows of Table 3 (`judge.QUALITY`, 1 to 7, and
      `judge.FLAGS`, 0 or 1). A few flags are wrong.

    Raises:
      ValueError: there is no response.
    """
    if not responses:
      raise ValueError(f'no response to rank for prompt {prompt.id!r}')
    found = [judge.assess(self.world, prompt, r) for r in responses]
    utilities = np.array([judge.utility(a, self.weights) for a in found])
    same = _first_index(responses)
    read = utilities + self.noise * rng.standard_normal(len(responses))[same]
    flips = rng.random((len(responses), len(judge.FLAGS)))[same]
    flips = flips < self.flag_noise
    metadata = [
      {judge.QUALITY: quality}
      | {
        name: int(assessment.flags[name] != wrong)
        for name, wrong in zip(judge.FLAGS, flip)
      }
      for assessment, quality, flip in zip(
        found, judge.likert(read).tolist(), flips
      )
    ]
    ranks = dense_ranks(read, self.tie_width)
    return tuple(ranks.tolist()), tuple(metadata)


def readings(
  labelers: Sequence[Labeler],
  items: Iterable[Item],
  generator: Callable[[Labeler, records.Prompt], np.random.Generator],
) -> np.ndarray:
  """Returns the utilities that labelers of one world read in responses.

  They are those by which `Labeler.rank` ranks.

  Args:
    labelers: L labelers.
    items: N prompts, each with K responses.
    generator: returns the generator of a labeler's noise at a prompt.

  Returns:
    [L, N, K] float64.
  """
  weights = judge.stacked([labeler.weights for labeler in labelers])
  noise = np.array([labeler.noise for labeler in labelers])[:, None]
  found = []
  for prompt, responses in items:
    assessed = (
      judge.assess(labelers[0].world, prompt, response)
      for response in responses
    )
    utilities = [judge.utility(a, weights) for a in assessed]
    draws = [
      generator(labeler, prompt).standard_normal(len(responses))
      for labeler in labelers
    ]
    unit = np.stack(draws)[:, _first_index(responses)]
    found.append(np.stack(utilities, axis=-1) + noise * unit)
  return np.stack(found, axis=1)


@functools.lru_cache(maxsize=16)
def make_labelers(world: World, seed: int) -> tuple[Labeler, ...]:
  """Draws both groups; the result is a function of the arguments.

  The training group is chosen from candidates by `screening`. The noise is
  NOISE; `calibrate_noise` sets it from real responses.
  """
  candidates = [
    _draw(world, seed, 'train', f'candidate-{i}') for i in range(NUM_CANDIDATES)
  ]
  scores = screening.screen(world, candidates, RESEARCHERS, seed)
  chosen = screening.choose(candidates, scores, GROUPS['train'])
  return (
    *(
      dataclasses.replace(labeler, name=f'train-{i}')
      for i, labeler in enumerate(chosen)
    ),
    *(
      _draw(world, seed, 'heldout', f'heldout-{i}')
      for i in range(GROUPS['heldout'])
    ),
  )


def _draw(world: World, seed: int, group: str, name: str) -> Labeler:
  """Draws a person from all who apply."""
  rng = _generator(seed, 'labeler', name)
  parts = rng.dirichlet(CONCENTRATION * np.array(tuple(MEAN_WEIGHTS.values())))
  weights = judge.Weights(
    **dict(zip(MEAN_WEIGHTS, parts.tolist())),
    harmlessness=float(rng.uniform(0.5, 1.0)),
    taste=float(rng.uniform(-1.0, 1.0)),
    strictness=float(rng.uniform(0.2, 0.9)),
    obedience=float(rng.uniform(0.7, 1.0)),
  )
  habits = writer.Habits(
    **{
      field: min(1.0, rate * float(rng.uniform(0.5, 1.5)))
      for field, rate in dataclasses.asdict(HABITS).items()
    }
  )
  flag_noise = min(0.5, float(rng.exponential(FLAG_NOISE)))
  return Labeler(
    name, group, weights, habits, NOISE, TIE_WIDTH, flag_noise, world
  )


def dense_ranks(utilities: np.ndarray, tie_width: float) -> np.ndarray:
  """Ranks utilities, with ties.

  From the best down, a response that is less than `tie_width` worse than the
  best of the current rank joins that rank; otherwise it begins the next rank.
  So ranks are transitive, and equal utilities always tie.

  Args:
    utilities: [..., K] float.
    tie_width: >= 0.

  Returns:
    [..., K] int64, dense, 0 = best.
  """
  order = np.argsort(-utilities, axis=-1, kind='stable')
  values = np.take_along_axis(utilities, order, axis=-1)
  ranks = np.zeros(utilities.shape, np.int64)
  best = values[..., 0]
  for k in range(1, values.shape[-1]):
    below = (best - values[..., k] >= tie_width) & (best > values[..., k])
    ranks[..., k] = ranks[..., k - 1] + below
    best = np.where(below, values[..., k], best)
  result = np.empty_like(ranks)
  np.put_along_axis(result, order, ranks, axis=-1)
  return result


def agreement(
  labelers: Sequence[Labeler], prompts_and_responses: Iterable[Item], seed: int
) -> tuple[float, float, int]:
  """Measures how often two labelers of a group prefer the same response.

  For each pair of labelers, counts the pairs of responses on which both state a
  strict preference. Ouyang et al. 2022 (section 3.4) do not print how they
  count pairs and ties.

  Args:
    labelers: two or more labelers.
    prompts_and_responses: (prompt, its responses) pairs.
    seed: the seed of the noise.

  Returns:
    (agreement in [0, 1], its standard error, clustered by prompt, number of
    counted pairs).

  Raises:
    ValueError: there are fewer than two labelers, or no pair counts.
  """
  table = _Table(labelers, prompts_and_responses, seed)
  return _mean_and_error(*table.count([l.noise for l in labelers]))


def calibrate_noise(
  world: World,
  labelers: Sequence[Labeler],
  prompts_and_responses: Sequence[Item],
  targets: dict[str, float] | None = None,
  seed: int = 0,
) -> list[Labeler]:
  """Sets each group's noise so that its agreement equals a target.

  Bisects, with the same draws at every step.

  Args:
    world: the world of the labelers.
    labelers: labelers of any groups.
    prompts_and_responses: the responses to measure agreement on; use responses
      like those that will be ranked.
    targets: group -> agreement; TARGETS if None.
    seed: the seed of the draws.

  Returns:
    The labelers, in order, with new noise.

  Raises:
    ValueError: a group has no target, or cannot reach the target: 0.5 or less,
      or more than the agreement without noise, which different tastes limit.
  """
  targets = TARGETS if targets is None else targets
  prompts_and_responses = list(prompts_and_responses)
  noise = {}
  for group in dict.fromkeys(labeler.group for labeler in labelers):
    if group not in targets:
      raise ValueError(f'no target agreement for group {group!r} in {targets}')
    members = [labeler for labeler in labelers if labeler.group == group]
    noise[group] = _bisect(
      _Table(members, prompts_and_responses, seed), targets[group], group
    )
  return [
    dataclasses.replace(labeler, noise=noise[labeler.group], world=world)
    for labeler in labelers
  ]


def _bisect(table: '_Table', target: float, group: str) -> float:
  """Returns the noise at which the agreement is `target`."""

  def at(noise: float) -> float:
    return _mean_and_error(*table.count([noise] * table.num_labelers))[0]

  low, high = 0.0, 4.0
  most, least = at(low), at(high)
  if not least <= target <= most:
    raise ValueError(
      f'group {group!r} cannot reach an agreement of {target:.3f}: it is '
      f'{most:.3f} without noise and {least:.3f} with the most; choose a '
      'target between the two or responses that differ more'
    )
  for _ in range(30):
    middle = (low + high) / 2
    low, high = (middle, high) if at(middle) > target else (low, middle)
  return (low + high) / 2


class _Table:
  """Utilities and unit noise of labelers on items, padded to the same K."""

  def __init__(self, labelers, items, seed: int):
    items = list(items)
    if len(labelers) < 2 or not items:
      raise ValueError(
        'agreement needs two labelers or more and a prompt; '
        f'got {len(labelers)} and {len(items)}'
      )
    self.num_labelers = len(labelers)
    width = max(len(responses) for _, responses in items)
    shape = len(labelers), len(items), width
    self._utilities = np.full(shape, _PADDING)
    self._unit = np.zeros(shape)
    self._ties = [labeler.tie_width for labeler in labelers]
    for l, labeler in enumerate(labelers):
      rng = _generator(seed, 'agreement', labeler.name)
      for i, (prompt, responses) in enumerate(items):
        draws = rng.standard_normal(width)
        count = len(responses)
        self._utilities[l, i, :count] = [
          labeler.utility(prompt, r) for r in responses
        ]
        self._unit[l, i, :count] = draws[_first_index(responses)]
    # Equal texts are one response, counted once.
    self._counted = np.zeros((len(items), width), bool)
    for i, (_, responses) in enumerate(items):
      self._counted[i, np.unique(_first_index(responses))] = True

  def count(self, noise: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns ([items] pairs with agreement, [items] counted pairs)."""
    noise = np.asarray(noise)[:, None, None]
    ranks = np.stack(
      [
        dense_ranks(read, tie)
        for read, tie in zip(self._utilities + noise * self._unit, self._ties)
      ]
    )
    first, second = np.triu_indices(ranks.shape[-1], 1)
    real = self._counted[:, first] & self._counted[:, second]
    # [labelers, items, pairs]: 1, -1 or 0 (tie).
    sign = np.sign(ranks[..., second] - ranks[..., first]) * real
    # The sum over pairs of labelers of s_a s_b is ((sum s)^2 - sum s^2) / 2.
    strict = np.abs(sign).sum(0)
    difference = (np.square(sign.sum(0)) - strict) / 2
    counted = (np.square(strict) - strict) / 2
    agreed = (counted + difference) / 2
    return agreed.sum(-1), counted.sum(-1)


def _mean_and_error(
  agreed: np.ndarray, counted: np.ndarray
) -> tuple[float, float, int]:
  """Returns the ratio of sums, and its standard error over prompts."""
  total = counted.sum()
  if not total:
    raise ValueError(
      'no pair on which two labelers state a preference; the '
      'responses are too much alike'
    )
  mean = agreed.sum() / total
  num = len(counted)
  error = (
    np.sqrt(np.square(agreed - mean * counted).sum() * num / max(1, num - 1))
    / total
  )
  return float(mean), float(error), int(total)


def _first_index(responses: Sequence[str]) -> np.ndarray:
  """Returns, for each response, the index of the first equal one."""
  first = {}
  return np.array([first.setdefault(r, i) for i, r in enumerate(responses)])


def _generator(seed: int, *purpose: str) -> np.random.Generator:
  return np.random.default_rng(
    [seed] + [zlib.crc32(word.encode()) for word in purpose]
  )
