"""Labels as records for training and evaluation.

rankings.jsonl        a Ranking a line, with ties, ratings and flags
demonstrations.jsonl  a Demonstration a line
labels.jsonl          everything that was submitted: the order on the page, the
                      seconds, the version of the instructions, notes, marks

The first two are read by the source `jsonl` (`data.sources.own_files`). The
newest label of each labeler and prompt counts. Prompts of the screening set are
in labels.jsonl only.
"""

from collections.abc import Iterator
import pathlib
from typing import Any

from instructrl.data import records
from instructrl.data.records import Demonstration, Ranking
from instructrl.data.sources import own_files
from instructrl.feedback.desk import Desk
from instructrl.feedback.desk import Person
from instructrl.feedback.project import Task
from instructrl.lab.marking.judge import FLAGS
from instructrl.lab.marking.judge import QUALITY
from instructrl.runtime import files
from instructrl.runtime.errors import ConfigError

RANKINGS, DEMONSTRATIONS = 'rankings.jsonl', 'demonstrations.jsonl'
LABELS = 'labels.jsonl'


def submitted(desk: Desk) -> Iterator[tuple[Task, Person, dict[str, Any]]]:
  """Yields (item, labeler, newest label), in the order of the project."""
  for key, item in desk.items.items():
    for person in desk.people.values():
      work = person.items.get(key)
      if work is not None and work.label is not None:
        yield item, person, work.label


def rankings(desk: Desk) -> list[Ranking]:
  """Returns the rankings, without the outputs that a labeler did not include.

  A label has no ranking if less than two outputs are left, or all are empty.
  """
  found = []
  for item, person, label in submitted(desk):
    if 'ranks' not in label or item.reference is not None:
      continue
    rated = label.get('ratings')
    kept = [
      i
      for i in range(len(item.responses))
      if rated is None or rated[i]['include']
    ]
    texts = [item.responses[i].text for i in kept]
    if len(kept) < 2 or not any(text.strip() for text in texts):
      continue
    record = item.ranking(
      kept,
      [label['ranks'][i] for i in kept],
      labeler=person.name,
      group=person.group,
      metadata=[_table_3(rated[i]) for i in kept] if rated else (),
    )
    found.append(records.validate(record, source=RANKINGS, index=len(found)))
  return found


def _table_3(rating: dict[str, Any]) -> dict[str, int]:
  return {name: rating[name] for name in (QUALITY, *FLAGS)}


def demonstrations(desk: Desk) -> list[Demonstration]:
  return [
    Demonstration(item.prompt, label['text'].strip(), person.name)
    for item, person, label in submitted(desk)
    if 'text' in label and item.reference is None
  ]


def lines(desk: Desk) -> dict[str, list[dict[str, Any]]]:
  """Returns file name -> its lines."""
  everything = [
    own_files.prompt_fields(item.prompt)
    | {
      'responses': [vars(response) for response in item.responses],
      'labeler': person.name,
      'group': person.group,
      'screening': item.reference is not None,
      'label': label,
    }
    for item, person, label in submitted(desk)
  ]
  return {
    RANKINGS: [own_files.line_of(record) for record in rankings(desk)],
    DEMONSTRATIONS: [own_files.line_of(d) for d in demonstrations(desk)],
    LABELS: everything,
  }


def write(desk: Desk, out: pathlib.Path) -> dict[str, int]:
  """Writes the files that have lines. Returns file name -> number of lines.

  Raises:
    ConfigError: nobody has submitted a label.
  """
  made = {name: found for name, found in lines(desk).items() if found}
  if not made:
    raise ConfigError(f'{desk.project.folder}: nobody has submitted a label')
  out.mkdir(parents=True, exist_ok=True)
  for name, found in made.items():
    files.write_jsonl(out / name, found)
  return {name: len(found) for name, found in made.items()}
