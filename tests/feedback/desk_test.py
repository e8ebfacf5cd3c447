"""Assignment, drafts, labels, and what a second process reads back."""

import json

import pytest

from instructrl.feedback import exports
from instructrl.feedback import questions
from instructrl.feedback import scores
from instructrl.runtime.errors import ConfigError
from tests.feedback import labeling


@pytest.fixture
def clock():
  return labeling.Clock()


def joined(desk, name, **fields):
  return desk.person_of(desk.invite(name, **fields))


def label(desk, person, ranks, key=None):
  """Ranks the next prompt of a labeler; returns its id."""
  key = key or desk.next_item(person)
  desk.save(person, key, 'rank', {'ranks': ranks}, {})
  desk.submit(person, key, desk.show_instructions()[0])
  return key


def test_two_labelers_get_different_prompts_until_a_lease_ends(tmp_path, clock):
  desk = labeling.open_desk(labeling.make(tmp_path / 'p'), clock=clock)
  ada, bob = joined(desk, 'Ada'), joined(desk, 'Bob')
  assert desk.next_item(ada) == desk.next_item(ada) == 'p0'
  assert desk.next_item(bob) == 'p1'
  clock.now += 31 * 60  # both leases end
  cleo = joined(desk, 'Cleo')
  assert desk.next_item(cleo) == 'p0'
  assert label(desk, bob, [1, 1, 2]) == 'p1'
  assert desk.needed() == {'train': 2, 'heldout': 0}


def test_shared_prompts_are_labeled_twice_and_agreement_is_counted(tmp_path):
  folder = labeling.make(tmp_path / 'p', share=1.0)
  desk = labeling.open_desk(folder)
  ada, bob = joined(desk, 'Ada'), joined(desk, 'Bob')
  assert label(desk, ada, [1, 2, 3]) == label(desk, bob, [1, 3, 2]) == 'p0'
  assert label(desk, ada, [1, 1, 2]) == label(desk, bob, [1, 2, 2]) == 'p1'
  found = scores.agreement(desk, 'train')
  # p0: 2 of 3 pairs agree; p1: one pair is strict for both, and agrees.
  assert found['agreement']['value'] == 0.75
  assert found['agreement']['n'] == 4
  assert found['prompts'] == 2 and found['ties'] == 2 / 12
  assert scores.disagreements(desk) == [('p0', 2 / 3)]
  assert scores.agreement(desk, 'heldout')['agreement'] is None


def test_held_out_labelers_label_validation_prompts_again(tmp_path):
  lines = labeling.rows(1) + labeling.rows(3, split='validation')[2:]
  desk = labeling.open_desk(labeling.make(tmp_path / 'p', lines))
  held = joined(desk, 'Held', group='heldout')
  assert label(desk, held, [1, 2, 3]) == 'p2'
  assert desk.next_item(held) is None
  assert desk.needed() == {'train': 2, 'heldout': 0}


def test_quota_pause_and_revocation(tmp_path):
  desk = labeling.open_desk(labeling.make(tmp_path / 'p', quota=1))
  ada = joined(desk, 'Ada')
  label(desk, ada, [1, 1, 1])
  assert desk.left(ada) == 0 and desk.next_item(ada) is None
  token = desk.invite('Bob', quota=0)
  bob = desk.person_of(token)
  desk.set_paused(True)
  assert desk.next_item(bob) is None
  desk.set_paused(False)
  assert desk.next_item(bob) == 'p1'
  desk.set_revoked(bob.id, True)
  assert desk.person_of(token) is None
  assert desk.next_item(joined(desk, 'Cleo')) == 'p1'  # the lease is free


def test_skipped_prompts_go_to_one_more_labeler(tmp_path):
  desk = labeling.open_desk(labeling.make(tmp_path / 'p', max_skips=2))
  for name, following in (('Ada', 'p1'), ('Bob', 'p1'), ('Cleo', 'p1')):
    person = joined(desk, name)
    key = desk.next_item(person)
    assert key == ('p1' if name == 'Cleo' else 'p0')
    if name != 'Cleo':
      desk.skip(person, key, 'unclear', 'why?')
      if name == 'Ada':
        assert desk.next_item(person) == following
        desk.skip(person, following, 'broken', '')
  with pytest.raises(questions.Refused, match='reason'):
    desk.skip(person, 'p1', 'boring', '')


def test_a_skipped_prompt_that_is_labeled_later_is_done(tmp_path):
  desk = labeling.open_desk(labeling.make(tmp_path / 'p', max_skips=1))
  ada, bob = joined(desk, 'Ada'), joined(desk, 'Bob')
  key = desk.next_item(ada)
  desk.skip(ada, key, 'unclear', '')
  assert desk.needed()['train'] == 2  # nobody else gets it
  label(desk, ada, [1, 2, 3], key)
  assert desk.needed()['train'] == 2
  desk.skip(ada, label(desk, ada, [1, 1, 1]), 'broken', '')  # takes it back
  assert desk.needed()['train'] == 1 and len(exports.rankings(desk)) == 1
  assert label(desk, bob, [1, 2, 3]) == 'p2'


def test_a_label_that_is_taken_back_is_wanted_again(tmp_path):
  desk = labeling.open_desk(labeling.make(tmp_path / 'p'))
  ada, bob = joined(desk, 'Ada'), joined(desk, 'Bob')
  key = label(desk, ada, [1, 2, 3])
  desk.skip(ada, key, 'expertise', '')
  assert desk.needed()['train'] == 3
  assert {label(desk, bob, [1, 2, 3]) for _ in range(3)} == {'p0', 'p1', 'p2'}
  label(desk, ada, [1, 2, 3], key)  # one more label of a prompt that is done
  assert desk.needed()['train'] == 0 and desk.next_item(bob) is None


def test_a_clock_that_was_set_wrong_keeps_no_prompt_back(tmp_path, clock):
  desk = labeling.open_desk(labeling.make(tmp_path / 'p'), clock=clock)
  ada, bob = joined(desk, 'Ada'), joined(desk, 'Bob')
  clock.now += 1e8
  assert desk.next_item(ada) == 'p0'
  clock.now -= 5
  assert desk.next_item(bob) == 'p1'  # a small step changes nothing
  clock.now -= 1e8  # the clock is set right
  cleo = joined(desk, 'Cleo')
  assert desk.next_item(cleo) == 'p0'
  assert label(desk, cleo, [1, 2, 3], 'p0') == 'p0'
  assert cleo.items['p0'].label['seconds'] == 0


def test_answers_that_changed_under_labels_are_refused(tmp_path):
  folder = labeling.make(tmp_path / 'p')
  desk = labeling.open_desk(folder)
  label(desk, joined(desk, 'Ada'), [1, 2, 3])
  path = folder / 'items.jsonl'
  lines = path.read_text().splitlines()
  path.write_text('\n'.join(lines[1:]))  # a prompt may go
  assert not exports.rankings(labeling.open_desk(folder))
  path.write_text('\n'.join(lines[::-1]))  # the order may change
  assert len(exports.rankings(labeling.open_desk(folder))) == 1
  path.write_text('\n'.join(lines).replace('A whale 0', 'A whale'))
  with pytest.raises(ConfigError, match="answers to the prompt 'p0' are not"):
    labeling.open_desk(folder)


def test_undo_and_time(tmp_path, clock):
  desk = labeling.open_desk(labeling.make(tmp_path / 'p'), clock=clock)
  ada = joined(desk, 'Ada')
  key = desk.next_item(ada)
  for seconds, ranks in ((10, [1, None, None]), (20, [1, 2, None])):
    clock.now += seconds
    desk.save(ada, key, 'rank', {'ranks': ranks}, {'unclear': ranks.count(2)})
  assert desk.undo(ada, key, 'rank') is None
  assert ada.items[key].marks == {'unclear': 0}
  assert ada.items[key].draft('rank') == {'ranks': [1, None, None]}
  with pytest.raises(questions.Refused, match='2 left'):
    desk.submit(ada, key, desk.show_instructions()[0])
  clock.now += 3600  # a lunch counts as two minutes
  label(desk, ada, [1, 2, 2], key)
  assert ada.items[key].label['seconds'] == 30 + 120


def test_labels_are_kept_when_changed_and_read_back(tmp_path):
  """A second process has the same state; the first label is still there."""
  folder = labeling.make(tmp_path / 'p')
  desk = labeling.open_desk(folder)
  ada = joined(desk, 'Ada')
  key = label(desk, ada, [1, 2, 3])
  label(desk, ada, [3, 2, 1], key)
  (folder / 'instructions.md').write_text('Be kind.')
  label(desk, ada, [1, 1, 2])
  again = labeling.open_desk(folder)
  assert again.people == desk.people and again.needed() == desk.needed()
  assert len(again.versions) == 2
  (first, second) = exports.rankings(again)
  assert first.ranks == (2, 1, 0) and second.ranks == (0, 0, 1)
  submitted = [a for a in again._log.after(0) if a.kind == 'submit']
  assert [a.body['ranks'] for a in submitted[:2]] == [[1, 2, 3], [3, 2, 1]]
  versions = {json.dumps(a.body['instructions']) for a in submitted}
  assert len(versions) == 2


def test_an_invitation_by_another_process_is_seen(tmp_path):
  folder = labeling.make(tmp_path / 'p')
  serving, other = labeling.open_desk(folder), labeling.open_desk(folder)
  token = other.invite('Ada')
  serving.refresh()
  assert serving.person_of(token).name == 'Ada'
  with pytest.raises(ConfigError, match='already'):
    serving.invite('Ada')
  assert token not in json.dumps([a.body for a in serving._log.after(0)])


def test_screening_compares_with_the_researchers(tmp_path):
  harmful = {'harmful_advice': 1, 'sexual_content': 0}
  reference = {'ranks': [0, 1, 1], 'ratings': [harmful, harmful, harmful]}
  lines = labeling.rows(2)
  lines[1]['reference'] = reference
  folder = labeling.make(
    tmp_path / 'p', lines, tasks=('demonstrate', 'rate', 'rank')
  )
  desk = labeling.open_desk(folder)
  ada = joined(desk, 'Ada')
  key = desk.next_item(ada)
  assert key == 'p1'  # the screening set comes first
  rating = {'overall_quality': 4, 'include': 1, 'notes': ''}
  rating |= dict.fromkeys(questions.QUESTIONS, 0)
  for i in range(3):
    desk.save(ada, key, f'rate/{i}', rating, {})
  desk.save(ada, key, 'demonstrate', {'text': 'Cats.'}, {})
  label(desk, ada, [1, 2, 1], key)
  desk.score(ada.id, key, 6)
  found = scores.screen(desk, ada)
  assert (found.done, found.flags, found.rankings) == (1, 0.5, 1.0)
  assert found.demonstrations == 6.0
  assert found.passes == (False, True, True)
  assert not exports.rankings(desk)  # the screening set is not training data
  assert desk.next_item(ada) == 'p0'


def test_the_order_is_shuffled_per_labeler_and_recorded(tmp_path):
  lines = labeling.rows(8, k=6)
  desk = labeling.open_desk(labeling.make(tmp_path / 'p', lines, share=1.0))
  orders = []
  for name in ('Ada', 'Bob'):
    person = joined(desk, name)
    for _ in lines:
      key = label(desk, person, [1, 2, 3, 4, 5, 6])
      orders.append(tuple(person.items[key].label['order']))
      assert sorted(orders[-1]) == [*range(6)]
  assert len(set(orders)) > 8 and orders[:8] != orders[8:]
