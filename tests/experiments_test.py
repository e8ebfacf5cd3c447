"""Every experiment at every size: it loads, validates, and stays plain data."""

import importlib
import json
import pathlib
import re

import pytest

from experiments import paper
from experiments.ablations import base
from instructrl.data import store
from instructrl.lab.people import labelers
from instructrl.orchestration import commands
from instructrl.orchestration import estimate
from instructrl.orchestration import graph
from instructrl.orchestration import grid
from instructrl.orchestration import sweep
from instructrl.reports import paper_claims
from instructrl.reports import probe_claims
from instructrl.reports import shapes
from instructrl.runtime import run_folder
from instructrl.stages import checks
from instructrl.stages import lab
from instructrl.stages import policy_settings
from instructrl.stages import registry

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAGES = (
  'lab',
  'pretrain',
  'sft',
  'ppo_init',
  'nlp',
  'rankings',
  'reward',
  'ppo_ptx',
  'dpo',
  'ppo',
  'select_sft',
  'select_nlp',
  'evaluation',
)
SIZES = ('micro', 'tiny', 'small')
TRAINED = ('pretrain', 'sft', 'ppo_init', 'reward', 'ppo', 'ppo_ptx', 'dpo')
ABLATIONS = sorted(
  path.stem
  for path in (ROOT / 'experiments' / 'ablations').glob('*.py')
  if path.stem not in ('__init__', 'base')
)
# The KL is towards the pretrained model; checkpoints of a longer run.
WITHOUT_RECIPE = ('kl_coef_pretrained', 'episodes')
PAPER_SIZES = {'125m': 125e6, '1.3b': 1.3e9, '6b': 6.65e9, '175b': 175e9}


def load(name, size):
  return importlib.import_module(f'experiments.{name}').get_config(size)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', (*STAGES, 'data'))
def test_every_stage_validates_and_knows_its_trainer(name, size):
  config = load(name, size)
  assert config.stage == name.replace('nlp', 'sft')  # trained and chosen alike
  registry.validate(config)


@pytest.mark.parametrize('size', PAPER_SIZES)
@pytest.mark.parametrize('name', TRAINED)
def test_the_sizes_of_the_paper(name, size):
  """They validate, and have as many parameters as their name says."""
  config = load(name, size)
  assert config.stage == name
  registry.validate(config)
  m = config.model
  count = m.num_layers * 12 * m.d_model**2 + (50_257 + m.max_len) * m.d_model
  assert count == pytest.approx(PAPER_SIZES[size], rel=0.03)
  assert (m.dtype, m.param_dtype, m.max_len) == ('bfloat16', 'float32', 2048)
  assert (m.positions, m.mlp, m.norm) == ('learned', 'gelu', 'layernorm')
  assert not m.attention_block or m.max_len % m.attention_block == 0


@pytest.mark.parametrize('size', (*SIZES, *PAPER_SIZES))
def test_rows_of_public_data_fit_the_models(size):
  config, sft = load('data', size), load('sft', size)
  registry.validate(config)
  assert config.row_len <= sft.model.max_len
  reward = load('reward', size)
  for name in ('prompt_len', 'response_len', 'max_responses'):
    assert config[name] <= reward[name]


def test_the_recipe_of_the_paper():
  """Appendix C, in the order of its sections."""
  rates = lambda name: [
    load(name, size).optimizer.peak_lr for size in ('1.3b', '6b', '175b')
  ]
  sft = load('sft', '175b')
  assert rates('sft') == [9.65e-6, 9.65e-6, 5.03e-6]
  assert [load('sft', s).batch_size for s in ('1.3b', '6b', '175b')] == [
    32,
    32,
    8,
  ]
  assert (sft.num_epochs, sft.model.dropout) == (16, 0.2)
  for name in ('sft', 'ppo_init'):  # a batch counts demonstrations
    assert {load(name, size).batch_unit for size in PAPER_SIZES} == {'examples'}
    assert {load(name, size).batch_unit for size in SIZES} == {'rows'}
  assert (
    sft.optimizer.schedule,
    sft.optimizer.final_fraction,
    sft.optimizer.warmup_steps,
  ) == ('cosine', 0.1, 0)
  reward = load('reward', '6b')
  assert (
    reward.optimizer.peak_lr,
    reward.batch_size,
    reward.num_epochs,
    reward.max_responses,
  ) == (9e-6, 64, 1, 9)
  init = load('ppo_init', '6b')
  assert rates('ppo_init') == [5e-6, 1.04e-5, 2.45e-6]
  assert (init.num_epochs, init.pretrain_mix) == (2, 0.1)
  assert rates('ppo') == [3.74e-6, 2.55e-6, 2.55e-6]  # Fig. 38, by eye
  assert rates('ppo_ptx') == [1.18e-5, 1.18e-5, 2.55e-6]
  for size in ('1.3b', '6b', '175b'):
    c = load('ppo_ptx', size)
    p = c.ppo
    assert p.batch_size * p.num_iterations == 256_000
    assert (p.batch_size, p.minibatch_size, p.num_ppo_epochs) == (512, 64, 1)
    assert (p.prompt_len, p.response_len) == (1024, 1024)
    assert (p.kl_coef, p.ptx_coef, p.ptx_examples_per_episode) == (
      0.02,
      27.8,
      8,
    )
    assert (p.ema_decay, p.clip_eps, p.temperature) == (0.992, 0.2, 1)
    assert (p.warmup_iterations, c.optimizer.warmup_from) == (10, 0.1)
    assert c.optimizer.schedule == 'constant'
    assert (c.optimizer.b1, c.optimizer.b2) == (0.9, 0.95)
    assert c.value_optimizer.peak_lr == (5e-6 if size == '175b' else 9e-6)
    # One reward model, and so one value model, for all policies.
    assert c.reward_model.d_model == c.value_model.d_model == 4096
    assert c.reference_model.d_model == c.model.d_model
    assert [
      c[name].param_dtype
      for name in ('model', 'value_model', 'reference_model', 'reward_model')
    ] == ['float32', 'float32', 'bfloat16', 'bfloat16']


def test_models_follow_those_they_start_from_until_they_are_set():
  c = load('ppo', 'tiny')
  c.reward_model.num_layers = 3
  c.value_model.d_model = 64
  assert (c.value_model.num_layers, c.reward_model.d_model) == (3, 128)
  c.model.num_layers = 5
  assert c.reference_model.num_layers == 5 and c.reward_model.num_layers == 3


@pytest.mark.parametrize('name', ['lab', 'study', 'evaluation'])
def test_there_is_no_lab_of_the_papers_sizes(name):
  with pytest.raises(ValueError, match="no size '1.3b'.*micro, tiny, small$"):
    load(name, '1.3b')


@pytest.mark.parametrize('size', SIZES)
def test_a_study_gives_its_seeds_to_all_stages(size):
  config = load('study', size)
  config.train_seed = 7
  nodes = graph.of_study(config, 'w')
  assert tuple(nodes) == STAGES
  assert {node.config.train_seed for node in nodes.values()} == {7}


def test_rankings_that_the_reward_model_cannot_read_are_refused():
  config = load('study', 'micro')
  config.stages.reward.max_responses = 5
  with pytest.raises(
    checks.ConfigError,
    match='stages.rankings.max_responses='
    '9 is more than stages.reward.max_responses=5',
  ):
    graph.of_study(config, 'w')


def test_an_unknown_size_is_refused_by_name():
  with pytest.raises(ValueError, match="no size 'huge'.*micro, tiny, small"):
    load('ppo', 'huge')


def test_ppo_ptx_differs_from_ppo_in_ptx_only():
  ppo, ptx = (load(name, 'tiny').to_dict() for name in ('ppo', 'ppo_ptx'))
  assert ptx['ppo'].pop('ptx_coef') > 0
  assert ppo['ppo'].pop('ptx_coef') == 0
  assert ppo.pop('stage') != ptx.pop('stage')
  assert ppo == ptx


@pytest.mark.parametrize('size', SIZES)
def test_ppo_has_prompts_that_no_labeler_saw(size):
  """Others demonstrate and rank 'train', select on 'validation', and are
  compared on 'test' (Table 6)."""
  for name in ('ppo', 'ppo_ptx'):
    assert load(name, size).prompts_split == 'ppo'


def test_prompts_are_demonstrated_or_ranked_or_of_ppo(tmp_path):
  """In the lab that the experiments make; none is in two parts."""
  config = load('lab', 'micro')
  config.update(num_documents=300, num_prompts=300, vocab_size=400)
  lab.run(config, tmp_path)
  texts = lambda name, split: [
    getattr(r, 'prompt', r).text
    for r in store.read_records(tmp_path, name, split)
  ]
  parts = [
    texts('demonstrations', 'train'),
    texts('prompts', 'train'),
    texts('prompts', load('ppo', 'micro').prompts_split),
    texts('prompts', 'validation'),
    texts('prompts', 'test'),
  ]
  assert all(parts)
  everything = [text for part in parts for text in set(part)]
  assert len(set(everything)) == len(everything)


def test_every_field_of_every_config_is_read_somewhere():
  code = '\n'.join(
    path.read_text('utf-8') for path in (ROOT / 'instructrl').rglob('*.py')
  )

  def leaves(tree):
    for key, value in tree.items():
      if isinstance(value, dict) and key not in ('inputs', 'steps'):
        yield from leaves(value)
      yield key

  names = {
    key
    for name in (*STAGES, 'data')
    for key in leaves(load(name, 'tiny').to_dict())
  }
  unread = sorted(n for n in names if n not in code)
  assert not unread


@pytest.mark.parametrize(
  'name, field, value, message',
  [
    ('ppo', 'ppo.kl_coef', -0.1, 'ppo.kl_coef must be at least 0'),
    ('ppo', 'ppo.top_p', 0.9, 'ppo.top_p must be 1'),
    ('ppo', 'ppo.minibatch_size', 7, 'ppo.minibatch_size must divide'),
    ('ppo', 'model.dropout', 0.1, 'model.dropout must be 0'),
    (
      'ppo',
      'optimizer.peak_lr',
      -1.0,
      'optimizer.peak_lr must be at least 0.*; got -1.0',
    ),
    ('sft', 'optimizer.schedule', 'linear', 'optimizer.schedule'),
    ('sft', 'batch_size', 0, 'batch_size must be at least 1; got 0'),
    ('pretrain', 'pretrain_mix', 1.0, 'pretrain_mix must be .*; got 1.0'),
    ('reward', 'prompt_len', 1000, 'model.max_len'),
    ('rankings', 'min_responses', 1, 'min_responses'),
    ('sft', 'num_epochs', -1, 'num_epochs must be at least 0.*; got -1'),
    *(
      (
        'evaluation',
        f'evals.{field}',
        value,
        f'evals.{field}={value} must be {message}',
      )
      for field, value, message in (
        ('preference.temperature', 0.0, 'positive'),
        ('preference.temperature', float('inf'), 'positive'),
        ('preference.num_prompts', 0, '1 or more'),
        ('probes.num_probes', 0, '1 or more'),
        ('probes.num_documents', 0, '1 or more'),
      )
    ),
    *(
      (stage, name, 0, f'{name} must be at least 1; got 0')
      for stage, names in (
        ('evaluation', 'num_shots'),
        ('select_sft', 'num_prompts'),
        ('rankings', ''),
      )
      for name in (*names.split(), 'batch_size', 'prompt_len', 'response_len')
    ),
    ('select_sft', 'temperature', -1.0, 'temperature=-1.0 must be finite'),
    ('lab', 'demonstration_fraction', 1.0, 'demonstration_fraction'),
    (
      'lab',
      'size',
      'huge',
      "size must be one of micro, tiny, small; got 'huge'",
    ),
    ('lab', 'num_prompts', 0, 'num_prompts must be at least 1; got 0'),
    ('lab', 'response_len', 0, 'response_len must be at least 1; got 0'),
    ('lab', 'world_seed', -1, 'world_seed must be at least 0.*; got -1'),
  ],
)
def test_nonsense_is_refused_by_field_name(name, field, value, message):
  config = load(name, 'tiny')
  config.update_from_flattened_dict({field: value})
  with pytest.raises(checks.ConfigError, match=message):
    registry.validate(config)


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('ppo.kl_coef', -1.0, 'stages.ppo: ppo.kl_coef'),
    ('value_model.mlp', 'relu', 'stages.ppo: value_model.mlp must be one of'),
  ],
)
def test_a_study_names_the_stage_of_a_bad_field(field, value, message):
  config = load('study', 'tiny')
  config.stages.ppo.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    graph.of_study(config, 'w')


@pytest.mark.parametrize('size', (*SIZES, *PAPER_SIZES))
@pytest.mark.parametrize('name', ABLATIONS)
def test_every_ablation_is_valid_at_every_size(name, size):
  """All its points, and the flags that give them; one is the recipe."""
  ablation = importlib.import_module(f'experiments.ablations.{name}')
  config = ablation.get_config(size)
  if size in PAPER_SIZES:
    config.given.lab, config.given.rankings = '/data/lab', '/data/rankings'
  points = grid.collect(ablation.sweep, config)
  made = graph.of_sweep(config, points, '/sweep')
  assert not made.merged
  assert len(made.points) == len(points) * len(config.seeds) > len(config.seeds)
  assert config.measures
  recipe = grid.flatten(config.stages.to_dict())
  assert name in WITHOUT_RECIPE or any(
    all(recipe[key] == value for key, value in point.items())
    for point in points
  )
  swept = {config.plot.x, config.plot.by} - {''}
  assert all(swept <= {*point} for point in points)
  # A swept stage has the point's seed, or is the evaluation of one that has.
  stages = {key.split('.')[0] for key in points[0]}
  assert stages <= {*config.seeded, 'evaluation'}
  short = name.startswith('reward') and name != 'reward_folds'
  assert len(config.seeds) == (1 if size == 'micro' else 6 if short else 3)
  if size in SIZES:
    assert config.expected
    _check_statements(config, made)
  for run in made.nodes.values():
    commands.arguments(run, '/sweep')
  if name.startswith('reward'):
    assert 'ppo_init' not in made.points[0].runs


def _check_statements(config, made):
  """Every statement is measured once all points have values."""
  points = [
    {
      'overrides': dict(point.overrides),
      'seed': point.seed,
      'status': 'done',
      'measures': {title: 1.0 for title, *_ in config.measures},
    }
    for point in made.points
  ]
  lines = {}
  for title, label, *_ in config.lines:
    lines.setdefault(title, {})[label] = 1.0
  for row in shapes.judge(config.expected, points, lines):
    assert row.value is not None or config.size == 'micro', row.statement


GRIDS = {
  'ptx_coef': (12, 0.464, 129.0),  # Fig. 33: x10^(2/9), no 0
  'kl_coef_pretrained': (9, 5e-5, 2.0),  # Fig. 34
  'kl_coef': (7, 0.0, 2.0),  # Fig. 36
  'peak_lr': (7, 2.55e-6, 2.55e-5),  # Fig. 38
  'ptx_examples': (3, 4, 32),  # E.11
  'batch_size': (5, 64, 1024),  # E.11
}


@pytest.mark.parametrize('name', GRIDS)
def test_grids_at_the_papers_sizes(name):
  ablation = importlib.import_module(f'experiments.ablations.{name}')
  config = ablation.get_config('1.3b')
  points = grid.collect(ablation.sweep, config)
  values = sorted({point[config.plot.x] for point in points})
  assert (len(values), values[0], values[-1]) == GRIDS[name]


def test_the_grid_of_rates_is_the_papers_decade():
  """E.9: seven rates in steps of 10^(1/6), two for 175B; with and without."""
  peak_lr = importlib.import_module('experiments.ablations.peak_lr')
  values = peak_lr.grid('1.3b')
  for rate, nearest in zip(values, (2.55e-6 * 10 ** (i / 6) for i in range(7))):
    assert rate == pytest.approx(nearest, rel=0.02)
  assert peak_lr.grid('175b') == (2.55e-6, 3.74e-6)
  points = grid.collect(peak_lr.sweep, peak_lr.get_config('175b'))
  assert sorted({p[peak_lr.COEF] for p in points}) == [0.0, 27.8]


def test_the_validation_reward_is_the_average_on_validation_prompts():
  for name in ('ptx_coef', 'kl_coef_pretrained', 'kl_coef', 'init_mix'):
    ablation = importlib.import_module(f'experiments.ablations.{name}')
    measures = {m[0]: m[2:] for m in ablation.get_config('tiny').measures}
    for title, key in ((base.REWARD, 'reward'), (base.KL, 'kl')):
      assert measures[title] == ('DONE', f'result.validation.{key}.value')
    assert not any('facts' in title for title in measures)


def test_the_lines_of_figures_33_to_35_are_one_evaluation():
  """GPT and PPO's start, evaluated once for all three ablations."""
  found = set()
  for name in ('ptx_coef', 'kl_coef_pretrained', 'episodes'):
    ablation = importlib.import_module(f'experiments.ablations.{name}')
    config = ablation.get_config('tiny')
    titles = {title for title, *_ in config.lines}
    assert {base.SQUAD, base.DROP, base.REWARD} <= titles
    assert {label for _, label, *_ in config.lines} == {base.GPT, base.INIT}
    points = grid.collect(ablation.sweep, config)
    made = graph.of_sweep(config, points, '/sweep')
    found |= {point.runs['lines'] for point in made.points}
  assert len(found) == 1


def test_episodes_are_checkpoints_of_one_run_a_seed():
  """From 1/8 of the recipe to twice as many (figure 35)."""
  episodes = importlib.import_module('experiments.ablations.episodes')
  config = episodes.get_config('tiny')
  points = grid.collect(episodes.sweep, config)
  made = graph.of_sweep(config, points, '/sweep')
  runs = [run for run in made.nodes.values() if run.stage == 'ppo_ptx']
  assert [run.config.train_seed for run in runs] == [0, 1, 2]
  recipe = load('ppo_ptx', 'tiny').ppo.num_iterations
  steps = [int(p[config.plot.x].rpartition('/')[2]) for p in points]
  assert steps[0] == recipe // 8 and steps[-1] == 16 * steps[0]
  for run in runs:
    assert run.config.ppo.num_iterations == steps[-1]
    assert all(step % run.config.checkpoint.every == 0 for step in steps)
    assert run.config.checkpoint.keep >= len(steps)
  paths = {
    run.config.policies.ppo_ptx
    for run in made.nodes.values()
    if run.stage == 'evaluation'
  }
  assert f'../{runs[0].name}/checkpoints/{steps[0]:08d}' in paths


def test_folds_have_rankings_enough_to_resolve_the_papers_difference():
  """2.8 points (E.2), by the spread of a ranking's accuracy, 19 points."""
  folds = importlib.import_module('experiments.ablations.reward_folds')
  config = folds.get_config('tiny')
  count = config.stages.rankings.num_validation
  used = count * 10 / labelers.GROUPS['train']  # two labelers of each fold
  assert 2.78 * 19 * (2 / used) ** 0.5 < 2.8
  points = grid.collect(folds.sweep, config)
  assert len(points) == 5 and len(config.seeds) == 3


def test_epochs_of_sft_report_the_last_one():
  epochs = importlib.import_module('experiments.ablations.sft_epochs')
  config = epochs.get_config('tiny')
  places = [place for *_, place in config.measures]
  assert places == ['result.loss/validation', 'result.last_score']
  assert config.stages.select_sft.inputs.sft == '../candidate'
  assert epochs.get_config('1.3b').stages.candidate.num_epochs == 16


def test_the_whole_paper_is_one_folder_of_about_eight_hours():
  """All ablations and the studies, on shared ancestors."""
  config = load('paper', 'tiny')
  assert {*config.order} == {'worlds', 'sizes', *ABLATIONS}
  parts, page = sweep.load(str(ROOT / 'experiments/paper.py'), config, (), '/x')
  nodes = sweep.all_nodes(parts)
  worlds = parts[0].sweep
  assert {(p.overrides['world_seed'], p.seed) for p in worlds.points} == {
    (world, seed) for world in (0, 1, 2) for seed in (0, 1, 2)
  }
  # World 0 with seed 0 has what the ablations start from, and the recipe.
  first = worlds.points[0].runs
  for part in parts[1:]:
    for point in part.sweep.points:
      if part.name == 'sizes' and point.label != 'd_model=128, seed 0':
        continue
      assert point.runs['lab'] == first['lab']
      assert point.runs['pretrain'] == first['pretrain']
  (recipe,) = {
    point.runs['ppo_ptx']
    for part in parts
    if part.name in ('ptx_coef', 'kl_coef')
    for point in part.sweep.points
    if point.seed == 0 and point.runs['ppo_ptx'] == first['ppo_ptx']
  }
  assert recipe in nodes
  seconds = sum(
    estimate.expected(node, config.seconds) for node in nodes.values()
  )
  assert 4 < seconds / 3600 < 11
  # A claim shows panels that there are.
  for claim in page.claims:
    for name, pattern in claim.get('panels', {}).items():
      titles = [measure[0] for measure in config.parts[name].measures]
      found = [re.search(pattern, t.split(': ', 1)[-1]) for t in titles]
      assert any(found) and not all(found), (claim['title'], name)
  # Each statement of a part belongs to a claim.
  for part in parts:
    for entry in part.config.expected:
      assert any(
        re.search(
          claim.get('parts', {}).get(part.name, '$^'), entry['statement']
        )
        for claim in page.claims
      ), (part.name, entry['statement'])


def test_reasons_are_of_statements_and_have_their_numbers():
  """As on the page in docs/results/, which a command writes."""
  page = json.loads((ROOT / 'docs/results/results.json').read_text())
  shown = {c['title']: c['statements'] for c in page['claims']}
  for claim in paper.CLAIMS:
    for pattern, reason in claim.get('why', {}).items():
      found = [s['statement'] for s in shown[claim['title']]]
      assert any(re.search(pattern, statement) for statement in found), pattern
      assert reason.format_map(page['pooled']), pattern


def test_each_statement_of_a_study_belongs_to_a_claim():
  topics = [
    f'{claim.topic}: {claim.statement}'
    for claim in (*paper_claims.DIFFERENCES, *probe_claims.DIFFERENCES)
  ]
  topics += [f'Preference: {c.statement}' for c in paper_claims.WIN_RATES]
  for text in topics:
    assert any(
      re.search(claim.get('studies', '$^'), text) for claim in paper.CLAIMS
    ), text


def test_all_sizes_share_a_reward_model_and_the_largest_sft():
  config = load('sizes', 'tiny')
  config.seeds = (0,)
  points = grid.collect(
    importlib.import_module('experiments.sizes').sweep, config
  )
  made = graph.of_sweep(config, points, '/x')
  nodes, (small, middle, large) = made.nodes, made.points
  assert small.runs['reward'] == middle.runs['reward'] == large.runs['reward']
  for point, width in ((small, 64), (middle, 128), (large, 256)):
    ppo = nodes[point.runs['ppo']].resolved
    assert ppo.model.d_model == ppo.reference_model.d_model == width
    assert ppo.reward_model.d_model == ppo.value_model.d_model == 128
    evaluation = nodes[point.runs['evaluation']].config
    selected = f'../{large.runs["select_sft"]}'
    assert evaluation.policies.largest_sft == selected
    assert (evaluation.policies.sft == selected) == (width == 256)
  # The largest size is pretrained once, as the common reference too.
  pretrained = nodes[large.runs['sft']].config.inputs.init
  assert pretrained == f'../{large.runs["pretrain"]}'
  assert large.runs['largest_pretrain'] == large.runs['pretrain']
  assert middle.runs['reward_sft'] == middle.runs['sft']


@pytest.mark.parametrize(
  'file, field',
  [('evaluation', 'policies'), ('study', 'stages.evaluation.policies')],
)
def test_a_flag_adds_a_policy(file, field):
  config = commands.read_config(
    [
      f'--config=experiments/{file}.py:micro',
      f'--config.{field}.mine=../mine',
      f'--config.{field}.ppo=',
    ]
  )
  found = config.stages.evaluation if file == 'study' else config
  assert policy_settings.named(found)[-1] == 'mine'
  assert 'ppo' not in policy_settings.named(found)
  with pytest.raises(AttributeError, match='batch_sizes'):
    commands.read_config(
      ['--config=experiments/evaluation.py:micro', '--config.batch_sizes=3']
    )


def test_the_estimate_counts_what_is_left(tmp_path):
  config = load('ablations.reward_epochs', 'tiny')
  points = grid.collect(
    importlib.import_module('experiments.ablations.reward_epochs').sweep, config
  )
  made = graph.of_sweep(config, points, tmp_path)
  nodes = [n for n in made.nodes.values() if n.stage == 'reward']
  work = sorted(estimate.expected(node, {'reward': 1}) for node in nodes)
  assert work == [1] * 6 + [2] * 6 + [3] * 6
  text = estimate.describe(nodes, tmp_path, {'reward': 100})
  assert (
    text == '18 runs are left: 18 reward. They take about 1h00m, one at a time'
  )
  done = tmp_path / nodes[0].name
  done.mkdir()
  run_folder.write_done(done, {'seconds': 1.0, 'result': {}})
  assert estimate.describe(nodes, tmp_path, {}).startswith('17 runs are left')


def test_ablations_have_the_commands_of_their_files():
  for name in ABLATIONS:
    text = (ROOT / 'experiments' / 'ablations' / f'{name}.py').read_text()
    assert (
      f'python -m instructrl.sweep --config=experiments/ablations/{name}'
      '.py:tiny --workdir=DIR\n'
    ) in text.replace('\\\n    ', '')


def test_an_ablation_towards_the_pretrained_model():
  """Figure 34: the KL is towards GPT-3, and there is no pretraining mix."""
  ablation = importlib.import_module('experiments.ablations.kl_coef_pretrained')
  config = ablation.get_config('tiny')
  made = graph.of_sweep(config, grid.collect(ablation.sweep, config), '/sweep')
  for run in made.nodes.values():
    if run.stage == 'ppo':
      assert run.config.inputs.reference.startswith('../pretrain-')
      assert run.config.inputs.policy.startswith('../ppo_init-')
      assert run.config.ppo.ptx_coef == 0
