"""Probes with language models whose every answer is known."""

import json
import types

import numpy as np
import pytest

from instructrl.evaluators import zero_shot
from instructrl.evaluators.asking import first_line
from instructrl.evaluators.probes import AS_USER
from instructrl.evaluators.probes import evaluate_probes
from instructrl.evaluators.probes import Evaluator
from instructrl.evaluators.probes import rouge_l
from instructrl.lab import tax_probes
from instructrl.lab.probes import make_probes
from instructrl.lab.probes import Probe
from instructrl.lab.probes import PROMPT_TYPES
from instructrl.lab.probes import truth_prompt
from instructrl.lab.probes import TRUTH_PROMPTS
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

  def respond(self, prompts, *, temperature, seed, stop):
    assert temperature == 0 and stop == '\n'
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
    if 'adversarial' in probe.meta:
      table |= {truth_prompt(k, probe): say(probe) for k in TRUTH_PROMPTS}
  return table.__getitem__


def evaluate(lm, probes, world, task, documents=(), as_user=False):
  return evaluate_probes(
    lm, {task: probes[task]}, documents, world, as_user=as_user
  )


def values(measures):
  return {name: measure.value for name, measure in measures.items()}


def test_truthfulness_of_truth_popular_belief_and_not_knowing(world, probes):
  task = probes['truthfulness']
  for say, expected in (
    (lambda p: f'{p.answers[0]}.', (1.0, 1.0, 0.0)),
    (
      lambda p: f'{p.meta["misconception"] or p.meta["wrong_values"][0]}.',
      (0.0, 0.0, 1.0),
    ),
    (lambda p: p.meta['unknown'], (1.0, 0.0, 0.0)),
  ):
    for as_user in (True, False):
      found = values(
        evaluate(
          ScriptedLM(by_context(task, say)),
          probes,
          world,
          'truthfulness',
          as_user=as_user,
        )[0]
      )
      assert (
        tuple(
          found[f'truthfulness/{name}']
          for name in ('true', 'true_informative', 'misconception')
        )
        == expected
      )


def test_prompts_and_part_of_truthfulness(world, probes):
  """Honest where instructed, and where there is no misconception."""
  task = probes['truthfulness']
  right = {}
  for probe in task:
    right |= {truth_prompt(k, probe): probe.answers[0] for k in TRUTH_PROMPTS}
    if probe.meta['adversarial']:
      right[probe.context] = probe.meta['misconception']
  lm = ScriptedLM(right.__getitem__)
  found = values(evaluate(lm, probes, world, 'truthfulness')[0])
  for name in ('true', 'true_informative'):
    assert found[f'truthfulness/{name}'] == 0.5
    assert found[f'truthfulness/non_adversarial/{name}'] == 1
    assert found[f'truthfulness/instruction/{name}'] == 1
    assert found[f'truthfulness/instruction_qa/non_adversarial/{name}'] == 1


def run(policies, world, evaluator=Evaluator):
  """Runs the evaluator on scripted policies; returns (results, samples)."""
  documents = types.SimpleNamespace(records=lambda name, split: ())
  context = types.SimpleNamespace(
    seed=0,
    world=lambda: world,
    data=lambda: documents,
    progress=lambda text: None,
  )
  outcome = evaluator(context, num_probes=12, num_documents=1).run(policies)
  return outcome.results, outcome.samples


def test_only_adversarial_questions_have_a_misconception(world, probes):
  found, _ = evaluate(ScriptedLM(), probes, world, 'truthfulness')
  adversarial = sum(p.meta['adversarial'] for p in probes['truthfulness'])
  assert found['truthfulness/misconception'].num_items == adversarial
  assert found['truthfulness/true'].num_items == 2 * adversarial


def test_every_policy_gets_the_same_text(world):
  """A policy that is good only as a user asks is not good in the main tree."""

  def answer(text):
    probe = asked.get(text)
    return f'{probe.answers[0]}.' if probe else 'zzz'

  probes = make_probes(world, 0, 12)['truthfulness']
  asked = {probe.meta['question']: probe for probe in probes}
  policies = {}
  for name, template in (('base', 'plain'), ('ppo', 'chat')):
    policies[name] = ScriptedLM(answer)
    policies[name].name, policies[name].template = name, template
  results, samples = run(policies, world)
  path = 'truthfulness/true_informative'
  difference = results['differences']['probes'][path]['ppo']['base']
  assert difference['value'] == 0
  assert list(results['probes']) == ['base', 'ppo']
  assert list(results['probes_as_user']) == ['ppo']
  as_user = results['probes_as_user']['ppo']['truthfulness']
  assert as_user['true_informative']['value'] == 1
  assert set(results['probes_as_user']['ppo']) == set(AS_USER)
  contexts = {
    name: [
      s['context'] for s in samples if s['policy'] == name and not s['as_user']
    ]
    for name in policies
  }
  assert contexts['base'] == contexts['ppo'] and contexts['ppo']


def test_tasks_are_asked_without_their_examples_on_request(world):
  """A policy that answers only where there are examples fails without."""
  probes = make_probes(world, 0, 12)
  examples = {p.context: p.answers[0] for p in probes['translation']}
  policy = ScriptedLM(lambda text: examples.get(text, 'zzz'))
  policy.name, policy.template = 'base', 'plain'
  results, samples = run({'base': policy}, world, zero_shot.Evaluator)
  found = results['probes_zero_shot']['base']
  assert set(found) == {*tax_probes.MAKERS} - {'completion'}
  assert results['probes']['base']['translation']['exact']['value'] == 1
  assert found['translation']['exact']['value'] == 0
  assert 'reading/f1' in results['differences']['probes_zero_shot']
  alone = [s for s in samples if s.get('zero_shot')]
  assert {s['task'] for s in alone} == set(found)
  results, samples = run({'base': policy}, world)
  assert 'probes_zero_shot' not in results
  assert not any('zero_shot' in s for s in samples)


def test_as_a_user_only_written_tasks_are_asked(world, probes):
  lm = ScriptedLM(lambda text: 'x')
  found, samples = evaluate_probes(lm, probes, (), world, as_user=True)
  tasks = {path.split('/')[0] for path in found}
  assert tasks == {
    'truthfulness',
    'toxicity',
    'reading',
    'arithmetic',
    'translation',
    'summary',
    'facts',
  }
  assert {kind for kind, _ in lm.calls} == {'respond'}
  assert all(sample['as_user'] for sample in samples)


def test_questions_about_one_fact_are_one_cluster(world, probes):
  found, _ = evaluate(ScriptedLM(), probes, world, 'truthfulness')
  facts = [
    (p.meta['subject'], p.meta['relation']) for p in probes['truthfulness']
  ]
  assert len(set(facts)) < len(facts)
  for name in ('true', 'true_informative', 'choice_true', 'misconception'):
    measure = found[f'truthfulness/{name}']
    assert list(measure.clusters) == facts
    assert len(measure.drawn) == len(set(facts))
  found, _ = evaluate(ScriptedLM(), probes, world, 'bias')
  towns = [p.meta['group'] for p in probes['bias']]
  assert list(found['bias/none/entropy'].clusters) == towns
  found, _ = evaluate(ScriptedLM(), probes, world, 'reading')
  assert found['reading/f1'].clusters is None


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
  assert first_line(' a \nb') == 'a'


def test_an_output_that_begins_with_a_line_break_is_empty(world, probes):
  assert first_line('\n a \nb') == ''
  # Empty is true and says nothing; the text after it is not the answer.
  task = probes['truthfulness']
  lm = ScriptedLM(by_context(task, lambda p: f'\n{p.answers[0]}.'))
  found = values(evaluate(lm, probes, world, 'truthfulness', as_user=True)[0])
  assert found['truthfulness/true'] == 1
  assert found['truthfulness/true_informative'] == 0


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
  measures, _ = evaluate_probes(lm, {'completion': [probe]}, (), world)
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
  assert found['toxicity/biased/rude_rate'] == 1
  assert found['toxicity/respectful/rude_rate'] == 0
  assert found['toxicity/respectful/rude_words'] == 0
  assert len(samples) == 3 * len(probes['toxicity'])


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
    evaluate_probes(lm, {'bias': probes['bias'][:1]}, (), world)[0]
  )
  assert found['bias/none/entropy'] == pytest.approx(1.0)
  assert found['bias/biased/entropy'] == pytest.approx(0.0, abs=1e-6)
  assert found['bias/biased/stereotype_rate'] == 0


def test_rouge_l_by_hand():
  assert (
    rouge_l('Mara gives Tomas the bread.', ('Mara gives Tomas bread.',)) == 1
  )
  # "Mara ... bread" of 3 and 4 words.
  assert rouge_l('Mara eats bread.', ('Mara gives Tomas bread.',)) == 4 / 7
  assert rouge_l('', ('Mara',)) == 0


def test_toxicity_by_the_rudeness_of_the_beginning(world, probes):
  """Says rude words after rude beginnings only."""
  noun = world.rude_nouns[0]
  lm = ScriptedLM(
    lambda text: f'{noun}.' if world.rude_count(text) else 'friend.'
  )
  found = values(evaluate(lm, probes, world, 'toxicity')[0])
  levels = [
    found[f'toxicity/none/prompt_{level}/rude_rate'] for level in (0, 33, 67)
  ]
  assert levels == [0, 1, 1]
  assert found['toxicity/none/rude_rate'] == 0.75
  assert 1 <= found['toxicity/none/continuity'] <= 7
  assert -1 <= found['toxicity/none/relative'] <= 1
  assert 0 < found['toxicity/none/utility'] < 1


@pytest.mark.parametrize(
  'task,measure,best',
  [
    ('reading', 'f1', 1.0),
    ('arithmetic', 'f1', 1.0),
    ('summary', 'rouge_l', 1.0),
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
  evaluate_probes(lm, probes, ['a'], world)
  kinds = [kind for kind, _ in lm.calls]
  assert kinds.count('complete') == 9  # truthfulness has three prompts
  assert kinds.count('logprobs') == 6  # choices, bias, documents


def test_nll_is_per_token_over_all_documents(world):
  """A long document counts by its length."""
  lm = ScriptedLM(score=lambda c, t: -1.0 if len(t) > 5 else -4.0)
  measures, _ = evaluate_probes(lm, {}, ['a' * 9, 'b' * 3], world)
  assert measures['nll/nll'].value == pytest.approx((9 * 1 + 3 * 4) / 12)
  assert lm.calls == [('logprobs', 2)]


def test_samples_can_be_stored(world, probes):
  _, samples = evaluate_probes(ScriptedLM(lambda text: 'x'), probes, (), world)
  assert {s['task'] for s in samples} == set(probes)
  assert all(
    s['policy'] == 'scripted' and s['kind'] == 'probe' for s in samples
  )
  assert json.loads(json.dumps(samples)) == samples


def test_refuses_a_task_without_evaluator(world, probes):
  with pytest.raises(ValueError, match="no evaluator.*'riddles'"):
    evaluate_probes(ScriptedLM(), {'riddles': probes['facts']}, (), world)
