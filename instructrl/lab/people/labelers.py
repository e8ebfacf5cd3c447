"""Labelers: they write demonstrations and rank responses, each by own taste.

A training group and a held-out group. Labelers differ in what they care about
(`judge.Weights`), in their habits as writers (`solver.Habits`) and in how
noisy they read. The noise is set so that agreement within each group lands on
that of Ouyang et al. 2022, section 3.4: 72.6 +- 1.5% between training labelers
and 77.3 +- 1.3% between held-out ones.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import zlib

import numpy as np

from instructrl.data import records
from instructrl.lab.marking import judge
from instructrl.lab.people import solver
from instructrl.lab.world.facts import World

GROUPS = {'train': 12, 'heldout': 6}
TARGETS = {'train': 0.726, 'heldout': 0.773}

# Mean weight of each part of the utility, and of the harm; labelers vary
# around it by a Dirichlet draw of this concentration.
MEAN_WEIGHTS = {
  'helpfulness': 0.47,
  'truthfulness': 0.25,
  'fluency': 0.13,
  'length': 0.15,
}
CONCENTRATION = 10.0
# Standard deviation of a reading, in utility, before `calibrate_noise`.
NOISE = 0.15
# Utilities closer than that are a tie; ties are encouraged.
TIE_WIDTH = 0.05
FLAG_NOISE = 0.02  # probability that a flag is set wrongly

# Mean habits; each labeler's are these times a factor between .5 and 1.5.
HABITS = solver.Habits(
  miss_constraint=0.12,
  misconception=0.35,
  slip=0.07,
  terse=0.15,
  verbose=0.15,
  rude=0.02,
  lazy=0.06,
)
_PADDING = -1e9  # a utility below every real one

Item = tuple[records.Prompt, Sequence[str]]  # a prompt and its K responses


@dataclasses.dataclass(frozen=True)
class Labeler:
  """One simulated person.

  Attributes:
    name: unique, e.g. 'train-3'.
    group: 'train' or 'heldout'.
    weights: what the labeler cares about.
    habits: how the labeler writes.
    noise: standard deviation of a reading, in utility; >= 0.
    tie_width: utilities closer than that, as read, are ranked equal.
    world: the world that the labeler knows.
  """

  name: str
  group: str
  weights: judge.Weights
  habits: solver.Habits
  noise: float
  tie_width: float
  world: World = dataclasses.field(repr=False, compare=False)

  def __post_init__(self):
    if not self.noise >= 0:
      raise ValueError(
        f'labeler {self.name}: noise is {self.noise}; it must be 0 or more'
      )

  def demonstrate(
    self, prompt: records.Prompt, rng: np.random.Generator
  ) -> str:
    """Writes a demonstration: good, but with this labeler's habits."""
    return solver.solve(self.world, prompt, rng, self.habits)

  def utility(self, prompt: records.Prompt, response: str) -> float:
    """What the response is worth to this labeler, without noise, in [0, 1]."""
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
      prompt: of the responses.
      responses: K texts; equal texts are read once and tie.
      rng: for the noise.

    Returns:
      (ranks, metadata): dense ranks, 0 = best, equal = tie; and for each
      response a dict with the rows of Table 3 (`judge.QUALITY`, 1 to 7, and
      `judge.FLAGS`, 0 or 1), a few flags of which are set wrongly.

    Raises:
      ValueError: if there is no response.
    """
    if not responses:
      raise ValueError(f'no response to rank for prompt {prompt.id!r}')
    utilities = np.array([self.utility(prompt, r) for r in responses])
    same = _first_index(responses)
    read = utilities + self.noise * rng.standard_normal(len(responses))[same]
    flips = rng.random((len(responses), len(judge.FLAGS)))[same] < FLAG_NOISE
    metadata = []
    for response, value, flip in zip(responses, read, flips):
      flags = judge.assess(self.world, prompt, response).flags
      metadata.append(
        {judge.QUALITY: judge.likert(value)}
        | {
          name: int(flags[name] != wrong)
          for name, wrong in zip(judge.FLAGS, flip)
        }
      )
    ranks = dense_ranks(read, self.tie_width)
    return tuple(ranks.tolist()), tuple(metadata)


def make_labelers(world: World, seed: int) -> list[Labeler]:
  """Draws both groups; the same for the same arguments.

  Their noise is NOISE; set it with `calibrate_noise` on real responses.
  """
  labelers = []
  for group, count in GROUPS.items():
    for index in range(count):
      name = f'{group}-{index}'
      rng = _generator(seed, 'labeler', name)
      parts = rng.dirichlet(
        CONCENTRATION * np.array(tuple(MEAN_WEIGHTS.values()))
      )
      weights = judge.Weights(
        **dict(zip(MEAN_WEIGHTS, parts.tolist())),
        harmlessness=float(rng.uniform(0.5, 1.0)),
        taste=float(rng.uniform(-1.0, 1.0)),
        strictness=float(rng.uniform(0.2, 0.9)),
      )
      habits = solver.Habits(
        **{
          field: rate * float(rng.uniform(0.5, 1.5))
          for field, rate in dataclasses.asdict(HABITS).items()
        }
      )
      labelers.append(
        Labeler(name, group, weights, habits, NOISE, TIE_WIDTH, world)
      )
  return labelers


def dense_ranks(utilities: np.ndarray, tie_width: float) -> np.ndarray:
  """Ranks with ties.

  From the best down, a response ties with the best of its rank if it is less
  than `tie_width` worse; otherwise it begins the next rank. So ranks are
  transitive, and equal utilities tie always.

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
  """How often two labelers of a group prefer the same response.

  Counted are the pairs of responses, for each pair of labelers, on which both
  state a strict preference (Ouyang et al. 2022, section 3.4 and appendix A).

  Args:
    labelers: two or more.
    prompts_and_responses: (prompt, its responses) each.
    seed: of the labelers' noise.

  Returns:
    (agreement in [0, 1], its standard error, clustered by prompt; number of
    counted pairs).

  Raises:
    ValueError: if there are less than two labelers, or no counted pair.
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
  """Sets each group's noise so that its agreement lands on a target.

  By bisection, with the same draws at every step.

  Args:
    world: of the labelers.
    labelers: of any groups.
    prompts_and_responses: what agreement is measured on; take responses like
      those that will be ranked.
    targets: group -> agreement; TARGETS if None.
    seed: of the draws.

  Returns:
    The labelers, in order, with new noise.

  Raises:
    ValueError: if a target cannot be reached: it is .5 or less, or more than
      the agreement without noise, which differing tastes limit; or if a group
      has no target.
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
  """The noise at which the agreement is `target`."""

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
  """Utilities and unit noise of labelers on items, padded to one K."""

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
    # Equal texts are one response: count them once.
    self._counted = np.zeros((len(items), width), bool)
    for i, (_, responses) in enumerate(items):
      self._counted[i, np.unique(_first_index(responses))] = True

  def count(self, noise: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """-> [items] pairs agreed on, [items] pairs counted."""
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
    # Sum over pairs of labelers of s_a s_b, from (sum s)^2 - sum s^2.
    strict = np.abs(sign).sum(0)
    difference = (np.square(sign.sum(0)) - strict) / 2
    counted = (np.square(strict) - strict) / 2
    agreed = (counted + difference) / 2
    return agreed.sum(-1), counted.sum(-1)


def _mean_and_error(
  agreed: np.ndarray, counted: np.ndarray
) -> tuple[float, float, int]:
  """Ratio of sums, with the ratio estimator's error over prompts."""
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
  """For each response the index of the first equal one."""
  first = {}
  return np.array([first.setdefault(r, i) for i, r in enumerate(responses)])


def _generator(seed: int, *purpose: str) -> np.random.Generator:
  return np.random.default_rng(
    [seed] + [zlib.crc32(word.encode()) for word in purpose]
  )
