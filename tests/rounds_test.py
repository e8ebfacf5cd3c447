"""A study of rounds on the very small preset, by the lab and by people."""

import json
import shutil

import pytest

from instructrl.data.folder import DataFolder
from instructrl.evaluators import results
from instructrl.runtime import exits
from instructrl.runtime import metrics
from instructrl.runtime import run_folder
from tests.stages import people_rankings_test
from tests.study_test import kill_in
from tests.study_test import run

pytestmark = pytest.mark.slow
BY_ROUND = ('ppo_1', 'ppo_2')
SECOND = ('reward_2', 'ppo_2', 'evaluation')


def args(workdir, *flags):
  return (
    'instructrl.study',
    '--config=experiments/rounds.py:micro',
    f'--workdir={workdir}',
    *flags,
  )


def ranked(workdir, number, split='train'):
  folder = DataFolder(workdir / f'rankings_{number}')
  return list(folder.records('rankings', split))


def bytes_of(workdir, stage):
  name = results.RESULTS if stage == 'evaluation' else 'metrics.jsonl'
  return (workdir / stage / name).read_bytes()


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('rounds')
  run(*args(path))
  return path


def test_the_second_round_ranks_the_policy_of_the_first(workdir):
  one, two = ranked(workdir, 1), ranked(workdir, 2)
  assert {r.prompt.id for r in one}.isdisjoint(r.prompt.id for r in two)
  for some in (one, two):
    assert 'policy' in {source for r in some for source in r.sources}
  counts = [
    run_folder.read_done(workdir / f'reward_{number}')['result']['rankings']
    for number in (1, 2)
  ]
  assert counts == [len(one), len(one) + len(two)]
  noise = [
    (workdir / f'rankings_{number}' / 'noise.json').read_text()
    for number in (1, 2)
  ]
  assert noise[0] == noise[1]


def test_the_report_has_the_measures_of_each_round(workdir):
  found = json.loads((workdir / 'report' / 'results.json').read_text())
  for measure in ('own_accuracy', 'judge_gain', 'over_optimization', 'kl'):
    policies = found['measures'][measure]['policies']
    assert {*BY_ROUND} <= {*policies}, measure
  assert [*found['measures']['next_accuracy']['policies']] == ['ppo_1']
  assert {*BY_ROUND} <= {*found['preference']}
  page = (workdir / 'report' / 'index.html').read_text()
  assert 'over optimization' in page.lower()


def test_a_killed_round_goes_on_and_ends_the_same(workdir, tmp_path):
  copy = tmp_path / 'killed'
  shutil.copytree(workdir, copy)
  for stage in (*SECOND, 'report'):
    shutil.rmtree(copy / stage)
  kill_in(copy / 'ppo_2', *args(copy))
  run(*args(copy))
  for stage in SECOND:
    assert bytes_of(copy, stage) == bytes_of(workdir, stage), stage


def test_a_round_goes_on_from_the_last_one(workdir, tmp_path):
  flags = ('--config.rounds.policy=last', '--config.rounds.reward=last')
  done = run(*args(tmp_path, *flags, f'--from={workdir}'))
  for stage in ('pretrain', 'rankings_2'):
    assert f'{stage}: taken from' in done.stdout
  fresh, continued = (
    next(
      line['objective/kl']
      for line in metrics.read_metrics(folder / 'ppo_2')
      if 'objective/kl' in line
    )
    for folder in (workdir, tmp_path)
  )
  assert abs(fresh) < 1e-3 < abs(continued)  # from ppo_init
  assert bytes_of(tmp_path, 'reward_2') != bytes_of(workdir, 'reward_2')


def test_people_rank_and_the_study_goes_on(workdir, tmp_path):
  pytest.importorskip('sqlalchemy')
  flags = (
    '--config.rounds.labelers=people',
    '--config.rounds.count=1',
    f'--from={workdir}',
  )
  for count in (0, 20):  # the second start samples nothing anew
    done = run(*args(tmp_path, *flags), check=False)
    assert done.returncode == exits.EXIT_WAITING, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert f'{count} of ' in last and f'serve {tmp_path}/people_1' in last
    people_rankings_test.rank(tmp_path / 'people_1', 20, f'Ada {count}')
  assert not (tmp_path / 'reward_1').exists()
  run(*args(tmp_path, *flags, '--config.round.rankings.people.enough=0.5'))
  assert {r.labeler for r in ranked(tmp_path, 1)} == {'Ada 0', 'Ada 20'}
  people_rankings_test.rank(tmp_path / 'people_1', 1, 'Bob')
  again = run(*args(tmp_path, *flags))  # later labels change no finished stage
  assert 'reward_1: finished before' in again.stdout
