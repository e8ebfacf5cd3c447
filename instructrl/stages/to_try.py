"""Prompts that a reader can try on a policy, from its data folder."""

import pathlib

from instructrl.data import records
from instructrl.runtime import files
from instructrl.runtime import run_folder


def prompts(data: pathlib.Path) -> list[str]:
  """Returns the shortest test prompt of each use case, in the paper's order.

  Args:
    data: a data folder; the list is empty if it is gone or has no such prompts.

  Raises:
    ConfigError: another version of the program wrote the data.
  """
  from instructrl.data.folder import DataFolder  # slow to import

  folder = DataFolder(data)
  if not folder.has('prompts', 'test'):
    return []
  found = folder.records('prompts', 'test')
  shortest: dict[str, str] = {}
  for prompt in found:
    best = shortest.setdefault(prompt.use_case, prompt.text)
    shortest[prompt.use_case] = min(best, prompt.text, key=len)
  return [shortest[name] for name in records.USE_CASES if name in shortest]


def is_lab(data: pathlib.Path) -> bool:
  """Returns whether the stage `lab` made a data folder."""
  path = data / run_folder.CONFIG
  return path.is_file() and files.read_json(path).get('stage') == 'lab'
