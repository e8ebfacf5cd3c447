"""The programs in examples/ do what they say."""

import json
import types

import pytest

from examples import my_evaluation
from instructrl.data.records import Prompt
from instructrl.orchestration import graph
from instructrl.orchestration import study
from instructrl.runtime import metrics
from tests.stages.conftest import one_device  # noqa: F401 (a fixture)

EOS = 0


class Tokenizer:
  eos_id = EOS

  def decode(self, tokens):
    return ''.join(chr(t) for t in tokens if t)


class Policy:
  """Repeats every second prompt; ends only when told to."""

  def __init__(self, ends):
    self._ends = ends

  def sample_tokens(self, prompts, *, temperature, seed):
    texts = [p.text if i % 2 else 'ok' for i, p in enumerate(prompts)]
    return [[*map(ord, text)] + [EOS] * self._ends for text in texts]


def test_my_evaluation_by_hand():
  prompts = [Prompt(str(i), f'say {i}', 'u', 'chat', 'x') for i in range(9)]
  context = types.SimpleNamespace(
    tok=Tokenizer(), seed=0, prompts=lambda split: prompts
  )
  outcome = my_evaluation.Manners(context, num_prompts=4).run(
    {'sft': Policy(ends=True), 'ppo': Policy(ends=False)}
  )
  value = lambda measure, policy: outcome.results[measure]['policies'][policy][
    'value'
  ]
  assert (value('ended', 'sft'), value('ended', 'ppo')) == (1, 0)
  assert value('repeats', 'sft') == value('repeats', 'ppo') == 0.5
  assert outcome.results['ended']['difference']['ppo']['sft']['value'] == -1
  assert len(outcome.samples) == 8
  assert outcome.samples[1] == {
    'policy': 'sft',
    'prompt': 'say 1',
    'answer': 'say 1',
  }


def test_the_study_of_my_evaluation_is_valid():
  nodes = graph.of_study(my_evaluation.get_config('micro'), 'nowhere')
  for stage in ('ppo', 'evaluation'):
    assert 'manners' in nodes[stage].config.evals


@pytest.mark.slow
def test_my_evaluation_in_training_and_in_the_report(tmp_path, one_device):
  config = my_evaluation.get_config('micro')
  config.stages.ppo.evals.manners.every = 3
  page = study.run(config, tmp_path).read_text()
  assert '<h2>manners</h2>' in page
  lines = metrics.read_metrics(tmp_path / 'ppo')
  found = [line['step'] for line in lines if 'eval/manners/repeats' in line]
  assert found == [0, 3, 6]
  results = json.loads((tmp_path / 'evaluation/results.json').read_text())
  ended = results['evals']['manners']['results']['ended']['policies']
  assert [*ended] == [*results['policies']]
  assert {'base', 'prompted', 'sft', 'ppo', 'ppo_ptx'} <= {*ended}
