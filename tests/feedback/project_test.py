"""What a project refuses before anybody labels, and what it keeps."""

import dataclasses
import json
import stat

import pytest

from instructrl.data.records import Prompt
from instructrl.feedback import project
from instructrl.runtime.errors import ConfigError
from tests.feedback import labeling


def line(*responses, **fields):
  return {'prompt': 'ask', 'responses': list(responses) or ['a', 'b'], **fields}


@pytest.mark.parametrize(
  'text, fault',
  [
    ('', 'there are no rows'),
    ('{"prompt": "x", "responses": ["a"', ':1: is not JSON'),
    ('[1]', ':1: is a list, not an object'),
    ('{"prompt": "x"}', ':1: has 0 responses; rank needs 2 to 26'),
    (line('a'), ':1: has 1 responses'),
    (line(None, 'b'), r':1: responses\[0\] is null'),
    (line('x' * 10**7, 'b'), r'responses\[0\] has 10,000,000 characters'),
    (line(prompt='x' * 10**5), 'prompt text has 100,000 characters'),
    (line('a\ud800', 'b'), r'responses\[0\] is not UTF-8 at character 1'),
    (line(id='a\0'), 'id has the character 0'),
    (line(split='holdout'), 'prompt split is .holdout., not one of train'),
    (line({'text': 'a', 'model': 'm' * 2000}, 'b'), r'sources\[0\] has 2,000'),
    (line(reference={'ranks': [1]}), 'reference.ranks has 1 entries'),
    (line(reference={'ranks': ['10', '2']}), r'ranks\[0\] is text, not a num'),
    (line(reference={'ratings': [{}, {'bad': 1}]}), "has no row 'bad' of over"),
    (
      line(reference={'ratings': [{'expresses_opinion': 2}, {}]}),
      r'ratings\[0\].expresses_opinion must be from 0 to 1; got 2',
    ),
  ],
)
def test_a_line_whose_labels_could_not_be_exported_is_refused(
  text, fault, tmp_path
):
  path = tmp_path / 'items.jsonl'
  path.write_text(text if isinstance(text, str) else json.dumps(text))
  with pytest.raises(ValueError, match=fault):
    project.read_items(path, ('rank',))


def test_equal_prompts_need_ids(tmp_path):
  path = tmp_path / 'items.jsonl'
  path.write_text('\n'.join([json.dumps(line())] * 2))
  with pytest.raises(ValueError, match=':2: has the id .* of line 1'):
    project.read_items(path, ('rank',))


@pytest.mark.parametrize('k', [0, 1, 2])
def test_an_answer_that_is_too_long_is_refused_whatever_the_task(k):
  prompt = Prompt('p', 'ask', '', 'other', 'train')
  long = dataclasses.replace(prompt, text='x' * 10**6)
  answers = (project.Candidate('a'),) * k
  assert project.Task(prompt, answers).responses == answers
  with pytest.raises(ValueError, match='has 1,000,000 characters'):
    project.Task(long, answers)


@pytest.mark.parametrize(
  'name, value, fault',
  [
    ('tasks', None, 'must be a list; got None'),
    ('tasks', 'rank', "must be a list; got 'rank'"),
    ('tasks', ['rank', 'rank'], 'each once'),
    ('title', 3, 'must be text'),
    ('share', '0.5', "must be a number; got '0.5'"),
    ('share', float('nan'), r'must be in \[0, 1\]'),
    ('quota', True, 'must be a whole number'),
    ('overlap', 0, 'must be from 1 up; got 0'),
    ('lease_minutes', None, 'must be a number'),
    ('lease_minutes', 0, 'must be above 0'),
    ('titel', 'x', 'has no field titel'),
  ],
)
def test_a_setting_that_cannot_be_used_is_named(name, value, fault, tmp_path):
  folder = labeling.make(tmp_path / 'p', share=1)
  path = folder / 'project.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
  with pytest.raises(ConfigError, match=f'project.json: .*{fault}'):
    project.read_settings(folder)


def test_the_secret_is_private_and_survives_a_kill(tmp_path):
  opened = project.Project(labeling.make(tmp_path / 'p'))
  path = opened.folder / 'secret'
  path.touch()  # killed before it was written
  key = opened.secret()
  assert len(key) >= project.MIN_SECRET and opened.secret() == key
  path.unlink()
  assert opened.secret() != key
  assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_project_without_instructions_is_refused(tmp_path):
  folder = labeling.make(tmp_path / 'p')
  (folder / 'instructions.md').unlink()
  with pytest.raises(ConfigError, match='instructions.md cannot be read'):
    project.Project(folder)
