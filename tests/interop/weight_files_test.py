"""Tests of reading other tools' tensors, written by their own libraries."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from instructrl.interop import weight_files


def random(*shape, seed=0, dtype=np.float32):
  return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def sharded(folder):
  """A folder with two files and an index."""
  first, second = {'a': random(4, 3)}, {'b': random(2, dtype=np.float16)}
  for number, part in enumerate((first, second), 1):
    save_file(part, folder / f'model-{number}.safetensors')
  (folder / 'model.safetensors.index.json').write_text(
    json.dumps(
      {'weight_map': {'a': 'model-1.safetensors', 'b': 'model-2.safetensors'}}
    )
  )
  return {**first, **second}


def test_safetensors_in_one_file_and_in_several(tmp_path):
  for folder in ('one', 'named', 'several'):
    (tmp_path / folder).mkdir()
  found = {'a': random(4, 3, dtype=ml_dtypes.bfloat16), 'scalar': random()}
  save_file(found, tmp_path / 'one' / 'model.safetensors')
  save_file(found, tmp_path / 'named' / 'weights.safetensors')
  for folder, tensors in (
    ('one', found),
    ('named', found),
    ('several', sharded(tmp_path / 'several')),
  ):
    read = weight_files.open_weights(tmp_path / folder)
    assert read.shapes == {n: t.shape for n, t in tensors.items()}
    for name, tensor in tensors.items():
      assert read.read(name).dtype == tensor.dtype
      assert read.read(name).tobytes() == tensor.tobytes()


def test_files_may_lie_in_a_folder_of_their_own(tmp_path):
  wanted = sharded(tmp_path)
  (tmp_path / 'parts').mkdir()
  for file in tmp_path.glob('*.safetensors'):
    file.rename(tmp_path / 'parts' / file.name)
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(index.read_text().replace('"model-', '"parts/model-'))
  read = weight_files.open_weights(tmp_path)
  for name, tensor in wanted.items():
    np.testing.assert_array_equal(read.read(name), tensor)


def test_what_is_wrong_with_a_folder_is_told_by_file_and_tensor(tmp_path):
  with pytest.raises(ValueError, match='has neither model.safetensors'):
    weight_files.open_weights(tmp_path)
  (tmp_path / 'pytorch_model.bin').touch()
  with pytest.raises(ValueError, match='pytorch_model.bin is a pickle.*save'):
    weight_files.open_weights(tmp_path)
  sharded(tmp_path)
  index = tmp_path / 'model.safetensors.index.json'
  text = index.read_text()
  index.write_text(text.replace('"b": "model-2', '"b": "model-1'))
  with pytest.raises(ValueError, match='model-1.safetensors: tensor b is not'):
    weight_files.open_weights(tmp_path)
  index.write_text('{"weight_map": 3}')
  with pytest.raises(ValueError, match='index.json is damaged'):
    weight_files.open_weights(tmp_path)
  index.write_text('[' * 100_000)
  with pytest.raises(ValueError, match='index.json is damaged: .* too deep'):
    weight_files.open_weights(tmp_path)
  index.unlink()
  with pytest.raises(ValueError, match='2 safetensors files but no model'):
    weight_files.open_weights(tmp_path)
  index.write_text(text)
  second = tmp_path / 'model-2.safetensors'
  content = second.read_bytes()
  for short in (content[:-1], content[:20], b''):
    second.write_bytes(short)
    with pytest.raises(ValueError, match='model-2.safetensors is cut off'):
      weight_files.open_weights(tmp_path)
  second.unlink()
  with pytest.raises(ValueError, match='model-2.safetensors is missing'):
    weight_files.open_weights(tmp_path)
  with pytest.raises(ValueError, match='does not exist: .*hf download'):
    weight_files.open_weights(tmp_path / 'nothing')
  with pytest.raises(ValueError, match='neither a folder nor a .gguf'):
    weight_files.open_weights(tmp_path / 'model-1.safetensors')


def test_quantised_safetensors_are_refused(tmp_path):
  save_file({'q': np.ones((4, 4), np.int8)}, tmp_path / 'model.safetensors')
  read = weight_files.open_weights(tmp_path)
  with pytest.raises(ValueError, match='tensor q is I8, not one of F64'):
    read.check(['q'])


def test_a_fingerprint_changes_with_any_matrix_and_any_text(tmp_path):
  found = {'a': random(40, 3), 'b': random(2, 2, 2, dtype=np.float16)}

  def fingerprint(tensors, *texts):
    save_file(tensors, tmp_path / 'model.safetensors')
    return weight_files.fingerprint(weight_files.open_weights(tmp_path), *texts)

  assert fingerprint(found, b'x') == fingerprint(found, b'x')
  others = [
    fingerprint(found),
    fingerprint(found, b'x'),
    fingerprint(found, b'y'),
    fingerprint({**found, 'b': found['b'] + 1}),
    fingerprint({'c': found['a'], 'b': found['b']}),
    fingerprint({**found, 'a': found['a'].T.copy()}),
  ]
  assert len(set(others)) == len(others)
