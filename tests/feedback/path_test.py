"""One person's path: from a trained study to PPO on their own rankings.

The commands are those of docs/feedback.md, at the size micro.
"""

import json

import pytest

from instructrl.data.folder import DataFolder
from instructrl.runtime import run_folder
from tests.feedback import browser_test
from tests.feedback import labeling
from tests.feedback.browser_test import browser  # noqa: F401 (a fixture)
from tests.study_test import run
from tests.study_test import workdir  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.slow, browser_test.pytestmark]
PROMPTS = 20


def label(browser, folder):
  """Ranks all prompts by the keyboard: short answers first, equal ones tie."""
  with labeling.server(folder) as (address, _, _process):
    page = browser_test.joined(browser, address, folder, 'Ada')
    while not page.url.endswith('/done'):
      lengths = [
        len(t) for t in page.locator('.answer .text').all_inner_texts()
      ]
      for length in lengths:
        page.keyboard.press(str(1 + sorted({*lengths}).index(length)))
      before = page.url
      with page.expect_navigation():
        page.keyboard.press('Control+Enter')
      assert page.url != before
    assert not page.errors


def test_from_a_study_to_ppo_on_ones_own_rankings(workdir, browser, tmp_path):  # noqa: F811
  mine = tmp_path / 'mine'
  run(
    'instructrl.label', 'sample',
    f'--policies=sft={workdir}/sft,ppo={workdir}/ppo',
    f'--prompts={workdir}/lab', '--k=4', f'--limit={PROMPTS}',
    '--max_tokens=16', f'--out={mine}',
  )  # fmt: skip
  label(browser, mine)
  run('instructrl.label', 'export', str(mine), f'--out={mine}/records')
  lines = (mine / 'records' / 'rankings.jsonl').read_text().splitlines()
  assert PROMPTS - 3 <= len(lines) <= PROMPTS  # without those of equal answers
  assert {json.loads(line)['labeler'] for line in lines} == {'Ada'}
  sources = f"('jsonl:{mine}/records/rankings.jsonl',)"
  main = lambda name, folder, *flags: run(
    'instructrl.main',
    f'--config=experiments/{name}.py:micro',
    f'--workdir={workdir / folder}',
    *flags,
  )
  main(
    'data',
    'people',
    f'--config.rankings={sources}',
    '--config.inputs.tokenizer=../lab',
    '--config.validation_fraction=0.2',
    '--config.split_by=prompt',
  )
  ranked = DataFolder(workdir / 'people')
  counts = [len(ranked.records('rankings', s)) for s in ('train', 'validation')]
  assert sum(counts) == len(lines) and min(counts) > 0
  main('reward', 'reward_people', '--config.inputs.rankings=../people')
  reward = '--config.rewards.reward_model.path=../reward_people'
  main('ppo', 'ppo_people', reward)
  result = run_folder.read_done(workdir / 'ppo_people')['result']
  assert result['num_iterations'] > 0
