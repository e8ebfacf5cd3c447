"""Costs of a study, compared with counts by hand."""

import pytest

from instructrl.data import rows
from instructrl.data import store
from instructrl.data import tasks
from instructrl.planning import budget
from instructrl.planning import flops
from instructrl.runtime import run_folder
from instructrl.stages import build
from instructrl.stages import checks
from tests.stages import stages
from tests.stages.conftest import study  # noqa: F401 (fixtures)
from tests.stages.conftest import tok  # noqa: F401 (fixtures)


@pytest.fixture(name='costs')
def make_costs(study):
  configs = stages.configs()
  configs = {name: configs[name] for name in ('sft', 'reward', 'ppo_ptx')}
  found = budget.costs(configs, study)
  return configs, {cost.stage: cost for cost in found}


def test_tokens_are_those_of_the_data_and_the_configs(costs, study, tok):
  configs, found = costs
  packed = rows.read_rows(study / 'lab' / configs['sft'].rows)
  steps = configs['sft'].num_epochs * -(-len(packed) // 8)
  assert found['sft'].trained == steps * 8 * packed.header['row_len']
  assert found['sft'].sampled == found['sft'].read == 0
  lengths = [
    len(tasks.chat_prompt(tok, r.prompt)) + sum(map(len, r.response_tokens))
    for r in store.read_records(study / 'rankings', 'rankings', 'train')
  ]
  assert max(lengths) <= 32  # the width of all batches
  steps = configs['reward'].num_epochs * -(-len(lengths) // 8)
  assert found['reward'].trained == steps * 8 * 32 > sum(lengths)
  # 4 iterations of 8 episodes of 8 + 4 tokens, for the policy and the value
  # model, and a pretraining row of 16 tokens per episode.
  assert found['ppo_ptx'].sampled == 32 * 4
  assert found['ppo_ptx'].read == 3 * 32 * 12
  assert found['ppo_ptx'].trained == 2 * 32 * 12 + 32 * 16


def test_arithmetic_is_that_of_an_iteration_times_iterations(costs, tok):
  configs, found = costs
  config = configs['ppo_ptx']
  policy = build.make_model(config, tok.vocab_size).module
  assert (config.ppo.batch_size, config.ppo.num_iterations) == (8, 4)
  one = flops.ppo(policy, policy, config.ppo, ptx_len=16)
  assert found['ppo_ptx'].sampling == pytest.approx(4 * one['generate'])
  assert found['ppo_ptx'].reading == pytest.approx(4 * one['score'])
  assert found['ppo_ptx'].training == pytest.approx(4 * one['update'])


def test_rankings_that_do_not_fit_are_told(study):
  config = stages.configs()['reward']
  config.prompt_len = 1
  with pytest.raises(checks.ConfigError, match='reward: no training ranking'):
    budget.costs({'reward': config}, study)


def test_the_table_tells_what_is_left(tmp_path):
  found = [
    budget.Cost('sft', trained=1000, training=5e12),
    budget.Cost('ppo', sampled=10, sampling=4e12),
  ]
  text = budget.table(found, tmp_path, 1e11)
  assert '1m40s' in text and 'about 3m20s are left' in text
  (tmp_path / 'sft').mkdir()
  run_folder.write_done(tmp_path / 'sft', {'seconds': 1.0, 'result': {}})
  text = budget.table(found, tmp_path, 1e11)
  assert 'finished' in text and 'about 1m40s are left' in text
  assert max(map(len, text.splitlines())) <= 80
