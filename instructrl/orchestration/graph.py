"""The graph of stages that a study or a sweep runs.

A node is one stage with all its fields known, and its folder. A study is a
graph with one point, whose folders have the stages' own names. A sweep has many
points, and its folders are named STAGE-HASH after the stage's config. That
config contains the folders of the inputs, so points that have the same stage
share its folder, and the stage runs once.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import copy
import dataclasses
import itertools
import os
import pathlib
import re
from typing import Any

import ml_collections

from instructrl.orchestration import grid
from instructrl.orchestration import rounds
from instructrl.runtime import files
from instructrl.runtime import run_folder
from instructrl.runtime import typed
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import registry
from instructrl.stages import runner

SEEDS = ('world_seed', 'train_seed', 'eval_seed')
HASH = 10  # digits in a folder's name


@dataclasses.dataclass(frozen=True)
class Node:
  """One stage with all its fields known.

  Attributes:
    name: name of its folder.
    config: the stage's config.
    resolved: `config` with the architectures of its inputs filled in.
    needs: names of the nodes that it starts from.
    key: its name in `config.stages`, such as 'nlp' of the stage 'sft'.
  """

  name: str
  config: ml_collections.ConfigDict
  resolved: ml_collections.ConfigDict
  needs: tuple[str, ...]
  key: str

  @property
  def stage(self) -> str:
    return self.config.stage


@dataclasses.dataclass(frozen=True)
class Point:
  """One setting of a sweep with one seed.

  Attributes:
    overrides: 'STAGE.field' -> value.
    seed: the train seed of the stages in `config.seeded`.
    runs: stage of the sweep's config -> name of its node, for `config.ends` and
      all stages that they start from, in an order in which they can run.
  """

  overrides: Mapping[str, Any]
  seed: int
  runs: Mapping[str, str]

  @property
  def label(self) -> str:
    names = grid.short_names(self.overrides)
    fields = [
      f'{names[key]}={value!r}' for key, value in self.overrides.items()
    ]
    return ', '.join([*fields, f'seed {self.seed}'])


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The points of a sweep and their nodes.

  Attributes:
    points: in the order of the grid, all seeds of a setting together.
    nodes: name -> node, in an order in which they can run.
    merged: (label of a point that equals an earlier point, label of that one).
  """

  points: list[Point]
  nodes: dict[str, Node]
  merged: list[tuple[str, str]]


def titles(sweeps: Sequence[Sweep]) -> dict[str, str]:
  """Returns {name of a node: 'ppo_ptx (kl_coef=0.1, seed 0)'}.

  The settings are those of all points that use the node. A node of all points
  has the name of its stage.
  """
  found: dict[str, str] = {}
  for sweep in sweeps:
    for name in sweep.nodes:
      users = [point for point in sweep.points if name in point.runs.values()]
      stage = next(s for s, run in users[0].runs.items() if run == name)
      first = users[0]
      same = {
        key: value
        for key, value in first.overrides.items()
        if all(point.overrides.get(key) == value for point in users)
      }
      label = Point(same, first.seed, {}).label
      if any(point.seed != first.seed for point in users):
        label = label.rpartition('seed ')[0].rstrip(', ')
      alone = len(users) == len(sweep.points) or not label
      found.setdefault(name, stage if alone else f'{stage} ({label})')
  several = [
    t for t, count in collections.Counter(found.values()).items() if count > 1
  ]
  return {
    name: f'{title} {name[-HASH:]}' if title in several else title
    for name, title in found.items()
  }


def of_study(config, workdir) -> dict[str, Node]:
  """Returns {stage: node} for the stages in `config.order`, validated.

  Args:
    config: a study's config; see experiments/study.py.
    workdir: the folder of the study.

  Raises:
    ConfigError: a stage's config is invalid; the stage and field are named.
  """
  checks.require(bool(config.order), 'order is empty: name one or more stages')
  for name in config.order:
    checks.require(
      name in config.stages,
      f'order must name stages of the config; got {name!r}',
    )
    once = config.order.count(name) == 1
    checks.require(once, f'order must name each stage once; {name!r} is twice')
  config = rounds.expanded(config)
  stages = _stages(config)
  builder = _Builder(config, workdir, hashed=False)
  builder.add({name: stages[name] for name in config.order}, config.order)
  return builder.nodes


def of_sweep(config, points: grid.Grid, workdir) -> Sweep:
  """Returns all points with all seeds, validated.

  Args:
    config: a sweep's config; see experiments/ablations/base.py.
    points: the grid.
    workdir: the folder of the runs.

  Raises:
    ConfigError: a point is invalid; the point, the stage and field are named.
  """
  _check_sweep(config, {field for point in points for field in point})
  builder = _Builder(config, workdir, hashed=True)
  found, merged, known = [], [], {}
  for overrides in points:
    for key in overrides:
      grid.field(config, key)
      checks.require(
        key in grid.SHARED or key.split('.')[-1] not in SEEDS,
        f"{key}: a point cannot set a stage's seed: give --config.seeds, or "
        'world_seed or eval_seed, which all stages share',
      )
    for seed in config.seeds:
      point = Point(overrides, seed, {})
      try:
        runs = builder.add(_stages(config, overrides, seed), config.ends)
      except (TypeError, ValueError) as error:
        raise checks.ConfigError(f'{point.label}: {error}') from error
      ends = tuple(runs[end] for end in config.ends)
      if ends in known:
        merged.append((point.label, known[ends]))
      else:
        known[ends] = point.label
        found.append(dataclasses.replace(point, runs=runs))
  return Sweep(found, builder.nodes, merged)


def _check_sweep(config, fields) -> None:
  """Raises a ConfigError if a field of the sweep itself is invalid.

  Args:
    config: the sweep's config.
    fields: that differ between its points.
  """
  from instructrl.reports import shapes  # a stage's process needs no scipy

  require, seeds = checks.require, config.seeds
  for field, meaning in (
    ('ends', 'name the stages whose results are wanted'),
    ('seeds', 'give one or more'),
  ):
    require(bool(config[field]), f'{field} is empty: {meaning}')
  for field in ('ends', 'seeded'):
    for name in config[field]:
      require(
        name in config.stages and not config.given.get(name),
        f'{field} must name stages that the sweep runs; got {name!r}',
      )
  require(
    all(isinstance(seed, int) and seed >= 0 for seed in seeds),
    f'seeds must be integers of 0 or more; got {seeds}',
  )
  require(len({*seeds}) == len(seeds), f'seeds={seeds} has a seed twice')
  require(
    bool(config.seeded) or len(seeds) == 1,
    'seeded is empty, so all seeds would give the same run',
  )
  for name in ('x', 'by'):
    if config.plot[name]:
      grid.field(config, config.plot[name])
  for measure in config.measures:
    require(
      len(measure) == 4 and measure[1] in config.ends,
      'measures must be (title, one of ends, file, place); '
      f'got {tuple(measure)!r}',
    )
  titles = [measure[0] for measure in config.measures]
  for mark in config.paper:
    require(
      len(mark) == 3 and mark[0] in titles,
      'paper must be (title of a measure, value of plot.x, number); got '
      f'{tuple(mark)!r}',
    )
  for line in config.lines:
    require(
      len(line) == 5 and line[0] in titles and line[2] in config.ends,
      'lines must be (title of a measure, label, one of ends, file, place); '
      f'got {tuple(line)!r}',
    )
  for fault in shapes.faults(config.expected, titles, fields):
    require(False, fault)


def _stages(config, overrides=None, seed: int | None = None) -> dict:
  """Returns {stage: config} at a point, with the seeds of the study or sweep.

  Args:
    config: a study's or a sweep's config.
    overrides: 'STAGE.field' -> value.
    seed: the train seed of the stages in `config.seeded`.
  """
  stages = copy.deepcopy(config.stages)  # with the references between fields
  shared = {field: config[field] for field in SEEDS}
  for key, value in (overrides or {}).items():
    if key in grid.SHARED:
      shared[key] = value
    else:
      grid.set_field(stages, key, value)
  found = {}
  for name, stage in stages.items():
    found[name] = stage = stage.copy_and_resolve_references()
    stage.update(shared)
    if seed is not None and name in config.seeded:
      stage.train_seed = seed
  return found


class _Builder:
  """Builds the nodes of points; nodes that points share are built once."""

  def __init__(self, config, workdir, *, hashed: bool):
    """Builds no node yet.

    Args:
      config: a study's or a sweep's config.
      workdir: the folder of all nodes' folders.
      hashed: whether folders are named STAGE-HASH, and every input must be one
        of the stages or given; else folders have the stages' own names, and
        other inputs are folders of earlier runs.
    """
    self.nodes: dict[str, Node] = {}
    self._config = config
    self._workdir = pathlib.Path(workdir)
    self._hashed = hashed
    self._resolved: dict[str, Any] = {}  # folder -> resolved config

  def add(self, stages: Mapping[str, Any], ends: Sequence[str]):
    """Adds the ends and all stages that they start from.

    Args:
      stages: stage -> its config.
      ends: stages whose results are wanted.

    Returns:
      {stage: name of its node}, in an order in which the nodes can run.
    """
    named: dict[str, str] = {}
    for end in ends:
      self._visit(end, stages, named, ())
    _check_together({name: stages[name] for name in named})
    return named

  def _visit(self, name: str, stages, named: dict[str, str], users) -> None:
    if name in named:
      return
    circle = ' -> '.join([*users, name])
    checks.require(name not in users, f'the inputs form a circle: {circle}')
    config, needs = stages[name], []
    for group, field in inputs.paths(config).values():
      value = config[group][field]
      parts = pathlib.PurePosixPath(value).parts
      if len(parts) < 2 or parts[0] != '..' or parts[1] == '..':
        continue
      folder = self._given(parts[1])
      if not folder and parts[1] in stages:
        self._visit(parts[1], stages, named, (*users, name))
        needs.append(named[parts[1]])
        folder = f'../{needs[-1]}'
      checks.require(
        bool(folder) or not self._hashed,
        f'stages.{name}.{group}.{field}={value}: the sweep has no stage '
        f'{parts[1]!r}: give its folder, as in --config.given.{parts[1]}=PATH',
      )
      if folder:
        config[group][field] = '/'.join([folder, *parts[2:]])
    node = f'{config.stage}-{digest(config)}' if self._hashed else name
    named[name] = node
    if node not in self.nodes:
      resolved = self._validated(name, node, config)
      unique = (*dict.fromkeys(needs),)
      self.nodes[node] = Node(node, config, resolved, unique, name)

  def _given(self, name: str) -> str:
    """Returns the folder in `config.given`, as seen from a run; '' if none."""
    given = self._config.get('given', {}).get(name)
    if not given:
      return ''
    path = typed.path(given)
    if path.is_absolute():
      return str(path)
    return os.path.relpath(path.absolute(), self._workdir.absolute() / 'run')

  def _validated(self, name: str, node: str, config):
    """Returns the resolved config of a new node."""
    folder = os.path.normpath(os.path.join(self._workdir, node))
    try:
      resolved = registry.resolve(config, folder, self._resolved)
      registry.validate(resolved)
    except ValueError as error:
      hints = [
        f'; --config.{field} sets it in all stages'
        for field in self._config
        if re.search(rf'\.{field}(=| must)', str(error))
      ]
      message = f'stages.{name}: {error}{"".join(hints)}'
      raise checks.ConfigError(message) from error
    self._resolved[folder] = resolved
    return resolved


def _check_together(configs: Mapping[str, Any]) -> None:
  """Raises a ConfigError if a stage cannot read what another one writes."""
  of = lambda stage: [(n, c) for n, c in configs.items() if c.stage == stage]
  for (writer, written), (reader, read) in itertools.product(
    of('rankings'), of('reward')
  ):
    checks.require(
      written.max_responses <= read.max_responses,
      f'stages.{writer}.max_responses={written.max_responses} is more than '
      f'stages.{reader}.max_responses={read.max_responses}',
    )


def digest(config) -> str:
  """Returns the hash of the fields that decide what a stage computes."""
  fields = {
    name: value
    for name, value in config.to_dict().items()
    if name not in run_folder.MAY_CHANGE
  }
  return files.fingerprint(fields)[:HASH]


def finished(node: Node, workdir) -> bool:
  return run_folder.read_done(pathlib.Path(workdir) / node.name) is not None


def needed(
  nodes: Mapping[str, Node], ends: Iterable[str], workdir
) -> list[Node]:
  """Returns the nodes to look at: all ends, and the needs of unfinished nodes.

  The folders that a finished end started from may have been removed.
  """
  wanted = set()

  def visit(name):
    if name not in wanted:
      wanted.add(name)
      if not finished(nodes[name], workdir):
        for need in nodes[name].needs:
          visit(need)

  for end in ends:
    visit(end)
  return [node for name, node in nodes.items() if name in wanted]


def check_folders(nodes: Iterable[Node], workdir) -> None:
  """Checks the folders and source files of nodes before anything is written.

  Raises:
    ValueError: a folder belongs to another config, or was made from inputs that
      have changed since, or a source is missing.
  """
  for node in nodes:
    config = node.resolved
    folder = pathlib.Path(workdir) / node.name
    run_folder.check_config(folder, config.to_dict())
    if finished(node, workdir):
      runner.check_inputs(config, folder)
    else:
      registry.check_sources(config)
