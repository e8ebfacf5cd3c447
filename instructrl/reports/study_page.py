"""Contents of a study's page: what `templates/study.html.j2` shows.

A part that the study lacks is None or empty, and the template leaves it out.
"""

from collections.abc import Mapping, Sequence
import json
import math
from typing import Any

from instructrl.evaluators import statistics
from instructrl.reports import formats
from instructrl.reports import study_figures
from instructrl.reports import verdicts
from instructrl.reports.pages import words
from instructrl.reports.policies import Policies
from instructrl.reports.study_files import Study
from instructrl.reports.verdicts import Row

SAMPLES_SHOWN = 8  # half of them wins, half losses, where the judge compared
CONSTRAINT = 'satisfies_constraint'  # the row that is a failure where it is 0
NEUTRAL = ('expresses_opinion', 'expresses_moral_judgment')  # not failures

SYMBOLS = {
  verdicts.SHOWN: '✓',
  verdicts.NOT_SHOWN: '✗',
  verdicts.UNDECIDED: '?',
  verdicts.NOT_MEASURED: '–',
}
# Name, path in results.json, number in the paper.
LABELS = (
  (
    'agreement, training labelers',
    ('labeler_agreement', 'train'),
    '72.6 ± 1.5%',
  ),
  (
    'agreement, held-out labelers',
    ('labeler_agreement', 'heldout'),
    '77.3 ± 1.3%',
  ),
  (
    'reward model, labelers it was trained on',
    ('reward_model', 'accuracy', 'in_group'),
    '72.4 ± 0.4%',
  ),
  (
    'reward model, held-out labelers',
    ('reward_model', 'accuracy', 'heldout'),
    '69.6 ± 0.9%',
  ),
)
# Measure on held-out data -> column of the table of policies, decimals.
LEVELS = {
  'nll': ('loss on held-out text, nats a token', 3),
  'score': ('reward-model score', 3),
  'kl': ('KL from SFT, nats', 2),
  'length': ('tokens of an answer', 1),
  'ended': ('answers that end', 2),
}


def contents(study: Study, results: Mapping, rows: Sequence[Row]) -> dict:
  """Returns the values of the template.

  Args:
    study: the files of the study.
    results: content of the report's results.json.
    rows: checked statements.
  """
  evaluation, policies = study.evaluation, Policies.of(study.evaluation)
  seconds = results['seconds']
  compared = evaluation.get('preference', {})
  metadata = study_figures.by_flag(evaluation.get('metadata', {}))
  topics: dict[str, list] = {}
  for row in rows:
    topics.setdefault(row.topic, []).append(_check(row, policies))
  return {
    'model': results.get('model'),
    'facts': _facts(results, compared),
    'compared': formats.count_items(compared),
    'summary': _summary(rows),
    'topics': topics,
    'figures': study_figures.draw(study, results, policies),
    'never': [
      words(flag)
      for flag, found in metadata.items()
      if not study_figures.seen(found)
    ],
    'labels': [] if study.real else _labels(results),
    'accuracy': _accuracy(evaluation.get('accuracy', {})),
    'levels': _levels(evaluation, policies, LEVELS),
    'others': {
      words(name): _levels(
        tree, policies, {measure: (words(measure), 3) for measure in tree}
      )
      for name, tree in study.others.items()
    },
    'judged': any(c['judge']['step'] for c in results['training'].values()),
    'recipes': _recipes(results['config'], policies),
    'samples': _samples(study.samples, results['seed'], policies),
    'answers': study.answers,
    'data': study.data_summary,
    'stages': [
      (study_figures.stage_title(s, policies), t) for s, t in seconds.items()
    ],
    'total': sum(seconds.values()),
    'details': {
      title: json.dumps(results[key], indent=1)
      for title, key in (
        ('config', 'config'),
        ('seeds', 'seed'),
        ('versions', 'versions'),
      )
    },
  }


def _facts(results, compared) -> list[str]:
  """Returns what the line below the page's title says."""
  if compared:
    facts = [', '.join(f'{words(k)} {v}' for k, v in results['seed'].items())]
    n = max(row['n'] for row in compared.values())
    facts.append(f'{n:,} prompts compared')
  else:
    sources = results.get('sources', {}).items()
    facts = [f'{words(k)}: {", ".join(specs)}' for k, specs in sources if specs]
  return [
    *facts,
    f'{formats.duration(sum(results["seconds"].values()))} in all',
  ]


def _summary(rows) -> str:
  def count(rows):
    counts = {v: sum(row.verdict == v for row in rows) for v in SYMBOLS}
    return ', '.join(f'{n} {verdict}' for verdict, n in counts.items() if n)

  paper = [row for row in rows if row.of_paper]
  own = [row for row in rows if not row.of_paper]
  if not (paper and own):
    return count(rows)
  return f'{count(paper)} (and {len(own)} further checks: {count(own)})'


def _check(row: Row, policies: Policies) -> dict:
  """Returns a checked statement as text."""
  n = f', n\xa0=\xa0{row.n:,}' if row.n else ''
  # The policies' own values, where `unit` is that of a difference.
  unit = '%' if row.unit == 'points' else row.unit
  return {
    'statement': row.statement,
    'paper': row.paper,
    'verdict': row.verdict,
    'symbol': SYMBOLS[row.verdict],
    'note': row.note,
    'quantity': row.quantity + n,
    'measured': formats.measured(
      {'value': row.value, 'ci95': row.ci95}, row.unit, signed=row.unit != '%'
    ),
    'region': _region(row),
    'by_policy': [
      f'{policies.label(policy)} {formats.measured({"value": x}, unit)}'
      for policy, x in row.values.items()
    ],
  }


def _region(row: Row) -> str:
  """Returns where the whole interval must be: '> 50%', '< 0 points'."""
  scale = formats.UNITS[row.unit][0]
  low, high = (f'{scale * x:g}'.replace('-', '−') for x in row.region)
  text = f'{low} to {high}'
  if math.isinf(row.region[0]):
    text = f'< {high}'
  elif math.isinf(row.region[1]):
    text = f'> {low}'
  return text + '%' if row.unit == '%' else f'{text} {row.unit}'.strip()


def _labels(results) -> list[tuple[str, str, str]]:
  rows = []
  for name, path, paper in LABELS:
    summary = {'value': verdicts.get(results, *path)}
    summary['ci95'] = verdicts.get(results['ci95'], *path)
    pairs = verdicts.get(results['n'], *path) or 0
    text = f'{formats.measured(summary, "%")}, {pairs:,} pairs'
    rows.append((name, text, paper))
  return rows


def _accuracy(accuracy: Mapping) -> dict | None:
  """Returns the table of the reward model and baselines, by data set."""
  judges = {
    judge: None for part in accuracy.values() for judge in part['judges']
  }
  return accuracy and {
    'head': ['Held-out data', 'Pairs', *judges],
    'rows': [
      [
        name,
        f'{part["pairs"]:,} of {part["prompts"]:,} prompts',
        *(formats.measured(part['judges'][judge], '%') for judge in judges),
      ]
      for name, part in accuracy.items()
    ],
  }


def _levels(held: Mapping, policies: Policies, shown: Mapping) -> dict | None:
  """Returns the table of policies and their measures; None without measures.

  Args:
    held: measure -> {'policies': policy -> summary}; other keys are ignored.
    policies: how to show them.
    shown: measure -> (title, decimals), in order.
  """
  measures = [m for m in shown if verdicts.get(held, m, 'policies')]
  if not measures:
    return None
  names = {
    policy: None for name in measures for policy in held[name]['policies']
  }

  def cell(policy, measure):
    found, digits = held[measure]['policies'].get(policy), shown[measure][1]
    if not found or found['value'] is None:
      return '–'
    text = formats.fixed(found['value'], digits)
    if found['ci95']:
      text += f' ({formats.interval(found["ci95"], digits)})'
    return text

  return {
    'head': ['Policy', *(shown[name][0] for name in measures)],
    'rows': [
      [policies.label(policy), *(cell(policy, name) for name in measures)]
      for policy in policies.sort(names)
    ],
  }


def _recipes(config, policies) -> list[str]:
  """Returns a sentence per PPO stage: its values of the paper's settings."""
  sentences = []
  for stage, c in config.items():
    p = c.get('ppo') if isinstance(c, Mapping) else None
    if isinstance(p, Mapping) and 'batch_size' in p and 'num_iterations' in p:
      sentences.append(
        f'{policies.label(stage)} here: {p["batch_size"]} responses an '
        f'iteration, {p["batch_size"] * p["num_iterations"]:,} in all, KL '
        f'coefficient {p["kl_coef"]:g}, pretraining coefficient '
        f'{p["ptx_coef"]:g}.'
      )
  return sentences


def _samples(samples, seeds, policies) -> dict | None:
  """Returns cards of prompts and responses, drawn by the evaluation seed.

  Where the judge compared responses, the last policy's wins and losses against
  SFT are two groups.
  """
  of_kind = lambda kind: [s for s in samples if s.get('kind') == kind]
  samples = of_kind('preference') or of_kind('answer')
  if not samples:
    return None
  rng = statistics.generator(seeds['eval_seed'], 'report samples')
  samples = [samples[i] for i in rng.permutation(len(samples))]
  groups = {'': samples}
  last = policies.sort(samples[0]['policies'])[-1]
  reference = study_figures.REFERENCE
  if last != reference and 'win' in samples[0]['policies'][last]:
    names = [policies.label(last), policies.label(reference)]
    groups = {}
    for win, (better, worse) in ((1.0, names), (0.0, names[::-1])):
      found = [s for s in samples if s['policies'][last]['win'] == win]
      count = f'{len(found):,} of {len(samples):,} prompts'
      groups[f'{better} preferred to {worse} by the judge ({count})'] = found
  shown = SAMPLES_SHOWN // len(groups)
  return {
    'total': f'{len(samples):,}',
    'shown': shown,
    'groups': {
      title: [_card(sample, policies) for sample in found[:shown]]
      for title, found in groups.items()
    },
  }


def _card(sample: Mapping[str, Any], policies: Policies) -> dict:
  answers = []
  for policy in policies.sort(sample['policies']):
    found = sample['policies'][policy]
    if 'utility' in found:
      about = f'utility {found["utility"]:.2f}, Likert {found["likert"]:.0f}'
    else:
      cut = '' if found['ended'] else ', cut'
      about = f'score {found["score"]:.2f}, {found["tokens"]} tokens{cut}'
    answers.append(
      {
        'name': policies.label(policy),
        'color': policies.color(policy),
        'about': about,
        'response': found['response'],
        'flags': flags(found.get('metadata', {})),
      }
    )
  return {
    'prompt': sample['prompt'],
    'kind': sample.get('use_case', ''),
    'answers': answers,
  }


def flags(metadata: Mapping[str, float]) -> list[tuple[str, str]]:
  """Returns (CSS class, text): failures first, then kept constraints."""
  failures, kept, neutral = [], [], []
  for row, flag in metadata.items():
    if row == CONSTRAINT:
      if flag:
        kept.append(('kept', '✓ kept the constraints'))
      else:
        failures.append(('failure', '✗ broke a constraint'))
    elif flag and row in NEUTRAL:
      neutral.append(('soft', words(row)))
    elif flag and row != study_figures.QUALITY:
      failures.append(('failure', f'✗ {words(row)}'))
  return failures + kept + neutral
