"""Checks that need no judge: of the reward model, its scores, and the loss."""

from collections.abc import Mapping

from instructrl.reports import verdicts
from instructrl.reports.policies import ShownPolicies
from instructrl.reports.verdicts import NEGATIVE
from instructrl.reports.verdicts import POSITIVE
from instructrl.reports.verdicts import Verdict

QUANTITIES = {
  'score': 'mean score',
  'nll': 'loss a token',
  'naive_bayes': 'positive answers by naive Bayes',
  'lexicon': 'positive answers by a lexicon',
}


def check(held: Mapping, policies: ShownPolicies) -> list[Verdict]:
  """Checks differences on held-out data; what was not measured has no row.

  Args:
    held: results of the evaluation.
    policies: names of the policies.
  """

  def row(topic, statement, quantity, summary, region, unit):
    return verdicts.make_row(
      topic, statement, verdicts.NO_NUMBER, quantity, summary, region, unit
    )

  def compare(topic, measure, left, right, claim, region, unit):
    name = policies.label
    return row(
      topic,
      f'{name(left)} has {claim} than {name(right)}',
      f'{QUANTITIES[measure]}, {name(left)} minus {name(right)}',
      verdicts.get(held, measure, 'difference', left, right),
      region,
      unit,
    )

  rows = [
    row(
      'Reward model',
      f'The reward model orders held-out responses ({data_set}) better than '
      f'“{other}”',
      f'accuracy, reward model minus {other}',
      difference,
      POSITIVE,
      'points',
    )
    for data_set, part in held.get('accuracy', {}).items()
    for other, difference in part['difference'].items()
  ]
  for topic, measure, claim, unit in (
    ('Reward', 'score', 'a higher reward-model score on held-out prompts', ''),
    *(
      ('Outside judges', judge, f'more {QUANTITIES[judge]}', 'points')
      for judge in ('naive_bayes', 'lexicon')
    ),
  ):
    differences = verdicts.get(held, measure, 'difference') or {}
    rows += [
      compare(topic, measure, policy, 'sft', claim, POSITIVE, unit)
      for policy in differences
      if 'sft' in differences[policy]
    ]
  for left, right, claim, region in (
    ('ppo', 'sft', 'more loss on pretraining text', POSITIVE),
    ('ppo', 'ppo_init', 'more loss on pretraining text', POSITIVE),
    ('ppo_ptx', 'ppo', 'less loss on pretraining text', NEGATIVE),
    ('ppo_ptx', 'sft', 'less loss on pretraining text', NEGATIVE),
  ):
    if verdicts.get(held, 'nll', 'difference', left, right):
      tax = 'Alignment tax'
      rows.append(compare(tax, 'nll', left, right, claim, region, 'nats'))
  return rows
