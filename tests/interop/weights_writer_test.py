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
  with weights_writer.Writer(folder, SHAPES, dtype, max_bytes) as writer:
    for name in reversed(found):
      writer.write(name, found[name])
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
  assert index['metadata']['total_size'] == 4 * (12 + 5 + 1 + 8)
  assert index['weight_map']['scalar'] == 'model-00002-of-00003.safetensors'
  read = weight_files.Safetensors(tmp_path)
  for name in found:
    np.testing.assert_array_equal(read.read(name), found[name])


def test_what_is_not_written_or_does_not_fit_is_an_error(tmp_path):
  found = tensors(np.float32)
  with pytest.raises(ValueError, match='tensor b was not written'):
    with weights_writer.Writer(tmp_path, SHAPES, np.float32, 99) as writer:
      for name in ('a', 'scalar', 'c.weight'):
        writer.write(name, found[name])
      with pytest.raises(ValueError, match='a is unknown, or was written'):
        writer.write('a', found['a'])
      with pytest.raises(ValueError, match=r'b is \(4, 3\), not \(5,\)'):
        writer.write('b', found['a'])
