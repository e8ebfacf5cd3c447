"""Imports another tool's checkpoint as a finished run folder.

  DST/config.json            stage 'import', the model's fields, the source
  DST/checkpoints/00000000/  the parameters, saved leaf by leaf
  DST/tokenizer.hf.json      the tokenizer, with the prompt layout
  DST/hf/                    config.json, ... of the source, for an export
  DST/DONE                   written last

Stages (`inputs.init=DST`) and `instructrl.sample DST` use the folder like a run
of their own. The source is checked completely before anything is written.
Nothing uses the folder of an import that was killed: the same command starts
again.
"""

import collections
from collections.abc import Callable, Mapping
import dataclasses
import math
import pathlib
import shutil
import time
from typing import Any

import jax

from instructrl.interop import hf_config
from instructrl.interop.source import ArrayReader
from instructrl.interop.source import check_finite
from instructrl.interop.source import PADS
from instructrl.interop.source import read_source
from instructrl.interop.source import WeightSource
from instructrl.models import network
from instructrl.models import transformer
from instructrl.runtime import arrays
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime import sharding
from instructrl.runtime import storage
from instructrl.runtime import typed
from instructrl.runtime.checkpointer import Checkpointer
from instructrl.runtime.progress import Progress
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages.run import FORMAT_VERSION
from instructrl.tokenizers.imported import HFTokenizer
from instructrl.tokenizers.layout import CHAT

STAGES = ('import',)

STAGE = STAGES[0]
KEPT = 'hf'  # folder of the source's files that an export uses
DTYPES = checks.DTYPES
# Files that a killed import may leave before it writes config.json.
_BEFORE_CONFIG = (run_folder.LOCK, f'.{run_folder.CONFIG}.tmp')
# Fields of `network.Transformer` that are not in the config of a model.
_NO_FIELDS = ('vocab_size', 'rules', 'parent', 'name')


def run_config(
  source: WeightSource,
  tok: HFTokenizer,
  *,
  dtype: str,
  pad: str,
  mesh: Mapping[str, int],
) -> dict[str, Any]:
  """Returns config.json of the run folder; arguments as for `import_model`."""
  fields = {
    f.name: f.default
    for f in dataclasses.fields(network.Transformer)
    if f.name not in _NO_FIELDS
  }
  fields |= hf_config.model_fields(source.config)
  fields |= {
    'dtype': 'float32',
    'param_dtype': dtype,
    'vocab_rows': max(fields['vocab_rows'], tok.vocab_size),
  }
  return {
    'stage': STAGE,
    'origin': {
      'model_type': source.config['model_type'],
      'fingerprint': source.fingerprint,
    },
    'tokenizer': tok.fingerprint,
    'pad': pad,
    'model': fields,
    'mesh': dict(mesh),
    'rules': [list(rule) for rule in sharding.RULES],
    'inputs': {},
  }


def make_layout(config: Mapping[str, Any], tok, mesh) -> build.Layout:
  """Returns the model of a run's config, and the sharding of its parameters."""
  model = transformer.make_model(
    vocab_size=tok.vocab_size, rules=config['rules'], **config['model']
  )
  return build.lm_layout(model, mesh)


def check_disk(folder: pathlib.Path, num_bytes: int) -> None:
  """Refuses to write more bytes than fit; counts the folder's files as free."""
  there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
  free = shutil.disk_usage(there).free + sum(
    p.stat().st_size for p in folder.rglob('*') if p.is_file()
  )
  if num_bytes > free:
    raise ValueError(
      f'{there}: {storage.size(num_bytes)} are needed, but only '
      f'{storage.size(free)} are free: make room, or use --dtype=bfloat16'
    )


def check_target(dst: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Refuses a folder that has something else than this import."""
  if dst.exists() and not dst.is_dir():
    raise ValueError(f'{dst} is a file; give a folder')
  if dst.exists() and not (dst / run_folder.CONFIG).exists():
    if any(path.name not in _BEFORE_CONFIG for path in dst.iterdir()):
      raise ValueError(
        f'{dst} is not empty and not a run folder: give another folder'
      )
  run_folder.check_config(dst, config)


def import_model(
  src,
  dst,
  *,
  mesh: Mapping[str, int] | None = None,
  dtype: str = 'float32',
  pad: str = 'mean',
  say: Callable[[str], None] = print,
  **layout,
) -> dict:
  """Makes a run folder of a checkpoint; see the top of this file.

  If there are several processes, all of them must call this function.

  Args:
    src: a Hugging Face folder, or a GGUF file of the llama architecture.
    dst: the run folder.
    mesh: sizes of the mesh axes (see `sharding.make_mesh`); each process reads
      the parts of its devices. The default is one device.
    dtype: of the stored parameters.
    pad: one of `PADS`: the row of a PAD that the model lacks.
    say: receives messages for people.
    **layout: options of `HFTokenizer.from_source`.

  Returns:
    The contents of DONE.

  Raises:
    ValueError: the source cannot be imported, or `dst` has something else.
  """
  src, dst, began = typed.path(src), typed.path(dst), time.perf_counter()
  done, primary = run_folder.read_done(dst), processes.primary()
  if done is not None and _was_imported(dst, done, src):
    if primary:
      say(f'{dst}: finished before; {src} no longer exists')
    return done
  source, tok = read_source(src, **layout)
  if jax.process_count() > 1 and not mesh:
    raise ValueError(
      '--mesh is needed with several processes: it distributes the parameters'
    )
  devices = None if mesh else jax.devices()[:1]
  made_mesh = sharding.make_mesh(mesh or {}, devices)
  config = run_config(source, tok, dtype=dtype, pad=pad, mesh=mesh or {})
  check_target(dst, config)
  if processes.agree(done is not None):
    if primary:
      say(f'{dst}: finished before')
    return run_folder.read_done(dst)
  planned = make_layout(config, tok, made_mesh)
  check_disk(dst, planned.num_bytes)
  check_finite(source)
  if primary:
    run_folder.write_config(dst, config)
  processes.agree(0)
  with run_folder.only_process(dst, primary=primary):
    result = write(source, tok, config, planned, dst)
    if primary:
      seconds = time.perf_counter() - began
      run_folder.write_done(dst, {'seconds': seconds, 'result': result})
      say(f'{dst}: {summary(result, tok)}')
  processes.agree(0)
  return {'result': result}


def _was_imported(dst: pathlib.Path, done: Mapping[str, Any], src) -> bool:
  """Returns whether a finished folder has a source that no longer exists.

  The folder may come from another machine, so only names are compared.
  """
  return (
    not typed.path(src).exists()
    and files.read_json(dst / run_folder.CONFIG)['stage'] == STAGE
    and pathlib.Path(done['result']['path']).name
    == typed.path(src).absolute().name
  )


def summary(result: Mapping[str, Any], tok: HFTokenizer) -> str:
  """Returns one line about what was imported."""
  layout = tok.layout
  if layout.prompt_template != CHAT:
    prompts = repr(layout.prompt_template + layout.response_template)
  elif layout.between_turns:
    prompts = 'its chat template'
  else:
    prompts = 'its chat template, a dialogue as one turn'
  return (
    f'{result["parameters"]:,} parameters, {tok.vocab_size:,} tokens in '
    f'{result["vocab_rows"]:,} rows; prompts are laid out by {prompts}; '
    f'{tok.pad_note}'
  )


def write(
  source: WeightSource,
  tok: HFTokenizer,
  config: Mapping[str, Any],
  planned: build.Layout,
  dst: pathlib.Path,
  *,
  label: str = '',
) -> dict:
  """Writes all of a run folder except DONE, and returns the run's result.

  Args:
    source: the checkpoint.
    tok: its tokenizer.
    config: of the run, see `run_config`.
    planned: the model and the sharding of its parameters.
    dst: the folder.
    label: shown before the stage's name.
  """
  if processes.primary():
    (dst / KEPT).mkdir(parents=True, exist_ok=True)
    for name, text in source.kept.items():
      files.atomic_write(dst / KEPT / name, text)
    tok.save(dst / tok.FILE)
  meta = {
    'format_version': FORMAT_VERSION,
    'config': dict(config),
    'tokenizer': tok.fingerprint,
    'export': ['params'],
  }
  reader = ArrayReader(source, planned.abstract, pad=config['pad'])
  with Checkpointer(dst / 'checkpoints') as checkpointer:
    if checkpointer.latest() is None:
      _save(checkpointer, planned, reader, meta, label)
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(planned.shapes))
  return {
    'parameters': count,
    'vocab_size': tok.vocab_size,
    'vocab_rows': config['model']['vocab_rows'],
    'pad': tok.pad_note,
    'path': str(source.path.absolute()),
  }


def _save(
  checkpointer, planned: build.Layout, reader: ArrayReader, meta, label: str
) -> None:
  """Saves the arrays one at a time."""
  leaves = jax.tree_util.tree_leaves_with_path(planned.shapes)
  sizes = collections.Counter(
    {
      f'params/{arrays.name_of(path)}': math.prod(x.shape) * x.dtype.itemsize
      for path, x in leaves
    }
  )
  total, done, number = max(sizes.total() >> 20, 1), 0, 0
  primary = processes.primary()
  with Progress(
    STAGE, total, unit='MB', label=label, primary=primary
  ) as progress:

    def make(name):
      nonlocal done, number
      progress.update(done >> 20, {'tensors': number})
      array = reader.array(name.removeprefix('params/'))
      done, number = done + sizes[name], number + 1
      return array

    checkpointer.save_leaves(0, {'params': planned.shapes}, make, meta)
    progress.update(total, {'tensors': number})


# --- The stage ---------------------------------------------------------------

LAYOUT = ('prompt_template', 'response_template', 'system')
_FOUND = ('origin', 'tokenizer', 'model')  # fields that come from the source


def layout_of(given: Mapping[str, str]) -> dict[str, str]:
  """Returns the options of the layout in a config or flags, as typed."""
  return {name: typed.text(given[name]) for name in LAYOUT}


def validate(config):
  """Raises a ConfigError that names the field if the config makes no sense."""
  checks.validate_common(config)
  for name, choices in (('dtype', DTYPES), ('pad', PADS)):
    checks.require(
      config[name] in choices,
      f'{name} must be one of {", ".join(choices)}; got {config[name]!r}',
    )


def resolve(config, workdir, known=None):
  """Returns the config with the fields that come from the source.

  Raises:
    ConfigError: `config.source` is empty.
    ValueError: the source cannot be imported.
  """
  del known
  if 'model' in config:
    return config
  checks.require(
    bool(config.source),
    'source is empty: give it a Hugging Face folder or a GGUF file',
  )
  workdir = pathlib.Path(workdir)
  done = run_folder.read_done(workdir)
  if done and _was_imported(workdir, done, config.source):
    found = files.read_json(workdir / run_folder.CONFIG)
  else:
    source, tok = read_source(config.source, **layout_of(config))
    found = run_config(source, tok, dtype=config.dtype, pad=config.pad, mesh={})
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for name in _FOUND:
      config[name] = found[name]
  return config


def run(config, workdir, label: str = '') -> dict:
  """Imports `config.source`; returns the result for DONE."""
  validate(config)
  workdir = pathlib.Path(workdir)
  source, tok = read_source(config.source, **layout_of(config))
  values = config.to_dict()
  checks.require(
    source.fingerprint == config.origin.fingerprint,
    f'source: {config.source} has changed since this run began',
  )
  planned = make_layout(values, tok, sharding.make_mesh(config.mesh.to_dict()))
  check_disk(workdir, planned.num_bytes)
  check_finite(source)
  if processes.primary():
    run_folder.write_config(workdir, values)
  result = write(source, tok, values, planned, workdir, label=label)
  if processes.primary():
    print(f'{label} import: {summary(result, tok)}'.strip(), flush=True)
  return result
