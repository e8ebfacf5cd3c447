"""`--from`: equal runs of another folder are taken instead of run."""

import json
import pathlib
import shutil

import pytest

from experiments import sft
from instructrl.orchestration import graph
from instructrl.orchestration import taken
from instructrl.runtime import errors
from instructrl.runtime import origins
from instructrl.runtime import run_folder


def finish(folder, config, inputs=(), **written):
  run_folder.write_config(folder, config)
  origins.check(folder, {name: folder.parent / name for name in inputs})
  for name, text in written.items():
    (folder / name).write_text(text)
  run_folder.write_done(folder, {'seconds': 3.0, 'result': {'loss': 0.5}})


@pytest.fixture
def config():
  config = sft.get_config('micro')
  config.inputs.data, config.inputs.init = '../lab', '../pretrain'
  return config


@pytest.fixture
def source(tmp_path, config):
  """A study whose stage `sft` is finished."""
  folder = tmp_path / 'study'
  finish(folder / 'lab', {'stage': 'lab'}, corpus='text')
  finish(folder / 'pretrain', {'stage': 'pretrain'}, ['lab'], weights='1')
  fields = json.loads(config.to_json())
  run_folder.write_config(folder / 'sft', fields)
  paths = {'data': folder / 'lab', 'init': folder / 'pretrain'}
  origins.check(folder / 'sft', paths)
  (folder / 'sft' / 'metrics.jsonl').write_text('{"step": 1}\n')
  (folder / 'sft' / 'log.txt').write_text('of another command')
  run_folder.write_done(folder / 'sft', {'seconds': 9.0, 'result': {}})
  return folder


@pytest.fixture
def sweep(tmp_path, source):
  """A folder with equal inputs under other names, and the node of `sft`."""
  folder = tmp_path / 'sweep'
  shutil.copytree(source / 'lab', folder / 'lab-1')
  shutil.copytree(source / 'pretrain', folder / 'pretrain-2')
  return folder


def node_of(config):
  config.inputs.data, config.inputs.init = '../lab-1', '../pretrain-2'
  return graph.Node('sft-3', config, config, ('lab-1', 'pretrain-2'), 'sft')


def test_an_equal_run_is_taken_whatever_the_names(source, sweep, config):
  node = node_of(config)
  assert taken.Finished(source).take(node, sweep) == source / 'sft'
  folder = sweep / 'sft-3'
  assert run_folder.read_done(folder) == {'seconds': 9.0, 'result': {}}
  assert not run_folder.check_files(folder)
  run_folder.check_config(folder, json.loads(config.to_json()))
  paths = {'data': sweep / 'lab-1', 'init': sweep / 'pretrain-2'}
  origins.check(folder, paths)  # as when the command starts again
  assert not (folder / 'log.txt').exists()
  shutil.rmtree(source)
  assert (folder / 'metrics.jsonl').read_text() == '{"step": 1}\n'


@pytest.mark.parametrize('what', ['field', 'input', 'begun', 'unfinished'])
def test_another_run_is_not_taken(what, source, sweep, config):
  if what == 'field':
    config.train_seed += 1
  elif what == 'input':
    finish(sweep / 'lab-1', {'stage': 'lab'}, corpus='other text')
  elif what == 'begun':
    run_folder.write_config(sweep / 'sft-3', {'stage': 'sft'})
  else:
    (source / 'sft' / 'DONE').unlink()
  before = sorted(pathlib.Path(sweep).rglob('*'))
  assert taken.Finished(source).take(node_of(config), sweep) is None
  assert sorted(pathlib.Path(sweep).rglob('*')) == before


def test_a_damaged_run_is_refused(source, sweep, config):
  (source / 'sft' / 'metrics.jsonl').write_text('{"step": 2}\n')
  with pytest.raises(ValueError, match='sft is not what its run wrote'):
    taken.Finished(source).take(node_of(config), sweep)
  assert not (sweep / 'sft-3').exists()


@pytest.mark.parametrize('name', ['nowhere', ''])
def test_a_folder_without_a_finished_run_is_named(tmp_path, name):
  with pytest.raises(errors.ConfigError, match='there is no finished run in'):
    taken.Finished(tmp_path / name)
