"""The points of a sweep, the runs they share, and the flags that give them."""

import os
import shlex

import pytest

from experiments.ablations import base
from experiments.ablations import kl_coef
from instructrl.orchestration import graph
from instructrl.runtime import files
from instructrl.stages import registry

KL = 'ppo_ptx.ppo.kl_coef'


def config_of(ends=('ppo_ptx',), seeds=(0,), **fields):
  config = base.get_config('micro', ends, ())
  config.seeds = seeds
  config.update_from_flattened_dict(fields)
  return config


def make(config, *points, workdir='/somewhere'):
  return graph.make(config, points, workdir)


def stages_of(sweep, stage):
  return [run for run in sweep.runs.values() if run.stage == stage]


def test_what_points_share_is_one_run():
  sweep = make(config_of(seeds=(0, 1)), {KL: 0.1}, {KL: 0.3})
  assert [
    len(stages_of(sweep, name))
    for name in (
      'lab',
      'pretrain',
      'sft',
      'ppo_init',
      'rankings',
      'reward',
      'ppo_ptx',
    )
  ] == [1, 1, 1, 1, 1, 1, 4]
  assert len(sweep.runs) == 10  # nothing that no point needs
  assert [(p.overrides[KL], p.seed) for p in sweep.points] == [
    (0.1, 0),
    (0.1, 1),
    (0.3, 0),
    (0.3, 1),
  ]
  for name, run in sweep.runs.items():  # those that others start from first
    before = list(sweep.runs)[: list(sweep.runs).index(name)]
    assert {*run.needs} <= {*before}


def test_what_comes_before_a_swept_stage_branches_with_it():
  sweep = make(
    config_of(), {'ppo_init.pretrain_mix': 0.0}, {'ppo_init.pretrain_mix': 0.5}
  )
  assert len(stages_of(sweep, 'ppo_init')) == 2
  assert len(stages_of(sweep, 'reward')) == 1
  one, two = stages_of(sweep, 'ppo_ptx')
  assert one.config.inputs.policy != two.config.inputs.policy
  assert {one.config.inputs.policy, two.config.inputs.policy} == {
    f'../{run.name}' for run in stages_of(sweep, 'ppo_init')
  }


def test_seeds_are_of_the_stages_that_are_seeded():
  config = config_of(seeds=(3, 4), train_seed=7, world_seed=2)
  config.seeded = ('reward', 'ppo_ptx')
  sweep = make(config, {KL: 0.1})
  assert [run.config.train_seed for run in stages_of(sweep, 'reward')] == [3, 4]
  assert [run.config.train_seed for run in stages_of(sweep, 'sft')] == [7]
  assert {run.config.world_seed for run in sweep.runs.values()} == {2}


def test_a_name_is_of_what_is_computed():
  """Not of how a run is watched; and of all that it was made from."""
  name = lambda **fields: make(config_of(**fields), {KL: 0.1}).points[0].runs
  first = name()
  assert first == name(
    **{'stages.ppo_ptx.log.every': 5, 'stages.sft.checkpoint.keep': 3}
  )
  other = name(**{'stages.pretrain.num_steps': 61})
  assert other['lab'] == first['lab']
  assert all(other[stage] != first[stage] for stage in first if stage != 'lab')


def test_the_references_of_a_stage_follow_a_point():
  (run,) = stages_of(
    make(config_of(), {'ppo_ptx.model.attention_block': 16}), 'ppo_ptx'
  )
  assert run.config.reference_model.attention_block == 16


def test_points_that_are_the_same_are_merged_and_told():
  sweep = make(config_of(), {KL: 0.3}, {KL: 0.1}, {'ppo_ptx.ppo.ptx_coef': 2.0})
  assert len(sweep.points) == 2 and len(stages_of(sweep, 'ppo_ptx')) == 2
  assert sweep.merged == [('ptx_coef=2.0, seed 0', 'kl_coef=0.3, seed 0')]


def test_a_stage_under_two_names_is_one_run():
  """As `candidate` of sft_epochs.py, where it has SFT's own epochs."""
  config = config_of(ends=('sft',))
  config.stages.other = config.stages.sft
  config.ends = ('sft', 'other')
  sweep = make(config, {'other.num_epochs': config.stages.sft.num_epochs})
  assert len(stages_of(sweep, 'sft')) == 1
  assert len(set(sweep.points[0].runs.values())) == 3


def test_a_given_folder_is_not_made(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = config_of(**{'given.reward': 'study/reward', 'given.lab': '/a/lab'})
  sweep = make(config, {KL: 0.1}, workdir='runs/sweep')
  assert {run.stage for run in sweep.runs.values()} == {
    'pretrain',
    'ppo_init',
    'ppo_ptx',
  }
  (run,) = stages_of(sweep, 'ppo_ptx')
  assert run.config.inputs.data == '/a/lab'
  folder = os.path.join('runs/sweep', run.name, run.config.inputs.reward_model)
  assert os.path.normpath(folder) == 'study/reward'


@pytest.mark.parametrize(
  'place, found',
  [
    ('../reward/checkpoints/00000009', '../reward-{}/checkpoints/00000009'),
    ('/elsewhere/reward', '/elsewhere/reward'),
    ('../../x', '../../x'),
  ],
)
def test_other_paths_of_inputs(place, found):
  config = config_of()
  reward = make(config, {KL: 0.1}).points[0].runs['reward'].split('-')[1]
  config.stages.ppo_ptx.inputs.reward_model = place
  sweep = make(config, {KL: 0.1})
  (run,) = stages_of(sweep, 'ppo_ptx')
  assert run.config.inputs.reward_model == found.format(reward)
  assert any('reward' in need for need in run.needs) == ('{}' in found)


@pytest.mark.parametrize(
  'fields, point, message',
  [
    (
      {},
      {'ppo_ptx.ppo.kl_coeff': 1.0},
      r"no field 'ppo_ptx.ppo.kl_coeff'; did you mean ppo_ptx.ppo.kl_coef",
    ),
    ({}, {'sft.peak_lr': 1.0}, 'did you mean sft.optimizer.peak_lr'),
    ({}, {'kl_coef': 1.0}, 'did you mean ppo.ppo.kl_coef or ppo_ptx.ppo.kl_co'),
    ({}, {'ppo_ptx.ppo': 1.0}, 'ppo_ptx.ppo is not one field but several'),
    ({}, {KL: 'much'}, 'kl_coef=.much., seed 0: .*kl_coef'),
    ({}, {'ppo_ptx.ppo.num_iterations': True}, 'num_iterations=True is no int'),
    ({}, {'ppo_ptx.ppo.whiten_advantages': 1}, 'advantages=1 is no bool'),
    ({}, {KL: -1.0}, 'kl_coef=-1.0, seed 0: stages.ppo_ptx: ppo.kl_coef=-1.0'),
    ({}, {'rankings.max_responses': 12}, 'rankings.max_responses=12 is more'),
    ({'seeds': (0, 0)}, {KL: 1.0}, r'seeds=\(0, 0\) has one twice'),
    ({'seeds': (-1,)}, {KL: 1.0}, 'seeds=.*-1 is not an integer of 0 or more'),
    ({'seeds': (0, 1), 'seeded': ()}, {KL: 1.0}, 'seeded is empty'),
    ({}, {'ppo_ptx.train_seed': 1}, 'train_seed: .* give --config.seeds'),
    ({'ends': ()}, {KL: 1.0}, 'ends is empty'),
    ({'given.ppo_ptx': '/x'}, {KL: 1.0}, "ends names 'ppo_ptx', which is no"),
    ({'plot.x': 'nothing'}, {KL: 1.0}, "no field 'nothing'. A field is"),
    ({'measures': (('a', 'reward', 'DONE', 'b'),)}, {KL: 1.0}, 'measures: '),
    ({'stages.sft.inputs.init': '../reward'}, {KL: 1.0}, 'in a circle: '),
    (
      {'stages.sft.inputs.init': '../other'},
      {KL: 1.0},
      "stages.sft.inputs.init=../other: no stage 'other' is run here",
    ),
  ],
)
def test_nonsense_is_refused_before_anything(fields, point, message):
  with pytest.raises(ValueError, match=message) as refused:
    make(config_of(**fields), point)
  assert '\n' not in str(refused.value)


def test_where_there_is_no_lab_its_folder_is_asked_for():
  config = kl_coef.get_config('1.3b')
  with pytest.raises(ValueError, match='--config.given.lab=PATH'):
    make(config, {KL: 0.1})
  config.given.lab, config.given.rankings = '/a/lab', '/a/rankings'
  sweep = make(config, {KL: 0.1})
  # The reward model is of 6B, and so is what it starts from.
  assert [
    (run.stage, run.config.size)
    for run in sweep.runs.values()
    if run.config.train_seed == 0
  ] == [
    ('pretrain', '1.3b'),
    ('ppo_init', '1.3b'),
    ('pretrain', '6b'),
    ('sft', '6b'),
    ('reward', '6b'),
    ('ppo_ptx', '1.3b'),
  ]


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
    graph.collect(sweep, config_of())


def expand(points, *settings):
  return graph.expand(points, config_of(), settings)


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
    (f'{KL}=a', "'a' is no float"),
    ('sft.num_epochs=1.5', 'is no int'),
    ('reward.shuffled_pairs=1', 'is no bool'),
    (f'{KL}=1,', "'' is no float"),
    ('rankings.sources=(1', 'is no tuple'),
    (KL, 'give a field and its values'),
    ('kl_coef=1', 'did you mean ppo.ppo.kl_coef or ppo_ptx.ppo.kl_coef'),
  ],
)
def test_a_bad_setting_is_refused(setting, message):
  with pytest.raises(ValueError, match=message):
    expand([{}], setting)


def test_flags_give_the_same_config_in_the_same_folder(tmp_path):
  config = config_of(
    seeds=(1,),
    **{
      'given.lab': '/a b/lab',
      'stages.ppo_ptx.log.every': 5,
      'stages.ppo_ptx.rules': (('layers', None), ('vocab', 'tensor')),
    },
  )
  sweep = make(
    config,
    {
      KL: 1e-05,
      'ppo_ptx.ppo.whiten_advantages': False,
      'ppo_ptx.reward_model.attention_block': 16,
    },
    workdir=tmp_path,
  )
  for name, run in sweep.runs.items():
    line = shlex.join(graph.arguments(run, tmp_path))
    argv = shlex.split(line)
    assert f'--workdir={tmp_path / name}' in argv
    read = graph.read_config(argv)
    registry.validate(read)
    assert files.fingerprint(read.to_dict()) == (
      files.fingerprint(run.config.to_dict())
    )
    assert name == f'{read.stage}-{graph.digest(read)}'


def test_a_field_that_the_experiment_lacks_is_no_flag():
  config = config_of(ends=('lab',))
  config.stages.lab.added = 1
  (run,) = make(config, {'lab.num_prompts': 5}).runs.values()
  with pytest.raises(ValueError, match="differ in whether .*'added'"):
    graph.arguments(run, '/x')


def test_lines_are_for_the_checkout(tmp_path, monkeypatch):
  run = next(iter(make(config_of(), {KL: 0.1}).runs.values()))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match='stand in the checkout'):
    graph.arguments(run, '/x')
