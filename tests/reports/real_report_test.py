"""The report of a study on real data, from files that are made up."""

import json

import pytest

from instructrl.reports import real_checks
from instructrl.reports import report
from instructrl.reports import verdicts
from instructrl.reports.policies import ShownPolicies

TABLE = {
  'base': {'label': 'pretrained', 'color': '#8c8c8c', 'order': 0},
  'sft': {'label': 'SFT', 'color': '#56b4e9', 'order': 3},
  'ppo': {'label': 'PPO', 'color': '#d55e00', 'order': 4},
  'ppo_ptx': {'label': 'PPO-ptx', 'color': '#9550b0', 'order': 5},
}
statements = lambda held: real_checks.check(held, ShownPolicies(TABLE))
STAGES = ('import', 'data', 'sft', 'reward', 'ppo', 'ppo_ptx', 'evaluation')


def summary(value, half=0.01, n=40):
  return {'value': value, 'ci95': [value - half, value + half], 'n': n}


def held():
  """What the stage `evaluation` measures."""
  levels = {
    'nll': {'base': 3.2, 'sft': 3.3, 'ppo': 3.6, 'ppo_ptx': 3.3},
    'score': {'base': -0.4, 'sft': 0.1, 'ppo': 0.9, 'ppo_ptx': 0.8},
    'length': {'base': 60.0, 'sft': 40.0, 'ppo': 44.0, 'ppo_ptx': 43.0},
    'ended': {'base': 0.1, 'sft': 0.9, 'ppo': 0.9, 'ppo_ptx': 0.95},
    'kl': {'ppo': 4.1, 'ppo_ptx': 3.0},
  }
  found = {
    name: {
      'policies': {p: summary(v) for p, v in values.items()},
      'difference': {
        left: {
          right: summary(values[left] - values[right])
          for right in list(values)[:i]
        }
        for i, left in enumerate(values)
        if i
      },
    }
    for name, values in levels.items()
  }
  judges = {
    'longer is better': summary(0.55, 0.05),
    'untrained head': summary(0.5, 0.05),
    'reward model': summary(0.66, 0.05),
  }
  return {
    **found,
    'accuracy': {
      'own': {
        'judges': judges,
        'pairs': 120,
        'prompts': 40,
        'difference': {
          'longer is better': summary(0.11, 0.2),
          'untrained head': summary(0.16, 0.1),
        },
      }
    },
  }


def written(tree, **others):
  """The content of results.json."""
  return {
    'format_version': 3,
    'policies': TABLE,
    'evals': {
      'all': {'type': 'preference', 'results': tree},
      **{
        name: {'type': 'mine:Own', 'results': found}
        for name, found in others.items()
      },
    },
  }


@pytest.fixture
def study(tmp_path):
  """The folder of a finished study, as far as the report reads it."""

  def write(path, value):
    path = tmp_path / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))

  config = {name: {} for name in STAGES}
  for name in ('sft', 'reward', 'ppo', 'ppo_ptx'):
    config[name] = {'optimizer': {}}
  config['import'] = {
    'source': '/models/small.gguf',
    'model': {'num_layers': 3, 'd_model': 64},
  }
  config['data'] = {
    'demonstrations': ['dolly'],
    'rankings': ['hh-rlhf'],
    'prompts': [],
    'documents': ['text:wiki.txt'],
  }
  write(
    'study.json',
    {
      'stages': STAGES,
      'config': config,
      'seeds': {'eval_seed': 3},
      'versions': {'jax': '1'},
    },
  )
  for stage in STAGES:
    write(f'{stage}/DONE', {'format_version': 1, 'seconds': 61.0, 'result': {}})
  for stage in ('sft', 'reward'):
    write(
      f'{stage}/metrics.jsonl',
      ''.join(
        json.dumps({'step': i, 'loss/train': 1 / i}) + '\n' for i in range(1, 9)
      ),
    )
  for stage in ('ppo', 'ppo_ptx'):
    write(
      f'{stage}/metrics.jsonl',
      ''.join(
        json.dumps(
          {'step': i, 'objective/scores': i / 9, 'objective/kl': i / 3}
        )
        + '\n'
        for i in range(1, 9)
      ),
    )
  write('evaluation/results.json', written(held()))
  write(
    'evaluation/samples.jsonl',
    ''.join(
      json.dumps(
        {
          'kind': 'answer',
          'prompt': f'<prompt> {i}',
          'id': str(i),
          'policies': {
            p: {
              'response': f'answer & {i}',
              'score': 0.5,
              'tokens': 7,
              'ended': i > 2,
            }
            for p in ('base', 'sft', 'ppo', 'ppo_ptx')
          },
        }
      )
      + '\n'
      for i in range(9)
    ),
  )
  write('data/summary.txt', 'rows read <9>\n')
  return tmp_path


def test_the_page_tells_the_figures_and_escapes_texts(study):
  path = report.make_report(study)
  page = path.read_text()
  for text in (
    'small.gguf (3 layers of width 64)',
    '66.0% (61.0 to 71.0)',
    '&lt;prompt&gt;',
    'answer &amp;',
    'rows read &lt;9&gt;',
    'What this cannot show',
    'KL of an answer',
    '120 of 40 prompts',
    'All 9\nprompts, in an order',
  ):
    assert text in page, text
  assert '<prompt>' not in page and 'elsewhere' not in page
  results = json.loads((path.parent / 'results.json').read_text())
  found = held()
  assert results['accuracy'] == found.pop('accuracy')
  assert results['measures'] == found
  assert results['seconds'] == dict.fromkeys(STAGES, 61.0)


def test_a_study_of_own_data_names_the_data_and_no_simulated_world(study):
  path = study / 'study.json'
  header = json.loads(path.read_text())
  del header['config']['import']
  path.write_text(json.dumps(header))
  page = report.make_report(study).read_text()
  assert 'From your own data to an aligned policy' in page
  assert 'documents: text:wiki.txt' in page
  assert 'simulated' not in page
  results = json.loads((study / 'report' / 'results.json').read_text())
  assert 'model' not in results
  assert results['sources']['documents'] == ['text:wiki.txt']


def test_verdicts_are_those_of_the_intervals():
  rows = {row.statement: row for row in statements(held())}
  verdict = lambda *words: [
    row.verdict
    for text, row in rows.items()
    if all(word in text for word in words)
  ]
  assert verdict('reward model orders', 'longer') == [verdicts.UNDECIDED]
  assert verdict('reward model orders', 'untrained') == [verdicts.SHOWN]
  assert verdict('PPO has a higher') == [verdicts.SHOWN]
  assert verdict('PPO has more loss') == [verdicts.SHOWN]
  less = 'PPO-ptx has less loss on pretraining text than'
  assert verdict(f'{less} SFT') == [verdicts.UNDECIDED]
  assert verdict(f'{less} PPO') == [verdicts.SHOWN]
  without = held()
  for name in ('nll', 'score'):
    del without[name]
  assert len(statements(without)) == 2


def test_outside_judges_are_shown_beside_the_reward_model(study):
  found = held()
  found['judges'] = {'reviews': {**found['accuracy']['own'], 'pairs': 77}}
  for name, difference in (('naive_bayes', 0.2), ('lexicon', 0.05)):
    found[name] = {
      'policies': {p: summary(0.5) for p in ('base', 'sft', 'ppo')},
      'difference': {
        'sft': {'base': summary(0.3)},
        'ppo': {'base': summary(0.4), 'sft': summary(difference, 0.1)},
      },
    }
  path = study / 'evaluation' / 'results.json'
  path.write_text(json.dumps(written(found)))
  page = report.make_report(study).read_text()
  assert 'Outside judges' in page and '77 of 40 prompts' in page
  assert 'positive answers, by naive Bayes' in page
  assert 'No person and no independent judge' not in page
  # The second table has differences to SFT, of policies after it.
  assert page.index('Differences to SFT') < page.index('0.20 (0.10 to 0.30)')
  results = json.loads((study / 'report' / 'results.json').read_text())
  assert results['judges'] == found['judges']
  rows = [r for r in results['expectations'] if r['topic'] == 'Outside judges']
  assert [(r['statement'], r['verdict']) for r in rows] == [
    ('PPO has more positive answers by naive Bayes than SFT', 'shown'),
    ('PPO has more positive answers by a lexicon than SFT', 'undecided'),
  ]


def test_an_interval_that_holds_0_alone_decides_nothing():
  figures = held()
  figures['score']['difference']['ppo']['sft'] = summary(0.0, 0.0)
  figures['score']['difference']['ppo_ptx']['sft'] = summary(0.5, 0.5)
  assert [
    row.verdict for row in statements(figures) if 'higher' in row.statement
  ] == [verdicts.UNDECIDED] * 2


def test_small_differences_are_told_from_0(study):
  figures = held()
  figures['nll']['difference']['ppo']['sft'] = summary(4e-5, 1e-5)
  figures['nll']['policies']['ppo'] = summary(-1e-9, 0.0)
  (study / 'evaluation' / 'results.json').write_text(
    json.dumps(written(figures))
  )
  page = report.make_report(study).read_text()
  assert '+0.00004 (+0.00003 to +0.00005) nats' in page
  assert '>0.000 (0.000 to 0.000)<' in page


def test_answers_of_another_program_are_shown(study):
  (study / 'export').mkdir()
  (study / 'export' / 'answers.jsonl').write_text(
    json.dumps(
      {'program': 'transformers 5', 'prompt': 'Why?', 'response': 'So.'}
    )
  )
  page = report.make_report(study).read_text()
  assert 'The exported policy, elsewhere' in page and 'transformers 5' in page


def test_an_evaluation_of_ones_own_is_a_table(study):
  own = {'polite': {'policies': {'sft': summary(0.25)}, 'difference': {}}}
  content = json.dumps(written(held(), manners=own))
  (study / 'evaluation' / 'results.json').write_text(content)
  path = report.make_report(study)
  page = path.read_text()
  assert '<h2>manners</h2>' in page and '0.250 (0.240 to 0.260)' in page
  results = json.loads((path.parent / 'results.json').read_text())
  assert results['others'] == {'manners': own}


def test_answers_may_hold_any_line_end(study):
  """JSON leaves U+2028 and U+0085 as they are, and only \\n ends a line."""
  samples = study / 'evaluation' / 'samples.jsonl'
  text = samples.read_text().replace('answer &', 'one\u2028two\x85three &')
  samples.write_text(text)
  assert 'one\u2028two\x85three' in report.make_report(study).read_text()


def test_what_is_missing_or_damaged_is_named(study):
  (study / 'evaluation' / 'results.json').write_text(
    json.dumps(written({'accuracy': 1}))
  )
  with pytest.raises(ValueError, match='not what the report expects'):
    report.make_report(study)
  (study / 'evaluation' / 'results.json').write_text('{"accuracy": 1}')
  with pytest.raises(ValueError, match='results.json: format_version None'):
    report.make_report(study)
  (study / 'evaluation' / 'samples.jsonl').write_text('{}\n{')
  (study / 'evaluation' / 'results.json').write_text(
    json.dumps(written(held()))
  )
  with pytest.raises(ValueError, match='samples.jsonl:2 is not JSON'):
    report.make_report(study)
  (study / 'sft' / 'DONE').unlink()
  with pytest.raises(ValueError, match='not finished: sft'):
    report.make_report(study)


def test_the_loss_of_ppo_is_compared_with_its_start():
  found = {'value': 0.1, 'ci95': [0.05, 0.15], 'n': 9}
  held = {'nll': {'policies': {}, 'difference': {'ppo': {'ppo_init': found}}}}
  (row,) = statements(held)
  assert row.quantity == 'loss a token, PPO minus ppo_init'
  assert row.verdict == 'shown'
