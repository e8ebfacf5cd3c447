"""Writes a model's tensors as safetensors files, as transformers lays them out.

One file is `model.safetensors`. Several are `model-00001-of-00003.safetensors`
and so on, with `model.safetensors.index.json` to say which file has a tensor.
"""

from collections.abc import Iterable
import json
import os
import pathlib

import numpy as np
from safetensors.numpy import save_file

Shapes = dict[str, tuple[int, ...]]


def write(
  folder, tensors: Iterable[tuple[str, np.ndarray]], max_bytes: int
) -> Shapes:
  """Writes tensors durably; holds those of one file in memory.

  Args:
    folder: an existing folder.
    tensors: (name, contiguous array) of each tensor.
    max_bytes: limit for the data of one file. A larger tensor gets a file of
      its own.

  Returns:
    The shape of every tensor that was written.
  """
  folder = pathlib.Path(folder)
  parts, held, shapes, total, parameters = [], {}, {}, 0, 0

  def flush():
    path = folder / f'part-{len(parts)}.safetensors'
    save_file(held, path, metadata={'format': 'pt'})
    with path.open('rb') as file:
      os.fsync(file.fileno())
    parts.append((path, list(held)))
    held.clear()

  for name, array in tensors:
    size = sum(each.nbytes for each in held.values())
    if held and size + array.nbytes > max_bytes:
      flush()
    held[name], shapes[name] = array, array.shape
    total, parameters = total + array.nbytes, parameters + array.size
  flush()
  if len(parts) == 1:
    parts[0][0].rename(folder / 'model.safetensors')
    return shapes
  files = {}  # tensor name -> file name
  for number, (path, names) in enumerate(parts, 1):
    file = f'model-{number:05d}-of-{len(parts):05d}.safetensors'
    path.rename(folder / file)
    files |= dict.fromkeys(names, file)
  index = {
    'metadata': {'total_size': total, 'total_parameters': parameters},
    'weight_map': dict(sorted(files.items())),
  }
  (folder / 'model.safetensors.index.json').write_text(
    json.dumps(index, indent=2) + '\n'
  )
  return shapes
