"""Batches that are a function of the step.

Row j at step s is example `s * B + j` of a seeded permutation of the examples,
with a new permutation every epoch; a process reads the rows of its devices. So
the position in the data is the step number, checkpoints do not store it, and
the rows of a step do not depend on the number of processes. Language-model rows
are packed once, offline, so this is true of packed data too. The permutation is
Grain's.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import math
from typing import Any, Protocol

import grain
import jax
import numpy as np

from instructrl.data import tasks
from instructrl.data.ranked import RankingTokens
from instructrl.data.rows import FIELDS
from instructrl.data.rows import RowFile
from instructrl.data.rows import Unpacked
from instructrl.types import LMBatch, PromptBatch, RankingBatch

_IN_MEMORY_BYTES = 2**28
UNITS = ('rows', 'examples')  # of a batch of a language model


def epoch_steps(
  num_examples: int, batch_size: int, num_epochs: float = 1.0
) -> int:
  """Returns the steps after which every example was seen `num_epochs` times.

  If the batch does not divide the examples, the last step continues with the
  next epoch's permutation.
  """
  if num_examples < 1 or batch_size < 1:
    raise ValueError(
      f'{num_examples} examples in batches of {batch_size}: both must be 1 '
      'or more'
    )
  steps = num_epochs * num_examples / batch_size
  return max(1, math.ceil(steps - 1e-9))  # 1.1 * 50 is not above 55


class Examples(Protocol):
  """Examples that can be gathered in any order."""

  def __len__(self) -> int: ...

  def gather(self, indices: np.ndarray) -> Any:
    """Stacks the examples of these indices [n] into a batch of n."""


class RowArrays:
  """Packed rows in memory."""

  def __init__(self, rows: tasks.Rows):
    self._rows = rows

  def __len__(self) -> int:
    return len(self._rows['tokens'])

  def gather(self, indices: np.ndarray) -> LMBatch:
    return LMBatch(**{k: self._rows[k][indices] for k in FIELDS})


class BuiltExamples:
  """Examples that are built when they are needed, such as padded ones."""

  def __init__(self, elements: Sequence[Any], build: Callable[[int, Any], Any]):
    """Stores the elements and the function.

    Args:
      elements: random access, in memory or on disk; read with one call if it
        has a method `__getitems__`, as sources on disk have.
      build: (index, element) -> a pytree of arrays without a batch axis.
    """
    self._elements = elements
    self._build = build

  def __len__(self) -> int:
    return len(self._elements)

  def gather(self, indices: np.ndarray) -> Any:
    indices = indices.tolist()
    several = getattr(self._elements, '__getitems__', None)
    found = (
      several(indices) if several else map(self._elements.__getitem__, indices)
    )
    built = [self._build(i, element) for i, element in zip(indices, found)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *built)


class _Mixed:
  """Two kinds of examples with the same kind of batch, one after the other."""

  def __init__(self, first: Examples, second: Examples):
    self._first, self._second = first, second

  def __len__(self) -> int:
    return len(self._first) + len(self._second)

  def gather(self, indices: np.ndarray) -> Any:
    in_first = indices < len(self._first)
    parts = []
    if in_first.any():
      parts.append(self._first.gather(indices[in_first]))
    if not in_first.all():
      parts.append(self._second.gather(indices[~in_first] - len(self._first)))
    back = np.argsort(np.argsort(~in_first, kind='stable'))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[back], *parts)


class Batches:
  """The batches of one data set, as a function of the step."""

  def __init__(
    self,
    source: Examples,
    batch_size: int,
    seed: int,
    *,
    shuffle: bool = True,
    mix: Examples | None = None,
    mix_fraction: float = 0.0,
    lengths: np.ndarray | None = None,
    window: int = 1,
    rows_read: Sequence[int] | None = None,
  ):
    """Makes the batches.

    Args:
      source: the examples.
      batch_size: B, over all processes.
      seed: seed of the permutations; the same in all processes.
      shuffle: False keeps the order of the examples in every epoch.
      mix: examples that are mixed in evenly, such as pretraining rows.
      mix_fraction: share of all examples that come from `mix`, in [0, 1).
      lengths: tokens of each example. Examples of similar length then share a
        batch, so that batches can be trimmed (see `trim_columns`).
      window: number of batches whose examples are sorted by length. The window
        of an example and the order of a window's batches remain random.
      rows_read: rows of a batch that this process reads; all by default.

    Raises:
      ValueError: there are no examples, or an argument has a wrong value.
    """
    if not len(source) or (mix is not None and not len(mix)):
      raise ValueError('there are no examples to make batches of')
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}, it must be 1 or more')
    rows = np.arange(batch_size) if rows_read is None else np.asarray(rows_read)
    if not len(rows) or rows.min() < 0 or rows.max() >= batch_size:
      raise ValueError(
        f'rows_read {rows.tolist()} are not rows of a batch of {batch_size}'
      )
    if not 0 <= mix_fraction < 1 or (mix_fraction > 0 and mix is None):
      raise ValueError(
        f'mix_fraction is {mix_fraction}: it must be in [0, 1), and above 0 it '
        'needs rows to mix in'
      )
    if lengths is not None and (mix is not None or len(lengths) != len(source)):
      raise ValueError(
        f'{len(lengths)} lengths for {len(source)} examples'
        f'{" and others that are mixed in" if mix is not None else ""}'
      )
    self.batch_size = batch_size
    self.num_examples = len(source)  # without those mixed in
    self._source = source
    self._rows = rows
    self._seed, self._lengths, self._window = seed, lengths, window
    self._grouped = range(0), None

    def order(start, stop, seed):
      examples = grain.MapDataset.range(start, stop)
      if shuffle:
        examples = examples.seed(seed).shuffle()
      return examples.repeat(None)

    self._order = order(0, len(source), seed)
    if mix_fraction:
      self._source = _Mixed(source, mix)
      self._order = grain.MapDataset.mix(
        [self._order, order(len(source), len(self._source), seed + 1)],
        weights=[1 - mix_fraction, mix_fraction],
      )

  def all_indices(self, step: int) -> np.ndarray:
    """Returns the examples of all processes at a step, [B]."""
    return self._indices(step, np.arange(self.batch_size))

  def indices(self, step: int) -> np.ndarray:
    """Returns the examples of this process at a step, [its rows]."""
    return self._indices(step, self._rows)

  def _indices(self, step, rows):
    if step < 0:
      raise ValueError(f'step is {step}, it must be 0 or more')
    window = self._window_of(step)
    if len(window) == 1:
      first = step * self.batch_size
      return np.asarray([self._order[i] for i in (first + rows).tolist()])
    if self._grouped[0] != window:  # one window is kept
      self._grouped = window, self._group(window)
    return self._grouped[1][step - window.start, rows]

  def _window_of(self, step: int) -> range:
    """Returns the steps whose examples are sorted together, of one epoch."""
    if self._lengths is None:
      return range(step, step + 1)
    size, total = self.batch_size, self.num_examples
    epoch = step * size // total
    first, end = -(-epoch * total // size), (epoch + 1) * total // size
    if step >= end:  # this step continues with the next epoch
      return range(step, step + 1)
    start = first + (step - first) // self._window * self._window
    return range(start, min(start + self._window, end))

  def _group(self, window: range) -> np.ndarray:
    """Returns the examples of a window, [steps, B], sorted by length."""
    first, stop = (n * self.batch_size for n in (window.start, window.stop))
    examples = np.asarray([self._order[i] for i in range(first, stop)])
    by_length = np.argsort(self._lengths[examples], kind='stable')
    batches = examples[by_length].reshape(len(window), -1)
    return np.random.default_rng([self._seed, window.start]).permutation(
      batches
    )

  def at(self, step: int) -> Any:
    """Returns this process' part of the batch of a step, in numpy."""
    return self._source.gather(self.indices(step))

  def once(self) -> Iterator[Any]:
    """Yields every example once, in order, for evaluation.

    All batches have the same shape: copies of the last example fill up the last
    batch, and do not count (see `silence`).
    """
    for start in range(0, self.num_examples, self.batch_size):
      indices = start + self._rows
      counts = indices < self.num_examples
      batch = self._source.gather(np.minimum(indices, self.num_examples - 1))
      yield batch if counts.all() else silence(batch, counts)


def silence(batch: Any, counts: np.ndarray) -> Any:
  """Masks rows of a batch.

  Args:
    batch: an `LMBatch`, `RankingBatch` or `PromptBatch`.
    counts: [B] bool; False masks a row.

  Returns:
    The batch with `loss_mask` or `valid` False, or `index` -1, in masked rows.
  """
  match batch:
    case LMBatch():
      changed = {'loss_mask': batch.loss_mask & counts[:, None]}
    case RankingBatch():
      changed = {'valid': batch.valid & counts[:, None]}
    case PromptBatch():
      changed = {'index': np.where(counts, batch.index, -1).astype(np.int32)}
    case _:
      raise TypeError(f'{type(batch).__name__} is not a batch')
  return dataclasses.replace(batch, **changed)


def lm_examples(rows: tasks.Rows | RowFile, unit: str = 'rows') -> Examples:
  """Returns what a batch of a language model counts.

  Reads a file of at most `_IN_MEMORY_BYTES` into memory, where a batch takes a
  tenth of the time.

  Args:
    rows: from `tasks.pack_rows` or `rows.read_rows`.
    unit: one of `UNITS`: packed rows, or the examples in them, one a row.
  """
  if isinstance(rows, RowFile) and rows.num_bytes <= _IN_MEMORY_BYTES:
    rows = rows.load()
  packed = RowArrays(rows) if isinstance(rows, dict) else rows
  return Unpacked(packed) if unit == 'examples' else packed


def lm_batches(
  rows: tasks.Rows | RowFile,
  batch_size: int,
  seed: int,
  *,
  unit: str = 'rows',
  mix: tasks.Rows | RowFile | None = None,
  **kwargs: Any,
) -> Batches:
  """Makes batches of a language model.

  Args:
    rows: from `tasks.pack_rows` or `rows.read_rows`.
    batch_size: B, in `unit`.
    seed: seed of the order.
    unit: see `lm_examples`; what is mixed in is always packed rows.
    mix: rows that are mixed in, with `mix_fraction`.
    **kwargs: for `Batches`.
  """
  return Batches(
    lm_examples(rows, unit),
    batch_size,
    seed,
    mix=None if mix is None else lm_examples(mix),
    **kwargs,
  )


def ranking_batches(
  elements: Sequence[RankingTokens],
  batch_size: int,
  seed: int,
  *,
  max_k: int,
  seq_len: int,
  eos_id: int,
  pad_id: int = 0,
  **kwargs: Any,
) -> Batches:
  """Makes batches of B rankings; all responses to a prompt stay together.

  Args:
    elements: such as `ranked.RankedTokens`.
    batch_size: B, prompts.
    seed: seed of the order.
    max_k: rows per prompt; rankings with fewer responses are padded.
    seq_len: T.
    eos_id: the token that ends a response.
    pad_id: the token of padding.
    **kwargs: for `Batches`.
  """

  shape = dict(max_k=max_k, seq_len=seq_len, eos_id=eos_id, pad_id=pad_id)

  def build(index, element):
    del index
    ranking = element.prompt, element.responses, element.ranks
    return tasks.ranking_example(*ranking, **shape)

  return Batches(BuiltExamples(elements, build), batch_size, seed, **kwargs)


def trim_columns(batch: RankingBatch, columns: int) -> RankingBatch:
  """Keeps the first `columns` columns; the others must be padding."""
  names = ('tokens', 'segment_ids', 'positions')
  kept = {name: getattr(batch, name)[:, :columns] for name in names}
  return dataclasses.replace(batch, **kept)


def prompt_batches(
  prompts: Sequence[Sequence[int]],
  batch_size: int,
  seed: int,
  *,
  prompt_len: int,
  pad_id: int = 0,
  **kwargs: Any,
) -> Batches:
  """Makes batches of prompts, padded on the left.

  Args:
    prompts: tokens of prompts that fit (see `tasks.fits`); the `index` of a
      batch is an index of this sequence.
    batch_size: B.
    seed: seed of the order.
    prompt_len: P.
    pad_id: the token of padding.
    **kwargs: for `Batches`.
  """

  def build(index, tokens):
    return tasks.prompt_example(tokens, prompt_len, index=index, pad_id=pad_id)

  return Batches(BuiltExamples(prompts, build), batch_size, seed, **kwargs)
