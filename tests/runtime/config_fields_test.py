"""The list of a config's fields, `--fields`."""

import subprocess
import sys

import pytest

from instructrl.runtime import config_fields

CONFIG = """
from experiments import common
from instructrl.stages import toy_settings

def get_config(arg):
  # the group
  c.optimizer = x
  c.optimizer.rate = 1e-3  # highest; a fraction
  # Two lines
  # above.
  c.optimizer.steps = 0  # 0 = all

  c.size = 1
"""
COMMON = """
c.size = 2  # of the model
c.rate = 3  # another one
"""
SETTINGS = """
class Settings:
  clip: float = declare(0.2, 'of the ratio'
    ' (C.4)', low=0)
"""


@pytest.fixture
def checkout(tmp_path):
  for name, text in (
    ('experiments/toy.py', CONFIG),
    ('experiments/common.py', COMMON),
    ('instructrl/stages/toy_settings.py', SETTINGS),
  ):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
  return tmp_path / 'experiments/toy.py'


def test_comments_are_those_of_the_nearest_source(checkout):
  config = {
    'optimizer': {'rate': 0.1, 'steps': 5},
    'ppo': {'clip': 0.2},
    'size': 7,
    'unknown': ('a',),
  }
  assert config_fields.render(config, str(checkout)).splitlines() == [
    '# the group',
    'optimizer.rate = 0.1  # highest; a fraction',
    'optimizer.steps = 5  # Two lines above. 0 = all',
    '',
    'ppo.clip = 0.2  # of the ratio (C.4)',
    'size = 7  # of the model',
    "unknown = ('a',)",
  ]


@pytest.mark.parametrize(
  'name, lines',
  [
    (
      'ppo.py:micro',
      ['ppo.kl_coef = 0.', 'ppo.clip_eps = ', '# Sizes of the mesh axes'],
    ),
    ('study.py:micro', ['stages.sft.num_epochs = ', 'stages.ppo.ppo.kl_coef']),
  ],
)
def test_a_command_prints_the_fields_of_its_config(name, lines):
  command = 'study' if name.startswith('study') else 'main'
  found = subprocess.run(
    [sys.executable, '-m', f'instructrl.{command}', '--fields']
    + [f'--config=experiments/{name}', '--config.world_seed=77'],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert 'world_seed = 77' in found
  for line in lines:
    assert line in found
