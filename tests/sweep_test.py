"""A sweep from its command to its results, with fake stages."""

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from experiments import paper
from experiments import worlds
from experiments.ablations import base
from instructrl.orchestration import children
from instructrl.orchestration import commands
from instructrl.orchestration import graph
from instructrl.orchestration import sweep
from instructrl.reports import report
from instructrl.reports import study_files
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder

ROOT = pathlib.Path(__file__).resolve().parent.parent
KL = 'ppo_ptx.ppo.kl_coef'

# Replaces `instructrl.main`: fails if an input is not done, locks the folder,
# and fails where a file says so.
STAGE = """
import fcntl, json, os, pathlib, sys, time
flags = dict(a[2:].split('=', 1) for a in sys.argv[1:])
folder = pathlib.Path(flags['workdir'])
folder.mkdir(exist_ok=True)
for name, path in flags.items():
  if name.startswith('config.inputs.') and path:
    assert (folder / path / 'DONE').exists(), f'{name}: {path} is not done'
lock = open(folder / 'lock', 'w')
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
lock.write(f'{os.getpid()}\\n')
lock.flush()
rules = json.loads((folder.parent / 'rules.json').read_text())
with open(folder.parent / 'journal', 'a') as f:
  f.write(f'{folder.name}\\n')
kl_coef = float(flags.get('config.ppo.kl_coef', 0.3))
if folder.name.startswith('ppo_ptx'):
  if kl_coef in rules['fail']:
    sys.exit('error: it diverged')
  time.sleep(rules['sleep'])
score = kl_coef + int(flags.get('config.train_seed', 0))
(folder / 'metrics.jsonl').write_text(
    json.dumps({'step': 1, 'objective/scores': score}) + '\\n')
(folder / 'DONE.part').write_text(json.dumps(
    {'format_version': 1, 'seconds': 1.0, 'result': {'kl_coef': kl_coef}}))
(folder / 'DONE.part').replace(folder / 'DONE')
"""


@pytest.fixture(name='folder')
def _folder(tmp_path, monkeypatch):
  monkeypatch.setattr(children, 'POLL_SECONDS', 0.01)
  rules(tmp_path)
  (tmp_path / 'stage.py').write_text(STAGE)
  return tmp_path


def rules(folder, fail=(), sleep=0.0):
  (folder / 'rules.json').write_text(
    json.dumps({'fail': list(fail), 'sleep': sleep})
  )


def journal(folder):
  """Returns the stages that ran, in order."""
  path = folder / 'journal'
  return [name.split('-')[0] for name in path.read_text().split()] * (
    path.exists()
  )


def make(folder):
  config = base.get_config(
    'micro',
    ('ppo_ptx',),
    (('score', 'ppo_ptx', 'metrics.jsonl', 'objective/scores'),),
  )
  config.plot.x, config.seeds = KL, (0, 1)
  return config, graph.of_sweep(config, [{KL: 0.1}, {KL: 0.3}], folder)


def run(folder, **kwargs):
  (results,) = sweep.run(
    [sweep.Part('name', 'Title', *make(folder))],
    folder,
    program=(str(folder / 'stage.py'),),
    **kwargs,
  )
  return results


def test_all_points_run_and_what_they_share_runs_once(folder):
  results = run(folder, parallel=2)
  seen = journal(folder)
  assert sorted(seen) == sorted(
    [
      'lab',
      'pretrain',
      'sft',
      'ppo_init',
      'rankings',
      'reward',
      *['ppo_ptx'] * 4,
    ]
  )
  assert [p['status'] for p in results['points']] == ['done'] * 4
  assert [s['measures']['score']['values'] for s in results['settings']] == [
    [0.1, 1.1],
    [0.3, 1.3],
  ]
  assert (
    json.loads((folder / 'name' / 'sweep.json').read_text())['points']
    == results['points']
  )
  assert (folder / 'name' / 'figure.png').exists()
  run(folder)
  assert journal(folder) == seen


def test_parts_share_what_they_start_from_and_have_results_of_their_own(folder):
  """Of a composite config; one part is shown though another one fails."""
  rules(folder, fail=[3.0])
  parts = []
  for name, values in (('low', (0.1, 0.3)), ('high', (0.3, 3.0))):
    config, _ = make(folder)
    config.seeds = (0,)
    made = graph.of_sweep(config, [{KL: v} for v in values], folder)
    parts.append(sweep.Part(name, 'Title', config, made))
  program = (str(folder / 'stage.py'),)
  low, high = sweep.run(parts, folder, program=program)
  seen = journal(folder)
  assert seen.count('ppo_ptx') == 3 and seen.count('pretrain') == 1
  assert {p['status'] for p in low['points']} == {'done'}
  assert not low['failed'] and len(high['failed']) == 1
  for name in ('low', 'high'):
    assert (folder / name / 'index.html').exists()
  with pytest.raises(SystemExit, match='1 runs failed .* 1 of 4 points are'):
    sweep.finish(folder, [low, high])


def test_points_that_are_studies_have_reports(folder, monkeypatch):
  """A folder of links, which the report reads as that of a study."""
  made = []
  monkeypatch.setattr(report, 'make_report', made.append)
  config = worlds.get_config('micro')
  config.seeds, config.measures, config.expected = (0, 1), (), ()
  points = graph.of_sweep(config, [{'world_seed': 3}], folder)
  part = sweep.Part('worlds', 'Title', config, points)
  program = (str(folder / 'stage.py'),)
  sweep.run([part], folder, program=program)
  sweep.run([part], folder, program=program)  # links are there already
  names = ['world_seed=3_seed0', 'world_seed=3_seed1']
  assert made == [folder / 'worlds' / name for name in names] * 2
  header = files.read_sealed(made[1] / 'study.json', study_files.FORMAT_VERSION)
  assert header['seeds'] == {'world_seed': 3, 'train_seed': 1, 'eval_seed': 0}
  assert 'ppo_ptx' in header['stages'] and header['stages'][-1] == 'evaluation'
  # A run that was removed is made again: the report reads its files.
  shutil.rmtree((made[0] / 'ppo').resolve())
  # With another config the folders of the studies lead to its runs.
  config.stages.ppo.ppo.kl_coef = 0.7
  points = graph.of_sweep(config, [{'world_seed': 3}], folder)
  sweep.run([dataclasses.replace(part, sweep=points)], folder, program=program)
  for stage in header['stages']:
    run_name = points.points[1].runs[stage]
    assert (made[1] / stage).resolve() == (folder / run_name).resolve()
    assert (made[1] / stage / 'DONE').exists()


def test_a_composite_names_its_parts(folder):
  path = ROOT / 'experiments' / 'paper.py'
  config = paper.get_config('micro')
  config.order = ('kl_coef', 'reward_epochs')
  parts, _ = sweep.load(str(path), config, (), folder)
  assert [part.name for part in parts] == ['kl_coef', 'reward_epochs']
  assert parts[0].title.startswith('KL coefficient with the pretraining mix')
  for order, message in (
    ((), 'order is empty: name one or more of the parts'),
    (('kl',), "order must name parts of the config, batch_size, .*; got 'kl'"),
    (('kl_coef',) * 2, "order must name each part once; 'kl_coef' is twice"),
  ):
    config.order = order
    with pytest.raises(ValueError, match=message):
      sweep.load(str(path), config, (), folder)


def test_the_page_has_parts_that_ran_before_and_the_flags(folder, capsys):
  """Parts may run one after another; one with another config is left out."""
  path = ROOT / 'experiments' / 'paper.py'
  config = paper.get_config('micro')
  config.parts.sft_epochs.stages.sft.optimizer.peak_lr = 0.007
  program = (str(folder / 'stage.py'),)
  for name in ('sft_epochs', 'reward_epochs'):
    config.order = (name,)
    parts, page = sweep.load(str(path), config, (), folder)
    sweep.run(parts, folder, page=page, program=program)
  text = (folder / 'paper' / 'paper.md').read_text()
  assert text.count('sft_epochs, 1 seed ') == 2
  assert text.count('reward_epochs, 1 seed ') == 1
  flag = '--config.parts.sft_epochs.stages.sft.optimizer.peak_lr=0.007'
  assert f'paper.py:micro {flag} --workdir=DIR\n' in text
  file = folder / 'sft_epochs' / 'sweep.json'
  file.write_text(file.read_text()[:100])
  sweep.run(parts, folder, page=page, program=program)
  assert 'sft_epochs,' not in (folder / 'paper' / 'paper.md').read_text()
  printed = capsys.readouterr()
  assert 'sft_epochs: its results are of another config' in printed.out
  assert 'sweep.json is damaged' in printed.err


def test_what_a_finished_end_came_from_may_be_removed(folder):
  run(folder)
  seen = journal(folder)
  for path in folder.glob('reward-*/*'):
    path.unlink()
  assert {p['status'] for p in run(folder)['points']} == {'done'}
  assert journal(folder) == seen


def test_a_point_that_fails_stops_no_other_and_is_tried_again(folder, capsys):
  rules(folder, fail=[0.1])
  results = run(folder)
  assert [p['status'] for p in results['points']] == [
    'failed',
    'failed',
    'done',
    'done',
  ]
  with pytest.raises(
    SystemExit,
    match='error: 2 runs failed and 0 could not '
    'begin; 2 of 4 points are not done',
  ) as end:
    sweep.finish(folder, [results])
  assert end.value.code != 0
  captured = capsys.readouterr()
  first = results['points'][0]['runs']['ppo_ptx']
  assert captured.err.splitlines()[0] == (
    'failed: ppo_ptx (kl_coef=0.1, seed 0): error: it diverged (exit status '
    f'1); log: {folder}/{first}/log.txt'
  )
  assert '| 0.1 |  | 0 of 2 |' in captured.out
  rules(folder)
  results = run(folder)
  title = 'ppo_ptx (kl_coef=0.1, seed 0)'
  assert f'name: {title} failed before; trying again' in (
    capsys.readouterr().out
  )
  assert not results['failed'] and journal(folder).count('ppo_ptx') == 6
  assert {p['status'] for p in results['points']} == {'done'}


def test_an_interrupted_run_is_no_failure(folder, capsys):
  text = (folder / 'stage.py').read_text()
  (folder / 'stage.py').write_text(
    text.replace("sys.exit('error: it diverged')", 'sys.exit(75)')
  )
  rules(folder, fail=[0.1])
  results = run(folder)
  assert not results['failed']
  with pytest.raises(SystemExit) as end:
    sweep.finish(folder, [results])
  assert end.value.code == processes.EXIT_STOPPED
  assert '2 of 4 points are not done; run the same command to go on' in (
    capsys.readouterr().err
  )


def test_a_second_sweep_of_the_name_is_kept_out(folder):
  (folder / 'name').mkdir()
  with run_folder.only_process(folder / 'name'):
    with pytest.raises(ValueError, match='is at work in this folder'):
      run(folder)
  assert not (folder / 'journal').exists()


def test_a_given_folder_must_be_there(folder):
  config, _ = make(folder)
  config.given.lab = str(folder / 'nothing')
  made = graph.of_sweep(config, [{KL: 0.1}], folder)
  with pytest.raises(ValueError, match='given.lab: there is no folder'):
    sweep.run([sweep.Part('name', 'Title', config, made)], folder)
  assert not (folder / 'name').exists()


START = """
import pathlib, sys
sys.path.insert(0, sys.argv[2])
import sweep_test
sweep_test.run(pathlib.Path(sys.argv[1]), parallel=2)
"""


def environment():
  """One simulated device; most of the time of a small stage is compilation."""
  flags = '--xla_backend_optimization_level=0'
  return {**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': flags}


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_loses_nothing(folder, capsys):
  """Its children live on; the next sweep waits for them."""
  rules(folder, sleep=8.0)
  with subprocess.Popen(
    [sys.executable, '-c', START, folder, ROOT / 'tests'],
    cwd=ROOT,
    env=environment(),
    stdout=subprocess.DEVNULL,
  ) as process:
    while not (folder / 'journal').exists() or (
      journal(folder).count('ppo_ptx') < 2
    ):
      assert process.poll() is None
      time.sleep(0.02)
    process.kill()
  saved = json.loads((folder / 'name' / 'sweep.json').read_text())
  assert [p['status'] for p in saved['points']] == [
    'running',
    'running',
    'left',
    'left',
  ]
  rules(folder)
  results = run(folder)
  assert {p['status'] for p in results['points']} == {'done'}
  assert journal(folder).count('ppo_ptx') == 4
  assert len(journal(folder)) == 10
  assert 'is at work on it; waiting' in capsys.readouterr().out


def command(*flags, config=ROOT / 'experiments/ablations/kl_coef.py'):
  return subprocess.run(
    [
      sys.executable,
      '-m',
      'instructrl.sweep',
      f'--config={config}:micro',
      *flags,
    ],
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    check=False,
  )


def test_print_writes_lines_in_order_and_runs_nothing(tmp_path):
  found = command(
    f'--workdir={tmp_path}/w x',
    '--print',
    f'--set={KL}=0.3,0.30',
    '--config.seeds=(0,1)',
  )
  assert found.returncode == 0, found.stderr
  names = []
  for line in found.stdout.splitlines():
    argv = shlex.split(line)
    assert argv[:3] == ['python', '-m', 'instructrl.main']
    flags = dict(a.split('=', 1) for a in argv[3:])
    assert all(
      pathlib.Path(path).name in names
      for flag, path in flags.items()
      if flag.startswith('--config.inputs.') and path
    )
    names.append(pathlib.Path(flags['--workdir']).name)
    assert names[-1].split('-')[1] == graph.digest(
      commands.read_config(argv[3:])
    )
  assert len(names) == len({*names}) == 11
  assert 'kl_coef=0.3, seed 0 equals kl_coef=0.3, seed 0' in (found.stderr)
  assert 'the groups are the lines 1, 2, 3-4, 5, 6, 7-9, 10-11.' in found.stderr
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'flags, message',
  [
    (
      (f'--set={KL}=much',),
      f"error: --set {KL}: value must be of type float; got 'much'",
    ),
    pytest.param(
      ('--parallel=0',),
      'error: --parallel=0 must be 1 or more',
      marks=pytest.mark.slow,
    ),
    ((f'--set={KL}=-1',), 'error: kl_coef=-1.0, seed 0: stages.ppo_ptx: '),
  ],
)
def test_a_mistake_is_one_line(tmp_path, flags, message):
  found = command(f'--workdir={tmp_path}/w', *flags)
  assert found.returncode == 1 and not found.stdout
  assert found.stderr.startswith(message) and found.stderr.count('\n') == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'text, message',
  [
    pytest.param('', 'has no sweep(add, config)', marks=pytest.mark.slow),
    ('def sweep(add, config):\n  pass', 'adds no point'),
  ],
)
def test_a_file_that_varies_nothing_is_refused(tmp_path, text, message):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from experiments.ablations import base\n'
    'get_config = lambda arg: base.ppo(arg)\n' + text
  )
  found = command(f'--workdir={tmp_path}/w', config=path)
  assert found.returncode == 1 and message in found.stderr
  assert found.stderr.count('\n') == 1


# Two points of ppo_init; the rows of the second do not exist.
REAL = '''"""Rows of PPO's start."""
from experiments.ablations import base

def get_config(arg):
  c = base.get_config(arg, ('ppo_init',), (
      ('loss', 'ppo_init', 'DONE', 'result.loss/validation'),))
  c.seeds = (0,)
  c.plot.x = 'ppo_init.pretrain_mix'
  return c

def sweep(add, config):
  add({'ppo_init.pretrain_mix': 0.0})
  add({'ppo_init.pretrain_mix': 0.5, 'ppo_init.pretrain_rows': 'lost.rows'})
'''


@pytest.mark.slow
def test_real_stages_are_killed_printed_and_run_to_the_end(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(REAL)
  argv = [
    sys.executable,
    '-m',
    'instructrl.sweep',
    f'--config={path}:micro',
    f'--workdir={tmp_path}/w',
    '--parallel=2',
  ]
  printed = subprocess.run(
    [*argv, '--print'],
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()
  # Run the first line with a shell in the checkout.
  subprocess.run(
    ['bash', '-c', printed[0].replace('python', sys.executable, 1)],
    cwd=ROOT,
    env=environment(),
    check=True,
  )
  (lab,) = (tmp_path / 'w').glob('lab-*')
  done = (lab / 'DONE').stat().st_mtime_ns
  config = (lab / 'config.json').read_bytes()
  with subprocess.Popen(
    argv, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL
  ) as process:
    while not list((tmp_path / 'w').glob('pretrain-*/checkpoints/0*')):
      assert process.poll() is None
      time.sleep(0.1)
    process.kill()
  number = run_folder.holder(next((tmp_path / 'w').glob('pretrain-*')))
  if number:  # kill the run that the sweep had started, too
    os.kill(int(number), signal.SIGKILL)
  found = subprocess.run(
    argv,
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 1, found.stderr
  assert 'error: 1 runs failed and 0 could not begin; 1 of 2' in found.stderr
  assert 'lost.rows' in found.stderr and 'Traceback' not in found.stderr
  assert (lab / 'DONE').stat().st_mtime_ns == done
  assert (lab / 'config.json').read_bytes() == config
  results = json.loads((tmp_path / 'w' / 'mine' / 'sweep.json').read_text())
  assert [p['status'] for p in results['points']] == ['done', 'failed']
  assert 0 < results['points'][0]['measures']['loss'] < 10
  assert sorted(p.name.split('-')[0] for p in (tmp_path / 'w').iterdir()) == [
    'lab',
    'mine',
    'ppo_init',
    'ppo_init',
    'pretrain',
  ]


@pytest.mark.slow
def test_parts_of_the_paper_at_micro(tmp_path):
  """Real stages: every measure, line and statement of three parts is there."""
  names = ('ptx_coef', 'episodes', 'reward_folds')
  found = subprocess.run(
    [
      sys.executable,
      '-m',
      'instructrl.sweep',
      f'--config={ROOT}/experiments/paper.py:micro',
      f'--workdir={tmp_path}/w',
      f'--config.order={names}',
      '--parallel=2',
    ],
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 0, found.stderr
  for name in names:
    results = json.loads((tmp_path / 'w' / name / 'sweep.json').read_text())
    assert not results['missing']
    titles = {title for title, *_ in results['config']['measures']}
    assert all({*p['measures']} == titles for p in results['points'])
    assert results['lines'].keys() == {
      m for m, *_ in results['config']['lines']
    }
    assert results['verdicts']
    assert all(row['verdict'] != 'not measured' for row in results['verdicts'])
