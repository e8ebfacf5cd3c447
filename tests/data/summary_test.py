"""What is counted of a source, and that it is drawn in 80 columns."""

import json
import types

import pytest

from instructrl.data import store
from instructrl.data import summary
from instructrl.data import summary_text
from instructrl.data.curate import parts
from instructrl.data.records import Demonstration, Document, Prompt, Ranking
from tests.data import toys

# A token a word; a prompt has two more, a response one.
TOK = types.SimpleNamespace(
  vocab_size=50,
  prompt=lambda text, turns=(): [1, *map(len, text.split()), 4],
  response=lambda text: [*map(len, text.split()), 2],
  document=lambda text: [1, *map(len, text.split()), 2],
)


def sets(made):
  return {'prompts': made.prompts, 'rankings': store.by_split(made.rankings)}


def loaded(kind, records, read=0, dropped=None, part='', **about):
  return types.SimpleNamespace(
    spec='jsonl:some/file.jsonl',
    kind=kind,
    records=records,
    read=read or len(records),
    dropped=dropped or {},
    part=part,
    **{'first': {}, 'notes': [], **about},
  )


RANKINGS = loaded(
  Ranking,
  [
    toys.ranked('what is it', user='u1', labeler='l1'),
    toys.ranked('What is  it', user='u1', labeler='l2', ranks=(0, 0)),
    toys.ranked(
      'who',
      user='u2',
      labeler='l1',
      split='test',
      responses=('a b c', 'd', 'write to a@b.org'),
      ranks=(1, 0, 1),
    ),
  ],
  read=9,
  dropped={'responses: is empty': 6},
  first={'responses: is empty': 'some/file.jsonl:3: responses: is empty'},
  notes=['fields that were not read: score (9 rows)'],
)


def lines_of(text):
  lines = text.splitlines()
  assert all(len(line) <= summary_text.WIDTH for line in lines), text
  return lines


def test_rankings_are_counted():
  found = summary.describe(RANKINGS, TOK, prompt_len=4, response_len=3)
  assert (found['read'], found['kept'], found['dropped']) == (
    9,
    3,
    {'responses: is empty': 6},
  )
  assert found['splits'] == {'train': 2, 'test': 1}
  assert found['prompts'] == 2  # without regard to case and spacing
  assert found['users'] == {'count': 2, 'most': 'u1', 'rows': 2}
  assert found['labelers'] == {'count': 2, 'most': 'l1', 'rows': 2}
  assert found['k'] == {'2': 2, '3': 1}
  assert (found['pairs'], found['all_tied']) == (5, 1)
  assert found['ties'] == pytest.approx(2 / 5)
  assert found['personal_data'] == {'email address': 1}
  assert found['over'] == {
    'prompt': {'limit': 4, 'count': 2},
    'response': {'limit': 3, 'count': 2},
  }
  assert found['lengths']['response characters']['total'] == 26
  assert found['lengths']['prompt tokens']['longest'] == 5
  assert json.loads(json.dumps(found)) == found


def test_dialogues_are_counted():
  asked = [toys.prompt(f'a {i}', turns=('a', 'b', str(i))) for i in range(2)]
  found = summary.describe(loaded(Prompt, [*asked, toys.prompt('alone')]))
  assert found['dialogues'] == 2
  assert (
    'prompts       3 different; 0 rows repeat a prompt; 2 are dialogues'
    in lines_of(summary_text.render(found))
  )


def test_all_that_is_counted_is_drawn():
  text = summary_text.render(
    summary.describe(RANKINGS, TOK, prompt_len=4, response_len=3)
  )
  lines = lines_of(text)
  assert lines[0].startswith('── Rankings · jsonl:some/file.jsonl ──')
  for expected in (
    'rows          9 read, 3 kept, 6 dropped',
    '  dropped     6: responses: is empty',
    '              first: some/file.jsonl:3: responses: is empty',
    'note          fields that were not read: score (9 rows)',
    'splits        train 2, test 1',
    'prompts       2 different; 1 rows repeat a prompt',
    'users         2; most rows: u1 (2)',
    'pairs         5, 40.0% of them ties; 1 rankings are one tie',
    'too long      2 prompts over 4 tokens, 2 responses over 3 tokens',
  ):
    assert expected in lines
  assert any(
    'prompt tokens' in line and 'response tokens' in line for line in lines
  )


@pytest.mark.parametrize(
  'kind, records, absent',
  [
    (Document, [toys.page('some text')], 'prompts'),
    (Prompt, [toys.prompt('ask')], 'labelers'),
    (Demonstration, [toys.shown('ask')], 'pairs'),
    (Ranking, [], 'splits'),
  ],
)
@pytest.mark.parametrize('tok', [None, TOK])
def test_every_kind_is_drawn(kind, records, absent, tok):
  text = summary_text.render(summary.describe(loaded(kind, records), tok))
  lines = lines_of(text)
  assert f'{len(records)} kept' in text
  assert not any(line.startswith(absent) for line in lines)
  assert ('tokens' in text) == bool(tok and records)


def test_a_histogram_by_hand():
  found = summary.histogram([0, 1, 2, 3, 4, 7, 8])
  assert found['bins'] == [
    [0, 0, 1],
    [1, 1, 1],
    [2, 3, 2],
    [4, 7, 2],
    [8, 15, 1],
  ]
  assert (found['median'], found['p95']) == (3, 7)
  assert (found['longest'], found['total']) == (8, 25)
  assert summary.histogram([]) == {}


def test_a_histogram_has_at_most_eight_bins_and_loses_nothing():
  lengths = [1, 5, 17, 3000, 2**20, 2**20 - 1]
  found = summary.histogram(lengths)
  assert len(found['bins']) == 8 and found['bins'][0] == [0, 2**14 - 1, 4]
  assert found['bins'][-1] == [2**20, 2**21 - 1, 1]
  assert sum(n for *_, n in found['bins']) == len(lengths)
  lines = summary_text.draw_histogram('x', found, 39)
  assert all(len(line) <= 39 for line in lines)


@pytest.mark.parametrize(
  'share, expected',
  [(0, ''), (1e-6, '▏'), (0.5, '██'), (1, '████'), (0.4, '█▋')],
)
def test_a_bar(share, expected):
  assert summary_text.bar(share, 4) == expected


def test_a_long_name_keeps_its_end():
  line = summary_text.rule('Rankings · jsonl:' + 'folder/' * 20 + 'file.jsonl')
  assert len(line) == 80 and 'file.jsonl ──' in line and '...' in line


def test_what_was_made_is_drawn_with_all_that_was_left_out():
  made = toys.make(
    ('rankings', [toys.ranked(f'p{i}') for i in range(40)]),
    ('rankings', [toys.ranked('x' * 300 + str(i)) for i in range(3)]),
    dedup_prefix=256,
  )
  found = summary.describe_made(made, sets(made), TOK)
  found['rows'] = {'corpus.rows': 1200}
  lines = lines_of(summary_text.render_made(found))
  assert 'rankings      train 39, validation 2' in lines
  assert 'prompts       train 39, ppo 39, validation 2' in lines
  assert 'packed rows   corpus.rows 1,200' in lines
  text = ' '.join(' '.join(lines).split())
  assert (
    'counted 2 rankings: prompt shares its first 256 characters with '
    f'another (first: {toys.prompt("x" * 300).id})'
  ) in text
  assert found['left_out'] == {
    'rankings': {
      'prompt shares its first 256 characters with another': {
        'rows': 2,
        'first': 'id-' + 'x' * 47,
      }
    }
  }
  assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize('malformed, lost', [(22, False), (23, True)])
def test_a_part_that_loses_more_than_half_is_warned_of(malformed, lost):
  """Rows count that the source dropped, and that curation dropped."""
  rows = [toys.ranked(f'p{i}') for i in range(30)]
  rows += [toys.ranked('x' * 300 + str(i)) for i in range(10)]
  made = toys.make(('rankings', rows), dedup_prefix=256)
  dropped = {'malformed': malformed}
  sources = [loaded(Ranking, rows, dropped=dropped, part='rankings')]
  expected = [
    'rankings: 32 of 63 rows were dropped (23 malformed; 9 prompt shares its '
    'first 256 characters with another)'
  ]
  found = summary.warnings(sources, made)
  assert found == expected * lost
  drawn = summary_text.render_made(
    summary.describe_made(made, sets(made), TOK, found)
  )
  assert ('WARNING       rankings: 32 of 63' in drawn) == lost


def test_prompts_that_only_ppo_sees_are_not_lost():
  rows = [toys.ranked(f'p{i}') for i in range(40)]
  made = toys.make(('rankings', rows), ppo_fraction=0.9)
  assert len(made.rankings) < 10
  assert summary.warnings([loaded(Ranking, rows, part='rankings')], made) == []


def test_drops_are_counted_by_part_and_reason():
  drops = parts.Drops()
  drops.add('rankings', 'too long', 'a')
  drops.add('rankings', 'too long', 'b', 3)
  drops.add('prompts', 'too long', 'c')
  assert drops.of('rankings') == {'too long': 4}
  assert drops.first['rankings', 'too long'] == 'a'


def test_answers_that_repeat_their_prompt_are_counted():
  shown = [
    Demonstration(toys.prompt('Who?'), text, 'l')
    for text in ('Who? Mara.', ' Human: Who?\n\nAssistant: Mara.', 'Who?')
  ]
  others = [
    Demonstration(toys.prompt('Hi'), text, 'l') for text in ('His hat.', 'Oh')
  ]
  marked = Demonstration(toys.prompt('Human: Who?'), 'Human: Who? Mara.', 'l')
  turns = ('a', 'b', 'Who?')
  shown[2] = Demonstration(toys.prompt('a b Who?', turns=turns), 'Who? M', 'l')
  notes = lambda found: summary.describe(loaded(Demonstration, found))['notes']
  about = 'responses begin with their prompt, which the layout writes too'
  assert notes(shown)[0].startswith(f'all 3 {about}')
  assert notes([*shown, *others])[0].startswith(f'3 of 5 {about}')
  assert notes([*shown, marked])[0].startswith(f'all 4 {about}')
  assert notes(others) == []


def test_equal_responses_with_different_ranks_are_counted():
  rankings = [
    toys.ranked('p', responses=('aa b', 'aa b'), ranks=(0, 1)),
    toys.ranked('p', responses=('aa b', 'cc d'), ranks=(0, 1)),
    toys.ranked('p', responses=('aa b', 'x', 'aa b'), ranks=(0, 1, 0)),
  ]
  found = summary.describe(loaded(Ranking, rankings))['notes']
  assert found[0].startswith('1 rankings have equal responses')
  found = summary.describe(loaded(Ranking, rankings), TOK)['notes']
  assert found[0].startswith('2 rankings have equal responses')
