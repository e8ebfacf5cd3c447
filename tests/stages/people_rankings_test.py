"""Rankings by people: their project, the wait, and the records."""

from ml_collections import config_dict
import numpy as np
import pytest

from instructrl.data.records import Prompt
from instructrl.runtime import exits
from instructrl.stages import checks
from instructrl.stages import people_rankings

pytest.importorskip('sqlalchemy')
from tests.feedback import labeling  # noqa: E402


def prompt(number, split):
  return Prompt(f'{split}{number}', f'ask {number}', 'u', 'other', split, '{}')


PROMPTS = {
  'train': [prompt(i, 'train') for i in range(3)],
  'validation': [prompt(0, 'validation')],
}
TEXTS = ('red', 'green', 'red', 'blue')


class Tok:
  """One token per letter."""

  eos_id = 1

  def prompt(self, text, turns):
    return [10 + len(text)]

  def response(self, text):
    return [100 + ord(letter) for letter in text] + [1]


@pytest.fixture(name='config')
def _config():
  return config_dict.ConfigDict(
    {
      'project': '../people',
      'people': {'enough': 1.0, 'database': ''},
      'response_len': 8,
      'max_responses': 4,
    }
  )


@pytest.fixture(name='asked')
def _asked(config, tmp_path):
  (tmp_path / 'rankings').mkdir()
  asked = people_rankings.Asked.of(config, tmp_path / 'rankings')
  pool = {
    i: {'text': text, 'source': f's{i}', 'temperature': 0.5}
    for i, text in enumerate(TEXTS)
  }
  pools = {split: [pool] * len(data) for split, data in PROMPTS.items()}
  numbers = [np.asarray([3, 0, 2]), np.asarray([1, 0, 3]), np.asarray([0, 2])]
  chosen = {(s, 'train'): numbers[: len(data)] for s, data in PROMPTS.items()}
  assert not asked.exists()
  asked.create(PROMPTS, pools, chosen)
  assert asked.exists()
  return asked


def rank(folder, count, name='Ada', group='train'):
  """Ranks the next prompts: the responses in the order of their letters."""
  desk = labeling.open_desk(folder)
  person = desk.person_of(desk.invite(name, group))
  for _ in range(count):
    key = desk.next_item(person)
    texts = [r.text for r in desk.items[key].responses]
    ranks = [1 + sorted(texts).index(text) for text in texts]
    desk.save(person, key, 'rank', {'ranks': ranks}, {})
    desk.submit(person, key, desk.show_instructions()[0])


def test_the_study_waits_until_enough_prompts_are_ranked(
  asked, config, tmp_path
):
  with pytest.raises(exits.Waiting, match='0 of 3 prompts .*serve .*people'):
    asked.rankings(PROMPTS, Tok())
  rank(tmp_path / 'people', 2)
  with pytest.raises(exits.Waiting, match='2 of 3 prompts'):
    asked.rankings(PROMPTS, Tok())
  config.people.enough = 0.6
  assert len(asked.rankings(PROMPTS, Tok())['train']) == 2


def test_part_of_the_project_has_prompts_of_each_split(asked, config, tmp_path):
  data = {
    'train': [prompt(i, 'train') for i in range(9)],
    'validation': [prompt(i, 'validation') for i in range(3)],
  }
  pool = {i: {'text': t, 'source': 's', 'temperature': 1.0} for i, t in
          enumerate(TEXTS)}  # fmt: skip
  config.project = '../more'
  more = people_rankings.Asked.of(config, tmp_path / 'rankings')
  chosen = {(s, 'train'): [np.arange(2)] * len(d) for s, d in data.items()}
  more.create(data, {s: [pool] * len(d) for s, d in data.items()}, chosen)
  rank(tmp_path / 'more', 6)
  config.people.enough = 0.5
  found = more.rankings(data, Tok())
  assert {split: len(f) for split, f in found.items()} == {
    'train': 5,
    'validation': 1,
  }


def test_a_run_that_was_killed_while_it_wrote_the_project_writes_it_again(
  asked, tmp_path
):
  (tmp_path / 'people' / 'items.jsonl').unlink()  # it is written last
  assert not asked.exists()
  pool = {i: {'text': t, 'source': 's', 'temperature': 1.0} for i, t in
          enumerate(TEXTS)}  # fmt: skip
  one = {'train': PROMPTS['train'][:1]}
  asked.create(one, {'train': [pool]}, {('train', 'train'): [np.arange(2)]})
  rank(tmp_path / 'people', 1)
  assert len(asked.rankings(PROMPTS, Tok())['train']) == 1


def test_prompts_that_everybody_skips_are_reported(asked, tmp_path):
  desk = labeling.open_desk(tmp_path / 'people')
  for name in ('Ada', 'Bob'):  # max_skips is 2
    person = desk.person_of(desk.invite(name))
    while (key := desk.next_item(person)) is not None:
      desk.skip(person, key, 'unclear', '')
  with pytest.raises(exits.Waiting, match='no training prompt .* max_skips'):
    asked.rankings(PROMPTS, Tok())


def test_the_records_have_what_people_ranked(asked, tmp_path):
  rank(tmp_path / 'people', 3)
  rank(tmp_path / 'people', 1, 'Bob', 'heldout')
  found = asked.rankings(PROMPTS, Tok())
  first, second = found['train']  # the third prompt has one text only
  assert first.prompt == PROMPTS['train'][0]  # whole, with its specification
  assert first.responses == ('blue', 'red')
  assert first.sources == ('s3', 's0')  # of equal texts the first
  assert (first.ranks, first.labeler, first.group) == ((0, 1), 'Ada', 'train')
  assert first.prompt_tokens and first.temperatures == (0.5, 0.5)
  assert first.response_tokens[1] == (
    *(100 + ord(letter) for letter in 'red'),
    1,
  )
  assert second.ranks == (1, 2, 0)
  groups = {(r.labeler, r.group) for r in found['validation']}
  assert groups == {('Ada', 'train'), ('Bob', 'heldout')}


def test_a_project_of_other_answers_is_refused(asked, config, tmp_path):
  config.people.enough = 0.5  # may change
  assert people_rankings.Asked.of(config, tmp_path / 'rankings').exists()
  config.response_len = 9
  other = people_rankings.Asked.of(config, tmp_path / 'rankings')
  with pytest.raises(checks.ConfigError, match='people has answers that this'):
    other.exists()


def test_without_a_project_the_labelers_of_the_lab_rank(config, tmp_path):
  config.project = ''
  assert people_rankings.Asked.of(config, tmp_path) is None
  del config.project, config.people
  people_rankings.validate(config)
  assert people_rankings.Asked.of(config, tmp_path) is None


@pytest.mark.parametrize('enough', [0.0, 1.5])
def test_how_much_is_enough_is_checked(config, enough):
  config.people.enough = enough
  with pytest.raises(checks.ConfigError, match='people.enough must be'):
    people_rankings.validate(config)
