"""The files of the evaluation stage: results.json and samples.jsonl.

results.json:
  {'format_version': 3,
   'policies': {policy: {'label', 'color', 'order'}},  # in the order of reports
   'evals': {NAME: {'type': the evaluator, 'results': its tree}}}

samples.jsonl has a JSON object per line: 'eval' is the NAME, 'kind' is
'preference', 'probe', 'generalization' or 'answer', or is absent.

The trees of results are described by the classes `Evaluator` of this package.
Leaves are summaries {'value', 'ci95': [low, high], 'n'}; 'value' and 'ci95' are
null if undefined. Only win rates are {'win_rate', 'ci95', 'n'}.
"""

from collections.abc import Mapping
import os
import pathlib
from typing import Any, TYPE_CHECKING

from instructrl.runtime import files
from instructrl.runtime import run_folder

if TYPE_CHECKING:  # imports JAX, which reports do not need
  from instructrl.evaluators import evaluator

FORMAT_VERSION = 3
PEOPLE_VERSION = 1  # of people.json, which `feedback.measures` writes
RESULTS, SAMPLES = 'results.json', 'samples.jsonl'
# The tasks of the alignment tax, and the measure of each (appendix D).
TAX_MEASURES = {
  'reading': 'f1',
  'arithmetic': 'f1',
  'completion': 'accuracy',
  'entailment': 'accuracy',
  'sentiment': 'accuracy',
  'translation': 'bleu',
  'summary': 'rouge_l',
  'facts': 'accuracy',
  'nll': 'nll',
}


def collect(
  policies: Mapping[str, Mapping[str, Any]],
  outcomes: 'Mapping[str, tuple[str, evaluator.Outcome]]',
) -> tuple[dict, list[dict]]:
  """Returns the content of results.json and the lines of samples.jsonl.

  Args:
    policies: policy -> how to show it.
    outcomes: NAME -> (type, outcome).
  """
  content = {
    'format_version': FORMAT_VERSION,
    'policies': dict(policies),
    'evals': {
      name: {'type': kind, 'results': outcome.results}
      for name, (kind, outcome) in outcomes.items()
    },
  }
  samples = [
    {'eval': name, **sample}
    for name, (_, outcome) in outcomes.items()
    for sample in outcome.samples
  ]
  return content, samples


def read(folder: str | os.PathLike) -> dict:
  """Reads results.json of an evaluation.

  Raises:
    ValueError: the file is missing, not what the evaluation wrote, or of
      another format version.
  """
  path = pathlib.Path(folder) / RESULTS
  run_folder.check_files(folder, [RESULTS])
  found = files.read_json(path)
  version = found.get('format_version')
  if version != FORMAT_VERSION:
    raise ValueError(
      f'{path}: format_version {version}, this program reads {FORMAT_VERSION}: '
      f'remove {folder} and run the evaluation again'
    )
  return found


def merged(content: Mapping[str, Any]) -> dict:
  """Returns one tree of all evaluations of the package's own types.

  Args:
    content: of results.json.

  Returns:
    'policies', and the keys of the results of all evaluations whose type is a
    module of this package: 'preference', 'head_to_head', 'likert', 'metadata',
    'probes', 'nll', 'score', 'accuracy', .... 'differences' is merged. Of
    several evaluations of one type the one with the type's name counts, or else
    the first one; the others are whole at 'named' -> NAME. See `others` for
    the rest.
  """
  tree = {'policies': content['policies'], 'differences': {}, 'named': {}}
  evals = {n: e for n, e in content['evals'].items() if ':' not in e['type']}
  main: dict[str, str] = {}
  for name, found in evals.items():
    kind = found['type']
    main[kind] = kind if kind in evals else main.get(kind, name)
  for name, found in evals.items():
    results = dict(found['results'])
    if main[found['type']] != name:
      tree['named'][name] = results
      continue
    tree['differences'].update(results.pop('differences', {}))
    tree.update(results)
  return tree


def others(content: Mapping[str, Any]) -> dict[str, dict]:
  """Returns NAME -> results of the evaluations by classes of the user's own."""
  return {
    name: found['results']
    for name, found in content['evals'].items()
    if ':' in found['type']
  }
