"""Tests of the simulated users' prompts."""

import collections
import dataclasses
import json
import re

import numpy as np
import pytest

from instructrl.data import records
from instructrl.lab.marking.judge import assess
from instructrl.lab.people import forms
from instructrl.lab.people import solver
from instructrl.lab.people.prompts import cap_per_user
from instructrl.lab.people.prompts import dedup_long_prefix
from instructrl.lab.people.prompts import generate_gpt3_prompts
from instructrl.lab.people.prompts import generate_prompts
from instructrl.lab.people.prompts import LABELER_SHARE
from instructrl.lab.people.prompts import MAX_PER_USER
from instructrl.lab.people.prompts import SPLITS
from instructrl.lab.people.prompts import USE_CASES
from instructrl.lab.world import specs
from instructrl.lab.world.facts import make_world


@pytest.fixture(scope='module')
def world():
  return make_world(0, 'tiny')


@pytest.fixture(scope='module')
def prompts(world):
  return generate_prompts(world, 3000, seed=1)


def _prompt(text, user='u'):
  return records.Prompt(
    id='x', text=text, user=user, use_case='chat', split='train'
  )


def test_same_seed_same_prompts_and_another_seed_others(world, prompts):
  again = generate_prompts(world, 3000, seed=1)
  other = generate_prompts(world, 3000, seed=2)
  assert again == prompts
  assert {p.text for p in other} != {p.text for p in prompts}


def test_proportions_are_those_of_table_1(prompts):
  counts = collections.Counter(p.use_case for p in prompts)
  assert set(counts) == set(USE_CASES)
  for use_case, percent in USE_CASES.items():
    # The table adds to 99.9%.
    assert counts[use_case] == pytest.approx(30 * percent, abs=2)


def test_splits_share_no_user_and_no_text(prompts):
  users, texts = collections.defaultdict(set), collections.defaultdict(set)
  for prompt in prompts:
    if prompt.user:  # labelers' prompts have none
      users[prompt.split].add(prompt.user)
    texts[prompt.split].add(prompt.text.lower())
  names = list(SPLITS)
  assert set(users) == set(names)
  for i, a in enumerate(names):
    for b in names[i + 1 :]:
      assert not users[a] & users[b]
      assert not texts[a] & texts[b]
  counts = collections.Counter(p.split for p in prompts)
  for name, share in SPLITS.items():
    assert counts[name] / len(prompts) == pytest.approx(share, abs=0.04)


def test_users_are_unequal_and_capped(prompts):
  counts = sorted(
    collections.Counter(p.user for p in prompts if p.user).values()
  )
  assert counts[-1] <= MAX_PER_USER
  assert counts[-1] > 10 * counts[len(counts) // 2]


def test_ids_are_unique_and_specs_are_readable_json(prompts):
  assert len({p.id for p in prompts}) == len(prompts)
  for prompt in prompts:
    assert specs.parse_spec(prompt.spec).to_json() == prompt.spec
    assert set(json.loads(prompt.spec)) == {
      'task',
      'args',
      'constraints',
      'passage',
      'source',
      'form',
    }


def test_every_task_and_constraint_of_the_size_occurs(prompts):
  read = [specs.parse_spec(p.spec) for p in prompts]
  assert {s.task for s in read} == set(specs.TASKS) - {
    'copy',
    'pick',
    'polite',
    'reword',
  }
  kinds = {c.kind for s in read for c in s.constraints}
  assert kinds == set(specs.CONSTRAINTS) - {'avoid', 'capitals'}
  constrained = sum(bool(s.constraints) for s in read) / len(read)
  assert 0.3 < constrained < 0.55


def test_sources_and_forms(prompts):
  read = [(p, specs.parse_spec(p.spec)) for p in prompts]
  sources = collections.Counter(s.source for _, s in read)
  assert set(sources) == set(specs.SOURCES)
  labelers = 1 - sources['customer'] / len(read)
  assert labelers == pytest.approx(LABELER_SHARE, abs=0.03)
  for prompt, spec in read:
    assert bool(prompt.user) == (spec.source == 'customer')
    assert prompt.split != 'test' or prompt.user
    if spec.source == 'plain':
      assert spec.form == 'instruction'
    assert spec.source != 'few_shot' or spec.form == 'few_shot'
  shares = collections.Counter(s.form for _, s in read)
  assert set(shares) == set(specs.FORMS)
  assert shares['instruction'] > 0.75 * len(read)


def test_forms_are_answered_and_marked(world):
  """A perfect answer to examples and to a begun text has the best grade."""
  rng = np.random.default_rng(0)
  for use_case, by_form in forms.WRITERS.items():
    for form in by_form:
      for _ in range(20):
        text, spec = forms.write(world, rng, use_case, form)
        assert text == text.strip() and len(text.split()) < 40
        prompt = _prompt(text)
        prompt = dataclasses.replace(prompt, spec=spec.to_json())
        answer = solver.solve(world, prompt, rng)
        assert assess(world, prompt, answer).task_done > 0.7
  assert forms.write(world, rng, 'chat', 'few_shot') is None


def test_prompts_to_gpt3_instruct_less(world, prompts):
  made = generate_gpt3_prompts(world, 300, 1, prompts)
  assert made == generate_gpt3_prompts(world, 300, 1, prompts)
  assert len(made) == 300 == len({p.id for p in made})
  texts = {p.text.lower() for p in made}
  assert len(texts) == 300 and not texts & {p.text.lower() for p in prompts}
  read = [specs.parse_spec(p.spec) for p in made]
  assert np.mean([s.form == 'instruction' for s in read]) < 0.6
  assert {s.form for s in read} == set(specs.FORMS)


def test_a_twentieth_asks_for_rudeness(prompts):
  asked = sum(specs.parse_spec(p.spec).task == 'insult' for p in prompts)
  assert 0.03 < asked / len(prompts) < 0.07


def test_prompts_are_short_enough(prompts):
  longest = max(len(re.findall(r'\w+|[^\w\s]|\n', p.text)) for p in prompts)
  assert longest <= 52  # leaves room for the role tokens in 56


def test_larger_worlds_ask_for_more():
  world = make_world(0, 'small')
  read = [
    specs.parse_spec(p.spec) for p in generate_prompts(world, 1500, seed=0)
  ]
  assert {s.task for s in read} == set(specs.TASKS)
  assert {c.kind for s in read for c in s.constraints} == set(specs.CONSTRAINTS)
  assert not any('by_kind' in s.args for s in read)


def test_too_many_prompts_is_an_error():
  world = make_world(0, 'micro')
  with pytest.raises(ValueError, match='fewer than 20000 different prompts'):
    generate_prompts(world, 20000, seed=0)


def test_dedup_drops_a_shared_beginning_only_if_it_is_long():
  texts = [
    'abcdef one',
    'abcdef two',
    'ABCDEF three',
    'abcde',
    'abcde ',
    'xabcdef',
  ]
  kept = dedup_long_prefix([_prompt(t) for t in texts], 6)
  assert [p.text for p in kept] == ['abcdef one', 'abcde', 'xabcdef']
  kept = dedup_long_prefix([_prompt(t) for t in texts], 8)
  # 'ABCDEF th...' begins like 'abcdef tw...'; 'abcde ' equals 'abcde'.
  assert len(kept) == 4
  with pytest.raises(ValueError, match='min_chars'):
    dedup_long_prefix([], 0)


def test_cap_keeps_the_first_of_each_user():
  prompts = [_prompt(str(i), user='ab'[i % 2]) for i in range(6)]
  kept = cap_per_user(prompts, 2)
  assert [p.text for p in kept] == ['0', '1', '2', '3']
  with pytest.raises(ValueError, match='cap'):
    cap_per_user(prompts, 0)


def test_the_specification_refuses_what_it_does_not_know(prompts):
  spec = specs.parse_spec(prompts[0].spec)
  with pytest.raises(ValueError, match='unknown task'):
    specs.parse_spec(dataclasses.replace(spec, task='dance').to_json())
  with pytest.raises(ValueError, match='unknown constraint'):
    specs.parse_spec(
      dataclasses.replace(
        spec, constraints=(specs.Constraint('rhyme'),)
      ).to_json()
    )
  with pytest.raises(ValueError, match='not the specification'):
    specs.parse_spec('')
