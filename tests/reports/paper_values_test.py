"""The paper's numbers in the claims are those that are drawn."""

import re

import pytest

from instructrl.reports import paper_claims
from instructrl.reports import paper_values
from instructrl.reports import probe_claims


def _drawn(claim) -> dict:
  """Returns policy -> the paper's values of the claim's measure."""
  if isinstance(claim, paper_claims.WinRate):
    tables = paper_values.WIN_RATES, paper_values.GPT3_WIN_RATES
    return tables[bool(claim.evaluation)].get(claim.labelers, {})
  tables = {
    'probes': paper_values.PROBES,
    'metadata': paper_values.METADATA,
    'likert': {'': paper_values.LIKERT},
  }
  group, _, measure = claim.path.partition('/')
  return tables.get(group, {}).get(measure, {})


CASES = [
  (claim, policy, _drawn(claim)[policy][-1])
  for claim in (
    *paper_claims.WIN_RATES,
    *paper_claims.DIFFERENCES,
    *probe_claims.DIFFERENCES,
  )
  for policy in (claim.left, claim.right)
  if policy in _drawn(claim)
  # A win rate is printed for the left one, and some findings have no number.
  and (policy == claim.left or not isinstance(claim, paper_claims.WinRate))
  and re.search(r'\d', re.sub(r'\(.*\)', '', claim.paper))
  # Other people's ratings than those that are drawn.
  and not re.search(r'Fig\. [57]\b', claim.paper)
]


@pytest.mark.parametrize(
  'claim, policy, value',
  CASES,
  ids=[f'{claim.statement}-{policy}' for claim, policy, _ in CASES],
)
def test_a_claim_has_the_value_that_is_drawn(claim, policy, value):
  """As a fraction or as per cent, rounded as the claim has it."""
  found = [float(x) for x in re.findall(r'\d*\.?\d+', claim.paper)]
  assert any(abs(x - value) < 6e-3 or abs(x - 100 * value) < 0.6 for x in found)


def test_most_claims_have_numbers():
  assert len(CASES) > 50
