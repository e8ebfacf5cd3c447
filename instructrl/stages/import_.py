"""Another tool's checkpoint as a finished run folder.

  DST/config.json            stage 'import', the model's fields, the source
  DST/checkpoints/00000000/  the parameters, saved leaf by leaf
  DST/tokenizer.hf.json      the tokenizer, with the layout of prompts
  DST/hf/                    what an export takes over: config.json, ...
  DST/DONE                   written last

so that `inputs.init=DST` of a stage and `instructrl.sample DST` take it as they
take a run of their own. All that can be wrong with the source is looked for
before anything is written, and what a kill leaves is not used: the same command
begins again.
"""

import collections
from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import json
import math
import pathlib
import shutil
import time
from typing import Any

import jax
import numpy as np

from instructrl.interop import hf
from instructrl.interop import hf_config
from instructrl.interop import weight_files
from instructrl.models import network
from instructrl.models import transformer
from instructrl.runtime import arrays
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime import sharding
from instructrl.runtime.checkpointer import Checkpointer
from instructrl.runtime.progress import Progress
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages.run import FORMAT_VERSION
from instructrl.tokenizers.imported import HFTokenizer
from instructrl.tokenizers.layout import CHAT

STAGES = ('import',)

STAGE = STAGES[0]
KEPT = 'hf'  # the folder of what an export takes over
_KEPT_FILES = ('config.json', 'generation_config.json')
PADS = ('mean', 'zeros')
DTYPES = checks.DTYPES
# What a kill may leave before there is a config.json.
_BEFORE_CONFIG = (run_folder.LOCK, f'.{run_folder.CONFIG}.tmp')
_COMPARED = 1 << 20  # numbers of two tables that are compared at a time
# Fields of `network.Transformer` that no config of a model has.
_NO_FIELDS = ('vocab_size', 'rules', 'parent', 'name')


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint that was opened and found to be whole.

  Attributes:
    path: where it is.
    config: as config.json says it.
    weights: see `weights`.
    kept: file name -> contents, for a later export.
    fingerprint: tells it from others.
  """

  path: pathlib.Path
  config: dict[str, Any]
  weights: Any
  kept: dict[str, bytes]
  fingerprint: str


def open_source(path) -> Source:
  """Opens a Hugging Face folder or a GGUF file, and checks its tensors.

  Raises:
    ValueError: an unknown architecture or a field that is not supported; a
      tensor that is missing, of another shape, or unknown; a damaged file. The
      message names file and tensor or field.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    if not (path / 'config.json').is_file():
      raise ValueError(
        f'{path / "config.json"} does not exist: give the '
        "folder of a model, with config.json, the tokenizer's "
        'files and safetensors'
      )
    config = files.read_json(path / 'config.json')
    with named(path / 'config.json'):
      hf_config.model_fields(config)
    weights = weight_files.open_weights(path)
    kept = {
      name: (path / name).read_bytes()
      for name in _KEPT_FILES
      if (path / name).is_file()
    }
  else:
    weights = weight_files.open_weights(path)
    config = weights.config
    with named(path):
      hf_config.model_fields(config)
    kept = {'config.json': json.dumps(config, indent=2).encode()}
  with named(path):
    hf.check(config, weights.shapes)
  weights.check(hf.expected(config, weights.shapes))
  with named(path):
    _check_tied(config, weights)
  return Source(
    path,
    config,
    weights,
    kept,
    weight_files.fingerprint(
      weights, json.dumps(config, sort_keys=True).encode()
    ),
  )


def _check_tied(config, weights) -> None:
  """Refuses an unembedding of its own in a model that config.json calls tied.

  Other tools use it then, whatever config.json says.
  """
  # A GGUF file is tied only where it has no unembedding.
  for head, embed in hf.tied_heads(config, weights.shapes):
    weights.check([head])
    shape = weights.shapes[embed]
    step = max(1, _COMPARED // math.prod(shape[1:]))
    if weights.shapes[head] != shape or not all(
      np.array_equal(
        *(
          weights.read_rows(name, first, first + step) for name in (head, embed)
        )
      )
      for first in range(0, shape[0], step)
    ):
      raise ValueError(
        f'tensor {head} is not equal to {embed}, and by config.json the two '
        'are tied: set tie_word_embeddings to false there, or leave the '
        'tensor out'
      )


@contextlib.contextmanager
def named(path):
  """Puts a file's name before what is wrong with its contents."""
  try:
    yield
  except ValueError as error:
    if str(path) in str(error):
      raise
    raise ValueError(f'{path}: {error}') from error


def read_tokenizer(source: Source, rows: int, **layout) -> HFTokenizer:
  """The tokenizer of a source.

  Args:
    source: of the model.
    rows: of its embedding.
    **layout: options of `HFTokenizer.from_source`.

  Raises:
    ValueError: it is missing, damaged or of a kind that is not supported, or
      has more tokens than the model has rows.
  """
  read = (
    HFTokenizer.from_folder if source.path.is_dir() else HFTokenizer.from_gguf
  )
  with named(source.path):
    return read(source.path, vocab_rows=rows, **layout)


def run_config(
  source: Source,
  tok: HFTokenizer,
  *,
  dtype: str,
  pad: str,
  mesh: Mapping[str, int],
) -> dict[str, Any]:
  """config.json of the run folder."""
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
  """The model of a run's config, and where its parameters lie."""
  model = transformer.make_model(
    vocab_size=tok.vocab_size, rules=config['rules'], **config['model']
  )
  return build.lm_layout(model, mesh)


class Reader:
  """Makes the arrays of a model, each on its devices, from a source.

  A device's part is read without the others. Rows that the source does not
  have, of a PAD that was added, are the mean of the others, or zeros.
  """

  def __init__(self, source: Source, layout: build.Layout, *, pad: str):
    self._weights, self._pad = source.weights, pad
    self._leaves = {
      '/'.join(leaf.path): leaf
      for leaf in hf.leaves(source.config, source.weights.shapes)
    }
    self._wanted = {
      arrays.name_of(path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(layout.abstract)
    }
    if set(self._leaves) != set(self._wanted):
      raise AssertionError(
        f'models.hf and transformer differ in '
        f'{sorted(set(self._leaves) ^ set(self._wanted))}'
      )

  def array(self, name: str) -> jax.Array:
    """The array of a leaf 'a/b', on the devices of this process."""
    wanted, leaf = self._wanted[name], self._leaves[name]
    made = {}  # devices that hold the same part read it once

    def part(index):
      bounds = tuple(s.indices(n)[:2] for s, n in zip(index, wanted.shape))
      if bounds not in made:
        made[bounds] = self._part(leaf, bounds, wanted)
      return made[bounds]

    return jax.make_array_from_callback(wanted.shape, wanted.sharding, part)

  def _part(self, leaf, bounds, wanted) -> np.ndarray:
    index = tuple(slice(a, b) for a, b in bounds)
    rows, read = leaf.shape[0] if leaf.shape else 0, self._weights.read
    if tuple(leaf.shape) == wanted.shape:
      return hf.read_slice(leaf, index, read, wanted.dtype)
    out = np.zeros([b - a for a, b in bounds], wanted.dtype)
    first, last = bounds[0]
    if first < rows:
      own = slice(first, min(last, rows))
      out[: own.stop - first] = hf.read_slice(
        leaf, (own, *index[1:]), read, wanted.dtype
      )
    if last > rows and self._pad == 'mean':
      mean = hf.read_slice(leaf, (slice(0, rows), *index[1:]), read, None).mean(
        axis=0, dtype=np.float64
      )
      out[max(rows - first, 0) :] = mean
    return out


def check_disk(folder: pathlib.Path, num_bytes: int) -> None:
  """Refuses what there is no room for; what is in the folder will be gone."""
  there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
  free = shutil.disk_usage(there).free + sum(
    p.stat().st_size for p in folder.rglob('*') if p.is_file()
  )
  if num_bytes > free:
    raise ValueError(
      f'{there}: {num_bytes / 1e9:.1f} GB are needed, and {free / 1e9:.1f} '
      'GB are free: make room, or take --dtype=bfloat16'
    )


def check_target(dst: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Refuses a folder of something else."""
  if dst.exists() and not dst.is_dir():
    raise ValueError(f'{dst} is in the way: a folder is needed there')
  if (
    not (dst / run_folder.CONFIG).exists()
    and dst.exists()
    and any(p.name not in _BEFORE_CONFIG for p in dst.iterdir())
  ):
    raise ValueError(f'{dst} is not empty, and no run folder: take another')
  run_folder.check_config(dst, config)


def read_source(src, **layout) -> tuple[Source, HFTokenizer]:
  """A checkpoint and its tokenizer, both found to be whole.

  Args:
    src: a Hugging Face folder or a GGUF file of the llama architecture.
    **layout: options of `HFTokenizer.from_source`.
  """
  source = open_source(src)
  rows = hf_config.model_fields(source.config)['vocab_rows']
  return source, read_tokenizer(source, rows, **layout)


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

  With several processes all of them must call it.

  Args:
    src: a Hugging Face folder or a GGUF file of the llama architecture.
    dst: the run folder.
    mesh: sizes of its axes (see `sharding.make_mesh`): each process reads what
      its devices hold. By default all is done on the first device.
    dtype: of the parameters as they are stored.
    pad: one of `PADS`, the row of a PAD that the model does not have.
    say: is given lines for people.
    **layout: options of `HFTokenizer.from_source`.

  Returns:
    What DONE says.

  Raises:
    ValueError: the source cannot be imported, or `dst` is of something else.
  """
  dst, began = pathlib.Path(dst), time.perf_counter()
  done, primary = run_folder.read_done(dst), processes.primary()
  if done is not None and _was_imported(dst, done, src):
    if primary:
      say(f'{dst}: finished before; {src} is no longer there')
    return done
  source, tok = read_source(src, **layout)
  if jax.process_count() > 1 and not mesh:
    raise ValueError(
      '--mesh is needed with several processes: it says which part is of which'
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
  if primary:
    run_folder.write_config(dst, config)
  processes.agree(0)
  with run_folder.only_process(dst, primary=primary):
    result = write(source, tok, config, planned, dst, pad=pad)
    if primary:
      run_folder.write_done(
        dst, {'seconds': time.perf_counter() - began, 'result': result}
      )
      say(f'{dst}: {told(result, tok)}')
  processes.agree(0)
  return {'result': result}


def _was_imported(dst: pathlib.Path, done: Mapping[str, Any], src) -> bool:
  """Whether a finished folder is of this source, which is here no more.

  The folder may have come from another machine: the source's name is compared.
  """
  return (
    not pathlib.Path(src).exists()
    and files.read_json(dst / run_folder.CONFIG)['stage'] == STAGE
    and pathlib.Path(done['result']['path']).name
    == pathlib.Path(src).absolute().name
  )


def told(result: Mapping[str, Any], tok: HFTokenizer) -> str:
  """One line about what was imported, for people."""
  layout = tok.layout
  prompts = (
    f'{layout.prompt_template + layout.response_template!r}'
    if layout.prompt_template != CHAT
    else 'its chat template'
    if layout.between_turns
    else 'its chat template, a dialogue as one turn'
  )
  return (
    f'{result["parameters"]:,} parameters, {tok.vocab_size:,} tokens in '
    f'{result["vocab_rows"]:,} rows; prompts are laid out by {prompts}; '
    f'{tok.pad_note}'
  )


def write(
  source: Source,
  tok: HFTokenizer,
  config: Mapping[str, Any],
  planned: build.Layout,
  dst: pathlib.Path,
  *,
  pad: str,
  label: str = '',
) -> dict:
  """Fills a run folder but for DONE, and returns what that is to say.

  Args:
    source: of the weights.
    tok: its tokenizer.
    config: of the run, see `run_config`.
    planned: where the parameters lie.
    dst: the folder.
    pad: one of `PADS`.
    label: shown before the stage's name.
  """
  reader = Reader(source, planned, pad=pad)
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


# --- The stage ---------------------------------------------------------------

LAYOUT = ('prompt_template', 'response_template', 'system')
_FOUND = ('origin', 'tokenizer', 'model')  # what a source says


def _layout(config) -> dict[str, str]:
  return {name: config[name] for name in LAYOUT}


def validate(config):
  """Refuses what makes no sense, by field name."""
  checks.validate_common(config)
  for name, choices in (('dtype', DTYPES), ('pad', PADS)):
    checks.require(
      config[name] in choices,
      f'{name}={config[name]!r} is none of {", ".join(choices)}',
    )


def resolve(config, workdir, known=None):
  """The stage's config with what its source says filled in.

  Raises:
    ConfigError: there is no source.
    ValueError: it cannot be imported.
  """
  if 'model' in config:
    return config
  checks.require(
    bool(config.source),
    'source is empty: give it a Hugging Face folder or a GGUF file',
  )
  workdir = pathlib.Path(workdir)
  done = run_folder.read_done(workdir)
  if done and _was_imported(workdir, done, config.source):
    # The source is not needed any more.
    found = files.read_json(workdir / run_folder.CONFIG)
  else:
    found = run_config(
      *read_source(config.source, **_layout(config)),
      dtype=config.dtype,
      pad=config.pad,
      mesh={},
    )
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for name in _FOUND:
      config[name] = found[name]
  return config


def run(config, workdir, label: str = '') -> dict:
  """Imports what `config.source` is. Returns what DONE says."""
  validate(config)
  workdir = pathlib.Path(workdir)
  source, tok = read_source(config.source, **_layout(config))
  values = config.to_dict()
  checks.require(
    source.fingerprint == config.origin.fingerprint,
    f'source: {config.source} has changed since this run began',
  )
  planned = make_layout(values, tok, sharding.make_mesh(config.mesh.to_dict()))
  check_disk(workdir, planned.num_bytes)
  if processes.primary():
    run_folder.write_config(workdir, values)
  result = write(
    source, tok, values, planned, workdir, pad=config.pad, label=label
  )
  if processes.primary():
    print(f'{label} import: {told(result, tok)}'.strip(), flush=True)
  return result


# --- The arrays --------------------------------------------------------------


def _save(
  checkpointer, planned: build.Layout, reader: Reader, meta, label: str
) -> None:
  sizes = collections.Counter(
    {
      f'params/{arrays.name_of(path)}': math.prod(x.shape) * x.dtype.itemsize
      for path, x in jax.tree_util.tree_leaves_with_path(planned.shapes)
    }
  )
  total, done, number = sizes.total(), 0, 0
  # A line every ten seconds at most; a large leaf takes longer.
  with Progress(
    STAGE,
    max(total >> 20, 1),
    unit='MB',
    label=label,
    primary=processes.primary(),
  ) as progress:

    def make(name):
      nonlocal done, number
      progress.update(done >> 20, {'tensors': number})
      array = reader.array(name.removeprefix('params/'))
      done, number = done + sizes[name], number + 1
      return array

    checkpointer.save_leaves(0, {'params': planned.shapes}, make, meta)
    progress.update(max(total >> 20, 1), {'tensors': number})
