"""The stages by name, and the checks of a stage before it runs."""

from collections.abc import Callable

import numpy as np

from instructrl.runtime import processes
from instructrl.runtime import sharding
from instructrl.stages import architecture
from instructrl.stages import checks
from instructrl.stages import data
from instructrl.stages import evaluation
from instructrl.stages import export
from instructrl.stages import heldout
from instructrl.stages import import_
from instructrl.stages import inputs
from instructrl.stages import lab
from instructrl.stages import lm
from instructrl.stages import ppo
from instructrl.stages import rankings
from instructrl.stages import reward
from instructrl.stages import select_sft


def _train_ppo(config, workdir, label=''):
  """PPO, with the lab's judge on the curves where there is a lab."""
  folder = inputs.input_path(config, workdir, 'data')
  if not lab.is_lab(folder):
    return ppo.train(config, workdir, label)
  judge = lab.make_judge(folder)

  def utilities(prompts, responses):
    return np.asarray([judge.utility(p, r) for p, r in zip(prompts, responses)])

  return ppo.train(config, workdir, label, judge=utilities)


def _build(build):
  """What is text, not arrays, process 0 makes, and the others wait."""

  def run(config, workdir, label=''):
    return build(config, workdir, label) if processes.primary() else {}

  return run


# Stage -> (validate, run). `run(config, workdir, label)` returns the result.
STAGES: dict[str, tuple[Callable, Callable]] = {
  'import': (import_.validate, import_.run),
  'lab': (lab.validate, _build(lab.build)),
  'data': (data.validate, _build(data.build)),
  'pretrain': (lm.validate, lm.train),
  'sft': (lm.validate, lm.train),
  'ppo_init': (lm.validate, lm.train),
  'rankings': (rankings.validate, rankings.collect),
  'reward': (reward.validate, reward.train),
  'select_sft': (select_sft.validate, select_sft.select),
  'ppo': (ppo.validate, _train_ppo),
  'ppo_ptx': (ppo.validate, _train_ppo),
  'evaluation': (evaluation.validate, evaluation.evaluate),
  'heldout': (heldout.validate, heldout.evaluate),
  'export': (export.validate, export.run),
}


def validate(config):
  """Refuses a stage's config by field name, before anything is computed.

  One whose architecture is an input's is looked at when that is known.
  """
  checks.require(
    config.stage in STAGES,
    f'stage={config.stage!r} is none of {", ".join(STAGES)}',
  )
  if architecture.resolved(config):
    STAGES[config.stage][0](config)


def resolve(config, workdir, known=None):
  """A stage's config with what its inputs or its source say filled in.

  Args:
    config: of the stage.
    workdir: of the stage.
    known: see `common.resolve`.
  """
  if config.stage == import_.STAGE:
    return import_.resolve(config, workdir)
  return architecture.resolve(config, workdir, known)


def check_mesh(config) -> None:
  """Refuses a mesh or a batch that the devices here do not fit."""
  if config.get('mesh') is None:
    return
  try:
    mesh = sharding.make_mesh(config.mesh.to_dict())
  except ValueError as error:
    raise checks.ConfigError(f'{config.stage}: {error}') from error
  for where, c in (('', config), ('ppo.', config.get('ppo', {}))):
    for field in ('batch_size', 'eval_batch_size'):
      if field in c:
        try:
          sharding.process_rows(mesh, c[field])
        except ValueError as error:
          raise checks.ConfigError(
            f'{config.stage}: {where}{field}: {error}'
          ) from error


def check_sources(config) -> None:
  """Refuses a stage whose files, brought by the user, are not there."""
  if config.stage == 'data':
    try:
      data.check_paths(config)
    except ValueError as error:
      raise checks.ConfigError(f'{config.stage}: {error}') from error
