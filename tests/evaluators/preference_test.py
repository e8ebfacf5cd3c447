import dataclasses
import json

import numpy as np
import pytest

from instructrl.data import records
from instructrl.evaluators import preference


class LengthJudge:
  """Prefers longer responses."""

  def utility(self, prompt, response):
    return float(len(response))

  def likert(self, prompt, response):
    return min(7, max(1, len(response)))

  def metadata(self, prompt, response):
    return {
      'satisfies_constraint': int(len(response) > 3),
      'hallucination': int('x' in response),
    }


class Labeler:
  def __init__(self, name, sign, noise=0.0):
    self.name, self.sign, self.noise = name, sign, noise
    self.tie_width = 0.0

  def read(self, responses, rng):
    """A response of n characters is rated n, up to 7."""
    scores = self.sign * (np.asarray([len(r) for r in responses]) - 1) / 6
    return scores + self.noise * rng.normal(size=len(scores))


@pytest.fixture(autouse=True)
def _readings(monkeypatch):
  read = lambda labelers, items, generator: np.swapaxes(
    [[l.read(texts, generator(l, p)) for l in labelers] for p, texts in items],
    0,
    1,
  )
  monkeypatch.setattr(preference.people, 'readings', read)


def make_prompts(n):
  return [
    records.Prompt(str(i), f'prompt {i}', 'user', 'chat', 'test')
    for i in range(n)
  ]


def make_responses(n):
  return {
    'base': ['a'] * n,
    'sft': ['abc'] * n,
    'sft_second': ['abcd' if i % 2 else 'ab' for i in range(n)],
    'ppo': ['abcdx'] * (n // 2) + ['abc'] * (n - n // 2),
  }


def evaluate(n=40, labelers=None, responses=None, seed=0, train=None):
  return preference.evaluate_preference(
    make_prompts(n),
    responses or make_responses(n),
    LengthJudge(),
    {
      'train': train or [Labeler('t0', 1.0)],
      'heldout': labelers or [Labeler('h0', 1.0)],
    },
    seed=seed,
    applies={'hallucination': lambda prompt: int(prompt.id) % 2 == 0},
  )


def test_win_rates_against_sft_count_a_tie_half():
  figures, _ = evaluate()
  rates = {k: v['win_rate'] for k, v in figures['preference'].items()}
  assert rates == {'base': 0.0, 'sft': 0.5, 'ppo': 0.75}
  ppo = figures['preference']['ppo']
  assert ppo['n'] == 40
  assert 0.5 < ppo['ci95'][0] < 0.75 < ppo['ci95'][1] < 1
  # All outcomes equal: the interval still has a width.
  assert figures['preference']['base']['ci95'][1] > 0.01


def test_sft_row_is_its_second_sample():
  responses = make_responses(40)
  responses['sft_second'] = ['abcdefgh'] * 40
  figures, _ = evaluate(responses=responses)
  assert figures['preference']['sft']['win_rate'] == 1
  # Only its own row: others are still compared with the first sample.
  assert figures['preference']['ppo']['win_rate'] == 0.75
  assert figures['head_to_head']['ppo']['sft']['win_rate'] == 0.75


def test_heldout_labelers_are_averaged_per_prompt():
  figures, _ = evaluate(labelers=[Labeler('a', 1.0), Labeler('b', -1.0)])
  held_out = figures['preference']['ppo']['heldout_labelers']
  assert held_out['win_rate'] == 0.5 and held_out['n'] == 40
  agreeing, _ = evaluate(labelers=[Labeler('a', 1.0), Labeler('b', 1.0)])
  assert agreeing['preference']['ppo']['heldout_labelers']['win_rate'] == 0.75


def test_training_labelers_judge_beside_the_heldout_ones():
  figures, samples = evaluate(train=[Labeler('t0', -1.0)])
  row = figures['preference']['ppo']
  assert row['train_labelers']['win_rate'] == 0.25
  assert row['heldout_labelers']['win_rate'] == row['win_rate'] == 0.75
  for left, right in (('ppo', 'base'), ('base', 'ppo')):
    found = figures['head_to_head'][left][right]
    assert found['train_labelers']['win_rate'] == 1 - found['win_rate']
  assert np.mean([s['policies']['ppo']['train_win'] for s in samples]) == 0.25


def test_labelers_rate_on_the_likert_scale():
  figures, _ = evaluate(responses=make_responses(40) | {'base': ['ab'] * 40})
  for group in ('train_labelers', 'heldout_labelers'):
    found = figures['likert']['base'][group]
    assert found['value'] == 2 and found['n'] == 40
    assert figures['likert']['ppo'][group]['value'] == 4


def test_ratings_are_also_by_use_case():
  prompts = make_prompts(6)
  cases = ['chat', 'chat', 'rewrite', 'chat', 'rewrite', 'chat']
  found, _ = preference.rate(
    [dataclasses.replace(p, use_case=c) for p, c in zip(prompts, cases)],
    {'base': ['a', 'a', 'abcd', 'abc', 'ab', 'abc']},
    LengthJudge(),
    applies={},
    seed=0,
  )
  by_use_case = found['likert']['base']['by_use_case']
  numbers = {case: (r['value'], r['n']) for case, r in by_use_case.items()}
  assert numbers == {'chat': (2, 4), 'rewrite': (3, 2)}


def test_ratings_of_1_are_no_successes():
  """Wilson's interval of a proportion would begin below the scale."""
  found = evaluate()[0]['likert']['base']
  for summary in (found, found['train_labelers'], found['heldout_labelers']):
    assert summary['value'] == 1 and summary['ci95'] == [1, 1]


def test_head_to_head_is_antisymmetric():
  figures, _ = evaluate()
  table = figures['head_to_head']
  assert table['ppo']['base']['win_rate'] == 1
  assert table['base']['ppo']['win_rate'] == 0


def test_metadata_rates_leave_out_prompts_a_row_does_not_apply_to():
  figures, _ = evaluate()
  row = figures['metadata']['ppo']['hallucination']
  assert row['value'] == 0.5 and row['n'] == 20
  assert figures['metadata']['ppo']['satisfies_constraint']['n'] == 40
  difference = figures['differences']['metadata']['hallucination']
  assert difference['ppo']['base']['value'] == 0.5
  assert figures['likert']['base']['value'] == 1
  assert figures['differences']['likert']['ppo']['sft']['value'] == 1


def test_samples_carry_what_the_figures_come_from():
  figures, samples = evaluate()
  assert len(samples) == 40
  assert json.loads(json.dumps(samples)) == samples
  json.dumps(figures)
  wins = [s['policies']['ppo']['win'] for s in samples]
  assert np.mean(wins) == figures['preference']['ppo']['win_rate']
  assert samples[1]['policies']['sft']['win'] == 1
  assert samples[1]['second_sample'] == 'abcd'


def test_samples_carry_only_the_flags_that_apply_to_their_prompt():
  _, samples = evaluate()
  for sample in samples:
    applies = int(sample['id']) % 2 == 0
    for found in sample['policies'].values():
      assert ('hallucination' in found['metadata']) == applies
      assert 'satisfies_constraint' in found['metadata']


def test_a_result_is_a_function_of_the_seed():
  noisy = [Labeler('a', 1.0, noise=3.0)]
  assert evaluate(labelers=noisy)[0] == evaluate(labelers=noisy)[0]
  assert evaluate(labelers=noisy)[0] != evaluate(labelers=noisy, seed=1)[0]


@pytest.mark.parametrize(
  'change,message',
  [
    (lambda r: r.pop('sft_second'), 'sft_second'),
    (lambda r: r.pop('sft'), "'sft' are missing"),
    (lambda r: r['ppo'].pop(), '39 responses to 40'),
  ],
)
def test_refuses_incomplete_responses(change, message):
  responses = make_responses(40)
  change(responses)
  with pytest.raises(ValueError, match=message):
    evaluate(responses=responses)


def test_refuses_a_group_without_labelers():
  with pytest.raises(ValueError, match="'heldout' has no labeler"):
    preference.evaluate_preference(
      make_prompts(2),
      make_responses(2),
      LengthJudge(),
      {'train': [Labeler('t0', 1.0)], 'heldout': []},
      seed=0,
    )
