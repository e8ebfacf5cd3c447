"""The report's page: one HTML file with figures inline and nothing to load.

All text that comes from a study (prompts, responses, config) is escaped.
"""

import math
from typing import Any, Mapping, Sequence

from instructrl.evaluators import statistics
from instructrl.reports import paper_checks
from instructrl.reports import parts
from instructrl.reports import plots

SAMPLES_SHOWN = 4  # of each kind, good and bad
QUALITY = 'overall_quality'  # the row of Table 3 that is no rate
CONSTRAINT = 'satisfies_constraint'  # the row that is a failure where it is 0
# The rows that are no failure in themselves.
NEUTRAL = ('expresses_opinion', 'expresses_moral_judgment')

SYMBOLS = {
  paper_checks.SHOWN: '✓',
  paper_checks.NOT_SHOWN: '✗',
  paper_checks.UNDECIDED: '?',
  paper_checks.NOT_MEASURED: '–',
}


def render(
  study, results: Mapping[str, Any], rows: Sequence[paper_checks.Row]
) -> str:
  """The page.

  Args:
    study: a `report.Study`.
    results: the content of results.json.
    rows: the paper's results, checked.
  """
  sections = [
    _header(results),
    _preference(results),
    _expectations(rows),
    _metadata(study.evaluation),
    _likert(study.evaluation),
    _probes(study.evaluation['probes']),
    _labels(results),
    _selection(results),
    _training(results['training'], results['config']),
    parts.losses(study.metrics),
    _samples(study.samples, results['seed']),
    parts.run(results),
  ]
  return parts.document('instructrl: report of a study', sections)


def _header(results) -> str:
  seconds = sum(results['seconds'].values())
  seeds = ', '.join(f'{parts.title(k)} {v}' for k, v in results['seed'].items())
  n = max(row['n'] for row in results['preference'].values())
  return (
    '<h1>What this run shows of InstructGPT’s results</h1>'
    '<p>A language model was pretrained, fine-tuned on demonstrations, and '
    'trained with PPO against a reward model, in a simulated world in which '
    'every measurement has a known right answer. Each figure stands beside '
    'what Ouyang et al. 2022 (arXiv 2203.02155) report.</p>'
    f'<p class="soft small">{parts.text(seeds)} · {n:,} prompts compared · '
    f'{parts.duration(seconds)} in all · '
    '<a href="results.json">results.json</a></p>'
  )


def _number(value: float, unit: str) -> str:
  if unit in ('%', 'points'):
    sign = '+' if unit == 'points' else ''
    text = f'{100 * value:{sign}.1f}{"%" if unit == "%" else ""}'
    return text.replace('-', '−')
  digits = {'bits': 2, 'BLEU': 1, 'nats': 3, 'epochs': 0}.get(unit, 2)
  return f'{value:+.{digits}f}'.replace('-', '−')


def _measured(row: paper_checks.Row) -> str:
  if row.value is None:
    return '–'
  text = _number(row.value, row.unit)
  if row.ci95:
    text += ' (' + ' to '.join(_number(x, row.unit) for x in row.ci95) + ')'
  return text + (f' {row.unit}' if row.unit != '%' else '')


def _level(value: float, unit: str) -> str:
  """A policy's own value, where `unit` is that of differences."""
  return _number(value, '%' if unit == 'points' else unit).lstrip('+')


def _region(row: paper_checks.Row) -> str:
  """Where the whole interval must lie: '> 50%', '< 0 points'."""
  scale = 100 if row.unit in ('%', 'points') else 1
  low, high = (f'{scale * x:g}'.replace('-', '−') for x in row.region)
  text = (
    f'< {high}'
    if math.isinf(row.region[0])
    else f'> {low}'
    if math.isinf(row.region[1])
    else f'{low} to {high}'
  )
  return text + ('%' if row.unit == '%' else f' {row.unit}')


def _details(row: paper_checks.Row) -> str:
  """What was compared, in how many items, and each policy's own value."""
  n = f', n\xa0=\xa0{row.n:,}' if row.n else ''
  values = ', '.join(
    f'<span class="whole">{parts.text(plots.label(policy))} '
    f'{_level(value, row.unit)}</span>'
    for policy, value in row.values.items()
  )
  return parts.text(row.quantity + n) + (f'<br>{values}' if values else '')


def _verdict(row: paper_checks.Row) -> str:
  css = row.verdict.replace(' ', '-')
  note = f'<div class="note">{parts.text(row.note)}</div>' if row.note else ''
  return (
    f'<span class="{css}">{SYMBOLS[row.verdict]} {row.verdict}</span>{note}'
  )


def _expectations(rows) -> str:
  def told(rows):
    counts = {v: sum(row.verdict == v for row in rows) for v in SYMBOLS}
    return ', '.join(f'{count} {v}' for v, count in counts.items() if count)

  own = [row for row in rows if not row.of_paper]
  summary = f'{told([row for row in rows if row.of_paper])}' + (
    f' (and, of {len(own)} further checks, {told(own)})' if own else ''
  )
  body, topic = [], None
  for row in rows:
    if row.topic != topic:
      topic = row.topic
      body.append(f'<tr><th colspan="5">{parts.text(topic)}</th></tr>')
    body.append(
      f'<tr><td>{parts.text(row.statement)}</td>'
      f'<td>{_verdict(row)}</td>'
      f'<td data-label="This run"><span class="number">'
      f'{parts.text(_measured(row))}</span><br><span class="soft small">'
      f'{_details(row)}</span></td>'
      f'<td data-label="Shown if"><span class="whole">'
      f'{parts.text(_region(row))}</span></td>'
      f'<td data-label="Paper">{parts.text(row.paper)}</td></tr>'
    )
  return (
    '<h2>The paper’s results, checked</h2>'
    f'<p>{parts.text(summary)}. A result is shown if the whole 95% interval '
    'lies in the region under “shown if”, not shown if it lies outside, and '
    'undecided if it crosses the border. The region is the direction that '
    'the paper finds, or the surroundings of its figure; elsewhere the '
    'figures themselves may differ. Under a difference stand the values of '
    'all policies.</p>'
    '<table class="rows"><thead><tr><th>Statement</th><th>Verdict</th>'
    '<th>This run</th><th class="whole">Shown if</th><th>Paper</th></tr>'
    '</thead><tbody>' + ''.join(body) + '</tbody></table>'
  )


def _labels(results) -> str:
  rows = [
    (
      'agreement, training labelers',
      'labeler_agreement',
      'train',
      '72.6 ± 1.5%',
    ),
    (
      'agreement, held-out labelers',
      'labeler_agreement',
      'heldout',
      '77.3 ± 1.3%',
    ),
    (
      'reward model, labelers it was trained on',
      'reward_model',
      'in_group',
      '72.4 ± 0.4%',
    ),
    (
      'reward model, held-out labelers',
      'reward_model',
      'heldout',
      '69.6 ± 0.9%',
    ),
  ]
  body = ''
  for name, tree, group, paper in rows:
    value, ci95, n = (
      (part.get(tree) or {})
      if tree == 'labeler_agreement'
      else (part.get(tree) or {}).get('accuracy', {})
      for part in (results, results['ci95'], results['n'])
    )
    interval = ' to '.join(_number(x, '%') for x in ci95.get(group) or ())
    body += (
      f'<tr><td>{name}</td><td class="number" data-label="This run">'
      f'{_number(value[group], "%")}'
      f'{f" ({interval})" if interval else ""}, '
      f'{n.get(group) or 0:,} pairs</td>'
      f'<td data-label="Paper">{paper}</td></tr>'
    )
  return (
    '<h2>Labels and reward model</h2><p>How often two labelers, and the '
    'reward model and a labeler, order two responses alike; only pairs on '
    'which a strict preference is stated are counted.</p>'
    '<table class="rows"><thead><tr><th></th><th>This run</th>'
    f'<th>Paper</th></tr></thead><tbody>{body}</tbody></table>'
  )


def _selection(results) -> str:
  selection = results['sft_selection']
  if not selection.get('epochs'):
    return ''
  return parts.section(
    'Which SFT checkpoint',
    'The checkpoint of supervised fine-tuning is the one that the reward '
    'model scores highest (ring), whatever its validation loss; dots mark '
    'the best epoch by each measure.',
    'Appendix C.1: validation loss is best after 1 epoch, yet more epochs '
    'raise the reward-model score; the checkpoint is chosen by that score.',
    plots.selection(selection['epochs'], selection['selected_epoch']),
  )


def _preference(results) -> str:
  return parts.section(
    'Preference against SFT',
    'How often a policy’s response is preferred to one of SFT, a tie '
    'counting half, with 95% intervals over prompts; SFT’s own bar '
    'compares a second sample of it with the first '
    f'({plots.num_items(results["preference"])} prompts).',
    'Figures 1 and 3: GPT < GPT (prompted) < SFT < PPO ~ PPO-ptx at every '
    'size, and held-out labelers agree. 175B PPO-ptx is preferred to 175B '
    'GPT-3 in 85 ± 3% and to few-shot GPT-3 in 71 ± 4% of comparisons.',
    plots.preference(results['preference']),
  )


def _metadata(evaluation) -> str:
  by_row: dict[str, dict] = {}
  for policy, rows in evaluation['metadata'].items():
    for row, summary in rows.items():
      if row != QUALITY:
        by_row.setdefault(row, {})[policy] = summary
  seen = {
    row: summaries
    for row, summaries in by_row.items()
    if any(s['value'] for s in summaries.values())
  }
  never = [parts.title(row) for row in by_row if row not in seen]
  note = f' Never seen in any policy: {", ".join(never)}.' if never else ''
  if not seen:
    return f'<h2>Labeler metadata</h2><p>{parts.text(note)}</p>'
  return parts.section(
    'Labeler metadata',
    'The share of responses to which each flag of Table 3 applies, as the '
    'judge sees it; hallucination is counted in closed-domain tasks, '
    'constraints where the prompt states one.' + note,
    'Figure 4: PPO-ptx follows the instruction and explicit constraints '
    'more often, and hallucinates in 21% of closed-domain responses against '
    '41% for GPT-3.',
    plots.bar_panels(
      [
        plots.Panel(parts.title(row), summaries)
        for row, summaries in seen.items()
      ]
    ),
  )


def _likert(evaluation) -> str:
  return parts.section(
    'Overall quality',
    'Mean rating on the scale from 1 to 7.',
    'Figure 5: the order of the Likert scores is the order of the win rates.',
    plots.bar_panels(
      [
        plots.Panel(
          'Likert score, 1 to 7', evaluation['likert'], percent=False, digits=2
        )
      ],
      columns=1,
    ),
  )


def _probes(probes) -> str:
  sections = []

  def add(title, meaning, paper, entries):
    panels = plots.panels(probes, entries)
    if panels:
      sections.append(
        parts.section(title, meaning, paper, plots.bar_panels(panels))
      )

  add(
    'Truthfulness',
    'Questions about which the pretraining text states a misconception '
    'more often than the truth: how often the answer is true, and how often '
    'it is true and says something. A chat policy is asked as a user would '
    'ask, the pretrained model in a few-shot quiz. In the panels of the '
    'quiz every policy is given the same text to go on with.',
    'Figure 6 (TruthfulQA): PPO models answer truthfully and informatively '
    'about twice as often as GPT-3.',
    [
      ('true', 'truthfulness/true', True, 0),
      ('true and informative', 'truthfulness/true_informative', True, 0),
      ('quiz: true', 'truthfulness/quiz_true', True, 0),
      (
        'quiz: true and informative',
        'truthfulness/quiz_true_informative',
        True,
        0,
      ),
      ('multiple choice: true', 'truthfulness/choice_true', True, 0),
      ('misconception repeated', 'truthfulness/misconception', True, 0),
    ],
  )
  kinds = [
    ('no instruction', 'none'),
    ('asked to be respectful', 'respectful'),
    ('asked to be biased', 'biased'),
  ]
  add(
    'Toxicity',
    'How often the continuation of a more or less rude beginning is rude: '
    'asked for by a user (left; the pretrained one goes on with the text), '
    'and as plain text for all (right).',
    'Figure 7 (RealToxicityPrompts): asked to be respectful, PPO models '
    'give about 25% fewer toxic outputs than GPT-3; asked to be biased, '
    'more.',
    [
      entry
      for name, kind in kinds
      for entry in (
        (name, f'toxicity/{kind}/rude_rate', True, 0),
        (
          f'{name}, plain text',
          f'toxicity/{kind}/continued_rude_rate',
          True,
          0,
        ),
      )
    ],
  )
  add(
    'Bias',
    'Entropy over the choices that a stereotype distinguishes, in bits; '
    'higher is less biased, log2 of the number of choices is the most.',
    'Section 4.3 (Winogender, CrowS-Pairs): no gain; asked to be '
    'respectful, PPO models are more certain, hence of lower entropy.',
    [(name, f'bias/{kind}/entropy', False, 2) for name, kind in kinds],
  )
  add(
    'Alignment tax',
    'Few-shot tasks in the form the pretraining text shows them: what '
    'training from preferences costs, and what the pretraining mix gives '
    'back. The loss here is that of whole validation documents, each read '
    'alone from its beginning; the one of “Training with PPO” is that of '
    'packed rows.',
    'Figures 28 and 29: PPO regresses on SQuADv2, DROP, HellaSwag and '
    'Fr-En; PPO-ptx repairs most of it. 1.3B few-shot SQuADv2 F1: GPT 58.86, '
    'SFT 46.62, PPO 48.11, PPO-ptx 58.33.',
    [
      ('reading, F1', 'reading/f1', True, 0),
      ('sentence completion', 'completion/accuracy', True, 0),
      ('translation, BLEU', 'translation/bleu', False, 1),
      ('facts (no counterpart)', 'facts/accuracy', True, 0),
      (
        'loss on whole documents, nats a token (less is better)',
        'nll/nll',
        False,
        3,
      ),
    ],
  )
  return ''.join(sections)


def _training(training, config) -> str:
  """Curves; `config` is stage -> its config."""
  names = [
    ('reward', 'reward-model score'),
    ('judge', 'judge’s utility'),
    ('kl', 'KL to the reference, nats a response'),
    ('entropy', 'entropy, nats a token'),
    ('clip_frac', 'policy clip fraction'),
    ('pretrain_nll', 'loss on packed corpus, nats a token'),
  ]
  panels = []
  for name, title in names:
    drawn = [
      plots.Curve(
        plots.label(stage),
        curves[name]['step'],
        curves[name]['value'],
        plots.color(stage),
        dashed=stage == 'ppo_ptx',
      )
      for stage, curves in training.items()
      if curves[name]['step']
    ]
    if drawn:
      panels.append((title, drawn))
  if not panels:
    return ''
  return parts.section(
    'Training with PPO',
    'The judge is never trained against: where the reward-model score goes '
    'on rising and the judge’s utility falls, the reward model is being '
    'exploited. The loss on packed corpus is that of validation documents '
    'joined end to end and cut into rows, as in pretraining; it differs '
    'from the loss of “Alignment tax”, where every document is read alone '
    f'and whole. {_recipe(config)}',
    'Appendix C.4 and E: 256k episodes, KL coefficient 0.02, pretraining '
    'coefficient 27.8; without pretraining gradients the loss on pretraining '
    'text rises.',
    plots.curves(panels),
  )


def _recipe(config) -> str:
  """What this run has of what the paper prints."""
  told = []
  for stage, c in config.items():
    p = c.get('ppo') if isinstance(c, Mapping) else None
    if isinstance(p, Mapping) and 'batch_size' in p and 'num_iterations' in p:
      told.append(
        f'{plots.label(stage)} has {p["batch_size"]} responses a point, '
        f'{p["batch_size"] * p["num_iterations"]:,} in all, a KL coefficient '
        f'of {p["kl_coef"]:g} and a pretraining coefficient of '
        f'{p["ptx_coef"]:g}'
      )
  return f'Here {"; ".join(told)}.' if told else ''


def _samples(samples, seeds) -> str:
  """Cards of prompts with every policy's response, drawn by seed."""
  found = [s for s in samples if s.get('kind') == 'preference']
  rng = statistics.generator(seeds['eval_seed'], 'report samples')
  found = [found[i] for i in rng.permutation(len(found))]
  policy = next(
    (p for p in ('ppo_ptx', 'ppo') if found and p in found[0]['policies']), None
  )
  if policy is None:
    return ''
  name = plots.label(policy)
  text = (
    '<h2>Samples</h2><p>Not picked by hand: the evaluation prompts are '
    'shuffled by the evaluation seed, and the first '
    f'{SAMPLES_SHOWN} of each kind are shown.</p>'
  )
  for win, kind in (
    (1.0, f'{name} preferred to SFT by the judge'),
    (0.0, f'SFT preferred to {name} by the judge'),
  ):
    drawn = [s for s in found if s['policies'][policy]['win'] == win]
    text += f'<h3>{kind} ({len(drawn):,} of {len(found):,} prompts)</h3>'
    text += ''.join(_sample(s) for s in drawn[:SAMPLES_SHOWN])
  return text


def _flags(metadata: Mapping[str, float]) -> str:
  """Failures with a cross, constraints kept with a tick, as HTML."""
  failures, kept, neutral = [], [], []
  for row, flag in metadata.items():
    if row == CONSTRAINT:
      (kept if flag else failures).append(
        'kept the constraints' if flag else 'broke a constraint'
      )
    elif flag and row != QUALITY:
      (neutral if row in NEUTRAL else failures).append(parts.title(row))
  lines = [f'<span class="failure">✗ {parts.text(x)}</span>' for x in failures]
  lines += [f'<span class="kept">✓ {parts.text(x)}</span>' for x in kept]
  lines += [f'<span class="soft">{parts.text(x)}</span>' for x in neutral]
  return '<br>'.join(lines)


def _sample(sample) -> str:
  answers = [
    parts.answer(
      policy,
      plots.label(policy),
      found['response'],
      f'utility {found["utility"]:.2f}, Likert {found["likert"]:.0f}',
      f'<div class="small">{_flags(found["metadata"])}</div>',
    )
    for policy, found in sample['policies'].items()
  ]
  return parts.sample(sample['prompt'], answers, sample['use_case'])
