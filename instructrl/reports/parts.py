"""What the pages of reports are made of: HTML with nothing to load.

All text that comes from a run is escaped.
"""

import html
import json
from typing import Any, Mapping, Sequence

from instructrl.reports import plots
from instructrl.reports import style

STAGES = {
  'lab': 'world, documents and prompts',
  'import': 'imported weights',
  'data': 'data sets',
  'pretrain': 'pretraining',
  'sft': 'SFT',
  'ppo_init': 'where PPO starts',
  'rankings': 'rankings',
  'reward': 'reward model',
  'select_sft': 'choice of the SFT checkpoint',
  'ppo': 'PPO',
  'ppo_ptx': 'PPO-ptx',
  'evaluation': 'evaluation',
  'heldout': 'held-out figures',
  'export': 'exported weights',
}


def document(title: str, parts: Sequence[str]) -> str:
  """A whole page of parts that are HTML already."""
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, '
    f'initial-scale=1"><title>{text(title)}</title>'
    f'<style>{style.STYLE}</style></head><body>\n'
    + '\n'.join(parts)
    + '\n</body></html>\n'
  )


def text(value: Any) -> str:
  """A value as HTML."""
  return html.escape(str(value))


def title(name: str) -> str:
  """A name of the code as words."""
  return name.replace('_', ' ')


def duration(seconds: float) -> str:
  """Seconds as people say them."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'


def section(title: str, meaning: str, paper: str, svg: str) -> str:
  """A figure under its title, beside what the paper has."""
  svg = svg.replace('<svg', f'<svg role="img" aria-label="{text(title)}"', 1)
  return (
    f'<h2>{text(title)}</h2><p>{text(meaning)}</p>'
    f'<div class="figure"><div>{svg}</div>'
    f'<div class="paper"><b>In the paper.</b> {text(paper)}</div></div>'
  )


def points(lines: Sequence[Mapping], metric: str) -> list[tuple[int, float]]:
  """(step, value) of the lines of metrics.jsonl that have a metric."""
  return [
    (line['step'], line[metric])
    for line in lines
    if line.get(metric) is not None
  ]


def losses(metrics: Mapping[str, Sequence[Mapping]]) -> str:
  """Losses of the stages before PPO; '' if there are none.

  Args:
    metrics: stage -> lines of its metrics.jsonl.
  """
  panels = []
  for stage in ('pretrain', 'sft', 'ppo_init', 'reward'):
    # No policy's colour: here a line is a part of the data.
    drawn = [
      plots.Curve(name, *zip(*found), color, dashed=name == 'validation')
      for name, color in (('train', plots.OTHER), ('validation', plots.INK))
      if (found := points(metrics.get(stage, ()), f'loss/{name}'))
    ]
    if drawn:
      panels.append((f'{STAGES[stage]}, loss', drawn))
  if not panels:
    return ''
  return section(
    'Earlier stages',
    'Training and validation loss of the stages before PPO.',
    'Appendix C.1 and C.2: SFT and the reward model overfit within '
    'few epochs; the reward model is trained for one.',
    plots.curves(panels, xlabel='step'),
  )


def answer(
  policy: str, name: str, response: str, about: str, below: str = ''
) -> str:
  """What a policy answered.

  Args:
    policy: whose colour it has.
    name: of the policy, for people.
    response: what it said.
    about: figures of the response.
    below: more, as HTML.
  """
  said = text(response) or '<i class="soft">empty</i>'
  return (
    f'<div class="answer" style="border-color: {plots.color(policy)}">'
    f'<b>{text(name)}</b> <span class="soft small">{text(about)}</span>'
    f'<div class="text">{said}</div>{below}</div>'
  )


def sample(prompt: str, answers: Sequence[str], kind: str = '') -> str:
  """A prompt with its answers, which are HTML; `kind` stands above it."""
  above = f'<div class="soft small">{text(title(kind))}</div>' if kind else ''
  return (
    f'<div class="sample">{above}<div class="prompt">{text(prompt)}</div>'
    f'<div class="answers">{"".join(answers)}</div></div>'
  )


def run(results) -> str:
  """How long the stages took, and what they ran with.

  Args:
    results: `seconds` by stage, `config`, `seed` and `versions`.
  """
  times = ''.join(
    f'<tr><td>{text(STAGES.get(stage, stage))}</td>'
    f'<td class="number">'
    f'{duration(seconds)}</td></tr>'
    for stage, seconds in results['seconds'].items()
  )
  total = duration(sum(results['seconds'].values()))
  details = ''.join(
    f'<details><summary>{name}</summary><pre>'
    f'{text(json.dumps(results[key], indent=1))}</pre></details>'
    for name, key in (
      ('config', 'config'),
      ('seeds', 'seed'),
      ('versions', 'versions'),
    )
  )
  return (
    f'<h2>The run</h2><table>{times}<tr><th>total</th>'
    f'<th class="number">{total}</th></tr></table>{details}'
  )
