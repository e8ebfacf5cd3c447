"""The prefix of the prompted policy."""

import numpy as np
import pytest

from experiments import evaluation
from instructrl.data.records import Demonstration, Prompt
from instructrl.stages import checks
from instructrl.stages import policy_settings
from instructrl.stages import prefixes


def shown(use_case, text):
  prompt = Prompt(text, text, 'u', use_case, 'train')
  return Demonstration(prompt, 'red', 'l')


SHOWN = [
  shown('chat', 'say green'),
  shown('chat', 'cat'),
  shown('other', 'dog fish'),
  shown('more', 'blue blue blue blue'),
  shown('more', 'a\nb'),
]


def test_the_first_prefix_has_the_shortest_of_each_use_case(tok):
  first, *_ = prefixes.candidates(SHOWN, tok, 2, 1)
  assert first == (
    'Instruction: cat\nResponse: red\n'
    'Instruction: dog fish\nResponse: red\n'
    'Instruction: {prompt}\nResponse:'
  )


def test_prefixes_share_no_demonstration(tok):
  found = prefixes.candidates(SHOWN, tok, 1, 10)
  asked = [text.split('\n')[0].removeprefix('Instruction: ') for text in found]
  assert asked == ['cat', 'dog fish', 'blue blue blue blue', 'say green']
  assert prefixes.candidates([], tok, 2, 4) == [
    'Instruction: {prompt}\nResponse:'
  ]


class FakeOpened:
  """An opened run with two validation prompts."""

  def __init__(self, tok, tmp_path):
    self.tok = tok
    self.config = evaluation.get_config('micro')
    self.config.num_shots, self.config.num_prefixes = 1, 3

  def prompts(self, split, prompt_len):
    assert split == 'validation'
    return [d.prompt for d in SHOWN[:2]]


class FakePolicies(dict):
  few_shot = ''

  def __getitem__(self, name):
    assert name == policy_settings.PROMPTED
    return self

  def respond(self, prompts, **kwargs):
    return ['blue' if 'dog' in self.few_shot else 'red' for _ in prompts]


def test_the_prefix_with_the_best_score_is_chosen(tok, tmp_path, monkeypatch):
  monkeypatch.setattr(prefixes.inputs, 'records', lambda *args: SHOWN)

  class Model:
    def score(self, prompts, responses):
      blue = tok.continuation('blue')
      return np.float32([r[: len(blue)] == blue for r in responses])

  opened = FakeOpened(tok, tmp_path)
  found = prefixes.choose(opened, FakePolicies(), Model)
  assert found['rm_scores'] == [0.0, 1.0, 0.0] and found['chosen'] == 1
  opened.config.num_prefixes = 1
  found = prefixes.choose(opened, FakePolicies(), None)
  assert (found['rm_scores'], found['chosen']) == ([], 0)


def test_a_choice_needs_a_reward_model():
  config = evaluation.get_config('micro')
  prefixes.validate(config)
  config.inputs.reward_model = ''
  with pytest.raises(
    checks.ConfigError, match='num_prefixes=2: .* give inputs'
  ):
    prefixes.validate(config)
  config.policies.prompted = ''
  prefixes.validate(config)
