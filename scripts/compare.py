"""Prints the numbers of several studies side by side, as a Markdown table.

  python scripts/compare.py STUDY STUDY ... [--numbers 'preference.*.win_rate']

A STUDY is a folder with an evaluation: a study, a run of the stage
`evaluation`, or the page of a sweep of studies, whose numbers are pooled. They
can differ in seeds, settings and policies. A number is named by its path in
results.json; its 95% interval follows the number.
"""

import argparse
from collections.abc import Iterable, Mapping
import fnmatch
import os
import pathlib
import sys

from instructrl.reports import tables
from instructrl.runtime import files
from instructrl.runtime import manifest
from instructrl.runtime import typed

NUMBERS = (
  'preference.*.win_rate',
  'labeler_agreement.*',
  'reward_model.accuracy.*',
  'metadata.*.satisfies_constraint',
  'metadata.*.hallucination',
  'truthfulness.*.true_informative',
  'alignment_tax.*.*',
  'measures.*.policies.*.value',  # of real data
)


def table(studies: Mapping[str, Mapping], patterns: Iterable[str] = ()) -> str:
  """Returns a Markdown table with a row per number, in the patterns' order.

  Args:
    studies: name of the study -> its results.json.
    patterns: paths of numbers, with * for any name; by default those of
      `NUMBERS` that there are.

  Raises:
    ValueError: a pattern matches no number.
  """
  found = {
    name: {
      path: tables.cell(value, interval)
      for path, value, interval in tables.leaves(results)
    }
    for name, results in studies.items()
  }
  everywhere = dict.fromkeys(path for cells in found.values() for path in cells)
  rows = []
  for pattern in patterns or NUMBERS:
    named = [
      path
      for path in everywhere
      if path.count('.') == pattern.count('.')
      and fnmatch.fnmatchcase(path, pattern)
    ]
    if not named and patterns:
      raise ValueError(f'no number is named {pattern!r}')
    for path in named:
      rows.append((path, *(found[name].get(path, '') for name in found)))
  return tables.markdown(('number', *found), rows)


def read(folder: pathlib.Path) -> dict:
  """Returns the results of a folder: its report's, or made from its files.

  Raises:
    ValueError: the report is not what was written, or there is no evaluation.
  """
  path = folder / 'report' / 'results.json'
  if not path.exists():
    page = folder / 'results.json'
    if page.exists() and 'pooled' in (found := files.read_json(page)):
      return found['pooled']

    from instructrl.reports import report  # imports matplotlib

    return report.read_results(folder)
  if (path.parent / manifest.NAME).exists():
    fault = manifest.verify(path.parent)
    if fault:
      raise ValueError(f'{fault}; make the report again')
  else:
    files.warn_once(f'{path} has no digest: an older version wrote it')
  return files.read_json(path)


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n')[0],
    epilog=__doc__.split('\n', 2)[2],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('studies', nargs='+', metavar='STUDY')
  parser.add_argument(
    '--numbers', nargs='+', default=(), help='paths, with * for any name'
  )
  args = parser.parse_args(argv)
  studies = {}
  for folder in args.studies:
    try:
      studies[folder.rstrip('/')] = read(typed.path(folder))
    except (OSError, ValueError) as error:
      print(f'error: {folder} cannot be read: {error}', file=sys.stderr)
      return 1
  try:
    print(table(studies, args.numbers), flush=True)
  except BrokenPipeError:  # a reader such as `head` has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
