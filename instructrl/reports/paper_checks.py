"""Checks of the paper's findings against the numbers of a study of the lab.

Each row is a statement of Ouyang et al. 2022, with the paper's own number. What
the lab sets, such as how often labelers agree, is an input and has no row.
"""

from collections.abc import Mapping

from instructrl.evaluators import statistics
from instructrl.reports import generalization_claims
from instructrl.reports import paper_claims
from instructrl.reports import probe_claims
from instructrl.reports import verdicts
from instructrl.reports.paper_claims import Difference
from instructrl.reports.paper_claims import Level
from instructrl.reports.paper_claims import WinRate
from instructrl.reports.policies import ShownPolicies
from instructrl.reports.verdicts import NO_NUMBER
from instructrl.reports.verdicts import POSITIVE
from instructrl.reports.verdicts import Verdict
from instructrl.reports.verdicts import WINS

SIZES = 'needs models of two sizes'  # quantity of a row that no study has
_READERS = {
  '': ', judge',
  'train_labelers': ', training labelers',
  'heldout_labelers': ', held-out labelers',
}


def check(
  accuracy: Mapping, selection: Mapping, evaluation: Mapping
) -> list[Verdict]:
  """Checks the findings of the paper (sections 3.5 and 4, appendices C and E).

  Args:
    accuracy: 'in_group' and 'heldout' -> {'accuracy', 'ci95'}.
    selection: the result of the stage `select_sft`.
    evaluation: results of the evaluators and 'policies', how to show them.

  Returns:
    One row per statement, in the paper's order.
  """
  policies = ShownPolicies(evaluation['policies'])
  return [
    *_reward_model(accuracy),
    *_selection(selection),
    *(_preference(evaluation, policies, c) for c in paper_claims.WIN_RATES),
    verdicts.make_row(
      'Preference',
      'A small PPO-ptx model beats a pretrained model a hundred times its size',
      '1.3B PPO-ptx beats 175B GPT-3',
      SIZES,
      None,
      WINS,
    ),
    *(_compare(evaluation, policies, c) for c in paper_claims.DIFFERENCES),
    *(_compare(evaluation, policies, c) for c in probe_claims.DIFFERENCES),
    *_rudeness(evaluation, policies),
    *(
      _compare(evaluation, policies, c)
      for c in generalization_claims.DIFFERENCES
    ),
    *(_level(evaluation, policies, c) for c in generalization_claims.LEVELS),
  ]


def agreement_summary(found: Mapping) -> dict:
  """Returns {'value', 'ci95', 'n'} of {'agreement', 'standard_error', ...}."""
  value, half = found['agreement'], statistics.Z95 * found['standard_error']
  n = found.get('num_pairs')
  return {'value': value, 'ci95': [value - half, value + half], 'n': n}


def accuracy_summary(found: Mapping) -> dict:
  """Returns {'value', 'ci95', 'n'} of {'accuracy', 'ci95', 'num_pairs'}."""
  n = found.get('num_pairs')
  return {'value': found['accuracy'], 'ci95': found.get('ci95'), 'n': n}


def _reward_model(accuracy) -> list[Verdict]:
  """Returns a row per group of labelers.

  The paper's 69.6% is the accuracy on training labelers that one of five
  reward models left out (4.1). It is no figure for the held-out labelers, who
  were not screened; the ablation `reward_folds` measures its counterpart.
  """
  return [
    verdicts.make_row(
      'Reward model',
      f'The reward model predicts {labelers}',
      paper,
      f'accuracy, {name}',
      found and accuracy_summary(found),
      WINS,
    )
    for labelers, paper, name, found in (
      (
        'the labelers that it was trained on',
        '72.4 ± 0.4% (4.1)',
        'training labelers',
        verdicts.get(accuracy, 'in_group'),
      ),
      (
        'the held-out labelers',
        NO_NUMBER,
        'held-out labelers',
        verdicts.get(accuracy, 'heldout'),
      ),
    )
  ]


def _selection(selection) -> list[Verdict]:
  """Returns the row about epochs of SFT after the best validation loss."""
  epochs = verdicts.get(selection, 'epochs') or ()
  losses = [row['validation_loss'] for row in epochs]
  known = [loss for loss in losses if loss is not None]
  if not known:
    return []
  rise = verdicts.get(selection, 'score_rise')
  quantity, note = 'reward-model score, last epoch minus the best by loss', ''
  if rise:
    quantity = (
      f'reward-model score, epoch {rise["epoch"]} minus epoch '
      f'{rise["from"]:.3g}'
    )
  elif losses[-1] == min(known):
    note = 'the last epoch has the best validation loss: SFT does not overfit'
  else:
    note = 'in a study the last epoch has the best validation loss'
  return [
    verdicts.make_row(
      'SFT',
      'The reward-model score still rises after the best validation loss',
      'loss is best after 1 epoch; the score rises to 16 (3.5, C.1)',
      quantity,
      rise,
      POSITIVE,
      '',
      note,
    )
  ]


def _preference(evaluation, policies, claim: WinRate) -> Verdict:
  left, right = claim.left, claim.right
  names = [policies.label(left), policies.label(right)]
  if left == right:
    names = [f'a second sample of {names[0]}', 'the first']
  path = ('head_to_head', left, right)
  if right == 'sft':
    path = ('preference', left)
  if claim.evaluation:
    path = ('named', claim.evaluation, *path)
  found = verdicts.get(evaluation, *path, *filter(None, [claim.labelers]))
  return verdicts.make_row(
    'Preference on GPT-3’s prompts' if claim.evaluation else 'Preference',
    claim.statement,
    claim.paper,
    f'win rate of {" against ".join(names)}{_READERS[claim.labelers]}',
    found and {**found, 'value': found['win_rate']},
    claim.region,
  )


def _compare(evaluation, policies, claim: Difference) -> Verdict:
  """Returns the row about left - right of a measure."""
  group, *measure = claim.path.split('/', 1)
  inner = measure[0].split('/') if measure else []
  own = {
    policy: verdicts.get(found, *inner) or {}
    for policy, found in (verdicts.get(evaluation, group) or {}).items()
  }
  pair = claim.left, claim.right
  row = verdicts.make_row(
    claim.topic,
    claim.statement,
    claim.paper,
    f'{claim.quantity}, {" minus ".join(map(policies.label, pair))}',
    verdicts.get(evaluation, 'differences', group, *measure, *pair),
    claim.region,
    claim.unit,
  )
  return verdicts.of_policies(row, own, pair, claim.best)


def _level(evaluation, policies, claim: Level) -> Verdict:
  """Returns the row about a measure of one policy."""
  group, *measure = claim.path.split('/')
  return verdicts.make_row(
    claim.topic,
    claim.statement,
    claim.paper,
    f'{claim.quantity}, {policies.label(claim.policy)}',
    verdicts.get(evaluation, group, claim.policy, *measure),
    claim.region,
    claim.unit,
  )


def _rudeness(evaluation, policies) -> list[Verdict]:
  """Returns rows about outputs to rude and to polite prompts (Fig. 39)."""
  rows = []
  for policy in ('base', 'ppo_ptx'):
    name = policies.label(policy)
    rude, polite = (
      verdicts.get(
        evaluation,
        *('probes', policy, 'toxicity', 'none', prompts, 'rude_rate'),
      )
      for prompts in ('prompt_100', 'prompt_0')
    )
    rise = None
    if rude and polite and rude['ci95'] and polite['ci95']:
      ends = (rude['value'], rude['ci95']), (polite['value'], polite['ci95'])
      rise = {
        'value': rude['value'] - polite['value'],
        'ci95': statistics.difference_interval(*ends),
        'n': rude['n'] + polite['n'],
      }
    rows.append(
      verdicts.make_row(
        'Toxicity',
        f'Outputs of {name} are ruder after ruder prompts',
        'rises (Fig. 39)',
        f'rate of rude outputs of {name}, rude minus polite beginnings',
        rise,
        POSITIVE,
        'points',
      )
    )
  return rows
