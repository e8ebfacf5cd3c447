"""Writes safetensors, tensor by tensor, in any order.

The library wants all of a file's tensors at once; their names, shapes and
dtype are known before, and with them the header. A file is 8 bytes with the
length of the header, the header (JSON: where each tensor begins and ends), and
the data.
"""

from collections.abc import Mapping
import json
import os
import pathlib
import struct

import numpy as np

_NAMES = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}


class Writer:
  """The weights of a model in a folder: one file, or several with an index.

  Use as a context manager; the end of it makes the files durable.
  """

  def __init__(
    self,
    folder,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    max_bytes: int,
  ):
    """Lays the files out.

    Args:
      folder: where to; it is there already.
      shapes: name -> shape of every tensor.
      dtype: of them all.
      max_bytes: of a file's data, unless one tensor alone has more.
    """
    self._folder, self._dtype = pathlib.Path(folder), np.dtype(dtype)
    self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
    self._left = set(shapes)
    self._files = []
    self._places = {}  # name -> (file, offset)
    self._shards = [[]]
    room = max_bytes
    for name in shapes:
      size = self._size(name)
      if size > room and self._shards[-1]:
        self._shards.append([])
        room = max_bytes
      self._shards[-1].append(name)
      room -= size

  def _size(self, name: str) -> int:
    return (
      int(np.prod(self._shapes[name], dtype=np.int64)) * self._dtype.itemsize
    )

  @property
  def num_bytes(self) -> int:
    """Of all the tensors."""
    return sum(map(self._size, self._shapes))

  def _file_name(self, number: int) -> str:
    """As transformers has them."""
    if len(self._shards) == 1:
      return 'model.safetensors'
    return f'model-{number + 1:05d}-of-{len(self._shards):05d}.safetensors'

  def __enter__(self):
    for number, names in enumerate(self._shards):
      header, end = {'__metadata__': {'format': 'pt'}}, 0
      for name in names:
        begin, end = end, end + self._size(name)
        header[name] = {
          'dtype': _NAMES[self._dtype.name],
          'shape': list(self._shapes[name]),
          'data_offsets': [begin, end],
        }
      text = json.dumps(header, separators=(',', ':')).encode()
      text += b' ' * (-len(text) % 8)  # the data is aligned
      file = (self._folder / self._file_name(number)).open('wb')
      self._files.append(file)
      file.write(struct.pack('<Q', len(text)) + text)
      for name in names:
        offset = 8 + len(text) + header[name]['data_offsets'][0]
        self._places[name] = file, offset
    return self

  def write(self, name: str, array: np.ndarray) -> None:
    """Writes one tensor, in the dtype of them all.

    Raises:
      ValueError: it is of another shape, or no such tensor is left to write.
    """
    if name not in self._left:
      raise ValueError(f'tensor {name} is unknown, or was written before')
    if tuple(array.shape) != self._shapes[name]:
      raise ValueError(
        f'tensor {name} is {tuple(array.shape)}, not {self._shapes[name]}'
      )
    data = np.ascontiguousarray(array, dtype=self._dtype)
    file, offset = self._places[name]
    file.seek(offset)
    file.write(data.reshape(-1).view(np.uint8).data)
    self._left.remove(name)

  def __exit__(self, kind, *error):
    for file in self._files:
      if kind is None:
        file.flush()
        os.fsync(file.fileno())
      file.close()
    if kind is not None:
      return
    if self._left:
      raise ValueError(f'tensor {min(self._left)} was not written')
    if len(self._shards) > 1:
      self._write_index()

  def _write_index(self) -> None:
    weight_map = {
      name: self._file_name(number)
      for number, names in enumerate(self._shards)
      for name in names
    }
    total = self.num_bytes
    (self._folder / 'model.safetensors.index.json').write_text(
      json.dumps(
        {
          'metadata': {
            'total_size': total,
            'total_parameters': total // self._dtype.itemsize,
          },
          'weight_map': dict(sorted(weight_map.items())),
        },
        indent=2,
      )
      + '\n'
    )
