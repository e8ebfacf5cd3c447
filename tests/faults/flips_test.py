"""A changed bit in any file of a study is refused, or changes no result."""

import json
import pathlib
import random
import shutil

import pytest

from instructrl.runtime import checkpoint
from instructrl.runtime import errors
from instructrl.runtime import files
from instructrl.runtime import origins
from instructrl.runtime import run_folder
from instructrl.stages import inputs
from tests.faults import server as server_module
from tests.stages import stages
from tests.stages.resume_test import assert_same_run

FLIPS = 3  # of each file
# Nothing reads these files once the run has finished.
UNREAD = ('lock', 'seconds', 'timings.jsonl')
LAB = dict(num_documents=60, num_prompts=80)

PRETRAIN = {'model': {'max_len': 64}}


@pytest.fixture(scope='module')
def made(server, tmp_path_factory):
  """A lab and pretraining, and a run that was started from both."""
  folder = tmp_path_factory.mktemp('flips')
  server.finish('lab', folder / 'lab', changes=LAB)
  server.finish('pretrain', folder / 'pretrain', changes=PRETRAIN)
  files.write_sealed(
    folder / 'study.json', {'format_version': 2, 'seeds': {'train_seed': 0}}
  )
  start(folder)
  return folder


def start(folder):
  """Reads what a next stage, a restart and the report read."""
  for stage in ('lab', 'pretrain'):
    config = stages.configs()['pretrain']
    config.update(PRETRAIN)
    if stage == 'lab':
      config = server_module.lab_config.get_config('micro')
      config.update(LAB)
    run_folder.check_config(folder / stage, config.to_dict())
    run_folder.check_files(folder / stage)
  configs = stages.configs()
  inputs.input_path(configs['pretrain'], folder / 'sft', 'data')
  inputs.input_path(configs['sft'], folder / 'sft', 'init')
  origins.check(folder / 'pretrain', {'data': folder / 'lab'})
  origins.check(
    folder / 'sft', {'data': folder / 'lab', 'init': folder / 'pretrain'}
  )
  for step in (folder / 'pretrain' / 'checkpoints').iterdir():
    checkpoint.find(step)
  files.read_sealed(folder / 'study.json', 2)


def damages(path: pathlib.Path, draw):
  """Yields (what, damaged content or None) of a file; None removes it."""
  content = path.read_bytes()
  if not content:
    return
  for _ in range(FLIPS):
    position = draw.randrange(8 * len(content))
    changed = bytearray(content)
    changed[position // 8] ^= 1 << position % 8
    yield f'bit {position}', bytes(changed)
  yield 'cut', content[: len(content) // 2]
  yield 'removed', None


def same_json(one: bytes, other: bytes | None) -> bool:
  """Whether two texts are equal as JSON, e.g. but for white space."""
  try:
    return other is not None and json.loads(one) == json.loads(other)
  except ValueError:
    return False


def may_differ(name: str, one: bytes, other: bytes | None) -> bool:
  """Whether config.json differs in sections only that may change."""
  if pathlib.Path(name).name != 'config.json' or other is None:
    return False
  try:
    return run_folder.fixed_part(json.loads(one)) == run_folder.fixed_part(
      json.loads(other)
    )
  except ValueError:
    return False


@pytest.mark.slow
def test_every_file_of_a_finished_study(made, report_counts):
  draw = random.Random(0)
  counts = dict.fromkeys(('refused', 'harmless'), 0)
  paths = sorted(
    p for p in made.rglob('*') if p.is_file() and 'sft' not in str(p)
  )
  assert len(paths) > 30
  for path in paths:
    name = path.relative_to(made).as_posix()
    content = path.read_bytes()
    for what, damaged in damages(path, draw):
      if damaged is None:
        path.unlink()
      else:
        path.write_bytes(damaged)
      try:
        start(made)
      except (ValueError, errors.CheckpointError, OSError):
        counts['refused'] += 1
      else:
        assert (
          path.name in UNREAD
          or same_json(content, damaged)
          or may_differ(name, content, damaged)
        ), f'{name}: {what}'
        counts['harmless'] += 1
      path.write_bytes(content)
  start(made)
  report_counts(
    f'flips in {len(paths)} files of a finished study: {sum(counts.values())} '
    f'tried, {counts["refused"]} refused, {counts["harmless"]} harmless'
  )


@pytest.mark.slow
def test_every_file_of_an_interrupted_run(
  server, workdir, tmp_path, report_counts
):
  expected, half = tmp_path / 'expected', tmp_path / 'half'
  events = server.finish('pretrain', expected)['events']
  kill_at = events * 2 // 3
  while not list(half.glob('checkpoints/[0-9]*')):
    server.run('pretrain', half, kill_at=kill_at)
    kill_at += 5
  draw = random.Random(1)
  names = [
    *('config.json', 'inputs.json', 'metrics.jsonl', 'tokenizer.model'),
    *(
      p.relative_to(half).as_posix()
      for p in half.glob('checkpoints/[0-9]*/*.json')
    ),
  ]
  counts = dict.fromkeys(('refused', 'the same bits'), 0)
  for name in names:
    choices = list(damages(half / name, draw))
    for what, damaged in draw.sample(choices, 2):
      shutil.rmtree(workdir, ignore_errors=True)
      shutil.copytree(half, workdir)
      if damaged is None:
        (workdir / name).unlink()
      else:
        (workdir / name).write_bytes(damaged)
      result, output = server.run('pretrain', workdir)
      where = f'{name}: {what}: {output[-2000:]}'
      if result['status'] == 0:
        counts['the same bits'] += 1
        assert_same_run(workdir, expected)
      else:
        assert result['status'] == 1 and 'Traceback' not in output, where
        assert output.splitlines()[-1].startswith('error: '), where
        counts['refused'] += 1
  report_counts(
    f'damages of an interrupted run: {sum(counts.values())} tried, '
    + ', '.join(f'{n} {how}' for how, n in counts.items())
  )
