"""A whole study on the very small preset: corpus to report, killed and
resumed, and what a user does with it afterwards."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from experiments import study as study_config
from instructrl.evaluators.results import merged
from instructrl.evaluators.results import read
from instructrl.reports import report
from instructrl.runtime import metrics
from instructrl.runtime import run_folder

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAGES = study_config.get_config('micro').order
AT_ONCE = ('ppo_ptx', 'dpo')  # need no other stage that this test removes
POLICIES = ('base', 'prompted', 'sft', 'ppo_init', 'ppo', 'ppo_ptx', 'dpo')


def run(*args, check=True, **kwargs):
  """Runs a module of the package on one simulated device."""
  env = {**os.environ, 'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
    [sys.executable, '-m', *args],
    cwd=ROOT,
    env=env,
    text=True,
    capture_output=True,
    timeout=800,
    **kwargs,
  )
  if check and done.returncode:
    raise AssertionError(f'{args}:\n{done.stdout}\n{done.stderr}')
  return done


def start(*args):
  """Starts a module as `run` does, and does not wait for it."""
  return subprocess.Popen(
    [sys.executable, '-m', *args],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def kill_in(folder, *args, lines=3):
  """Runs a module, and kills it when a stage has some lines of metrics."""
  process = start(*args)
  deadline = time.time() + 300
  path = folder / 'metrics.jsonl'
  while (
    time.time() < deadline
    and process.poll() is None
    and not (path.exists() and len(path.read_text().splitlines()) >= lines)
  ):
    time.sleep(0.1)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (folder / 'DONE').exists()


def study_args(workdir):
  return (
    'instructrl.study',
    '--config=experiments/study.py:micro',
    f'--workdir={workdir}',
  )


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('study')
  run(*study_args(path))
  return path


@pytest.mark.slow
def test_every_stage_finishes_and_says_how_long_it_took(workdir):
  for stage in STAGES:
    done = run_folder.read_done(workdir / stage)
    assert done['seconds'] > 0
  results = json.loads((workdir / 'report' / 'results.json').read_text())
  assert set(results['seconds']) >= set(STAGES)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(workdir):
  """Its cells are plain Python, so they run without a notebook server."""
  path = ROOT / 'examples' / 'quickstart.ipynb'
  cells = json.loads(path.read_text('utf-8'))['cells']
  source = '\n'.join(
    ''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code'
  )
  done = subprocess.run(
    [sys.executable, '-c', source],
    cwd=path.parent,
    env={**os.environ, 'STUDY': str(workdir), 'MPLBACKEND': 'agg'}
    | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  for text in ('  ppo_ptx: ', ' nats by SFT', '60: 0.0', 'accuracy 1.00'):
    assert text in done.stdout


@pytest.mark.slow
def test_the_report_has_every_figure(workdir):
  results = json.loads((workdir / 'report' / 'results.json').read_text())
  for policy in POLICIES:
    found = results['preference'][policy]
    assert found['ci95'][0] <= found['win_rate'] <= found['ci95'][1]
    assert found['n'] > 0
    assert 0 <= found['heldout_labelers']['win_rate'] <= 1
  assert set(results['labeler_agreement']) >= {'train', 'heldout'}
  assert set(results['reward_model']['accuracy']) >= {'in_group', 'heldout'}
  for policy in ('base', 'sft', 'ppo', 'ppo_ptx'):
    assert results['alignment_tax'][policy]['nll'] > 0
    assert len(results['metadata'][policy]) == 12  # the rows of Table 3
  for stage in ('ppo', 'ppo_ptx'):
    curves = results['training'][stage]
    for name in (
      'reward',
      'judge',
      'kl',
      'entropy',
      'clip_frac',
      'pretrain_nll',
    ):
      assert curves[name], (stage, name)
  page = (workdir / 'report' / 'index.html').read_text()
  assert not re.search(r'(src|href)="https?://', page)


@pytest.mark.slow
def test_ppo_starts_at_the_reference(workdir):
  first = next(
    line
    for line in metrics.read_metrics(workdir / 'ppo')
    if 'objective/kl' in line
  )
  assert abs(first['objective/kl']) < 1e-3
  assert first['policy/clip_frac'] < 0.5


@pytest.mark.slow
def test_finished_stages_are_not_run_again(workdir):
  before = {
    stage: (workdir / stage / 'DONE').stat().st_mtime_ns for stage in STAGES
  }
  (workdir / 'report' / 'index.html').unlink()
  done = run(*study_args(workdir))
  assert '[5/13] nlp: finished before' in done.stdout
  assert (workdir / 'report' / 'index.html').exists()
  assert before == {
    stage: (workdir / stage / 'DONE').stat().st_mtime_ns for stage in STAGES
  }


@pytest.mark.slow
def test_policies_without_a_path_are_left_out_of_an_evaluation(workdir):
  """The others' figures are the same without them."""
  run(
    'instructrl.main',
    '--config=experiments/evaluation.py:micro',
    f'--workdir={workdir / "evaluation_some"}',
    '--config.policies.base=',
    '--config.policies.prompted=',
    '--config.policies.nlp=',
    '--config.policies.ppo_init=',
    '--config.policies.ppo=',
  )
  every, some = (
    merged(read(workdir / name)) for name in ('evaluation', 'evaluation_some')
  )
  assert {*some['preference']} == {'sft', 'ppo_ptx'}
  win_rate = lambda found: found['preference']['ppo_ptx']['win_rate']
  assert win_rate(some) == win_rate(every)
  assert some['probes']['ppo_ptx'] == every['probes']['ppo_ptx']


@pytest.mark.slow
def test_the_sft_checkpoint_is_the_one_of_the_best_score(workdir):
  found = run_folder.read_done(workdir / 'select_sft')['result']
  best = max(found['epochs'], key=lambda row: row['rm_score'])
  assert (found['selected_epoch'], found['selected_score']) == (
    best['epoch'],
    best['rm_score'],
  )


@pytest.mark.slow
def test_the_report_is_made_from_files_alone(workdir, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(
    workdir,
    copy,
    ignore=shutil.ignore_patterns('checkpoints', 'report', 'corpus', '*.rows'),
  )
  report.make_report(copy)
  a, b = (
    json.loads((w / 'report' / 'results.json').read_text())
    for w in (workdir, copy)
  )
  assert a == b


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_and_ends_the_same(workdir, tmp_path):
  """SIGKILL while PPO runs: same metrics, byte for byte."""
  copy = tmp_path / 'killed'
  shutil.copytree(workdir, copy)
  for stage in ('ppo', 'ppo_ptx', 'evaluation', 'report'):
    shutil.rmtree(copy / stage)
  kill_in(copy / 'ppo', *study_args(copy))
  run(*study_args(copy))
  for stage in ('ppo', 'ppo_ptx'):
    assert (copy / stage / 'metrics.jsonl').read_bytes() == (
      workdir / stage / 'metrics.jsonl'
    ).read_bytes()
  a, b = (
    json.loads((w / 'evaluation' / 'results.json').read_text())
    for w in (workdir, copy)
  )
  assert a == b


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_two_stages_at_a_time_are_stopped_and_end_the_same(
  workdir, tmp_path, number
):
  """SIGTERM to the study, or SIGKILL to all of its processes."""
  copy = tmp_path / 'stopped'
  shutil.copytree(workdir, copy)
  for stage in (*AT_ONCE, 'evaluation', 'report'):
    shutil.rmtree(copy / stage)
  args = (*study_args(copy), '--parallel=2')
  process = start(*args)
  deadline = time.time() + 300
  while time.time() < deadline and process.poll() is None:
    working = {
      stage: pid
      for stage in AT_ONCE
      if (pid := run_folder.holder(copy / stage))
    }
    paths = [copy / stage / 'metrics.jsonl' for stage in working]
    if len(working) == 2 and any(p.exists() and p.read_text() for p in paths):
      break
    time.sleep(0.05)
  assert len(working) == 2
  for pid in working.values() if number == signal.SIGKILL else ():
    os.kill(int(pid), number)
  process.send_signal(number)
  code = process.wait(timeout=300)
  assert code == (75 if number == signal.SIGTERM else -signal.SIGKILL)
  assert not all((copy / stage / 'DONE').exists() for stage in AT_ONCE)
  done = run(*args)
  assert '13 of 13 done' in done.stdout and 'finished before' in done.stdout
  for stage in AT_ONCE:
    assert (copy / stage / 'metrics.jsonl').read_bytes() == (
      workdir / stage / 'metrics.jsonl'
    ).read_bytes()
  name = pathlib.Path('evaluation', 'results.json')
  assert (copy / name).read_bytes() == (workdir / name).read_bytes()


@pytest.mark.slow
def test_a_user_talks_to_a_checkpoint(workdir):
  ask = lambda *args, **kwargs: (
    run('instructrl.sample', str(workdir / 'ppo'), *args, **kwargs).stdout
  )
  greedy = ask('--prompt', 'List three animals.', '--temperature', '0')
  assert greedy == ask('--prompt', 'List three animals.', '--temperature', '0')
  assert len(ask('--prompt', 'Hello.', '--n', '3').split('\n')) >= 3
  assert len(ask('--examples').splitlines()) == 10  # one of each use case
  piped = ask(
    '--temperature', '0', input='List three animals.\nList three animals.\n'
  )
  assert piped.strip()
  scored = run(
    'instructrl.sample',
    str(workdir / 'reward'),
    '--prompt',
    'List three animals.',
    '--response',
    'wolf, bear, fox.',
  )
  float(scored.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
  'args, message',
  [
    (('instructrl.sample', '/nowhere'), '/nowhere'),
    (
      (
        'instructrl.main',
        '--config=experiments/ppo.py:tiny',
        '--workdir=WORK',
        '--config.ppo.kl_coeff=1',
      ),
      'kl_coef',
    ),
    (
      ('instructrl.main', '--config=experiments/ppo.py:tiny', '--workdir=WORK'),
      'inputs.',
    ),
    (
      (
        'instructrl.study',
        '--config=experiments/study.py:huge',
        '--workdir=WORK',
      ),
      'huge',
    ),
  ],
)
def test_errors_are_one_clear_line(tmp_path, args, message):
  done = run(
    *(a.replace('WORK', str(tmp_path / 'w')) for a in args), check=False
  )
  assert done.returncode not in (0, None)
  last = done.stderr.strip().splitlines()[-1]
  assert message in last or message in done.stderr
  assert 'Traceback' not in done.stderr, done.stderr[-2000:]
