"""Runs opened as policies."""

from collections.abc import Iterator, Mapping
import contextlib
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
from instructrl.stages import policy_settings


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
      template=policy_settings.template_of(name, run.config.stage),
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
    self._names = policy_settings.named(self._config)
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
    asked = policy_settings.template_of(name, self._run.config.stage)
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
