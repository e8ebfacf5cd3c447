"""The figures of several studies side by side, as a markdown table.

  python scripts/compare.py STUDY STUDY ... [--figures 'preference.*.win_rate']

Reads STUDY/report/results.json of each: three seeds, or two settings. A figure
is named by its place there; its 95% interval follows it.
"""

import argparse
from collections.abc import Mapping
import fnmatch
import json
import pathlib
import sys

from instructrl.reports import tables

FIGURES = (
  'preference.*.win_rate',
  'labeler_agreement.*',
  'reward_model.accuracy.*',
  'metadata.*.satisfies_constraint',
  'metadata.*.hallucination',
  'truthfulness.*.true_informative',
  'alignment_tax.*.*',
)


def table(studies: Mapping[str, Mapping], patterns) -> str:
  """A row for each figure that a pattern names, in the patterns' order.

  Raises:
    ValueError: a pattern names none.
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
      raise ValueError(f'no figure is named {pattern!r}')
    for path in named:
      rows.append((path, *(found[name].get(path, '') for name in found)))
  return tables.markdown(('figure', *found), rows)


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n')[0],
    epilog=__doc__.split('\n', 2)[2],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('studies', nargs='+', metavar='STUDY')
  parser.add_argument(
    '--figures', nargs='+', default=FIGURES, help='patterns, with * for a name'
  )
  args = parser.parse_args(argv)
  studies = {}
  for folder in args.studies:
    path = pathlib.Path(folder) / 'report' / 'results.json'
    try:
      studies[folder.rstrip('/')] = json.loads(path.read_text('utf-8'))
      if not isinstance(studies[folder.rstrip('/')], dict):
        raise ValueError('it holds no object')
    except (OSError, ValueError) as error:
      print(f'error: {path} cannot be read: {error}', file=sys.stderr)
      return 1
  try:
    print(table(studies, args.figures))
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
