"""Opening what runs exported, as policies that answer text."""

from collections.abc import Sequence
import contextlib
import functools
import pathlib

import jax
import ml_collections

from instructrl import rng
from instructrl.data import tasks
from instructrl.data.records import Prompt
from instructrl.evaluators.lm import Engine
from instructrl.evaluators.lm import LanguageModel
from instructrl.runtime import checkpoint
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.tokenizers import loading
from instructrl.tokenizers import protocol


def run_config(path) -> ml_collections.ConfigDict:
  """The config of the run that a checkpoint belongs to."""
  meta = checkpoint.read_meta(checkpoint.find(path))['meta']
  return ml_collections.ConfigDict(meta['config'])


def find_tokenizer(path) -> protocol.AnyTokenizer:
  """The tokenizer in the run folder above a checkpoint."""
  path = pathlib.Path(path).absolute()
  for folder in (path, *path.parents):
    if loading.has(folder):
      return loading.load(folder)
  raise FileNotFoundError(f'there is no tokenizer in {path} or above it')


class Policy:
  """A policy as tokens and, by `as_lm`, as text."""

  def __init__(
    self, name: str, engine: Engine, params, response_len: int, is_base: bool
  ):
    self.name, self.engine, self.params = name, engine, params
    self.tok = engine.tok
    self._response_len, self._is_base = response_len, is_base

  def sample_tokens(
    self,
    prompts: Sequence[str | Prompt],
    *,
    temperature: float,
    seed: int,
    purpose: rng.Purpose,
    top_p: float = 1.0,
    rows=None,
  ) -> list[list[int]]:
    """Responses as tokens; a base model is shown the prompt as plain text."""
    tok = self.tok
    text_of = lambda asked: asked if isinstance(asked, str) else asked.text
    lay_out = (
      (lambda asked: tasks.plain_prompt(tok, text_of(asked) + '\n'))
      if self._is_base
      else functools.partial(tasks.chat_prompt, tok)
    )
    return self.engine.generate(
      self.params,
      [lay_out(prompt) for prompt in prompts],
      max_tokens=self._response_len,
      seed=seed,
      purpose=purpose,
      temperature=temperature,
      top_p=top_p,
      rows=rows,
    )

  def as_lm(self, name: str = '', *, few_shot: str = '') -> LanguageModel:
    template = 'few_shot' if few_shot else 'plain' if self._is_base else 'chat'
    return LanguageModel(
      name or self.name,
      self.engine,
      self.params,
      template=template,
      few_shot=few_shot,
      response_len=self._response_len,
    )


class Opener:
  """Opens the inputs of a stage; equal architectures share one engine.

  Use as a context manager: models are computed on the mesh of the config.
  """

  def __init__(self, config, workdir):
    self._config, self._workdir = config, pathlib.Path(workdir)
    self.tok = inputs.data_folder(self).tokenizer()
    self._engines = {}
    self.mesh = sharding.make_mesh(config.mesh.to_dict())
    self.batch_size = config.batch_size
    sharding.process_rows(self.mesh, self.batch_size)  # refuses what it must
    self._exit = contextlib.ExitStack()

  def __enter__(self):
    self._exit.enter_context(jax.set_mesh(self.mesh))
    return self

  def __exit__(self, *error):
    return self._exit.__exit__(*error)

  def input(self, name: str) -> pathlib.Path:
    return inputs.input_path(self._config, self._workdir, name)

  def prompts(self, split: str, prompt_len: int) -> list[Prompt]:
    """The prompts of a split that fit `prompt_len` tokens."""
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
    """A run folder, or one of its steps: 'first', or a number as text."""
    path = self.input(name)
    if not step:
      return path
    steps = checkpoint.Checkpointer(path / 'checkpoints').steps()
    checks.require(bool(steps), f'{path} has no checkpoint')
    number = steps[0] if step == 'first' else int(step)
    return path / 'checkpoints' / f'{number:08d}'

  def exported(self, name: str, path: pathlib.Path, layout_of=build.lm_layout):
    """(params, model, config) of a run, or a step of it.

    Args:
      name: of the input.
      path: of the run or step, see `step_path`.
      layout_of: what kind of model it is.
    """
    found = []

    def check(meta):
      checks.require(
        meta['tokenizer'] == self.tok.fingerprint,
        f'inputs.{name} was trained with another tokenizer',
      )

    def wanted(meta):
      config = ml_collections.ConfigDict(meta['config'])
      config.model.dropout = 0.0  # it belongs to training
      model = build.make_model(config, self.tok.vocab_size)
      found.extend((model, config))
      return layout_of(model, self.mesh).abstract

    return inputs.exported(path, wanted, check)[0], *found

  def policy(self, name: str, response_len: int, *, step: str = '') -> Policy:
    params, model, config = self.exported(name, self.step_path(name, step))
    if model not in self._engines:
      self._engines[model] = Engine(model, self.tok, batch_size=self.batch_size)
    return Policy(
      name,
      self._engines[model],
      params,
      response_len,
      config.stage == 'pretrain',
    )
