"""A study from three small files, to its evaluation and report."""

import json
import random

import pytest

from experiments import own
from instructrl.orchestration import graph
from instructrl.orchestration import study
from instructrl.runtime import metrics
from instructrl.runtime import run_folder
from tests.stages.conftest import one_device  # noqa: F401 (a fixture)

WORDS = ('red', 'green', 'blue', 'cat', 'dog', 'fish')


def write_data(folder):
  """Writes small files as a user brings them; a longer response is worse."""
  rng = random.Random(0)

  def say(count):
    return ' '.join(rng.choice(WORDS) for _ in range(count))

  def write(name, rows):
    lines = (json.dumps(row) + '\n' for row in rows)
    (folder / name).write_text(''.join(lines))

  prompts = [f'say {i} {say(2)}' for i in range(60)]
  write('shown.jsonl', ({'prompt': p, 'response': say(2)} for p in prompts))
  ranked = []
  for i, prompt in enumerate(prompts):
    responses = [say(1 + j) for j in range(2 + i % 3)]
    ranks = list(range(len(responses)))
    ranked.append({'prompt': prompt, 'responses': responses, 'ranks': ranks})
  write('ranked.jsonl', ranked)
  (folder / 'pages.txt').write_text('\n\n'.join(say(40) for _ in range(90)))


def config_of(folder, size='micro'):
  c = own.get_config(size)
  c.documents = (f'text:{folder}/pages.txt',)
  c.demonstrations = (f'jsonl:{folder}/shown.jsonl',)
  c.rankings = (f'jsonl:{folder}/ranked.jsonl',)
  return c


@pytest.mark.parametrize('size', own.RECIPE)
def test_every_size_validates(size, tmp_path):
  nodes = graph.of_study(config_of(tmp_path, size), tmp_path / 'nowhere')
  assert list(nodes)[0] == 'data' and 'lab' not in nodes
  assert not (tmp_path / 'nowhere').exists()


def test_a_file_that_is_missing_is_reported_before_anything_runs(tmp_path):
  write_data(tmp_path)
  (tmp_path / 'shown.jsonl').unlink()
  with pytest.raises(ValueError, match='data: demonstrations: .*there is no'):
    study.run(config_of(tmp_path), tmp_path / 'nowhere')
  assert not (tmp_path / 'nowhere').exists()


@pytest.mark.slow
def test_from_three_files_to_a_report(tmp_path, one_device):
  write_data(tmp_path)
  config = config_of(tmp_path)
  path = study.run(config, tmp_path / 'study')
  workdir = tmp_path / 'study'
  for name in config.order:
    assert run_folder.read_done(workdir / name) is not None, name
  losses = [
    line['loss/validation']
    for line in metrics.read_metrics(workdir / 'pretrain')
    if 'loss/validation' in line
  ]
  assert losses[-1] < losses[0] - 1
  results = json.loads((path.parent / 'results.json').read_text())
  assert results and path.name == 'index.html'
