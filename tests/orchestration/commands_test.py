"""The flags of a run give the run's own config."""

import shlex

import pytest

from experiments.ablations import base
from instructrl.orchestration import commands
from instructrl.orchestration import graph
from instructrl.runtime import files
from instructrl.stages import registry

KL = 'ppo_ptx.ppo.kl_coef'


def config_of(ends=('ppo_ptx',), **fields):
  config = base.get_config('micro', ends, ())
  config.seeds = (0,)
  config.update_from_flattened_dict(fields)
  return config


def make(config, point, workdir='/somewhere'):
  return graph.of_sweep(config, [point], workdir)


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
  for name, run in sweep.nodes.items():
    line = shlex.join(commands.arguments(run, tmp_path))
    argv = shlex.split(line)
    assert f'--workdir={tmp_path / name}' in argv
    read = commands.read_config(argv)
    registry.validate(read)
    assert files.fingerprint(read.to_dict()) == (
      files.fingerprint(run.config.to_dict())
    )
    assert name == f'{read.stage}-{graph.digest(read)}'


def test_a_field_that_the_experiment_lacks_is_no_flag():
  config = config_of(ends=('lab',))
  config.stages.lab.added = 1
  (run,) = make(config, {'lab.num_prompts': 5}).nodes.values()
  with pytest.raises(ValueError, match="only one of them has .*'added'"):
    commands.arguments(run, '/x')


def test_lines_are_for_the_checkout(tmp_path, monkeypatch):
  run = next(iter(make(config_of(), {KL: 0.1}).nodes.values()))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match='in the root of the checkout'):
    commands.arguments(run, '/x')
