"""The figures of several studies side by side, as a markdown table.

  python scripts/compare.py STUDY STUDY ... [--figures 'preference.*.win_rate']

Reads STUDY/report/results.json of each: three seeds, or two settings. A figure
is named by its place there; its 95% interval follows it.
"""

import argparse
from collections.abc import Iterator, Mapping
import fnmatch
import json
import pathlib
import sys
from typing import Any

FIGURES = (
    'preference.*.win_rate', 'labeler_agreement.*', 'reward_model.accuracy.*',
    'metadata.*.satisfies_constraint', 'metadata.*.hallucination',
    'truthfulness.*.true_informative', 'alignment_tax.*.*')


def leaves(tree: Mapping[str, Any], prefix: str = ''
           ) -> Iterator[tuple[str, float, list[float] | None]]:
  """(path, value, interval or None) of every number of results.json."""
  intervals = tree.get('ci95') if not prefix else None
  for name, value in tree.items():
    path = f'{prefix}{name}'
    if isinstance(value, Mapping) and path not in ('ci95', 'n'):
      for inner, number, interval in leaves(value, f'{path}.'):
        yield inner, number, interval or _at(intervals, inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
      yield path, float(value), tree.get('ci95') if prefix else None


def _at(tree, path: str):
  """What stands at a dotted path; None where nothing does."""
  for name in path.split('.'):
    if not isinstance(tree, Mapping) or name not in tree:
      return None
    tree = tree[name]
  return tree if isinstance(tree, list) else None


def cell(value: float, interval) -> str:
  if not interval:
    return f'{value:.3g}'
  return f'{value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]'


def table(studies: Mapping[str, Mapping], patterns) -> str:
  """A row for each figure that a pattern names, in the patterns' order.

  Raises:
    ValueError: a pattern names none.
  """
  found = {name: {path: cell(value, interval)
                  for path, value, interval in leaves(results)}
           for name, results in studies.items()}
  everywhere = dict.fromkeys(path for cells in found.values() for path in cells)
  lines = [f'| figure | {" | ".join(found)} |', '|---' * (len(found) + 1) + '|']
  for pattern in patterns:
    named = [path for path in everywhere
             if path.count('.') == pattern.count('.')
             and fnmatch.fnmatchcase(path, pattern)]
    if not named:
      raise ValueError(f'no figure is named {pattern!r}')
    for path in named:
      cells = (found[name].get(path, '') for name in found)
      lines.append(f'| {path} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(
      description=__doc__.split('\n')[0], epilog=__doc__.split('\n', 2)[2],
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('studies', nargs='+', metavar='STUDY')
  parser.add_argument('--figures', nargs='+', default=FIGURES,
                      help='patterns, with * for a name')
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
