"""The few-shot prefix of the prompted policy, chosen by RM score (footnote 6).

Two authors of the paper wrote two prefixes each; the one with the best
reward-model score on validation prompts is used. Here prefixes differ in their
demonstrations.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from instructrl import rng
from instructrl.data import tasks
from instructrl.data.records import Demonstration
from instructrl.evaluators import evaluator
from instructrl.lab.world import prose
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import policies
from instructrl.stages import policy_settings


def validate(config) -> None:
  """Raises a ConfigError if no prefix could be chosen."""
  checks.positive(config, 'num_shots', 'num_prefixes')
  if config.num_prefixes > 1 and config.policies.get(policy_settings.PROMPTED):
    checks.positive(config, 'num_prefix_prompts')
    checks.require(
      bool(config.inputs.get('reward_model')),
      f'num_prefixes={config.num_prefixes}: a prefix is chosen by its '
      'reward-model score, so give inputs.reward_model, or set num_prefixes=1',
    )


def candidates(
  demonstrations: Iterable[Demonstration], tok, num_shots: int, count: int
) -> list[str]:
  """Makes few-shot prefixes that end with `{prompt}`.

  The demonstrations are short and of different use cases, so that the longest
  prompt still fits beside them: the first prefix has the shortest ones.

  Args:
    demonstrations: to choose from; those of several lines are left out.
    tok: counts tokens.
    num_shots: demonstrations of a prefix.
    count: of prefixes; fewer if there are too few demonstrations.
  """
  by_use_case: dict[str, list[tuple[int, Demonstration]]] = {}
  for d in demonstrations:
    text = d.prompt.text + d.response
    if '\n' not in text:
      length = len(tok.encode(text))
      by_use_case.setdefault(d.prompt.use_case, []).append((length, d))
  length_of = lambda found: found[0]
  for found in by_use_case.values():
    found.sort(key=length_of)
  # The shortest of every use case, then the second ones, and so on.
  depth = max(map(len, by_use_case.values()), default=0)
  shots: list[Demonstration] = []
  for rank in range(depth):
    if len(shots) >= num_shots * count:
      break
    some = [x[rank] for x in by_use_case.values() if rank < len(x)]
    some.sort(key=length_of)
    whole = max(num_shots, len(some) - len(some) % num_shots)
    shots += [d for _, d in some[:whole]]
  groups = [shots[i : i + num_shots] for i in range(0, len(shots), num_shots)]
  return [_prefix(group) for group in groups[:count] or [[]]]


def _prefix(shots: Iterable[Demonstration]) -> str:
  items = [prose.instruction_item(d.prompt.text, d.response) for d in shots]
  return '\n'.join([*items, prose.instruction_item('{prompt}', '').rstrip()])


def choose(
  opened: policies.Opener,
  models: policies.Policies,
  reward_model: Callable[[], evaluator.RewardModel],
) -> Mapping:
  """Chooses the prefix with the best mean score on validation prompts.

  Args:
    opened: the run.
    models: its policies; each prefix is set there in turn.
    reward_model: opens it; called if there are several prefixes.

  Returns:
    {'texts': the candidates, 'rm_scores': theirs, 'chosen': place of the best};
    with a single candidate there is no score.
  """
  config = opened.config
  texts = candidates(
    inputs.records(opened, 'data', 'demonstrations', 'train'),
    opened.tok,
    config.num_shots,
    config.num_prefixes,
  )
  if len(texts) == 1:
    return {'texts': texts, 'rm_scores': [], 'chosen': 0}
  prompts = opened.prompts('validation', config.prompt_len)
  prompts = prompts[: config.num_prefix_prompts]
  tokens = [tasks.chat_prompt(opened.tok, prompt) for prompt in prompts]
  score = reward_model().score
  scores = []
  for text in texts:
    models.few_shot = text
    answers = models[policy_settings.PROMPTED].respond(
      prompts,
      temperature=1.0,
      seed=config.eval_seed,
      purpose=rng.Purpose.CANDIDATES,
    )
    responses = [
      tasks.response_tokens(opened.tok, answer, config.response_len)
      for answer in answers
    ]
    scores.append(float(np.mean(score(tokens, responses))))
  return {'texts': texts, 'rm_scores': scores, 'chosen': int(np.argmax(scores))}
