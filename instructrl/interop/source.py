"""Opens another tool's checkpoint, checks it, and reads its arrays."""

import dataclasses
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np

from instructrl.interop import hf
from instructrl.interop import hf_config
from instructrl.interop import weight_files
from instructrl.interop.gguf_weights import GGUF
from instructrl.runtime import arrays
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import typed
from instructrl.tokenizers.imported import HFTokenizer

PADS = ('mean', 'zeros')  # rows for a PAD that the model lacks
_KEPT_FILES = ('config.json', 'generation_config.json')
_COMPARED = 1 << 20  # numbers of two tables that are compared at a time


@dataclasses.dataclass(frozen=True)
class WeightSource:
  """A checkpoint that was opened and checked.

  Attributes:
    path: the folder or file.
    config: contents of config.json.
    weights: the tensors.
    kept: file name -> contents, for a later export.
    fingerprint: differs between checkpoints.
  """

  path: pathlib.Path
  config: dict[str, Any]
  weights: weight_files.Safetensors | GGUF
  kept: dict[str, bytes]
  fingerprint: str


def open_source(path) -> WeightSource:
  """Opens a Hugging Face folder or a GGUF file, and checks its tensors.

  Raises:
    ValueError: the architecture or a field is not supported; a tensor is
      missing, unknown or of another shape; or a file is damaged. The message
      names the file and the tensor or field.
  """
  path = typed.path(path)
  if path.is_dir():
    weight_files.refuse_adapter(path)
    file = path / 'config.json'
    if not file.is_file():
      raise ValueError(
        f'{file} does not exist: give the folder of a model, with config.json, '
        "the tokenizer's files and safetensors"
      )
    config = files.read_json(file)
    with files.named(file):
      hf_config.model_fields(config)
    weights = weight_files.open_weights(path)
    kept = [path / name for name in _KEPT_FILES if (path / name).is_file()]
    kept = {file.name: files.read_bytes(file) for file in kept}
  else:
    weights = weight_files.open_weights(path)
    config = weights.config
    kept = {'config.json': json.dumps(config, indent=2).encode()}
  with files.named(path):
    hf_config.model_fields(config)
    hf.check(config, weights.shapes)
    weights.check(hf.expected(config, weights.shapes))
    _check_tied(config, weights)
  text = json.dumps(config, sort_keys=True).encode()
  fingerprint = weight_files.fingerprint(weights, text)
  return WeightSource(path, config, weights, kept, fingerprint)


def check_finite(source: WeightSource) -> None:
  """Refuses weights that are not finite in float32.

  Reads every tensor. Several processes read a part each, and all raise.

  Raises:
    ValueError: names a tensor and its file.
  """
  weights = source.weights
  names = sorted(hf.expected(source.config, weights.shapes))
  wrong = -1
  for i in range(jax.process_index(), len(names), jax.process_count()):
    with np.errstate(over='ignore'):
      found = np.isfinite(weights.read(names[i]).astype(np.float32))
    if not found.all():
      wrong = i
      break
  wrong = processes.largest(wrong)
  if wrong >= 0:
    raise ValueError(
      f'{weights.file_of(names[wrong])}: tensor {names[wrong]} has values that '
      'are NaN or infinite, as float16 gives when it overflows: take another '
      'copy of the model, or save it anew in float32'
    )


def _check_tied(config, weights) -> None:
  """Refuses an unembedding that differs from the embedding in a tied model.

  Other tools use such an unembedding, whatever config.json says. A GGUF file is
  tied only if it has no unembedding.
  """
  for head, embed in hf.tied_heads(config, weights.shapes):
    weights.check([head])
    shape = weights.shapes[embed]
    step = max(1, _COMPARED // math.prod(shape[1:]))
    equal = weights.shapes[head] == shape and all(
      np.array_equal(
        weights.read_rows(head, first, first + step),
        weights.read_rows(embed, first, first + step),
      )
      for first in range(0, shape[0], step)
    )
    if not equal:
      raise ValueError(
        f'tensor {head} is not equal to {embed}, but config.json ties the two: '
        'set tie_word_embeddings to false there, or remove the tensor'
      )


def read_source(src, **layout) -> tuple[WeightSource, HFTokenizer]:
  """Opens a checkpoint and its tokenizer, and checks both.

  Args:
    src: a Hugging Face folder, or a GGUF file of the llama architecture.
    **layout: options of `HFTokenizer.from_source`.

  Raises:
    ValueError: see `open_source`; or the tokenizer is missing, damaged or not
      supported, or has more tokens than the model has rows.
  """
  source = open_source(src)
  rows = hf_config.model_fields(source.config)['vocab_rows']
  folder = source.path.is_dir()
  read = HFTokenizer.from_folder if folder else HFTokenizer.from_gguf
  with files.named(source.path):
    return source, read(source.path, vocab_rows=rows, **layout)


class ArrayReader:
  """Makes the arrays of a model, each on its devices, from a source.

  Each device reads only its own part. Rows that the source lacks, for a PAD
  that was added, are the mean of the other rows, or zeros.
  """

  def __init__(self, source: WeightSource, abstract, *, pad: str):
    """Prepares to read.

    Args:
      source: the checkpoint.
      abstract: the model's parameters, as arrays with shape, dtype and
        sharding.
      pad: one of PADS.
    """
    self._weights, self._pad = source.weights, pad
    self._leaves = {
      '/'.join(leaf.path): leaf
      for leaf in hf.leaves(source.config, source.weights.shapes)
    }
    self._wanted = {
      arrays.name_of(path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
    }
    different = sorted(set(self._leaves) ^ set(self._wanted))
    if different:
      raise AssertionError(
        f'the tables of interop.hf and the model differ in {different}'
      )

  def array(self, name: str) -> jax.Array:
    """Returns the array of a leaf 'a/b', on the devices of this process."""
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
      own = (slice(first, min(last, rows)), *index[1:])
      out[: own[0].stop - first] = hf.read_slice(leaf, own, read, wanted.dtype)
    if last > rows and self._pad == 'mean':
      all_rows = (slice(0, rows), *index[1:])
      mean = hf.read_slice(leaf, all_rows, read, None).mean(0, np.float64)
      out[max(rows - first, 0) :] = mean
    return out
