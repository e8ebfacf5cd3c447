"""Finds a stage by its name and checks its config before the stage runs.

A module of this package implements the stages that its top level declares:

  STAGES = ('pretrain', 'sft')

  def validate(config): ...               # raises ConfigError
  def run(config, workdir, label=''): ... # returns the result as a dict

A module may also define `resolve(config, workdir, known)`, which replaces
`architecture.resolve`, `check_sources(config)`, which raises an error if a file
that the user names is missing, and `sources(config)`, which returns {name:
path} of such files. The declarations are read without an
import; only the module of a stage that is used is imported.
"""

import ast
import functools
import importlib
import pathlib
import re
import types

from instructrl.runtime import sharding
from instructrl.stages import architecture
from instructrl.stages import checks

_DECLARATION = re.compile(r'^STAGES = (\(.*?\))$', re.MULTILINE | re.DOTALL)


@functools.cache
def modules(folder: pathlib.Path = pathlib.Path(__file__).parent) -> dict:
  """Returns {stage: name of its module} for the modules of a folder."""
  found = {}
  for path in sorted(folder.glob('*.py')):
    declaration = _DECLARATION.search(path.read_text('utf-8'))
    stages = ast.literal_eval(declaration[1]) if declaration else ()
    if not isinstance(stages, tuple):
      raise ValueError(f'{path}: STAGES must be a tuple; got {declaration[1]}')
    for stage in stages:
      other = found.setdefault(stage, path.stem)
      if other != path.stem:
        raise ValueError(
          f'stage {stage!r} is declared by {other}.py and by {path.name}'
        )
  return found


def load(stage: str) -> types.ModuleType:
  """Imports the module of a stage.

  Raises:
    ConfigError: no module declares the stage.
  """
  found = modules()
  checks.require(
    stage in found,
    f'stage must be one of {", ".join(sorted(found))}; got {stage!r}',
  )
  return importlib.import_module(f'{__package__}.{found[stage]}')


def validate(config) -> None:
  """Raises a ConfigError that names the field if a config makes no sense.

  A config whose architecture comes from one of its inputs is checked once
  `resolve` has filled in the architecture.
  """
  stage = load(config.stage)
  if architecture.resolved(config):
    stage.validate(config)
    checks.refuse_nan(config)


def resolve(config, workdir, known=None):
  """Fills in the fields of a config that its inputs or its source determine.

  Args:
    config: config of a stage.
    workdir: folder of the stage.
    known: see `architecture.resolve`.
  """
  resolve_fn = getattr(load(config.stage), 'resolve', architecture.resolve)
  return resolve_fn(config, workdir, known)


def check_mesh(config) -> None:
  """Raises a ConfigError if the mesh or a batch does not fit the devices."""
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
  """Raises a ConfigError if a file that the config names does not exist."""
  check = getattr(load(config.stage), 'check_sources', None)
  if check is None:
    return
  try:
    check(config)
  except ValueError as error:
    raise checks.ConfigError(f'{config.stage}: {error}') from error


def sources(config) -> dict[str, pathlib.Path]:
  """Returns {name: path} of the files that a stage reads besides its inputs."""
  find = getattr(load(config.stage), 'sources', None)
  return find(config) if find else {}
