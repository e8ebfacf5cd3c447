"""Tests of the lab stage: who gets which prompts."""

import numpy as np
import pytest

from instructrl.lab.people.prompts import generate_prompts
from instructrl.lab.world.facts import make_world
from instructrl.lab.world.specs import parse_spec
from instructrl.stages import lab


def test_training_prompts_are_split_as_in_table_6():
  prompts = [
    p
    for p in generate_prompts(make_world(0, 'tiny'), 3000, 0)
    if p.split == 'train'
  ]
  shown, ranked, learned = lab.split_train(prompts, 0.1, 0.4)
  by_labeler = lambda part: np.mean(
    [parse_spec(p.spec).source != 'customer' for p in part]
  )
  assert len(shown) == round(0.1 * len(prompts))
  assert len(ranked) == round(0.4 * len(prompts))
  assert by_labeler(shown) == pytest.approx(0.89, abs=0.01)
  assert 0 < by_labeler(ranked) <= 0.21
  assert by_labeler(learned) == 0 and len(learned) > 0.4 * len(prompts)
  everything = [p.id for part in (shown, ranked, learned) for p in part]
  assert len(set(everything)) == len(everything)


def test_judge_and_evaluations_have_the_final_priorities():
  world = make_world(0, 'micro')
  training, final = lab.load_labelers(world), lab.final_labelers(world)
  assert [l.name for l in training] == [l.name for l in final]
  assert all(l.weights.obedience > 0 for l in training)
  assert all(l.weights.obedience == 0 for l in final)
