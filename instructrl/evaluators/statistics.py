"""Statistics of evaluations: means, intervals, F1, BLEU, entropy.

A reported number is the value of a `Measure`: one row of sufficient statistics
per evaluated item, and a function from their sum to the number. A mean, a rate
over the items it applies to, a corpus BLEU and nats per token all have this
form, so one bootstrap over items gives the interval of each. Measures of the
same items are resampled with the same draws; the difference of two policies is
therefore a paired comparison. Items that share a fact or a text are a cluster,
and the bootstrap draws whole clusters.

Axis legend: N items, C clusters, S statistics, M bootstrap resamples.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
import re
import string
import zlib

import numpy as np
import numpy.typing as npt
import sacrebleu

NUM_RESAMPLES = 2000
Z95 = 1.959963984540054  # the normal quantile of a two-sided 95% interval


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
  """Returns a numpy generator that depends on (seed, purpose) only."""
  name = '/'.join(str(part) for part in purpose)
  return np.random.default_rng([seed, zlib.crc32(name.encode())])


@dataclasses.dataclass(frozen=True)
class Measure:
  """Sufficient statistics of N items, and the number they reduce to.

  Attributes:
    stats: [N, S] float64, one row per item.
    reduce: maps sums over items, [M, S], to values [M]; NaN where a value is
      undefined (a resample to which no item applies).
    binary: whether each item is a plain success or failure, so that Wilson's
      interval applies (S = 2: successes, trials).
    clusters: [N], what items share; None if they are independent.
  """

  stats: np.ndarray
  reduce: Callable[[np.ndarray], np.ndarray]
  binary: bool = False
  clusters: Sequence | None = None

  def __post_init__(self):
    if self.stats.ndim != 2 or not len(self.stats):
      raise ValueError(
        f'a measure needs [N > 0, S] statistics, got {self.stats.shape}'
      )
    if not np.isfinite(self.stats).all():
      raise ValueError('a measure holds a value that is not finite')
    if self.clusters is not None and len(self.clusters) != len(self.stats):
      raise ValueError(
        f'a measure of {len(self.stats)} items has {len(self.clusters)} '
        'clusters; give one for each item'
      )

  @functools.cached_property
  def drawn(self) -> np.ndarray:
    """Statistics of what the bootstrap draws: items [N, S], or clusters [C, S].

    Clusters are in the order of their first items.
    """
    if self.clusters is None:
      return self.stats
    place = {name: i for i, name in enumerate(dict.fromkeys(self.clusters))}
    sums = np.zeros((len(place), self.stats.shape[1]))
    np.add.at(sums, [place[name] for name in self.clusters], self.stats)
    return sums

  @property
  def value(self) -> float:
    return float(self.reduce(self.stats.sum(0, keepdims=True))[0])

  @property
  def num_items(self) -> int:
    """The number of items that count; in a ratio, items with a weight."""
    if self.stats.shape[1] == 2:
      return int((self.stats[:, 1] > 0).sum())
    return len(self.stats)


def _ratio(sums):
  with np.errstate(divide='ignore', invalid='ignore'):
    return sums[:, 0] / sums[:, 1]


def mean(
  values: npt.ArrayLike,
  applies: npt.ArrayLike | None = None,
  clusters: Sequence | None = None,
) -> Measure:
  """Returns the mean of [N] values, over the items to which it applies."""
  values = np.asarray(values, np.float64)
  weights = (
    np.ones(len(values)) if applies is None else np.asarray(applies, np.float64)
  )
  binary = bool(np.isin(values[weights > 0], (0.0, 1.0)).all())
  stats = np.stack([np.where(weights > 0, values, 0.0), weights], axis=1)
  return Measure(stats, _ratio, binary, clusters)


def mean_rating(values: npt.ArrayLike) -> Measure:
  """Returns the mean of [N] ratings, which are no rate even if all are 1."""
  return ratio(values, np.ones(len(np.asarray(values))))


def ratio(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> Measure:
  """Returns sum over sum, such as nats per token of items of any length."""
  stats = np.stack(
    [np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)],
    axis=1,
  )
  return Measure(stats, _ratio)


def replicates(
  measure: Measure, *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> np.ndarray:
  """Returns bootstrap replicates [M] of a measure.

  The draws depend on (seed, number of clusters) only. Measures of the same
  items share them, so their replicates may be subtracted from each other.
  """
  return measure.reduce(
    _resamples(seed, len(measure.drawn), num_resamples) @ measure.drawn
  )


@functools.lru_cache(maxsize=4)  # tens of megabytes each
def _resamples(seed: int, n: int, num_resamples: int) -> np.ndarray:
  """Returns how often each item is in each resample: [M, N] float64."""
  counts = generator(seed, 'bootstrap').multinomial(
    n, np.full(n, 1 / n), size=num_resamples
  )
  return counts.astype(np.float64)


def _percentiles(values: np.ndarray) -> list[float] | None:
  values = values[np.isfinite(values)]
  if not len(values):
    return None
  low, high = np.quantile(values, (0.025, 0.975))
  return [float(low), float(high)]


def wilson_interval(successes: float, n: int) -> list[float]:
  """Returns Wilson's 95% score interval of a proportion (Wilson 1927).

  Args:
    successes: sum over the items; may be fractional (a tie is a half).
    n: number of items, > 0.

  Returns:
    [low, high], inside [0, 1], never of width zero.
  """
  if n <= 0 or not 0 <= successes <= n:
    raise ValueError(f'successes must be in [0, n={n}]; got {successes}')
  p, z2 = successes / n, Z95**2
  centre = (p + z2 / (2 * n)) / (1 + z2 / n)
  half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
  # At the ends the bound is exactly 0 or 1, without rounding errors.
  low = 0.0 if successes == 0 else centre - half
  high = 1.0 if successes == n else centre + half
  return [float(low), float(high)]


def proportion_interval(measure: Measure, *, seed: int) -> list[float] | None:
  """Returns the bootstrap interval of a mean of outcomes in [0, 1].

  If all outcomes are equal, the bootstrap interval has width zero, although n
  outcomes cannot show that much; Wilson's interval is returned instead.
  """
  values = measure.stats[:, 0]
  if np.all(values == values[0]):
    return wilson_interval(values.sum(), len(values))
  return _percentiles(replicates(measure, seed=seed))


def summarize(measure: Measure, *, seed: int) -> dict:
  """Returns {'value', 'ci95': [low, high], 'n'}.

  Rates of independent items have Wilson's interval, all other measures the
  percentile bootstrap. 'value' and 'ci95' are None if undefined.
  """
  return compare({'': measure}, seed=seed)[0]['']


def compare(
  measures: Mapping[str, Measure], *, seed: int
) -> tuple[dict[str, dict], dict[str, dict[str, dict]]]:
  """Summarizes several policies on the same items, and their differences.

  Args:
    measures: policy -> its measure; row i of each measure is item i.
    seed: evaluation seed.

  Returns:
    (name -> summary, left -> right -> summary of left - right with a paired
    bootstrap interval, for each left that comes after right in `measures`).
    Where all outcomes of a rate, or all differences of two rates, are equal,
    the bootstrap has width zero although C clusters cannot show that much; the
    interval is then Wilson's of 0 in C, on each side.

  Raises:
    ValueError: the measures differ in their number of items.
  """
  sizes = {name: len(m.stats) for name, m in measures.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(
      f'policies were measured on different numbers of items: {sizes}'
    )
  drawn = {name: replicates(m, seed=seed) for name, m in measures.items()}
  summaries, differences = {}, {}
  for name, measure in measures.items():
    summaries[name] = _summary(
      measure.value, drawn[name], measure.num_items, _least(measure)
    )
    if measure.binary and measure.num_items:
      summaries[name]['ci95'] = (
        wilson_interval(measure.stats[:, 0].sum(), measure.num_items)
        if measure.clusters is None
        else np.clip(summaries[name]['ci95'], 0, 1).tolist()
      )
    differences[name] = {
      other: _summary(
        measure.value - measures[other].value,
        drawn[name] - drawn[other],
        sizes[name],
        min(_least(measure), _least(measures[other])),
      )
      for other in summaries
      if other != name
    }
  return summaries, {k: v for k, v in differences.items() if v}


def _least(measure: Measure) -> float:
  """Returns the half width of an interval of a rate if no outcome differs."""
  counted = int((measure.drawn[:, -1] > 0).sum())
  return wilson_interval(0, counted)[1] if measure.binary and counted else 0.0


def _summary(value: float, drawn: np.ndarray, n: int, least: float) -> dict:
  if not math.isfinite(value):
    return {'value': None, 'ci95': None, 'n': n}
  ci95 = _percentiles(drawn)
  if ci95 and math.isclose(*ci95, abs_tol=1e-12):
    ci95 = [ci95[0] - least, ci95[1] + least]
  return {'value': value, 'ci95': ci95, 'n': n}


def difference_interval(
  left: tuple[float, list[float]], right: tuple[float, list[float]]
) -> list[float]:
  """Returns the 95% interval of left - right from two separate intervals.

  Newcombe 1998 (method 10), also called MOVER, for independent samples. It
  needs only the two estimates and their intervals.

  Args:
    left: (value, [low, high]).
    right: the same.
  """
  (a, (a_low, a_high)), (b, (b_low, b_high)) = left, right
  return [
    a - b - math.hypot(a - a_low, b_high - b),
    a - b + math.hypot(a_high - a, b - b_low),
  ]


def entropy_bits(logprobs: npt.ArrayLike) -> float:
  """Returns the entropy over choices, H = -sum P log2 P (paper, appendix D).

  Args:
    logprobs: [C] log-probabilities of the choices in nats, up to a constant.

  Returns:
    Bits.
  """
  logprobs = np.asarray(logprobs, np.float64)
  p = np.exp(logprobs - logprobs.max())
  p /= p.sum()
  return float(-np.sum(p * np.log2(np.where(p > 0, p, 1.0))))


def normalize_answer(text: str) -> str:
  """Normalizes an answer as SQuAD's script does (Rajpurkar et al. 2016).

  Lower case, without punctuation, articles and repeated spaces.
  """
  text = ''.join(c for c in text.lower() if c not in string.punctuation)
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())


def token_f1(prediction: str, answers: Sequence[str]) -> float:
  """Returns the best token F1 against any of the answers, as in SQuAD."""
  return max(
    _f1(normalize_answer(prediction).split(), normalize_answer(answer).split())
    for answer in answers
  )


def _f1(predicted: list[str], answer: list[str]) -> float:
  if not predicted or not answer:
    return float(predicted == answer)
  common = collections.Counter(predicted) & collections.Counter(answer)
  overlap = sum(common.values())
  if not overlap:
    return 0.0
  precision, recall = overlap / len(predicted), overlap / len(answer)
  return 2 * precision * recall / (precision + recall)


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Measure:
  """Returns corpus BLEU, 0 to 100, by sacrebleu with its default tokenizer.

  A segment's statistics are its n-gram matches and counts and the two lengths.
  Corpus BLEU depends on their sum over segments only, so the measure's value
  equals `sacrebleu.corpus_bleu` exactly.
  """
  rows = []
  metric = sacrebleu.BLEU()
  for hypothesis, reference in zip(hypotheses, references, strict=True):
    score = metric.corpus_score([hypothesis], [[reference]])
    rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
  return Measure(np.asarray(rows, np.float64), _bleu_of_sums)


def _bleu_of_sums(sums: np.ndarray) -> np.ndarray:
  def score(row):
    row = [int(x) for x in row]
    return sacrebleu.BLEU.compute_bleu(
      correct=row[:4],
      total=row[4:8],
      sys_len=row[8],
      ref_len=row[9],
      smooth_method='exp',
    ).score

  return np.asarray([score(row) for row in sums])
