"""Probes with language models whose every answer is known."""

import json

import numpy as np
import pytest

from instructrl.evaluators.probes import evaluate_probes
from instructrl.evaluators.probes import first_line
from instructrl.lab.probes import make_probes
from instructrl.lab.probes import Probe
from instructrl.lab.probes import PROMPT_TYPES
from instructrl.lab.world.facts import make_world


class ScriptedLM:
  """Says what a function of the text says; likes what it would say.

  Args:
    answer: context -> output.
    score: continuation -> its log probability a character; 0 is certain.
  """

  name = 'scripted'

  def __init__(self, answer=lambda text: '', score=lambda context, text: -1.0):
    self.answer, self.score = answer, score
    self.calls = []

  def respond(self, prompts, *, temperature, seed):
    assert temperature == 0
    self.calls.append(('respond', len(prompts)))
    return [self.answer(text) for text in prompts]

  def complete(self, texts, *, max_tokens, temperature=0.0, seed=0, stop='\n'):
    assert temperature == 0 and stop == '\n'
    self.calls.append(('complete', len(texts)))
    return [' ' + self.answer(text) for text in texts]

  def logprobs(self, contexts, continuations):
    self.calls.append(('logprobs', len(contexts)))
    counts = np.asarray([len(text) for text in continuations])
    return np.asarray(
      [self.score(c, t) for c, t in zip(contexts, continuations)]
    ) * counts, counts


@pytest.fixture(scope='module')
def world():
  return make_world(0, 'micro')


@pytest.fixture(scope='module')
def probes(world):
  return make_probes(world, 0, num_per_task=12)


def by_context(probes, say):
  """An answer function: what `say(probe)` gives for the probe asked about."""
  table = {}
  for probe in probes:
    table[probe.context] = say(probe)
    if 'question' in probe.meta:
      table[probe.meta['question']] = say(probe)
  return table.__getitem__


def evaluate(lm, probes, world, task, documents=(), chat=True):
  return evaluate_probes(lm, {task: probes[task]}, documents, world, chat=chat)


def values(measures):
  return {name: measure.value for name, measure in measures.items()}


def test_truthfulness_of_truth_popular_belief_and_not_knowing(world, probes):
  task = probes['truthfulness']
  for say, expected in (
    (lambda p: f'{p.answers[0]}.', (1.0, 1.0, 0.0)),
    (lambda p: f'{p.meta["misconception"]}.', (0.0, 0.0, 1.0)),
    (lambda p: p.meta['unknown'], (1.0, 0.0, 0.0)),
  ):
    for chat in (True, False):
      found = values(
        evaluate(
          ScriptedLM(by_context(task, say)),
          probes,
          world,
          'truthfulness',
          chat=chat,
        )[0]
      )
      for prefix in ('', 'quiz_'):
        assert (
          tuple(
            found[f'truthfulness/{prefix}{name}']
            for name in ('true', 'true_informative', 'misconception')
          )
          == expected
        )


def test_a_chat_policy_is_asked_and_a_text_policy_continues(world, probes):
  task = probes['truthfulness']
  contexts = {probe.context for probe in task}
  lm = ScriptedLM(
    lambda text: (
      task[0].meta['unknown'] if text in contexts else task[0].answers[0]
    )
  )
  chat = values(evaluate(lm, probes, world, 'truthfulness')[0])
  assert chat['truthfulness/quiz_true_informative'] == 0
  text = values(evaluate(lm, probes, world, 'truthfulness', chat=False)[0])
  assert text['truthfulness/true'] == text['truthfulness/quiz_true']


def test_outputs_end_at_the_first_line_break(world, probes):
  task = probes['truthfulness']
  lm = ScriptedLM(
    by_context(
      task,
      lambda p: f'{p.answers[0]}.\nQuestion: no, {p.meta["misconception"]}?',
    )
  )
  found = values(evaluate(lm, probes, world, 'truthfulness')[0])
  assert found['truthfulness/true_informative'] == 1
  assert first_line('\n a \nb') == 'a'


def test_choice_takes_the_highest_mean_per_token(world, probes):
  """The right option is likeliest per token, but not in sum."""
  task = probes['completion']
  right = {(p.context, f' {p.answers[0]}') for p in task}
  lm = ScriptedLM(
    score=lambda c, t: -1.0 if (c, t) in right else -1.0 - 1e-3 * len(t)
  )
  found, samples = evaluate(lm, probes, world, 'completion')
  assert values(found) == {'completion/accuracy': 1.0}
  assert all(sample['output'] in sample['answers'] for sample in samples)
  wrong = ScriptedLM(score=lambda c, t: -2.0 if (c, t) in right else -1.0)
  assert values(evaluate(wrong, probes, world, 'completion')[0]) == {
    'completion/accuracy': 0.0
  }
  # A long right option, far below a short wrong one in sum, still wins.
  probe = Probe('x', 'completion', 'c', ('a', 'b' * 50), ('b' * 50,), {})
  lm = ScriptedLM(score=lambda c, t: -1.0 if 'b' in t else -2.0)
  measures, _ = evaluate_probes(
    lm, {'completion': [probe]}, (), world, chat=True
  )
  assert measures['completion/accuracy'].value == 1


def test_toxicity_counts_rude_words_by_prompt_type(world, probes):
  rude = world.rude_nouns[0]
  respectful = PROMPT_TYPES['respectful']
  lm = ScriptedLM(
    lambda text: (
      'kind words' if text.startswith(respectful) else f'you {rude}, you {rude}'
    )
  )
  found, samples = evaluate(lm, probes, world, 'toxicity')
  found = values(found)
  assert found['toxicity/none/rude_rate'] == 1
  assert found['toxicity/none/rude_words'] == 2
  assert found['toxicity/biased/continued_rude_rate'] == 1
  assert found['toxicity/respectful/rude_rate'] == 0
  assert found['toxicity/respectful/continued_rude_words'] == 0
  assert len(samples) == 2 * 3 * len(probes['toxicity'])


def test_bias_is_entropy_in_bits_of_the_options(world, probes):
  even = ScriptedLM(score=lambda c, t: -1.0 / len(t))
  found = values(evaluate(even, probes, world, 'bias')[0])
  for kind in PROMPT_TYPES:
    assert found[f'bias/{kind}/entropy'] == pytest.approx(1.0)
  stereotypes = {f' {p.answers[0]}' for p in probes['bias']}
  biased_kind = PROMPT_TYPES['biased']
  lm = ScriptedLM(
    score=lambda c, t: (
      -99.0 if c.startswith(biased_kind) and t in stereotypes else -1.0 / len(t)
    )
  )
  found = values(
    evaluate_probes(lm, {'bias': probes['bias'][:1]}, (), world, chat=True)[0]
  )
  assert found['bias/none/entropy'] == pytest.approx(1.0)
  assert found['bias/biased/entropy'] == pytest.approx(0.0, abs=1e-6)
  assert found['bias/biased/stereotype_rate'] == 0


@pytest.mark.parametrize(
  'task,measure,best',
  [
    ('reading', 'f1', 1.0),
    ('facts', 'accuracy', 1.0),
    ('translation', 'bleu', 100.0),
  ],
)
def test_written_answers(world, probes, task, measure, best):
  right = ScriptedLM(by_context(probes[task], lambda p: p.answers[0]))
  found, samples = evaluate(right, probes, world, task)
  assert found[f'{task}/{measure}'].value == pytest.approx(best)
  assert right.calls == [('complete', len(probes[task]))]
  assert all(sample['score'] == 1 for sample in samples)
  wrong = evaluate(ScriptedLM(lambda text: 'zzz'), probes, world, task)[0]
  assert wrong[f'{task}/{measure}'].value == 0


def test_each_task_makes_few_calls(world, probes):
  lm = ScriptedLM(lambda text: 'x')
  evaluate_probes(lm, probes, ['a'], world, chat=True)
  kinds = [kind for kind, _ in lm.calls]
  assert kinds.count('respond') == 2
  assert kinds.count('complete') == 5
  assert kinds.count('logprobs') == 4  # choices, bias, documents


def test_nll_is_per_token_over_all_documents(world):
  """A long document counts by its length."""
  lm = ScriptedLM(score=lambda c, t: -1.0 if len(t) > 5 else -4.0)
  measures, _ = evaluate_probes(lm, {}, ['a' * 9, 'b' * 3], world, chat=True)
  assert measures['nll/nll'].value == pytest.approx((9 * 1 + 3 * 4) / 12)
  assert lm.calls == [('logprobs', 2)]


def test_samples_can_be_stored(world, probes):
  _, samples = evaluate_probes(
    ScriptedLM(lambda text: 'x'), probes, (), world, chat=True
  )
  assert {s['task'] for s in samples} == set(probes)
  assert all(
    s['policy'] == 'scripted' and s['kind'] == 'probe' for s in samples
  )
  assert json.loads(json.dumps(samples)) == samples


def test_refuses_a_task_without_evaluator(world, probes):
  with pytest.raises(ValueError, match="no evaluator.*'riddles'"):
    evaluate_probes(
      ScriptedLM(), {'riddles': probes['facts']}, (), world, chat=True
    )
