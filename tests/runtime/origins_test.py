"""What a run was made from: a change of it is refused by name."""

import json
import os

import pytest

from instructrl.runtime import contents
from instructrl.runtime import files
from instructrl.runtime import manifest
from instructrl.runtime import origins
from instructrl.runtime import run_folder


def make_data(folder, seed=1):
  """A finished run with rows, a data set and a checkpoint."""
  run_folder.write_config(folder, {'stage': 'lab', 'seed': seed})
  (folder / 'demonstrations.rows').write_bytes(b'rows of the lab')
  (folder / 'prompts' / 'prompt' / '2.0.0').mkdir(parents=True)
  (folder / 'prompts' / 'prompt' / '2.0.0' / 'part-0').write_text('records')
  make_step(folder, 4)
  run_folder.write_done(folder, {'seconds': 1, 'result': {}})
  return folder


def make_step(folder, step, text='weights'):
  path = folder / 'checkpoints' / f'{step:08d}'
  path.mkdir(parents=True, exist_ok=True)
  (path / 'meta.json').write_text(json.dumps({'step': step, 'text': text}))
  manifest.write(path)


def start(folder, data, **others):
  origins.check(folder, {'data': data, **others})


def unfinished(folder):
  """A copy of a finished run as an older version, or a half-done run, is."""
  (folder / 'DONE').unlink()


CHANGES = {
  'demonstrations.rows': lambda f: (f / 'demonstrations.rows').write_bytes(
    b'rows of another'
  ),
  'prompts/prompt/2.0.0/part-0': lambda f: (
    f / 'prompts' / 'prompt' / '2.0.0' / 'part-0'
  ).write_text('records of another'),
  'checkpoints/00000004/manifest.json': lambda f: make_step(f, 4, 'of sft'),
  'checkpoints/00000009 was added': lambda f: make_step(f, 9),
}


@pytest.mark.parametrize('sealed', [True, False])
@pytest.mark.parametrize('name', CHANGES)
def test_a_changed_input_is_refused_by_its_name(tmp_path, name, sealed):
  data, run = make_data(tmp_path / 'lab'), tmp_path / 'ppo'
  if not sealed:
    unfinished(data)
  start(run, data)
  start(run, data)
  CHANGES[name](data)
  with pytest.raises(ValueError) as caught:
    start(run, data)
  message = str(caught.value)
  assert message.startswith(f'inputs.data: {data} has changed since {run}')
  assert name in message and 'take another workdir' in message
  # A run that has finished is not called finished either.
  run_folder.write_done(run, {})
  with pytest.raises(ValueError, match='has changed since'):
    start(run, data)


@pytest.mark.parametrize('name', CHANGES)
def test_an_input_that_changed_before_the_start_is_refused(tmp_path, name):
  data = make_data(tmp_path / 'lab')
  CHANGES[name](data)
  with pytest.raises(
    ValueError, match='inputs.data: .*lab is not what its run wrote'
  ):
    start(tmp_path / 'ppo', data)
  assert not (tmp_path / 'ppo').exists()


def test_how_an_input_went_may_change(tmp_path):
  data, run = make_data(tmp_path / 'lab'), tmp_path / 'ppo'
  start(run, data)
  for name in ('timings.jsonl', 'log.txt', 'notes', '.x.tmp', 'a.partial'):
    (data / name).write_text('x')
  (data / 'checkpoints' / 'incomplete.00000005').mkdir()
  start(run, data)


def test_a_finished_run_may_lose_its_inputs(tmp_path, caplog):
  data, run = make_data(tmp_path / 'lab'), tmp_path / 'ppo'
  start(run, data)
  (data / 'demonstrations.rows').unlink()
  with pytest.raises(ValueError, match='demonstrations.rows is missing'):
    start(run, data)
  run_folder.write_done(run, {})
  start(run, data)
  assert 'are gone: demonstrations.rows' in caplog.text


def test_two_inputs_of_different_data_are_refused(tmp_path):
  """SFT was made from rows that were replaced before PPO began."""
  data, sft = make_data(tmp_path / 'lab'), tmp_path / 'sft'
  run_folder.write_config(sft, {'stage': 'sft'})
  start(sft, data)
  run_folder.write_done(sft, {})
  unfinished(data)
  CHANGES['demonstrations.rows'](data)
  run_folder.write_done(data, {})
  with pytest.raises(
    ValueError,
    match='inputs.policy: .*sft was made from other data than .*lab: '
    'demonstrations.rows',
  ):
    start(tmp_path / 'ppo', data, policy=sft)


def test_source_files_and_code_are_refused_by_name(tmp_path):
  run, path = tmp_path / 'data', tmp_path / 'rankings.jsonl'
  path.write_text('one')

  def begin(code='a' * 64):
    sources = {'rankings: jsonl:rankings.jsonl': path}
    origins.check(run, {}, sources=sources, code={'rewards.own': code})

  begin()
  begin()
  with pytest.raises(ValueError, match='was made from other rewards.own'):
    begin('b' * 64)
  path.write_text('two')
  with pytest.raises(
    ValueError,
    match='rankings: jsonl:rankings.jsonl: .* has changed since .*rankings',
  ):
    begin()


def test_a_large_file_is_read_when_a_run_begins(tmp_path, monkeypatch):
  monkeypatch.setattr(contents, '_LARGE', 4)
  data, run = make_data(tmp_path / 'lab'), tmp_path / 'ppo'
  read = []
  digest = manifest.digest
  monkeypatch.setattr(
    manifest, 'digest', lambda path: read.append(path.name) or digest(path)
  )
  start(run, data)
  assert sorted(read) == ['demonstrations.rows', 'manifest.json', 'part-0']
  read.clear()
  start(run, data)
  assert not read
  CHANGES['demonstrations.rows'](data)
  with pytest.raises(ValueError, match='has changed'):
    start(run, data)
  assert read == ['demonstrations.rows']


def test_a_bit_that_flips_in_a_large_file_changes_no_date(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(contents, '_LARGE', 4)
  data = make_data(tmp_path / 'lab')
  rows, text = data / 'demonstrations.rows', 'demonstrations.rows \\(recorded'
  stat = rows.stat()
  rows.write_bytes(b'rOws of the lab')
  os.utime(rows, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  with pytest.raises(ValueError, match=text):
    start(tmp_path / 'ppo', data)
  with pytest.raises(ValueError, match=text):
    run_folder.check_files(data, [rows.name])
  assert not run_folder.check_files(data, by_date=True)


def test_an_older_inputs_file_is_read_with_one_warning(tmp_path, caplog):
  data, run = make_data(tmp_path / 'lab'), tmp_path / 'ppo'
  run.mkdir()
  identity = origins.identity(data)
  (run / 'inputs.json').write_text(json.dumps({'data': identity}))
  start(run, data)
  start(run, data)
  assert caplog.text.count('has no digests') == 1
  CHANGES['demonstrations.rows'](data)
  with pytest.raises(ValueError, match='has changed since'):
    start(run, data)


def test_any_bit_of_what_is_recorded_counts(tmp_path):
  data, run = make_data(tmp_path / 'lab'), tmp_path / 'ppo'
  start(run, data)
  path = run / 'inputs.json'
  content = path.read_bytes()
  expected = json.loads(content)
  for position in range(0, 8 * len(content), 11):
    changed = bytearray(content)
    changed[position // 8] ^= 1 << position % 8
    path.write_bytes(changed)
    try:
      start(run, data)
    except ValueError:
      continue
    assert json.loads(changed) == expected, position


def test_done_has_digests_of_itself_and_of_all_files(tmp_path, caplog):
  data = make_data(tmp_path / 'lab')
  assert run_folder.check_files(data) == []
  path = data / 'DONE'
  content = path.read_bytes()
  for position in range(8 * len(content)):
    changed = bytearray(content)
    changed[position // 8] ^= 1 << position % 8
    path.write_bytes(changed)
    try:
      run_folder.read_done(data)
    except ValueError:
      continue
    assert json.loads(changed) == json.loads(content), position
  path.write_bytes(content)
  (data / 'config.json').write_text('{"stage": "lab", "seed": 2}')
  with pytest.raises(ValueError, match='config.json has other fields'):
    run_folder.check_files(data, ())
  assert not caplog.text
  files.write_json(path, {'format_version': 1, 'seconds': 1, 'result': {}})
  for _ in range(2):
    assert run_folder.read_done(data) == {'seconds': 1, 'result': {}}
  assert run_folder.check_files(data) == []
  assert caplog.text.count('an older version wrote it') == 1
