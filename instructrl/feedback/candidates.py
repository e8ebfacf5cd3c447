"""Samples of policies, as a project to label.

The paper's rankings compare K samples per prompt, K from 4 to 9, of several
policies (Ouyang et al. 2022, sections 3.1 and 3.5).
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import re
from typing import Any

from instructrl.data.folder import DataFolder
from instructrl.data.records import Demonstration, Prompt, prompt_of
from instructrl.data.sources import lookup
from instructrl.evaluators import statistics
from instructrl.feedback.project import Candidate
from instructrl.feedback.project import MAX_RESPONSES
from instructrl.feedback.project import Task
from instructrl.runtime import typed
from instructrl.runtime.errors import ConfigError

DEMONSTRATION = 'demonstration'


@dataclasses.dataclass(frozen=True)
class Request:
  """A request for samples.

  Attributes:
    policies: name -> run folder.
    prompts: a data folder, or a source such as 'jsonl:FILE'.
    split: of the prompts.
    limit: first prompts of the split; 0 is all.
    k: least and largest number of answers per prompt.
    temperatures: of the samples; each policy is sampled at each of them.
    demonstrations: whether a demonstration is one of the answers.
    max_tokens: of an answer.
    seed: of the samples, and of the choice among them.
  """

  policies: dict[str, pathlib.Path]
  prompts: str
  split: str
  limit: int
  k: tuple[int, int]
  temperatures: tuple[float, ...]
  demonstrations: bool
  max_tokens: int
  seed: int

  @classmethod
  def parse(cls, *, policies: str, k: str, temperatures: str, **others: Any):
    """Reads the flags; raises a ConfigError that names the flag."""
    named = dict(re.findall(r'([^=,]+)=([^,]+)', policies))
    if ','.join(f'{n}={p}' for n, p in named.items()) != policies:
      raise ConfigError(
        f'--policies must be NAME=RUN,NAME=RUN,...; got {policies!r}'
      )
    found = re.fullmatch(r'(\d+)(?:\.\.(\d+))?', k)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 2 <= low <= high <= MAX_RESPONSES:
      raise ConfigError(
        f'--k must be N or LOW..HIGH, from 2 to {MAX_RESPONSES}; got {k!r}'
      )
    try:
      heats = tuple(float(t) for t in temperatures.split(','))
    except ValueError:
      heats = (-1.0,)
    if not all(0 <= t < float('inf') for t in heats):
      raise ConfigError(
        f'--temperatures must be numbers from 0 up; got {temperatures!r}'
      )
    for name, least in (('limit', 0), ('max_tokens', 1)):
      if others[name] < least:
        raise ConfigError(f'--{name} must be from {least} up')
    paths = {name: typed.path(path) for name, path in named.items()}
    return cls(policies=paths, k=(low, high), temperatures=heats, **others)


def make(request: Request, load: Callable[[pathlib.Path], Any]) -> list[Task]:
  """Samples the policies and chooses K answers of each prompt.

  Policies and temperatures have about equal shares of the answers of a prompt.
  Equal texts are one answer, which keeps the names of all its policies, so a
  prompt may have fewer than K. A prompt that has one answer is not labeled; if
  several policies gave it, it stays in the project, as a tie of them.

  Args:
    request: the request.
    load: opens a run folder as a policy, such as `instructrl.load`.

  Raises:
    ConfigError: a policy is a reward model, or no prompt has two answers.
  """
  records = _read(request)
  prompts = [prompt_of(record) for record in records]
  written = [
    getattr(record, 'response', None) if request.demonstrations else None
    for record in records
  ]
  pool: list[list[Candidate]] = [
    [] if text is None else [Candidate(text, DEMONSTRATION, 0.0)]
    for text in written
  ]
  sources = len(request.policies) * len(request.temperatures)
  samples = -(-request.k[1] // sources)  # of each policy and temperature
  for name, path in request.policies.items():
    for answers in _sampled(request, name, load(path), prompts, samples):
      for found, candidates in zip(pool, answers):
        found += candidates
  items = [
    Task(prompt, tuple(_chosen(request, prompt, found)))
    for prompt, found in zip(prompts, pool)
  ]
  items = [item for item in items if item.is_same or len(item.responses) > 1]
  if all(item.is_same for item in items):
    raise ConfigError(
      'no prompt has two different answers: use higher --temperatures, or more '
      'policies'
    )
  return items


def _read(request: Request) -> list[Any]:
  """Returns prompts or demonstrations of a data folder or a source."""
  folder = typed.path(request.prompts)
  if folder.is_dir():
    name = 'demonstrations' if request.demonstrations else 'prompts'
    records = list(DataFolder(folder).records(name, request.split))
  elif ':' not in request.prompts and '/' in request.prompts:
    raise ConfigError(
      f'--prompts: there is no data folder {folder}; a file of yours is '
      f'jsonl:{request.prompts}'
    )
  else:
    records = [
      record
      for record in lookup.load(request.prompts).records
      if isinstance(record, (Prompt, Demonstration))
      and prompt_of(record).split == request.split
    ]
  unique = {prompt_of(record).id: record for record in reversed(records)}
  records = [*unique.values()][::-1]
  if not records:
    raise ConfigError(
      f'--prompts: {request.prompts} has no prompt of the split {request.split}'
    )
  return records[: request.limit or None]


def _sampled(
  request: Request, name, policy, prompts: Sequence[Prompt], samples
):
  """Yields, per temperature, each prompt's candidates of one policy."""
  for number, temperature in enumerate(request.temperatures):
    texts = policy.generate(
      [prompt.text for prompt in prompts],
      n=samples,
      temperature=temperature,
      max_tokens=request.max_tokens,
      seed=request.seed + number,
    )
    yield [
      [Candidate(text, name, temperature) for text in answers]
      for answers in texts
    ]


def _chosen(
  request: Request, prompt: Prompt, pool: Sequence[Candidate]
) -> list[Candidate]:
  """Draws K different texts; the demonstration is always one of them."""
  draw = statistics.generator(request.seed, 'candidates', prompt.id)
  k = int(draw.integers(request.k[0], request.k[1] + 1))
  first = [c for c in pool if c.model == DEMONSTRATION]
  others = [c for c in pool if c.model != DEMONSTRATION]
  shuffled = [others[i] for i in draw.permutation(len(others))]
  by_text: dict[str, list[Candidate]] = {}
  for candidate in first + shuffled:
    by_text.setdefault(candidate.text, []).append(candidate)
  return [
    dataclasses.replace(same[0], also=_others(same))
    for same in [*by_text.values()][:k]
  ]


def _others(same: Sequence[Candidate]) -> tuple[str, ...]:
  """Returns the policies that gave a text, without the first one."""
  names = dict.fromkeys(candidate.model for candidate in same)
  return tuple(names)[1:]
