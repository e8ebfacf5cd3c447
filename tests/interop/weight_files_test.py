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


@pytest.mark.parametrize(
  'stored',
  [
    'model.a',
    'module.model.a',
    '_orig_mod.model.a',
    'module._orig_mod.model.a',
    '_orig_mod.module.model.a',
    'model._orig_mod.a',
    'base_model.model.model.a',
    '_fsdp_wrapped_module.model._checkpoint_wrapped_module.a',
  ],
)
def test_names_lose_what_wrappers_add(tmp_path, stored):
  save_file({stored: random(3, 2)}, tmp_path / 'model-1.safetensors')
  (tmp_path / 'model.safetensors.index.json').write_text(
    json.dumps({'weight_map': {stored: 'model-1.safetensors'}})
  )
  read = weight_files.open_weights(tmp_path)
  assert read.shapes == {'model.a': (3, 2)}
  np.testing.assert_array_equal(read.read('model.a'), random(3, 2))
  np.testing.assert_array_equal(
    read.read_rows('model.a', 1, 9), random(3, 2)[1:]
  )
  assert [name for name, _ in read.sample(8)] == ['model.a']


def test_a_tensor_with_and_without_a_wrapper_is_refused(tmp_path):
  save_file(
    {'module.a': random(2), 'a': random(2, seed=1)},
    tmp_path / 'model.safetensors',
  )
  with pytest.raises(ValueError, match=r'tensor (module\.)?a is .*a in model'):
    weight_files.open_weights(tmp_path)


@pytest.mark.parametrize(
  'name',
  [
    'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight',
    'model.layers.0.self_attn.q_proj.base_layer.weight',
    'base_model.model.score.modules_to_save.default.weight',
  ],
)
def test_tensors_of_an_adapter_are_refused(tmp_path, name):
  save_file({name: random(2)}, tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match=f'tensor {name} .*adapter: merge it'):
    weight_files.open_weights(tmp_path)


def test_a_folder_of_an_adapter_is_refused_with_its_rank_and_targets(tmp_path):
  weight_files.refuse_adapter(tmp_path)
  (tmp_path / 'adapter_config.json').write_text(
    json.dumps({'r': 8, 'target_modules': ['q_proj'], 'peft_type': 'LORA'})
  )
  with pytest.raises(
    ValueError,
    match="adapter_config.json: .*'r': 8, .*q_proj.*merge_and_unload",
  ):
    weight_files.refuse_adapter(tmp_path)


def test_a_single_file_beside_an_index(tmp_path):
  """The files of the index may be older, or newer."""
  sharded(tmp_path)
  single = {'c': random(3)}
  save_file(single, tmp_path / 'model.safetensors')
  with pytest.raises(
    ValueError,
    match='has model.safetensors, and model-1.safetensors of .*index',
  ):
    weight_files.open_weights(tmp_path)
  for path in tmp_path.glob('model-*.safetensors'):
    path.unlink()
  assert weight_files.open_weights(tmp_path).shapes == {'c': (3,)}


@pytest.mark.parametrize('place', ['../{}', '{}/b/../../{}', '/{}'])
def test_an_index_does_not_leave_its_folder(tmp_path, place):
  folder = tmp_path / 'model'
  folder.mkdir()
  save_file({'a': random(2)}, tmp_path / 'x.safetensors')
  file = place.replace('{}', 'x.safetensors')
  (folder / 'model.safetensors.index.json').write_text(
    json.dumps({'weight_map': {'a': file}})
  )
  with pytest.raises(ValueError, match='has a in .*, outside of the folder'):
    weight_files.open_weights(folder)


@pytest.mark.parametrize('name', ['model.safetensors', 'model.gguf'])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
  path = tmp_path / name
  path.write_text('version https://git-lfs.github.com/spec/v1\nsize 12\n')
  where = path if path.suffix == '.gguf' else tmp_path
  with pytest.raises(ValueError, match=f'{name} is a pointer of git-lfs'):
    weight_files.open_weights(where)
