"""Tests of the run's files."""

import json
import os
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.runtime import errors
from instructrl.runtime import files
from instructrl.runtime import metrics
from instructrl.runtime import origins
from instructrl.runtime import run_folder


def write_steps(writer, first, last):
  for step in range(first, last + 1):
    writer.scalars(step, {'loss/policy': np.float32(1) / step, 'a': step})
    writer.timings(step, {'perf/iter_s': 1e-9 + step / 3})
    writer.sample(step, {'prompt': 'Où?\u2028\n', 'tokens': [1, step]})


def test_lines_are_values_with_the_step_first(tmp_path):
  with metrics.RunWriter(tmp_path) as writer:
    writer.scalars(3, {'b': jnp.float32(0.1), 'a': np.int32(2)})
    writer.timings(3, {'perf/iter_s': 1 / 3})
    writer.sample(3, {'text': 'né\u2028\n'})
  assert (tmp_path / 'metrics.jsonl').read_text() == (
    '{"step": 3, "a": 2.0, "b": 0.10000000149011612}\n'
  )
  assert (tmp_path / 'timings.jsonl').read_text() == (
    '{"step": 3, "perf/iter_s": 0.333333}\n'
  )
  assert metrics.read_metrics(tmp_path / 'samples.jsonl') == [
    {'step': 3, 'text': 'né\u2028\n'}
  ]


def test_a_killed_and_resumed_run_leaves_the_same_bytes(tmp_path):
  with metrics.RunWriter(tmp_path / 'whole') as writer:
    write_steps(writer, 1, 9)
  writer = metrics.RunWriter(tmp_path / 'killed')
  write_steps(writer, 1, 6)  # not closed: the process is gone
  for name in ('metrics.jsonl', 'samples.jsonl', 'timings.jsonl'):
    with (tmp_path / 'killed' / name).open('a') as file:
      file.write('{"step": 7, "loss')
  with metrics.RunWriter(tmp_path / 'killed') as writer:
    writer.trim(4)
    write_steps(writer, 5, 9)
  for name in ('metrics.jsonl', 'samples.jsonl'):
    assert (tmp_path / 'killed' / name).read_bytes() == (
      tmp_path / 'whole' / name
    ).read_bytes()
  timings = metrics.read_metrics(tmp_path / 'killed' / 'timings.jsonl')
  assert [r['step'] for r in timings] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9]
  assert not list((tmp_path / 'killed').glob('.*'))


@pytest.mark.parametrize(
  'damage',
  [
    lambda text: text[: text.index('\n') + 1],
    lambda text: text.replace('"a": 2', '"a": 3'),
    lambda text: '',
  ],
)
@pytest.mark.parametrize('name', ['metrics.jsonl', 'samples.jsonl'])
def test_lines_that_are_not_those_of_the_checkpoint_are_refused(
  tmp_path, name, damage
):
  with metrics.RunWriter(tmp_path) as writer:
    write_steps(writer, 1, 4)
    written = writer.written()
    write_steps(writer, 5, 6)
  with metrics.RunWriter(tmp_path) as writer:
    writer.trim(4, written)
    assert writer.written() == written
    write_steps(writer, 5, 5)
  path = tmp_path / name
  text = path.read_text().replace('[1, 2]', '[1, 2], "a": 2')
  path.write_text(damage(text))
  with metrics.RunWriter(tmp_path) as writer:
    with pytest.raises(
      ValueError, match=f'{name} is not what the run wrote: .* step 4 recorded'
    ):
      writer.trim(4, written)


def test_trim_to_nothing_and_past_the_end(tmp_path):
  with metrics.RunWriter(tmp_path) as writer:
    write_steps(writer, 1, 3)
    before = (tmp_path / 'metrics.jsonl').stat()
    writer.trim(3)
    after = (tmp_path / 'metrics.jsonl').stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
    writer.trim(0)
    assert (tmp_path / 'metrics.jsonl').read_bytes() == b''
    assert (tmp_path / 'samples.jsonl').read_bytes() == b''
    write_steps(writer, 1, 1)
  assert [r['step'] for r in metrics.read_metrics(tmp_path)] == [1]


def test_trim_killed_before_the_rename_keeps_the_old_file(
  tmp_path, monkeypatch
):
  writer = metrics.RunWriter(tmp_path)
  write_steps(writer, 1, 3)
  before = (tmp_path / 'metrics.jsonl').read_bytes()

  def die(self, target):
    raise KeyboardInterrupt

  monkeypatch.setattr(metrics.pathlib.Path, 'replace', die)
  with pytest.raises(KeyboardInterrupt):
    writer.trim(1)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


def test_reading_leaves_out_a_torn_last_line_only(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"step": 2}\n{"st')
  assert metrics.read_metrics(tmp_path) == [{'step': 1}, {'step': 2}]
  for broken in ('{"step"', '{}', '[1]', '3', ''):
    path.write_text(f'{{"step": 1}}\n{broken}\n{{"step": 3}}\n')
    with pytest.raises(ValueError, match=r'metrics.jsonl:2: not a record'):
      metrics.read_metrics(path)
    with pytest.raises(ValueError, match=r'metrics.jsonl:2: not a record'):
      metrics.RunWriter(tmp_path).trim(1)


def test_a_killed_process_loses_no_line(tmp_path):
  code = (
    'import os, signal, sys\n'
    'from instructrl.runtime import metrics\n'
    'writer = metrics.RunWriter(sys.argv[1])\n'
    'for step in range(5): writer.scalars(step, {"loss": step})\n'
    'os.kill(os.getpid(), signal.SIGKILL)\n'
  )
  done = subprocess.run([sys.executable, '-c', code, tmp_path], check=False)
  assert done.returncode == -signal.SIGKILL
  assert [r['loss'] for r in metrics.read_metrics(tmp_path)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('value', [float('nan'), jnp.inf, -np.float32('inf')])
def test_non_finite_values_are_refused_by_name(tmp_path, value):
  with metrics.RunWriter(tmp_path) as writer:
    with pytest.raises(
      errors.NonFiniteError, match=r'^step 7: loss/value is (nan|inf|-inf)$'
    ):
      writer.scalars(7, {'loss/policy': 1.0, 'loss/value': value})
  assert (tmp_path / 'metrics.jsonl').read_bytes() == b''
  metrics.check_finite(7, {'loss/policy': 1e30})


def test_other_processes_write_nothing(tmp_path):
  with metrics.RunWriter(
    tmp_path / 'run', primary=False, trackers=('tensorboard',)
  ) as writer:
    write_steps(writer, 1, 2)
    writer.trim(1)
    with pytest.raises(errors.NonFiniteError):
      writer.scalars(3, {'loss': float('nan')})
  assert not (tmp_path / 'run').exists()


def test_tensorboard_events_are_written_when_asked_for(tmp_path):
  with metrics.RunWriter(tmp_path, trackers=('tensorboard',)) as writer:
    write_steps(writer, 1, 3)
  (events,) = (tmp_path / 'tensorboard').iterdir()
  assert b'loss/policy' in events.read_bytes()
  with metrics.RunWriter(tmp_path / 'without') as writer:
    write_steps(writer, 1, 3)
  assert not (tmp_path / 'without' / 'tensorboard').exists()


def test_done_is_absent_until_written(tmp_path):
  assert run_folder.read_done(tmp_path) is None
  run_folder.write_done(tmp_path, {'accuracy': 0.5})
  assert run_folder.read_done(tmp_path) == {'accuracy': 0.5}
  assert [p.name for p in tmp_path.iterdir()] == ['DONE']
  (tmp_path / 'DONE').write_text('{"format_version": 99}')
  with pytest.raises(ValueError, match='format_version 99'):
    run_folder.read_done(tmp_path)


def test_a_workdir_belongs_to_one_config(tmp_path):
  config = {'seed': 1, 'ppo': {'kl_coef': 0.02, 'sizes': (1, 2)}, 'x': None}
  run_folder.write_config(tmp_path / 'run', config)
  run_folder.write_config(tmp_path / 'run', config)  # a resume
  changed = {'seed': 1, 'ppo': {'kl_coef': 0.05, 'sizes': (1, 2)}}
  with pytest.raises(
    ValueError, match=r'ppo.kl_coef: 0.02 -> 0.05; x: null -> absent'
  ):
    run_folder.write_config(tmp_path / 'run', changed)
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['seed'] == 1


def test_how_a_run_is_watched_saved_and_laid_out_may_change(tmp_path):
  config = lambda **fields: {'seed': 1, 'log': {'every': 1}, **fields}
  run_folder.write_config(tmp_path, config(mesh={'data': -1}))
  new = config(mesh={'data': 4}, log={'every': 5}, checkpoint={'keep': 3})
  run_folder.write_config(tmp_path, new)
  assert json.loads((tmp_path / 'config.json').read_text()) == new
  with pytest.raises(ValueError, match='inputs.init'):
    run_folder.write_config(tmp_path, config(inputs={'init': 'other'}))


def test_config_fingerprint_ignores_the_order_of_keys():
  fingerprint = files.fingerprint
  assert fingerprint({'a': 1, 'b': (2,)}) == fingerprint({'b': [2], 'a': 1})
  assert fingerprint({'a': 1}) != fingerprint({'a': 2})


def make_run(folder, *, inputs=(), **config):
  """A run folder that was started from other ones."""
  run_folder.write_config(folder, config)
  origins.check(folder, {path.name: path for path in inputs})


def test_a_run_keeps_to_the_inputs_that_it_started_from(tmp_path):
  lab, ppo, report = (tmp_path / name for name in ('lab', 'ppo', 'report'))
  make_run(lab, seed=1)
  make_run(ppo, inputs=[lab], kl_coef=0.02)
  make_run(report, inputs=[ppo], n=3)
  make_run(report, inputs=[ppo], n=3)  # a resume
  # How the input was watched says nothing of what it is.
  run_folder.write_config(ppo, {'kl_coef': 0.02, 'log': {'every': 7}})
  make_run(report, inputs=[ppo], n=3)
  # Two stages above, something is made anew in another way.
  (lab / 'config.json').unlink()
  make_run(lab, seed=2)
  make_run(report, inputs=[ppo], n=3)  # nothing followed from it yet
  with pytest.raises(ValueError, match='ppo was made from another lab than'):
    make_run(ppo, inputs=[lab], kl_coef=0.02)
  (ppo / 'inputs.json').unlink()
  make_run(ppo, inputs=[lab], kl_coef=0.02)
  with pytest.raises(ValueError, match='remove .*report to make it again'):
    make_run(report, inputs=[ppo], n=3)


def test_identity_is_of_the_run_and_the_part_of_it(tmp_path):
  make_run(tmp_path / 'a' / 'run', seed=1)
  make_run(tmp_path / 'b' / 'run', seed=1)
  make_run(tmp_path / 'c', seed=2)
  identity = origins.identity
  assert identity(tmp_path / 'a' / 'run') == identity(tmp_path / 'b' / 'run')
  assert identity(tmp_path / 'a' / 'run') != identity(tmp_path / 'c')
  steps = [tmp_path / 'c' / 'checkpoints' / name for name in ('1', '2')]
  assert len({identity(path) for path in (tmp_path / 'c', *steps)}) == 3


def test_a_config_is_compared_before_anything_is_written(tmp_path):
  run_folder.check_config(tmp_path / 'new', {'seed': 1})
  assert not (tmp_path / 'new').exists()
  run_folder.write_config(tmp_path / 'run', {'seed': 1})
  with pytest.raises(ValueError, match='run was made with another'):
    run_folder.check_config(tmp_path / 'run', {'seed': 2})


def test_inputs_are_of_the_same_data(tmp_path):
  folders = tmp_path / 'data', tmp_path / 'other' / 'data'
  for seed, data in enumerate(folders):
    make_run(data, seed=seed)
  make_run(tmp_path / 'rankings', inputs=[folders[0]])
  make_run(tmp_path / 'reward', inputs=[folders[0], tmp_path / 'rankings'])
  with pytest.raises(
    ValueError, match='inputs.rankings: .* was made from other data than'
  ):
    make_run(tmp_path / 'second', inputs=[folders[1], tmp_path / 'rankings'])


@pytest.mark.parametrize('text', ['', '{"a": 1', '[]', 'null'])
@pytest.mark.parametrize('name', ['DONE', 'config.json', 'inputs.json'])
def test_damaged_files_are_named(tmp_path, name, text):
  make_run(tmp_path, seed=1)
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=f'{name} is damaged'):
    origins.identity(tmp_path)
    run_folder.read_done(tmp_path)


def test_links_in_a_run_folder_are_refused(tmp_path):
  run, target = tmp_path / 'run', tmp_path / 'target'
  target.write_text('precious\nwithout an end')
  run.mkdir()
  (run / 'lock').symlink_to(target)
  with pytest.raises(ValueError, match='run/lock is a symbolic link to'):
    with run_folder.only_process(run):
      pass
  with pytest.raises(ValueError, match='run/lock is a symbolic link to'):
    run_folder.holder(run)
  (run / 'lock').unlink()
  for name in ('metrics.jsonl', 'samples.jsonl', 'timings.jsonl'):
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)
    with pytest.raises(ValueError, match=f'run/{name} is a symbolic link to'):
      metrics.RunWriter(run)
    (run / name).unlink()
  assert target.read_text() == 'precious\nwithout an end'


def test_who_is_at_work_in_a_folder(tmp_path):
  assert run_folder.holder(tmp_path / 'nothing') is None
  with run_folder.only_process(tmp_path):
    assert run_folder.holder(tmp_path) == str(os.getpid())
  assert run_folder.holder(tmp_path) is None


def test_a_run_is_not_taken_for_the_data_that_it_was_made_from(tmp_path):
  make_run(tmp_path / 'lab' / 'data')
  make_run(tmp_path / 'run' / 'data', inputs=[tmp_path / 'lab' / 'data'])
  with pytest.raises(ValueError, match='inputs.data: .* is not a data folder'):
    make_run(tmp_path / 'new', inputs=[tmp_path / 'run' / 'data'])
