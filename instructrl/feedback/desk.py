"""Who labels what: the state of a project, as a function of its actions.

The desk reads the actions of the database in order, and appends new ones. A
server that was killed has the same state after it starts again.

Assignment: a labeler does the screening set first, then the prompts in the
order of the project. A prompt that another labeler has open (a lease) is passed
over, unless it is shared to measure agreement. Training labelers label all
prompts; held-out labelers label the validation and test prompts again, so that
the groups can be compared (Ouyang et al. 2022, sections 3.4 and 4.1).
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
import random
import secrets
import time
from typing import Any

from instructrl.data.records import GROUPS
from instructrl.feedback import questions
from instructrl.feedback.events import Action
from instructrl.feedback.events import EventLog
from instructrl.feedback.project import Project
from instructrl.feedback.project import Task
from instructrl.runtime.errors import ConfigError

OWNER = 0  # the person of actions that the project's owner takes
IDLE_SECONDS = 120.0  # a longer pause between two actions counts as this much
MAX_NAME = 80


@dataclasses.dataclass
class Person:
  """A labeler; `id` is the id of the invitation."""

  id: int
  name: str
  group: str
  quota: int
  token: str  # SHA-256 of the invitation's token
  revoked: bool = False
  about: str = ''  # self-assessment: sensitive topics that they can spot (B.1)
  items: dict[str, 'Work'] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Work:
  """The work of one labeler on one prompt.

  Attributes:
    order: [K] response at each place of the page.
    drafts: page -> (draft, marks before it), oldest first.
    marks: of the prompt, `questions.MARKS`.
    seconds: time of work, without long pauses.
    last: time of the last action.
    label: what was submitted last, or None.
    skipped: reason, if the labeler skipped the prompt.
  """

  order: list[int]
  drafts: dict[str, list[tuple[dict, dict]]] = dataclasses.field(
    default_factory=dict
  )
  marks: dict[str, int] = dataclasses.field(default_factory=dict)
  seconds: float = 0.0
  last: float = 0.0
  label: dict[str, Any] | None = None
  skipped: str = ''

  def draft(self, step: str) -> dict | None:
    drafts = self.drafts.get(step)
    return drafts[-1][0] if drafts else None

  @property
  def finished(self) -> bool:
    return self.label is not None or bool(self.skipped)


class Desk:
  """The state of a project, and what people may do with it."""

  def __init__(
    self,
    project: Project,
    log: EventLog,
    clock: Callable[[], float] = time.time,
  ):
    self.project, self._log, self._clock = project, log, clock
    self.settings = project.settings
    self.items = {item.prompt.id: item for item in project.items}
    self.keys = list(self.items)
    self.places = {key: i for i, key in enumerate(self.keys)}
    self.screening = [k for k, i in self.items.items() if i.reference]
    self.people: dict[int, Person] = {}
    self.paused = False
    self.versions: dict[str, str] = {}  # of the instructions
    self.scores: dict[tuple[int, str], int] = {}  # of demonstrations, 1 to 7
    self._last = 0
    self._leases: dict[str, set[int]] = {key: set() for key in self.items}
    # Group -> the prompts that still need a label of it, in order.
    self._open = {
      group: {
        key: self._wanted(item, group) for key, item in self.items.items()
      }
      for group in GROUPS
    }
    for wanted in self._open.values():
      for key in [key for key, count in wanted.items() if not count]:
        del wanted[key]
    self.refresh()

  # Actions of people. Each method appends one action and applies it.

  def invite(self, name: str, group: str = 'train', quota: int = -1) -> str:
    """Adds a labeler. Returns the token of the personal link, once."""
    name = ' '.join(name.split())
    if not 0 < len(name) <= MAX_NAME:
      raise ConfigError(f'a name must have 1 to {MAX_NAME} characters')
    if any(person.name == name for person in self.people.values()):
      raise ConfigError(f'there is a labeler {name!r} already')
    if group not in GROUPS:
      raise ConfigError(
        f'group must be one of {", ".join(GROUPS)}; got {group!r}'
      )
    token = secrets.token_urlsafe(24)
    quota = self.settings.quota if quota < 0 else quota
    body = dict(name=name, group=group, quota=quota, token=_hashed(token))
    self._do(OWNER, 'invite', body=body)
    return token

  def person_of(self, token: str) -> Person | None:
    """Returns the labeler whose link has this token, unless revoked."""
    wanted = _hashed(token)
    for person in self.people.values():
      if secrets.compare_digest(person.token, wanted) and not person.revoked:
        return person
    return None

  def set_revoked(self, person: int, revoked: bool) -> None:
    """Ends (or restores) the access of a labeler, and frees their prompts."""
    self._do(OWNER, 'revoke' if revoked else 'restore', body={'of': person})

  def set_paused(self, paused: bool) -> None:
    self._do(OWNER, 'pause' if paused else 'resume')

  def score(self, person: int, item: str, value: int) -> None:
    """Rates a demonstration of the screening set, from 1 to 7."""
    self._do(OWNER, 'score', item, {'of': person, 'value': value})

  def describe(self, person: Person, about: str) -> None:
    self._do(person.id, 'about', body={'about': about})

  def next_item(self, person: Person) -> str | None:
    """Returns the prompt to work on; opens one if the labeler has none."""
    for key, work in person.items.items():
      if not work.finished and person.id in self._leases[key]:
        if self._is_held(key, person.id):
          return key
    if self.paused or self.left(person) == 0:
      return None
    for key in self._candidates(person):
      if key in person.items and person.items[key].finished:
        continue
      body = {'order': self._order(person, key), 'answers': self._answers(key)}
      self._do(person.id, 'open', key, body)
      return key
    return None

  def left(self, person: Person) -> int | None:
    """Returns how many prompts the quota leaves; None without a quota."""
    return max(0, person.quota - self.done(person)) if person.quota else None

  def done(self, person: Person) -> int:
    """Returns the number of prompts that a labeler submitted."""
    return sum(work.label is not None for work in person.items.values())

  def save(self, person: Person, key: str, step: str, values, marks) -> None:
    """Keeps a draft of one page; a draft without a change is not kept."""
    work = person.items[key]
    if values != work.draft(step) or marks != work.marks:
      body = {'step': step, 'values': values, 'marks': marks}
      self._do(person.id, 'draft', key, body)

  def undo(self, person: Person, key: str, step: str) -> None:
    """Goes back to the draft before the last one of a page."""
    if person.items[key].drafts.get(step):
      self._do(person.id, 'undo', key, {'step': step})

  def skip(self, person: Person, key: str, reason: str, note: str) -> None:
    if reason not in questions.SKIP_REASONS:
      raise questions.Refused('Choose a reason to skip this prompt.')
    self._do(person.id, 'skip', key, {'reason': reason, 'note': note})

  def submit(self, person: Person, key: str, version: str) -> None:
    """Appends the label of a prompt from its drafts.

    Args:
      person: the labeler.
      key: id of the prompt.
      version: of the instructions that the page showed.

    Raises:
      questions.Refused: a page is not complete; names what is missing.
    """
    work, item = person.items[key], self.items[key]
    if version not in self.versions:
      raise questions.Refused('Load the page again, then submit.')
    label: dict[str, Any] = {'order': work.order, 'instructions': version}
    ratings = []
    for step in self.steps(item):
      values = work.draft(step)
      reason = questions.missing(step, values)
      if reason:
        raise questions.Refused(reason)
      task, _, place = step.partition('/')
      if task == 'rate':
        ratings.append((work.order[int(place)], values))
      elif task == 'rank':
        label['ranks'] = values['ranks']
      else:
        label['text'] = values['text']
    if ratings:
      label['ratings'] = [values for _, values in sorted(ratings, key=_first)]
    spent = work.seconds + self._pause(work, self._clock())
    label |= {'marks': work.marks, 'seconds': round(spent, 1)}
    self._do(person.id, 'submit', key, label)

  def show_instructions(self) -> tuple[str, str]:
    """Returns (version, Markdown); keeps the text of each version."""
    version, text = self.project.instructions()
    if version not in self.versions:
      body = {'version': version, 'text': text}
      self._do(OWNER, 'instructions', body=body)
    return version, text

  def steps(self, item: Task) -> list[str]:
    return questions.steps_of(self.settings.tasks, len(item.responses))

  def is_shared(self, key: str) -> bool:
    """Whether `overlap` labelers of a group label a prompt."""
    draw = random.Random(f'{self.settings.seed}/share/{key}').random()
    return draw < self.settings.share

  def needed(self) -> dict[str, int]:
    """Returns group -> the number of prompts that still need a label."""
    return {group: len(found) for group, found in self._open.items()}

  def refresh(self) -> None:
    """Applies the actions that another process appended."""
    for action in self._log.after(self._last):
      self._apply(action)

  # The state.

  def _do(self, person: int, kind: str, item: str = '', body=None) -> None:
    self.refresh()
    self._apply(self._log.append(self._clock(), person, kind, item, body))

  def _apply(self, action: Action) -> None:
    self._last = action.id
    body, item = action.body, action.item
    match action.kind:
      case 'invite':
        self.people[action.id] = Person(action.id, **body)
      case 'revoke' | 'restore':
        person = self.people[body['of']]
        person.revoked = action.kind == 'revoke'
        for holders in self._leases.values():
          holders.discard(person.id)
      case 'pause' | 'resume':
        self.paused = action.kind == 'pause'
      case 'instructions':
        self.versions[body['version']] = body['text']
      case 'score':
        self.scores[body['of'], item] = body['value']
      case 'about':
        self.people[action.person].about = body['about']
      case _ if item in self.items:  # a prompt may be removed from the project
        self._apply_work(action)

  def _apply_work(self, action: Action) -> None:
    person, item, body = self.people[action.person], action.item, action.body
    if action.kind == 'open':
      if body['answers'] != self._answers(item):
        raise ConfigError(
          f'{self.project.folder}: the answers to the prompt {item!r} are not '
          'those that were labeled: restore items.jsonl, give the new answers '
          'another id, or take another project and database'
        )
      work = person.items.setdefault(item, Work(body['order']))
      work.last = action.time
      self._leases[item].add(person.id)
      return
    work = person.items[item]
    work.seconds += self._pause(work, action.time)
    work.last = action.time
    if action.kind == 'draft':
      before = body['values'], work.marks
      work.drafts.setdefault(body['step'], []).append(before)
      work.marks = body['marks']
    elif action.kind == 'undo':
      work.marks = work.drafts[body['step']].pop()[1]
    else:
      self._leases[item].discard(person.id)
      if action.kind == 'skip':
        work.skipped, work.label = body['reason'], None
      else:
        work.skipped, work.label = '', body
      self._recount(item)

  def _recount(self, key: str) -> None:
    """Counts the labels that a prompt still needs of each group."""
    works = [
      (person.group, person.items[key])
      for person in self.people.values()
      if key in person.items
    ]
    skips = sum(bool(work.skipped) for _, work in works)
    for group, wanted in self._open.items():
      labels = sum(g == group and work.label is not None for g, work in works)
      left = self._wanted(self.items[key], group) - labels
      if left > 0 and skips < self.settings.max_skips:
        wanted[key] = left
      else:
        wanted.pop(key, None)

  def _wanted(self, item: Task, group: str) -> int:
    if item.reference is not None or item.is_same:
      return 0  # the screening set is everyone's
    if group != 'train' and item.prompt.split == 'train':
      return 0
    return self.settings.overlap if self.is_shared(item.prompt.id) else 1

  def _candidates(self, person: Person):
    yield from self.screening
    for key, wanted in self._open[person.group].items():
      held = sum(
        self.people[other].group == person.group and self._is_held(key, other)
        for other in self._leases[key]
        if other != person.id
      )
      if held < wanted:
        yield key

  def _is_held(self, key: str, person: int) -> bool:
    work = self.people[person].items[key]
    # A clock that was set back must not make a lease last for years.
    return abs(self._clock() - work.last) < 60 * self.settings.lease_minutes

  def _pause(self, work: Work, now: float) -> float:
    return min(max(0.0, now - work.last), IDLE_SECONDS)

  def _order(self, person: Person, key: str) -> list[int]:
    order = [*range(len(self.items[key].responses))]
    seed = f'{self.settings.seed}/order/{person.name}/{key}'
    random.Random(seed).shuffle(order)
    return order

  def _answers(self, key: str) -> str:
    """Returns a digest of the texts that labels of a prompt are about."""
    item = self.items[key]
    texts = [item.prompt.text, *(r.text for r in item.responses)]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _first(pair):
  return pair[0]


def _hashed(token: str) -> str:
  return hashlib.sha256(token.encode()).hexdigest()
