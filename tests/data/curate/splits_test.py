"""Which side a prompt, a user and a document is on."""

import pytest

from instructrl.data.curate import parts
from instructrl.data.curate import splits
from tests.data.toys import check
from tests.data.toys import make
from tests.data.toys import NUMBERS
from tests.data.toys import page
from tests.data.toys import ranked
from tests.data.toys import shown
from tests.data.toys import sides


def test_a_prompt_in_two_sources_is_on_one_side_in_both():
  made = make(
    ('demonstrations', [shown(f'Say {i}') for i in NUMBERS]),
    ('rankings', [ranked(f'say  {i} ') for i in NUMBERS]),
    validation_fraction=0.25,
  )
  train, held = check(made)
  assert (
    len(train) - len(made.prompts['ppo']) - len(made.prompts['train']),
    len(made.prompts['validation']),
  ) == (60, 10)
  assert sides(made.demonstrations) == sides(made.rankings)
  assert held


def test_a_users_prompts_are_on_one_side():
  made = make(
    ('rankings', [ranked(f'p{i}', user=f'u{i % 8}') for i in NUMBERS]),
    validation_fraction=0.25,
  )
  check(made)
  users = {}
  for r in made.rankings:
    users.setdefault(r.prompt.user, set()).add(r.prompt.split)
  assert (
    sorted(map(tuple, users.values()))
    == [('train',)] * 6 + [('validation',)] * 2
  )
  assert not made.drops.counts


def test_a_prompt_of_users_on_both_sides_stays_with_the_first_of_them():
  """Or a greeting would join all users to one."""
  rows = [ranked(f'p{i}', user=f'u{i % 8}') for i in NUMBERS]
  rows += [ranked('hello', user=f'u{i}') for i in range(8)]
  made = make(('rankings', rows), validation_fraction=0.25)
  check(made)
  side = {
    'u0': next(r.prompt.split for r in made.rankings if r.prompt.user == 'u0')
  }
  hellos = [r for r in made.rankings if r.prompt.text == 'hello']
  assert {r.prompt.split for r in hellos} == {side['u0']}
  lost = made.drops.of('rankings')
  assert lost == {'prompt is on the other side than its user': 8 - len(hellos)}
  assert 0 < len(hellos) < 8


def test_split_by_prompt_does_not_look_at_users():
  rows = [ranked(f'p{i}', user='u') for i in NUMBERS]
  by_user = make(('rankings', rows))
  assert set().union(*sides(by_user.rankings).values()) == {'train'}
  by_prompt = make(('rankings', rows), split_by='prompt')
  assert set().union(*sides(by_prompt.rankings).values()) == {
    'train',
    'validation',
  }


def test_a_split_of_the_sources_own_is_kept():
  rows = [ranked(f'p{i}', split='test' if i < 6 else 'train') for i in NUMBERS]
  made = make(
    ('rankings', rows),
    ('demonstrations', [shown('P3'), *(shown(f'q{i}') for i in NUMBERS)]),
  )
  check(made)
  assert [r.prompt.split for r in made.rankings] == [
    r.prompt.split for r in rows
  ]
  # The prompt that one source holds out is held out in the other.
  assert made.demonstrations[0].prompt.split == 'test'
  assert 'validation' in set().union(*sides(made.demonstrations).values())
  again = make(('rankings', rows), resplit=True)
  assert {r.prompt.split for r in again.rankings} == {'train', 'validation'}


def test_a_prompt_on_both_sides_of_its_source_is_held_out():
  rows = [
    ranked('p1', split='train'),
    ranked('P1', split='test'),
    ranked('p1 ', split='validation'),
    ranked('p2'),
  ]
  made = make(('rankings', rows))
  check(made)
  assert [r.prompt.split for r in made.rankings] == ['test'] * 3 + ['train']


def test_a_source_whose_own_split_leaks_users_is_refused():
  rows = [ranked('p1', user='u7'), ranked('p2', user='u7', split='test')]
  with pytest.raises(
    parts.CurateError,
    match=r'rankings: the split of '
    r"rankings0 itself leaks: user 'u7' is in 'train' and in "
    r"'test'; set resplit=True .* or split_by='prompt'",
  ):
    make(('rankings', rows))
  made = make(('rankings', rows), split_by='prompt')
  assert [r.prompt.split for r in made.rankings] == ['train', 'test']
  check(make(('rankings', rows), resplit=True))


def test_every_part_holds_out_its_share():
  made = make(
    ('demonstrations', [shown(f'd{i}') for i in range(10)]),
    ('rankings', [ranked(f'r{i}') for i in range(400)]),
    validation_fraction=0.05,
  )
  count = lambda rows: sum(r.prompt.split == 'validation' for r in rows)
  assert (count(made.demonstrations), count(made.rankings)) == (1, 20)


def test_the_split_follows_from_the_seed_not_from_the_order():
  rows = [ranked(f'p{i}') for i in NUMBERS]
  split = lambda rows, seed: sides(
    make(('rankings', rows), seed=seed, validation_fraction=0.3).rankings
  )
  assert split(rows, 0) == split(rows[::-1], 0) != split(rows, 1)


@pytest.mark.parametrize(
  'sizes, fraction, expected',
  [
    (dict.fromkeys('abcdefghij', 1), 0.2, 2),
    (dict.fromkeys('abcdefghij', 1), 0.01, 1),
    (dict.fromkeys('abcdefghij', 1), 0.0, 0),
    ({'a': 1}, 0.5, 0),
    ({}, 0.5, 0),
    ({'a': 90, 'b': 60, 'c': 70}, 0.05, 60),
  ],
)
def test_a_share_is_drawn(sizes, fraction, expected):
  taken = splits.take_share(sizes, fraction, 0, 'split')
  assert sum(sizes[unit] for unit in taken) == expected


def test_documents_are_split_and_one_alone_is_not():
  made = make(
    ('documents', [page(f'd{i}') for i in NUMBERS]),
    ('documents', [page('only')]),
    validation_fraction=0.1,
  )
  held = [d.text for d in made.documents if d.split == 'validation']
  assert len(held) == 4 and 'only' not in held
  assert made.notes == [
    'documents: documents1 is a single text, all of it for '
    'training: nothing of it is held out'
  ]


def test_a_document_that_is_held_out_elsewhere_is_not_trained_on():
  made = make(
    ('documents', [page('a', split='validation'), page('b')]),
    ('documents', [page('A '), page('c'), page('d', id='id-b')]),
    validation_fraction=0.0,
  )
  assert [(d.text, d.split) for d in made.documents] == [
    ('a', 'validation'),
    ('b', 'train'),
    ('c', 'train'),
    ('d', 'train'),
  ]
  assert made.drops.of('documents') == {'text is held out elsewhere': 1}
  assert len({d.id for d in made.documents}) == 4
