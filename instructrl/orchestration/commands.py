"""The command line that runs one stage of a sweep."""

from collections.abc import Mapping, Sequence
import functools
import pathlib
import shlex
import sys
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from instructrl.orchestration import graph
from instructrl.orchestration import grid
from instructrl.runtime import files
from instructrl.stages import checks

_OPEN = ('policies', 'rewards')  # groups to which flags may add names


def arguments(node: graph.Node, workdir) -> list[str]:
  """Returns the flags of `instructrl.main` that run a node.

  The flags name experiments/STAGE.py at the node's size, and each field that
  differs from that experiment.

  Raises:
    ConfigError: no flags give the node's config.
  """
  experiment = f'experiments/{node.stage}.py'
  checks.require(
    pathlib.Path(experiment).is_file(),
    f'there is no {experiment} in {pathlib.Path.cwd()}: run the command in '
    'the root of the checkout',
  )
  where = f'{experiment}:{node.config.size}'
  fields = recipe(where)
  wanted = grid.flatten(node.config.to_dict())
  others = sorted(
    name
    for name in {*fields} ^ {*wanted}
    if name in fields or name.split('.')[0] not in _OPEN
  )
  checks.require(
    not others,
    f'stage {node.stage!r} of the sweep and {where} must have the same fields; '
    f'only one of them has {others[:1]}',
  )
  folder = pathlib.Path(workdir) / node.name
  found = [f'--config={where}', f'--workdir={folder}', *_flags(fields, wanted)]
  checks.require(
    files.fingerprint(read_config(found).to_dict())
    == files.fingerprint(node.config.to_dict()),
    f'{node.name} cannot be given by flags: {shlex.join(found)}',
  )
  return found


def changed(where: str, config, settings: Sequence[str]) -> list[str]:
  """Returns the flags that make a sweep's config, without `order`.

  Args:
    where: the experiment and its size, such as 'experiments/paper.py:tiny'.
    config: of the sweep.
    settings: values of `--set`.
  """
  wanted = grid.flatten(config.to_dict())
  wanted.pop('order', None)
  flags_of_set = [f'--set={setting}' for setting in settings]
  return [*_flags(recipe(where), wanted), *flags_of_set]


def _flags(fields: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
  """Returns the flags that turn the fields of an experiment into others."""
  return [
    f'--config.{name}={value}'
    for name, value in wanted.items()
    if (value, type(value)) != (fields.get(name), type(fields.get(name)))
  ]


@functools.cache
def recipe(where: str) -> dict[str, Any]:
  """Returns the fields of an experiment, such as 'experiments/ppo.py:tiny'."""
  return grid.flatten(read_config([f'--config={where}']).to_dict())


def read_config(argv: Sequence[str]) -> ml_collections.ConfigDict:
  """Returns the config that `instructrl.main` reads from its flags."""
  values = flags.FlagValues()
  argv = [sys.argv[0], *argv]
  holder = config_flags.DEFINE_config_file(
    'config', flag_values=values, sys_argv=argv
  )
  flags.DEFINE_string('workdir', None, '', flag_values=values)
  values(argv)
  return holder.value.copy_and_resolve_references()
