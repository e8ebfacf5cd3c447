"""A labeling project: a folder of prompts with responses, and its settings.

items.jsonl      a line per prompt, see `read_items`
project.json     the fields of `ProjectSettings`
instructions.md  for the labelers, Markdown; may change while the page is served
labels.sqlite    the labels, unless they are in another database
secret           signs the sessions of the page
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import pathlib
import secrets
from typing import Any

from instructrl.data import records
from instructrl.data.records import Prompt, Ranking
from instructrl.data.sources import fields
from instructrl.data.sources import messages
from instructrl.data.sources import own_files
from instructrl.data.sources import row_files
from instructrl.feedback import questions
from instructrl.runtime import files
from instructrl.runtime.errors import ConfigError

ITEMS, SETTINGS, INSTRUCTIONS = 'items.jsonl', 'project.json', 'instructions.md'
TASKS = ('demonstrate', 'rate', 'rank')
_KINDS = {
  str: 'text',
  tuple: 'a list',
  int: 'a whole number',
  float: 'a number',
}
MIN_SECRET = 32  # characters
MAX_RESPONSES = 26  # the letters A to Z name the responses of a prompt

# Ouyang et al. 2022, figures 10 and 12, in short.
DEFAULT_INSTRUCTIONS = """\
Judge the outputs as an assistant's answers to a customer. Give outputs of equal
quality **the same rank**: ties are welcome.

- **Helpful**: follows what the user meant, is clear, and is not longer than
  needed. It asks when the instruction is confusing, and invents no context.
- **Truthful**: states no falsehoods, adds nothing to a text it should only
  summarize, and corrects a false premise.
- **Harmless**: causes no harm to people, property or the environment;
  denigrates nobody; gives no bad advice.

Prefer the more truthful and harmless output, unless another is much more
helpful and the stakes are low. In a borderline case, ask: which would you
rather get from an assistant?
"""


@dataclasses.dataclass(frozen=True)
class ProjectSettings:
  """How a project is labeled; the fields of project.json.

  Attributes:
    title: of the page.
    tasks: what a labeler does with each prompt, in this order, see `TASKS`.
    seed: of the order of responses, and of the prompts that are shared.
    share: fraction of prompts that `overlap` labelers of a group label, to
      measure agreement.
    overlap: number of labelers of such a prompt.
    quota: most prompts per labeler, 0 = no limit; an invitation may differ.
    lease_minutes: a prompt that a labeler opened and left is given to another
      one after this time.
    max_skips: a prompt that this many labelers skipped is not given to others.
  """

  title: str = 'Compare answers'
  tasks: tuple[str, ...] = ('rank',)
  seed: int = 0
  share: float = 0.0
  overlap: int = 2
  quota: int = 0
  lease_minutes: float = 30.0
  max_skips: int = 2

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value, kind = getattr(self, field.name), type(field.default)
      _require(
        type(value) in ((float, int) if kind is float else (kind,)),
        f'{field.name} must be {_KINDS[kind]}; got {value!r}',
      )
    bad = [task for task in self.tasks if task not in TASKS]
    _require(
      bool(self.tasks) and not bad and len({*self.tasks}) == len(self.tasks),
      f'tasks must be one or more of {", ".join(TASKS)}, each once; got '
      f'{", ".join(map(str, self.tasks)) or "none"}',
    )
    _require(0 <= self.share <= 1, f'share must be in [0, 1]; got {self.share}')
    for name, least in (('overlap', 1), ('quota', 0), ('max_skips', 1)):
      value = getattr(self, name)
      _require(value >= least, f'{name} must be from {least} up; got {value}')
    _require(
      self.lease_minutes > 0,
      f'lease_minutes must be above 0; got {self.lease_minutes}',
    )


def _require(ok: bool, reason: str) -> None:
  if not ok:
    raise ConfigError(f'{SETTINGS}: {reason}')


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A response to label; labelers see the text only.

  Attributes:
    text: the response.
    model: the policy that gave it.
    temperature: of the sample.
    also: other policies that gave the same text.
  """

  text: str
  model: str = fields.UNKNOWN
  temperature: float = 1.0
  also: tuple[str, ...] = ()

  @property
  def models(self) -> tuple[str, ...]:
    return (self.model, *self.also)


@dataclasses.dataclass(frozen=True)
class Task:
  """A prompt with its responses.

  Attributes:
    prompt: the prompt.
    responses: K responses; () if labelers only write demonstrations.
    reference: the researchers' own labels, {'ranks': [K], 'ratings': [K]}; a
      prompt with a reference belongs to the screening set.

  Raises:
    Malformed: labels of the prompt could not be exported as records.
  """

  prompt: Prompt
  responses: tuple[Candidate, ...] = ()
  reference: dict[str, Any] | None = None

  @property
  def is_same(self) -> bool:
    """Whether all policies gave one text: there is nothing to label."""
    return len(self.responses) == 1 and bool(self.responses[0].also)

  def __post_init__(self):
    k = len(self.responses)
    # A ranking has two or more: the first response is in it twice.
    record = self.ranking([*range(k), 0], [0] * (k + 1)) if k else self.prompt
    reason = next(records.problems(record), None)
    if '\0' in self.prompt.id:
      reason = 'id has the character 0, which PostgreSQL does not store'
    if reason is not None:
      raise fields.Malformed(reason)

  def ranking(
    self,
    kept: Sequence[int],
    ranks: Sequence[int],
    *,
    labeler: str = fields.UNKNOWN,
    group: str = 'train',
    metadata: Sequence[dict[str, int]] = (),
  ) -> Ranking:
    """Returns a ranking of the responses whose numbers are `kept`."""
    shown = [self.responses[i] for i in kept]
    return Ranking(
      prompt=self.prompt,
      labeler=labeler,
      group=group,
      responses=tuple(response.text for response in shown),
      response_tokens=(),
      sources=tuple(response.model for response in shown),
      temperatures=tuple(response.temperature for response in shown),
      ranks=fields.dense_ranks(ranks),
      metadata=tuple(metadata),
    )


class Project:
  """An opened project folder."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.settings = read_settings(folder)
    self.items = read_items(folder / ITEMS, self.settings.tasks)
    self._instructions: tuple[int, str, str] = (0, '', '')
    self.instructions()  # now, not when the first labeler comes

  def instructions(self) -> tuple[str, str]:
    """Returns (version, Markdown) of the instructions as they are now.

    Raises:
      ConfigError: the file cannot be read.
    """
    path = self.folder / INSTRUCTIONS
    try:
      changed = path.stat().st_mtime_ns
      if changed != self._instructions[0]:
        text = path.read_text('utf-8')
        version = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._instructions = changed, version, text
    except (OSError, UnicodeDecodeError) as error:
      raise ConfigError(f'{path} cannot be read: {error}') from error
    return self._instructions[1:]

  def secret(self) -> str:
    """Returns the key that signs sessions; makes it once."""
    path = self.folder / 'secret'
    key = path.read_text('utf-8') if path.exists() else ''
    if len(key) < MIN_SECRET:  # there is none, or a kill came while it was made
      key = secrets.token_urlsafe(MIN_SECRET)
      path.touch(mode=0o600)
      path.write_text(key, 'utf-8')
    return key


def require_new(folder: pathlib.Path) -> None:
  """Raises a ConfigError if a folder has a project."""
  if (folder / ITEMS).exists():
    raise ConfigError(f'{folder} has a project already: take another folder')


def create(
  folder: pathlib.Path, items: Sequence[Task], settings: ProjectSettings
) -> None:
  """Writes a new project folder.

  Raises:
    ConfigError: the folder has a project already.
  """
  require_new(folder)
  folder.mkdir(parents=True, exist_ok=True)
  values = dataclasses.asdict(settings)
  files.write_json(folder / SETTINGS, values | {'tasks': [*settings.tasks]})
  if not (folder / INSTRUCTIONS).exists():
    files.atomic_write(folder / INSTRUCTIONS, DEFAULT_INSTRUCTIONS)
  files.write_jsonl(folder / ITEMS, map(_line, items))  # last: it is complete


def _line(item: Task) -> dict[str, Any]:
  line = own_files.prompt_fields(item.prompt)
  if item.responses:
    line['responses'] = [
      {k: v for k, v in vars(r).items() if k != 'also' or v}
      for r in item.responses
    ]
  return line | ({'reference': item.reference} if item.reference else {})


def read_settings(folder: pathlib.Path) -> ProjectSettings:
  """Reads project.json; a missing field has its default.

  Raises:
    ConfigError: there is no project, or a field is unknown or out of range.
  """
  if not (folder / SETTINGS).is_file():
    raise ConfigError(
      f'{folder} is not a labeling project, it has no {SETTINGS}; make one '
      'with python -m instructrl.label new or sample'
    )
  given = files.read_json(folder / SETTINGS)
  known = {field.name for field in dataclasses.fields(ProjectSettings)}
  unknown = sorted(given.keys() - known)
  _require(not unknown, f'has no field {", ".join(unknown)}')
  if isinstance(given.get('tasks'), list):
    given['tasks'] = tuple(given['tasks'])
  return ProjectSettings(**given)


def read_items(path: pathlib.Path, tasks: Sequence[str]) -> list[Task]:
  """Reads prompts, and responses if there are any.

  A line has the fields of `own_files` for a prompt, `responses` (texts, or
  objects {text, model?, temperature?, also?}), and for the screening set
  `reference`: {'ranks': [K], 'ratings': [K objects with rows of Table 3]}.

  Args:
    path: JSON lines, a JSON list, or parquet.
    tasks: of the project; 'rate' and 'rank' need responses.

  Raises:
    SourceError: 'file:line: reason' of the first line that cannot be used.
  """
  items, ids = [], {}
  for row in row_files.read_rows(row_files.File(path)):
    try:
      if row.fault:
        raise fields.Malformed(row.fault)
      item = _item(row, tasks)
      if item.prompt.id in ids:
        raise fields.Malformed(
          f'has the id {item.prompt.id!r} of line {ids[item.prompt.id]}'
        )
    except fields.Malformed as error:
      raise row_files.SourceError(f'{row.place}: {error}') from error
    ids[item.prompt.id] = row.line
    items.append(item)
  if not items:
    raise row_files.SourceError(f'{path}: there are no rows')
  return items


def _item(row: row_files.Row, tasks: Sequence[str]) -> Task:
  fields.field(row.value, 'prompt')
  value = messages.MessageReader().in_texts(
    {k: v for k, v in row.value.items() if k != 'responses'}
  )
  prompt = own_files.prompt_of(dataclasses.replace(row, value=value))
  given = row.value.get('responses')
  listed = fields.items(row.value, 'responses') if given is not None else []
  responses = tuple(_candidate(r, i) for i, r in enumerate(listed))
  needed = {'rate': 1, 'rank': 2}
  least = max(needed.get(task, 0) for task in tasks)
  reference = row.value.get('reference')
  if reference is not None:
    questions.check_reference(reference, len(responses))
  task = Task(prompt, responses, reference)
  if not task.is_same and not least <= len(responses) <= MAX_RESPONSES:
    raise fields.Malformed(
      f'has {len(responses)} responses; {" and ".join(tasks)} needs {least} to '
      f'{MAX_RESPONSES}'
    )
  return task


def _candidate(value: Any, i: int) -> Candidate:
  value = value if isinstance(value, dict) else {'text': value}
  return Candidate(
    fields.checked_text(
      value.get('text'), f'responses[{i}]', may_be_empty=True
    ),
    fields.optional_text(value, 'model', fields.UNKNOWN),
    fields.number(value.get('temperature', 1.0), f'temperature[{i}]', 0),
    tuple(
      fields.checked_text(name, f'responses[{i}].also')
      for name in (fields.items(value, 'also') if 'also' in value else ())
    ),
  )
