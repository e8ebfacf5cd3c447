"""The report of a study on real data, from the files in its folder.

It reads study.json, DONE and metrics.jsonl of the stages, what the stage
`heldout` wrote, the summary of the stage `data`, and, where the exported policy
was asked in another program, `export/answers.jsonl`.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from instructrl.reports import heldout_page
from instructrl.runtime import files
from instructrl.runtime import run_folder
from instructrl.runtime.metrics import read_metrics

FORMAT_VERSION = 1
TRAINED = ('sft', 'ppo_init', 'reward', 'ppo', 'ppo_ptx')
SOURCES = ('demonstrations', 'rankings', 'prompts', 'documents')
ANSWERS = pathlib.Path('export', 'answers.jsonl')
SUMMARY = pathlib.Path('data', 'summary.txt')


def make(workdir: pathlib.Path, header: Mapping[str, Any]) -> dict[str, str]:
  """File name -> content of the report.

  Args:
    workdir: of the study, whose stages are all finished.
    header: its study.json.

  Raises:
    ValueError: a file is not what the report expects; it is named.
  """
  stages = header['stages']
  metrics = {
    stage: read_metrics(workdir / stage) for stage in stages if stage in TRAINED
  }
  held = files.read_json(workdir / 'heldout' / 'results.json')
  config = header['config']
  try:
    results = {
      'format_version': FORMAT_VERSION,
      'model': _model(config['import']),
      'sources': {kind: config['data'][kind] for kind in SOURCES},
      'heldout': held,
      'statements': heldout_page.statements(held),
      'seconds': {
        stage: run_folder.read_done(workdir / stage)['seconds']
        for stage in stages
      },
      'config': config,
      'seed': header['seeds'],
      'versions': header['versions'],
    }
    page = heldout_page.render(
      results,
      metrics,
      _lines(workdir / 'heldout' / 'samples.jsonl'),
      _text(workdir / SUMMARY),
      _lines(workdir / ANSWERS),
    )
  except (AttributeError, IndexError, KeyError, TypeError) as error:
    raise ValueError(
      f'{workdir}: a file of the study is not what the report expects '
      f'({type(error).__name__}: {error}); was it written by another '
      'version?'
    ) from error
  return {
    'results.json': json.dumps(results, indent=1, allow_nan=False) + '\n',
    'index.html': page,
  }


def _model(config: Mapping[str, Any]) -> str:
  """What was imported, as a name for people."""
  model = config['model']
  return (
    f'{pathlib.PurePath(config["source"]).name} '
    f'({model["num_layers"]} layers of width {model["d_model"]:,})'
  )


def _text(path: pathlib.Path) -> str:
  return path.read_text('utf-8') if path.exists() else ''


def _lines(path: pathlib.Path) -> list[dict]:
  found = []
  # Not `splitlines`: an answer may hold other line ends, such as U+2028.
  for number, line in enumerate(_text(path).split('\n'), 1):
    try:
      if line.strip():
        found.append(json.loads(line))
    except json.JSONDecodeError as error:
      raise ValueError(f'{path}:{number} is not JSON: {error}') from error
  return found
