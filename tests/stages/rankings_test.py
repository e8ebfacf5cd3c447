"""Who is shown what, and what is recorded of it."""

import types

import numpy as np
import pytest

from experiments import rankings as rankings_experiment
from instructrl.data import store
from instructrl.data.records import Prompt
from instructrl.stages import checks
from instructrl.stages import rankings

NUM_SOURCES = 3
FIRST_PIECE = 100  # of the toy tokenizer: text, no special token


@pytest.fixture(name='config')
def _config():
  c = rankings_experiment.get_config('micro')
  c.sources = (('sft', 1.0, 2), ('base', 0.5, 1))
  c.min_responses, c.max_responses = 2, 4
  return c


def make_prompts(count):
  return [
    Prompt(
      id=str(i), text=f'prompt {i}', user='u', use_case='chat', split='train'
    )
    for i in range(count)
  ]


class FakePolicy:
  """Answers with a token that tells the row it is to draw with."""

  def __init__(self):
    self.tok = types.SimpleNamespace(
      response=lambda text: [len(text), 1],
      eos_id=1,
      decode=lambda ids: ' '.join(map(str, ids)),
    )

  def sample_tokens(self, prompts, *, temperature, seed, purpose, rows):
    assert len(prompts) == len(rows)
    return [[int(row) + FIRST_PIECE] for row in rows]


class FakeLabeler:
  name, group = 'train-0', 'train'

  def demonstrate(self, prompt, draw):
    return f'answer to {prompt.id}'

  def rank(self, prompt, responses, draw):
    order = np.argsort(np.argsort([len(r) for r in responses]))
    return tuple(order.tolist()), tuple({} for _ in responses)


def sample(config, prompts, wanted, first=0):
  policy = FakePolicy()
  return rankings.candidates(
    [(name, t, policy) for name, t, n in config.sources for _ in range(n)],
    prompts,
    wanted,
    [FakeLabeler()],
    config,
    first,
  )


def test_choose_draws_k_different_candidates(config):
  chosen = rankings.choose(config, 500, 'train', 'train')
  sizes = [len(numbers) for numbers in chosen]
  assert set(sizes) == {2, 3, 4}
  assert all(len(set(numbers.tolist())) == len(numbers) for numbers in chosen)
  assert set(np.concatenate(chosen).tolist()) == set(range(NUM_SOURCES + 1))
  again = rankings.choose(config, 500, 'train', 'train')
  assert all((a == b).all() for a, b in zip(chosen, again))


@pytest.mark.parametrize('other', [('heldout', 'train'), ('train', 'test')])
def test_choose_draws_anew_for_each_group_and_split(config, other):
  one = rankings.choose(config, 50, 'train', 'train')
  two = rankings.choose(config, 50, *other)
  assert any(a.tolist() != b.tolist() for a, b in zip(one, two))


def test_only_what_somebody_is_shown_is_sampled(config):
  wanted = [{0, 3}, set(), {1, 2}]
  pools = sample(config, make_prompts(3), wanted)
  assert [set(pool) for pool in pools] == wanted
  assert pools[0][3]['text'] == 'answer to 0'
  assert pools[0][3]['source'] == rankings.DEMONSTRATION
  assert (pools[2][2]['source'], pools[2][2]['temperature']) == ('base', 0.5)


def test_no_two_candidates_share_their_draws(config):
  everything = [range(NUM_SOURCES)] * 5
  pools = sample(config, make_prompts(5), everything)
  pools += sample(config, make_prompts(5), everything, first=5)
  rows = [c['tokens'] for pool in pools for c in pool.values()]
  assert len(set(rows)) == len(rows) == 10 * NUM_SOURCES


def test_a_candidate_does_not_depend_on_what_else_is_shown(config):
  prompts = make_prompts(4)
  all_of_them = sample(config, prompts, [range(NUM_SOURCES + 1)] * 4)
  few = sample(config, prompts, [{2}, set(), {0, 3}, {1}])
  for pool, full in zip(few, all_of_them):
    assert all(full[number] == c for number, c in pool.items())


def test_a_ranking_keeps_everything_in_the_order_shown(config):
  pool = sample(config, make_prompts(1), [range(NUM_SOURCES + 1)])[0]
  shown = [pool[c] for c in (3, 2, 0)]
  (prompt,) = make_prompts(1)
  tok = types.SimpleNamespace(prompt=lambda text, turns: [1, len(text), 5])
  ranking = rankings.rank(prompt, shown, FakeLabeler(), None, tok)
  assert ranking.prompt_tokens == (1, len(prompt.text), 5)
  assert ranking.responses == tuple(c['text'] for c in shown)
  assert ranking.response_tokens == tuple(c['tokens'] for c in shown)
  assert ranking.sources == ('demonstration', 'base', 'sft')
  assert ranking.temperatures == (0.0, 0.5, 1.0)
  assert (ranking.labeler, ranking.group) == ('train-0', 'train')


# --- The stage, with policies and labelers that are not real ------------------


class NamedLabeler(FakeLabeler):
  """Signs what it writes."""

  noise = 0.1

  def __init__(self, name, group):
    self.name, self.group = name, group

  def demonstrate(self, prompt, draw):
    return f'written by {self.name}'


@pytest.fixture(name='collected')
def _collected(config, workdir, study, tok, monkeypatch):
  """(split -> rankings, result, calls of what sets and measures noise)."""
  calls = []

  class Opener(rankings.policies.Opener):
    def __init__(self, config, workdir):
      self.config, self.tok, self.workdir = config, tok, workdir

    def __enter__(self):
      return self

    def __exit__(self, *error):
      pass

    def input(self, name):
      return study / name.replace('data', 'lab')

    def policy(self, name, response_len, *, step):
      policy = FakePolicy()
      policy.tok = tok
      return policy

  everybody = [
    NamedLabeler(f'{group}-{i}', group)
    for group in ('train', 'heldout')
    for i in range(3)
  ]

  def calibrate(world, labelers, shown):
    calls.append(('calibrate', [p.split for p, _ in shown]))
    return labelers

  def agreement(group, shown, seed):
    calls.append(('agreement', [p.split for p, _ in shown]))
    return 0.7, 0.01, 9

  monkeypatch.setattr(rankings.policies, 'Opener', Opener)
  monkeypatch.setattr(
    rankings.lab, 'load_world', lambda path: types.SimpleNamespace(seed=0)
  )
  monkeypatch.setattr(rankings.lab, 'load_labelers', lambda world: everybody)
  monkeypatch.setattr(rankings.labelers, 'calibrate_noise', calibrate)
  monkeypatch.setattr(rankings.labelers, 'agreement', agreement)
  config.num_prompts, config.num_validation, config.num_calibration = 12, 5, 3
  folder = workdir.parent / 'collected'
  result = rankings.run(config, folder)
  found = {
    split: list(store.read_records(folder, 'rankings', split))
    for split in ('train', 'validation')
  }
  return found, result, calls


def test_training_labelers_rank_and_both_groups_validate(collected):
  found, result, calls = collected
  assert result['rankings'] == {'train': 12, 'validation': 10}
  groups = lambda split: [r.group for r in found[split]]
  assert groups('train') == ['train'] * 12
  assert sorted(groups('validation')) == ['heldout'] * 5 + ['train'] * 5
  everything = found['train'] + found['validation']
  assert all(r.labeler.startswith(r.group) for r in everything)
  assert len({r.labeler for r in everything}) == 6
  # The noise is set on other prompts than those that it is measured on.
  assert calls == [
    ('calibrate', ['train'] * 3),
    ('agreement', ['validation'] * 3),
    ('agreement', ['validation'] * 3),
  ]


def test_demonstrations_are_written_by_training_labelers(collected):
  """A reward model must not learn from the labelers who judge it later."""
  found, _, _ = collected
  writers = {
    text
    for split in found.values()
    for r in split
    for text, source in zip(r.responses, r.sources)
    if source == rankings.DEMONSTRATION
  }
  assert writers == {f'written by train-{i}' for i in range(3)}


def test_no_two_prompts_of_a_stage_share_their_draws(collected):
  """Nor do those of training and of validation."""
  found, _, _ = collected
  drawn = {}
  for ranking in found['train'] + found['validation']:
    for tokens, source in zip(ranking.response_tokens, ranking.sources):
      if source != rankings.DEMONSTRATION:
        drawn.setdefault(tokens, set()).add(ranking.prompt.id)
  assert len(drawn) > 20
  assert all(len(prompts) == 1 for prompts in drawn.values())


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('max_responses', 5, 'max_responses=5 must be at most 4'),
    ('min_responses', 1, 'min_responses'),
    ('sources', (), 'sources is empty'),
    ('sources', (('nobody', 1.0, 4),), "'nobody'"),
    (
      'sources',
      (('sft', -1.0, 4),),
      "'sft' must be finite and 0 or more; got -1.0",
    ),
    ('sources', (('sft', float('inf'), 4),), '0 or more; got inf'),
    (
      'sources',
      (('sft', 'hot', 4),),
      "temperature of 'sft' must .*; got 'hot'",
    ),
    ('sources', (('sft', 1.0, 4.5),), "samples of 'sft' must .*; got 4.5"),
    (
      'sources',
      (('sft', 1.0),),
      r"sources must be \(input, .*; got \('sft', 1.0\)",
    ),
    ('sources', ('sft', 1.0, 4), r"sources must be \(input, .*; got 'sft'"),
    (
      'sources',
      (('sft', 1.0, 4), ('sft', 0.7, 0)),
      'must be an integer of 1 or more; got 0',
    ),
    *(
      (name, value, f'{name} must be at least 1; got {value}')
      for name in (
        'num_prompts',
        'num_validation',
        'num_calibration',
        'prompt_len',
        'response_len',
        'batch_size',
      )
      for value in (0, -1)
    ),
  ],
)
def test_bad_configs_are_refused(config, field, value, message):
  config[field] = value
  with pytest.raises(ValueError, match=message):
    rankings.validate(config)


def test_rounds_have_prompts_and_draws_of_their_own(config):
  prompts = make_prompts(30)
  opened = types.SimpleNamespace(
    config=config, prompts=lambda split, length: prompts
  )

  def of_round(first):
    config.first = {'train': first, 'validation': 0}
    chosen = rankings.choose(config, 10, 'train', 'train')
    return (
      rankings._prompts(opened, 'train', 10),
      [numbers.tolist() for numbers in chosen],
    )

  (one, drawn), (two, others) = of_round(0), of_round(10)
  assert one + two == prompts[:20]
  # The draws of a prompt depend on its place in the split alone.
  assert of_round(5)[1] == drawn[5:] + others[:5]
  with pytest.raises(checks.ConfigError, match='need 35 prompts .* are 30'):
    of_round(25)
