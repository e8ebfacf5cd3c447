"""What the pages of reports are made of: HTML with nothing to load.

All text that comes from a run is escaped.
"""

import html
import json
from typing import Any, Sequence

from instructrl import page_style

STAGES = {'lab': 'world, documents and prompts',
          'import': 'imported weights', 'data': 'data sets',
          'pretrain': 'pretraining', 'sft': 'SFT',
          'ppo_init': 'where PPO starts', 'rankings': 'rankings',
          'reward': 'reward model',
          'select_sft': 'choice of the SFT checkpoint', 'ppo': 'PPO',
          'ppo_ptx': 'PPO-ptx', 'evaluation': 'evaluation',
          'heldout': 'held-out figures'}


def document(title: str, parts: Sequence[str]) -> str:
  """A whole page of parts that are HTML already."""
  return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
          '<meta name="viewport" content="width=device-width, '
          f'initial-scale=1"><title>{text(title)}</title>'
          f'<style>{page_style.STYLE}</style></head><body>\n' +
          '\n'.join(parts) + '\n</body></html>\n')


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
  return (f'<h2>{text(title)}</h2><p>{text(meaning)}</p>'
          f'<div class="figure"><div>{svg}</div>'
          f'<div class="paper"><b>In the paper.</b> {text(paper)}</div></div>')


def run(results) -> str:
  """How long the stages took, and what they ran with.

  Args:
    results: `seconds` by stage, `config`, `seed` and `versions`.
  """
  times = ''.join(f'<tr><td>{text(STAGES.get(stage, stage))}</td>'
                  f'<td class="number">'
                  f'{duration(seconds)}</td></tr>'
                  for stage, seconds in results['seconds'].items())
  total = duration(sum(results['seconds'].values()))
  details = ''.join(
      f'<details><summary>{name}</summary><pre>'
      f'{text(json.dumps(results[key], indent=1))}</pre></details>'
      for name, key in (('config', 'config'), ('seeds', 'seed'),
                        ('versions', 'versions')))
  return (f'<h2>The run</h2><table>{times}<tr><th>total</th>'
          f'<th class="number">{total}</th></tr></table>{details}')
