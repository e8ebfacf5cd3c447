"""Reads the folder of a finished study, or of an evaluation.

study.json                 config, seeds, versions, stages
STAGE/DONE                 {'seconds': ..., 'result': {...}} of every stage
STAGE/metrics.jsonl        of the stages that train
evaluation/results.json    numbers, see `evaluators.results`
evaluation/samples.jsonl   the responses behind them
data/summary.txt           what the stage `data` read
export/answers.jsonl       answers of the exported policy in another program
people.json                people's opinions of the policies, see `people_files`
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

from instructrl.evaluators import results
from instructrl.reports import people_files
from instructrl.reports.policies import ShownPolicies
from instructrl.runtime import files
from instructrl.runtime import run_folder

FORMAT_VERSION = 2  # of study.json; version 1 has no digest
# Files of a stage that the report reads, if the stage writes them.
_READ = ('metrics.jsonl', results.RESULTS, results.SAMPLES, 'summary.txt')
EVALUATION = 'evaluation'  # a study with this stage has a report


@dataclasses.dataclass(frozen=True)
class Study:
  """Contents of a study folder.

  Attributes:
    header: study.json.
    done: stage -> its DONE file.
    metrics: stage -> lines of its metrics.jsonl, for stages that train.
    evaluation: results of the package's evaluators, `results.merged`.
    others: NAME -> results of other evaluators, and of people.
    policies: how to show the evaluated policies.
    samples: lines of the evaluation's samples.jsonl.
    data_summary: what the stage `data` read, or ''.
    answers: lines of export/answers.jsonl.
  """

  header: Mapping[str, Any]
  done: Mapping[str, Mapping]
  metrics: Mapping[str, list[dict]]
  evaluation: Mapping[str, Any]
  others: Mapping[str, Mapping]
  policies: ShownPolicies
  samples: list[dict]
  data_summary: str
  answers: list[dict]

  def result(self, stage: str) -> Mapping[str, Any]:
    """Returns the result of a stage; {} if the study lacks it."""
    return self.done.get(stage, {}).get('result') or {}

  def series(self, stage: str, metric: str) -> dict[str, list]:
    """Returns {'step': [...], 'value': [...]}, where a metric was logged."""
    lines = [x for x in self.metrics[stage] if x.get(metric) is not None]
    return {
      'step': [line['step'] for line in lines],
      'value': [line[metric] for line in lines],
    }


def load(workdir: str | os.PathLike) -> Study:
  """Reads a study folder, or a run of the stage `evaluation`.

  Raises:
    ValueError: a stage is not finished, or a file is missing or damaged; the
      message names it.
  """
  workdir = pathlib.Path(workdir)
  header, folders = _opened(workdir)
  missing = [s for s, f in folders.items() if not (f / 'DONE').is_file()]
  if missing:
    raise ValueError(
      f'{workdir}: these stages are not finished: {", ".join(missing)}; '
      'start the study again to continue it'
    )
  for folder in folders.values():
    run_folder.check_files(folder, _READ)
  config = header.get('config') or {}
  metrics = {
    stage: _read_lines(folder / 'metrics.jsonl')
    for stage, folder in folders.items()
    if 'optimizer' in config.get(stage, {})
  }
  for stage, lines in metrics.items():
    if not lines:
      raise ValueError(
        f'{folders[stage]}/metrics.jsonl is empty, although the stage is '
        'finished'
      )
  summary = folders.get('data', workdir / 'data') / 'summary.txt'
  answers = folders.get('export', workdir / 'export') / 'answers.jsonl'
  evaluation = folders[EVALUATION]
  found = results.read(evaluation)
  merged = results.merged(found)
  return Study(
    header,
    {stage: run_folder.read_done(f) for stage, f in folders.items()},
    metrics,
    merged,
    results.others(found) | people_files.read(workdir, merged),
    ShownPolicies(found['policies']),
    _read_lines(evaluation / results.SAMPLES),
    _read_text(summary) if summary.exists() else '',
    _read_lines(answers) if answers.exists() else [],
  )


def _opened(workdir: pathlib.Path) -> tuple[dict, dict[str, pathlib.Path]]:
  """Returns the content of study.json, and {stage: its folder}.

  An evaluation alone is the study beside it, with this evaluation in the place
  of the study's own, and with the runs of its other policies.
  """
  if (workdir / 'study.json').is_file():
    header = files.read_sealed(workdir / 'study.json', FORMAT_VERSION)
    stages = header.get('stages') or []
    if EVALUATION not in stages:
      raise ValueError(
        f'{workdir}/study.json: the stages {", ".join(stages)} include no '
        f'{EVALUATION}, so there is nothing to report'
      )
    return header, {stage: workdir / stage for stage in stages}
  if not (workdir / results.RESULTS).is_file():
    raise ValueError(
      f'{workdir} is not a study folder, nor a run of {EVALUATION}: it has no '
      f'study.json and no {results.RESULTS}; make one with python -m '
      'instructrl.study'
    )
  config = files.read_json(workdir / run_folder.CONFIG)
  header = {'seeds': {s: config[s] for s in config if s.endswith('_seed')}}
  header |= {'config': {}, 'versions': {}}
  folders: dict[str, pathlib.Path] = {}
  if (workdir.parent / 'study.json').is_file():
    header, folders = _opened(workdir.parent)
  for name, path in config['policies'].items():
    run = run_folder.find(pathlib.Path(os.path.abspath(workdir / path)))
    if path and run is not None and run not in map(_absolute, folders.values()):
      folders[name] = run
      header['config'][name] = files.read_json(run / run_folder.CONFIG)
  folders[EVALUATION] = workdir
  header['config'][EVALUATION] = config
  return header | {'stages': list(folders)}, folders


def _absolute(path: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(os.path.abspath(path))


def _read_text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} cannot be read: {error}') from error


def _read_lines(path: pathlib.Path) -> list[dict]:
  """Reads a .jsonl file whose writer has finished."""
  lines = []
  # Not `splitlines`: JSON strings may hold other line ends, such as U+2028.
  for number, line in enumerate(_read_text(path).split('\n'), 1):
    try:
      if line.strip():
        lines.append(json.loads(line))
    except json.JSONDecodeError as error:
      raise ValueError(f'{path}:{number} is not JSON: {error}') from error
    if lines and not isinstance(lines[-1], dict):
      raise ValueError(f'{path}:{number} holds no JSON object')
  return lines
