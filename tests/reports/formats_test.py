"""Numbers as people read them."""

import pytest

from instructrl.reports import formats


@pytest.mark.parametrize(
  'summary, unit, signed, text',
  [
    ({'value': 0.66, 'ci95': [0.61, 0.71]}, '%', False, '66.0% (61.0 to 71.0)'),
    ({'value': -0.1, 'ci95': None}, 'points', True, '−10.0 points'),
    ({'value': 4e-5}, 'nats', True, '+0.00004 nats'),
    ({'value': -1e-9}, 'nats', True, '+0.000000 nats'),
    ({'value': 0.0}, '', False, '0.000'),
    ({'value': None}, '%', False, '–'),
    ({}, 'bits', True, '–'),
  ],
)
def test_measured(summary, unit, signed, text):
  assert formats.measured(summary, unit, signed=signed) == text


def test_level_of_a_policy_beside_a_difference():
  assert formats.level(0.5714, 'points') == '57.1%'
  assert formats.level(0.95, 'bits') == '0.95'


@pytest.mark.parametrize(
  'seconds, text',
  [
    (7.4, '7 s'),
    (200, '3 min 20 s'),
    (7500, '2 h 5 min'),
    (3599.7, '1 h 0 min'),
  ],
)
def test_duration(seconds, text):
  assert formats.duration(seconds) == text


@pytest.mark.parametrize(
  'counts, text',
  [
    ([1500, 1500], 'n\xa0=\xa01,500'),
    ([3, 2, None], 'n\xa0=\xa02 to 3'),
    ([None], ''),
    ([], ''),
  ],
)
def test_count_items(counts, text):
  summaries = {str(i): {'n': n} for i, n in enumerate(counts)}
  assert formats.count_items(summaries) == text
