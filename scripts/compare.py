"""Prints the numbers of several studies side by side, as a Markdown table.

  python scripts/compare.py STUDY STUDY ... [--numbers 'preference.*.win_rate']

The studies can differ in their seeds or settings. A number is named by its path
in STUDY/report/results.json; its 95% interval follows the number.
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
)


def table(studies: Mapping[str, Mapping], patterns: Iterable[str]) -> str:
  """Returns a Markdown table with a row per number, in the patterns' order.

  Args:
    studies: name of the study -> its results.json.
    patterns: paths of numbers, with * for any name.

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
  for pattern in patterns:
    named = [
      path
      for path in everywhere
      if path.count('.') == pattern.count('.')
      and fnmatch.fnmatchcase(path, pattern)
    ]
    if not named:
      raise ValueError(f'no number is named {pattern!r}')
    for path in named:
      rows.append((path, *(found[name].get(path, '') for name in found)))
  return tables.markdown(('number', *found), rows)


def read(path: pathlib.Path) -> dict:
  """Returns the content of a report's results.json.

  Raises:
    ValueError: the report is not what was written.
  """
  if (path.parent / manifest.NAME).exists():
    fault = manifest.verify(path.parent)
    if fault:
      raise ValueError(f'{fault}; make the report again')
  elif path.exists():
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
    '--numbers', nargs='+', default=NUMBERS, help='paths, with * for any name'
  )
  args = parser.parse_args(argv)
  studies = {}
  for folder in args.studies:
    path = pathlib.Path(folder) / 'report' / 'results.json'
    try:
      path = typed.path(path)
      studies[folder.rstrip('/')] = read(path)
    except FileNotFoundError:
      print(
        f'error: {path} does not exist; the study makes the report at its end, '
        f'or make it with python -m instructrl.report {folder}',
        file=sys.stderr,
      )
      return 1
    except (OSError, ValueError) as error:
      print(f'error: {path} cannot be read: {error}', file=sys.stderr)
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
