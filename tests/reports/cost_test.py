"""Costs that are computed by hand."""

import types

import pytest

from instructrl.reports import cost


def study(**results):
  config = {
    'pretrain': {'batch_size': 4},
    'sft': {'batch_size': 2},
    'ppo': ppo_config(ptx_coef=0.0),
    'ppo_ptx': ppo_config(ptx_coef=2.0),
    'lab': {},
  }
  return types.SimpleNamespace(
    header={'config': config}, done=results, result=lambda s: results.get(s, {})
  )


def ppo_config(ptx_coef, num_ppo_epochs=1):
  return {
    'ppo': {
      'prompt_len': 6,
      'response_len': 4,
      'num_ppo_epochs': num_ppo_epochs,
      'ptx_coef': ptx_coef,
      'ptx_examples_per_episode': 3,
    },
    'rewards': {
      'reward_model': {'kind': 'model', 'weight': 1.0},
      'off': {'kind': 'model', 'weight': 0.0},
      'brevity': {'kind': 'function', 'weight': 1.0},
    },
  }


LM = {'num_params': 1000, 'num_steps': 5, 'tokens_per_step': 80}
PPO = {'episodes': 7, 'num_params': 1000, 'value_params': 100}


def test_training_a_language_model_is_6_n_a_token():
  found = cost.costs(study(pretrain=LM, sft={**LM, 'num_steps': 1}, lab={}))
  assert found == [
    cost.StageCost('pretrain', 6 * 1000 * 400, 1.0),
    cost.StageCost('sft', 6 * 1000 * 80, pytest.approx(0.2)),
  ]


def test_ppo_by_hand():
  found = {
    row.stage: row.flop for row in cost.costs(study(pretrain=LM, ppo=PPO))
  }
  tokens = 7 * (6 + 4)
  policy = 1000 * tokens * (2 + 2 + 6)  # sampled, read as reference, trained
  value = 100 * tokens * (2 + 2 + 6)  # rewarded, valued, trained
  assert found['ppo'] == policy + value == 770_000


def test_pretraining_rows_of_ppo_ptx():
  """80 tokens a step of 4 rows are 20 tokens a row."""
  rows = cost.costs(study(pretrain=LM, ppo=PPO, ppo_ptx=PPO))
  found = {row.stage: row.flop for row in rows}
  assert found['ppo_ptx'] - found['ppo'] == 6 * 1000 * (7 * 3 * 20)


def test_every_inner_epoch_is_trained():
  once, twice = (
    cost.ppo(ppo_config(2.0, epochs), PPO, row_len=20) for epochs in (1, 2)
  )
  assert twice - once == 6 * (1000 * 70 + 100 * 70 + 1000 * 7 * 3 * 20)


def test_without_pretraining_there_is_no_share():
  assert cost.costs(study(sft=LM, ppo=PPO)) == []
