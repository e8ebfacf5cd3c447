"""Rankings in tokens, on disk: what training on rankings reads.

A data set of rankings has, beside its records, the columns of each split: the
lengths, ranks and labelers of all rankings, 20 bytes for a pair. A stage reads
the columns, decides from them which rankings it uses and in which order, and
reads the tokens of a batch when it needs them.

N rankings of K responses, n of them chosen.
"""

import array
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Protocol
import zipfile

import numpy as np

from instructrl.data.records import GROUPS, Ranking

# Column -> type code of its values. The last two have a value per response.
_TYPES = dict(prompt='i', k='h', labeler='i', group='b', lengths='i', ranks='h')

_BLOCK = 1024  # rankings read at once when iterating


@dataclasses.dataclass(frozen=True)
class RankingTokens:
  """A ranking in tokens, before padding."""

  prompt: tuple[int, ...]
  responses: tuple[tuple[int, ...], ...]  # K
  ranks: tuple[int, ...]  # K


class ColumnsWriter:
  """Collects the columns of a split while its records are written."""

  def __init__(self):
    self._values = {name: array.array(code) for name, code in _TYPES.items()}
    self._labelers = {}

  def add(self, ranking: Ranking) -> None:
    """Adds a ranking; one without tokens has lengths of 0."""
    values, k = self._values, len(ranking.ranks)
    number = self._labelers.setdefault(ranking.labeler, len(self._labelers))
    values['prompt'].append(len(ranking.prompt_tokens))
    values['k'].append(k)
    values['labeler'].append(number)
    values['group'].append(GROUPS.index(ranking.group))
    values['lengths'].extend(map(len, ranking.response_tokens or [()] * k))
    values['ranks'].extend(ranking.ranks)

  def save(self, path: str | pathlib.Path) -> None:
    values = {name: np.asarray(found) for name, found in self._values.items()}
    Columns(**values, labelers=tuple(self._labelers)).save(path)


@dataclasses.dataclass(frozen=True)
class Columns:
  """The numbers of the N rankings of a split.

  Attributes:
    prompt: [N] tokens of the prompt; 0 if the ranking is not in tokens.
    k: [N] responses.
    labeler: [N] indices of `labelers`.
    group: [N] indices of `records.GROUPS`.
    lengths: [sum of k] tokens of the responses.
    ranks: [sum of k].
    labelers: names.
  """

  prompt: np.ndarray
  k: np.ndarray
  labeler: np.ndarray
  group: np.ndarray
  lengths: np.ndarray
  ranks: np.ndarray
  labelers: tuple[str, ...]

  @classmethod
  def load(cls, path: str | pathlib.Path) -> 'Columns':
    """Reads what `ColumnsWriter.save` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged.
    """
    try:
      with np.load(path, allow_pickle=False) as found:
        values = dict(found)
      names = values.pop('labelers').tobytes().decode()
      return cls(**values, labelers=tuple(names.split('\n')))
    except (KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
      raise ValueError(f'{path} is damaged: {error}') from error

  def save(self, path: str | pathlib.Path) -> None:
    """Writes the file that `load` reads."""
    values = dict(vars(self))
    # numpy drops NULs at the end of a text, so the names are one text in bytes.
    names = '\n'.join(name.replace('\n', ' ') for name in self.labelers)
    values['labelers'] = np.frombuffer(names.encode(), np.uint8)
    with open(path, 'wb') as file:
      np.savez(file, **values)

  @functools.cached_property
  def first(self) -> np.ndarray:
    """[N] index of a ranking's first response in `lengths` and `ranks`."""
    return np.cumsum(self.k, dtype=np.int64) - self.k


def merge(parts: Sequence[pathlib.Path], path: str | pathlib.Path) -> None:
  """Replaces the columns of the shards of a split by one file."""
  found = _joined(list(map(Columns.load, parts)))
  for part in parts:
    part.unlink()
  found.save(path)


def _joined(parts: Sequence[Columns]) -> Columns:
  """Returns the columns of several splits, one split after the other."""
  numbers: dict[str, int] = {}
  labelers = []
  for part in parts:
    own = [numbers.setdefault(name, len(numbers)) for name in part.labelers]
    labelers.append(np.asarray(own, np.int32)[part.labeler])
  values = {
    name: np.concatenate([getattr(part, name) for part in parts])
    for name in _TYPES
  }
  values['labeler'] = np.concatenate(labelers)
  return Columns(**values, labelers=tuple(numbers))


class TokenReader(Protocol):
  """Reads the tokens of records; see `store.RecordSequence`."""

  def tokens(self, indices: Sequence[int]) -> list[np.ndarray]: ...


class _JoinedReader:
  """Reads the records of several data sets by one index."""

  def __init__(self, readers: Sequence[TokenReader], sizes: Sequence[int]):
    self._readers, self._ends = readers, np.cumsum(sizes)
    self._starts = self._ends - sizes

  def tokens(self, indices: Sequence[int]) -> list[np.ndarray]:
    rows = np.asarray(indices)
    parts = np.searchsorted(self._ends, rows, 'right')
    found: dict[int, np.ndarray] = {}
    for part in np.unique(parts):
      places = np.flatnonzero(parts == part)
      own = rows[places] - self._starts[part]
      read = self._readers[part].tokens(own.tolist())
      found.update(zip(places.tolist(), read, strict=True))
    return [found[place] for place in range(len(rows))]


class RankedTokens(Sequence[RankingTokens]):
  """Chosen rankings, or pairs of their responses, read when needed.

  Attributes:
    columns: of all N rankings.
    rows: [n] the chosen ones.
  """

  def __init__(
    self,
    reader: TokenReader,
    columns: Columns,
    rows: np.ndarray | None = None,
    pairs: np.ndarray | None = None,
  ):
    """Makes a view.

    Args:
      reader: reads tokens by the index of the ranking.
      columns: of the same split.
      rows: [n] indices; None takes all.
      pairs: [n, 2] indices of two responses; None takes all responses.
    """
    self._reader, self.columns, self._pairs = reader, columns, pairs
    self.rows = np.arange(len(columns.k)) if rows is None else rows

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.where(index)
    return self.__getitems__([index])[0]

  def __getitems__(self, indices: Sequence[int]) -> list[RankingTokens]:
    """Reads several rankings at once, as ArrayRecord's sources do."""
    rows = self.rows[np.asarray(indices)]
    chosen = itertools.repeat(None)
    if self._pairs is not None:
      chosen = self._pairs[np.asarray(indices)].tolist()
    found = self._reader.tokens(rows.tolist())
    return [self._element(*args) for args in zip(rows.tolist(), found, chosen)]

  def __iter__(self) -> Iterator[RankingTokens]:
    for start in range(0, len(self), _BLOCK):
      yield from self.__getitems__(range(start, min(start + _BLOCK, len(self))))

  def _element(self, row: int, tokens: np.ndarray, chosen) -> RankingTokens:
    c = self.columns
    own = slice(c.first[row], c.first[row] + c.k[row])
    ends = c.prompt[row] + np.cumsum(c.lengths[own])
    if len(tokens) != ends[-1]:
      raise ValueError(
        f'ranking {row} has {len(tokens)} tokens, its columns say {ends[-1]}: '
        'the data set is damaged, make it again'
      )
    starts = [int(c.prompt[row]), *ends.tolist()]
    values, ranks = tokens.tolist(), c.ranks[own].tolist()
    parts = [
      tuple(values[i:j]) for i, j in zip([0, *starts[:-1]], starts, strict=True)
    ]
    prompt, responses = parts[0], parts[1:]
    if chosen is not None:
      responses = [responses[i] for i in chosen]
      ranks = [int(ranks[i] > ranks[j]) for i, j in (chosen, chosen[::-1])]
    return RankingTokens(prompt, tuple(responses), tuple(ranks))

  def where(self, chosen: np.ndarray | slice) -> 'RankedTokens':
    """Returns a view of fewer: a mask [n], indices, or a slice."""
    pairs = None if self._pairs is None else self._pairs[chosen]
    return RankedTokens(self._reader, self.columns, self.rows[chosen], pairs)

  def pairs(self) -> 'RankedTokens':
    """Splits each ranking into its pairs that are not ties.

    With this arrangement the reward model overfits within an epoch (Ouyang et
    al. 2022, section 3.5, footnote 5): each response is in up to K - 1
    elements, which are shuffled apart.
    """
    c, rows, pairs = self.columns, [], []
    for row in self.rows.tolist():
      ranks = c.ranks[c.first[row] : c.first[row] + c.k[row]].tolist()
      for i, j in itertools.combinations(range(len(ranks)), 2):
        if ranks[i] != ranks[j]:
          rows.append(row)
          pairs.append((i, j))
    both = np.asarray(pairs, np.int64).reshape(-1, 2)
    return RankedTokens(self._reader, c, np.asarray(rows, np.int64), both)

  @classmethod
  def union(cls, parts: Sequence['RankedTokens']) -> 'RankedTokens':
    """Joins all rankings of several data sets, in their order."""
    if len(parts) == 1:
      return parts[0]
    columns = [part.columns for part in parts]
    sizes = [len(c.k) for c in columns]
    readers = [part._reader for part in parts]
    return cls(_JoinedReader(readers, sizes), _joined(columns))

  # --- Numbers of the chosen ones --------------------------------------------

  def _per_ranking(self, reduce: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Reduces a column with a value per response, [n]."""
    if not len(self.rows):
      return np.zeros(0, np.int64)
    if self._pairs is not None:
      places = self.columns.first[self.rows, None] + self._pairs
      return reduce.reduce(values[places], axis=1, dtype=np.int64)
    found = reduce.reduceat(values, self.columns.first, dtype=np.int64)
    return found[self.rows]

  @property
  def prompt_lengths(self) -> np.ndarray:
    """[n] tokens; 0 if the ranking is not in tokens."""
    return self.columns.prompt[self.rows]

  @property
  def lengths(self) -> np.ndarray:
    """[n] tokens of the prompt and all responses."""
    c = self.columns
    return self.prompt_lengths + self._per_ranking(np.add, c.lengths)

  @property
  def longest(self) -> np.ndarray:
    """[n] tokens of the longest response."""
    return self._per_ranking(np.maximum, self.columns.lengths)

  @property
  def strict(self) -> np.ndarray:
    """[n] whether one response is preferred to another. Ranks are dense."""
    return self._per_ranking(np.maximum, self.columns.ranks) > 0

  @property
  def groups(self) -> np.ndarray:
    """[n] names: the group of the labeler."""
    return np.asarray(GROUPS)[self.columns.group[self.rows]]

  @property
  def labelers(self) -> np.ndarray:
    """[n] names."""
    return np.asarray(self.columns.labelers)[self.columns.labeler[self.rows]]

  def by_labeler(self, values: Mapping[str, str], default: str) -> np.ndarray:
    """[n] the value of each ranking's labeler."""
    found = [values.get(name, default) for name in self.columns.labelers]
    return np.asarray(found)[self.columns.labeler[self.rows]]
