"""FLOP counts, compared with a count of every pair of tokens."""

import pytest

from instructrl.planning import flops
from tests import tiny

# Weights of a layer of the tiny model: projections and MLP.
LAYER = 2 * (4 * 32 * 32 + 2 * 32 * 128)


def pairs(length, window=0, before=0):
  """Counts pairs of a token and a token that it attends to."""
  return sum(
    min(before + i, window or before + i) for i in range(1, length + 1)
  )


def test_a_forward_pass_is_counted():
  m = tiny.model().module
  attention = 4 * 32 * pairs(9)  # a multiply-add for the logit, one for the sum
  assert flops.forward(m, 9, 9) == 2 * (9 * LAYER + attention)
  assert flops.forward(m, 18, 9, 5) == (
    4 * (9 * LAYER + attention) + 2 * 32 * 50 * 5
  )


@pytest.mark.parametrize(
  'mlp, matrices', [('gelu', 2), ('gelu_exact', 2), ('swiglu', 3), ('geglu', 3)]
)
def test_a_gate_is_one_more_matrix(mlp, matrices):
  more = flops.forward(tiny.model(mlp=mlp).module, 1, 1) - flops.forward(
    tiny.model().module, 1, 1
  )
  assert more == 2 * 2 * (matrices - 2) * 32 * 128


@pytest.mark.parametrize('window', [1, 3, 9, 12, 40])
@pytest.mark.parametrize('before', [0, 2, 11])
def test_a_window_is_seen_and_no_more(window, before):
  m = tiny.model(windows=(window, 0)).module
  expected = 2 * 9 * LAYER + 4 * 32 * (
    pairs(9, window, before) + pairs(9, 0, before)
  )
  assert flops.forward(m, 9, 9, before=before) == pytest.approx(expected)


@pytest.mark.parametrize('windows', [(), (4,)])
def test_responses_of_a_ranking_see_the_prompt(windows):
  m = tiny.model(windows=windows).module
  window = sum(windows)
  seen = pairs(6, window) + 3 * pairs(5, window, before=6)
  assert flops.ranking_trained(m, 6, [5] * 3) / 3 == pytest.approx(
    2 * ((6 + 3 * 5) * LAYER + 4 * 32 * seen)
  )


def test_a_backward_pass_is_twice_a_forward_pass():
  m = tiny.model().module
  assert flops.trained(m, 18, 9, 5) == 3 * flops.forward(m, 18, 9, 5)


def test_what_is_frozen_has_no_backward_pass():
  """A tied unembedding keeps only the gradient of its inputs."""
  layers, logits = flops.forward(tiny.model().module, 18, 9), 2 * 32 * 50 * 5
  for tied, products in ((True, 1), (False, 2)):
    m = tiny.model(frozen_layers=1, tie_embeddings=tied).module
    assert flops.trained(m, 18, 9, 5) == pytest.approx(
      layers + logits + 2 * layers / 2 + products * logits
    )
