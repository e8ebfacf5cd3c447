"""Stages of a study at the same time, with fake stages."""

import json
import sys

import pytest

from experiments import study as study_config
from instructrl.orchestration import children
from instructrl.orchestration import study
from instructrl.runtime import exits

ORDER = ('lab', 'pretrain', 'sft', 'ppo_init', 'rankings')
# Stands for `instructrl.study --stage=NAME`: waits until the stage of `MEETS`
# runs too, and ends with the status of `CODES`.
STAGE = """
import json, os, pathlib, sys, time
name, root = sys.argv[-1].removeprefix('--stage='), pathlib.Path(sys.argv[1])
rules = json.loads((root / 'rules.json').read_text())
(root / name / 'began').touch()
while name in rules['meets'] and not (
    root / rules['meets'][name] / 'began').exists():
  time.sleep(0.01)
if code := rules['codes'].get(name):
  sys.exit(code)
with open(root / 'journal', 'a') as f:
  f.write(f'{name}\\n')
(root / name / 'DONE').write_text(
    json.dumps({'format_version': 1, 'seconds': 1.0, 'result': {}}))
"""


@pytest.fixture(autouse=True)
def _often(monkeypatch):
  monkeypatch.setattr(children, 'POLL_SECONDS', 0.01)


def run(folder, meets=(), codes=()):
  """Runs the stages of ORDER two at a time; returns them as they ended."""
  rules = {'meets': dict(meets), 'codes': dict(codes)}
  (folder / 'rules.json').write_text(json.dumps(rules))
  config = study_config.get_config('micro')
  config.order = ORDER
  command = (sys.executable, '-c', STAGE, str(folder))
  study.run(config, folder, parallel=2, command=command)
  return (folder / 'journal').read_text().split()


def test_stages_that_do_not_need_each_other_meet(tmp_path, capsys):
  ended = run(tmp_path, meets={'sft': 'ppo_init', 'ppo_init': 'sft'})
  assert sorted(ended) == sorted(ORDER)
  assert ended[:2] == ['lab', 'pretrain'] and ended[-1] == 'rankings'
  out = capsys.readouterr().out
  assert '[4/5] ppo_init done in ' in out and '5 of 5 done' in out


def test_a_stage_that_fails_does_not_stop_the_others(tmp_path):
  with pytest.raises(SystemExit) as end:
    run(tmp_path, codes={'sft': 'error: it diverged'})
  assert end.value.code == (
    'error: sft: error: it diverged (exit status 1); the same command tries '
    'again. Not begun: rankings'
  )
  assert (tmp_path / 'ppo_init' / 'DONE').exists()
  run(tmp_path)
  assert (tmp_path / 'rankings' / 'DONE').exists()


@pytest.mark.parametrize('code', [74, 75])
def test_the_status_of_an_interrupted_stage_is_that_of_the_study(
  tmp_path, code
):
  with pytest.raises(SystemExit) as end:
    run(tmp_path, codes={'sft': code})
  assert end.value.code == code


def test_a_stage_that_waits_for_people_makes_the_study_wait(tmp_path):
  with pytest.raises(exits.Waiting):
    run(tmp_path, codes={'rankings': exits.EXIT_WAITING})


def test_a_stage_alone(tmp_path):
  config = study_config.get_config('micro')
  with pytest.raises(ValueError, match="--stage must be one of lab, .*'ppp'"):
    study.run_stage(config, tmp_path, 'ppp')
  with pytest.raises(ValueError, match='inputs.data'):
    study.run_stage(config, tmp_path, 'pretrain')
