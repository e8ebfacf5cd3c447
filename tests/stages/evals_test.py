"""Evaluations during training."""

import json
import types

import numpy as np
import pytest

from instructrl.evaluators import evaluator
from instructrl.evaluators import statistics
from instructrl.runtime import metrics
from instructrl.stages import checks
from instructrl.stages import evals
from instructrl.stages import inputs
from instructrl.stages import lm
from instructrl.stages import registry


class Sampled:
  """The number of tokens of sampled answers; keeps the parameters it saw."""

  seen = []

  def __init__(self, context, *, num_prompts):
    self._context, self._num_prompts = context, num_prompts

  def run(self, policies):
    ((name, policy),) = policies.items()
    self.seen.append(np.asarray(policy.params['embed']))
    prompts = self._context.prompts('validation')[: self._num_prompts]
    found = policy.sample_tokens(prompts, temperature=1.0, seed=0)
    measure = statistics.mean([len(tokens) for tokens in found])
    return evaluator.Outcome(
      evaluator.compared({'tokens': {name: measure}}, seed=self._context.seed)
    )


SAMPLED = dict(type=f'{__name__}:Sampled', num_prompts=3)


def with_evals(config, **fields):
  config.evals.answers = SAMPLED | fields
  return config


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['sft', 'ppo', 'dpo'])
def test_training_is_the_same_with_evaluations(
  stage, configs, workdir, one_device
):
  Sampled.seen.clear()
  run = registry.load(stage).run
  config = configs[stage]
  if stage == 'sft':
    config.update(prompt_len=8, response_len=4)
  run(config, workdir)
  other = workdir.parent / 'evaluated'
  with_evals(config, every=3)
  config.evals.reward = dict(type='reward_model', every=2, num_prompts=4)
  config.inputs.reward_model = '../reward'
  run(config, other)
  lines = metrics.read_metrics(other)
  steps = lambda name: [line['step'] for line in lines if name in line]
  last = lines[-1]['step']
  assert steps('eval/answers/tokens') == [*range(0, last, 3), last]
  assert steps('eval/reward/score') == [*range(0, last, 2), last]
  plain = [
    kept
    for line in lines
    if len(kept := {k: v for k, v in line.items() if 'eval/' not in k}) > 1
  ]
  assert plain == metrics.read_metrics(workdir)
  params, _ = inputs.exported(workdir)
  same, _ = inputs.exported(other)
  np.testing.assert_array_equal(params['embed'], same['embed'])
  # The policy is what the run exports: PPO's average.
  np.testing.assert_array_equal(Sampled.seen[-1], same['embed'])
  assert not np.array_equal(Sampled.seen[0], Sampled.seen[-1])


def test_evaluations_without_every_do_not_run_in_training(
  configs, workdir, one_device
):
  Sampled.seen.clear()
  config = with_evals(configs['sft'], every=0)
  lm.run(config, workdir)
  assert not Sampled.seen
  assert 'eval/' not in (workdir / 'metrics.jsonl').read_text()


def test_metrics_are_named_by_the_path_of_their_measure():
  summary = {'value': 0.5, 'ci95': None, 'n': 2}
  results = {
    'score': {'policies': {'ppo': summary}, 'difference': {}},
    'probes': {'ppo': {'reading': {'f1': summary}}},
    'undefined': {'policies': {'ppo': {'value': None, 'ci95': None, 'n': 0}}},
  }
  assert evals.metrics(results, 'eval/x', 'ppo') == {
    'eval/x/score': 0.5,
    'eval/x/probes/reading/f1': 0.5,
  }
  json.dumps(results)


@pytest.mark.parametrize('part', [['a', 'b'], 0.5, None, {'x': [1]}])
def test_a_part_of_any_form_is_read_after_a_stop(part, tmp_path):
  opened = types.SimpleNamespace(
    config=types.SimpleNamespace(eval_seed=0), tok=None, mesh=None, batch_size=1
  )
  context = evals.StageContext(
    evals.Shared(opened), prompt_len=8, response_len=4, kept_in=tmp_path / 'x'
  )
  assert context.kept('sft', lambda: part) == part
  assert context.kept('sft', lambda: pytest.fail('made again')) == part


@pytest.mark.parametrize('stage', ['sft', 'ppo'])
def test_invalid_evaluations_are_refused(stage, configs):
  config = with_evals(configs[stage], every=-1)
  with pytest.raises(checks.ConfigError, match='evals.answers.every=-1'):
    registry.load(stage).validate(config)
