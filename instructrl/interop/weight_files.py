"""Reads tensors of other tools' files, one at a time.

Opening a file reads its header and refuses a file that is cut off. A tensor's
data is read when the tensor is asked for, and is not kept. `interop.hf` knows
the names of the tensors; tensors of a GGUF file get the names that they have in
a Hugging Face folder.
"""

from collections.abc import Iterator
import hashlib
import math
import pathlib
import re
import struct

import ml_dtypes
import numpy as np
import safetensors

from instructrl.interop.gguf_weights import GGUF
from instructrl.runtime import files

_SAMPLE = 1 << 16  # bytes of each matrix that a fingerprint covers
_INDEX, _SINGLE = 'model.safetensors.index.json', 'model.safetensors'
_ADAPTER = 'adapter_config.json'
# Parts that wrappers add to names: torch.compile, FSDP and activation
# checkpoints anywhere; DDP, DeepSpeed and PEFT at the beginning.
_WRAPPED = re.compile(
  r'(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)
_WRAPPER = re.compile(r'^(?:module\.|base_model\.model\.)+')
# Tensors of adapters that are not merged into the weights.
_UNMERGED = re.compile(
  r'(?<![^.])(?:lora_|base_layer\.|modules_to_save\.|ia3_|prompt_embeddings)'
)
_MERGE = (
  'merge it first, with PeftModel.from_pretrained(MODEL, ADAPTER)'
  '.merge_and_unload().save_pretrained(NEW_DIR) of peft'
)
_DTYPES = {
  'F64': np.dtype('float64'),
  'F32': np.dtype('float32'),
  'F16': np.dtype('float16'),
  'BF16': np.dtype(ml_dtypes.bfloat16),
}


def unwrapped(name: str) -> str:
  """Returns the name of a tensor without what training wrappers add."""
  return _WRAPPER.sub('', _WRAPPED.sub('', name))


def refuse_adapter(folder: pathlib.Path) -> None:
  """Raises a ValueError if a folder has an adapter, which changes the model."""
  path = folder / _ADAPTER
  if not path.exists():
    return
  about = files.read_json(path)
  known = {
    name: about[name]
    for name in ('base_model_name_or_path', 'peft_type', 'r', 'target_modules')
    if name in about
  }
  raise ValueError(
    f'{path}: an adapter is not a whole model ({known}): {_MERGE}; if the '
    'weights here have it already, remove this file'
  )


class Safetensors:
  """The tensors of a folder, in one file or in several with an index.

  Names are those that the model has without wrappers, see `unwrapped`.

  Attributes:
    shapes: tensor name -> shape.
    dtypes: tensor name -> dtype, as the file calls it.
  """

  def __init__(self, folder):
    """Opens the files.

    Raises:
      ValueError: a file is missing or cut off, or does not match the index.
    """
    self._folder = pathlib.Path(folder)
    self._files, self._stored = {}, {}  # tensor name -> path, name in the file
    self.shapes, self.dtypes = {}, {}
    paths, index = _files_of(self._folder)
    for path in paths:
      with _open(path) as file:
        for stored in file.keys():
          if _UNMERGED.search(stored):
            raise ValueError(
              f'{path}: tensor {stored} is part of an adapter: {_MERGE}'
            )
          part, name = file.get_slice(stored), unwrapped(stored)
          if name in self._files:
            other = f'{self._stored[name]} in {self._files[name].name}'
            raise ValueError(f'{path}: tensor {stored} is {other}, too')
          self._files[name], self._stored[name] = path, stored
          self.shapes[name] = tuple(part.get_shape())
          self.dtypes[name] = part.get_dtype()
    for stored, file in index.items():
      if self._files.get(unwrapped(stored)) != self._folder / file:
        raise ValueError(
          f'{self._folder / file}: tensor {stored} is not in this file, but '
          f'{_INDEX} says so'
        )

  def file_of(self, name: str) -> pathlib.Path:
    """Returns the file that has a tensor."""
    return self._files[name]

  def read(self, name: str) -> np.ndarray:
    """Returns a tensor in the dtype of the file.

    Raises:
      ValueError: the dtype is not floating.
    """
    # Mapping the file anew releases the memory of what was read before.
    self.check([name])
    with _open(self._files[name]) as file:
      return file.get_tensor(self._stored[name])

  def read_rows(self, name: str, first: int, last: int) -> np.ndarray:
    """Returns rows `first` up to `last` of a tensor; see `read`."""
    self.check([name])
    with _open(self._files[name]) as file:
      part = file.get_slice(self._stored[name])
      return part[first : min(last, self.shapes[name][0])]

  def check(self, names) -> None:
    """Refuses tensors of a dtype that `read` does not support."""
    for name in names:
      if self.dtypes[name] not in _DTYPES:
        raise ValueError(
          f'{self._files[name]}: tensor {name} is {self.dtypes[name]}, not one '
          f'of {", ".join(_DTYPES)}; quantised weights cannot be imported: '
          'take the checkpoint that they were made from'
        )

  def sample(self, num_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yields (name, first bytes) of every matrix."""
    for path in sorted(set(self._files.values())):
      with _open(path) as file:
        for name in sorted(n for n in self._files if self._files[n] == path):
          shape, dtype = self.shapes[name], _DTYPES.get(self.dtypes[name])
          if len(shape) < 2 or dtype is None:
            continue  # training changes matrices too
          width = math.prod(shape[1:]) * dtype.itemsize
          last = min(shape[0], max(1, num_bytes // max(width, 1)))
          rows = file.get_slice(self._stored[name])[:last]
          yield name, np.ascontiguousarray(rows).tobytes()[:num_bytes]


def _files_of(
  folder: pathlib.Path,
) -> tuple[list[pathlib.Path], dict[str, str]]:
  """Returns the safetensors files of a folder's model, and its index or {}."""
  index, single = folder / _INDEX, folder / _SINGLE
  if index.exists():
    found = _weight_map(index)
    paths = [folder / name for name in sorted(set(found.values()))]
    there = [path for path in paths if path.is_file()]
    if single.exists() and single not in paths:
      if not there:  # of an older save, whose files were removed
        return [single], {}
      raise ValueError(
        f'{folder} has {_SINGLE}, and {there[0].name} of {_INDEX}: one of them '
        'is older; remove it, or the index'
      )
    for path in paths:
      if path not in there:
        raise ValueError(
          f'{path} is missing, but {_INDEX} names it: download it too'
        )
    return paths, found
  if single.exists():
    return [single], {}
  found = sorted(folder.glob('*.safetensors'))
  if len(found) == 1:
    return found, {}
  if found:
    raise ValueError(
      f'{folder} has {len(found)} safetensors files but no {_INDEX}, which '
      'lists their tensors: download it too'
    )
  pickles = sorted(
    path
    for ending in ('bin', 'pt', 'pth')
    for path in folder.glob(f'*.{ending}')
  )
  if pickles:
    raise ValueError(
      f'{pickles[0]} is a pickle, which can run any code when it is read: '
      'save the model as safetensors, with '
      'AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR) of '
      'transformers'
    )
  raise ValueError(f'{folder} has neither {_SINGLE} nor {_INDEX}')


def _weight_map(path: pathlib.Path) -> dict[str, str]:
  found = files.read_json(path).get('weight_map')
  if not isinstance(found, dict) or not all(
    isinstance(file, str) for file in found.values()
  ):
    raise ValueError(
      f'{path} is damaged: weight_map must be a table of file names'
    )
  for name, file in found.items():
    if '..' in pathlib.Path(file).parts or pathlib.Path(file).is_absolute():
      raise ValueError(
        f'{path}: weight_map has {name} in {file!r}, outside of the folder'
      )
  return found


def _open(path: pathlib.Path):
  try:
    files.refuse_pointer(path)
    return safetensors.safe_open(path, framework='numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{path} is cut off or damaged ({error}): download it again'
    ) from error
  except OSError as error:
    raise ValueError(f'{path} cannot be read: {error}') from error


def fingerprint(weights, *texts: bytes) -> str:
  """Returns a SHA-256, in hex, that differs between checkpoints.

  The hash covers the given texts; name, shape and dtype of every tensor; and
  the first 64 KiB of every matrix, because training changes all of them.
  """
  digest = hashlib.sha256()
  for text in texts:
    digest.update(struct.pack('<q', len(text)) + text)
  for name in sorted(weights.shapes):
    digest.update(
      f'{name} {weights.shapes[name]} {weights.dtypes[name]}\n'.encode()
    )
  for name, data in weights.sample(_SAMPLE):
    digest.update(name.encode() + data)
  return digest.hexdigest()


def open_weights(path) -> Safetensors | GGUF:
  """Opens a Hugging Face folder or a GGUF file."""
  path = pathlib.Path(path)
  if not path.exists():
    raise ValueError(
      f'{path} does not exist: give the folder of a model, or a .gguf file. '
      'Download a model of the Hugging Face hub with `hf download NAME '
      '--local-dir FOLDER`'
    )
  if path.is_dir():
    return Safetensors(path)
  if path.suffix == '.gguf':
    return GGUF(path)
  raise ValueError(
    f'{path} is neither a folder nor a .gguf file; give the folder with '
    'config.json and the safetensors files'
  )
