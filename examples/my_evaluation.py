r"""An evaluation of your own: answers that end, and answers that repeat.

  python -m instructrl.study --config=examples/my_evaluation.py:tiny \
      --workdir=DIR

runs a study of the lab with the evaluation `Manners`, during PPO and in the
report. Each takes one line of the config, see `get_config`. During PPO the
metrics of metrics.jsonl are eval/manners/ended and eval/manners/repeats; the
report has a table of all policies. On two CPU cores the evaluation takes
seconds; the study takes as long as without it.

To write another one, copy the class. An evaluator is a class with two methods:

  __init__(context, **fields): `fields` are those of the config, but for `type`
      and `every`. `context` gives prompts, data, the reward model, the lab's
      world and the seed; see `instructrl.evaluators.evaluator.Context`.
  run(policies): `policies` maps names to policies, which answer text
      (`respond`), sample tokens (`sample_tokens`) and give log-probabilities
      (`logprobs`); see `instructrl.evaluators.language_model.LanguageModel`.
      Returns an `Outcome`: a tree of summaries {'value', 'ci95', 'n'}, and
      samples.
"""

from experiments import study
from instructrl.evaluators import evaluator
from instructrl.evaluators import statistics

SHOWN = 20  # samples per policy in samples.jsonl


class Manners:
  """Fractions of answers that end by themselves and that repeat the prompt."""

  def __init__(self, context, *, num_prompts, temperature=1.0):
    self._context, self._temperature = context, temperature
    self._num_prompts = num_prompts

  def run(self, policies):
    context = self._context
    prompts = context.prompts('validation')[: self._num_prompts]
    ended, repeats, samples = {}, {}, []
    for name in policies:  # one policy is in memory at a time
      policy = policies[name]
      answers = policy.sample_tokens(
        prompts, temperature=self._temperature, seed=context.seed
      )
      texts = [context.tok.decode(tokens).strip() for tokens in answers]
      ended[name] = [context.tok.eos_id in tokens for tokens in answers]
      repeats[name] = [p.text in text for p, text in zip(prompts, texts)]
      samples += [
        {'policy': name, 'prompt': prompt.text, 'answer': text}
        for prompt, text in zip(prompts[:SHOWN], texts)
      ]
    measures = {
      measure: {name: statistics.mean(found) for name, found in by_name.items()}
      for measure, by_name in (('ended', ended), ('repeats', repeats))
    }
    # Means with 95% intervals, and paired differences between the policies.
    results = evaluator.compared(measures, seed=context.seed)
    return evaluator.Outcome(results, samples)


def get_config(arg='tiny'):
  c = study.get_config(arg)
  manners = dict(type='examples.my_evaluation:Manners', num_prompts=64)
  c.stages.ppo.evals.manners = dict(manners, every=10)  # iterations
  c.stages.evaluation.evals.manners = manners
  return c
