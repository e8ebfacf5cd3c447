"""People's opinions of the policies, in the report of a study.

`python -m instructrl.label results PROJECT --out STUDY/people.json` writes the
file that is read here; `feedback/measures.py` describes it.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

from instructrl.evaluators import results
from instructrl.runtime import files

NAME = 'people.json'


def read(
  workdir: pathlib.Path, evaluation: Mapping[str, Any]
) -> dict[str, dict]:
  """Returns tables of people's measures, beside the judge's.

  Args:
    workdir: the study; without the file there are no tables.
    evaluation: results of the evaluation, `results.merged`.

  Returns:
    Title -> measure -> {'policies': policy -> summary}.

  Raises:
    ValueError: the file is damaged or has another format version.
  """
  path = workdir / NAME
  if not path.exists():
    return {}
  found = files.read_json(path)
  if found.get('format_version') != results.PEOPLE_VERSION:
    raise ValueError(
      f'{path}: format_version {found.get("format_version")}, this program '
      f'reads {results.PEOPLE_VERSION}: write it again with python -m '
      'instructrl.label results'
    )
  groups, reference = found['groups'], found['reference']
  judged = {
    policy: {'value': row['win_rate'], 'ci95': row['ci95'], 'n': row['n']}
    for policy, row in evaluation.get('preference', {}).items()
    if reference == 'sft'  # the judge's reference
  }
  tables: dict[str, dict] = {'people': {}, 'people: flags': {}}
  for measure, title, judge in (
    ('win_rate', f'win rate against {reference}', judged),
    ('likert', 'Likert', evaluation.get('likert', {})),
  ):
    columns = {f'{title}, judge': judge} if judge else {}
    for group, measures in groups.items():
      columns[f'{title}, {group} labelers'] = measures.get(measure, {})
    if any(measure in measures for measures in groups.values()):
      tables['people'] |= columns
  readers = {
    f'{group} labelers': m.get('metadata') for group, m in groups.items()
  }
  if any(readers.values()):
    readers = {'judge': evaluation.get('metadata')} | readers
    tables['people: flags'] = _flags(readers)
  return {
    title: {name: {'policies': tree} for name, tree in table.items() if tree}
    for title, table in tables.items()
    if table
  }


def _flags(readers: Mapping[str, Mapping | None]) -> dict[str, dict]:
  """Returns 'flag, reader' -> policy -> summary, of flags that people saw."""
  seen = [
    flag
    for reader, tree in readers.items()
    if reader != 'judge'
    for rows in (tree or {}).values()
    for flag, summary in rows.items()
    if summary['value']
  ]
  return {
    f'{flag}, {reader}': {
      policy: rows[flag]
      for policy, rows in (tree or {}).items()
      if flag in rows
    }
    for flag in dict.fromkeys(seen)
    for reader, tree in readers.items()
  }
