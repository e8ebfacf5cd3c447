"""A study on real data as a whole: from a tiny folder of weights and small
files of data to an export and a report.
"""

import json
import random

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import real
from instructrl.data import store
from instructrl.orchestration import graph
from instructrl.orchestration import study
from instructrl.reports import report
from instructrl.runtime import run_folder
from instructrl.stages import architecture
from instructrl.stages import runner
from tests import checkpoints
from tests.stages.conftest import one_device  # noqa: F401 (a fixture)

WORDS = ('red', 'green', 'blue', 'cat', 'dog', 'fish')


def write_data(folder):
  """Small files in the form that one brings; a longer response is worse."""
  rng = random.Random(0)
  say = lambda count: ' '.join(rng.choice(WORDS) for _ in range(count))
  lines = lambda name, rows: (folder / name).write_text(
    ''.join(json.dumps(row) + '\n' for row in rows)
  )
  prompts = [f'say {i} {say(2)}' for i in range(40)]
  shown = prompts[::2]  # PPO's own prompts are ranked ones without these
  lines('shown.jsonl', ({'prompt': p, 'response': say(2)} for p in shown))
  lines(
    'ranked.jsonl',
    (
      {
        'prompt': p,
        'responses': [say(1 + i % 3) for i in range(k)],
        'scores': [-(i % 3) for i in range(k)],
      }
      for k, p in zip([2, 3, 4, 5] * 10, prompts)
    ),
  )
  (folder / 'wiki.txt').write_text('\n\n'.join(say(20) for _ in range(60)))


def config_of(folder):
  c = real.get_config('cpu')
  c.source = str(folder / 'weights')
  c.demonstrations = (f'jsonl:{folder}/shown.jsonl',)
  c.rankings = (f'jsonl:{folder}/ranked.jsonl',)
  c.documents = (f'text:{folder}/wiki.txt',)
  stages = c.stages
  c.frozen_layers = 1
  stages.data.update(prompt_len=32, response_len=16, row_len=48)
  stages.sft.num_epochs = stages.ppo_init.num_epochs = 1
  stages.select_sft.update(prompt_len=32, response_len=8, batch_size=8)
  stages.reward.update(prompt_len=32, response_len=16)
  for name in ('ppo', 'ppo_ptx'):
    stages[name].ppo.update(
      prompt_len=32,
      response_len=8,
      batch_size=8,
      minibatch_size=4,
      num_iterations=4,
      ema_decay=0.5,
    )
    stages[name].update(eval_batches=1, eval_every=2, samples_every=2)
  stages.evaluation.update(prompt_len=32, response_len=8, batch_size=8)
  stages.evaluation.evals.reward.num_prompts = 6
  stages.evaluation.evals.nll.num_rows = 4
  return c


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('real')
  write_data(folder)
  checkpoints.write_folder(folder / 'weights')
  return folder


def inputs_of(folder, name, split):
  """Returns the texts of the prompts of a split."""
  records = store.read_records(folder, name, split)
  return {getattr(r, 'prompt', r).text for r in records}


@pytest.mark.parametrize('size', real.SIZES)
def test_the_recipe_of_the_paper(size):
  """Its steps, in order, on prompts and rows that each step may see."""
  c = real.get_config(size)
  assert c.order == (
    'import',
    'data',
    'sft',
    'ppo_init',
    'reward',
    'select_sft',
    'ppo',
    'ppo_ptx',
    'evaluation',
    'export',
  )
  s = c.stages
  assert (s.ppo_init.pretrain_mix, s.ppo_init.num_epochs) == (0.1, 2)
  assert s.ppo_init.inputs.init == '../import'
  for name in ('ppo', 'ppo_ptx'):
    assert s[name].inputs.policy == '../ppo_init'
    assert s[name].prompts_split == 'ppo'
  assert s.data.pii == 'drop' and s.data.ppo_fraction > 0
  assert s.sft.checkpoint.keep >= s.sft.num_epochs > 1
  assert s.evaluation.policies.sft == '../select_sft'
  assert s.evaluation.policies.ppo_init == '../ppo_init'
  assert s.export.inputs.policy == '../ppo_ptx'


@pytest.mark.parametrize('size', real.SIZES)
def test_all_stages_have_one_length_limit_and_no_response_is_cut(size):
  """A response that is cut in one stage has no end for the next."""
  stages = real.get_config(size).stages
  limits = {
    (found.prompt_len, found.response_len)
    for stage in stages.values()
    if 'response_len' in (found := stage.get('ppo', stage))
  }
  assert len(limits) == 1
  assert stages.data.long_responses == 'drop'
  assert stages.data.row_len >= sum(limits.pop())
  for name in ('ppo', 'ppo_ptx'):
    assert stages[name].ppo.missing_eos == 'penalty'
    assert stages[name].ppo.missing_eos_amount > 0


def test_every_stage_of_the_experiment_validates(folder):
  """The architecture is that of the source, before anything is imported."""
  for size in real.SIZES:
    config = real.get_config(size)
    with pytest.raises(ValueError, match='stages.import: source is empty'):
      graph.of_study(config, 'nowhere')
    config.source = str(folder / 'weights')
    config.frozen_layers = 4
    with pytest.raises(
      ValueError,
      match='stages.sft: .*frozen_layers=4.*; '
      '--config.frozen_layers sets it in all stages',
    ):
      graph.of_study(config, 'nowhere')
    config.frozen_layers = 0
    message = 'max_len must be at least prompt_len .*; got 64'
    with pytest.raises(ValueError, match=message):
      graph.of_study(config, 'nowhere')
  nodes = graph.of_study(config_of(folder), folder / 'nowhere')
  configs = {name: node.resolved for name, node in nodes.items()}
  for name in ('sft', 'reward', 'ppo', 'ppo_ptx'):
    assert architecture.resolved(configs[name])
    assert configs[name].model.num_layers == 3
    assert configs[name].model.mlp == 'swiglu'
  assert configs['ppo'].value_model.num_kv_heads == 2
  assert configs['ppo_ptx'].reward_model.frozen_layers == 1
  assert not (folder / 'nowhere').exists()


def test_a_file_that_is_missing_is_told_before_the_import(folder):
  config = config_of(folder)
  config.documents = (f'text:{folder}/none.txt',)
  with pytest.raises(ValueError, match='data: documents: .*there is no .*none'):
    study.run(config, folder / 'nowhere')
  assert not (folder / 'nowhere').exists()


@pytest.mark.slow
def test_from_weights_to_an_export_and_a_report(folder, one_device, capsys):
  workdir = folder / 'study'
  path = study.run(config_of(folder), workdir)
  told = capsys.readouterr().out
  assert 'planned' in told and 'are left' in told
  assert '[1/10] import: ' in told and 'PAD is' in told
  assert '[10/10] export: done' in told
  # The steps of the recipe: see `test_the_recipe_of_the_paper`.
  done = lambda name: run_folder.read_done(workdir / name)['result']
  assert 0.1 < done('ppo_init')['mix_share'] < 1
  assert done('select_sft')['selected_epoch'] == 1
  asked = inputs_of(workdir / 'data', 'prompts', 'ppo')
  ranked = inputs_of(workdir / 'data', 'rankings', 'train')
  assert asked and not asked & ranked
  assert done('ppo')['prompts'] == len(asked)
  page = path.read_text()
  assert 'weights (3 layers of width 32)' in page
  results = json.loads((path.parent / 'results.json').read_text())
  assert set(results['accuracy']) == {'jsonl/ranked'}
  assert {'nll', 'score', 'kl'} < set(results['measures'])
  assert any(
    'PPO-ptx has less loss' in row['statement']
    for row in results['expectations']
  )
  # What was frozen is what was imported, and the rest is not.
  exported = load_file(workdir / 'export' / 'policy' / 'model.safetensors')
  given = load_file(folder / 'weights' / 'model.safetensors')
  name = 'model.layers.{}.mlp.up_proj.weight'
  rows = given['model.embed_tokens.weight'].shape[0]
  np.testing.assert_array_equal(
    exported['model.embed_tokens.weight'][:rows],
    given['model.embed_tokens.weight'],
  )
  np.testing.assert_array_equal(exported[name.format(0)], given[name.format(0)])
  assert (exported[name.format(2)] != given[name.format(2)]).any()
  # The same command again runs nothing, also without the source.
  before = {p: p.read_bytes() for p in workdir.glob('*/DONE')}
  (folder / 'weights').rename(folder / 'moved')
  study.run(config_of(folder), workdir)
  (folder / 'moved').rename(folder / 'weights')
  assert {p: p.read_bytes() for p in workdir.glob('*/DONE')} == before
  assert report.make_report(workdir) == path
  assert run_folder.read_done(workdir / 'reward')['result']['bias_from'] == (
    'demonstrations'
  )
  # Another source is refused, and nothing is lost.
  checkpoints.write_folder(folder / 'other', seed=1)
  config = config_of(folder)
  config.source = str(folder / 'other')
  with pytest.raises(ValueError, match='import was made with another'):
    runner.run_stage(
      graph.of_study(config, folder / 'fresh')['import'].resolved,
      workdir / 'import',
    )
