"""The report of a study, made from the files in its folder and nothing else."""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any, Mapping

from instructrl.reports import heldout_report
from instructrl.reports import page
from instructrl.reports import paper_checks

FORMAT_VERSION = 1

# Name in results.json -> name in metrics.jsonl.
CURVES = {
  'reward': 'objective/scores',
  'judge': 'objective/judge',
  'kl': 'objective/kl',
  'entropy': 'objective/entropy',
  'clip_frac': 'policy/clip_frac',
  'pretrain_nll': 'pretrain/nll',
  'value_clip_frac': 'value/clip_frac',
  'approx_kl': 'policy/approx_kl',
  'response_length': 'response/length',
  'eos_frac': 'response/eos_frac',
}
PPO_STAGES = ('ppo', 'ppo_ptx')
# A study has a report if it has one of these stages.
REPORTED = frozenset(('evaluation', 'heldout'))
TRAINED = ('pretrain', 'sft', 'ppo_init', 'reward', *PPO_STAGES)
# The task's measure that stands for it in `alignment_tax`.
TAX_MEASURES = {
  'reading': 'f1',
  'completion': 'accuracy',
  'translation': 'bleu',
  'facts': 'accuracy',
  'nll': 'nll',
}


@dataclasses.dataclass(frozen=True)
class Study:
  """What a study folder holds.

  Attributes:
    workdir: the folder.
    header: study.json.
    done: stage -> its DONE file.
    metrics: stage -> lines of its metrics.jsonl, for those of `TRAINED`.
    evaluation: evaluation/results.json.
    samples: lines of evaluation/samples.jsonl.
  """

  workdir: pathlib.Path
  header: Mapping[str, Any]
  done: Mapping[str, Mapping]
  metrics: Mapping[str, list[dict]]
  evaluation: Mapping[str, Any]
  samples: list[dict]

  def result(self, stage: str) -> Mapping[str, Any]:
    return self.done[stage].get('result') or {}


def load_header(workdir: str | os.PathLike) -> dict:
  """study.json of a study that is finished.

  Raises:
    ValueError: naming what is missing or unreadable, and what to do.
  """
  workdir = pathlib.Path(workdir)
  if not (workdir / 'study.json').is_file():
    raise ValueError(
      f'{workdir} is not a study folder: it has no study.json; '
      'make one with python -m instructrl.study'
    )
  header = _read_json(workdir / 'study.json')
  stages = header.get('stages') or []
  if not REPORTED.intersection(stages):
    raise ValueError(
      f'{workdir}/study.json: its stages {stages} have no '
      'evaluation, so there is nothing to report'
    )
  missing = [s for s in stages if not (workdir / s / 'DONE').is_file()]
  if missing:
    raise ValueError(
      f'{workdir}: these stages are not finished: {", ".join(missing)}; '
      'start the study again, it goes on where it was'
    )
  return header


def load_study(workdir: str | os.PathLike) -> Study:
  """Reads the folder of a study of the lab.

  Raises:
    ValueError: naming what is missing or unreadable, and what to do.
  """
  workdir = pathlib.Path(workdir)
  header = load_header(workdir)
  stages = header['stages']
  metrics = {
    stage: _read_jsonl(workdir / stage / 'metrics.jsonl')
    for stage in stages
    if stage in TRAINED
  }
  for stage, lines in metrics.items():
    if not lines:
      raise ValueError(
        f'{workdir}/{stage}/metrics.jsonl is empty, though the '
        'stage is finished'
      )
  return Study(
    workdir,
    header,
    {stage: _read_json(workdir / stage / 'DONE') for stage in stages},
    metrics,
    _read_json(workdir / 'evaluation' / 'results.json'),
    _read_jsonl(workdir / 'evaluation' / 'samples.jsonl'),
  )


def _read_text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} cannot be read: {error}') from error


def _read_json(path: pathlib.Path) -> dict:
  try:
    found = json.loads(_read_text(path))
  except json.JSONDecodeError as error:
    raise ValueError(f'{path} is not JSON: {error}') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} holds no object')
  return found


def _read_jsonl(path: pathlib.Path) -> list[dict]:
  lines = []
  for number, line in enumerate(_read_text(path).split('\n'), 1):
    try:
      if line.strip():
        lines.append(json.loads(line))
    except json.JSONDecodeError as error:
      raise ValueError(f'{path}, line {number} is not JSON: {error}') from error
    if lines and not isinstance(lines[-1], dict):
      raise ValueError(f'{path}, line {number} holds no object')
  return lines


def build_results(study: Study) -> dict:
  """The content of results.json.

  Leaves are plain numbers (None where undefined); `ci95` and `n` are trees
  with the same paths that hold the intervals and the numbers of items.
  """
  evaluation = study.evaluation
  tree = {
    'labeler_agreement': {
      group: _agreement(found)
      for group, found in study.result('rankings')['labeler_agreement'].items()
    },
    'reward_model': {
      'accuracy': {
        group: {
          'value': found['accuracy'],
          'ci95': found.get('ci95'),
          'n': found.get('num_pairs'),
        }
        for group, found in study.result('reward')['accuracy'].items()
      }
    },
    'likert': evaluation['likert'],
    'metadata': evaluation['metadata'],
    **_probe_figures(evaluation['probes']),
  }
  return {
    'format_version': FORMAT_VERSION,
    'preference': evaluation['preference'],
    'head_to_head': evaluation.get('head_to_head', {}),
    **_part(tree, 'value'),
    'training': {
      stage: _curves(study.metrics[stage])
      for stage in PPO_STAGES
      if stage in study.metrics
    },
    'sft_selection': dict(study.result('select_sft')),
    'expectations': [
      {
        **dataclasses.asdict(row),
        'region': [x if math.isfinite(x) else None for x in row.region],
      }
      for row in check(study)
    ],
    'seconds': {stage: done['seconds'] for stage, done in study.done.items()},
    'config': study.header['config'],
    'seed': study.header['seeds'],
    'versions': study.header['versions'],
    'ci95': _part(tree, 'ci95'),
    'n': _part(tree, 'n'),
  }


def check(study: Study) -> list[paper_checks.Row]:
  """The paper's results, checked against the study's."""
  return paper_checks.check(
    study.result('rankings')['labeler_agreement'],
    study.result('reward')['accuracy'],
    study.result('select_sft'),
    study.evaluation,
  )


def _agreement(found: Mapping) -> dict:
  half = 1.96 * found['standard_error']
  return {
    'value': found['agreement'],
    'n': found.get('num_pairs'),
    'ci95': [found['agreement'] - half, found['agreement'] + half],
  }


def _probe_figures(probes: Mapping[str, Mapping]) -> dict:
  """policy -> task -> ... rearranged by what the figure is about."""
  figures_ = {
    'truthfulness': {},
    'toxicity': {},
    'bias': {},
    'alignment_tax': {},
  }
  for policy, tasks in probes.items():
    figures_['truthfulness'][policy] = tasks.get('truthfulness', {})
    for name in ('toxicity', 'bias'):
      for prompt_type, measures in tasks.get(name, {}).items():
        figures_[name].setdefault(prompt_type, {})[policy] = measures
    figures_['alignment_tax'][policy] = {
      task: tasks[task][measure]
      for task, measure in TAX_MEASURES.items()
      if task in tasks
    }
  return figures_


def _part(tree: Mapping, key: str) -> dict:
  """The same tree with `key` of each summary in the summary's place."""
  return {
    name: found.get(key) if 'value' in found else _part(found, key)
    for name, found in tree.items()
  }


def _curves(lines: list[dict]) -> dict:
  """name -> {'step': [...], 'value': [...]}, where the metric was written."""
  curves = {}
  for name, metric in CURVES.items():
    points = [
      (line['step'], line[metric])
      for line in lines
      if line.get(metric) is not None
    ]
    curves[name] = {
      'step': [step for step, _ in points],
      'value': [value for _, value in points],
    }
  return curves


def make_report(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes report/results.json and report/index.html; returns the latter.

  Raises:
    ValueError: if the study is not complete, or a file of it is malformed.
  """
  workdir = pathlib.Path(workdir)
  header = load_header(workdir)
  if 'heldout' in header['stages']:
    return _write_all(workdir, heldout_report.make(workdir, header))
  study = load_study(workdir)
  try:
    results = build_results(study)
    html = page.render(study, results, check(study))
  except KeyError as error:
    raise ValueError(
      f'{study.workdir}: the study has no {error} where the '
      'report expects it; was it written by another version?'
    ) from error
  except (AttributeError, IndexError, TypeError, ValueError) as error:
    raise ValueError(
      f'{study.workdir}: a value in DONE of a stage, in metrics.jsonl or in '
      f'evaluation/ is not what the report expects: {error}'
    ) from error
  return _write_all(
    workdir,
    {
      'results.json': json.dumps(results, indent=1, allow_nan=False) + '\n',
      'index.html': html,
    },
  )


def _write_all(workdir: pathlib.Path, files: Mapping[str, str]) -> pathlib.Path:
  """Writes the report's files; returns the page's path."""
  folder = workdir / 'report'
  folder.mkdir(exist_ok=True)
  for name, content in files.items():
    _write(folder / name, content)
  return folder / 'index.html'


def _write(path: pathlib.Path, text: str) -> None:
  """Replaces the file at once, so that nobody reads half of it."""
  part = path.with_name(path.name + '.part')
  part.write_text(text, encoding='utf-8')
  part.replace(path)
