"""Policies: the table of the known ones, and runs opened as policies.

A config maps names to runs: `c.policies = dict(sft='../sft', ppo='../ppo')`. An
evaluation and its report cover the policies that the config names. A name that
is not in `POLICIES` works as well: the name is its label, and it comes last.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import itertools
import pathlib
from typing import Any

import jax

from instructrl.data import tasks
from instructrl.data.records import Prompt
from instructrl.evaluators.language_model import Engine
from instructrl.evaluators.language_model import LanguageModel
from instructrl.runtime import sharding
from instructrl.runtime.checkpointer import Checkpointer
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import opening

# For policies that are not in `POLICIES`, one after another.
OTHER_COLORS = ('#009e73', '#556b2f', '#6a5acd')


@dataclasses.dataclass(frozen=True)
class Kind:
  """How a policy is asked and shown.

  Attributes:
    label: its name in reports.
    color: '#rrggbb' in plots.
    asked: how prompts are laid out, see `language_model.TEMPLATES`; '' is
      'plain' for a run of the stage `pretrain`, else 'chat'.
    has_kl: whether its KL from another policy is measured.
  """

  label: str
  color: str = OTHER_COLORS[0]
  asked: str = ''
  has_kl: bool = True


PROMPTED = 'prompted'  # the policy that is asked with a few-shot prefix
# The known policies, in the order of reports.
POLICIES = {
  'base': Kind('pretrained', '#8c8c8c', 'plain', has_kl=False),
  'imported': Kind('imported', '#8c8c8c', 'chat', has_kl=False),
  PROMPTED: Kind('prompted', '#f0c000', 'few_shot', has_kl=False),
  'nlp': Kind('public tasks', '#8b5a2b', 'chat', has_kl=False),
  'sft': Kind('SFT', '#56b4e9', 'chat', has_kl=False),
  'ppo_init': Kind('PPO start', '#0072b2', 'chat'),
  'ppo': Kind('PPO', '#d55e00', 'chat'),
  'ppo_ptx': Kind('PPO-ptx', '#9550b0', 'chat'),
  'dpo': Kind('DPO', '#cc79a7', 'chat'),
}


def kind(name: str) -> Kind:
  """Returns how a policy is asked and shown; any name has defaults."""
  return POLICIES.get(name, Kind(name))


def shown(names: Iterable[str]) -> dict[str, dict]:
  """Returns how reports show policies: name -> {'label', 'color', 'order'}."""
  table, colors = {}, itertools.cycle(OTHER_COLORS)
  for name in names:
    known = name in POLICIES
    table[name] = {
      'label': kind(name).label,
      'color': kind(name).color if known else next(colors),
      'order': list(POLICIES).index(name) if known else len(POLICIES),
    }
  return table


def ordered(names: Iterable[str]) -> list[str]:
  """Sorts names: the known ones in the table's order, then the others."""
  place = {name: i for i, name in enumerate(POLICIES)}
  return sorted(names, key=lambda name: place.get(name, len(place)))


def named(config) -> list[str]:
  """Returns the policies that a config gives a path, in order."""
  return ordered(name for name, path in config.policies.items() if path)


def template_of(name: str, stage: str) -> str:
  """Returns how a policy is asked, see `Kind.asked`.

  Args:
    name: of the policy.
    stage: that trained it.
  """
  return kind(name).asked or ('plain' if stage == 'pretrain' else 'chat')


class Opener:
  """Opens the inputs and policies of a stage.

  Use as a context manager: models are computed on the mesh of the config. Runs
  with equal architectures share one engine.
  """

  def __init__(self, config, workdir, batch_size: int = 0):
    """Opens the tokenizer of inputs.data.

    Args:
      config: of the stage.
      workdir: of the stage.
      batch_size: sequences computed at once; config.batch_size by default.
    """
    self.config, self.workdir = config, pathlib.Path(workdir)
    self.tok = inputs.data_folder(self).tokenizer()
    self._engines: dict[Any, Engine] = {}
    self.mesh = sharding.make_mesh(config.mesh.to_dict())
    self.batch_size = batch_size or config.batch_size
    sharding.process_rows(self.mesh, self.batch_size)  # raises if invalid
    self._exit = contextlib.ExitStack()

  def __enter__(self):
    self._exit.enter_context(jax.set_mesh(self.mesh))
    return self

  def __exit__(self, *error):
    return self._exit.__exit__(*error)

  def tokenizer(self):
    return self.tok

  def input(self, name: str) -> pathlib.Path:
    return inputs.input_path(self.config, self.workdir, name)

  def prompts(self, split: str, prompt_len: int) -> list[Prompt]:
    """Returns the prompts of a split that fit `prompt_len` tokens."""
    records = inputs.records(self, 'data', 'prompts', split)
    found = [
      p
      for p in records
      if tasks.fits(tasks.chat_prompt(self.tok, p), prompt_len)
    ]
    checks.require(
      bool(found), f'no prompt of {split!r} fits prompt_len={prompt_len}'
    )
    return found

  def step_path(self, name: str, step: str = '') -> pathlib.Path:
    """Returns the path of an input, or of one of its steps.

    Args:
      name: of the input.
      step: 'first', a number as text, or '' for the run folder.
    """
    return _step_path(self.input(name), step)

  def open(self, name: str, path: pathlib.Path | None = None) -> opening.Opened:
    """Opens an input, or another path of it such as a step."""
    return opening.open_run(
      path or self.input(name), self.tok, self.mesh, name=f'inputs.{name}'
    )

  def policy(
    self, name: str, response_len: int, *, step: str = ''
  ) -> LanguageModel:
    """Opens an input as a policy."""
    run = self.open(name, self.step_path(name, step))
    return self.language_model(name, run, response_len)

  def language_model(
    self, name: str, run: opening.Opened, response_len: int, few_shot: str = ''
  ) -> LanguageModel:
    if run.model not in self._engines:
      self._engines[run.model] = Engine(
        run.model, self.tok, batch_size=self.batch_size
      )
    return LanguageModel(
      name,
      self._engines[run.model],
      run.params,
      template=template_of(name, run.config.stage),
      few_shot=few_shot,
      response_len=response_len,
    )


def _step_path(path: pathlib.Path, step: str) -> pathlib.Path:
  if not step:
    return path
  steps = Checkpointer(path / 'checkpoints').steps()
  checks.require(bool(steps), f'{path} has no checkpoint')
  number = steps[0] if step == 'first' else int(step)
  return path / 'checkpoints' / f'{number:08d}'


class Policies(Mapping[str, LanguageModel]):
  """The policies of a config. Only the one asked for last is in memory.

  Attributes:
    few_shot: the prefix of the prompted policy, see `prefixes`.
  """

  def __init__(self, opened: Opener):
    self._opened, self._config = opened, opened.config
    self._names = named(self._config)
    self.few_shot = ''
    # The policy that was asked for last: its path, and its run opened.
    self._path: pathlib.Path | None = None
    self._run: Any = None

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)

  def __contains__(self, name: object) -> bool:
    return name in self._names  # a Mapping's own opens the policy

  def __getitem__(self, name: str) -> LanguageModel:
    if name not in self._names:
      raise KeyError(name)
    path, opened = self.path(name), self._opened
    if path != self._path:
      self._path = self._run = None  # frees its memory first
      self._run = opening.open_run(
        path, opened.tok, opened.mesh, name=f'policies.{name}'
      )
      checks.require(
        not self._run.is_reward_model,
        f'policies.{name}: {path} is a reward model, not a policy',
      )
      self._path = path
    asked = template_of(name, self._run.config.stage)
    return opened.language_model(
      name,
      self._run,
      self._config.response_len,
      self.few_shot if asked == 'few_shot' else '',
    )

  def path(self, name: str) -> pathlib.Path:
    """Returns the run folder of a policy."""
    return inputs.input_path(
      self._config, self._opened.workdir, name, 'policies'
    )
