"""The page of a study on real data: what was measured, and what that shows.

Nobody judged the answers, and the page says so. All text that comes from a
study is escaped.
"""

import html
from typing import Any, Mapping, Sequence

from instructrl.evaluators import statistics
from instructrl.reports import paper_checks
from instructrl.reports import parts
from instructrl.reports import plots

SAMPLES_SHOWN = 6
CURVES = (
  ('objective/scores', 'reward-model score'),
  ('objective/kl', 'KL to the reference, nats a response'),
  ('objective/entropy', 'entropy, nats a token'),
  ('policy/clip_frac', 'policy clip fraction'),
  ('response/length', 'response length, tokens'),
  ('pretrain/nll', 'loss on held-out text, nats a token'),
)
NAMES = {**plots.LABELS, 'base': 'imported'}
# Measure -> column of the table of policies, decimals.
MEASURES = {
  'nll': ('loss on held-out text, nats a token', 3),
  'score': ('reward-model score', 3),
  'kl': ('KL from SFT, nats', 2),
  'length': ('tokens of an answer', 1),
  'ended': ('answers that end', 2),
}


def render(
  results: Mapping[str, Any],
  metrics: Mapping[str, Sequence[dict]],
  samples: Sequence[Mapping],
  summary: str,
  answers: Sequence[Mapping],
) -> str:
  """The page.

  Args:
    results: the content of the report's results.json.
    metrics: stage -> lines of its metrics.jsonl.
    samples: lines of heldout/samples.jsonl.
    summary: of the data, as text.
    answers: what the exported policy said in another program, if it was asked.
  """
  held = results['heldout']
  return parts.document(
    'instructrl: report of a study on real data',
    [
      _header(results),
      _statements(results['statements']),
      _accuracy(held['accuracy']),
      _training(metrics),
      _policies(held),
      parts.losses(metrics),
      _samples(samples, results['seed']),
      _elsewhere(answers),
      _data(summary),
      parts.run(results),
    ],
  )


def statements(held: Mapping[str, Any]) -> list[dict]:
  """What a run should show, each with its difference and verdict.

  A statement is shown if the whole 95% interval lies on its side of 0, not
  shown if it lies on the other, and undecided if it holds 0.
  """
  found = []

  def add(statement, difference, sign, unit):
    if difference is None:
      return
    region = (0, float('inf')) if sign > 0 else (float('-inf'), 0)
    low, high = difference['ci95'] or (1, 1)
    found.append(
      {
        'statement': statement,
        'unit': unit,
        'value': difference['value'],
        'ci95': difference['ci95'],
        'n': difference['n'],
        'verdict': paper_checks.UNDECIDED
        if low <= 0 <= high
        else paper_checks.judge_interval(difference, region),
      }
    )

  for data_set, part in held['accuracy'].items():
    for other, difference in part['difference'].items():
      add(
        f'The reward model orders held-out responses ({data_set}) better '
        f'than “{other}”',
        difference,
        1,
        'points',
      )
  for policy in ('ppo', 'ppo_ptx'):
    name = NAMES[policy]
    add(
      f'{name} has a higher reward-model score than SFT on held-out prompts',
      _difference(held, 'score', policy, 'sft'),
      1,
      '',
    )
  add(
    'PPO has more loss on pretraining text than SFT',
    _difference(held, 'nll', 'ppo', 'sft'),
    1,
    'nats',
  )
  for other in ('ppo', 'sft'):
    add(
      f'PPO-ptx has less loss on pretraining text than {NAMES[other]}',
      _difference(held, 'nll', 'ppo_ptx', other),
      -1,
      'nats',
    )
  return found


def _difference(held, measure: str, left: str, right: str):
  """The summary of left - right, or None where it was not measured."""
  return held.get(measure, {}).get('difference', {}).get(left, {}).get(right)


def _header(results) -> str:
  seconds = sum(results['seconds'].values())
  sources = '; '.join(
    f'{parts.title(kind)}: {", ".join(specs)}'
    for kind, specs in results['sources'].items()
    if specs
  )
  return (
    '<h1>From imported weights to an aligned policy</h1>'
    f'<p>{parts.text(results["model"])} was fine-tuned on demonstrations, a '
    'reward model was trained on rankings, and PPO was run against it, with '
    'and without pretraining gradients.</p>'
    f'<p class="soft small">{parts.text(sources)} · '
    f'{parts.duration(seconds)} in all · '
    '<a href="results.json">results.json</a></p>'
    '<p><b>What this cannot show.</b> No person and no independent judge '
    'compared the answers. The score of an answer is that of the very reward '
    'model that PPO was trained against: it tells that PPO did what it was '
    'asked to, and not that the answers are better. Over-optimisation is '
    'seen by reading the samples, and by a judge of your own.</p>'
  )


def _fixed(value: float, digits: int, sign: str = '') -> str:
  """A number with so many decimals; 0 has no sign."""
  return f'{round(value, digits) + 0.0:{sign}.{digits}f}'.replace('-', '−')


def _signed(values: Sequence[float], unit: str) -> list[str]:
  """Numbers with their signs, and decimals that tell the first from 0."""
  scale, digits = (100, 1) if unit == 'points' else (1, 3)
  while values[0] and digits < 6 and not round(scale * values[0], digits):
    digits += 1
  return [_fixed(scale * value, digits, '+') for value in values]


def _statements(rows) -> str:
  body = ''
  for row in rows:
    css = row['verdict'].replace(' ', '-')
    value = '–'
    if row['value'] is not None:
      value, *interval = _signed(
        [row['value'], *(row['ci95'] or ())], row['unit']
      )
      value += f' ({" to ".join(interval)})' if interval else ''
      value = f'{value} {row["unit"]}'.strip()
    body += (
      f'<tr><td>{parts.text(row["statement"])}</td>'
      f'<td><span class="{css}">{parts.text(row["verdict"])}</span></td>'
      '<td class="number" data-label="Difference">'
      f'{parts.text(value)}, n&nbsp;=&nbsp;{row["n"]:,}</td></tr>'
    )
  return (
    '<h2>What this run shows</h2><p>A statement is shown if the whole 95% '
    'interval of the difference lies on its side of 0, not shown if it lies '
    'on the other, and undecided if it holds 0. Intervals are over prompts '
    '(or rows of text) and not over seeds: another seed of training may give '
    'another verdict.</p><table class="rows"><thead><tr><th>Statement</th>'
    f'<th>Verdict</th><th>Difference</th></tr></thead><tbody>{body}</tbody>'
    '</table>'
  )


def _percent(summary) -> str:
  if summary.get('value') is None:
    return '–'
  text = f'{100 * summary["value"]:.1f}%'
  if summary.get('ci95'):
    text += ' ({:.1f} to {:.1f})'.format(*(100 * x for x in summary['ci95']))
  return text


def _accuracy(accuracy) -> str:
  judges = list(
    dict.fromkeys(
      judge for part in accuracy.values() for judge in part['judges']
    )
  )
  head = ''.join(f'<th>{parts.text(judge)}</th>' for judge in judges)
  body = ''.join(
    f'<tr><td>{parts.text(name)}</td>'
    f'<td class="number" data-label="pairs">{part["pairs"]:,} of '
    f'{part["prompts"]:,} prompts</td>'
    + ''.join(
      f'<td class="number" data-label="{parts.text(judge)}">'
      f'{_percent(part["judges"][judge])}</td>'
      for judge in judges
    )
    + '</tr>'
    for name, part in accuracy.items()
  )
  return (
    '<h2>Reward model</h2><p>How often two responses to a held-out prompt '
    'are ordered as the labelers did (pairs with a strict preference, 95% '
    'intervals over prompts). The untrained head is the same model before '
    'its training. The paper’s reward model: 72.4 ± 0.4% on the labelers it '
    'was trained on.</p><table class="rows"><thead><tr><th>Held-out data'
    f'</th><th>Pairs</th>{head}</tr></thead><tbody>{body}</tbody></table>'
  )


def _training(metrics) -> str:
  panels = []
  for metric, title in CURVES:
    drawn = [
      plots.Curve(
        NAMES[stage],
        *zip(*points),
        plots.color(stage),
        dashed=stage == 'ppo_ptx',
      )
      for stage in ('ppo', 'ppo_ptx')
      if (points := parts.points(metrics.get(stage, ()), metric))
    ]
    if drawn:
      panels.append((title, drawn))
  if not panels:
    return ''
  return parts.section(
    'Training with PPO',
    'The score and the KL are means over the episodes '
    'of an iteration, on training prompts.',
    'Appendix C.4: 256k episodes; the reward rises, and without pretraining '
    'gradients the loss on pretraining text does as well.',
    plots.curves(panels),
  )


def _policies(held) -> str:
  measures = [name for name in MEASURES if name in held]
  names = list(
    dict.fromkeys(
      policy for name in measures for policy in held[name]['policies']
    )
  )
  head = ''.join(f'<th>{MEASURES[name][0]}</th>' for name in measures)
  body = ''
  for policy in names:
    cells = ''
    for name in measures:
      found = held[name]['policies'].get(policy)
      digits = MEASURES[name][1]
      text = '–'
      if found and found['value'] is not None:
        text = _fixed(found['value'], digits)
        if found['ci95']:
          text += ' ({} to {})'.format(
            *(_fixed(x, digits) for x in found['ci95'])
          )
      cells += (
        f'<td class="number" data-label="{MEASURES[name][0]}">'
        f'{parts.text(text)}</td>'
      )
    body += f'<tr><td>{parts.text(NAMES[policy])}</td>{cells}</tr>'
  return (
    '<h2>Policies on held-out prompts and text</h2><p>Each policy answers '
    'the same held-out prompts; its loss is that on held-out pretraining '
    'text, cut into rows as in training.</p><div class="wide">'
    f'<table><thead><tr><th>Policy</th>{head}</tr></thead>'
    f'<tbody>{body}</tbody></table></div>'
  )


def _samples(samples, seeds) -> str:
  if not samples:
    return ''
  rng = statistics.generator(seeds['eval_seed'], 'report samples')
  drawn = [samples[i] for i in rng.permutation(len(samples))[:SAMPLES_SHOWN]]
  cards = ''.join(
    parts.sample(
      sample['prompt'],
      [
        parts.answer(
          policy,
          NAMES[policy],
          found['response'],
          f'score {found["score"]:.2f}, {found["tokens"]} tokens'
          f'{"" if found["ended"] else ", cut"}',
        )
        for policy, found in sample['policies'].items()
      ],
    )
    for sample in drawn
  )
  return (
    '<h2>Samples</h2><p>Not picked by hand: the first '
    f'{len(drawn)} of {len(samples):,} held-out prompts, shuffled by the '
    f'evaluation seed.</p>{cards}'
  )


def _elsewhere(answers) -> str:
  if not answers:
    return ''
  cards = ''.join(
    f'<div class="sample"><div class="prompt">{parts.text(a["prompt"])}</div>'
    f'<div class="answer text">{parts.text(a["response"])}</div></div>'
    for a in answers
  )
  return (
    '<h2>The exported policy, elsewhere</h2><p>Greedy answers of the '
    f'exported folder in {html.escape(answers[0]["program"])}.</p>'
    f'{cards}'
  )


def _data(summary: str) -> str:
  return (
    '<h2>Data</h2><details><summary>what was read, what was left out and '
    f'why</summary><pre>{parts.text(summary)}</pre></details>'
    if summary
    else ''
  )
