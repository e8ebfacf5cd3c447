"""Architectures that a config takes from one of its inputs."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import ml_collections

from instructrl.models import network
from instructrl.runtime import files
from instructrl.runtime import run_folder
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages.model_settings import HOW_COMPUTED

# Defaults of model fields, for configs of runs older than a field.
_FIELDS = {
  f.name: f.default
  for f in dataclasses.fields(network.Transformer)
  if f.default is not dataclasses.MISSING
  and f.name not in ('dtype', 'param_dtype', 'rules', 'parent', 'name')
}


def resolve(config, workdir, known: Mapping[str, Any] | None = None):
  """Fills in the architectures that a config takes from its inputs.

  A model whose field `like` names an input has the architecture of the model
  that this input trained. The other fields of such a model say how the model is
  computed (see `HOW_COMPUTED`).

  Args:
    config: config of a stage.
    workdir: folder of the stage.
    known: {path of a run folder: its resolved config}, for folders that do not
      exist yet.

  Returns:
    The config itself if nothing is to be filled in, else a copy.

  Raises:
    ConfigError: the input does not exist, or has no model.
  """
  if resolved(config):
    return config
  config = config.copy_and_resolve_references()
  likes = {
    name: c.like
    for name, c in config.items()
    if isinstance(c, ml_collections.ConfigDict) and c.get('like')
  }
  for name, source in likes.items():
    known_inputs = {**config.inputs, **inputs.paths(config)}
    checks.require(
      source in known_inputs,
      f'{name}.like must be one of {", ".join(known_inputs)}; got {source!r}',
    )
    found = _architecture(config, workdir, source, known or {})
    fields = {**_FIELDS, **found, **config[name].to_dict()}
    fields = {
      field: tuple(value) if isinstance(value, list) else value
      for field, value in fields.items()
      if field != 'like'
    }
    config[name] = ml_collections.ConfigDict(fields)
  return config


def _architecture(config, workdir, source: str, known) -> dict:
  """Returns the fields of the model that an input trained."""
  group, field = inputs.paths(config).get(source, ('inputs', source))
  path = inputs.locate(workdir, config[group][field])
  above = [str(p) for p in (path, *path.parents)]
  planned = [known[p] for p in above if p in known]
  if planned:
    trained = planned[0].to_dict()
  else:
    folder = run_folder.find(inputs.input_path(config, workdir, field, group))
    checks.require(
      folder is not None, f'{group}.{field}: {path} must be in a run folder'
    )
    trained = files.read_json(folder / run_folder.CONFIG)
  checks.require(
    'num_layers' in trained.get('model', {}),
    f'{group}.{field}: {path} trained no model',
  )
  return {name: _plain(value) for name, value in trained['model'].items()}


def _plain(value):
  """Returns a tuple for a list; JSON has lists where configs have tuples."""
  return tuple(value) if isinstance(value, list) else value


def resolved(config) -> bool:
  """Returns whether all architectures of a config are filled in."""
  return not any(
    isinstance(c, ml_collections.ConfigDict) and c.get('like')
    for c in config.values()
  )


def compared(trained: dict, model):
  """Yields (field, theirs, ours) of each field that says what a model computes.

  Args:
    trained: config of a model from a checkpoint. Tuples are lists there; a
      field that the checkpoint's version did not have counts as its default.
    model: config of the other model.
  """
  defaults = {
    f.name: f.default for f in dataclasses.fields(network.Transformer)
  }
  for field in sorted({*trained, *(model if trained else ())}):
    if field in model and field not in HOW_COMPUTED:
      yield (
        field,
        _plain(trained.get(field, defaults.get(field))),
        _plain(model[field]),
      )
