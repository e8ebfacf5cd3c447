"""The reward model's opinion of answers, and how far policies moved from SFT.

PPO was trained against this reward model, so a higher score shows that PPO did
what it was asked to do. It does not show that people would agree.
"""

from collections.abc import Mapping

import numpy as np

from instructrl.data import tasks
from instructrl.evaluators import evaluator
from instructrl.evaluators import statistics
from instructrl.evaluators.language_model import LanguageModel


class Evaluator:
  """Samples an answer to each prompt and scores it.

  Results, each {'policies', 'difference'}:
    'score': of the reward model.
    'length': tokens, EOS included.
    'ended': fraction of answers with EOS.
    'kl': log-probability of an answer under its policy minus that under
      `kl_from`, in nats per answer; an unbiased estimate of the KL divergence.
  """

  def __init__(
    self,
    context: evaluator.Context,
    *,
    num_prompts: int,
    temperature: float = 1.0,
    split: str = 'validation',
    kl_from: str = 'sft',
  ):
    """Takes the settings.

    Args:
      context: the run.
      num_prompts: the first prompts of the split that fit.
      temperature: of the answers, for all policies.
      split: of the prompts.
      kl_from: the policy that the KL divergence is measured from; measured only
        if that policy is evaluated too.
    """
    self._context, self._temperature = context, temperature
    self._num_prompts, self._split = num_prompts, split
    self._kl_from = kl_from

  def run(self, policies: Mapping[str, LanguageModel]) -> evaluator.Outcome:
    context = self._context
    prompts = context.prompts(self._split)[: self._num_prompts]
    tokens = [tasks.chat_prompt(context.tok, p) for p in prompts]
    answers = {}
    for name in policies:
      has_kl = self._kl_from in policies and context.has_kl(name)
      answers[name] = context.kept(
        name, lambda: self._answer(policies[name], prompts, tokens, has_kl)
      )
      score = np.mean(answers[name]['scores'])
      context.progress(f'{name}: mean score {score:.3f}')
    measures = self._measures(answers)
    moved = [name for name in answers if answers[name]['logprobs']]
    if moved:
      start = policies[self._kl_from]
      measures['kl'] = {
        name: statistics.mean(
          np.asarray(answers[name]['logprobs'], np.float32)
          - start.engine.score(start.params, tokens, answers[name]['tokens'])
        )
        for name in moved
      }
    return evaluator.Outcome(
      evaluator.compared(measures, seed=context.seed),
      self._samples(prompts, answers),
    )

  def _answer(
    self, policy: LanguageModel, prompts, tokens, has_kl: bool
  ) -> dict:
    """Returns the answers of a policy and their scores, as JSON."""
    answers = [
      [int(t) for t in answer]
      for answer in policy.sample_tokens(
        prompts, temperature=self._temperature, seed=self._context.seed
      )
    ]
    scores = self._context.reward_model().score(tokens, answers)
    logprobs = []
    if has_kl:
      found = policy.engine.score(policy.params, tokens, answers)
      logprobs = found.tolist()
    return {'tokens': answers, 'scores': scores.tolist(), 'logprobs': logprobs}

  def _measures(self, answers: Mapping[str, dict]) -> dict[str, dict]:
    eos = self._context.tok.eos_id
    mean = lambda value: {
      name: statistics.mean(value(found)) for name, found in answers.items()
    }
    return {
      'score': mean(lambda a: np.asarray(a['scores'], np.float32)),
      'length': mean(lambda a: [len(t) for t in a['tokens']]),
      'ended': mean(lambda a: [float(eos in t) for t in a['tokens']]),
    }

  def _samples(self, prompts, answers: Mapping[str, dict]) -> list[dict]:
    tok = self._context.tok
    return [
      {
        'kind': 'answer',
        'prompt': prompt.text,
        'turns': list(prompt.turns),
        'id': prompt.id,
        'policies': {
          name: {
            'response': tok.decode(found['tokens'][i]).strip(),
            'score': found['scores'][i],
            'tokens': len(found['tokens'][i]),
            'ended': tok.eos_id in found['tokens'][i],
          }
          for name, found in answers.items()
        },
      }
      for i, prompt in enumerate(prompts)
    ]
