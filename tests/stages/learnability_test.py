"""The learnability door: what it asks, and the table it prints."""

import numpy as np
import pytest

from instructrl.evaluators.results import TAX_MEASURES
from instructrl.lab import probes as probes_lib
from instructrl.lab.people import solver
from instructrl.lab.people.prompts import generate_prompts
from instructrl.lab.world.facts import make_world
from instructrl.stages import learnability

TASKS = [task for task in TAX_MEASURES if task != 'nll']


class Oracle:
  """Knows every answer; `right` of ten questions it answers rightly."""

  name = 'oracle'

  def __init__(self, probes, right=10):
    everything = [p for name in TASKS for p in probes[name]]
    self._answers = {p.context: p.answers[0] for p in everything}
    self._options = {
      (p.context, f' {o}'): float(o in p.answers)
      for p in everything
      for o in p.options
    }
    self._right = right

  def complete(self, texts, **kwargs):
    return [
      f' {self._answers[t]}\nmore' if i % 10 < self._right else 'zzz'
      for i, t in enumerate(texts)
    ]

  def logprobs(self, contexts, continuations):
    sums = [self._options[pair] for pair in zip(contexts, continuations)]
    return np.asarray(sums), np.ones(len(sums))


def make_probes():
  world = make_world(0, 'micro')
  return world, probes_lib.make_probes(world, 0, 20)


def test_an_oracle_gets_everything_right():
  world, probes = make_probes()
  found, counts = learnability.probe_rates(Oracle(probes), probes, world)
  assert {name: counts[name] for name in TASKS} == {
    name: len(probes[name]) for name in TASKS
  }
  assert found == pytest.approx(dict.fromkeys(found, 1.0))
  assert 0 < counts['reading: absent'] < counts['reading']


def test_half_right_is_half():
  world, probes = make_probes()
  found, _ = learnability.probe_rates(Oracle(probes, right=5), probes, world)
  assert found['facts'] == found['reading'] == 0.5


def test_instructions_are_graded_by_use_case():
  world, _ = make_probes()
  prompts = generate_prompts(world, 60, 0)

  class Solver:
    def respond(self, texts, *, temperature, seed):
      assert temperature == 0.0
      draw = np.random.default_rng(seed)
      return [solver.solve(world, p, draw) for p in prompts]

  class Mute:
    def respond(self, texts, **kwargs):
      return [''] * len(texts)

  good, counts = learnability.instruction_rates(Solver(), world, prompts, 0)
  assert counts['all tasks'] == len(prompts)
  assert 0 < counts['constraints'] < len(prompts)
  assert good['all tasks'] > 0.95 and good['constraints'] > 0.95
  assert (
    learnability.instruction_rates(Mute(), world, prompts, 0)[0]['all tasks']
    == 0
  )
  assert set(good) - {'all tasks', 'constraints'} == {
    p.use_case for p in prompts
  }


def test_the_table_says_what_is_learned():
  text = learnability.table(
    't',
    ['1M', '2M'],
    {'facts': [0.5, 0.81], 'reading': [0.9, 0.8]},
    {'facts': 1000, 'reading': 50},
  )
  assert text.splitlines() == [
    '| t | 1M | 2M | of | learned |',
    '|---|---|---|---|---|',
    '| facts | 50 | 81 | 1,000 | yes |',
    '| reading | 90 | 80 | 50 | no |',
  ]


def test_the_table_says_what_has_room():
  rows = {'facts': [0.97], 'reading': [0.6], 'summary': [0.61]}
  text = learnability.table(
    't', ['1M'], rows, dict.fromkeys(rows, 9), learnability.ROOM
  )
  assert [line.split('|')[-2].strip() for line in text.splitlines()] == [
    'has room',
    '---',
    'no',
    'no',
    'yes',
  ]
