"""The result of a study in a few lines, made from its results.json."""

from collections.abc import Iterable, Mapping
import pathlib

from instructrl.reports import formats
from instructrl.reports import verdicts
from instructrl.reports.policies import ShownPolicies
from instructrl.runtime import files

REFERENCE = 'sft'  # the policy that win rates are against
FIRST = ('ppo_ptx', 'ppo')  # the policy of the sentence, if there is one


def subject(names: Iterable[str], policies: ShownPolicies) -> str | None:
  """Returns the policy that the result is about; None if there is only SFT."""
  others = [name for name in policies.sort(names) if name != REFERENCE]
  last = others[-1] if others else None
  return next((name for name in FIRST if name in others), last)


def preferred(results: Mapping) -> str:
  """Returns how often the answers of a policy are preferred to SFT's, or ''."""
  policies = ShownPolicies(results.get('policies', {}))
  compared = results.get('preference', {})
  name = subject(compared, policies)
  if name is None:
    return ''
  row = compared[name]
  return (
    f'{policies.label(name)} is preferred to {policies.label(REFERENCE)} on '
    f'{row["win_rate"]:.0%} of {row["n"]:,} prompts'
  )


def sentence(results: Mapping) -> str:
  """Returns the result as a sentence; '' if nothing was compared or checked.

  Args:
    results: content of results.json.
  """
  parts = [preferred(results)]
  rows = [
    row['verdict']
    for row in results.get('expectations', ())
    if verdicts.of_paper(row['paper'])
  ]
  if rows:
    shown = rows.count(verdicts.SHOWN)
    parts.append(f"{shown} of the paper's {len(rows)} findings shown")
  return '; '.join(filter(None, parts))


def win_rates(results: Mapping) -> list[str]:
  """Returns a line for each policy: how often it is preferred to SFT."""
  policies = ShownPolicies(results.get('policies', {}))
  compared = results.get('preference', {})
  if not compared:
    return []
  width = max(len(policies.label(name)) for name in compared)
  head = f'preferred to {policies.label(REFERENCE)} (95% interval):'
  return [head] + [
    f'  {policies.label(name):{width}}  '
    f'{formats.measured({**row, "value": row["win_rate"]}, "%")}'
    for name in policies.sort(compared)
    for row in [compared[name]]
  ]


def ending(page: pathlib.Path) -> str:
  """Returns what a command prints about a report: alarms, result and link.

  Args:
    page: index.html of the report; results.json is beside it.
  """
  results = files.read_json(page.parent / 'results.json')
  alarms = [f'ALARM: {alarm["title"]}' for alarm in results.get('alarms', ())]
  lines = [*alarms, *win_rates(results), sentence(results)]
  lines.append(f'report: {page.absolute().as_uri()}')
  return '\n'.join(line for line in lines if line)
