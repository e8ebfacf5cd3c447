"""Samples on a page: all of them, by use case, with the best answer marked."""

import pytest

from instructrl.reports import samples_page
from instructrl.reports.policies import ShownPolicies

TABLE = {
  'base': {'label': 'pretrained', 'color': '#8c8c8c', 'order': 0},
  'sft': {'label': 'SFT', 'color': '#56b4e9', 'order': 3},
  'ppo': {'label': 'PPO', 'color': '#d55e00', 'order': 4},
}
POLICIES = ShownPolicies(TABLE)


def sample(i, utility=(0.0, 0.5, 0.5), win=1.0, **others):
  return {
    'kind': 'preference',
    'eval': 'preference',
    'use_case': ('chat', 'open_qa')[i % 2],
    'prompt': f'prompt {i}',
    'policies': {
      name: {'response': f'{name} {i}', 'utility': value, 'win': win}
      for name, value in zip(TABLE, utility)
    },
    **others,
  }


def test_every_sample_is_in_the_group_of_its_use_case():
  samples = [sample(i) for i in range(20)]
  samples.append(sample(20, eval='gpt3_prompts'))  # not the main evaluation
  found = samples_page.contents(samples, 1, POLICIES)
  assert (found['total'], found['shown'], found['whole']) == ('20', '20', True)
  assert list(found['groups']) == ['chat', 'open qa']
  prompts = [
    [card['prompt'] for card in cards] for cards in found['groups'].values()
  ]
  assert [len(group) for group in prompts] == [10, 10]
  assert sorted(sum(prompts, [])) == sorted(f'prompt {i}' for i in range(20))
  again = samples_page.contents(samples, 1, POLICIES)
  other = samples_page.contents(samples, 2, POLICIES)
  assert again == found and other['groups'] != found['groups']


def test_the_first_screen_has_the_start_the_reference_and_the_result():
  names = ('base', 'other', 'sft', 'ppo', 'ppo_ptx')
  policies = {n: {'response': n, 'metadata': {'lies': 1}} for n in names}
  shown = ShownPolicies({n: {'order': i} for i, n in enumerate(names)})
  found = samples_page.contents([sample(0, policies=policies)], 0, shown)
  answers = found['first']['answers']
  assert [x['response'] for x in answers] == ['base', 'sft', 'ppo_ptx']
  assert not any(x['flags'] for x in answers)
  (card,) = found['groups']['chat']
  assert [x['response'] for x in card['answers']] == list(names)


@pytest.mark.parametrize(
  'utility, best',
  [
    ((0.0, 0.5, 0.2), ['SFT']),
    ((0.0, 0.5, 0.5), ['SFT', 'PPO']),
    ((0.5, 0.5, 0.5), []),
  ],
)
def test_the_best_answers_are_marked(utility, best):
  found = samples_page.contents([sample(0, utility)], 0, POLICIES)
  (card,) = found['groups']['chat']
  assert [x['name'] for x in card['answers'] if x['best']] == best


@pytest.mark.parametrize(
  'win, outcome',
  [
    (1.0, 'PPO preferred to SFT'),
    (0.5, 'a tie'),
    (0.0, 'SFT preferred to PPO'),
  ],
)
def test_cards_can_be_filtered_by_their_outcome(win, outcome):
  found = samples_page.contents([sample(0, win=win)], 0, POLICIES)
  assert found['outcomes'] == [outcome]


def test_long_samples_do_not_fill_the_page(monkeypatch):
  monkeypatch.setattr(samples_page, 'MOST_BYTES', 2000)
  samples = [sample(i, prompt='x' * 400) for i in range(20)]
  found = samples_page.contents(samples, 0, POLICIES)
  assert found['total'] == '20' and 1 < int(found['shown']) < 5
  assert not found['whole']
  monkeypatch.setattr(samples_page, 'MOST_BYTES', 10)
  assert samples_page.contents(samples, 0, POLICIES)['shown'] == '1'
