"""Tests of written safetensors: the library reads back what was written."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from instructrl.interop import weight_files
from instructrl.interop import weights_writer

SHAPES = {'a': (4, 3), 'b': (5,), 'scalar': (), 'c.weight': (2, 2, 2)}


def tensors(dtype):
  rng = np.random.default_rng(0)
  return {
    name: np.asarray(rng.normal(size=shape)).astype(dtype)
    for name, shape in SHAPES.items()
  }


def write(folder, dtype, max_bytes=1 << 30):
  found = tensors(dtype)
  assert weights_writer.write(folder, found.items(), max_bytes) == SHAPES
  return found


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
def test_one_file_is_read_back_by_the_library(tmp_path, dtype):
  found = write(tmp_path, dtype)
  assert os.listdir(tmp_path) == ['model.safetensors']
  read = load_file(tmp_path / 'model.safetensors')
  assert set(read) == set(found)
  for name in found:
    assert read[name].dtype == dtype and read[name].shape == SHAPES[name]
    assert read[name].tobytes() == found[name].tobytes()


def test_several_files_have_an_index(tmp_path):
  found = write(tmp_path, np.float32, max_bytes=48)  # a; b and scalar; c
  assert sorted(os.listdir(tmp_path)) == [
    *(f'model-0000{i}-of-00003.safetensors' for i in (1, 2, 3)),
    'model.safetensors.index.json',
  ]
  index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
  assert index['metadata'] == {
    'total_size': 4 * (12 + 5 + 1 + 8),
    'total_parameters': 12 + 5 + 1 + 8,
  }
  assert index['weight_map']['scalar'] == 'model-00002-of-00003.safetensors'
  read = weight_files.Safetensors(tmp_path)
  for name in found:
    np.testing.assert_array_equal(read.read(name), found[name])


def test_a_file_is_written_before_the_next_tensor_is_asked_for(tmp_path):
  """Memory is bounded by the tensors of one file."""
  there = []

  def one_by_one():
    for name, tensor in tensors(np.float32).items():
      there.append(len(list(tmp_path.glob('*.safetensors'))))
      yield name, tensor

  weights_writer.write(tmp_path, one_by_one(), 1)
  assert there == [0, 0, 1, 2]


def test_other_tools_see_tensors_of_pytorch(tmp_path):
  write(tmp_path, np.float32)
  content = (tmp_path / 'model.safetensors').read_bytes()
  header = json.loads(content[8 : 8 + int.from_bytes(content[:8], 'little')])
  assert header['__metadata__'] == {'format': 'pt'}
