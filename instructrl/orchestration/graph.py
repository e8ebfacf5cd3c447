"""What a sweep has to run: points, and the runs that they share.

A sweep is a config with the stages of a study, and a grid of changed fields. A
run is one stage with all its fields known. Its folder is named by the hash of
its config, in which the inputs are named by their folders; so what two points
have in common is one folder, and is run once.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
import copy
import dataclasses
import difflib
import functools
import itertools
import os
import pathlib
import shlex
import sys
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from instructrl.orchestration import study
from instructrl.runtime import files
from instructrl.runtime import run_folder
from instructrl.stages import checks
from instructrl.stages import registry

HASH = 10  # digits of a folder's name
Grid = Sequence[Mapping[str, Any]]  # points, as 'STAGE.field' -> value


@dataclasses.dataclass(frozen=True)
class Run:
  """A stage with all its fields known.

  Attributes:
    name: of its folder, 'STAGE-HASH'.
    config: of the stage.
    needs: names of the runs it starts from.
  """

  name: str
  config: ml_collections.ConfigDict
  needs: tuple[str, ...]

  @property
  def stage(self) -> str:
    return self.config.stage


@dataclasses.dataclass(frozen=True)
class Point:
  """One setting with one seed.

  Attributes:
    overrides: 'STAGE.field' -> value.
    seed: the train seed of the stages in `config.seeded`.
    runs: stage of the sweep's config -> name of its run; those it is made from
      first, `config.ends` among them.
  """

  overrides: Mapping[str, Any]
  seed: int
  runs: Mapping[str, str]

  @property
  def label(self) -> str:
    return ', '.join(
      [
        *(
          f'{key.split(".")[-1]}={value!r}'
          for key, value in self.overrides.items()
        ),
        f'seed {self.seed}',
      ]
    )


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Points and runs.

  Attributes:
    points: in the order of the grid, all seeds of a setting together.
    runs: name -> run; those that others start from come first.
    merged: labels of points that are the same as another, and its label.
  """

  points: list[Point]
  runs: dict[str, Run]
  merged: list[tuple[str, str]]


def collect(sweep: Callable, config) -> list[dict[str, Any]]:
  """The points that an ablation's `sweep(add, config)` adds.

  Raises:
    ValueError: it adds none, or what it adds is not 'STAGE.field' -> value.
  """
  points = []

  def add(overrides):
    checks.require(
      isinstance(overrides, Mapping) and bool(overrides),
      "sweep: add takes a dict of 'STAGE.field' to value, and got "
      f'{overrides!r}',
    )
    points.append(dict(overrides))

  sweep(add, copy.deepcopy(config))
  checks.require(
    bool(points),
    'sweep(add, config) adds no point: call '
    "add({'STAGE.field': value}) for each",
  )
  return points


def expand(points: Grid, config, settings: Sequence[str]) -> Grid:
  """The points with what the command line sets: key=a,b,c.

  A key that the points have is replaced; all are combined with the others.
  """
  seen = set()
  for setting in settings:
    key, found, values = setting.partition('=')
    checks.require(
      bool(found and key and values),
      f'--set {setting}: give a field and its values, as in '
      'ppo.ppo.kl_coef=0.1,0.3',
    )
    checks.require(key not in seen, f'--set {key} is given twice')
    seen.add(key)
    current = _field(config, key)
    parsed = [_parse(key, current, text) for text in _split(values)]
    others = []
    for point in points:
      point = {k: v for k, v in point.items() if k != key}
      if point not in others:
        others.append(point)
    points = [
      {**point, key: value}
      for point, value in itertools.product(others, parsed)
    ]
  return points


def _split(text: str) -> list[str]:
  """'a,(1,2)' -> ['a', '(1,2)']."""
  parts, depth = [''], 0
  for letter in text:
    depth += (letter in '([') - (letter in ')]')
    if letter == ',' and not depth:
      parts.append('')
    else:
      parts[-1] += letter
  return [part.strip() for part in parts]


def _parse(key: str, current: Any, text: str) -> Any:
  """A value of the command line, of the type of the field."""
  if isinstance(current, str):
    return text
  try:
    if isinstance(current, bool):
      return {'true': True, 'false': False}[text.lower()]
    if isinstance(current, (int, float)):
      return type(current)(text)
    return type(current)(ast.literal_eval(text))
  except (KeyError, SyntaxError, TypeError, ValueError):
    raise checks.ConfigError(
      f'--set {key}: {text!r} is no {type(current).__name__}'
    ) from None


def _field(config, key: str) -> Any:
  """The value of 'STAGE.field'; refused with suggestions if there is none."""
  value = config.stages
  for name in key.split('.'):
    if not isinstance(value, ml_collections.ConfigDict) or name not in value:
      raise checks.ConfigError(_unknown(config, key))
    value = value[name]
  if isinstance(value, ml_collections.ConfigDict):
    raise checks.ConfigError(
      f'{key} is not one field but several: give one of {", ".join(value)}'
    )
  return value


def _unknown(config, key: str) -> str:
  known = list(flatten(config.stages.to_dict()))
  near = [k for k in known if k.endswith(f'.{key}')]
  stage, _, name = key.rpartition('.')
  near = near or [
    k
    for k in known
    if k.startswith(f'{stage.split(".")[0]}.') and k.endswith(f'.{name}')
  ]
  near = near or difflib.get_close_matches(key, known, 3, 0.7)
  hint = f'; did you mean {" or ".join(near[:4])}?' if near else '.'
  return (
    f'the sweep has no field {key!r}{hint} A field is STAGE.field, of '
    f'the stages {", ".join(config.stages)}'
  )


def flatten(tree: Mapping, prefix: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} -> {'a.b': 1}; an empty folder is a value."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def make(config, grid: Grid, workdir) -> Sweep:
  """All points with all seeds, validated.

  Args:
    config: of a sweep, see experiments/ablations/base.py.
    grid: the points.
    workdir: where the runs go; folders that are given by a relative path are
      named from there.

  Raises:
    ValueError: a point makes no sense; the point and the field are named.
  """
  _check_sweep(config)
  points, runs, merged, known = [], {}, [], {}
  for overrides in grid:
    for key in overrides:
      _field(config, key)
      checks.require(
        key.split('.')[-1] not in study.SEEDS,
        f'{key}: the seeds of the stages are those of the sweep: give '
        '--config.seeds, --config.train_seed, --config.world_seed or '
        '--config.eval_seed',
      )
    for seed in config.seeds:
      point = Point(overrides, seed, {})
      try:
        stages = _stages(config, overrides, seed)
        named = _name(config, stages, pathlib.Path(workdir), runs)
      except (TypeError, ValueError) as error:
        raise checks.ConfigError(f'{point.label}: {error}') from error
      point = dataclasses.replace(point, runs=named)
      ends = tuple(named[end] for end in config.ends)
      if ends in known:
        merged.append((point.label, known[ends]))
      else:
        known[ends] = point.label
        points.append(point)
  return Sweep(points, runs, merged)


def _check_sweep(config):
  """Refuses what makes no sense of the sweep itself."""
  require = checks.require
  require(
    bool(config.ends), 'ends is empty: name the stages whose results are wanted'
  )
  for field in ('ends', 'seeded'):
    for name in config[field]:
      require(
        name in config.stages and not config.given.get(name),
        f'{field} names {name!r}, which is no stage that is run here',
      )
  require(bool(config.seeds), 'seeds is empty: give one or more')
  for seed in config.seeds:
    require(
      isinstance(seed, int) and seed >= 0,
      f'seeds={config.seeds}: {seed!r} is not an integer of 0 or more',
    )
  require(
    len({*config.seeds}) == len(config.seeds),
    f'seeds={config.seeds} has one twice',
  )
  require(
    bool(config.seeded) or len(config.seeds) == 1,
    'seeded is empty, so that all seeds are the same run',
  )
  for name in ('x', 'by'):
    if config.plot[name]:
      _field(config, config.plot[name])
  for measure in config.measures:
    require(
      len(measure) == 4 and measure[1] in config.ends,
      f'measures: {measure!r} is not (title, one of ends, file, place)',
    )


def _stages(config, overrides: Mapping[str, Any], seed: int) -> dict:
  """Stage -> its config, at a point, with all but its inputs resolved."""
  stages = copy.deepcopy(config.stages)  # with the references between fields
  for key, value in overrides.items():
    *folders, name = key.split('.')
    tree = functools.reduce(lambda tree, part: tree[part], folders, stages)
    checks.require(  # ml_collections lets a bool pass for an int
      isinstance(value, bool) == isinstance(tree[name], bool),
      f'{key}={value!r} is no {type(tree[name]).__name__}',
    )
    tree[name] = value
  resolved = {}
  for name, stage in stages.items():
    stage = stage.copy_and_resolve_references()
    for field in study.SEEDS:
      stage[field] = config[field]
    if name in config.seeded:
      stage.train_seed = seed
    resolved[name] = stage
  return resolved


def _name(
  config, stages: Mapping, workdir: pathlib.Path, runs: dict[str, Run]
) -> dict[str, str]:
  """Stage -> run, of those that the ends start from; new runs go to `runs`."""
  named, path = {}, []

  def place(name: str, user: str) -> str:
    """The folder of a stage, from beside it."""
    given = config.given.get(name)
    if given:
      given = pathlib.Path(given).expanduser()
      return (
        str(given)
        if given.is_absolute()
        else os.path.relpath(given.absolute(), workdir.absolute() / 'run')
      )
    checks.require(
      name in stages,
      f'{user}: no stage {name!r} is run here: give its '
      f'folder, as in --config.given.{name}=PATH',
    )
    return f'../{visit(name)}'

  def visit(name: str) -> str:
    if name in named:
      return named[name]
    checks.require(
      name not in path,
      f'the inputs go in a circle: {" -> ".join([*path, name])}',
    )
    path.append(name)
    stage, needs = stages[name], []
    for field, value in stage.inputs.items():
      parts = pathlib.PurePosixPath(value).parts
      if len(parts) > 1 and parts[0] == '..' and parts[1] != '..':
        found = place(parts[1], f'stages.{name}.inputs.{field}={value}')
        stage.inputs[field] = '/'.join([found, *parts[2:]])
        if parts[1] in named:
          needs.append(named[parts[1]])
    path.pop()
    run = Run(
      f'{stage.stage}-{digest(stage)}', stage, tuple(dict.fromkeys(needs))
    )
    if run.name not in runs:
      try:
        registry.validate(stage)
      except ValueError as error:
        raise checks.ConfigError(f'stages.{name}: {error}') from error
    runs.setdefault(run.name, run)
    named[name] = run.name
    return run.name

  for end in config.ends:
    visit(end)
  study.check_together({name: stages[name] for name in named})
  return named


def digest(config) -> str:
  """Names what a config computes, not how it is watched or laid out."""
  fields = {
    name: value
    for name, value in config.to_dict().items()
    if name not in run_folder.MAY_CHANGE
  }
  return files.fingerprint(fields)[:HASH]


def arguments(run: Run, workdir) -> list[str]:
  """The flags of `instructrl.main` that give this run.

  They start from experiments/STAGE.py at the run's size; each field that
  differs is a flag.

  Raises:
    ValueError: there are no such flags, or they give another config.
  """
  where = f'experiments/{run.stage}.py:{run.config.size}'
  checks.require(
    pathlib.Path(f'experiments/{run.stage}.py').is_file(),
    f'there is no experiments/{run.stage}.py in {pathlib.Path.cwd()}: stand '
    'in the checkout',
  )
  recipe = _recipe(where)
  wanted = flatten(run.config.to_dict())
  others = sorted({*recipe} ^ {*wanted})
  checks.require(
    not others,
    f'stage {run.stage!r} of the sweep and {where} '
    f'differ in whether they have the field {others[:1]}',
  )
  changed = [
    f'--config.{name}={value}'
    for name, value in wanted.items()
    if (value, type(value)) != (recipe[name], type(recipe[name]))
  ]
  found = [
    f'--config={where}',
    f'--workdir={pathlib.Path(workdir) / run.name}',
    *changed,
  ]
  checks.require(
    files.fingerprint(read_config(found).to_dict())
    == files.fingerprint(run.config.to_dict()),
    f'{run.name} cannot be given by flags: {shlex.join(found)}',
  )
  return found


@functools.cache
def _recipe(where: str) -> dict[str, Any]:
  return flatten(read_config([f'--config={where}']).to_dict())


def read_config(argv: Sequence[str]) -> ml_collections.ConfigDict:
  """The config that `instructrl.main` reads from its flags."""
  values = flags.FlagValues()
  argv = [sys.argv[0], *argv]
  holder = config_flags.DEFINE_config_file(
    'config', flag_values=values, sys_argv=argv
  )
  flags.DEFINE_string('workdir', None, '', flag_values=values)
  values(argv)
  return holder.value.copy_and_resolve_references()
