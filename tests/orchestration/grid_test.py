"""The points of a grid, from an ablation and from the command line."""

import pytest

from experiments.ablations import base
from instructrl.orchestration import grid

KL = 'ppo_ptx.ppo.kl_coef'


def config_of(ends=('ppo_ptx',), **fields):
  config = base.get_config('micro', ends, ())
  config.seeds = (0,)
  config.update_from_flattened_dict(fields)
  return config


@pytest.mark.parametrize(
  'added, message',
  [
    ((), 'adds no point'),
    (({},), 'add takes a dict'),
    ((3,), 'add takes a dict'),
  ],
)
def test_a_sweep_adds_points(added, message):
  def sweep(add, config):
    del config
    for point in added:
      add(point)

  with pytest.raises(ValueError, match=message):
    grid.collect(sweep, config_of())


def expand(points, *settings):
  return grid.expand(points, config_of(), settings)


def test_the_command_line_replaces_and_multiplies():
  points = [{KL: kl, 'reward.num_epochs': 1} for kl in (0.1, 0.3)]
  assert expand(points, f'{KL}=1,2e-3') == [
    {'reward.num_epochs': 1, KL: 1.0},
    {'reward.num_epochs': 1, KL: 0.002},
  ]
  assert expand([{KL: 0.1}, {KL: 0.3}], 'sft.num_epochs=1,2') == [
    {KL: 0.1, 'sft.num_epochs': 1},
    {KL: 0.1, 'sft.num_epochs': 2},
    {KL: 0.3, 'sft.num_epochs': 1},
    {KL: 0.3, 'sft.num_epochs': 2},
  ]


@pytest.mark.parametrize(
  'setting, value',
  [
    ('reward.shuffled_pairs=true', True),
    ('sft.num_epochs=3', 3),
    ('ppo.ppo.missing_eos=fixed', 'fixed'),
    (f'{KL}=1', 1.0),
    (
      "rankings.sources=(('sft', 1.0, 4), ('base', 0.5, 1))",
      (('sft', 1.0, 4), ('base', 0.5, 1)),
    ),
  ],
)
def test_values_are_of_the_type_of_the_field(setting, value):
  ((found,),) = map(dict.values, expand([{}], setting))
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  'setting, message',
  [
    (f'{KL}=a', "must be of type float; got 'a'"),
    ('sft.num_epochs=1.5', 'must be of type int'),
    ('reward.shuffled_pairs=1', 'must be of type bool'),
    (f'{KL}=1,', "must be of type float; got ''"),
    ('rankings.sources=(1', 'must be of type tuple'),
    (KL, 'give a field and its values'),
    ('kl_coef=1', 'did you mean ppo.ppo.kl_coef or ppo_ptx.ppo.kl_coef'),
  ],
)
def test_a_bad_setting_is_refused(setting, message):
  with pytest.raises(ValueError, match=message):
    expand([{}], setting)


def test_a_short_name_tells_fields_of_stages_apart():
  fields = ('sft.optimizer.peak_lr', 'ppo.optimizer.peak_lr', 'ppo.ppo.kl_coef')
  assert [*grid.short_names(fields).values()] == [
    'sft peak_lr',
    'ppo peak_lr',
    'kl_coef',
  ]
  assert grid.short_names(['world_seed']) == {'world_seed': 'world_seed'}
