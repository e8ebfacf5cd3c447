"""Runs that are opened for reading."""

import jax
import numpy as np
import pytest

from instructrl.runtime import errors
from instructrl.runtime import sharding
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import opening
from tests import tiny
from tests.stages import conftest
from tests.stages import stages


@pytest.fixture(scope='module')
def policy(study, tmp_path_factory):
  """A run folder of a policy with dropout, beside its tokenizer."""
  folder = tmp_path_factory.mktemp('policy')
  tok = conftest.Tokenizer.load(study / 'lab' / conftest.Tokenizer.FILE)
  tok.save(folder / tok.FILE)
  config = stages.configs()['sft']
  config.model.dropout = 0.1
  model = opening.build.make_model(config, tok.vocab_size)
  conftest.save_run(
    folder, tok, tiny.params(model, std=0.05), config=config.to_dict()
  )
  return folder


def test_a_policy_is_opened_with_its_own_tokenizer(policy, tok):
  run = opening.open_run(policy)
  assert not run.is_reward_model
  assert run.tok.fingerprint == tok.fingerprint
  assert run.config.model.dropout == 0 == run.model.module.dropout
  saved, _ = inputs.exported(policy)
  jax.tree.map(np.testing.assert_array_equal, run.params, saved)
  step = opening.open_run(policy / 'checkpoints' / '00000001')
  jax.tree.map(np.testing.assert_array_equal, step.params, saved)


def test_a_mesh_shards_the_parameters(policy, tok):
  mesh = sharding.make_mesh({'data': -1, 'fsdp': 1, 'tensor': 1})
  run = opening.open_run(policy, tok, mesh)
  assert run.params['embed'].sharding.mesh.shape == mesh.shape
  saved, _ = inputs.exported(policy)
  np.testing.assert_array_equal(run.params['embed'], saved['embed'])


def test_a_reward_model_is_known_as_one(study, tok):
  run = opening.open_run(study / 'reward', tok)
  assert run.is_reward_model
  assert set(run.params) == {'backbone', 'head'}


def test_parameters_that_do_not_fit_are_named_by_their_field(study, tok):
  wanted = {'no_such': jax.ShapeDtypeStruct((1,), 'float32')}
  with pytest.raises(errors.CheckpointError, match='^rewards.x.path: .*sft'):
    opening.load_params(study / 'sft', tok, wanted, name='rewards.x.path')


def test_a_folder_without_a_checkpoint_is_named_by_its_field(study, tok):
  with pytest.raises(
    errors.CheckpointError, match='^policies.x: .*lab: no checkpoint'
  ):
    opening.open_run(study / 'lab', tok, name='policies.x')


def test_another_tokenizer_is_refused(policy, tok, monkeypatch):
  monkeypatch.setattr(type(tok), 'fingerprint', 'another')
  with pytest.raises(checks.ConfigError, match='than the one beside it'):
    opening.open_run(policy)
  with pytest.raises(
    checks.ConfigError, match='policies.x: .* than that of inputs.data'
  ):
    opening.open_run(policy, tok, name='policies.x')


def test_a_run_without_a_model_and_a_folder_without_a_tokenizer(study, tok):
  with pytest.raises(checks.ConfigError, match='sft trained no model'):
    opening.open_run(study / 'sft', tok)  # its meta has no config
  with pytest.raises(FileNotFoundError, match='no tokenizer in'):
    opening.open_run(study / 'reward')
