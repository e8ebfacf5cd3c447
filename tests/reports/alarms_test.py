"""Alarms: each is raised by a run with the fault, and not by one without it."""

import json

import pytest

from instructrl.reports import alarms
from instructrl.reports import headline
from instructrl.reports import report
from instructrl.reports import study_files
from tests.reports import real_report_test

study = real_report_test.study  # the fixture: a healthy run on real data
TITLES = {
  'kl': 'The policy is far from where PPO started',
  'ended': 'Many responses do not end',
  'texts': 'Responses are repeated or garbled',
  'reward': 'The reward model may only measure length',
  'values': 'The value model explains nothing',
  'length': 'Responses grow longer',
}


def write_metrics(folder, **series):
  """Writes the metrics of a PPO stage, from first and last values."""
  lines = []
  for step in range(10):
    values = {
      name: first + (last - first) * step / 9
      for name, (first, last) in series.items()
    }
    lines.append({'step': step + 1, 'objective/scores': step / 9, **values})
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'ppo' / 'metrics.jsonl').write_text(text)


def write_answers(folder, response, policy='ppo'):
  """Writes 20 samples; `response` maps a number to the policy's response."""
  (folder / 'evaluation' / 'samples.jsonl').write_text(
    ''.join(
      json.dumps(
        {
          'kind': 'answer',
          'prompt': f'prompt {i}',
          'policies': {
            name: {'response': response(i) if name == policy else f'fine {i}'}
            for name in ('base', 'sft', 'ppo')
          },
        }
      )
      + '\n'
      for i in range(20)
    )
  )


def write_held(folder, change):
  held = real_report_test.held()
  held['accuracy']['own']['difference']['longer is better'] = (
    real_report_test.summary(0.11, 0.05)
  )
  change(held)
  text = json.dumps(real_report_test.written(held))
  (folder / 'evaluation' / 'results.json').write_text(text)


def titles(folder):
  return [alarm.title for alarm in alarms.raised(study_files.load(folder))]


@pytest.fixture(autouse=True)
def healthy(study):
  write_held(study, lambda held: None)
  write_metrics(
    study,
    **{
      'objective/kl': (0.0, 20.0),
      'response/eos_frac': (1.0, 0.9),
      'response/length': (40.0, 50.0),
      'value/explained_variance': (-0.5, 0.4),
    },
  )
  write_answers(study, lambda i: f'The answer to number {i} is a town.')
  assert titles(study) == []


@pytest.mark.parametrize(
  'name, metric, ends, text',
  [
    ('kl', 'objective/kl', (0, 138), 'PPO: 130 nats a response at the end of'),
    ('ended', 'response/eos_frac', (1, 0.6), 'PPO: 62% of the responses end'),
    ('length', 'response/length', (20, 64), 'PPO: from 22 to 62 tokens'),
    (
      'values',
      'value/explained_variance',
      (0.1, -0.9),
      'PPO: explained variance −0.84 at the end of training',
    ),
  ],
)
def test_faults_of_training(study, name, metric, ends, text):
  write_metrics(study, **{metric: ends})
  (alarm,) = alarms.raised(study_files.load(study))
  assert alarm.title == TITLES[name] and len(alarm.found) == 1
  assert alarm.found[0].startswith(text)


@pytest.mark.parametrize('name, value', [('kl', 138.0), ('ended', 0.66)])
def test_faults_on_held_out_prompts(study, name, value):
  def change(held):
    held[name]['policies']['ppo'] = real_report_test.summary(value)

  write_held(study, change)
  assert titles(study) == [TITLES[name]]


@pytest.mark.parametrize(
  'response, text',
  [
    (lambda i: f'{i} ' + 'the town is good ' * 5, 'repeat themselves'),
    (lambda i: f'{i} ha' + 'ha' * 20, 'repeat themselves'),
    (lambda i: f'a{i}\ufffd\ufffdb', 'are garbled'),
    (lambda i: f'a{i}\x0fb', 'are garbled'),
    (lambda i: 'I do not know.' if i < 12 else str(i), "'I do not know.'"),
  ],
)
def test_repeated_and_garbled_texts(study, response, text):
  write_answers(study, response)
  (alarm,) = alarms.raised(study_files.load(study))
  assert alarm.title == TITLES['texts']
  assert len(alarm.found) == 1 and text in alarm.found[0]
  write_answers(study, response, policy='base')  # no subject of an alarm
  assert titles(study) == []


@pytest.mark.parametrize(
  'text',
  [
    '',
    'no',
    'Mara was born in Oakton. Leo was born in Thorndale.',
    'a | b\n----------------\n1 | 2\n',
    'an answer that its length cut \ufffd',
  ],
)
def test_sound_texts(text):
  assert not alarms.repeats(text) and not alarms.garbled(text)


@pytest.mark.parametrize(
  'half, raised', [(0.05, False), (0.11, True), (0.2, True)]
)
def test_a_reward_model_that_only_measures_length(study, half, raised):
  def change(held):
    difference = real_report_test.summary(0.11, half)
    held['accuracy']['own']['difference']['longer is better'] = difference

  write_held(study, change)
  assert titles(study) == [TITLES['reward']] * raised


@pytest.mark.parametrize('low, raised', [(0.02, False), (-0.01, True)])
def test_a_reward_model_of_the_lab_that_only_measures_length(
  study, low, raised
):
  write_held(study, lambda held: held.pop('accuracy'))
  done = json.loads((study / 'reward' / 'DONE').read_text())
  over = {'value': 0.05, 'ci95': [low, 0.1], 'n': 9}
  found = {'accuracy': 0.55, 'ci95': [0.52, 0.6], 'num_pairs': 9}
  done['result'] = {'accuracy': {'in_group': {**found, 'over_longer': over}}}
  (study / 'reward' / 'DONE').write_text(json.dumps(done))
  assert titles(study) == [TITLES['reward']] * raised


def test_alarms_of_several_studies_name_the_study(study):
  good = study_files.load(study)
  write_metrics(study, **{'objective/kl': (0, 138)})
  far = study_files.load(study)
  assert alarms.of_studies([('a', good)]) == []
  (alarm,) = alarms.of_studies([('a', good), ('b', far), ('c', far)])
  assert [text[:2] for text in alarm.found] == ['b:', 'c:']


def test_alarms_come_first(study):
  """A score that rises is shown; the KL that it costs is above it."""
  write_metrics(study, **{'objective/kl': (0, 138)})
  page = report.make_report(study)
  html = page.read_text()
  assert html.index(TITLES['kl']) < html.index('<h1')
  assert '✓ shown' in html
  (alarm,) = json.loads((page.parent / 'results.json').read_text())['alarms']
  assert alarm['title'] == TITLES['kl']
  assert headline.ending(page).startswith(f'ALARM: {TITLES["kl"]}\n')
