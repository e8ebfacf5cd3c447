"""All evaluations of all policies: the figures a report is made from."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

from instructrl.data import records
from instructrl.evaluators import preference
from instructrl.evaluators import statistics
from instructrl.evaluators.probes import evaluate_probes
from instructrl.evaluators.probes import LM
from instructrl.evaluators.probes import Probe
from instructrl.lab.marking.judge import has_constraints
from instructrl.lab.marking.judge import is_closed_domain
from instructrl.lab.world.facts import World

# Each difference is of a policy and one before it.
ORDER = ('base', 'prompted', 'sft', 'ppo', 'ppo_ptx')
TEXT_POLICIES = ('base',)  # continue text; all others answer users
# Same parameters as another policy: probes would repeat its figures.
PROBES_SKIP = ('prompted',)
# Rows of Table 3 that mean something for some prompts only.
APPLIES = {
  'hallucination': is_closed_domain,
  'satisfies_constraint': has_constraints,
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Outcome of `evaluate_policies`.

  Attributes:
    results: for results.json.
      'preference': policy -> {'win_rate', 'ci95', 'n', 'heldout_labelers'}.
      'head_to_head': left -> right -> the same.
      'likert': policy -> summary.
      'metadata': policy -> row of Table 3 -> summary.
      'probes': policy -> task [-> prompt type] -> measure -> summary.
      'differences': {'likert': left -> right -> summary,
        'metadata': row -> left -> right -> summary,
        'probes': path of the measure -> left -> right -> summary}, of
        left - right, paired.
      A summary is {'value', 'ci95': [low, high], 'n'}.
    samples: for samples.jsonl; 'kind' is 'preference' or 'probe'.
  """

  results: dict
  samples: list[dict]


def evaluate_policies(
  policies: Mapping[str, LM],
  prompts: Sequence[records.Prompt],
  world: World,
  judge: preference.Judge,
  heldout_labelers: Sequence[preference.Labeler],
  probes: Mapping[str, Sequence[Probe]],
  documents: Sequence[str],
  *,
  seed: int,
  temperature: float = 1.0,
  progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
  """Compares, rates and probes policies.

  Args:
    policies: names of ORDER -> language model; 'sft' must be among them.
    prompts: no policy was trained on them.
    world: the lab's.
    judge: noise-free; never used in training.
    heldout_labelers: whose labels trained nothing.
    probes: task -> probes.
    documents: validation documents, for nats per token.
    seed: evaluation seed; everything drawn here is a function of it.
    temperature: of the compared responses, > 0 (SFT is sampled twice).
    progress: called with (steps done, steps in all, what comes next).

  Returns:
    The figures and the samples they come from.

  Raises:
    ValueError: if a policy is unknown, 'sft' is missing, or temperature is 0.
  """
  if preference.REFERENCE not in policies:
    raise ValueError(
      f'policies to evaluate must hold {preference.REFERENCE!r}, got '
      f'{list(policies)}'
    )
  if temperature <= 0:
    raise ValueError(
      'evaluation: temperature must be above 0, or two samples '
      f'of SFT would be the same; got {temperature}'
    )
  names = sorted(policies, key=lambda n: (*ORDER, n).index(n))
  probed = [name for name in names if name not in PROBES_SKIP]
  steps = [f'responses of {name}' for name in names]
  steps += ['second sample of SFT', 'judging']
  steps += [f'probes of {name}' for name in probed]
  remaining = iter(enumerate(steps))

  def advance():
    if progress:
      done, what = next(remaining)
      progress(done, len(steps), what)

  texts = [prompt.text for prompt in prompts]
  responses = {}
  for name in names:
    advance()
    responses[name] = policies[name].respond(
      texts, temperature=temperature, seed=sample_seed(seed, name)
    )
  advance()
  responses[preference.SECOND_SAMPLE] = policies[preference.REFERENCE].respond(
    texts,
    temperature=temperature,
    seed=sample_seed(seed, preference.SECOND_SAMPLE),
  )
  advance()
  results, samples = preference.evaluate_preference(
    prompts, responses, judge, heldout_labelers, seed=seed, applies=APPLIES
  )
  measures = {}
  for name in probed:
    advance()
    measures[name], marked = evaluate_probes(
      policies[name], probes, documents, world, chat=name not in TEXT_POLICIES
    )
    samples += marked
  results['probes'], results['differences']['probes'] = _compare(measures, seed)
  if progress:
    progress(len(steps), len(steps), 'done')
  return Evaluation(results, samples)


def sample_seed(seed: int, name: str) -> int:
  """Seed of a policy's samples: every set of samples is independent."""
  return int(statistics.generator(seed, 'responses', name).integers(2**31))


def _compare(measures, seed) -> tuple[dict, dict]:
  """Summaries by policy, as a tree, and paired differences by path."""
  tree = {policy: {} for policy in measures}
  differences = {}
  for path in next(iter(measures.values())):
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
