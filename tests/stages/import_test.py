"""Tests of imports: what they leave, what they refuse, what a kill costs."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import ml_collections
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file

from instructrl.interop import hf
from instructrl.interop import source as source_lib
from instructrl.runtime import checkpoint
from instructrl.runtime import errors
from instructrl.runtime import origins
from instructrl.runtime import run_folder
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import import_
from instructrl.stages import inputs
from instructrl.stages import opening
from instructrl.stages.run import Run
from tests import checkpoints


def import_quietly(src, dst, **kwargs):
  lines = []
  import_.import_model(src, dst, say=lines.append, **kwargs)
  return lines


def expected_params(tensors, config):
  return {
    '/'.join(leaf.path): hf.read_leaf(leaf, tensors.__getitem__)
    for leaf in hf.leaves(config)
  }


def assert_holds(dst, wanted):
  params, _ = inputs.exported(dst)
  found = {
    '/'.join(k.key for k in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  assert set(found) == set(wanted)
  for name, value in wanted.items():
    np.testing.assert_array_equal(found[name], value, name)


@pytest.fixture(name='source')
def source_fixture(tmp_path):
  checkpoints.write_folder(tmp_path / 'src')
  return tmp_path / 'src'


def test_an_import_is_a_finished_run(tmp_path):
  """Several files in bfloat16, stored as float32."""
  tensors = checkpoints.write_folder(
    tmp_path / 'src', dtype=ml_dtypes.bfloat16, shards=3
  )
  dst = tmp_path / 'runs' / 'import'
  lines = import_quietly(tmp_path / 'src', dst)
  count = sum(t.size for t in tensors.values())
  assert lines == [
    f'{dst}: {count:,} parameters, 301 tokens in 320 rows; prompts are laid '
    r"out by 'Human: {prompt}\n\nAssistant: {response}'; PAD is <|pad|> "
    '(300), a row of the embedding that had no token: the tokenizer names '
    'none'
  ]
  assert_holds(dst, expected_params(tensors, checkpoints.LLAMA))
  assert run_folder.read_done(dst)['result']['parameters'] == count
  config = opening.run_config(dst)
  assert config.stage == 'import'
  tok = opening.find_tokenizer(dst)
  _, meta = inputs.exported(
    dst,
    build.lm_layout(
      build.make_model(config, tok.vocab_size),
      jax.sharding.Mesh(
        np.asarray(jax.devices()[:1]).reshape(1, 1, 1),
        ('data', 'fsdp', 'tensor'),
      ),
    ).abstract,
  )
  assert meta['tokenizer'] == tok.fingerprint and meta['export'] == ['params']
  assert origins.identity(dst)
  for name in ('config.json', 'generation_config.json'):
    assert (dst / 'hf' / name).read_bytes() == (
      tmp_path / 'src' / name
    ).read_bytes()


def test_all_fields_of_the_model_are_in_the_config(source, tmp_path):
  """A stage that differs in a field which config.json does not name is told."""
  import_quietly(source, tmp_path / 'dst')
  model = opening.run_config(tmp_path / 'dst').model
  assert {'use_bias', 'norm_offset', 'windows', 'frozen_layers'} <= set(model)
  assert model.vocab_rows == 320 and model.norm == 'rmsnorm'


def test_an_import_lies_by_the_rules_of_its_config(source):
  opened, tok = source_lib.read_source(source)
  config = import_.run_config(
    opened, tok, dtype='float32', pad='mean', mesh={'fsdp': 8}
  )
  mesh = sharding.make_mesh(config['mesh'])
  split = lambda: {
    axis
    for spec in jax.tree.leaves(
      import_.make_layout(config, tok, mesh).shardings
    )
    for axis in spec.spec
    if axis is not None
  }
  assert split() == {'fsdp', 'tensor'}
  config['rules'] = [[name, None] for name, _ in config['rules']]
  assert split() == set()


def test_a_stage_starts_from_an_import(tmp_path):
  tensors = checkpoints.write_folder(tmp_path / 'src')
  import_quietly(tmp_path / 'src', tmp_path / 'import')
  model = opening.run_config(tmp_path / 'import').model.to_dict()
  config = ml_collections.ConfigDict(
    dict(
      stage='sft',
      inputs=dict(data='../import', init='../import'),
      mesh=dict(data=2, fsdp=4),
      rules=sharding.RULES,
      log=dict(trackers=(), profile=()),
      checkpoint=dict(keep=2),
      model={**model, 'dtype': 'bfloat16', 'remat': 'full'},
    )
  )
  with Run(config, tmp_path / 'sft') as run:
    layout = build.lm_layout(
      build.make_model(config, run.tokenizer().vocab_size), run.mesh
    )
    params = run.load_params('init', layout.abstract, config.model)
    np.testing.assert_array_equal(
      params['embed'], tensors['model.embed_tokens.weight']
    )
    assert params['embed'].sharding.spec == jax.P('tensor', 'fsdp')
    config.model.norm_offset = 1.0
    with pytest.raises(checks.ConfigError, match='norm_offset: 0.0 -> 1.0'):
      run.load_params('init', layout.abstract, config.model)


def test_a_finished_import_is_left_alone(source, tmp_path):
  import_quietly(source, tmp_path / 'dst')
  files = {
    p: p.stat().st_mtime_ns
    for p in (tmp_path / 'dst').rglob('*')
    if p.name != run_folder.LOCK
  }
  assert import_quietly(source, tmp_path / 'dst') == [
    f'{tmp_path / "dst"}: finished before'
  ]
  assert files == {p: p.stat().st_mtime_ns for p in files}
  checkpoints.write_folder(tmp_path / 'other', seed=1)
  with pytest.raises(
    ValueError, match='dst was made with another config.*origin.fingerprint'
  ):
    import_quietly(tmp_path / 'other', tmp_path / 'dst')
  with pytest.raises(ValueError, match='param_dtype'):
    import_quietly(source, tmp_path / 'dst', dtype='bfloat16')
  source.rename(tmp_path / 'moved')
  for src, word in ((tmp_path / 'moved', 'before'), (source, 'longer exists')):
    lines = import_quietly(src, tmp_path / 'dst')
    assert len(lines) == 1 and lines[0].endswith(word)
  with pytest.raises(ValueError, match='mistyped'):
    import_quietly(tmp_path / 'mistyped', tmp_path / 'dst')


def test_a_kill_before_there_is_a_config_is_no_hindrance(source, tmp_path):
  (tmp_path / 'dst').mkdir()
  (tmp_path / 'dst' / '.config.json.tmp').write_text('{"stage": "im')
  import_quietly(source, tmp_path / 'dst')
  assert run_folder.read_done(tmp_path / 'dst')


@pytest.mark.parametrize(
  'shape', [dict(fsdp=8), dict(data=2, fsdp=2, tensor=2), dict(data=-1)]
)
def test_each_device_reads_its_part(tmp_path, monkeypatch, shape):
  tensors = checkpoints.write_folder(tmp_path / 'src')
  asked, read = [], hf.read_slice

  def read_slice(leaf, index, *args):
    found = read(leaf, index, *args)
    asked.append(('/'.join(leaf.path), found.size / math.prod(leaf.shape)))
    return found

  monkeypatch.setattr(hf, 'read_slice', read_slice)
  import_quietly(tmp_path / 'src', tmp_path / 'dst', mesh=shape)
  parts = math.prod(shape.get(axis, 1) for axis in ('fsdp', 'tensor'))
  assert (
    sorted(part for name, part in asked if name == 'blocks/up/kernel')
    == [1 / parts] * parts
  )
  assert_holds(tmp_path / 'dst', expected_params(tensors, checkpoints.LLAMA))


def test_parameters_can_be_stored_in_bfloat16(tmp_path):
  tensors = checkpoints.write_folder(tmp_path / 'src')
  import_quietly(tmp_path / 'src', tmp_path / 'dst', dtype='bfloat16')
  assert opening.run_config(tmp_path / 'dst').model.param_dtype == 'bfloat16'
  names = checkpoint.read_meta(tmp_path / 'dst')['tensors']
  assert {dtype for _, dtype in names.values()} == {'bfloat16'}
  assert_holds(
    tmp_path / 'dst',
    {
      name: value.astype(ml_dtypes.bfloat16)
      for name, value in expected_params(tensors, checkpoints.LLAMA).items()
    },
  )


@pytest.mark.parametrize('mesh', [None, dict(tensor=7)])
@pytest.mark.parametrize('pad', ['mean', 'zeros'])
def test_a_pad_without_a_row_is_given_one(tmp_path, monkeypatch, pad, mesh):
  """320 + 1 rows; 7 devices do not divide them, 3 would."""
  if mesh:
    devices = jax.devices()[:3]
    monkeypatch.setattr(jax, 'devices', lambda: devices)
    mesh = dict(tensor=3)
  tensors = checkpoints.write_folder(tmp_path / 'src', num_tokens=320)
  lines = import_quietly(tmp_path / 'src', tmp_path / 'dst', pad=pad, mesh=mesh)
  assert '321 tokens in 321 rows' in lines[0]
  assert 'PAD is <|pad|> (320), a row added' in lines[0]
  params, _ = inputs.exported(tmp_path / 'dst')
  for name, tensor in (
    ('embed', 'model.embed_tokens.weight'),
    ('unembed', 'lm_head.weight'),
  ):
    np.testing.assert_array_equal(params[name][:320], tensors[tensor])
    np.testing.assert_allclose(
      params[name][320],
      tensors[tensor].mean(0) if pad == 'mean' else 0,
      atol=1e-6,
    )


def change_config(**fields):
  def change(src):
    path = src / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

  return change


def change_tokenizer(**fields):
  def change(src):
    path = src / 'tokenizer_config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

  return change


def change_tensors(change):
  def changed(src):
    tensors = load_file(src / 'model.safetensors')
    change(tensors)
    save_file(tensors, src / 'model.safetensors')

  return changed


def tied_but_for(change):
  """A tied model that has its unembedding too, and what is done to that."""

  def changed(src):
    change_config(tie_word_embeddings=True)(src)
    change_tensors(
      lambda t: t.update(
        {
          'lm_head.weight': np.ascontiguousarray(
            change(t['model.embed_tokens.weight'])
          )
        }
      )
    )(src)

  return changed


def cut_weights(src):
  path = src / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
  'change, message',
  [
    (
      change_config(model_type='mamba'),
      "config.json.*model_type must be.*got 'mamba'",
    ),
    (change_config(architectures=['LlamaForMaskedLM']), 'LlamaForMaskedLM'),
    (change_config(hidden_act='relu'), "config.json.*hidden_act='relu'"),
    (change_config(rope_scaling={'rope_type': 'yarn', 'factor': 2}), 'yarn'),
    (change_config(quantization_config={'bits': 4}), 'quantization_config'),
    (
      change_config(num_hidden_layers=4),
      r'tensor model.layers.3.* is missing.*layers',
    ),
    (
      change_config(intermediate_size=50),
      r'down_proj.weight has the shape \(32, 48\)',
    ),
    (
      change_tensors(lambda t: t.update(extra=np.ones(3, np.float32))),
      'src: tensor extra is not part of llama.*lost',
    ),
    (
      change_tensors(lambda t: t.pop('model.norm.weight')),
      'tensor model.norm.weight is missing',
    ),
    (
      change_tensors(
        lambda t: t.update({'model.norm.weight': np.ones(32, np.int8)})
      ),
      'model.safetensors: tensor model.norm.weight is I8',
    ),
    (
      change_config(tie_word_embeddings=True),
      'tensor lm_head.weight is not equal to model.embed_tokens.weight.*set '
      'tie_word_embeddings to false',
    ),
    (tied_but_for(lambda head: head[:-1]), 'tensor lm_head.weight is not equ'),
    (tied_but_for(lambda head: head.astype(np.int8)), 'lm_head.weight is I8'),
    (cut_weights, 'model.safetensors is cut off'),
    (lambda src: (src / 'config.json').write_text('{'), 'config.json is dama'),
    (
      lambda src: (src / 'config.json').write_text('[' * 100_000),
      'config.json is damaged: it is nested too deep',
    ),
    (change_config(num_attention_heads=64), 'num_attention_heads=64'),
    (lambda src: (src / 'config.json').unlink(), 'config.json does not exist'),
    (lambda src: (src / 'tokenizer.json').unlink(), 'src.*tokenizer'),
    (lambda src: (src / 'tokenizer.json').write_text('[]'), 'tokenizer.json'),
    (
      change_config(vocab_size=299),
      r'embed_tokens.weight has the shape \(320, 32\)',
    ),
    (change_config(hidden_size='32'), "hidden_size='32' is not a whole number"),
    (change_config(num_hidden_layers=10**18), 'num_hidden_layers=.* whole num'),
    (change_config(num_hidden_layers=10**6), 'more than 10,000 layers'),
    (
      lambda src: (
        (src / 'model.safetensors').unlink()
        or (src / 'model.safetensors').mkdir()
      ),
      'safetensors is not a regular file',
    ),
    (change_tokenizer(eos_token=[1]), r'must be a text; got eos_token=\[1\]'),
    (change_tokenizer(chat_template=3), 'chat_template must be a text'),
    (change_tokenizer(added_tokens_decoder=[1]), 'added tokens.*are damaged'),
  ],
)
def test_what_cannot_be_imported_is_refused_before_anything_is_written(
  source, tmp_path, change, message
):
  change(source)
  with pytest.raises((ValueError, OSError), match=message) as error:
    import_quietly(source, tmp_path / 'dst')
  assert '\n' not in str(error.value)
  assert str(source) in str(error.value)
  assert not (tmp_path / 'dst').exists()


def test_an_unembedding_that_equals_the_embedding_is_left_out(
  source, monkeypatch
):
  monkeypatch.setattr(source_lib, '_COMPARED', 32 * 7)  # 7 rows of 320

  def last(head):
    head = head.copy()
    head[-1, -1] += 1
    return head

  tied_but_for(lambda head: head)(source)
  opened = source_lib.open_source(source)
  assert 'lm_head.weight' not in hf.expected(opened.config)
  tied_but_for(last)(source)
  with pytest.raises(ValueError, match='lm_head.weight is not equal'):
    source_lib.open_source(source)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
  checkpoints.write_folder(tmp_path / 'src', num_tokens=330)
  with pytest.raises(ValueError, match='src: token .* the embedding has 320 r'):
    import_quietly(tmp_path / 'src', tmp_path / 'dst')


def test_a_target_of_something_else_is_refused(source, tmp_path):
  (tmp_path / 'dst').mkdir()
  (tmp_path / 'dst' / 'thesis.tex').touch()
  with pytest.raises(ValueError, match='dst is not empty and not a run folder'):
    import_quietly(source, tmp_path / 'dst')
  with pytest.raises(ValueError, match='thesis.tex is a file'):
    import_quietly(source, tmp_path / 'dst' / 'thesis.tex')


def test_want_of_disk_is_told_before(source, tmp_path, monkeypatch):
  monkeypatch.setattr(
    import_.shutil,
    'disk_usage',
    lambda path: (
      os.terminal_size((0, 0)),
      type('Usage', (), {'free': 1000})(),
    )[1],
  )
  with pytest.raises(
    ValueError, match='kB are needed, but only 1.0 kB are free'
  ):
    import_quietly(source, tmp_path / 'dst')
  assert not (tmp_path / 'dst').exists()


def test_an_import_that_stopped_is_not_used_and_begins_again(
  source, tmp_path, monkeypatch
):
  array = source_lib.ArrayReader.array

  def fail(self, name):
    if name == 'embed':
      raise OSError('unplugged')
    return array(self, name)

  dst = tmp_path / 'dst'
  monkeypatch.setattr(source_lib.ArrayReader, 'array', fail)
  with pytest.raises(OSError, match='unplugged'):
    import_quietly(source, dst)
  monkeypatch.undo()
  with pytest.raises(errors.CheckpointError, match='no checkpoint'):
    inputs.exported(dst)
  config = ml_collections.ConfigDict({'inputs': {'init': str(dst)}})
  with pytest.raises(checks.ConfigError, match='dst is not finished'):
    inputs.input_path(config, tmp_path, 'init')
  checkpoints.write_folder(tmp_path / 'other', seed=1)
  with pytest.raises(ValueError, match='made with another configuration'):
    import_quietly(tmp_path / 'other', dst)
  import_quietly(source, dst)
  assert os.listdir(dst / 'checkpoints') == ['00000000']
  assert_holds(
    dst,
    expected_params(load_file(source / 'model.safetensors'), checkpoints.LLAMA),
  )


def command(*arguments):
  return [sys.executable, '-m', 'instructrl.convert', *map(str, arguments)]


@pytest.mark.slow
def test_kill_9_leaves_nothing_that_is_used(tmp_path):
  config = {
    **checkpoints.LLAMA,
    'hidden_size': 256,
    'intermediate_size': 1024,
    'num_hidden_layers': 8,
  }
  tensors = checkpoints.write_folder(tmp_path / 'src', config)
  dst = tmp_path / 'dst'
  wanted = expected_params(tensors, config)
  for number in (1, 4, 9):  # leaves that are there when the signal comes
    process = subprocess.Popen(
      command('import', tmp_path / 'src', dst), stdout=subprocess.DEVNULL
    )
    work = dst / 'checkpoints' / 'incomplete.00000000'
    limit = time.monotonic() + 120
    while (
      sum('commit_success.txt' in files for *_, files in os.walk(work)) < number
    ):
      assert process.poll() is None and time.monotonic() < limit
      time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run_folder.read_done(dst) is None
    with pytest.raises(errors.CheckpointError, match='no checkpoint'):
      inputs.exported(dst)
  subprocess.run(command('import', tmp_path / 'src', dst), check=True)
  assert_holds(dst, wanted)
  assert os.listdir(dst / 'checkpoints') == ['00000000']


# The peak of the process itself: ru_maxrss begins at that of its parent.
MEASURE = """
import pathlib, re, sys
import jax.numpy as jnp
from instructrl.runtime import arrays
from instructrl.stages import import_
from instructrl.stages import run
status = lambda name: int(re.search(
    name + r':\\s*(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1])
arrays.save_leaf(pathlib.Path(sys.argv[3]), 'warm', jnp.ones(3))
before = status('VmRSS')
import_.import_model(sys.argv[1], sys.argv[2])
print('grew', (status('VmHWM') - before) << 10)
"""


@pytest.mark.slow
def test_memory_is_bounded_by_twice_the_largest_leaf(tmp_path):
  config = {
    **checkpoints.LLAMA,
    'hidden_size': 512,
    'intermediate_size': 1024,
    'num_hidden_layers': 64,
    'num_key_value_heads': 4,
  }
  largest = 64 * 512 * 1024 * 4
  tensors = checkpoints.write_folder(
    tmp_path / 'src', config, dtype=ml_dtypes.bfloat16
  )
  total = sum(t.size * 4 for t in tensors.values())
  del tensors
  assert total > 4.9 * largest
  # It grew by 261 to 266 MB: by up to 390 where Orbax wrote in a transaction,
  # and by more than 700 where leaves were kept.
  (tmp_path / 'warm').mkdir()
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      MEASURE,
      tmp_path / 'src',
      tmp_path / 'dst',
      tmp_path / 'warm',
    ],
    check=True,
    capture_output=True,
    text=True,
    env={**os.environ, 'XLA_FLAGS': ''},
  )
  grew = int(done.stdout.rsplit('grew ', 1)[1])
  assert grew < 2 * largest + (64 << 20)


@pytest.mark.slow
def test_two_processes_import_together(tmp_path):
  tensors = checkpoints.write_folder(tmp_path / 'src', shards=2)
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  environment = {
    **os.environ,
    'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
  }
  started = [
    subprocess.Popen(
      command(
        'import',
        tmp_path / 'src',
        tmp_path / 'dst',
        '--mesh=fsdp=2,tensor=2',
        f'--coordinator={address}',
        '--num_processes=2',
        f'--process_id={number}',
      ),
      env=environment,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(2)
  ]
  for process in started:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
  assert_holds(tmp_path / 'dst', expected_params(tensors, checkpoints.LLAMA))
  about = checkpoint.read_meta(tmp_path / 'dst')
  assert about['environment']['num_processes'] == 2


def test_flags_and_fields_have_the_escapes_of_a_shell():
  given = dict(
    prompt_template=r'Human: {prompt}\n\nAssistant:',
    response_template=' {response}',
    system=r'a\tb',
  )
  assert import_.layout_of(given) == dict(
    prompt_template='Human: {prompt}\n\nAssistant:',
    response_template=' {response}',
    system='a\tb',
  )


def test_a_source_and_a_run_may_be_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  checkpoints.write_folder(tmp_path / 'src')
  import_quietly('~/src', '~/dst')
  assert run_folder.read_done(tmp_path / 'dst')


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e300])
def test_weights_that_are_not_finite_are_refused_before_anything(
  tmp_path, value
):
  def spoil(tensors):
    name = 'model.layers.1.mlp.up_proj.weight'
    tensors[name] = tensors[name].astype(np.float64)
    tensors[name][3, 1] = value

  checkpoints.write_folder(tmp_path / 'src')
  change_tensors(spoil)(tmp_path / 'src')
  with pytest.raises(
    ValueError,
    match='model.safetensors: tensor model.layers.1.mlp.up_proj.*NaN',
  ):
    import_quietly(tmp_path / 'src', tmp_path / 'dst')
  assert not (tmp_path / 'dst').exists()


def test_an_adapter_is_named_before_its_missing_config(tmp_path):
  (tmp_path / 'adapter_config.json').write_text('{"r": 4}')
  with pytest.raises(ValueError, match='an adapter is not a whole model'):
    import_quietly(tmp_path, tmp_path / 'dst')
