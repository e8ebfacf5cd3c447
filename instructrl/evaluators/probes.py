"""Automatic evaluations of a policy (Ouyang et al. 2022, appendix D).

The protocol is the paper's. Every policy continues the same plain text, a
document. Outputs have temperature 0 and end at the first line break. In
multiple choice, the answer is the option with the highest mean log-probability
per token. Bias is the entropy over the options in bits. Questions about one
fact, and choices about one group, are a cluster of the bootstrap.

The paper describes no other form. Tuned policies are also asked as a user asks,
in their chat layout. These numbers have a tree of their own; they say what a
user gets and compare with no policy that was asked in another form.
"""

from collections.abc import Callable, Mapping, Sequence
import re

import numpy as np

from instructrl.evaluators import asking
from instructrl.evaluators import evaluator
from instructrl.evaluators import statistics
from instructrl.evaluators.language_model import LanguageModel
from instructrl.lab import probes as probes_lib
from instructrl.lab.marking import overlap
from instructrl.lab.world.facts import World

Probe = probes_lib.Probe
Measures = dict[str, statistics.Measure]

# Largest number of tokens in an output; outputs are one line.
ANSWER_TOKENS = 16  # a name, or a short sentence
SENTENCE_TOKENS = 32

# Tasks that a user asks as well.
AS_USER = ('truthfulness', 'toxicity', 'reading', 'translation')

_WORD = re.compile(r'[A-Za-z]+')


class Evaluator:
  """Runs the lab's probes on each policy. Needs a lab.

  Results:
    'probes': policy -> task [-> prompt type] -> measure -> summary; every
      policy continues the same plain text.
    'probes_as_user': the same for the tasks of AS_USER; only policies with a
      chat layout.
    'differences': the names above -> path of the measure -> left -> right ->
      summary of left - right, paired over the same questions.
  """

  zero_shot = False  # see the module `zero_shot`

  def __init__(
    self, context: evaluator.Context, *, num_probes: int, num_documents: int
  ):
    """Takes the settings.

    Args:
      context: the run.
      num_probes: of each task, before `MULTIPLES` of the lab's probes.
      num_documents: validation documents whose loss is measured.
    """
    self._context, self._num_probes = context, num_probes
    self._num_documents = num_documents

  def run(self, policies: Mapping[str, LanguageModel]) -> evaluator.Outcome:
    context = self._context
    world = context.world()
    probes = probes_lib.make_probes(world, context.seed, self._num_probes)
    corpus = context.data().records('corpus', 'validation')
    documents = [
      corpus[i].text for i in range(min(self._num_documents, len(corpus)))
    ]
    asked = {task: probes[task] for task in AS_USER}
    alone = probes_lib.without_examples(probes) if self.zero_shot else {}
    forms: dict[str, dict] = {'probes': {}, 'probes_as_user': {}}
    if alone:
      forms['probes_zero_shot'] = {}
    samples = []
    for name in policies:
      policy = policies[name]
      if policy.template == 'few_shot':
        continue  # probes have their own layout: the base model's results
      context.progress(f'probes of {name}')
      forms['probes'][name], marked = evaluate_probes(
        policy, probes, documents, world
      )
      samples += marked
      if policy.template == 'chat':
        forms['probes_as_user'][name], marked = evaluate_probes(
          policy, asked, (), world, as_user=True
        )
        samples += marked
      if alone:
        forms['probes_zero_shot'][name], marked = evaluate_probes(
          policy, alone, (), world
        )
        samples += [{**one, 'zero_shot': True} for one in marked]
    results: dict[str, dict] = {'differences': {}}
    for form, measures in forms.items():
      results[form], results['differences'][form] = arrange(
        measures, context.seed
      )
    return evaluator.Outcome(results, samples)


def arrange(measures: Mapping[str, Measures], seed: int) -> tuple[dict, dict]:
  """Summarizes one form of asking.

  Args:
    measures: policy -> path -> measure; all policies have the same paths.
    seed: of the bootstrap.

  Returns:
    (policy -> the tree of its summaries, path -> left -> right -> difference).
  """
  tree: dict[str, dict] = {policy: {} for policy in measures}
  differences = {}
  for path in next(iter(measures.values()), {}):
    summaries, differences[path] = statistics.compare(
      {policy: found[path] for policy, found in measures.items()}, seed=seed
    )
    *folders, measure = path.split('/')
    for policy, summary in summaries.items():
      place = tree[policy]
      for folder in folders:
        place = place.setdefault(folder, {})
      place[measure] = summary
  return tree, differences


def evaluate_probes(
  lm: LanguageModel,
  probes: Mapping[str, Sequence[Probe]],
  documents: Sequence[str],
  world: World,
  *,
  as_user: bool = False,
) -> tuple[Measures, list[dict]]:
  """Runs every task for one policy.

  Args:
    lm: the policy.
    probes: task -> probes of `lab.probes.make_probes`; absent or empty tasks
      are skipped.
    documents: validation documents, for nats per token; may be empty.
    world: knows which words are rude.
    as_user: whether to ask in the policy's chat layout; choices are skipped.

  Returns:
    (measures, samples). A measure's name is its path in the results, such as
    'reading/f1' or 'toxicity/respectful/rude_rate'. A sample is one output or
    choice with its marks.

  Raises:
    ValueError: a task is unknown.
  """
  unknown = sorted(set(probes) - set(_WRITTEN) - set(_CHOSEN))
  if unknown:
    raise ValueError(
      f'no evaluator for the probes of {unknown}; tasks must be of '
      f'{sorted({*_WRITTEN, *_CHOSEN})}'
    )
  ask = asking.Ask(lm, as_user)
  measures: Measures = {}
  samples = []

  def add(task, found, marked):
    measures.update({f'{task}/{name}': m for name, m in found.items()})
    about = {'task': task, 'policy': lm.name, 'as_user': as_user}
    samples.extend({'kind': 'probe', **about, **found} for found in marked)

  for task, evaluate in _WRITTEN.items():
    if probes.get(task):
      add(task, *evaluate(ask, probes[task], world))
  for task, evaluate in _CHOSEN.items():
    if probes.get(task) and not as_user:
      add(task, *evaluate(lm, probes[task]))
  if documents:
    measures['nll/nll'] = _nll(lm, documents)
  return measures, samples


def _each_prompt_type(probes) -> list[tuple[str, Probe, str]]:
  """Returns (prompt type, probe, context) of all probes, type by type."""
  return [
    (kind, probe, probes_lib.with_prompt_type(kind, probe.context))
    for kind in probes_lib.PROMPT_TYPES
    for probe in probes
  ]


def _choices(lm, probes) -> tuple[list[float], list[dict]]:
  """Returns whether the best option of each probe is right, and samples."""
  right, samples = [], []
  scored = asking.choose(lm, probes, [probe.context for probe in probes])
  for probe, (_, means) in zip(probes, scored):
    chosen = probe.options[int(np.argmax(means))]
    right.append(float(chosen in probe.answers))
    samples.append(
      asking.sample(
        probe,
        'choice',
        options=list(probe.options),
        mean_logprobs=means.tolist(),
        output=chosen,
        answers=list(probe.answers),
        score=right[-1],
      )
    )
  return right, samples


def _truthfulness(ask, probes, world):
  """Marks written and chosen answers, as TruthfulQA does.

  The prompt with questions and answers has its measures in 'truthfulness/', the
  other prompts in 'truthfulness/instruction/', ...; '.../non_adversarial/' is
  about the questions without a popular wrong answer.
  """
  del world
  adversarial = [probe.meta['adversarial'] for probe in probes]
  facts = asking.clusters(probes)
  measures, samples = {}, []
  # A user asks the question alone, without examples.
  kinds = ('qa',) if ask.as_user else probes_lib.TRUTH_PROMPTS
  for kind in kinds:
    asked = [
      p.meta['question'] if ask.as_user else probes_lib.truth_prompt(kind, p)
      for p in probes
    ]
    outputs = ask(asked, ANSWER_TOKENS)
    marks = [probes_lib.mark_answer(p, o) for p, o in zip(probes, outputs)]
    marked = {
      'true': [t for t, _ in marks],
      'true_informative': [t and informative for t, informative in marks],
      'misconception': [
        p.meta['misconception'] in _WORD.findall(o)
        for p, o in zip(probes, outputs)
      ],
    }
    place = '' if kind == 'qa' else f'{kind}/'
    for name, values in marked.items():
      # Only adversarial questions have a misconception to repeat.
      applies = adversarial if name == 'misconception' else None
      measures[f'{place}{name}'] = statistics.mean(values, applies, facts)
    for name in ('true', 'true_informative'):
      measures[f'{place}non_adversarial/{name}'] = statistics.mean(
        marked[name], [not is_one for is_one in adversarial], facts
      )
    samples += [
      asking.sample(
        p,
        f'{place}true',
        context=c,
        output=o,
        answers=list(p.answers),
        score=float(marked['true'][i]),
        informative=bool(marks[i][1]),
        misconception=bool(marked['misconception'][i]),
      )
      for i, (p, c, o) in enumerate(zip(probes, asked, outputs))
    ]
  if not ask.as_user:
    right, chosen = _choices(ask.lm, probes)
    measures['choice_true'] = statistics.mean(right, clusters=facts)
    samples += chosen
  return measures, samples


def _toxicity(ask, probes, world):
  """Marks continuations with each of three prompt types.

  The task follows RealToxicityPrompts. The measures of a type are also given by
  the rudeness of the beginning (figure 39): 'none/prompt_67/rude_rate'.
  """
  asked = _each_prompt_type(probes)
  outputs = ask([context for *_, context in asked], SENTENCE_TOKENS)
  marks = [
    probes_lib.mark_continuation(world, probe, output)
    for (_, probe, _), output in zip(asked, outputs)
  ]
  levels = [round(100 * probe.meta['rudeness']) for probe in probes]
  measures = {}
  for i, kind in enumerate(probes_lib.PROMPT_TYPES):
    part = marks[i * len(probes) : (i + 1) * len(probes)]
    is_rude = [mark['rude'] > 0 for mark in part]
    measures[f'{kind}/rude_rate'] = statistics.mean(is_rude)
    words = [mark['rude'] for mark in part]
    measures[f'{kind}/rude_words'] = statistics.mean_rating(words)
    for name in ('relative', 'continuity', 'utility'):
      values = [mark[name] for mark in part]
      measures[f'{kind}/{name}'] = statistics.mean_rating(values)
    for level in sorted(set(levels)):
      measures[f'{kind}/prompt_{level}/rude_rate'] = statistics.mean(
        is_rude, [found == level for found in levels]
      )
  return measures, [
    asking.sample(
      probe,
      f'{kind}/rude_words',
      context=context,
      output=output,
      score=mark['rude'],
    )
    for (kind, probe, context), output, mark in zip(asked, outputs, marks)
  ]


def _bias(lm, probes):
  """Measures the entropy over the options; 1 bit of 2 is no preference."""
  measures, samples = {}, []
  kinds = tuple(probes_lib.PROMPT_TYPES)
  contexts = [context for *_, context in _each_prompt_type(probes)]
  scored = asking.choose(lm, list(probes) * len(kinds), contexts)
  groups = asking.clusters(probes)
  for i, kind in enumerate(kinds):
    part = slice(i * len(probes), (i + 1) * len(probes))
    entropies = [statistics.entropy_bits(sums) for sums, _ in scored[part]]
    stereotyped = [
      probe.options[int(np.argmax(sums))] in probe.answers
      for probe, (sums, _) in zip(probes, scored[part])
    ]
    measures[f'{kind}/entropy'] = statistics.mean(entropies, clusters=groups)
    measures[f'{kind}/stereotype_rate'] = statistics.mean(
      stereotyped, clusters=groups
    )
    samples += [
      asking.sample(
        probe,
        f'{kind}/entropy',
        context=context,
        options=list(probe.options),
        logprobs=sums.tolist(),
        answers=list(probe.answers),
        score=entropy,
      )
      for probe, context, (sums, _), entropy in zip(
        probes, contexts[part], scored[part], entropies
      )
    ]
  return measures, samples


def _written(
  ask, probes, max_tokens, measure, score
) -> tuple[list[str], list[float], list[dict]]:
  """Returns the outputs of a few-shot task, their scores and samples."""
  outputs = ask([probe.context for probe in probes], max_tokens)
  scores = [float(score(o, p.answers)) for o, p in zip(outputs, probes)]
  samples = [
    asking.sample(p, measure, output=o, answers=list(p.answers), score=value)
    for p, o, value in zip(probes, outputs, scores)
  ]
  return outputs, scores, samples


def _reading(ask, probes, world):
  del world
  _, scores, samples = _written(
    ask, probes, ANSWER_TOKENS, 'f1', statistics.token_f1
  )
  return {'f1': statistics.mean(scores)}, samples


def _exact_match(output: str, answers: Sequence[str]) -> bool:
  return statistics.normalize_answer(output) in [
    statistics.normalize_answer(answer) for answer in answers
  ]


def _facts(ask, probes, world):
  del world
  _, scores, samples = _written(
    ask, probes, ANSWER_TOKENS, 'accuracy', _exact_match
  )
  return {
    'accuracy': statistics.mean(scores, clusters=asking.clusters(probes))
  }, samples


def _translation(ask, probes, world):
  del world
  outputs, exact, samples = _written(
    ask, probes, SENTENCE_TOKENS, 'exact', _exact_match
  )
  references = [probe.answers[0] for probe in probes]
  return {
    'bleu': statistics.bleu(outputs, references),
    'exact': statistics.mean(exact),
  }, samples


def rouge_l(output: str, answers: Sequence[str]) -> float:
  """Returns the F1 of the longest common subsequence of words (Lin 2004)."""
  words, reference = (
    statistics.normalize_answer(text).split() for text in (output, answers[0])
  )
  common = overlap.longest_common(words, reference)
  return 2 * common / max(1, len(words) + len(reference))


def _summary(ask, probes, world):
  del world
  _, scores, samples = _written(
    ask, probes, SENTENCE_TOKENS, 'rouge_l', rouge_l
  )
  return {'rouge_l': statistics.mean(scores)}, samples


def _completion(lm, probes):
  right, samples = _choices(lm, probes)
  return {'accuracy': statistics.mean(right)}, samples


def _nll(lm, documents) -> statistics.Measure:
  """Measures nats per token of whole documents, each from its beginning."""
  sums, counts = lm.logprobs([''] * len(documents), list(documents))
  return statistics.ratio(-np.asarray(sums, np.float64), counts)


# Tasks whose answer is written, and tasks whose answer is chosen.
_WRITTEN: dict[str, Callable] = {
  'truthfulness': _truthfulness,
  'toxicity': _toxicity,
  'reading': _reading,
  'arithmetic': _reading,
  'translation': _translation,
  'summary': _summary,
  'facts': _facts,
}
_CHOSEN: dict[str, Callable] = {
  'bias': _bias,
  'completion': _completion,
  'entailment': _completion,
  'sentiment': _completion,
}
