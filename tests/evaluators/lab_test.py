"""The lab's evaluators on policies whose quality is known."""

import json
import types

import numpy as np
import pytest

from instructrl.data import records
from instructrl.evaluators import evaluator
from instructrl.evaluators import generalization
from instructrl.evaluators import preference
from instructrl.evaluators import probes
from instructrl.evaluators import results
from instructrl.lab.world.facts import make_world
from instructrl.reports import paper_checks

QUALITY = {
  'base': 1,
  'prompted': 2,
  'sft': 3,
  'ppo_init': 2,
  'ppo': 5,
  'ppo_ptx': 5,
}
TEMPLATES = {'base': 'plain', 'prompted': 'few_shot'}


class FakeLM:
  """Its responses' length says how good it is, give or take the seed."""

  def __init__(self, name):
    self.name = name
    self.template = TEMPLATES.get(name, 'chat')

  def respond(self, prompts, *, temperature, seed, stop=None):
    rng = np.random.default_rng(seed)
    return [
      'x' * int(QUALITY.get(self.name, 2) + rng.integers(2) * (temperature > 0))
      for _ in prompts
    ]

  def complete(self, texts, *, max_tokens, temperature=0.0, seed=0, stop='\n'):
    return ['x'] * len(texts)

  def logprobs(self, contexts, continuations):
    counts = np.asarray([len(text) for text in continuations])
    return -counts / QUALITY.get(self.name, 2), counts


class FakeJudge:
  def __init__(self, world, labelers):
    pass

  def utility(self, prompt, response):
    return float(len(response))

  def likert(self, prompt, response):
    return min(7, len(response))

  def metadata(self, prompt, response):
    return {
      'satisfies_constraint': int(len(response) > 3),
      'hallucination': int(len(response) < 3),
      'fails_to_follow_instruction': int(len(response) < 2),
      'inappropriate_for_customer_assistant': int(len(response) < 2),
    }


class FakeLabeler:
  tie_width = 0.5

  def __init__(self, group):
    self.name, self.group = group[0], group


def longer_is_better(labelers, items, generator):
  lengths = [[len(r) for r in responses] for _, responses in items]
  return np.array([lengths] * len(labelers), float)


class FakeContext:
  def __init__(self, world, seed):
    self._world, self.seed, self.asked, self.parts = world, seed, [], []

  def world(self):
    return self._world

  def labelers(self):
    return [FakeLabeler(group) for group in ('train', 'heldout')]

  def prompts(self, split):
    return [
      records.Prompt(str(i), f'prompt {i}', 'u', 'chat', split)
      for i in range(40)
    ]

  def data(self):
    texts = [types.SimpleNamespace(text=text) for text in ('a b', 'c d', 'e')]
    return types.SimpleNamespace(records=lambda name, split: texts)

  def kept(self, name, make):
    self.parts.append(name)
    return make()

  def progress(self, text):
    self.asked.append(text)


@pytest.fixture(autouse=True)
def rows_apply_to_even_prompts(monkeypatch):
  even = lambda prompt: int(prompt.id) % 2 == 0
  monkeypatch.setattr(preference, 'APPLIES', {'hallucination': even})
  monkeypatch.setattr(preference, 'Judge', FakeJudge)
  monkeypatch.setattr(preference.people, 'readings', longer_is_better)


@pytest.fixture(scope='module')
def world():
  return make_world(0, 'micro')


def evaluate(
  world, names=tuple(QUALITY), seed=0, context=None, more=None, **kwargs
):
  """(one tree of the results, samples)."""
  context = context or FakeContext(world, seed)
  policies = {name: FakeLM(name) for name in names}
  outcomes = {
    'preference': preference.Evaluator(context, num_prompts=30, **kwargs),
    'probes': probes.Evaluator(context, num_probes=4, num_documents=2),
    **(more or {}),
  }
  content, samples = results.collect(
    {},
    {
      k: (v.__module__.rpartition('.')[2], v.run(policies))
      for k, v in outcomes.items()
    },
  )
  return results.merged(content), samples


def test_results_have_the_documented_form(world):
  found, samples = evaluate(world)
  assert list(found['preference']) == list(QUALITY)
  assert found['preference']['ppo']['win_rate'] == 1
  assert found['preference']['base']['win_rate'] == 0
  assert 0.3 < found['preference']['sft']['win_rate'] < 0.7
  assert found['metadata']['ppo']['hallucination']['n'] == 15
  assert list(found['probes']) == ['base', 'sft', 'ppo_init', 'ppo', 'ppo_ptx']
  assert found['probes']['ppo']['toxicity']['biased']['rude_rate']['n'] == 20
  difference = found['differences']['probes']['nll/nll']['ppo']['base']
  assert difference['value'] == pytest.approx(-0.8)
  json.dumps(found, allow_nan=False)
  json.dumps(samples, allow_nan=False)
  assert {(s['eval'], s['kind']) for s in samples} == {
    ('preference', 'preference'),
    ('probes', 'probe'),
  }


def test_results_feed_the_checks_of_the_paper(world):
  context = FakeContext(world, 0)
  more = {
    'gpt3_prompts': preference.Evaluator(context, num_prompts=30),
    'generalization': generalization.Evaluator(context, num_prompts=4),
  }
  names = ('base', 'prompted', 'nlp', *list(QUALITY)[2:])
  found, _ = evaluate(world, names, context=context, more=more)
  rows = {row.statement: row for row in paper_checks.check({}, {}, found)}
  assert rows['PPO is better than SFT'].verdict == 'shown'
  assert rows['PPO loses ground on reading'].verdict == 'undecided'  # 4 items
  assert rows['PPO-ptx follows harmful requests'].verdict == 'not shown'
  not_measured = [
    row.statement for row in rows.values() if row.verdict == 'not measured'
  ]
  # Only those that need results of other stages, or of two sizes.
  assert not_measured == [
    'The reward model predicts the labelers that it was trained on',
    'The reward model predicts the held-out labelers',
    'A small PPO-ptx model beats a pretrained model a hundred times its size',
  ]


def test_samples_of_sft_differ(world):
  assert preference.sample_seed(0, 'sft') != preference.sample_seed(
    0, 'sft_second'
  )
  _, samples = evaluate(world)
  assert any(
    s['second_sample'] != s['policies']['sft']['response']
    for s in samples
    if s['kind'] == 'preference'
  )


def test_a_result_is_a_function_of_the_seed(world):
  assert evaluate(world) == evaluate(world)
  assert evaluate(world)[0] != evaluate(world, seed=1)[0]


def test_progress_names_every_step_and_responses_are_kept(world):
  context = FakeContext(world, 0)
  evaluate(world, context=context)
  assert context.asked == [
    *(f'responses of {name}' for name in (*QUALITY, 'sft_second')),
    'judging',
    *(f'probes of {name}' for name in QUALITY if name != 'prompted'),
  ]
  assert context.parts == [*QUALITY, 'sft_second']


def test_fewer_policies(world):
  assert list(evaluate(world, names=('sft', 'ppo'))[0]['preference']) == [
    'sft',
    'ppo',
  ]


def test_without_a_reference_answers_are_only_rated(world):
  found, samples = evaluate(world, names=('ppo',), reference='')
  assert 'preference' not in found
  assert list(found['likert']) == ['ppo']
  assert found['likert']['ppo']['value'] >= 5
  assert samples[0]['policies']['ppo']['likert'] >= 5


def test_a_policy_named_as_the_second_sample_is_refused(world):
  with pytest.raises(ValueError, match='policies.sft_second: .*another one'):
    evaluate(world, names=('sft', 'sft_second'))


def test_a_missing_reference_is_refused(world):
  with pytest.raises(ValueError, match="must include 'sft'"):
    evaluate(world, names=('base', 'ppo'))


@pytest.mark.parametrize('temperature', [0.0, -1.0, float('inf')])
def test_two_samples_of_sft_need_a_temperature(temperature):
  fields = dict(type='preference', num_prompts=1, temperature=temperature)
  with pytest.raises(ValueError, match='evals.x.temperature'):
    evaluator.validate('x', fields)
