"""Sources put together: splits without leaks, limits, draws, and counts."""

import dataclasses

import pytest

from instructrl.data import curate
from instructrl.data import records
from instructrl.data.curate import Settings, Source
from instructrl.data.records import Demonstration, Document, Prompt, Ranking


def prompt(text, user='', split='train', **fields):
  return Prompt(**{'id': f'id-{text}'[:50], 'text': text, 'user': user,
                   'use_case': 'other', 'split': split, **fields})


def shown(text, response='yes', labeler='l', **fields):
  return Demonstration(prompt(text, **fields), response, labeler)


def ranked(text, responses=('a', 'b'), ranks=(0, 1), labeler='l',
           group='train', **fields):
  k = len(responses)
  return Ranking(
      prompt=prompt(text, **fields), labeler=labeler, group=group,
      responses=tuple(responses), response_tokens=(), sources=('s',) * k,
      temperatures=(0.0,) * k, ranks=tuple(ranks))


def page(text, split='train', **fields):
  return Document(**{'id': f'id-{text}'[:50], 'text': text, 'source': 'web',
                     'split': split, **fields})


def make(*parts, seed=0, **settings):
  """(part, records) -> what is curated; each its own source."""
  sources = [Source(part, f'{part}{i}', rows)
             for i, (part, rows) in enumerate(parts)]
  return curate.curate(sources, settings=Settings(**settings), seed=seed)


def sides(rows):
  """Folded prompt -> splits it is in."""
  found = {}
  for row in rows:
    p = curate.prompt_of(row)
    found.setdefault(records.fold(p.text), set()).add(p.split)
  return found


def check(made):
  """What no settings may break."""
  everything = [*made.demonstrations, *made.rankings,
                *(p for found in made.prompts.values() for p in found)]
  train = [r for r in everything if curate.prompt_of(r).split == 'train']
  held = [r for r in everything if curate.prompt_of(r).split != 'train']
  records.check_no_leak(train, held)
  for found in made.prompts.values():
    assert len({p.id for p in found}) == len(found)
  return train, held


NUMBERS = range(40)


# --- The split ---------------------------------------------------------------


def test_a_prompt_in_two_sources_is_on_one_side_in_both():
  made = make(
      ('demonstrations', [shown(f'Say {i}') for i in NUMBERS]),
      ('rankings', [ranked(f'say  {i} ') for i in NUMBERS]),
      validation_fraction=0.25)
  train, held = check(made)
  assert (len(train) - len(made.prompts['ppo']) - len(made.prompts['train']),
          len(made.prompts['validation'])) == (60, 10)
  assert sides(made.demonstrations) == sides(made.rankings)
  assert held


def test_a_users_prompts_are_on_one_side():
  made = make(('rankings', [ranked(f'p{i}', user=f'u{i % 8}')
                            for i in NUMBERS]), validation_fraction=0.25)
  check(made)
  users = {}
  for r in made.rankings:
    users.setdefault(r.prompt.user, set()).add(r.prompt.split)
  assert sorted(map(tuple, users.values())) == [('train',)] * 6 + [
      ('validation',)] * 2
  assert not made.drops.counts


def test_a_prompt_of_users_on_both_sides_stays_with_the_first_of_them():
  """Or a greeting would join all users to one."""
  rows = [ranked(f'p{i}', user=f'u{i % 8}') for i in NUMBERS]
  rows += [ranked('hello', user=f'u{i}') for i in range(8)]
  made = make(('rankings', rows), validation_fraction=0.25)
  check(made)
  side = {'u0': next(r.prompt.split for r in made.rankings
                     if r.prompt.user == 'u0')}
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
      'train', 'validation'}


def test_a_split_of_the_sources_own_is_kept():
  rows = [ranked(f'p{i}', split='test' if i < 6 else 'train')
          for i in NUMBERS]
  made = make(('rankings', rows), ('demonstrations', [
      shown('P3'), *(shown(f'q{i}') for i in NUMBERS)]))
  check(made)
  assert [r.prompt.split for r in made.rankings] == [
      r.prompt.split for r in rows]
  # The prompt that one source holds out is held out in the other.
  assert made.demonstrations[0].prompt.split == 'test'
  assert 'validation' in set().union(*sides(made.demonstrations).values())
  again = make(('rankings', rows), resplit=True)
  assert {r.prompt.split for r in again.rankings} == {'train', 'validation'}


def test_a_prompt_on_both_sides_of_its_source_is_held_out():
  rows = [ranked('p1', split='train'), ranked('P1', split='test'),
          ranked('p1 ', split='validation'), ranked('p2')]
  made = make(('rankings', rows))
  check(made)
  assert [r.prompt.split for r in made.rankings] == ['test'] * 3 + ['train']


def test_a_source_whose_own_split_leaks_users_is_refused():
  rows = [ranked('p1', user='u7'), ranked('p2', user='u7', split='test')]
  with pytest.raises(curate.CurateError, match=r"rankings: the split of "
                     r"rankings0 itself leaks: user 'u7' is in 'train' and in "
                     r"'test'; set resplit=True .* or split_by='prompt'"):
    make(('rankings', rows))
  made = make(('rankings', rows), split_by='prompt')
  assert [r.prompt.split for r in made.rankings] == ['train', 'test']
  check(make(('rankings', rows), resplit=True))


def test_every_part_holds_out_its_share():
  made = make(('demonstrations', [shown(f'd{i}') for i in range(10)]),
              ('rankings', [ranked(f'r{i}') for i in range(400)]),
              validation_fraction=0.05)
  count = lambda rows: sum(r.prompt.split == 'validation' for r in rows)
  assert (count(made.demonstrations), count(made.rankings)) == (1, 20)


def test_the_split_follows_from_the_seed_not_from_the_order():
  rows = [ranked(f'p{i}') for i in NUMBERS]
  split = lambda rows, seed: sides(make(
      ('rankings', rows), seed=seed, validation_fraction=0.3).rankings)
  assert split(rows, 0) == split(rows[::-1], 0) != split(rows, 1)


@pytest.mark.parametrize('sizes, fraction, expected', [
    (dict.fromkeys('abcdefghij', 1), 0.2, 2),
    (dict.fromkeys('abcdefghij', 1), 0.01, 1),
    (dict.fromkeys('abcdefghij', 1), 0.0, 0),
    ({'a': 1}, 0.5, 0), ({}, 0.5, 0),
    ({'a': 90, 'b': 60, 'c': 70}, 0.05, 60)])
def test_a_share_is_drawn(sizes, fraction, expected):
  taken = curate.take_share(sizes, fraction, 0, 'split')
  assert sum(sizes[unit] for unit in taken) == expected


# --- What PPO sees, who ranked -----------------------------------------------


def test_ppo_has_the_ranked_prompts_where_there_are_no_others():
  made = make(('rankings', [ranked(f'p{i}') for i in NUMBERS]),
              ('demonstrations', [shown(f'd{i}') for i in NUMBERS]))
  ranked_train = {r.prompt.text for r in made.rankings
                  if r.prompt.split == 'train'}
  assert {p.text for p in made.prompts['ppo']} == ranked_train
  assert ranked_train < {p.text for p in made.prompts['train']}
  check(made)


def test_prompts_of_their_own_are_ppos():
  made = make(('rankings', [ranked(f'p{i}') for i in NUMBERS]),
              ('prompts', [prompt(f'q{i}') for i in NUMBERS] + [prompt('Q3')]))
  check(made)
  assert {p.text[0] for p in made.prompts['ppo']} == {'q'}
  assert {p.text[0] for p in made.prompts['train']} == {'p'}
  assert {p.text[0] for p in made.prompts['validation']} == {'p', 'q'}


def test_prompts_are_taken_of_any_source():
  made = make(('prompts', [ranked(f'p{i}') for i in NUMBERS]))
  assert not made.rankings and len(made.prompts['ppo']) == 38
  assert 'train' not in made.prompts


def test_a_share_is_set_aside_for_ppo():
  made = make(('rankings', [ranked(f'p{i}') for i in NUMBERS]),
              ('demonstrations', [shown(f'p{i}') for i in range(10)]),
              ppo_fraction=0.5, validation_fraction=0.1)
  check(made)
  only = {p.text for p in made.prompts['ppo']}
  others = {r.prompt.text for r in (*made.rankings, *made.demonstrations)}
  assert 10 <= len(only) <= 15 and not only & others
  assert made.drops.of('rankings') == {
      'prompt is set aside for PPO': len(only)}


def test_held_out_labelers_rank_for_validation_only():
  rows = [ranked(f'p{i}', labeler=f'l{j}') for i in NUMBERS for j in range(4)]
  made = make(('rankings', rows), heldout_labelers=0.25,
              validation_fraction=0.25)
  groups = {}
  for r in made.rankings:
    groups.setdefault((r.prompt.split, r.group), set()).add(r.labeler)
  assert {key: len(names) for key, names in groups.items()} == {
      ('train', 'train'): 3, ('validation', 'train'): 3,
      ('validation', 'heldout'): 1}
  assert made.drops.of('rankings') == {
      'training prompt ranked by a held-out labeler': 30}


# --- What is left out --------------------------------------------------------


def test_prompts_with_a_long_common_prefix():
  long = 'x' * 20
  keys = [long + 'a', long + 'b', long, 'x' * 19, 'y', long + 'a']
  assert curate.prefix_duplicates(keys, 20) == {
      long + 'b': long + 'a', long: long + 'a'}
  assert curate.prefix_duplicates(keys, 21) == {}
  assert curate.prefix_duplicates(keys, 0) == {}


def test_near_duplicates_are_dropped_and_those_held_out_stay():
  long = 'word ' * 10
  rows = [ranked(f'{long}{i}', split='test' if i == 3 else 'train')
          for i in range(5)]
  made = make(('rankings', [*rows, ranked(f'{long}3', labeler='other',
                                          split='test')]), dedup_prefix=40)
  assert [r.prompt.text[-1] for r in made.rankings] == ['3', '3']
  (reason, count), = made.drops.of('rankings').items()
  assert (reason, count) == (
      'prompt shares its first 40 characters with another', 4)


def test_only_so_many_prompts_of_a_user():
  rows = [ranked(f'p{i}', user='big' if i < 30 else f'u{i}')
          for i in NUMBERS] + [ranked('p0', user='big', labeler='again')]
  made = make(('rankings', rows), max_per_user=5)
  kept = {r.prompt.text for r in made.rankings if r.prompt.user == 'big'}
  assert len(kept) == 5
  lost = made.drops.of('rankings')['more than 5 prompts of a user']
  assert lost + len(made.rankings) == 41
  assert not make(('rankings', rows), max_per_user=0).drops.counts
  # Not always the first ones: those may be of one kind.
  assert kept != {f'p{i}' for i in range(5)}


def test_personal_data_is_dropped_only_if_asked():
  rows = [ranked('fine'), ranked('mail me: a.b@example.org'),
          ranked('who?', responses=('call 555-123-4567', 'no')),
          ranked('fine too')]
  pages = [page('x'), page('card 4111 1111 1111 1111'), page('y')]
  parts = ('rankings', rows), ('documents', pages)
  assert len(make(*parts).rankings) == 4
  made = make(*parts, pii='drop')
  assert [r.prompt.text for r in made.rankings] == ['fine', 'fine too']
  assert [d.text for d in made.documents] == ['x', 'y']
  assert made.drops.counts == {
      ('rankings', 'pii: email address'): 1,
      ('rankings', 'pii: phone number'): 1, ('documents', 'pii: card number'): 1}
  assert made.drops.first['rankings', 'pii: phone number'] == 'id-who?'


def test_two_sources_may_number_their_prompts_alike():
  made = make(('rankings', [ranked(f'p{i}', id=str(i)) for i in NUMBERS]),
              ('demonstrations', [shown(f'q{i}', id=str(i)) for i in NUMBERS]))
  check(made)
  ids = {}
  for row in (*made.rankings, *made.demonstrations):
    assert ids.setdefault(row.prompt.id, row.prompt.text) == row.prompt.text


# --- Documents, kinds --------------------------------------------------------


def test_documents_are_split_and_one_alone_is_not():
  made = make(('documents', [page(f'd{i}') for i in NUMBERS]),
              ('documents', [page('only')]), validation_fraction=0.1)
  held = [d.text for d in made.documents if d.split == 'validation']
  assert len(held) == 4 and 'only' not in held
  assert made.notes == ['documents: documents1 is a single text, all of it for '
                        'training: nothing of it is held out']


def test_a_document_that_is_held_out_elsewhere_is_not_trained_on():
  made = make(('documents', [page('a', split='validation'), page('b')]),
              ('documents', [page('A '), page('c'), page('d', id='id-b')]),
              validation_fraction=0.0)
  assert [(d.text, d.split) for d in made.documents] == [
      ('a', 'validation'), ('b', 'train'), ('c', 'train'), ('d', 'train')]
  assert made.drops.of('documents') == {'text is held out elsewhere': 1}
  assert len({d.id for d in made.documents}) == 4


def test_the_best_response_of_a_ranking_is_a_demonstration():
  made = make(('demonstrations', [
      ranked('p', responses=('a', 'b', 'c'), ranks=(1, 0, 0))]))
  assert made.demonstrations[0].response == 'b'
  assert 'the best response of each was taken' in made.notes[0]


@pytest.mark.parametrize('part, row, message', [
    ('rankings', page('x'), 'rankings: rankings0 has records of the type '
     'Document; it belongs to documents'),
    ('documents', ranked('x'), 'type Ranking; it belongs to rankings'),
    ('demonstrations', prompt('x'), 'type Prompt; it belongs to prompts'),
    ('prompts', page('x'), 'type Document; it belongs to documents')])
def test_a_source_of_another_type_is_refused(part, row, message):
  with pytest.raises(curate.CurateError, match=message):
    make((part, [row]))


def test_nothing_of_a_record_is_lost():
  row = dataclasses.replace(
      ranked('p', responses=('a', 'b', 'c'), ranks=(2, 0, 1), user='u'),
      temperatures=(0.5, 1.0, 0.0))
  made = make(('rankings', [row]), validation_fraction=0.0)
  assert made.rankings == [row]
