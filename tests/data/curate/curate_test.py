"""Sources put together: limits, draws, whose prompts are whose, and counts."""

import dataclasses
import tracemalloc

import pytest

from instructrl.data.curate import curate
from instructrl.data.curate import parts
from instructrl.data.sequences import Spool
from tests.data.toys import check
from tests.data.toys import make
from tests.data.toys import NUMBERS
from tests.data.toys import page
from tests.data.toys import prompt
from tests.data.toys import ranked
from tests.data.toys import shown

# --- What PPO sees, who ranked -----------------------------------------------


def test_ppo_has_the_ranked_prompts_where_there_are_no_others():
  made = make(
    ('rankings', [ranked(f'p{i}') for i in NUMBERS]),
    ('demonstrations', [shown(f'd{i}') for i in NUMBERS]),
  )
  ranked_train = {
    r.prompt.text for r in made.rankings if r.prompt.split == 'train'
  }
  assert {p.text for p in made.prompts['ppo']} == ranked_train
  assert ranked_train < {p.text for p in made.prompts['train']}
  check(made)


def test_prompts_of_their_own_are_ppos():
  made = make(
    ('rankings', [ranked(f'p{i}') for i in NUMBERS]),
    ('prompts', [prompt(f'q{i}') for i in NUMBERS] + [prompt('Q3')]),
  )
  check(made)
  assert {p.text[0] for p in made.prompts['ppo']} == {'q'}
  assert {p.text[0] for p in made.prompts['train']} == {'p'}
  assert {p.text[0] for p in made.prompts['validation']} == {'p', 'q'}


def test_prompts_are_taken_of_any_source():
  made = make(('prompts', [ranked(f'p{i}') for i in NUMBERS]))
  assert not made.rankings and len(made.prompts['ppo']) == 38
  assert 'train' not in made.prompts


def test_a_share_is_set_aside_for_ppo():
  made = make(
    ('rankings', [ranked(f'p{i}') for i in NUMBERS]),
    ('demonstrations', [shown(f'p{i}') for i in range(10)]),
    ppo_fraction=0.5,
    validation_fraction=0.1,
  )
  check(made)
  only = {p.text for p in made.prompts['ppo']}
  others = {r.prompt.text for r in (*made.rankings, *made.demonstrations)}
  assert 10 <= len(only) <= 15 and not only & others
  assert made.drops.of('rankings') == {'prompt is set aside for PPO': len(only)}


def test_held_out_labelers_rank_for_validation_only():
  rows = [ranked(f'p{i}', labeler=f'l{j}') for i in NUMBERS for j in range(4)]
  made = make(
    ('rankings', rows), heldout_labelers=0.25, validation_fraction=0.25
  )
  groups = {}
  for r in made.rankings:
    groups.setdefault((r.prompt.split, r.group), set()).add(r.labeler)
  assert {key: len(names) for key, names in groups.items()} == {
    ('train', 'train'): 3,
    ('validation', 'train'): 3,
    ('validation', 'heldout'): 1,
  }
  assert made.drops.of('rankings') == {
    'training prompt ranked by a held-out labeler': 30
  }


# --- What is left out --------------------------------------------------------


def test_prompts_with_a_long_common_prefix():
  long = 'x' * 20
  keys = [long + 'a', long + 'b', long, 'x' * 19, 'y', long + 'a']
  prompts = [(keys.index(key), key) for key in keys]
  assert curate.prefix_duplicates(prompts, 20) == {1: 0, 2: 0}
  assert curate.prefix_duplicates(prompts, 21) == {}
  assert curate.prefix_duplicates(prompts, 0) == {}


def test_near_duplicates_are_dropped_and_those_held_out_stay():
  long = 'word ' * 10
  rows = [
    ranked(f'{long}{i}', split='test' if i == 3 else 'train') for i in range(5)
  ]
  made = make(
    ('rankings', [*rows, ranked(f'{long}3', labeler='other', split='test')]),
    dedup_prefix=40,
  )
  assert [r.prompt.text[-1] for r in made.rankings] == ['3', '3']
  ((reason, count),) = made.drops.of('rankings').items()
  assert (reason, count) == (
    'prompt shares its first 40 characters with another',
    4,
  )


def test_only_so_many_prompts_of_a_user():
  rows = [
    ranked(f'p{i}', user='big' if i < 30 else f'u{i}') for i in NUMBERS
  ] + [ranked('p0', user='big', labeler='again')]
  made = make(('rankings', rows), max_per_user=5)
  kept = {r.prompt.text for r in made.rankings if r.prompt.user == 'big'}
  assert len(kept) == 5
  lost = made.drops.of('rankings')['more than 5 prompts of a user']
  assert lost + len(made.rankings) == 41
  assert not make(('rankings', rows), max_per_user=0).drops.counts
  # Not always the first ones: those may be of one kind.
  assert kept != {f'p{i}' for i in range(5)}


def test_personal_data_is_dropped_only_if_asked():
  rows = [
    ranked('fine'),
    ranked('mail me: a.b@example.org'),
    ranked('who?', responses=('call 555-123-4567', 'no')),
    ranked('fine too'),
  ]
  pages = [page('x'), page('card 4111 1111 1111 1111'), page('y')]
  parts = ('rankings', rows), ('documents', pages)
  assert len(make(*parts).rankings) == 4
  made = make(*parts, pii='drop')
  assert [r.prompt.text for r in made.rankings] == ['fine', 'fine too']
  assert [d.text for d in made.documents] == ['x', 'y']
  assert made.drops.counts == {
    ('rankings', 'pii: email address'): 1,
    ('rankings', 'pii: phone number'): 1,
    ('documents', 'pii: card number'): 1,
  }
  assert made.drops.first['rankings', 'pii: phone number'] == 'id-who?'


def test_two_sources_may_number_their_prompts_alike():
  made = make(
    ('rankings', [ranked(f'p{i}', id=str(i)) for i in NUMBERS]),
    ('demonstrations', [shown(f'q{i}', id=str(i)) for i in NUMBERS]),
  )
  check(made)
  ids = {}
  for row in (*made.rankings, *made.demonstrations):
    assert ids.setdefault(row.prompt.id, row.prompt.text) == row.prompt.text


def test_a_prompt_is_laid_out_alike_in_all_parts():
  turns = ('a', 'b', 'c')
  made = make(
    (
      'rankings',
      [ranked('P0', turns=turns)] + [ranked(f'p{i}') for i in NUMBERS[1:]],
    ),
    ('demonstrations', [shown(f'p{i}') for i in NUMBERS]),
    ('prompts', [prompt('p0'), prompt('q')]),
  )
  check(made)
  rows = [r.prompt for r in (*made.rankings, *made.demonstrations)]
  rows += [p for found in made.prompts.values() for p in found]
  zero = [p.turns for p in rows if p.text.lower() == 'p0']
  assert len(zero) >= 3 and set(zero) == {turns}
  assert {p.turns for p in rows if p.text.lower() != 'p0'} == {()}


# --- Kinds ------------------------------------------------------------------


def test_the_best_response_of_a_ranking_is_a_demonstration():
  made = make(
    (
      'demonstrations',
      [ranked('p', responses=('a', 'b', 'c'), ranks=(1, 0, 0))],
    )
  )
  assert made.demonstrations[0].response == 'b'
  assert 'the best response of each was taken' in made.notes[0]
  made = make(
    (
      'demonstrations',
      [ranked('p', responses=('a', ''), ranks=(1, 0)), shown('q')],
    )
  )
  assert [d.prompt.text for d in made.demonstrations] == ['q']
  assert made.drops.of('demonstrations') == {'the best response is empty': 1}


@pytest.mark.parametrize(
  'part, row, message',
  [
    (
      'rankings',
      page('x'),
      'rankings: rankings0 has records of the type '
      'Document; it belongs to documents',
    ),
    ('documents', ranked('x'), 'type Ranking; it belongs to rankings'),
    ('demonstrations', prompt('x'), 'type Prompt; it belongs to prompts'),
    ('prompts', page('x'), 'type Document; it belongs to documents'),
  ],
)
def test_a_source_of_another_type_is_refused(part, row, message):
  with pytest.raises(parts.CurateError, match=message):
    make((part, [row]))


def test_nothing_of_a_record_is_lost():
  row = dataclasses.replace(
    ranked('p', responses=('a', 'b', 'c'), ranks=(2, 0, 1), user='u'),
    temperatures=(0.5, 1.0, 0.0),
  )
  made = make(('rankings', [row]), validation_fraction=0.0)
  assert made.rankings == [row]


# --- Memory -----------------------------------------------------------------


def test_texts_on_disk_stay_there():
  """A row takes a fraction of its text, whatever the text's length."""

  def peak(count):
    text = 'word ' * 400
    rows = Spool(
      ranked(f'{i} {text}', (f'a {text}', text)) for i in range(count)
    )
    tracemalloc.start()
    made = make(('rankings', rows), dedup_prefix=256, ppo_fraction=0.5)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(made.rankings) + len(made.prompts['ppo']) >= count * 0.9
    return found

  assert (peak(300) - peak(100)) / 200 < 1500  # bytes a row, of 6,000
