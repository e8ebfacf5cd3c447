"""PPO with rewards of one's own: alone, and beside a reward model."""

import dataclasses
import json
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest

from instructrl.data import store
from instructrl.runtime import metrics
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import ppo
from instructrl.stages import ppo_steps
from instructrl.stages import runner
from instructrl.stages.run import Run

BREVITY = dict(kind='function', function='examples.my_reward:brevity')


class Stopped(Exception):
  """Ends a run where its loop would begin."""


def curve(workdir, name):
  return [l[name] for l in metrics.read_metrics(workdir) if name in l]


def test_a_weighted_sum_of_terms():
  terms = {'a': np.float32([1, 3]), 'b': np.float32([2, 0])}
  total, found = ppo_steps.weighted_sum(terms, {'a': 2.0, 'b': -0.5})
  np.testing.assert_array_equal(total, [1, 6])
  assert found == {'reward/a': 2, 'reward/b': 1}


def test_one_term_of_weight_1_is_the_score():
  terms = {'a': np.float32([1, 3])}
  total, found = ppo_steps.weighted_sum(terms, {'a': 1.0})
  assert total is terms['a'] and not found
  assert ppo_steps.weighted_sum(terms, {'a': 0.5})[1] == {'reward/a': 2}


@pytest.mark.parametrize(
  'alone', [pytest.param(True, marks=pytest.mark.slow), False]
)
def test_a_function_is_a_reward(alone, configs, workdir, one_device):
  config = configs['ppo']
  config.ppo.num_iterations, config.ppo.ema_decay = 2, 0.0
  config.rewards.brevity = dict(BREVITY, weight=0.25)
  if alone:
    config.rewards.reward_model.weight = 0.0
    (workdir.parent / 'reward').unlink()
  ppo.run(config, workdir)
  read = {
    name: curve(workdir, name)
    for name in ('objective/scores', 'reward/brevity', 'reward/reward_model')
  }
  assert len(read['reward/brevity']) == 2
  total = 0.25 * np.asarray(read['reward/brevity'])
  if alone:
    assert not read['reward/reward_model']
  else:
    total = total + read['reward/reward_model']
  np.testing.assert_allclose(read['objective/scores'], total, rtol=1e-5)


@pytest.mark.slow
def test_a_function_of_zeros_changes_nothing(
  configs, workdir, one_device, tmp_path
):
  """The passes of the models are the same beside a function."""
  one, other = configs['ppo'], configs['ppo'].copy_and_resolve_references()
  for config in (one, other):
    config.ppo.num_iterations, config.ppo.ema_decay = 2, 0.0
  other.rewards.none = dict(kind='function', function=f'{__name__}:zeros')
  ppo.run(one, workdir)
  ppo.run(other, tmp_path / 'other')
  for name in ('objective/scores', 'objective/kl', 'loss/policy'):
    np.testing.assert_allclose(
      curve(workdir, name), curve(tmp_path / 'other', name), rtol=1e-5
    )


def zeros(prompts, responses):
  assert len(prompts) == len(responses) == 8
  return np.zeros(len(responses))


def test_a_function_that_changed_is_refused_by_name(
  configs, workdir, tmp_path, monkeypatch
):
  """Also if the change is in a module that it imports."""
  monkeypatch.syspath_prepend(tmp_path)
  source, words = tmp_path / 'changing_reward.py', tmp_path / 'its_words.py'
  source.write_text(
    'import its_words\n'
    'def f(prompts, responses):\n  return [its_words.SCORE] * len(prompts)\n'
  )
  words.write_text('SCORE = 0.0\n')
  config = configs['ppo']
  config.rewards.own = dict(kind='function', function='changing_reward:f')
  runner.check_inputs(config, workdir)
  runner.check_inputs(config, workdir)
  for path in (words, source):
    before = path.read_text()
    path.write_text(before + '# changed\n')
    monkeypatch.delitem(sys.modules, 'changing_reward')
    with pytest.raises(
      ValueError,
      match='run was made from other rewards.own, .* another workdir',
    ):
      runner.check_inputs(config, workdir)
    path.write_text(before)


@pytest.mark.parametrize(
  'term, message',
  [
    (dict(BREVITY, function='examples.my_reward:no'), "has no function 'no'"),
    (dict(kind='function'), 'rewards.own.function must be set'),
  ],
)
def test_a_term_that_cannot_be_used_is_found_by_validation(
  configs, term, message
):
  config = configs['ppo']
  config.rewards.own = term
  with pytest.raises(checks.ConfigError, match=message):
    ppo.validate(config)


def test_the_folder_of_a_reward_model_is_an_input(configs):
  config = configs['ppo']
  config.rewards.other = dict(kind='model', path='../other', weight=0.5)
  config.rewards.out = dict(kind='model', path='../out', weight=0.0)
  found = inputs.paths(config)
  assert found['rewards.other'] == ('rewards.other', 'path')
  assert found['rewards.reward_model'] == ('rewards.reward_model', 'path')
  assert 'rewards.out' not in found
  with pytest.raises(
    checks.ConfigError, match='rewards.other.path: .*/other d'
  ):
    inputs.input_path(config, '/nowhere/ppo', 'path', 'rewards.other')


@pytest.fixture
def started(workdir, monkeypatch, one_device, nothing_ahead):
  """(config) -> the state with which PPO's loop would begin."""
  found = {}

  def loop(run, state, *args, **kwargs):
    found['state'] = jax.device_get(state)
    raise Stopped

  monkeypatch.setattr(Run, 'loop', loop)

  def start(config):
    with pytest.raises(Stopped):
      ppo.run(config, workdir)
    return found['state']

  return start


def test_without_a_reward_model_values_start_from_the_policy(
  configs, started, study
):
  config = configs['ppo']
  config.rewards.brevity = dict(BREVITY)
  config.rewards.reward_model.weight = 0.0
  value = started(config).params['value']
  policy, _ = inputs.exported(study / 'ppo_init')
  chex.assert_trees_all_equal(value['backbone'], policy)
  assert value['head']['bias'] == 0 and np.any(value['head']['kernel'])


def test_a_value_model_of_another_architecture_is_refused(configs, workdir):
  config = configs['ppo']
  config.value_model.d_ff = 24
  with pytest.raises(
    checks.ConfigError, match='value_model must have .*d_ff differ'
  ):
    ppo.run(config, workdir)


@pytest.mark.slow
def test_prompts_of_another_folder(
  configs, workdir, study, one_device, tmp_path
):
  """They are read as text, wherever they come from."""
  folder = tmp_path / 'own'
  known = store.read_records(study / 'lab', 'prompts', 'train')
  own = [dataclasses.replace(p, text='say fish') for p in known[:3]]
  store.write_records(folder, 'prompts', {'mine': own})
  config = configs['ppo']
  config.inputs.prompts, config.prompts_split = '../own', 'mine'
  config.ppo.num_iterations, config.ppo.ema_decay = 1, 0.0
  config.validation_prompts = 0
  result = ppo.run(config, workdir)
  assert (result['prompts'], result['prompts_dropped']) == (3, 0)
  assert 'validation' not in result
  lines = (workdir / 'samples.jsonl').read_text().splitlines()
  assert {json.loads(line)['prompt'].strip() for line in lines} == {'say fish'}


def test_flags_add_a_term():
  code = """
from absl import app
from ml_collections import config_flags
flag = config_flags.DEFINE_config_file('config')
app.run(lambda argv: print(flag.value.rewards.to_dict()))
"""
  flags = [
    '--config=experiments/ppo.py:micro',
    '--config.rewards.brevity.kind=function',
    '--config.rewards.brevity.function=examples.my_reward:brevity',
    '--config.rewards.brevity.weight=0.1',
    '--config.rewards.reward_model.weight=0.5',
  ]
  run = lambda *args: subprocess.run(
    [sys.executable, '-c', code, *args], capture_output=True, text=True
  )
  brevity = dict(BREVITY, path='', weight=0.1)
  model = dict(kind='model', path='../reward', function='', weight=0.5)
  found = run(*flags)
  assert eval(found.stdout) == {'brevity': brevity, 'reward_model': model}
  found = run(*flags, '--config.rewards.brevity.wieght=1')
  assert found.returncode and 'wieght' in found.stderr


@pytest.mark.slow
def test_ppo_learns_to_be_brief(configs, workdir, one_device):
  """Responses get shorter, and so the reward rises; nothing else can."""
  config = configs['ppo']
  config.rewards.reward_model.weight = 0.0
  config.rewards.brevity = dict(
    kind='function', function=f'{__name__}:few_tokens'
  )
  config.ppo.update(
    batch_size=32,
    minibatch_size=8,
    num_iterations=30,
    kl_coef=0.0,
    ema_decay=0.5,
    response_len=8,
  )
  config.optimizer.peak_lr = config.value_optimizer.peak_lr = 1e-2
  config.eval_every = config.samples_every = 0
  config.checkpoint.every = 30
  ppo.run(config, workdir)
  scores = curve(workdir, 'objective/scores')
  lengths = curve(workdir, 'response/length')
  assert np.mean(scores[-3:]) > np.mean(scores[:3]) + 0.3
  assert np.mean(lengths[-3:]) < 0.7 * np.mean(lengths[:3])


def few_tokens(prompts, responses):
  del prompts
  return [-len(text) / 8 for text in responses]
