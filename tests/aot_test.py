"""The aot command: its flags, its report, its errors."""

import json
from operator import attrgetter
import subprocess
import sys

import pytest

from experiments import dpo
from experiments import lab
from experiments import plans as plans_config
from experiments import sft
from instructrl.planning.plans import make_plans
from instructrl.planning.plans import runs_of
from instructrl.stages import checks
from instructrl.stages import registry
from tests import slices


@pytest.mark.parametrize(
  'args, message',
  [
    (
      [
        '--config=experiments/sft.py:1.3b',
        '--config.batch_size=0',
        '--topology=v5e:2x2',
      ],
      'batch_size must be at least 1; got 0',
    ),
    (['--topology=v5e:2x2'], '--config is missing: give a plan'),
    (
      ['--config=experiments/study.py:tiny', '--topology=v5e:2x2'],
      "not of a plan: it has no field 'stage' or 'plans'",
    ),
    (['--config=experiments/plans.py:175b'], "there is no plan '175b'"),
    (['--config=experiments/x.py:1.3b'], 'there is no file experiments/x.py'),
    (['--config=tests/tiny.py'], 'the file has no get_config(size)'),
  ],
)
def test_a_mistake_is_one_line(args, message):
  done = subprocess.run(
    [sys.executable, '-m', 'instructrl.aot', *args],
    text=True,
    capture_output=True,
    timeout=300,
  )
  assert done.returncode == 1
  assert done.stdout == ''
  (error,) = done.stderr.splitlines()
  assert error.startswith('error: ') and message in error


@pytest.mark.parametrize(
  'config, topologies, message',
  [
    (sft.get_config('1.3b'), [], '--topology is missing'),
    (plans_config.get_config(), ['v5e:2x2'], '--topology cannot be used with'),
  ],
)
def test_a_missing_flag_is_named(config, topologies, message):
  with pytest.raises(checks.ConfigError, match=message):
    runs_of(config, topologies)


@pytest.mark.parametrize(
  'config, topology, message',
  [
    (lab.get_config('tiny'), 'v5e:2x2', "one of the stages .*; got 'lab'"),
    (dpo.get_config('tiny'), 'v5e:2x2', "one of the stages .*; got 'dpo'"),
    (sft.get_config('1.3b'), 'v9:2x2', 'one of the chips v4'),
    pytest.param(
      sft.get_config('175b'),
      'v5p:4x4x4',
      'v5p:4x4x4: mesh .* does not fit the slice',
      marks=slices.needs_libtpu,
    ),
  ],
)
def test_what_cannot_be_planned_is_refused(config, topology, message):
  with pytest.raises(ValueError, match=message):
    make_plans([('it', config, [topology])], 500)


def test_plans_are_of_runs_that_validate():
  config = plans_config.get_config()
  runs = runs_of(config, [])
  assert len(runs) == len(config.plans) == len(plans_config.PLANS)
  for key, (name, stage, topologies) in zip(config.order, runs):
    registry.validate(stage)
    assert name.split()[0] == f'{stage.stage}:{stage.size}'
    for field in name.split()[1:]:  # fields that differ from the experiment
      field, _, value = field.rpartition('=')
      assert str(attrgetter(field)(stage)) == value
    assert len({*topologies}) == len(topologies) > 0
    assert [r[0] for r in runs_of(plans_config.get_config(key), [])] == [name]


@slices.needs_libtpu
def test_the_report_grows_with_each_plan(tmp_path):
  """The second run fits no slice, and nothing is compiled for it."""
  small, large = slices.small(sft, batch_size=16), sft.get_config('6b')
  seen = []

  def shown(plan):
    seen.append(
      (plan.name, plan.fits, sorted(path.name for path in tmp_path.iterdir()))
    )

  plans = make_plans(
    [('small', small, ['v5e:2x2']), ('large', large, ['v5e:2x2'])],
    500,
    tmp_path,
    show=shown,
  )
  assert [name for name, *_ in seen] == ['small', 'large']
  assert [fits for _, fits, _ in seen] == [True, False]
  assert seen[0][2] == ['functions']
  assert seen[1][2] == ['functions', 'index.html', 'plans.json', 'table.md']
  assert len(list((tmp_path / 'functions').iterdir())) == 1
  report = json.loads((tmp_path / 'plans.json').read_text())
  assert [p['fits'] for p in report['plans']] == [True, False]
  assert report['plans'][0]['peak'] == plans[0].peak
  table = (tmp_path / 'table.md').read_text().splitlines()
  assert len(table) == 2 + len(plans)
