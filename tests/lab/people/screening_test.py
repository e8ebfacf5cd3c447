"""Tests of the screening of candidates."""

import dataclasses

import numpy as np

from instructrl.lab.people import labelers
from instructrl.lab.people import screening
from instructrl.lab.people.screening import Scores
from instructrl.lab.world.facts import make_world


def test_who_passes_most_is_chosen_then_who_scores_best():
  scores = [
    Scores(0.9, 0.8, 5.0),  # misses one cut-off
    Scores(0.8, 0.8, 6.5),
    Scores(0.7, 0.7, 7.0),  # misses two
    Scores(1.0, 0.9, 6.5),
    Scores(1.0, 1.0, 5.9),  # misses one, better than the first
  ]
  choose = lambda count: screening.choose('abcde', scores, count)
  assert choose(1) == ['d'] and choose(2) == ['b', 'd']
  assert choose(3) == ['b', 'd', 'e']  # the cut-offs are soft
  assert choose(5) == list('abcde')


def test_careful_candidates_score_better():
  world = make_world(0, 'tiny')
  everybody = [
    labelers._draw(world, 0, 'train', f'candidate-{i}') for i in range(30)
  ]
  found = screening.screen(world, everybody, labelers.RESEARCHERS, 0)
  assert found == screening.screen(world, everybody, labelers.RESEARCHERS, 0)
  one = everybody[0]
  careless = dataclasses.replace(one, flag_noise=0.5, noise=1.0)
  good, bad = screening.screen(world, [one, careless], labelers.RESEARCHERS, 0)
  assert good.flags > bad.flags and good.rankings > bad.rankings + 0.1
  assert good.passed > bad.passed
  for score in found:
    assert 0 <= score.rankings <= 1 and 1 <= score.demonstrations <= 7
  chosen = screening.choose(range(30), found, 12)
  mean = lambda some: np.mean([found[i].total for i in some])
  assert mean(chosen) > mean(range(30)) + 0.05


def test_the_held_out_group_is_not_screened():
  world = make_world(0, 'micro')
  people = labelers.make_labelers(world, 0)
  heldout = [l for l in people if l.group == 'heldout']
  assert heldout == [
    labelers._draw(world, 0, 'heldout', f'heldout-{i}') for i in range(6)
  ]
  names = [l.name for l in people]
  assert names[:12] == [f'train-{i}' for i in range(12)]
