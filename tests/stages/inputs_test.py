"""Parts of a data folder that are there, and a line for those that are not."""

import pathlib
import types

import pytest

from experiments import evaluation
from instructrl.data import rows
from instructrl.data import store
from instructrl.data import tasks
from instructrl.runtime import run_folder
from instructrl.stages import checks
from instructrl.stages import inputs
from tests.data import toys


@pytest.fixture(name='run')
def _run(tmp_path, tok):
  store.write_records(tmp_path, 'rankings', {'train': [toys.ranked('p')]})
  rows.write_rows(
    tmp_path / 'corpus.rows',
    tasks.document_rows([toys.page('red cat')], tok, 8),
    tokenizer_fingerprint=tok.fingerprint,
    source_fingerprint='x',
  )
  return types.SimpleNamespace(
    input=lambda name: tmp_path,
    tokenizer=lambda: tok,
    label='[2/3] nlp',
    config=types.SimpleNamespace(stage='reward'),
    primary=True,
  )


def test_what_is_there_is_read(run, tmp_path):
  assert inputs.data_folder(run).has('rankings')
  assert len(inputs.records(run, 'data', 'rankings', 'train')) == 1
  assert len(inputs.rows(run, 'corpus.rows', 'set rows')) == 1


@pytest.mark.parametrize(
  'name, split, field',
  [
    ('rankings', 'validation', 'rankings'),
    ('demonstrations', 'train', 'demonstrations'),
    ('prompts', 'ppo', 'prompts or rankings'),
  ],
)
def test_records_that_are_not_there(run, tmp_path, name, split, field):
  assert not inputs.data_folder(run).has(name, split)
  with pytest.raises(
    checks.ConfigError,
    match=(
      f"inputs.data: {tmp_path} has no {name} of the split '{split}': give the "
      f'data stage a source for {field}, or set inputs.data'
    ),
  ):
    inputs.records(run, 'data', name, split)


def test_records_of_another_version_are_no_missing_records(run, tmp_path):
  folder = tmp_path / 'rankings' / 'rankings'
  version = next(folder.iterdir())
  version.rename(folder / '1.0.0')
  with pytest.raises(
    checks.ConfigError,
    match=(
      "no finished data set 'rankings' of format version .*, but one of 1.0.0, "
      'which another version of this program wrote: make it again'
    ),
  ):
    inputs.records(run, 'data', 'rankings', 'train')


@pytest.mark.parametrize(
  'name, message',
  [
    (
      'corpus_validation.rows',
      'has no corpus_validation.rows: give the data '
      'stage a source for documents, or set it',
    ),
    ('demonstrations.rows', 'a source for demonstrations, or set it'),
    ('mine.rows', 'has no mine.rows'),
    ('', 'has no such rows'),
  ],
)
def test_rows_that_are_not_there(run, name, message):
  with pytest.raises(checks.ConfigError, match=message):
    inputs.rows(run, name, 'set it')


def test_rows_of_another_tokenizer_are_refused(run):
  run.tokenizer = lambda: types.SimpleNamespace(fingerprint='another')
  with pytest.raises(ValueError, match='tokenizer_fingerprint'):
    inputs.rows(run, 'corpus.rows', 'set rows')


def test_one_process_tells(run, capsys):
  inputs.tell(run, 'this is not measured')
  run.primary = False
  inputs.tell(run, 'this is not measured')
  assert capsys.readouterr().out == '[2/3] nlp: this is not measured\n'


def test_policies_are_inputs_as_well(tmp_path):
  config = evaluation.get_config('micro')
  config.policies.dpo = '../dpo'
  config.policies.ppo = ''
  found = inputs.paths(config)
  assert found['data'] == ('inputs', 'data')
  assert found['policies.dpo'] == ('policies', 'dpo')
  assert 'policies.ppo' not in found
  workdir = tmp_path / 'run'
  with pytest.raises(checks.ConfigError, match='policies.dpo: .* not exist'):
    inputs.input_path(config, workdir, 'dpo', 'policies')
  (tmp_path / 'dpo').mkdir()
  path = inputs.input_path(config, workdir, 'dpo', 'policies')
  assert path == tmp_path / 'dpo'


def test_a_selection_is_the_step_that_it_selected(tmp_path):
  config = evaluation.get_config('micro')
  selection = tmp_path / 'select_sft'
  run_folder.write_config(
    selection, {'stage': 'select_sft', 'inputs': {'sft': '../sft'}}
  )
  with pytest.raises(checks.ConfigError, match='policies.sft: .*not finished'):
    inputs.input_path(config, tmp_path / 'run', 'sft', 'policies')
  run_folder.write_done(selection, {'result': {'selected_step': 7}})
  step = tmp_path / 'sft' / 'checkpoints' / '00000007'
  assert inputs.selected(selection) == step
  assert inputs.input_path(config, tmp_path / 'run', 'sft', 'policies') == step
  assert inputs.selected(step) == step


def test_paths_start_at_the_run_folder_or_at_home(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert inputs.locate('/runs/ppo', '../sft') == pathlib.Path('/runs/sft')
  assert inputs.locate('/runs/ppo', '~/sft') == tmp_path / 'sft'
