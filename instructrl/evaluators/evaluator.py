"""The protocol of evaluators, and how a config names one.

  c.evals.NAME = dict(type='preference', every=0, num_prompts=100)

`type` is a module of instructrl/evaluators/ that has a class `Evaluator`, or
'package.module:Class' for a class of your own. The other fields are keyword
arguments of the class; an empty `type` leaves the evaluation out. In a training
stage the evaluation runs every `every` steps, on the policy in training; the
stage `evaluation` ignores `every` and runs it on all policies of its config.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib
import inspect
import math
import pathlib
import re
from typing import Any, Protocol

import jax

from instructrl.data.folder import DataFolder
from instructrl.data.records import Prompt
from instructrl.evaluators import statistics
from instructrl.evaluators.language_model import LanguageModel
from instructrl.runtime import errors
from instructrl.runtime import user_code
from instructrl.runtime.errors import ConfigError

# Fields of `config.evals.NAME` that are not arguments of the evaluator.
OWN_FIELDS = ('type', 'every')
# The key that makes a dict of results a summary.
VALUE = 'value'


class RewardModel(Protocol):
  """Scores responses. Prompts and responses are N token lists each."""

  def score(self, prompts, responses):
    """Returns [N] float32 scores of the trained model."""

  def score_untrained(self, prompts, responses):
    """Returns [N] float32 scores with a fresh head on an untrained backbone."""


class Context(Protocol):
  """The run that an evaluation belongs to.

  Attributes:
    seed: eval_seed; all sampling and bootstraps are functions of it.
    tok: tokenizer of the policies.
    mesh: the device mesh, already entered.
    batch_size: sequences computed at once.
    prompt_len, response_len: tokens at most.
  """

  seed: int
  tok: Any
  mesh: jax.sharding.Mesh
  batch_size: int
  prompt_len: int
  response_len: int

  def data(self, name: str = 'data') -> DataFolder:
    """Opens the data folder `inputs.NAME`."""

  def prompts(self, split: str) -> list[Prompt]:
    """Returns the prompts of a split that fit `prompt_len`."""

  def has_kl(self, policy: str) -> bool:
    """Returns whether the policy's KL from where PPO starts is of interest."""

  def reward_model(self, name: str = 'reward_model') -> RewardModel:
    """Opens the reward model `inputs.NAME`."""

  def world(self):
    """Returns the world of the lab `inputs.data`."""

  def labelers(self) -> list:
    """Returns the lab's labelers with the noise of `inputs.rankings`."""

  def kept(self, name: str, make: Callable[[], Any]) -> Any:
    """Returns make(), or what it returned before the run was stopped.

    Args:
      name: of this part, unique within the evaluation.
      make: returns a tree that JSON can hold.
    """

  def progress(self, text: str) -> None:
    """Shows one line to the user."""


@dataclasses.dataclass
class Outcome:
  """Results of an evaluation.

  Attributes:
    results: tree whose leaves are summaries {'value', 'ci95', 'n'}. The report
      shows a tree of the form {measure: {'policies': {policy: summary},
      'difference': {left: {right: summary of left - right}}}}, as `compared`
      makes, as a table. It knows the trees of the package's own evaluators.
    samples: one dict per sample, for samples.jsonl.
  """

  results: dict
  samples: list[dict] = dataclasses.field(default_factory=list)


class Evaluator(Protocol):
  """An evaluation: `Evaluator(context, **fields of its config)`."""

  def run(self, policies: Mapping[str, LanguageModel]) -> Outcome:
    """Evaluates policies.

    Args:
      policies: name -> policy, in the order of reports. Iterating over a large
        study's policies opens one after another, so use each only while it is
        the current one.
    """


def compared(
  measures: Mapping[str, Mapping[str, statistics.Measure]], *, seed: int
) -> dict:
  """Summarizes measures: Returns the tree that the report shows as a table.

  Args:
    measures: name of the measure -> policy -> its measure. The policies of one
      measure must be measured on the same items.
    seed: of the bootstrap.
  """
  found = {}
  for name, by_policy in measures.items():
    if by_policy:
      summaries, differences = statistics.compare(by_policy, seed=seed)
      found[name] = {'policies': summaries, 'difference': differences}
  return found


def types() -> list[str]:
  """Returns the names of the evaluators in this package."""
  here = pathlib.Path(__file__)
  defines = re.compile(r'^class Evaluator\b', re.MULTILINE)
  return sorted(
    path.stem
    for path in here.parent.glob('*.py')
    if path.name != here.name and defines.search(path.read_text('utf-8'))
  )


def load(name: str) -> Callable[..., Evaluator]:
  """Returns the class that a config's `type` names.

  Raises:
    ConfigError: there is no such module or class.
  """
  module, _, cls = name.partition(':')
  if not (module and cls):
    if name not in types():
      raise ConfigError(
        f'type must be one of {", ".join(types())}, or module:Class; '
        f'got {name!r}'
      )
    module, cls = f'{__package__}.{name}', 'Evaluator'
  try:
    found: Any = getattr(importlib.import_module(module), cls)
  except AttributeError as error:
    raise ConfigError(f'type={name!r} cannot be loaded: {error}') from error
  except Exception as error:  # the module may be the user's own
    raise ConfigError(
      f'type={name!r} cannot be loaded: {errors.located(error)}'
    ) from error
  is_evaluator = inspect.isclass(found) and callable(
    getattr(found, 'run', None)
  )
  if not is_evaluator:
    raise ConfigError(f'type={name!r} must be a class that has run(policies)')
  return found


def identity(name: str) -> str:
  """Returns a hash of the source of a user's own evaluator; else ''."""
  if ':' not in name:
    return ''
  module = importlib.import_module(load(name).__module__)
  return user_code.fingerprint(name, module)


def arguments(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arguments of the evaluator of a config."""
  return {k: v for k, v in config.items() if k not in OWN_FIELDS}


def validate(name: str, config: Mapping[str, Any]) -> None:
  """Raises a ConfigError if the fields of `config.evals.NAME` are invalid."""
  where = f'evals.{name}'
  try:
    cls = load(config.get('type', ''))
    inspect.signature(cls).bind(None, **arguments(config))
  except (ConfigError, TypeError) as error:
    raise ConfigError(f'{where}: {error}') from error
  for field, value in config.items():
    if field.startswith('num_') and value < 1:
      raise ConfigError(f'{where}.{field}={value} must be 1 or more')
  every = config.get('every', 0)
  if not isinstance(every, int) or every < 0:
    raise ConfigError(f'{where}.every={every!r} must be an integer, 0 or more')
  temperature = config.get('temperature', 1.0)
  if not 0 < temperature < math.inf:
    raise ConfigError(
      f'{where}.temperature={temperature} must be positive and finite'
    )


def summaries(tree, path: Sequence[str] = ()):
  """Yields (path, summary) of each summary in a tree of results."""
  if not isinstance(tree, Mapping):
    return
  if VALUE in tree:
    yield tuple(path), tree
    return
  for key, found in tree.items():
    yield from summaries(found, (*path, key))
