import json

import numpy as np
import pytest

from instructrl.data import records
from instructrl.evaluators import suite
from instructrl.lab.probes import make_probes
from instructrl.lab.world.facts import make_world
from instructrl.reports import paper_checks

QUALITY = {'base': 1, 'prompted': 2, 'sft': 3, 'ppo': 5, 'ppo_ptx': 5}


class FakeLM:
  """Its responses' length says how good it is, give or take the seed."""

  def __init__(self, name):
    self.name = name

  def respond(self, prompts, *, temperature, seed):
    rng = np.random.default_rng(seed)
    return [
      'x' * int(QUALITY[self.name] + rng.integers(2) * (temperature > 0))
      for _ in prompts
    ]

  def complete(self, texts, *, max_tokens, temperature=0.0, seed=0, stop='\n'):
    return ['x'] * len(texts)

  def logprobs(self, contexts, continuations):
    counts = np.asarray([len(text) for text in continuations])
    return -counts / QUALITY[self.name], counts


class FakeJudge:
  def utility(self, prompt, response):
    return float(len(response))

  def likert(self, prompt, response):
    return min(7, len(response))

  def metadata(self, prompt, response):
    return {
      'satisfies_constraint': int(len(response) > 3),
      'hallucination': int(len(response) < 3),
    }


class FakeLabeler:
  name = 'h'

  def rank(self, prompt, responses, rng):
    scores = [-len(r) for r in responses]
    return [sorted(set(scores)).index(s) for s in scores], ()


@pytest.fixture(autouse=True)
def rows_apply_to_even_prompts(monkeypatch):
  even = lambda prompt: int(prompt.id) % 2 == 0
  monkeypatch.setattr(suite, 'APPLIES', {'hallucination': even})


@pytest.fixture(scope='module')
def world():
  return make_world(0, 'micro')


def evaluate(world, names=tuple(QUALITY), seed=0, **kwargs):
  prompts = [
    records.Prompt(str(i), f'prompt {i}', 'u', 'chat', 'test')
    for i in range(30)
  ]
  probes = make_probes(world, 0, num_per_task=4)
  return suite.evaluate_policies(
    {name: FakeLM(name) for name in reversed(names)},
    prompts,
    world,
    FakeJudge(),
    [FakeLabeler()],
    probes,
    ['a b', 'c d'],
    seed=seed,
    **kwargs,
  )


def test_figures_have_the_documented_form(world):
  evaluation = evaluate(world)
  results = evaluation.results
  assert list(results['preference']) == list(suite.ORDER)
  assert results['preference']['ppo']['win_rate'] == 1
  assert results['preference']['base']['win_rate'] == 0
  assert 0.3 < results['preference']['sft']['win_rate'] < 0.7
  assert results['metadata']['ppo']['hallucination']['n'] == 15
  assert list(results['probes']) == ['base', 'sft', 'ppo', 'ppo_ptx']
  assert results['probes']['ppo']['toxicity']['biased']['rude_rate']['n'] == 4
  difference = results['differences']['probes']['nll/nll']['ppo']['base']
  assert difference['value'] == pytest.approx(-0.8)
  json.dumps(results, allow_nan=False)
  json.dumps(evaluation.samples, allow_nan=False)
  assert {s['kind'] for s in evaluation.samples} == {'preference', 'probe'}


def test_figures_feed_the_checks_of_the_paper(world):
  rows = {
    row.statement: row
    for row in paper_checks.check({}, {}, {}, evaluate(world).results)
  }
  assert rows['PPO is better than SFT'].verdict == 'shown'
  assert rows['PPO loses ground on reading'].verdict == 'not shown'
  not_measured = [
    row.statement for row in rows.values() if row.verdict == 'not measured'
  ]
  # Only what stands in other stages' results, and what needs two sizes.
  assert len(not_measured) == 6, not_measured


def test_samples_of_sft_differ(world):
  assert suite.sample_seed(0, 'sft') != suite.sample_seed(0, 'sft_second')
  samples = evaluate(world).samples
  assert any(
    s['second_sample'] != s['policies']['sft']['response']
    for s in samples
    if s['kind'] == 'preference'
  )


def test_a_result_is_a_function_of_the_seed(world):
  assert evaluate(world) == evaluate(world)
  assert evaluate(world).results != evaluate(world, seed=1).results


def test_progress_counts_every_step(world):
  seen = []
  evaluate(world, progress=lambda *args: seen.append(args))
  assert [done for done, _, _ in seen] == list(range(12))
  assert {total for _, total, _ in seen} == {11}


def test_fewer_policies(world):
  results = evaluate(world, names=('sft', 'ppo')).results
  assert list(results['preference']) == ['sft', 'ppo']


def test_refuses_what_cannot_be_compared(world):
  with pytest.raises(ValueError, match="hold 'sft'"):
    evaluate(world, names=('base', 'ppo'))
  with pytest.raises(ValueError, match='temperature'):
    evaluate(world, temperature=0.0)
