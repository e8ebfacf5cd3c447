"""The grid of a sweep: points that map 'STAGE.field' to a value."""

import ast
import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import copy
import difflib
import functools
import itertools
from typing import Any

import ml_collections

from instructrl.stages import checks

SHARED = ('world_seed', 'eval_seed')  # fields of all stages of a sweep
Grid = Sequence[Mapping[str, Any]]  # points: 'STAGE.field' -> value


def short_names(fields: Iterable[str]) -> dict[str, str]:
  """Returns field -> the name that people see.

  It is the last part, 'kl_coef' of 'ppo.ppo.kl_coef'; fields of several stages
  with the same last part have the stage before it.
  """
  names = {field: field.rpartition('.')[2] for field in fields}
  counts = collections.Counter(names.values())
  return {
    field: name if counts[name] == 1 else f'{field.partition(".")[0]} {name}'
    for field, name in names.items()
  }


def collect(sweep: Callable, config) -> list[dict[str, Any]]:
  """Returns the points that an ablation's `sweep(add, config)` adds.

  Raises:
    ConfigError: it adds no point, or a point is not a dict.
  """
  points = []

  def add(overrides):
    checks.require(
      isinstance(overrides, Mapping) and bool(overrides),
      f"sweep: add takes a dict of 'STAGE.field' to value; got {overrides!r}",
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
  """Returns the points combined with settings of the command line.

  Args:
    points: the ablation's points.
    config: the sweep's config.
    settings: 'STAGE.field=a,b,c'. The values replace those of a field that the
      points set already, and are combined with all other fields.
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
    current = field(config, key)
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
  """Returns a value of the command line in the type of its field."""
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
      f'--set {key}: value must be of type {type(current).__name__}; '
      f'got {text!r}'
    ) from None


def field(config, key: str) -> Any:
  """Returns the value of 'STAGE.field', or of one of `SHARED`, in a sweep.

  Raises:
    ConfigError: the sweep has no such field; similar fields are suggested.
  """
  if key in SHARED:
    return config[key]
  value = config.stages
  for name in key.split('.'):
    if not isinstance(value, ml_collections.ConfigDict) or name not in value:
      raise checks.ConfigError(_unknown(config, key))
    value = value[name]
  if isinstance(value, ml_collections.ConfigDict):
    raise checks.ConfigError(
      f'{key} is a group of fields: give one of {", ".join(value)}'
    )
  return value


def set_field(stages, key: str, value: Any) -> None:
  """Sets 'STAGE.field' in the stages of a sweep."""
  *folders, name = key.split('.')
  tree = functools.reduce(lambda tree, part: tree[part], folders, stages)
  wanted = type(tree[name]).__name__
  checks.require(  # ml_collections accepts a bool for an int
    isinstance(value, bool) == isinstance(tree[name], bool),
    f'{key} must be of type {wanted}; got {value!r}',
  )
  tree[name] = value


def _unknown(config, key: str) -> str:
  known = list(flatten(config.stages.to_dict()))
  stage, _, name = key.rpartition('.')
  start = f'{stage.split(".")[0]}.'
  near = [k for k in known if k.endswith(f'.{key}')] or [
    k for k in known if k.startswith(start) and k.endswith(f'.{name}')
  ]
  near = near or difflib.get_close_matches(key, known, 3, 0.7)
  hint = f'; did you mean {" or ".join(near[:4])}?' if near else '.'
  return (
    f'the sweep has no field {key!r}{hint} A field is STAGE.field; the stages '
    f'are {", ".join(config.stages)}'
  )


def flatten(tree: Mapping, prefix: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} -> {'a.b': 1}; an empty mapping is kept as a value."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[f'{prefix}{key}'] = value
  return flat
