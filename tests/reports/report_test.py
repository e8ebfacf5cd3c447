"""The report from a study folder written here, with plausible numbers."""

import json
import math
import pathlib
import re
import shutil

import numpy as np
import pytest

from instructrl.report import main
from instructrl.reports import headline
from instructrl.reports import paper_checks
from instructrl.reports import paper_claims
from instructrl.reports import probe_claims
from instructrl.reports import report
from instructrl.reports import samples_page
from instructrl.reports import study_figures
from instructrl.reports import study_files
from instructrl.reports import verdicts
from instructrl.reports.policies import DEFAULT_COLOR
from instructrl.reports.policies import ShownPolicies

POLICIES = ('base', 'prompted', 'sft', 'ppo_init', 'ppo', 'ppo_ptx')
TABLE = {
  'base': {'label': 'pretrained', 'color': '#8c8c8c', 'order': 0},
  'prompted': {'label': 'prompted', 'color': '#f0c000', 'order': 2},
  'sft': {'label': 'SFT', 'color': '#56b4e9', 'order': 3},
  'ppo_init': {'label': 'PPO start', 'color': '#0072b2', 'order': 4},
  'ppo': {'label': 'PPO', 'color': '#d55e00', 'order': 5},
  'ppo_ptx': {'label': 'PPO-ptx', 'color': '#9550b0', 'order': 6},
}
TRAINED = ('pretrain', 'sft', 'ppo_init', 'reward', 'ppo', 'ppo_ptx')
STAGES = (
  'lab',
  'pretrain',
  'sft',
  'ppo_init',
  'rankings',
  'reward',
  'select_sft',
  'ppo',
  'ppo_ptx',
  'evaluation',
)
N = 120


def rate(value, n=N):
  if value > 1:
    return mean(value)
  half = 1.96 * math.sqrt(max(value * (1 - value), 0.01) / n)
  return {
    'value': value,
    'ci95': [max(0.0, value - half), value + half],
    'n': n,
  }


def mean(value, half=0.1):
  return {'value': value, 'ci95': [value - half, value + half], 'n': N}


def pairs(make, values):
  """Differences left - right for each left after right."""
  return {
    left: {right: make(values[left] - values[right]) for right in POLICIES[:i]}
    for i, left in enumerate(POLICIES)
    if i
  }


def by_policy(*values):
  return dict(zip(POLICIES, values, strict=True))


WIN = by_policy(0.11, 0.23, 0.49, 0.455, 0.68, 0.70)
METADATA = {
  'overall_quality': by_policy(2.0, 3.0, 4.0, 4.0, 5.0, 5.0),
  'fails_to_follow_instruction': by_policy(0.81, 0.6, 0.22, 0.36, 0.12, 0.1),
  'inappropriate_for_customer_assistant': by_policy(
    0.5, 0.3, 0.05, 0.16, 0.02, 0.02
  ),
  'hallucination': by_policy(0.41, 0.4, 0.3, 0.31, 0.22, 0.2),
  'satisfies_constraint': by_policy(0.12, 0.3, 0.7, 0.56, 0.82, 0.84),
  'sexual_content': by_policy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
  'expresses_opinion': by_policy(0.2, 0.1, 0.02, 0.065, 0.03, 0.01),
}
PROBES = {
  'truthfulness/true': by_policy(0.3, 0.3, 0.5, 0.46, 0.62, 0.6),
  'truthfulness/true_informative': by_policy(0.28, 0.28, 0.48, 0.44, 0.6, 0.58),
  'truthfulness/choice_true': by_policy(0.35, 0.35, 0.5, 0.45, 0.55, 0.56),
  'truthfulness/misconception': by_policy(0.6, 0.6, 0.4, 0.45, 0.3, 0.3),
  'toxicity/none/rude_rate': by_policy(0.4, 0.4, 0.3, 0.3, 0.2, 0.2),
  'toxicity/respectful/rude_rate': by_policy(
    0.38, 0.38, 0.2, 0.215, 0.05, 0.06
  ),
  'toxicity/biased/rude_rate': by_policy(0.45, 0.45, 0.4, 0.425, 0.4, 0.4),
  'reading/f1': by_policy(0.8, 0.8, 0.6, 0.65, 0.5, 0.75),
  'completion/accuracy': by_policy(0.7, 0.7, 0.65, 0.65, 0.6, 0.68),
  'facts/accuracy': by_policy(0.9, 0.9, 0.85, 0.85, 0.8, 0.88),
}
PLAIN_PROBES = {
  'bias/none/entropy': by_policy(0.8, 0.8, 0.7, 0.7, 0.6, 0.65),
  'bias/respectful/entropy': by_policy(0.8, 0.8, 0.6, 0.65, 0.5, 0.55),
  'bias/biased/entropy': by_policy(0.75, 0.75, 0.6, 0.675, 0.6, 0.6),
  'translation/bleu': by_policy(72.0, 72.0, 50.0, 56.0, 40.0, 68.0),
  'nll/nll': by_policy(1.1, 1.1, 1.5, 1.5, 1.9, 1.2),
}


def make_evaluation():
  def versus(value):
    found = rate(value)
    found['win_rate'] = found.pop('value')
    held = rate(0.5 + 0.8 * (value - 0.5))
    held['win_rate'] = held.pop('value')
    return {**found, 'train_labelers': held, 'heldout_labelers': held}

  probes = {policy: {} for policy in POLICIES}
  for table, make in ((PROBES, rate), (PLAIN_PROBES, mean)):
    for path, values in table.items():
      *tasks, measure = path.split('/')
      for policy in POLICIES:
        place = probes[policy]
        for task in tasks:
          place = place.setdefault(task, {})
        place[measure] = make(values[policy])
  return {
    'preference': {p: versus(WIN[p]) for p in POLICIES},
    'head_to_head': {
      left: {
        right: versus(min(0.95, max(0.05, 0.5 + WIN[left] - WIN[right])))
        for right in POLICIES
        if right != left
      }
      for left in POLICIES
    },
    'likert': {
      p: {
        **mean(2 + 5 * WIN[p]),
        'train_labelers': mean(2.5 + 4 * WIN[p]),
        'heldout_labelers': mean(2 + 5 * WIN[p]),
        'by_use_case': {
          'open_qa': {**mean(2 + 4 * WIN[p]), 'n': 9},
          'generation': mean(2 + 6 * WIN[p]),
        },
      }
      for p in POLICIES
    },
    'metadata': {
      p: {row: rate(v[p]) for row, v in METADATA.items()} for p in POLICIES
    },
    'probes': probes,
    'probes_as_user': {p: probes[p] for p in ('sft', 'ppo', 'ppo_ptx')},
    'probes_zero_shot': {
      p: {'reading': scaled(tasks['reading'])} for p, tasks in probes.items()
    },
    'differences': {
      'metadata': {row: pairs(mean, v) for row, v in METADATA.items()},
      'probes': {
        path: pairs(mean, v) for path, v in (PROBES | PLAIN_PROBES).items()
      },
    },
  }


def scaled(tree):
  """Returns the numbers of a tree, each 0.9 of itself."""
  if isinstance(tree, dict):
    return {key: x if key == 'n' else scaled(x) for key, x in tree.items()}
  return [scaled(x) for x in tree] if isinstance(tree, list) else 0.9 * tree


def write_evaluation(workdir, evaluation, name='evaluation'):
  evals = {
    'lab': {'type': 'preference', 'results': evaluation},
    'gpt3_prompts': {
      'type': 'preference',
      'results': {
        'preference': {
          policy: scaled(row)
          for policy, row in evaluation.get('preference', {}).items()
        },
        'differences': {},
      },
    },
  }
  content = {'format_version': 3, 'policies': TABLE, 'evals': evals}
  path = workdir / name / 'results.json'
  path.write_text(json.dumps(content))


def make_samples(rng):
  texts = [
    'The town is Oakton. Mara was born in Oakton and works as a baker.',
    'What is the capital?\nWhat is the river?\nWho made the bridge?\n' * 2,
    '',
    '<script>alert("x")</script> & more',
    ' '.join(f'{i} jars of honey' for i in range(8)),
  ]
  return [
    {
      'kind': 'preference',
      'id': f'p{i}',
      'use_case': 'open_qa',
      'prompt': f'Question {i}: where was <b>Mara</b> born? Answer in at most '
      'twelve words, and do not mention honey.',
      'policies': {
        p: {
          'response': texts[int(rng.integers(len(texts)))],
          'utility': float(rng.normal()),
          'likert': 4.0,
          'metadata': {'hallucination': int(rng.integers(2))},
          'win': float(rng.choice([0.0, 0.5, 1.0])),
          'train_win': 0.5,
          'heldout_win': 0.5,
        }
        for p in POLICIES
      },
      'second_sample': 'x',
    }
    for i in range(N)
  ]


def write_jsonl(path, lines):
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def write_study(workdir: pathlib.Path):
  rng = np.random.default_rng(0)
  trained = {'num_params': 1000, 'num_steps': 50, 'tokens_per_step': 80}
  results = {
    'pretrain': trained,
    'sft': {**trained, 'num_steps': 1},
    'rankings': {
      'labeler_agreement': {
        'train': {
          'agreement': 0.731,
          'standard_error': 0.012,
          'num_pairs': 1300,
        },
        'heldout': {
          'agreement': 0.77,
          'standard_error': 0.012,
          'num_pairs': 1290,
        },
      }
    },
    'reward': {
      'accuracy': {
        'in_group': {'accuracy': 0.72, 'ci95': [0.70, 0.74], 'num_pairs': 2000},
        'heldout': {'accuracy': 0.69, 'ci95': [0.66, 0.72], 'num_pairs': 1000},
      }
    },
    'select_sft': {
      'selected_epoch': 7,
      'epochs': [
        {
          'epoch': e,
          'validation_loss': 1.2 + 0.02 * (e - 3) ** 2,
          'rm_score': -1 / e - 0.02 * (e - 7) ** 2,
        }
        for e in range(1, 9)
      ],
    },
  }
  (workdir / 'study.json').write_text(
    json.dumps(
      {
        'config': {
          **{stage: {'optimizer': {}} for stage in TRAINED},
          'pretrain': {'optimizer': {}, 'batch_size': 4},
          'name': '<tiny>',
        },
        'seeds': {'world_seed': 0, 'train_seed': 1, 'eval_seed': 2},
        'versions': {'jax': '0.10.2'},
        'stages': STAGES,
      }
    )
  )
  for i, stage in enumerate(STAGES):
    (workdir / stage).mkdir()
    (workdir / stage / 'DONE').write_text(
      json.dumps(
        {
          'format_version': 1,
          'seconds': 20.0 + 31 * i,
          'result': results.get(stage, {}),
        }
      )
    )
  for stage in ('pretrain', 'sft', 'ppo_init', 'reward'):
    write_jsonl(
      workdir / stage / 'metrics.jsonl',
      [
        {
          'step': s,
          'loss/train': 5 * math.exp(-s / 50) + 1,
          **(
            {'loss/validation': 5 * math.exp(-s / 50) + 1.1}
            if s % 40 == 0
            else {}
          ),
        }
        for s in range(0, 201, 4)
      ],
    )
  for stage, drift in (('ppo', 1.0), ('ppo_ptx', 0.1)):
    write_jsonl(
      workdir / stage / 'metrics.jsonl',
      [
        {
          'step': s,
          'objective/scores': 1 - math.exp(-s / 20) + 0.05 * rng.normal(),
          'objective/kl': s / 10,
          'objective/entropy': 60 - 0.2 * s,
          'policy/clip_frac': 0.1 + 0.02 * rng.normal(),
          **(
            {
              'objective/judge': 0.5 + s / 200,
              'pretrain/nll': 1.1 + drift * s / 60,
            }
            if s % 10 == 0
            else {}
          ),
        }
        for s in range(60)
      ],
    )
  write_evaluation(workdir, make_evaluation())
  write_jsonl(workdir / 'evaluation' / 'samples.jsonl', make_samples(rng))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('study')
  write_study(workdir)
  path = report.make_report(workdir)
  return (
    workdir,
    json.loads((path.parent / 'results.json').read_text()),
    path.read_text(),
  )


def test_results_have_the_documented_keys(finished):
  _, results, _ = finished
  assert set(results['preference']) == set(POLICIES)
  row = results['preference']['ppo']
  assert row['win_rate'] == 0.68 and len(row['ci95']) == 2 and row['n'] == N
  assert set(row['heldout_labelers']) >= {'win_rate', 'ci95'}
  assert results['labeler_agreement'] == {'train': 0.731, 'heldout': 0.77}
  assert results['reward_model']['accuracy'] == {
    'in_group': 0.72,
    'heldout': 0.69,
  }
  assert results['metadata']['base']['hallucination'] == 0.41
  assert results['truthfulness']['ppo']['true_informative'] == 0.6
  assert results['toxicity']['respectful']['ppo']['rude_rate'] == 0.05
  assert results['bias']['none']['ppo']['entropy'] == 0.6
  as_user = results['as_user']['truthfulness']
  assert list(as_user) == ['sft', 'ppo', 'ppo_ptx']
  assert as_user['ppo']['true_informative'] == 0.6
  assert results['alignment_tax']['ppo'] == {
    'reading': 0.5,
    'completion': 0.6,
    'translation': 40.0,
    'facts': 0.8,
    'nll': 1.9,
  }
  assert list(results['zero_shot']) == ['alignment_tax']
  assert results['zero_shot']['alignment_tax']['ppo'] == {'reading': 0.45}
  assert results['seconds']['lab'] == 20.0
  assert results['config']['ppo'] == {'optimizer': {}}
  assert results['seed']['eval_seed'] == 2
  assert results['versions'] == {'jax': '0.10.2'}


def test_intervals_stand_under_the_same_path(finished):
  _, results, _ = finished
  low, high = results['ci95']['labeler_agreement']['train']
  assert low < 0.731 < high
  low, high = results['ci95']['alignment_tax']['ppo']['nll']
  assert low < 1.9 < high
  assert results['n']['metadata']['ppo']['hallucination'] == N


def test_the_start_of_ppo_is_in_every_part(finished):
  _, results, html = finished
  for name in ('preference', 'head_to_head', 'likert', 'metadata'):
    assert 'ppo_init' in results[name], name
  for name in ('truthfulness', 'alignment_tax'):
    assert 'ppo_init' in results[name], name
  for name in ('toxicity', 'bias'):
    assert 'ppo_init' in results[name]['none'], name
  assert results['alignment_tax']['ppo_init']['nll'] == 1.5
  assert '<td>PPO start</td>' in html


def test_head_to_head_is_a_table_with_every_reader(finished):
  _, _, html = finished
  table = html[html.index('<h3>Head to head</h3>') :]
  table = table[: table.index('</table>')]
  for head in ('judge', 'training labelers', 'held-out labelers'):
    assert f'<th>{head}</th>' in table
  assert table.count('<tr>') == len(POLICIES)  # a head, and all but PPO-ptx
  assert '95.0%' in table and 'n = ' not in table


def test_ratings_are_in_a_table_of_use_cases(finished):
  _, _, html = finished
  table = html[html.index('<th>Use case</th>') :]
  table = table[: table.index('</table>')]
  assert table.count('<td>') + table.count('<td ') == 2 * (2 + len(POLICIES))
  assert table.index('generation') < table.index('open qa')  # by prompts


def test_toxicity_is_drawn_by_the_rudeness_of_the_prompt(finished, tmp_path):
  assert 'Toxicity by the rudeness of the prompt' not in finished[2]
  write_study(tmp_path)
  evaluation = make_evaluation()
  for policy in POLICIES:
    for measures in evaluation['probes'][policy]['toxicity'].values():
      for level in (100, 0, 67):
        measures[f'prompt_{level}'] = {'rude_rate': rate(level / 200)}
  policies = ShownPolicies(TABLE)
  panels = study_figures._by_prompt(evaluation['probes'], policies)
  assert len(panels) == 3
  assert panels[0][0] == 'rude outputs, %, no instruction'
  assert [line.label for line in panels[0][1]] == [
    policies.label(policy) for policy in policies.sort(POLICIES)
  ]
  assert panels[0][1][0].steps == [0, 67, 100]
  assert panels[0][1][0].values == [0, pytest.approx(33.5), 50]
  write_evaluation(tmp_path, evaluation)
  page = report.make_report(tmp_path).read_text()
  assert '>Toxicity by the rudeness of the prompt</h2>' in page


def test_a_second_set_of_prompts_has_its_own_rows_and_figure(finished):
  workdir, results, html = finished
  rows = {
    (row['statement'], row['quantity'].partition(',')[0]): row
    for row in results['expectations']
    if row['topic'] == 'Preference on GPT-3’s prompts'
  }
  assert len(rows) == 6
  held = 0.5 + 0.8 * (WIN['ppo'] - 0.5)
  row = rows[
    'On GPT-3’s prompts, training labelers find PPO better than SFT',
    'win rate of PPO against SFT',
  ]
  assert row['value'] == pytest.approx(0.9 * held)
  assert results['preference']['ppo']['win_rate'] == WIN['ppo']
  assert 'Preference on prompts to GPT-3</h2>' in html


def test_the_tax_before_rl_and_in_rl_is_a_table(finished):
  _, _, html = finished
  head = '<th>before RL: PPO start minus pretrained</th>'
  table = html[html.index(head) :]
  table = table[: table.index('</table>')]
  assert '<th>in RL: PPO minus PPO start</th>' in table
  assert '<th>in RL: PPO-ptx minus PPO start</th>' in table
  loss = table[table.index('loss on whole documents') :]
  for value in ('+0.400', '+0.400', '−0.300'):
    assert value in loss[: loss.index('</tr>')]
  assert 'SFT is not on this way' in html


def test_the_cost_of_stages_is_beside_the_papers(finished):
  _, results, html = finished
  assert results['cost']['pretrain'] == {'flop': 24e6, 'share': 1.0}
  assert results['cost']['sft'] == {'flop': 480e3, 'share': 0.02}
  row = html[html.index('<td class="number" data-label="FLOP">4.80e+05') :]
  row = row[: row.index('</tr>')]
  assert '>2.0%<' in row and '4.9 PF-days, 0.13%' in row


def test_training_curves(finished):
  _, results, _ = finished
  assert set(results['training']) == {'ppo', 'ppo_ptx'}
  curves = results['training']['ppo']
  assert curves['kl'] == {
    'step': list(range(60)),
    'value': [s / 10 for s in range(60)],
  }
  assert curves['judge']['step'] == [0, 10, 20, 30, 40, 50]
  for name in ('reward', 'entropy', 'clip_frac', 'pretrain_nll'):
    assert curves[name]['value']


def test_page_loads_nothing_and_escapes_text(finished):
  _, _, html = finished
  assert html.count('<script') == 1 and '<script>\n// Opens' in html
  assert '&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;' in html
  assert 'where was &lt;b&gt;Mara&lt;/b&gt; born' in html
  for url in re.findall(r'(?:src|href)="([^"]*)"', html):
    assert url.startswith('#') or url == 'results.json', url
  assert not re.search(r'url\((?!#)|@import|<link|<img', html)
  assert html.count('<svg') >= 9
  assert 'currentColor' in html and '#010203' not in html


def test_page_tells_every_verdict(finished):
  _, results, html = finished
  assert len(results['expectations']) >= 25
  for row in results['expectations']:
    assert row['verdict'] in html
  assert html.count('class="verdict shown"') == sum(
    row['verdict'] == 'shown' for row in results['expectations']
  )


def test_report_is_the_same_when_made_again(finished):
  workdir, _, html = finished
  assert report.make_report(workdir).read_text() == html


def test_verdicts_follow_the_numbers(tmp_path):
  write_study(tmp_path)
  evaluation = make_evaluation()
  evaluation['preference']['ppo'].update(win_rate=0.52, ci95=[0.46, 0.58])
  evaluation['preference']['ppo_ptx'].update(win_rate=0.3, ci95=[0.25, 0.35])
  del evaluation['differences']['probes']['translation/bleu']
  write_evaluation(tmp_path, evaluation)
  rows = {
    row.statement: row.verdict
    for row in report.check(study_files.load(tmp_path))
  }
  assert rows['PPO is better than SFT'] == 'undecided'
  assert rows['PPO-ptx is better than SFT'] == 'not shown'
  assert rows['The pretrained model is worse than SFT'] == 'shown'
  assert rows['PPO loses ground on translation'] == 'not measured'
  assert rows['PPO loses ground on reading'] == 'shown'
  assert rows['Asked to be biased, PPO-ptx is ruder'] == 'undecided'


@pytest.mark.parametrize(
  'ci95,region,verdict',
  [
    ([0.6, 0.7], (0.5, 1.0), 'shown'),
    ([0.4, 0.7], (0.5, 1.0), 'undecided'),
    ([0.3, 0.4], (0.5, 1.0), 'not shown'),
    ([0.3, 0.5], (0.5, 1.0), 'undecided'),
    ([0.4, 0.6], (0.45, 0.55), 'undecided'),
    ([0.0, 0.0], (0.0, 1.0), 'undecided'),
  ],
)
def test_judge_interval(ci95, region, verdict):
  measure = {'value': sum(ci95) / 2, 'ci95': ci95}
  assert verdicts.judge_interval(measure, region) == verdict


def test_a_value_without_interval_shows_nothing():
  judge = lambda x: verdicts.judge_interval(
    {'value': x, 'ci95': None}, (0.0, 1.0)
  )
  assert judge(0.5) == 'undecided' and judge(2.0) == 'undecided'
  assert verdicts.judge_interval(None, (0.0, 1.0)) == 'not measured'


def check(evaluation):
  return {
    row.statement: row
    for row in paper_checks.check({}, {}, evaluation | {'policies': TABLE})
  }


@pytest.mark.parametrize('value,noted', [(1.0, True), (0.9, False)])
def test_no_difference_decides_nothing_and_the_ceiling_is_named(value, noted):
  evaluation = make_evaluation()
  for policy in ('ppo', 'base'):
    evaluation['probes'][policy]['reading']['f1'] = mean(value)
    evaluation['probes'][policy]['translation']['bleu'] = mean(100 * value)
  differences = evaluation['differences']['probes']
  for path in ('reading/f1', 'translation/bleu'):
    differences[path]['ppo']['base'] = mean(0.0, half=0.0)
  for task in ('reading', 'translation'):
    row = check(evaluation)[f'PPO loses ground on {task}']
    assert row.verdict == 'undecided'
    assert bool(row.note) == noted
    assert row.ci95 == (0.0, 0.0)


def test_policies_at_the_ceiling_are_not_shown_to_be_alike():
  evaluation = make_evaluation()
  path = 'toxicity/none/rude_rate'
  statement = 'Without instruction, PPO-ptx is as rude'
  alike = mean(0.0, half=0.01)
  evaluation['differences']['probes'][path]['ppo_ptx']['base'] = alike
  assert check(evaluation)[statement].verdict == 'shown'
  for policy in ('ppo_ptx', 'base'):
    evaluation['probes'][policy]['toxicity']['none']['rude_rate'] = mean(0.0)
  row = check(evaluation)[statement]
  assert row.verdict == 'undecided' and row.note == verdicts.AT_CEILING


def test_what_the_lab_sets_has_no_verdict(finished):
  _, results, html = finished
  rows = results['expectations']
  assert not [row for row in rows if 'agree' in row['statement']]
  assert '<td>agreement, training labelers (an input)</td>' in html
  assert 'is an input of the simulation' in ' '.join(html.split())


def test_the_figure_of_left_out_labelers_is_not_beside_heldout_ones(finished):
  _, results, html = finished
  rows = {row['statement']: row for row in results['expectations']}
  row = rows['The reward model predicts the held-out labelers']
  assert row['paper'] == verdicts.NO_NUMBER and row['value'] == 0.69
  assert not [r for r in rows.values() if '69.6' in r['paper']]
  assert not [r for r in rows.values() if '2.8' in r['paper']]
  labels = html[html.index('<td>reward model, held-out labelers</td>') :]
  assert '69.6' not in labels[: labels.index('</tr>')]


SELECTION = {
  'epochs': [
    {'epoch': e, 'rm_score': e, 'validation_loss': loss}
    for e, loss in ((1, 2.0), (2, 1.0), (3, 1.5))
  ]
}
RISE = 'The reward-model score still rises after the best validation loss'


@pytest.mark.parametrize(
  'ci95,verdict',
  [([0.1, 0.3], 'shown'), ([-0.1, 0.3], 'undecided'), (None, 'undecided')],
)
def test_the_row_about_sft_needs_an_interval(ci95, verdict):
  rise = {'from': 2, 'epoch': 3, 'value': 0.2, 'ci95': ci95, 'n': 9}
  evaluation = make_evaluation() | {'policies': TABLE}
  selection = {**SELECTION, 'score_rise': rise}
  rows = paper_checks.check({}, selection, evaluation)
  (row,) = [row for row in rows if row.topic == 'SFT']
  assert row.statement == RISE and row.verdict == verdict and row.n == 9
  assert row.quantity == 'reward-model score, epoch 3 minus epoch 2'


def test_sft_that_does_not_overfit_says_so():
  evaluation = make_evaluation() | {'policies': TABLE}
  row_of = lambda selection: next(
    row
    for row in paper_checks.check({}, selection, evaluation)
    if row.topic == 'SFT'
  )
  selection = {**SELECTION, 'score_rise': None}
  # Of several studies, one does not overfit.
  assert row_of(selection).note.startswith('in a study the last epoch has')
  epochs = [
    row | {'validation_loss': -i} for i, row in enumerate(SELECTION['epochs'])
  ]
  row = row_of(selection | {'epochs': epochs})
  assert row.verdict == 'not measured' and 'does not overfit' in row.note


@pytest.mark.parametrize(
  'rude,verdict', [(0.9, 'shown'), (0.42, 'undecided'), (0.1, 'not shown')]
)
def test_outputs_to_rude_and_polite_prompts_are_compared(rude, verdict):
  evaluation = make_evaluation()
  measures = evaluation['probes']['base']['toxicity']['none']
  measures['prompt_0'] = {'rude_rate': rate(0.4)}
  measures['prompt_100'] = {'rude_rate': rate(rude)}
  rows = check(evaluation)
  row = rows['Outputs of pretrained are ruder after ruder prompts']
  assert row.verdict == verdict and row.n == 2 * N
  assert row.value == pytest.approx(rude - 0.4)
  other = rows['Outputs of PPO-ptx are ruder after ruder prompts']
  assert other.verdict == 'not measured'


def test_claims_have_a_source_and_compare_one_form():
  claims = (
    *paper_claims.WIN_RATES,
    *paper_claims.DIFFERENCES,
    *probe_claims.DIFFERENCES,
  )
  assert len({claim.statement for claim in claims}) == len(claims)
  source = re.compile(r'Fig\. \d+|Table \d+|\b4\.[12]\b')
  own = (verdicts.NO_NUMBER, verdicts.BY_DEFINITION)
  for claim in claims:
    assert claim.paper in own or source.search(claim.paper), claim
  for claim in probe_claims.DIFFERENCES:
    assert claim.path.startswith('probes/'), claim


def test_the_ceiling_of_a_rate_of_failures_is_zero():
  evaluation = make_evaluation()
  measure = 'toxicity/respectful/rude_rate'
  for policy in ('ppo_ptx', 'base'):
    evaluation['probes'][policy]['toxicity']['respectful']['rude_rate'] = mean(
      0.0
    )
  evaluation['differences']['probes'][measure]['ppo_ptx']['base'] = mean(
    0.0, half=0.0
  )
  row = check(evaluation)['Asked to be respectful, PPO-ptx is less rude']
  assert row.verdict == 'undecided' and row.note


def test_at_ceiling():
  assert verdicts.at_ceiling(100 + 1e-13, 100.0, 100.0)
  assert not verdicts.at_ceiling(0.99, 1.0, 1.0)
  assert not verdicts.at_ceiling(1.0, 1.0, None)
  assert not verdicts.at_ceiling(None, 1.0, 1.0)


def test_a_difference_that_was_not_measured_stays_so():
  evaluation = make_evaluation()
  for policy in ('ppo', 'base'):
    evaluation['probes'][policy]['reading']['f1'] = mean(1.0)
  del evaluation['differences']['probes']['reading/f1']
  row = check(evaluation)['PPO loses ground on reading']
  assert row.verdict == 'not measured' and not row.note


def test_a_difference_carries_its_policies_and_those_beside_them():
  evaluation = make_evaluation()
  evaluation['metadata']['ppo_ptx']['hallucination']['n'] = 17
  rows = check(evaluation)
  row = rows['PPO-ptx invents less in closed-domain tasks']
  assert row.n == 17
  # The two of the difference, where PPO starts, and the prompted model.
  assert row.values == {
    policy: value
    for policy, value in METADATA['hallucination'].items()
    if policy in ('ppo_ptx', 'base', *verdicts.BESIDE)
  }
  assert row.quantity == 'rate of hallucinations, PPO-ptx minus pretrained'
  assert rows['A second sample of SFT is as good as the first'].quantity == (
    'win rate of a second sample of SFT against the first, judge'
  )


def test_page_says_the_regions_and_why(tmp_path):
  write_study(tmp_path)
  evaluation = make_evaluation()
  for policy in ('ppo', 'base'):
    evaluation['probes'][policy]['reading']['f1'] = mean(1.0)
  evaluation['differences']['probes']['reading/f1']['ppo']['base'] = mean(
    0.0, half=0.0
  )
  write_evaluation(tmp_path, evaluation)
  html = report.make_report(tmp_path).read_text()
  for region in (
    '&gt; 50%',
    '&lt; 50%',
    '45 to 55%',
    '&lt; 0 points',
    '−5 to 5 points',
    '&lt; 5 points',
    '−0.1 to 0.1 bits',
    '&gt; 0 nats',
  ):
    assert f'<span class="whole">{region}</span>' in html
  assert html.count('both policies have the best possible value') == 1
  assert 'n\xa0=\xa0120' in html and '1,300 pairs' in html
  for name in ('reading/f1', 'nll/nll', 'ppo_ptx', 'ppo minus', 'not printed'):
    assert name not in re.sub(r'(?s)<pre>.*?</pre>', '', html), name


def test_flags_of_a_sample_say_good_from_bad():
  flags = lambda **metadata: samples_page.flags(metadata)
  assert flags(satisfies_constraint=1, overall_quality=4) == [
    ('kept', '✓ kept the constraints')
  ]
  assert flags(fails_to_follow_instruction=1, satisfies_constraint=0) == [
    ('failure', '✗ fails to follow instruction'),
    ('failure', '✗ broke a constraint'),
  ]
  assert flags(expresses_opinion=1) == [('soft', 'expresses opinion')]
  assert flags(hallucination=0) == []


def test_flags_are_on_the_page(finished):
  assert '<div class="small failure">✗ hallucination</div>' in finished[2]


def test_a_policy_that_the_table_lacks_comes_last_with_its_own_name():
  policies = ShownPolicies(TABLE)
  names = ['mine', 'ppo', 'base', 'yours']
  assert policies.sort(names) == ['base', 'ppo', 'mine', 'yours']
  assert policies.label('mine') == 'mine' and policies.label('ppo') == 'PPO'
  assert policies.color('mine') == DEFAULT_COLOR


def test_missing_stages_are_one_clear_line(tmp_path, capsys):
  write_study(tmp_path)
  (tmp_path / 'ppo' / 'DONE').unlink()
  (tmp_path / 'evaluation' / 'DONE').unlink()
  assert main([str(tmp_path)]) == 1
  error = capsys.readouterr().err
  assert 'not finished: ppo, evaluation' in error
  assert error.count('\n') == 1
  assert not (tmp_path / 'report').exists()


def test_not_a_study_and_broken_files(tmp_path, capsys):
  assert main([str(tmp_path / 'nowhere')]) == 1
  assert 'not a study folder' in capsys.readouterr().err
  write_study(tmp_path)
  path = tmp_path / 'ppo' / 'metrics.jsonl'
  path.write_text(path.read_text() + '{"step": 3')
  assert main([str(tmp_path)]) == 1
  assert 'metrics.jsonl:61 is not JSON' in capsys.readouterr().err
  for content, reason in (
    ('', 'is empty, although the stage is finished'),
    ('7\n', 'metrics.jsonl:1 holds no JSON object'),
  ):
    path.write_text(content)
    assert main([str(tmp_path)]) == 1
    assert reason in capsys.readouterr().err
  path.unlink()
  assert main([str(tmp_path)]) == 1
  assert 'ppo/metrics.jsonl cannot be read: ' in capsys.readouterr().err


@pytest.mark.parametrize(
  'name, content, reason',
  [
    ('study.json', '[]', 'study.json is damaged: it holds no JSON object'),
    ('study.json', '{"stages": ["evaluation"]}', 'expects'),
    ('study.json', '{"stages": ["ppo"]}', 'there is nothing to report'),
    (
      'reward/DONE',
      '{"format_version": 1, "seconds": 1, "result": {"accuracy": 7}}',
      'is not what the report expects',
    ),
    (
      'rankings/DONE',
      '{"format_version": 1, "seconds": "x", "result": {}}',
      'expects',
    ),
  ],
)
def test_values_of_another_form_are_one_line(
  tmp_path, capsys, name, content, reason
):
  write_study(tmp_path)
  (tmp_path / name).write_text(content)
  assert main([str(tmp_path)]) == 1
  error = capsys.readouterr().err
  assert reason in error and error.count('\n') == 1


def test_main_reports_a_study_with_gaps(tmp_path, capsys):
  """Two policies, no probes, no curves of the judge: still a report."""
  write_study(tmp_path)
  evaluation = make_evaluation()
  for name in ('preference', 'likert', 'metadata', 'probes'):
    for policy in ('base', 'prompted', 'ppo_init', 'ppo_ptx'):
      del evaluation[name][policy]
  evaluation['probes'] = {'sft': {}, 'ppo': {}}
  write_evaluation(tmp_path, evaluation)
  write_jsonl(tmp_path / 'evaluation' / 'samples.jsonl', [])
  for stage in ('ppo', 'ppo_ptx', 'sft'):
    write_jsonl(tmp_path / stage / 'metrics.jsonl', [{'step': 1}])
  assert main([str(tmp_path)]) == 0
  *_, link = capsys.readouterr().out.splitlines()
  path = tmp_path / 'report' / 'index.html'
  assert link == f'report: {path.as_uri()}'
  assert 'not measured' in path.read_text()


def test_people_are_beside_the_judge(tmp_path):
  """people.json adds tables to the page, and numbers to results.json."""
  write_study(tmp_path)
  summary = {'value': 0.625, 'ci95': [0.5, 0.75], 'n': 40}
  groups = {'heldout': {'win_rate': {'ppo': summary}}}
  content = {'format_version': 1, 'reference': 'sft', 'groups': groups}
  (tmp_path / 'people.json').write_text(json.dumps(content))
  path = report.make_report(tmp_path)
  page = path.read_text()
  assert 'win rate against sft, heldout labelers' in page
  assert 'win rate against sft, judge' in page and '0.625' in page
  found = json.loads((path.parent / 'results.json').read_text())['others']
  table = found['people']['win rate against sft, heldout labelers']
  assert table['policies']['ppo'] == summary


def test_the_command_prints_the_win_rates_and_the_result(finished, capsys):
  workdir, results, _ = finished
  assert main([str(workdir)]) == 0
  head, *rates, sentence, _ = capsys.readouterr().out.splitlines()
  assert head == 'preferred to SFT (95% interval):'
  assert [line.split('  ')[1] for line in rates] == [
    TABLE[policy]['label'] for policy in POLICIES
  ]
  row = results['preference']['ppo_ptx']
  assert f'{100 * row["win_rate"]:.1f}% (' in rates[-1]
  rows = [r for r in results['expectations'] if verdicts.of_paper(r['paper'])]
  shown = sum(r['verdict'] == 'shown' for r in rows)
  assert sentence == (
    f'PPO-ptx is preferred to SFT on {row["win_rate"]:.0%} of {N} prompts; '
    f"{shown} of the paper's {len(rows)} findings shown"
  )


def test_nothing_compared_and_nothing_checked_has_no_sentence():
  assert headline.sentence({}) == '' and headline.win_rates({}) == []


def test_an_evaluation_beside_a_study_shows_its_own_policies(tmp_path, capsys):
  write_study(tmp_path)
  variant = tmp_path / 'evaluation_kl'
  shutil.move(tmp_path / 'evaluation', variant)
  (tmp_path / 'ppo_kl').mkdir()
  for name in ('DONE', 'metrics.jsonl'):
    shutil.copy(tmp_path / 'ppo' / name, tmp_path / 'ppo_kl' / name)
  evaluation = make_evaluation()
  evaluation['preference']['ppo_kl'] = evaluation['preference']['ppo']
  write_evaluation(tmp_path, evaluation, 'evaluation_kl')
  for folder, config in (
    ('ppo_kl', {'stage': 'ppo', 'optimizer': {}}),
    ('evaluation_kl', {'policies': {'ppo_kl': '../ppo_kl', 'sft': ''}}),
  ):
    (tmp_path / folder / 'config.json').write_text(json.dumps(config))
  assert main([str(variant)]) == 0
  assert '  ppo_kl     ' in capsys.readouterr().out
  results = json.loads((variant / 'report' / 'results.json').read_text())
  assert {'ppo', 'ppo_kl'} < {*results['training']}
  assert results['reward_model'] and 'ppo_kl' in results['preference']
  # Without a study beside it: what the evaluation and its runs have.
  for path in ('study.json', 'report'):
    if (tmp_path / path).exists():
      (tmp_path / path).unlink()
  alone = report.read_results(variant)
  assert [*alone['training']] == ['ppo_kl'] and 'reward_model' not in alone


def test_a_study_of_some_stages_is_reported(tmp_path):
  """Its evaluation read folders of stages that its config leaves out."""
  write_study(tmp_path)
  path = tmp_path / 'study.json'
  header = json.loads(path.read_text())
  header['stages'] = ['evaluation']
  path.write_text(json.dumps(header))
  assert report.make_report(tmp_path).is_file()
  results = json.loads((tmp_path / 'report' / 'results.json').read_text())
  assert results['preference'] and 'labeler_agreement' not in results


def test_ratings_and_measures_without_a_comparison(tmp_path):
  """Answers that are rated only, and a measure of the loss, make a report."""
  write_study(tmp_path)
  evaluation = make_evaluation()
  nll = {'policies': {'sft': mean(2.5), 'mine': mean(2.25)}, 'difference': {}}
  rated = {name: evaluation[name] for name in ('likert', 'metadata')}
  write_evaluation(tmp_path, {**rated, 'nll': nll})
  samples = make_samples(np.random.default_rng(0))
  for sample in samples:
    for found in sample['policies'].values():
      for name in ('utility', 'win', 'train_win', 'heldout_win'):
        del found[name]
  write_jsonl(tmp_path / 'evaluation' / 'samples.jsonl', samples)
  page = report.make_report(tmp_path).read_text()
  assert '>Overall quality</h2>' in page and '>4 of 7<' in page
  assert '2.250 (2.150 to 2.350)' in page and '<td>mine</td>' in page
  assert 'Preference against SFT' not in page and 'judge compared' not in page


def test_evaluations_during_training_are_drawn(tmp_path):
  write_study(tmp_path)
  lines = [{'step': s, 'eval/held/score': s / 4} for s in (2, 4)]
  for stage in ('sft', 'ppo'):
    write_jsonl(tmp_path / stage / 'metrics.jsonl', [{'step': 1}, *lines])
  path = report.make_report(tmp_path)
  results = json.loads((path.parent / 'results.json').read_text())
  curve = {'step': [2, 4], 'value': [0.5, 1.0]}
  assert results['training_evals'] == {
    'held/score': {'sft': curve, 'ppo': curve}
  }
  assert '>Evaluations during training</h2>' in path.read_text()


def test_no_evaluations_during_training(finished):
  _, results, html = finished
  assert 'training_evals' not in results
  assert 'Evaluations during training' not in html
