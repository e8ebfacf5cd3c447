"""Contents of a study's page: what `templates/study.html.j2` shows.

A part that the study lacks is None or empty, and the template leaves it out.
"""

from collections.abc import Mapping, Sequence
import json
import math

from instructrl.reports import cost
from instructrl.reports import first_screen
from instructrl.reports import formats
from instructrl.reports import samples_page
from instructrl.reports import study_figures
from instructrl.reports import verdicts
from instructrl.reports.pages import words
from instructrl.reports.policies import ShownPolicies
from instructrl.reports.study_files import Study
from instructrl.reports.verdicts import Verdict

# Unit of the measures of the alignment tax that are no fractions.
TAX_UNITS = {'bleu': 'BLEU', 'nll': 'nats'}
COMPARED = 'ppo_ptx'  # the policy that is compared head to head

SYMBOLS = {
  verdicts.SHOWN: '✓',
  verdicts.NOT_SHOWN: '✗',
  verdicts.UNDECIDED: '?',
  verdicts.NOT_MEASURED: '–',
}
# Row -> path in results.json, number in the paper. The lab sets how often its
# labelers agree.
LABELS = {
  'agreement, training labelers (an input)': (
    'labeler_agreement/train',
    '72.6 ± 1.5%',
  ),
  'agreement, held-out labelers (an input)': (
    'labeler_agreement/heldout',
    '77.3 ± 1.3%',
  ),
  'reward model, labelers it was trained on': (
    'reward_model/accuracy/in_group',
    '72.4 ± 0.4%',
  ),
  'reward model, held-out labelers': ('reward_model/accuracy/heldout', '–'),
}
# Measure on held-out data -> column of the table of policies, decimals.
LEVELS = {
  'nll': ('loss on held-out text, nats a token', 3),
  'score': ('reward-model score', 3),
  'kl': ('KL of an answer, nats', 2),
  'length': ('tokens of an answer', 1),
  'ended': ('answers that end', 2),
  'naive_bayes': ('positive answers, by naive Bayes', 2),
  'lexicon': ('positive answers, by a lexicon', 2),
}


def contents(study: Study, results: Mapping, rows: Sequence[Verdict]) -> dict:
  """Returns the values of the template.

  Args:
    study: the files of the study.
    results: content of the report's results.json.
    rows: checked statements.
  """
  evaluation, policies = study.evaluation, study.policies
  seconds = results['seconds']
  compared = evaluation.get('preference', {})
  topics: dict[str, list] = {}
  for i, row in enumerate(rows, 1):
    shown = shown_row(row, policies) | {'id': f'finding{i}'}
    topics.setdefault(row.topic, []).append(shown)
  return {
    'alarms': results.get('alarms', ()),
    'headline': first_screen.title(results),
    'key_figures': first_screen.key_figures(results),
    'strip': [
      row
      for found in topics.values()
      for row in found
      if row['of_paper'] or not compared
    ],
    'model': results.get('model'),
    'real': 'sources' in results,
    'judged': bool(compared),
    'scored': 'score' in evaluation,
    'facts': _facts(results, compared),
    'compared': formats.count_items(compared),
    'summary': summary(rows),
    'topics': topics,
    'figures': study_figures.draw(study, results),
    'head_to_head': head_to_head(evaluation.get('head_to_head', {}), policies),
    'use_cases': _use_cases(evaluation.get('likert', {}), policies),
    'tax': tax(evaluation, policies),
    'costs': cost_table(results.get('cost', {}), policies),
    'labels': _labels(results) if 'labeler_agreement' in results else None,
    'accuracy': _accuracy(evaluation.get('accuracy', {})),
    'outside': _accuracy(evaluation.get('judges', {})),
    'levels': _levels(results.get('measures', {}), policies),
    'differences': _levels(_from_sft(results.get('measures', {})), policies),
    'others': {
      name: table
      for name, tree in study.others.items()
      if (table := _levels(tree, policies))
    },
    'judged_in_training': any(
      curves['judge']['step'] for curves in results.get('training', {}).values()
    ),
    'recipes': _recipes(results['config'], policies),
    'samples': samples_page.contents(
      study.samples, results['seed']['eval_seed'], policies
    ),
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
    f'{formats.duration(sum(results["seconds"].values()))} of stages',
  ]


def summary(rows) -> str:
  def count(rows):
    counts = {v: sum(row.verdict == v for row in rows) for v in SYMBOLS}
    return ', '.join(f'{n} {verdict}' for verdict, n in counts.items() if n)

  paper = [row for row in rows if row.of_paper]
  own = [row for row in rows if not row.of_paper]
  if not (paper and own):
    return count(rows)
  checks = 'check' if len(own) == 1 else 'checks'
  return f'{count(paper)} (and {len(own)} {checks} of our own: {count(own)})'


def shown_row(row: Verdict, policies: ShownPolicies) -> dict:
  """Returns a checked statement as text."""
  # Pooled studies may have other numbers of items: their mean.
  n = f', n\xa0=\xa0{round(row.n):,}' if row.n else ''
  return {
    'statement': row.statement,
    'of_paper': row.of_paper,
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
      f'{policies.label(policy)} {formats.level(x, row.unit)}'
      for policy, x in row.values.items()
    ],
  }


def _region(row: Verdict) -> str:
  """Returns where the whole interval must be: '> 50%', '< 0 points'."""
  scale = formats.UNITS[row.unit][0]
  low, high = (f'{scale * x:g}'.replace('-', '−') for x in row.region)
  text = f'{low} to {high}'
  if math.isinf(row.region[0]):
    text = f'< {high}'
  elif math.isinf(row.region[1]):
    text = f'> {low}'
  return text + '%' if row.unit == '%' else f'{text} {row.unit}'.strip()


def head_to_head(found: Mapping, policies: ShownPolicies) -> dict | None:
  """Returns the table of PPO-ptx against every other policy."""
  rows = found.get(COMPARED, {})

  def cell(row, group):
    row = row.get(group) if group else row
    return formats.measured({**row, 'value': row['win_rate']}, '%')

  return rows and {
    'head': [f'{policies.label(COMPARED)} against', *study_figures.READERS],
    'rows': [
      [
        policies.label(other),
        *(cell(rows[other], group) for group in study_figures.READERS.values()),
      ]
      for other in policies.sort(rows)
    ],
  }


def _use_cases(likert: Mapping, policies: ShownPolicies) -> dict | None:
  """Returns the table of mean ratings, a row for each use case."""
  found = {p: likert[p].get('by_use_case', {}) for p in policies.sort(likert)}
  cases = next(iter(found.values()), {})
  by_size = sorted(cases, key=lambda case: -cases[case]['n'])
  return cases and {
    'head': ['Use case', 'Prompts', *map(policies.label, found)],
    'rows': [
      [
        words(case),
        f'{cases[case]["n"]:,}',
        *(formats.measured(ratings[case], '') for ratings in found.values()),
      ]
      for case in by_size
    ],
  }


def tax(evaluation: Mapping, policies: ShownPolicies) -> dict | None:
  """Returns the table of what is paid before RL and in RL, in differences."""
  start = 'ppo_init'
  steps = {
    f'before RL: {policies.label(start)} minus {policies.label("base")}': (
      start,
      'base',
    ),
    **{
      f'in RL: {policies.label(p)} minus {policies.label(start)}': (p, start)
      for p in ('ppo', 'ppo_ptx')
    },
  }
  rows = []
  for title, path, percent, _ in study_figures.PROBES['alignment_tax']:
    unit = 'points' if percent else TAX_UNITS[path.rpartition('/')[2]]
    found = [
      verdicts.get(evaluation, 'differences', 'probes', path, *pair)
      for pair in steps.values()
    ]
    if any(found):
      cells = (formats.measured(d or {}, unit, signed=True) for d in found)
      rows.append([title, *cells])
  return {'head': ['Task', *steps], 'rows': rows} if rows else None


def cost_table(found: Mapping, policies: ShownPolicies) -> dict | None:
  """Returns the table of the cost of stages beside pretraining."""
  whole = cost.PAPER[cost.PRETRAINING]
  return found and {
    'head': ['Stage', 'FLOP', 'of pretraining', 'in the paper (175B)'],
    'rows': [
      [
        study_figures.stage_title(stage, policies),
        f'{row["flop"]:.2e}',
        f'{row["share"]:.1%}',
        f'{cost.PAPER[stage]:g} PF-days, {cost.PAPER[stage] / whole:.2%}'
        if stage in cost.PAPER
        else '–',
      ]
      for stage, row in found.items()
    ],
  }


def _labels(results) -> list[tuple[str, str, str]]:
  rows = []
  for name, (path, paper) in LABELS.items():
    value, ci95, n = (
      verdicts.get(tree, *path.split('/'))
      for tree in (results, results['ci95'], results['n'])
    )
    text = formats.measured({'value': value, 'ci95': ci95}, '%')
    rows.append((name, f'{text}, {n or 0:,} pairs', paper))
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


def _levels(measures: Mapping, policies: ShownPolicies) -> dict | None:
  """Returns the table of policies and measures; None if there is no measure.

  Args:
    measures: measure -> {'policies': {policy: summary}, ...}; other trees have
      no column.
    policies: their order and labels.
  """
  measures = {
    name: found['policies']
    for name, found in measures.items()
    if isinstance(found, Mapping) and 'policies' in found
  }
  columns = {name: LEVELS.get(name, (words(name), 3)) for name in measures}
  names = {policy: None for found in measures.values() for policy in found}

  def cell(policy, measure):
    found, digits = measures[measure].get(policy), columns[measure][1]
    if not found or found['value'] is None:
      return '–'
    text = formats.fixed(found['value'], digits)
    if found['ci95']:
      text += f' ({formats.interval(found["ci95"], digits)})'
    return text

  return measures and {
    'head': ['Policy', *(title for title, _ in columns.values())],
    'rows': [
      [policies.label(policy), *(cell(policy, name) for name in measures)]
      for policy in policies.sort(names)
    ],
  }


def _from_sft(measures: Mapping) -> dict:
  """Returns the measures with differences to SFT in the place of levels."""
  found = {}
  for name, measure in measures.items():
    differences = {
      policy: others[study_figures.REFERENCE]
      for policy, others in measure['difference'].items()
      if study_figures.REFERENCE in others
    }
    if differences:
      found[name] = {'policies': differences}
  return found


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
