"""Makes the report of a study from the files in its folder."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import os
import pathlib

from instructrl.evaluators.results import TAX_MEASURES
from instructrl.reports import alarms
from instructrl.reports import cost
from instructrl.reports import pages
from instructrl.reports import paper_checks
from instructrl.reports import real_checks
from instructrl.reports import study_files
from instructrl.reports import study_page
from instructrl.reports import verdicts
from instructrl.reports.study_files import Study
from instructrl.reports.verdicts import Verdict
from instructrl.runtime import files
from instructrl.runtime import manifest

FORMAT_VERSION = 3

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
SOURCES = ('demonstrations', 'rankings', 'prompts', 'documents')


def make_report(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes report/results.json and report/index.html; returns the latter.

  Raises:
    ValueError: the study is not finished, or a file in it is malformed.
  """
  study = study_files.load(workdir)
  with _named(workdir):
    rows = check(study)
    results = build_results(study, rows)
    contents = study_page.contents(study, results, rows)
  page = pages.render('study', **contents)
  folder = pathlib.Path(workdir) / 'report'
  folder.mkdir(exist_ok=True)
  files.write_json(folder / 'results.json', results)
  files.atomic_write(folder / 'index.html', page)
  manifest.write(folder, ['results.json', 'index.html'])
  return folder / 'index.html'


def read_results(workdir: str | os.PathLike) -> dict:
  """Returns the content of results.json, made from the files of a folder.

  Raises:
    ValueError: see `make_report`.
  """
  study = study_files.load(workdir)
  with _named(workdir):
    return build_results(study, check(study))


@contextlib.contextmanager
def _named(workdir) -> Iterator[None]:
  """Names the folder in the error of a file of another form."""
  try:
    yield
  except (AttributeError, LookupError, TypeError, ValueError) as error:
    raise ValueError(
      f'{workdir}: a file of the study is not what the report expects '
      f'({type(error).__name__}: {error}); was it written by another version?'
    ) from error


def check(study: Study) -> list[Verdict]:
  """Checks the expected results against the study's."""
  evaluation, rows = study.evaluation, []
  checked = {'reward', 'select_sft'}
  if 'preference' in evaluation and checked <= {*study.done}:
    rows = paper_checks.check(
      study.result('reward')['accuracy'], study.result('select_sft'), evaluation
    )
  return rows + real_checks.check(evaluation, study.policies)


def build_results(study: Study, rows: list[Verdict]) -> dict:
  """Returns the content of results.json; what the study lacks has no key.

  Leaves are plain numbers, None where undefined. `ci95` and `n` are trees with
  the same paths: the intervals and numbers of items. In `measures`, `accuracy`,
  `judges` and `others` a leaf is {'value', 'ci95', 'n'} instead.
  """
  header, evaluation = study.header, study.evaluation
  summaries = _summaries(study)
  found = {
    **_beginning(header['config']),
    **{
      name: evaluation.get(name)
      for name in ('preference', 'head_to_head', 'accuracy', 'judges')
    },
    'measures': {
      name: measure
      for name, measure in evaluation.items()
      if name != 'policies' and 'policies' in measure
    },
    'others': study.others,
    **_part(summaries, 'value'),
    'ci95': _part(summaries, 'ci95'),
    'n': _part(summaries, 'n'),
    'training': _training(study),
    'training_evals': _training_evals(study),
    'sft_selection': study.result('select_sft'),
    'public_tasks': study.result('select_nlp'),
    'cost': {
      row.stage: {'flop': row.flop, 'share': row.share}
      for row in cost.costs(study)
    },
    'alarms': [dataclasses.asdict(alarm) for alarm in alarms.raised(study)],
    'expectations': [verdicts.to_json(row) for row in rows],
  }
  return {
    'format_version': FORMAT_VERSION,
    'policies': study.policies.table,
    **{name: part for name, part in found.items() if part},
    'seconds': {stage: done['seconds'] for stage, done in study.done.items()},
    'config': header['config'],
    'seed': header['seeds'],
    'versions': header['versions'],
  }


def _summaries(study: Study) -> dict:
  """Returns the tree whose leaves are {'value', 'ci95', 'n'}."""
  evaluation = study.evaluation
  agreement = study.result('rankings').get('labeler_agreement', {})
  accuracy = study.result('reward').get('accuracy', {})
  tree = {
    'labeler_agreement': {
      group: paper_checks.agreement_summary(found)
      for group, found in agreement.items()
    },
    'likert': evaluation.get('likert'),
    'metadata': evaluation.get('metadata'),
    'generalization': evaluation.get('generalization'),
    **_probes(evaluation.get('probes', {})),
    'as_user': _probes(evaluation.get('probes_as_user', {})),
    'zero_shot': _probes(evaluation.get('probes_zero_shot', {})),
  }
  if accuracy:
    tree['reward_model'] = {
      'accuracy': {
        group: paper_checks.accuracy_summary(found)
        for group, found in accuracy.items()
      }
    }
  return {name: found for name, found in tree.items() if found}


def _training(study: Study) -> dict:
  """Returns PPO stage -> name -> {'step': [...], 'value': [...]}."""
  training = {}
  for stage in study.metrics:
    curves = {name: study.series(stage, CURVES[name]) for name in CURVES}
    if curves['reward']['step']:
      training[stage] = curves
  return training


def _training_evals(study: Study) -> dict:
  """Returns 'NAME/measure' -> stage -> {'step': [...], 'value': [...]}."""
  found: dict[str, dict] = {}
  for stage, lines in study.metrics.items():
    for metric in dict.fromkeys(name for line in lines for name in line):
      prefix, _, name = metric.partition('/')
      if prefix == 'eval':
        found.setdefault(name, {})[stage] = study.series(stage, metric)
  return found


def _beginning(config: Mapping) -> dict:
  """Returns the weights and data that a study began with; {} in the lab."""
  found = {}
  if 'import' in config:
    source, model = config['import']['source'], config['import']['model']
    found['model'] = (
      f'{pathlib.PurePath(source).name} ({model["num_layers"]} layers '
      f'of width {model["d_model"]:,})'
    )
  if 'data' in config:
    found['sources'] = {kind: config['data'][kind] for kind in SOURCES}
  return found


def _probes(probes: Mapping[str, Mapping]) -> dict:
  """Rearranges policy -> task -> ... by what the numbers are about."""
  found: dict = {
    name: {} for name in ('truthfulness', 'toxicity', 'bias', 'alignment_tax')
  }
  for policy, tasks in probes.items():
    if 'truthfulness' in tasks:
      found['truthfulness'][policy] = tasks['truthfulness']
    for name in ('toxicity', 'bias'):
      for prompt_type, measures in tasks.get(name, {}).items():
        found[name].setdefault(prompt_type, {})[policy] = measures
    found['alignment_tax'][policy] = {
      task: tasks[task][measure]
      for task, measure in TAX_MEASURES.items()
      if task in tasks
    }
  return {name: part for name, part in found.items() if part}


def _part(tree: Mapping, key: str) -> dict:
  """Returns the tree with `key` of each summary in the summary's place."""
  return {
    name: found.get(key) if 'value' in found else _part(found, key)
    for name, found in tree.items()
  }
