"""Opens runs for reading: their parameters, model, config and tokenizer."""

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib

import jax
import ml_collections

from instructrl.models.transformer import Model
from instructrl.runtime import checkpoint
from instructrl.runtime import errors
from instructrl.stages import architecture
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.tokenizers import loading
from instructrl.tokenizers import protocol
from instructrl.types import Params


@dataclasses.dataclass(frozen=True)
class Opened:
  """A run, or one step of it, opened for reading.

  Attributes:
    config: the config that the run was made with, without dropout.
    tok: its tokenizer.
    model: its model: of `params`, or of their backbone in a reward model.
    params: the parameters that it exports, such as PPO's average.
  """

  config: ml_collections.ConfigDict
  tok: protocol.AnyTokenizer
  model: Model
  params: Params

  @property
  def is_reward_model(self) -> bool:
    return self.config.stage == 'reward'


def run_config(path) -> ml_collections.ConfigDict:
  """Returns the config of the run that a checkpoint belongs to."""
  meta = checkpoint.read_meta(checkpoint.find(path))['meta']
  return ml_collections.ConfigDict(meta['config'])


def find_tokenizer(path) -> protocol.AnyTokenizer:
  """Returns the tokenizer of the run folder above a checkpoint."""
  path = pathlib.Path(path).absolute()
  for folder in (path, *path.parents):
    if loading.has(folder):
      return loading.load(folder)
  if not path.exists():
    raise FileNotFoundError(f'{path} does not exist')
  raise FileNotFoundError(
    f'no tokenizer in {path} or above it: give the folder of a stage'
  )


def open_run(
  path,
  tok: protocol.AnyTokenizer | None = None,
  mesh: jax.sharding.Mesh | None = None,
  *,
  name: str = '',
) -> Opened:
  """Opens a run for reading.

  Args:
    path: a run folder (its newest checkpoint), one step of its checkpoints, or
      a run of `select_sft`, which is the step of SFT that it selected.
    tok: the tokenizer that the run must have been trained with; the run's own
      by default.
    mesh: shards the parameters; all on the first device by default.
    name: the config field of the path, for messages.

  Raises:
    ConfigError: the run was trained with another tokenizer.
    CheckpointError: there is no checkpoint, or the newest is damaged.
  """
  path = inputs.selected(path)
  tok = tok or find_tokenizer(path)
  with _named(name):
    config = run_config(path)
  if 'model' not in config:
    raise checks.ConfigError(f'{name or path}: {path} trained no model')
  config.model.dropout = 0.0  # used in training only
  model = build.make_model(config, tok.vocab_size)
  layout_of = (
    build.scalar_layout if config.stage == 'reward' else build.lm_layout
  )
  wanted = (
    None if mesh is None else lambda meta: layout_of(model, mesh).abstract
  )
  params = load_params(path, tok, wanted, name=name)
  return Opened(config, tok, model, params)


def load_params(
  path,
  tok: protocol.AnyTokenizer,
  wanted=None,
  *,
  name: str = '',
  model: ml_collections.ConfigDict | None = None,
) -> Params:
  """Loads the parameters that a run exports: its average if it has one.

  Args:
    path: a run folder (its newest checkpoint), or one step of its checkpoints.
    tok: the tokenizer that the run must have been trained with.
    wanted: see `inputs.exported`.
    name: the config field of the path, for messages.
    model: config of the model that will use the parameters.

  Raises:
    ConfigError: the run was trained with another tokenizer, or its model
      differs from `model` in what it computes.
    CheckpointError: there is no checkpoint, or the newest is damaged.
  """
  what = f'{name}: {path}' if name else path

  def check(meta):
    checks.require(
      meta['tokenizer'] == tok.fingerprint,
      f'{what} was trained with another tokenizer than '
      f'{"that of inputs.data" if name else "the one beside it"}',
    )
    if model is None:
      return
    trained = meta['config'].get('model', {})
    changed = [
      f'{field}: {theirs} -> {ours}'
      for field, theirs, ours in architecture.compared(trained, model)
      if theirs != ours
    ]
    checks.require(
      not changed, f'{what} is of another model ({"; ".join(changed)})'
    )

  with _named(name):
    return inputs.exported(path, wanted, check)[0]


@contextlib.contextmanager
def _named(field: str) -> Iterator[None]:
  """Puts the name of a config field before the message of a CheckpointError."""
  try:
    yield
  except errors.CheckpointError as error:
    raise errors.CheckpointError(
      f'{field}: {error}' if field else str(error)
    ) from error
