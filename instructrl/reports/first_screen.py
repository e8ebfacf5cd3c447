"""The first screen of a study's page: its result and three key figures."""

from collections.abc import Mapping

from instructrl.reports import formats
from instructrl.reports import headline
from instructrl.reports import paper_values
from instructrl.reports import verdicts
from instructrl.reports.policies import ShownPolicies

COUNT = 3  # key figures
SUBJECT, PLAIN, START = 'ppo_ptx', 'ppo', 'base'
# Name, path of a rate in results.json below the policy, the two policies, and
# the paper's values.
_PAIRS = (
  (
    'constraints kept by',
    'metadata',
    'satisfies_constraint',
    (SUBJECT, START),
    paper_values.METADATA['satisfies_constraint'],
  ),
  (
    'F1 of reading with',
    'alignment_tax',
    'reading',
    (SUBJECT, PLAIN),
    paper_values.PROBES['reading/f1'],
  ),
  (
    'true and informative answers of',
    'truthfulness',
    'true_informative',
    (SUBJECT, START),
    paper_values.PROBES['truthfulness/true_informative'],
  ),
  (
    'hallucinations of',
    'metadata',
    'hallucination',
    (SUBJECT, START),
    paper_values.METADATA['hallucination'],
  ),
)
# Measure on held-out data -> name, scale and unit; the paper has no number.
_LEVELS = {
  'kl': ('KL of a response', 1, '.1f', ' nats'),
  'ended': ('responses that end', 100, '.0f', '%'),
  'score': ('reward-model score', 1, '.2f', ''),
}


def title(results: Mapping) -> str:
  """Returns the result of a study as a sentence."""
  found = headline.preferred(results)
  if found:
    return found
  policies = ShownPolicies(results.get('policies', {}))
  scores = verdicts.get(results, 'measures', 'score', 'difference') or {}
  subject = headline.subject(scores, policies)
  row = verdicts.get(scores, subject, headline.REFERENCE)
  if not row:
    return 'What this run measured'
  name, reference = map(policies.label, (subject, headline.REFERENCE))
  return (
    f'The reward model scores {name} {abs(row["value"]):.2f} '
    f'{"below" if row["value"] < 0 else "above"} {reference} on '
    f'{row["n"]:,} held-out prompts'
  )


def key_figures(results: Mapping) -> list[dict[str, str]]:
  """Returns the first three of these that a study has: value, text, paper."""
  policies = ShownPolicies(results.get('policies', {}))
  found = _head_to_head(results, policies)
  for name, *path, pair, paper in _PAIRS:
    ours = [verdicts.get(results, path[0], p, path[1]) for p in pair]
    if None not in ours:
      theirs = paper_values.of_largest(paper)
      names = [policies.label(p) for p in pair]
      found.append(
        {
          'value': f'{ours[0]:.0%}',
          'text': f'{name} {names[0]}; {names[1]}: {ours[1]:.0%}',
          'paper': ' and '.join(f'{theirs[p]:.0%}' for p in pair),
        }
      )
  return [*found, *_accuracies(results), *_levels(results, policies)][:COUNT]


def _head_to_head(results: Mapping, policies: ShownPolicies) -> list[dict]:
  row = verdicts.get(results, 'head_to_head', SUBJECT, START)
  if not row:
    return []
  return [
    {
      'value': f'{row["win_rate"]:.0%}',
      'text': f'{policies.label(SUBJECT)} preferred to {policies.label(START)}',
      'paper': '85 ± 3%',  # section 4.1, 175B
    }
  ]


def _accuracies(results: Mapping) -> list[dict]:
  """Returns the accuracy of the reward model on its held-out data."""
  return [
    {
      'value': formats.fixed(100 * row['value'], 0) + '%',
      'text': f'of held-out pairs in the reward model’s order ({name})',
      'paper': '72.4 ± 0.4%',  # section 4.1
    }
    for name, part in results.get('accuracy', {}).items()
    for row in [part['judges'].get('reward model')]
    if row
  ][:1]


def _levels(results: Mapping, policies: ShownPolicies) -> list[dict]:
  found = []
  for measure, (name, scale, form, unit) in _LEVELS.items():
    tree = verdicts.get(results, 'measures', measure, 'policies') or {}
    subject = headline.subject(tree, policies)
    if subject and tree[subject].get('value') is not None:
      found.append(
        {
          'value': f'{scale * tree[subject]["value"]:{form}}{unit}',
          'text': f'{name}, {policies.label(subject)}',
          'paper': '',
        }
      )
  return found
