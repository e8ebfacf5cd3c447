"""Graphs of studies and sweeps: their nodes, names, order and checks."""

import os

import pytest

from experiments import study as study_config
from experiments.ablations import base
from experiments.ablations import kl_coef
from instructrl.orchestration import graph
from instructrl.runtime import run_folder

KL = 'ppo_ptx.ppo.kl_coef'


def config_of(ends=('ppo_ptx',), seeds=(0,), **fields):
  config = base.get_config('micro', ends, ())
  config.seeds = seeds
  config.update_from_flattened_dict(fields)
  return config


def make(config, *points, workdir='/somewhere'):
  return graph.of_sweep(config, points, workdir)


def stages_of(sweep, stage):
  return [run for run in sweep.nodes.values() if run.stage == stage]


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
  assert len(sweep.nodes) == 10  # only nodes that a point needs
  assert [(p.overrides[KL], p.seed) for p in sweep.points] == [
    (0.1, 0),
    (0.1, 1),
    (0.3, 0),
    (0.3, 1),
  ]
  for name, run in sweep.nodes.items():  # needs come first
    before = list(sweep.nodes)[: list(sweep.nodes).index(name)]
    assert {*run.needs} <= {*before}


def test_the_policies_of_an_evaluation_are_what_it_starts_from():
  config = base.ppo('micro', people=True)
  config.seeds = (0, 1)
  config.stages.evaluation.policies.mine = '../ppo'
  sweep = make(config, {KL: 0.1}, {KL: 0.3})
  evaluations = stages_of(sweep, 'evaluation')
  assert len(evaluations) == 4  # two seeds
  (ppo,) = stages_of(sweep, 'ppo')
  for run in evaluations:
    paths = run.config.policies
    assert paths.mine == f'../{ppo.name}' and paths.base == ''
    policy = paths.ppo_ptx.removeprefix('../')
    assert sweep.nodes[policy].stage == 'ppo_ptx'
    assert {policy, ppo.name} <= {*run.needs}


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
  assert {run.config.world_seed for run in sweep.nodes.values()} == {2}


def test_a_point_can_be_another_world():
  """All its stages are, with all their seeds."""
  config = config_of(seeds=(0, 1))
  sweep = make(config, {'world_seed': 0}, {'world_seed': 5})
  assert [len(stages_of(sweep, name)) for name in ('lab', 'ppo_ptx')] == [2, 4]
  for point in sweep.points:
    worlds = {sweep.nodes[run].config.world_seed for run in point.runs.values()}
    assert worlds == {point.overrides['world_seed']}
  with pytest.raises(ValueError, match="a point cannot set a stage's seed"):
    make(config, {'lab.world_seed': 1})


@pytest.mark.parametrize(
  'fields, message',
  [
    (
      {'lines': (('loss', 'GPT', 'ppo_ptx', 'DONE', 'x'),)},
      r"lines must be \(title of a measure, label, one of ends, .*'loss'",
    ),
    (
      {'paper': (('loss', 0.1, 2.0),)},
      r"paper must be \(title of a measure, value of plot.x, .*'loss'",
    ),
    ({'expected': ({'statement': 'x'},)}, "expected, 'x': the keys must be"),
  ],
)
def test_lines_numbers_and_statements_are_checked(fields, message):
  config = config_of()
  config.update(fields)
  with pytest.raises(ValueError, match=message):
    make(config, {KL: 0.1})


def test_a_name_is_of_what_is_computed():
  """Logging does not change a name; every field of an ancestor does."""
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
  """Like `candidate` in sft_epochs.py, at the point with SFT's own epochs."""
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
  assert {run.stage for run in sweep.nodes.values()} == {
    'pretrain',
    'ppo_init',
    'ppo_ptx',
  }
  (run,) = stages_of(sweep, 'ppo_ptx')
  assert run.config.inputs.data == '/a/lab'
  folder = os.path.join(
    'runs/sweep', run.name, run.config.rewards.reward_model.path
  )
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
  config.stages.ppo_ptx.rewards.reward_model.path = place
  sweep = make(config, {KL: 0.1})
  (run,) = stages_of(sweep, 'ppo_ptx')
  assert run.config.rewards.reward_model.path == found.format(reward)
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
    ({}, {'ppo_ptx.ppo': 1.0}, 'ppo_ptx.ppo is a group of fields'),
    ({}, {KL: 'much'}, 'kl_coef=.much., seed 0: .*kl_coef'),
    (
      {},
      {'ppo_ptx.ppo.num_iterations': True},
      'num_iterations must be of type int; got True',
    ),
    (
      {},
      {'ppo_ptx.ppo.whiten_advantages': 1},
      'advantages must be of type bool; got 1',
    ),
    (
      {},
      {KL: -1.0},
      'kl_coef=-1.0, seed 0: stages.ppo_ptx: ppo.kl_coef must be',
    ),
    ({}, {'rankings.max_responses': 12}, 'rankings.max_responses=12 is more'),
    ({'seeds': (0, 0)}, {KL: 1.0}, r'seeds=\(0, 0\) has a seed twice'),
    (
      {'seeds': (-1,)},
      {KL: 1.0},
      'seeds must be integers of 0 or more; got .*-1',
    ),
    ({'seeds': (0, 1), 'seeded': ()}, {KL: 1.0}, 'seeded is empty'),
    ({}, {'ppo_ptx.train_seed': 1}, 'train_seed: .* give --config.seeds'),
    ({'ends': ()}, {KL: 1.0}, 'ends is empty'),
    (
      {'given.ppo_ptx': '/x'},
      {KL: 1.0},
      "ends must name stages .*; got 'ppo_ptx'",
    ),
    ({'plot.x': 'nothing'}, {KL: 1.0}, "no field 'nothing'. A field is"),
    (
      {'measures': (('a', 'reward', 'DONE', 'b'),)},
      {KL: 1.0},
      'measures must be .*; got ',
    ),
    ({'stages.sft.inputs.init': '../reward'}, {KL: 1.0}, 'form a circle: '),
    (
      {'stages.sft.inputs.init': '../other'},
      {KL: 1.0},
      "stages.sft.inputs.init=../other: the sweep has no stage 'other'",
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
  # The reward model has 6B parameters, and so do its ancestors.
  assert [
    (run.stage, run.config.size)
    for run in sweep.nodes.values()
    if run.config.train_seed == 0
  ] == [
    ('pretrain', '1.3b'),
    ('ppo_init', '1.3b'),
    ('pretrain', '6b'),
    ('sft', '6b'),
    ('reward', '6b'),
    ('ppo_ptx', '1.3b'),
  ]


def study_of(order, **fields):
  config = study_config.get_config('micro')
  config.order = order
  config.update_from_flattened_dict(fields)
  return graph.of_study(config, '/study')


def test_a_study_is_one_point_with_folders_of_the_stages_names():
  config = study_config.get_config('micro')
  nodes = graph.of_study(config, '/study')
  assert tuple(nodes) == tuple(config.order)
  assert [node.name for node in nodes.values()] == list(nodes)
  assert nodes['ppo'].needs == ('lab', 'ppo_init', 'reward')
  assert nodes['ppo'].config.rewards.reward_model.path == '../reward'


def test_a_study_runs_a_stage_after_its_inputs():
  nodes = study_of(('sft', 'pretrain'))  # the lab is from an earlier run
  assert list(nodes) == ['pretrain', 'sft']
  assert nodes['sft'].needs == ('pretrain',)
  assert nodes['sft'].config.inputs.data == '../lab'


@pytest.mark.parametrize(
  'order, fields, message',
  [
    ((), {}, 'order is empty: name one or more'),
    (('lab', 'labb'), {}, "order must name stages .*; got 'labb'"),
    (('lab', 'sft', 'sft'), {}, "order must .* once; 'sft' is twice"),
    (
      ('pretrain',),
      {'stages.pretrain.batch_size': 0},
      'stages.pretrain: batch',
    ),
    (
      ('sft', 'reward'),
      {'stages.sft.inputs.init': '../reward'},
      'form a circle: sft -> reward -> sft',
    ),
  ],
)
def test_an_invalid_study_is_refused(order, fields, message):
  with pytest.raises(ValueError, match=message):
    study_of(order, **fields)


def test_an_architecture_of_an_input_is_resolved_but_not_hashed():
  """The name and the flags of a run come from the unresolved config."""
  config = config_of(ends=('sft',))
  config.stages.sft.model = {'like': 'init', 'dtype': 'float32'}
  sweep = make(config, {'pretrain.model.num_layers': 3})
  (run,) = stages_of(sweep, 'sft')
  assert run.config.model.to_dict() == {'like': 'init', 'dtype': 'float32'}
  assert run.resolved.model.num_layers == 3
  assert run.name == f'sft-{graph.digest(run.config)}'


def test_finished_ends_need_nothing(tmp_path):
  config = config_of(ends=('sft',))
  sweep = make(config, {'sft.num_epochs': 1}, workdir=tmp_path)
  ends = [sweep.points[0].runs['sft']]
  needed = lambda: [
    node.stage for node in graph.needed(sweep.nodes, ends, tmp_path)
  ]
  assert needed() == ['lab', 'pretrain', 'sft']
  (tmp_path / ends[0]).mkdir()
  run_folder.write_done(tmp_path / ends[0], {})
  assert needed() == ['sft']


def test_the_title_of_a_run_has_the_settings_of_its_points():
  config = config_of(seeds=(0, 1))
  sweep = make(
    config,
    {'ppo_ptx.ppo.kl_coef': 0.1, 'reward.optimizer.peak_lr': 0.5},
    {'ppo_ptx.ppo.kl_coef': 0.2, 'reward.optimizer.peak_lr': 0.5},
    {'ppo_ptx.ppo.kl_coef': 0.2, 'reward.optimizer.peak_lr': 0.25},
  )
  titles = graph.titles([sweep])
  assert sorted(titles) == sorted(sweep.nodes)
  assert len({*titles.values()}) == len(titles)
  found = {titles[node.name] for node in stages_of(sweep, 'ppo_ptx')}
  assert 'ppo_ptx (kl_coef=0.1, peak_lr=0.5, seed 0)' in found
  assert {titles[n.name] for n in stages_of(sweep, 'pretrain')} == {'pretrain'}
  assert 'reward (peak_lr=0.5)' in titles.values()
