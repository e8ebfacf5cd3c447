"""Exports a run's parameters as a folder that transformers and vLLM load.

A policy becomes the family's ForCausalLM, a reward model its
ForSequenceClassification with one label. Two things differ for a reward model:

- Other tools' heads have no bias. config.json has the bias as `score_bias`; add
  it to their score.
- Other tools pool at the last token that is not PAD; here the score belongs to
  the last response token, EOS included. Both are the same token if the text
  ends with the response's EOS, because PAD is never EOS here.
"""

import collections
from collections.abc import Callable, Mapping
import dataclasses
import math
import pathlib
from typing import Any

import jax
import ml_dtypes
import numpy as np

from instructrl.interop import hf
from instructrl.interop import hf_config
from instructrl.interop import weights_writer
from instructrl.interop.families import FAMILIES
from instructrl.runtime import arrays
from instructrl.runtime import checkpoint
from instructrl.runtime import errors
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime import typed
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.stages import opening
from instructrl.stages.import_ import check_disk
from instructrl.stages.import_ import KEPT
from instructrl.stages.import_ import STAGE
from instructrl.stages.inputs import input_path
from instructrl.stages.inputs import locate

STAGES = ('export',)

WEIGHTS = ('default', 'ema', 'params')
_DTYPES = {
  'float32': np.dtype('float32'),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
}
# Inputs that a stage's parameters start from.
_BEGINNINGS = ('init', 'policy')


def check_source(src) -> pathlib.Path:
  """Refuses a run folder that is not finished, as stages do."""
  path = typed.path(src)
  if not path.exists():
    raise ValueError(f'{path} does not exist')
  checkpoint.refuse_foreign(path)
  if (path / run_folder.CONFIG).exists() and run_folder.read_done(path) is None:
    raise ValueError(
      f'{path} is not finished; finish the run, or name one of its checkpoints'
    )
  return path


def subtree_of(meta: Mapping[str, Any], tensors, weights: str, where):
  """Returns the path of the parameters to export in a checkpoint's tree.

  Args:
    meta: of the checkpoint.
    tensors: names of its tensors.
    weights: one of WEIGHTS.
    where: the checkpoint, for messages.
  """
  default = list(meta.get('export', ()))
  if not default or 'model' not in meta.get('config', {}):
    raise ValueError(f'{where} was made by a stage that trains no model')
  if weights == 'default' or weights == 'params' and default[0] == 'params':
    return default
  if weights == 'ema':
    if not any(name.startswith('ema_params/') for name in tensors):
      raise ValueError(f'{where} has no EMA: leave --weights out')
    return ['ema_params']
  policy = any(name.startswith('params/policy/') for name in tensors)
  return ['params', 'policy'] if policy else ['params']


def origin(path: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder of the import that a run came from, if it exists."""
  folder = run_folder.find(path)
  for _ in range(20):  # more stages than a study has in a row
    if folder is None:
      return None
    config = files.read_json(folder / run_folder.CONFIG)
    if config.get('stage') == STAGE:
      return folder
    inputs = config.get('inputs', {})
    before = next((inputs[n] for n in _BEGINNINGS if inputs.get(n)), None)
    folder = before and run_folder.find(locate(folder, before).resolve())
  return None


@dataclasses.dataclass(frozen=True)
class ExportPlan:
  """The contents of an export.

  Attributes:
    fields: of the model.
    family: a name of FAMILIES.
    is_reward: whether the model is a reward model.
    lm: config.json of the language model.
    generation: generation_config.json of the source; {} if unknown.
  """

  fields: dict[str, Any]
  family: str
  is_reward: bool
  lm: dict[str, Any]
  generation: dict[str, Any]

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor."""
    shapes = hf.expected(self.lm)
    if self.is_reward:  # a score instead of an unembedding
      for name in FAMILIES[self.family].heads:
        shapes.pop(name, None)
      shapes['score.weight'] = (1, self.fields['d_model'])
    return shapes

  def num_bytes(self, dtype: str) -> int:
    """Returns the size of all tensors."""
    numbers = sum(math.prod(shape) for shape in self.shapes().values())
    return numbers * _DTYPES[dtype].itemsize

  def held(self) -> int:
    """Returns the maximal number of leaves that one tensor holds."""
    counts = collections.Counter(
      source.name for leaf in hf.leaves(self.lm) for source in leaf.sources
    )
    return max(counts.values())

  @classmethod
  def make(cls, config, names, source: pathlib.Path | None) -> 'ExportPlan':
    """Makes a plan.

    Args:
      config: of the run.
      names: tensor name -> (shape, dtype).
      source: folder of the import that the run came from, or None.
    """
    is_reward = 'head/kernel' in names
    rows = names['backbone/embed' if is_reward else 'embed'][0][0]
    preferred, generation = None, {}
    if source is not None:
      preferred = files.read_json(source / run_folder.CONFIG)['origin'][
        'model_type'
      ]
      path = source / KEPT / 'generation_config.json'
      generation = files.read_json(path) if path.exists() else {}
    family = choose_family(config['model'], preferred)
    return cls(
      config['model'],
      family,
      is_reward,
      hf_config.make_config(config['model'], family, vocab_rows=rows),
      generation,
    )


def choose_family(fields: Mapping[str, Any], preferred: str | None) -> str:
  """Returns a family that can express a model.

  Args:
    fields: of the model.
    preferred: the family that the model was imported as, or None.

  Raises:
    ValueError: no family can; names the field that the nearest family lacks.
  """
  if preferred in FAMILIES:
    nearest = preferred
  elif fields['norm'] == 'rmsnorm':
    nearest = 'llama'
  else:
    nearest = 'gpt2' if fields['positions'] == 'learned' else 'gpt_neox'
  found = hf_config.families_for(fields)
  if not found:
    try:
      hf_config.make_config(fields, nearest, vocab_rows=1)
    except ValueError as error:
      raise ValueError(
        f'no family that other tools load can express this model: {error}'
      ) from error
  return nearest if nearest in found else found[0]


class LazyLeaf:
  """An array that is read when it is indexed or converted."""

  def __init__(self, name: str, spec: jax.ShapeDtypeStruct, read):
    self.shape, self.dtype = spec.shape, spec.dtype
    self._name, self._read = name, read

  def __array__(self, dtype=None, copy=None):
    del copy
    return np.asarray(self._read(self._name), dtype)

  def __getitem__(self, index):
    return self._read(self._name)[index]


def lazy_tree(names, read, held: int):
  """Returns nested dicts of `LazyLeaf`.

  Args:
    names: tensor name -> (shape, dtype).
    read: name -> array.
    held: number of arrays that stay in memory.
  """
  cache = {}

  def cached(name):
    if name not in cache:
      if len(cache) == held:
        num_bytes = cache.pop(next(iter(cache))).nbytes
        arrays.release_memory(num_bytes)
      cache[name] = np.asarray(read(name))
    return cache[name]

  return jax.tree_util.tree_map_with_path(
    lambda path, spec: LazyLeaf(arrays.name_of(path), spec, cached),
    arrays.nested(names),
  )


def _write_weights(
  work, plan: ExportPlan, params, dtype, max_bytes, label
) -> None:
  """Writes the safetensors files; arguments as for `export_model`."""
  shapes = plan.shapes()
  total = plan.num_bytes(dtype)
  megabytes = max(total >> 20, 1)

  def reported(progress):
    done, found = 0, hf.tensors(plan.fields, plan.family, params, dtype=dtype)
    for number, (name, array) in enumerate(found, 1):
      if not np.isfinite(array).all():
        raise errors.NonFiniteError(
          f'tensor {name} of the export has values that are NaN or infinite in '
          f'{dtype}: choose another checkpoint, or another dtype'
        )
      yield name, array
      done += array.nbytes
      progress.update(
        megabytes if done == total else done >> 20, {'tensors': number}
      )

  with Progress('export', megabytes, unit='MB', label=label) as progress:
    written = weights_writer.write(work, reported(progress), max_bytes)
  if written != shapes:
    different = sorted(dict(written.items() ^ shapes.items()))
    raise AssertionError(f'the export does not fit config.json: {different}')


def _write_texts(work, plan: ExportPlan, tok, score_bias, dtype: str) -> None:
  """Writes config.json, generation_config.json and the tokenizer's files."""
  ids, vocab_rows = tok.generation_ids(), plan.lm['vocab_size']
  ends = ids['eos_token_id']
  more = ids | {'eos_token_id': ends[0] if len(ends) == 1 else ends}
  if plan.is_reward:
    more['score_bias'] = score_bias
  else:
    known = plan.generation.get('eos_token_id')
    known = known if isinstance(known, list) else [known]
    ends = dict.fromkeys([*ends, *(i for i in known if isinstance(i, int))])
    generation = plan.generation | ids | {'eos_token_id': [*ends]}
    files.atomic_write(
      work / 'generation_config.json', files.to_json(generation)
    )
  config = hf_config.make_config(
    plan.fields,
    plan.family,
    kind='reward' if plan.is_reward else 'lm',
    vocab_rows=vocab_rows,
    dtype=dtype,
    **more,
  )
  files.atomic_write(work / 'config.json', files.to_json(config))
  tok.write_files(work, vocab_rows)


def export_model(
  src,
  dst,
  *,
  dtype: str = 'float32',
  weights: str = 'default',
  max_shard_bytes: int = 5 * 10**9,
  label: str = '',
  say: Callable[[str], None] = print,
) -> None:
  """Writes the folder; see the top of this file.

  Args:
    src: a run folder, its checkpoints folder, or one checkpoint.
    dst: the new folder.
    dtype: of the tensors.
    weights: one of `WEIGHTS`.
    max_shard_bytes: limit for the data of one file; see `weights_writer`.
    label: shown before the stage's name.
    say: receives messages for people.

  Raises:
    ValueError: `src` cannot be exported, or `dst` exists.
    CheckpointError: the checkpoint is missing or damaged.
  """
  dst, path = typed.path(dst), check_source(src)
  if dst.exists():
    raise ValueError(f'{dst} exists: give another folder, or remove this one')
  path = checkpoint.find(path, only_newest=True)
  about = checkpoint.read_meta(path)
  meta = about['meta']
  subtree = subtree_of(meta, about['tensors'], weights, path)
  names, read, _ = checkpoint.lazy_params(path, subtree)
  tok = opening.find_tokenizer(path)
  checks.require(
    meta['tokenizer'] == tok.fingerprint,
    f'{path}: the tokenizer in the run folder is not the one of the training',
  )
  plan = ExportPlan.make(meta['config'], names, origin(path))
  work = dst.with_name(f'.{dst.name}.incomplete')
  files.refuse_link(work)  # what is in it is removed
  check_disk(work, plan.num_bytes(dtype))
  work.mkdir(parents=True, exist_ok=True)
  with run_folder.only_process(work):
    for left in work.iterdir():  # from an export that was stopped
      if left.name != run_folder.LOCK:
        left.unlink()
    params = lazy_tree(names, read, plan.held())
    _write_weights(work, plan, params, dtype, max_shard_bytes, label)
    score_bias = float(read('head/bias')) if plan.is_reward else None
    _write_texts(work, plan, tok, score_bias, dtype)
    (work / run_folder.LOCK).unlink()
    files.sync_folder(work)
    work.rename(dst)
    files.sync_folder(dst.parent)
  known = FAMILIES[plan.family]
  kind = known.classifier if plan.is_reward else known.causal_lm
  say(f'{dst}: {kind} of {"/".join(subtree)} in {path}')


# --- The stage ---------------------------------------------------------------

INPUTS = ('policy', 'reward_model')


def validate(config):
  """Raises a ConfigError that names the field if the config makes no sense."""
  checks.validate_common(config)
  checks.require(
    config.dtype in _DTYPES,
    f'dtype must be one of {", ".join(_DTYPES)}; got {config.dtype!r}',
  )
  checks.positive(config, 'max_shard_size')
  checks.require(
    any(config.inputs[name] for name in INPUTS),
    f'inputs: one of {", ".join(INPUTS)} is needed',
  )


def run(config, workdir, label: str = '') -> dict:
  """Writes a folder for each input into the run folder; returns their names."""
  validate(config)
  workdir = pathlib.Path(workdir)
  names = [name for name in INPUTS if config.inputs[name]]
  if processes.primary():
    run_folder.write_config(workdir, config.to_dict())
    for name in names:
      if not (workdir / name).exists():  # a folder is renamed when it is whole
        export_model(
          input_path(config, workdir, name),
          workdir / name,
          dtype=config.dtype,
          max_shard_bytes=config.max_shard_size,
          label=label,
        )
  return {'folders': names}
