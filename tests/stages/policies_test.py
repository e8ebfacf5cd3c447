"""Runs opened as policies."""

import pytest

from experiments import select_sft
from instructrl.data import tasks
from instructrl.stages import checks
from instructrl.stages import policies


def test_prompts_are_those_of_the_split_that_fit(study, tok):
  opened = policies.Opener(select_sft.get_config('micro'), study / 'run')
  everything = opened.prompts('validation', 48)
  assert everything and {p.split for p in everything} == {'validation'}
  lengths = [len(tasks.chat_prompt(tok, p.text)) for p in everything]
  limit = sorted(lengths)[len(lengths) // 2]
  assert opened.prompts('validation', limit) == [
    p for p, n in zip(everything, lengths) if n <= limit
  ]
  with pytest.raises(
    checks.ConfigError, match="no prompt of 'validation' fits prompt_len=1"
  ):
    opened.prompts('validation', 1)


def test_a_model_of_another_tokenizer_is_not_opened(study, tok, monkeypatch):
  opened = policies.Opener(select_sft.get_config('micro'), study / 'run')
  assert opened.open('reward_model').is_reward_model
  monkeypatch.setattr(type(opened.tok), 'fingerprint', 'another')
  with pytest.raises(
    checks.ConfigError,
    match='inputs.reward_model: .* was trained with another tokenizer',
  ):
    opened.open('reward_model')
