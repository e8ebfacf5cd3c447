import pytest

from instructrl.stages import select_sft


def table(*losses):
  return [
    {'epoch': i, 'validation_loss': loss} for i, loss in enumerate(losses, 1)
  ]


def test_the_rise_is_from_the_best_loss_to_the_last_epoch():
  """The prompts differ far more than the epochs; the difference is paired."""
  scores = {1: [0.0, 9.0], 2: [1.0, 10.0], 3: [3.0, 12.0]}
  found = select_sft.score_rise(table(2.0, 1.0, 1.5), scores, seed=0)
  assert (found['from'], found['epoch'], found['n']) == (2, 3, 2)
  assert found['value'] == pytest.approx(2.0)
  assert found['ci95'] == pytest.approx([2.0, 2.0])


def test_no_epoch_after_the_best_loss_is_no_rise():
  scores = {1: [0.0, 1.0], 2: [1.0, 2.0]}
  assert select_sft.score_rise(table(2.0, 1.0), scores, seed=0) is None
  assert select_sft.score_rise(table(None, None), scores, seed=0) is None
