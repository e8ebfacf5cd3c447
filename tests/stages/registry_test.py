"""A stage is a module of instructrl/stages/ that declares its name."""

import math
import re
import subprocess
import sys

import ml_collections
import pytest

from experiments import data
from instructrl.stages import checks
from instructrl.stages import registry

STAGE = """
STAGES = (
  'dpo',
  'ipo',
)
"""


def test_every_stage_has_the_functions_of_its_protocol():
  found = registry.modules()
  assert {'lab', 'pretrain', 'sft', 'ppo_init', 'ppo', 'ppo_ptx'} <= set(found)
  for stage, name in found.items():
    module = registry.load(stage)
    assert module.__name__ == f'instructrl.stages.{name}'
    assert stage in module.STAGES
    assert callable(module.validate) and callable(module.run)


def test_a_new_file_is_a_new_stage(tmp_path):
  (tmp_path / 'dpo.py').write_text(STAGE)
  (tmp_path / 'helper.py').write_text('NUM_STAGES = (1,)\n')
  assert registry.modules(tmp_path) == {'dpo': 'dpo', 'ipo': 'dpo'}


def test_a_stage_that_two_modules_declare_is_refused(tmp_path):
  (tmp_path / 'a.py').write_text(STAGE)
  (tmp_path / 'b.py').write_text("STAGES = ('ipo',)\n")
  with pytest.raises(ValueError, match="'ipo' is declared by a.py and by b.py"):
    registry.modules(tmp_path)


def test_a_declaration_without_a_comma_is_refused(tmp_path):
  (tmp_path / 'a.py').write_text("STAGES = ('ipo')\n")
  with pytest.raises(ValueError, match='a.py: STAGES must be a tuple'):
    registry.modules(tmp_path)


def test_an_unknown_stage_names_those_there_are():
  message = r"stage must be one of data, .*, ppo, .*, sft; got 'pppo'"
  with pytest.raises(checks.ConfigError, match=message):
    registry.validate(ml_collections.ConfigDict({'stage': 'pppo'}))


def test_only_the_module_of_the_stage_is_imported():
  code = """
import sys
from instructrl.stages import registry
registry.modules()
try:
  registry.load('pppo')
except ValueError:
  pass
registry.load('lab')
print(*(name for name in sys.modules if name.startswith('instructrl.stages.')))
"""
  found = subprocess.run(
    [sys.executable, '-c', code], check=True, capture_output=True, text=True
  )
  imported = set(re.findall(r'instructrl\.stages\.(\w+)', found.stdout))
  assert 'lab' in imported and not {'ppo', 'reward', 'import_'} & imported


def test_nan_is_refused_by_name():
  config = data.get_config('micro')
  config.log.more = ml_collections.ConfigDict({'shares': (0.5, math.nan)})
  with pytest.raises(checks.ConfigError, match='^log.more.shares must be a'):
    registry.validate(config)
