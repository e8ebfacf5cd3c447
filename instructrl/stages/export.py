"""A run's parameters as a folder that transformers and vLLM load.

A policy becomes the family's ForCausalLM, a reward model its
ForSequenceClassification with one label. Of the latter two things differ from
what other tools expect. Their heads have no bias: it stands in config.json as
`score_bias`, to be added to their score. And they pool at the last token that
is not PAD, where a score here is of the last response token, EOS included:
that is the same token where the text ends with the response's EOS, as it must,
and because PAD is never EOS here.
"""

import collections
from collections.abc import Callable, Mapping
import dataclasses
import json
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
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.stages import opening
from instructrl.stages.import_ import check_disk
from instructrl.stages.import_ import KEPT
from instructrl.stages.import_ import STAGE
from instructrl.stages.inputs import input_path

STAGES = ('export',)

WEIGHTS = ('default', 'ema', 'params')
_DTYPES = {
  'float32': np.dtype('float32'),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
}
# The inputs of stages whose parameters a run's own began as.
_BEGINNINGS = ('init', 'policy')


def check_source(src) -> pathlib.Path:
  """Refuses a run folder that is not finished, as stages do."""
  path = pathlib.Path(src)
  if not path.exists():
    raise ValueError(f'{path} does not exist')
  checkpoint.refuse_foreign(path)
  if (path / run_folder.CONFIG).exists() and run_folder.read_done(path) is None:
    raise ValueError(
      f'{path} is not finished; run it to its end, or name one '
      'of its checkpoints'
    )
  return path


def subtree_of(meta: Mapping[str, Any], tensors, weights: str, where):
  """Where the parameters to export are, by --weights."""
  default = list(meta.get('export', ()))
  if not default or 'model' not in meta.get('config', {}):
    raise ValueError(f'{where} is of no stage that makes a model')
  if weights == 'default' or weights == 'params' and default[0] == 'params':
    return default
  if weights == 'ema':
    if not any(name.startswith('ema_params/') for name in tensors):
      raise ValueError(f'{where} has no EMA: leave --weights out')
    return ['ema_params']
  policy = any(name.startswith('params/policy/') for name in tensors)
  return ['params', 'policy'] if policy else ['params']


def origin(path: pathlib.Path) -> pathlib.Path | None:
  """The folder of the import that a run came from, if it is still there."""
  folder = run_folder.find(path)
  for _ in range(20):  # stages of a study, in a row
    if folder is None:
      return None
    config = files.read_json(folder / run_folder.CONFIG)
    if config.get('stage') == STAGE:
      return folder
    inputs = config.get('inputs', {})
    before = next((inputs[n] for n in _BEGINNINGS if inputs.get(n)), None)
    folder = before and run_folder.find((folder / before).resolve())
  return None


@dataclasses.dataclass(frozen=True)
class Plan:
  """What an export will be.

  Attributes:
    fields: of the model.
    family: one of `hf.FAMILIES`.
    is_reward: whether it scores.
    lm: config.json of the language model.
    generation: generation_config.json of the source, {} if not known.
  """

  fields: dict[str, Any]
  family: str
  is_reward: bool
  lm: dict[str, Any]
  generation: dict[str, Any]

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Every tensor."""
    shapes = hf.expected(self.lm)
    if self.is_reward:  # it has a score for an unembedding
      for name in FAMILIES[self.family].heads:
        shapes.pop(name, None)
      shapes['score.weight'] = (1, self.fields['d_model'])
    return shapes

  def num_bytes(self, dtype: str) -> int:
    """Returns the size of all tensors."""
    numbers = sum(math.prod(shape) for shape in self.shapes().values())
    return numbers * _DTYPES[dtype].itemsize

  def held(self) -> int:
    """How many leaves there are to one tensor, at most."""
    counts = collections.Counter(
      source.name for leaf in hf.leaves(self.lm) for source in leaf.sources
    )
    return max(counts.values())

  @classmethod
  def make(cls, config, names, source: pathlib.Path | None) -> 'Plan':
    """By a run's config, the names of its tensors, and what it came from."""
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
  """The family that computes what these fields say.

  Args:
    fields: of the model.
    preferred: the family that it was imported as, if it was.

  Raises:
    ValueError: none does; what stands against the nearest is named.
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
        'no family that other tools load computes what this '
        f'model does: {error}'
      ) from error
  return nearest if nearest in found else found[0]


class LazyLeaf:
  """An array that is read when something of it is asked for."""

  def __init__(self, name: str, spec: jax.ShapeDtypeStruct, read):
    self.shape, self.dtype = spec.shape, spec.dtype
    self._name, self._read = name, read

  def __array__(self, dtype=None, copy=None):
    del copy
    return np.asarray(self._read(self._name), dtype)

  def __getitem__(self, index):
    return self._read(self._name)[index]


def lazy_tree(names, read, held: int):
  """Nested dicts of `LazyLeaf`; so many that were read stay in memory."""
  cache = {}

  def cached(name):
    if name not in cache:
      if len(cache) == held:
        num_bytes = cache.pop(next(iter(cache))).nbytes  # before another
        arrays.release_memory(num_bytes)
      cache[name] = np.asarray(read(name))
    return cache[name]

  return jax.tree_util.tree_map_with_path(
    lambda path, spec: LazyLeaf(arrays.name_of(path), spec, cached),
    arrays.nested(names),
  )


def _write_weights(work, plan: Plan, params, dtype, max_bytes, label) -> None:
  """Writes the safetensors files; arguments as for `export_model`."""
  shapes = plan.shapes()
  total = plan.num_bytes(dtype)
  megabytes = max(total >> 20, 1)

  def reported(progress):
    done, found = 0, hf.tensors(plan.fields, plan.family, params, dtype=dtype)
    for number, (name, array) in enumerate(found, 1):
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


def _write_texts(work, plan: Plan, tok, score_bias, dtype: str) -> None:
  """config.json, generation_config.json and the tokenizer's files."""
  ids = tok.generation_ids()
  ends = ids['eos_token_id']
  more = ids | {'eos_token_id': ends[0] if len(ends) == 1 else ends}
  if plan.is_reward:
    more['score_bias'] = score_bias
  else:
    known = plan.generation.get('eos_token_id')
    known = known if isinstance(known, list) else [known]
    generation = (
      plan.generation
      | ids
      | {
        'eos_token_id': list(
          dict.fromkeys([*ends, *(i for i in known if isinstance(i, int))])
        )
      }
    )
    (work / 'generation_config.json').write_text(
      json.dumps(generation, indent=2, sort_keys=True) + '\n'
    )
  config = hf_config.make_config(
    plan.fields,
    plan.family,
    kind='reward' if plan.is_reward else 'lm',
    vocab_rows=plan.lm['vocab_size'],
    dtype=dtype,
    **more,
  )
  (work / 'config.json').write_text(
    json.dumps(config, indent=2, sort_keys=True) + '\n'
  )
  tok.write_files(work, plan.lm['vocab_size'])


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
    src: a run folder, its checkpoints, or one step of them.
    dst: the folder, which must not be there.
    dtype: of the tensors.
    weights: one of `WEIGHTS`.
    max_shard_bytes: of a file, unless one tensor alone has more.
    label: shown before the stage's name.
    say: is given lines for people.

  Raises:
    ValueError: `src` cannot be exported, or `dst` is there.
    CheckpointError: there is no checkpoint, or it is damaged.
  """
  dst, path = pathlib.Path(dst), check_source(src)
  if dst.exists():
    raise ValueError(
      f'{dst} is there already: take another folder, or remove it'
    )
  path = checkpoint.find(path, only_newest=True)
  about = checkpoint.read_meta(path)
  meta = about['meta']
  subtree = subtree_of(meta, about['tensors'], weights, path)
  names, read, _ = checkpoint.lazy_params(path, subtree)
  tok = opening.find_tokenizer(path)
  checks.require(
    meta['tokenizer'] == tok.fingerprint,
    f'{path}: the tokenizer beside it is not the one that it was trained with',
  )
  plan = Plan.make(meta['config'], names, origin(path))
  work = dst.with_name(f'.{dst.name}.incomplete')
  check_disk(work, plan.num_bytes(dtype))
  work.mkdir(parents=True, exist_ok=True)
  with run_folder.only_process(work):
    for left in work.iterdir():  # of an export that was stopped
      if left.name != run_folder.LOCK:
        left.unlink()
    params = lazy_tree(names, read, plan.held())
    _write_weights(work, plan, params, dtype, max_shard_bytes, label)
    _write_texts(
      work,
      plan,
      tok,
      float(read('head/bias')) if plan.is_reward else None,
      dtype,
    )
    (work / run_folder.LOCK).unlink()
    files.sync_folder(work)
    work.rename(dst)
    files.sync_folder(dst.parent)
  known = FAMILIES[plan.family]
  say(
    f'{dst}: {known.classifier if plan.is_reward else known.causal_lm} of '
    f'{"/".join(subtree)} in {path}'
  )


# --- The stage ---------------------------------------------------------------

INPUTS = ('policy', 'reward_model')


def validate(config):
  """Refuses what makes no sense, by field name."""
  checks.validate_common(config)
  checks.require(
    config.dtype in _DTYPES,
    f'dtype={config.dtype!r} is none of {", ".join(_DTYPES)}',
  )
  checks.validate_positive(config, 'max_shard_size')
  checks.require(
    any(config.inputs[name] for name in INPUTS),
    f'inputs: one of {", ".join(INPUTS)} is needed',
  )


def run(config, workdir, label: str = '') -> dict:
  """Writes a folder for each input in the run folder; returns their names."""
  validate(config)
  workdir = pathlib.Path(workdir)
  names = [name for name in INPUTS if config.inputs[name]]
  if processes.primary():
    run_folder.write_config(workdir, config.to_dict())
    for name in names:
      if not (workdir / name).exists():  # it is whole if it is there
        export_model(
          input_path(config, workdir, name),
          workdir / name,
          dtype=config.dtype,
          max_shard_bytes=config.max_shard_size,
          label=label,
        )
  return {'folders': names}
