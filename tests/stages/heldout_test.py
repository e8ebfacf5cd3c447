"""Held-out figures: of pairs by hand, and of a whole micro stage."""

import json

import numpy as np
import pytest

from experiments import heldout as heldout_config
from instructrl.data import store
from instructrl.data import tasks
from instructrl.data.records import Prompt, Ranking
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import heldout
from instructrl.stages import policies
from tests import tiny
from tests.stages import conftest
from tests.stages import stages


def ranking(ranks, name='own/1'):
  k = len(ranks)
  return Ranking(
    prompt=Prompt(
      id=name, text=name, user='', use_case='other', split='validation'
    ),
    labeler='l',
    group='train',
    responses=('x',) * k,
    response_tokens=(),
    sources=('s',) * k,
    temperatures=(1.0,) * k,
    ranks=tuple(ranks),
  )


@pytest.mark.parametrize(
  'scores, ranks, expected',
  [
    ([2, 1], [0, 1], (1, 1)),
    ([1, 2], [0, 1], (0, 1)),
    ([1, 1], [0, 1], (0.5, 1)),
    ([3, 1], [0, 0], (0, 0)),
    # Best first, then a tie, then the worst: five pairs, of which the scores
    # have (0, 1), (0, 3), (2, 3) right and (1, 3) half.
    ([3, 1, 4, 1], [0, 1, 1, 2], (3.5, 5)),
  ],
)
def test_pairs_by_hand(scores, ranks, expected):
  assert heldout.pair_counts(scores, ranks) == expected


def test_accuracies_are_by_data_set_and_ties_do_not_count():
  rankings = [
    ranking([0, 1], 'a/1'),
    ranking([1, 0, 2], 'a/2'),
    ranking([0, 0], 'a/3'),
    ranking([0, 1], 'b/1'),
  ]
  right = [-np.asarray(r.ranks) for r in rankings]
  wrong = [np.asarray(r.ranks) for r in rankings]
  found = heldout.accuracies(rankings, {'worst': wrong, 'best': right}, seed=0)
  assert set(found) == {'all', 'a', 'b'}
  assert {
    name: (part['pairs'], part['prompts']) for name, part in found.items()
  } == {'all': (5, 3), 'a': (4, 2), 'b': (1, 1)}
  for part in found.values():
    assert part['judges']['best']['value'] == 1
    assert part['judges']['worst']['value'] == 0
    assert part['difference']['worst']['value'] == 1
  assert set(heldout.accuracies(rankings[:2], {'best': right[:2]}, seed=0)) == {
    'a'
  }
  assert heldout.data_set(ranking([0, 1], 'hh/base/12ab')) == 'hh/base'


@pytest.fixture(scope='module')
def runs(study, tmp_path_factory):
  """A folder with finished policies and a reward model of known configs."""
  folder = tmp_path_factory.mktemp('heldout')
  for name in ('lab', 'rankings'):
    (folder / name).symlink_to(study / name)
  tok = conftest.Tokenizer.load(folder / 'lab' / conftest.Tokenizer.FILE)
  configs = stages.configs()
  model = build.make_model(configs['sft'], tok.vocab_size)
  for i, name in enumerate(('import', 'sft', 'ppo', 'ppo_ptx')):
    params = tiny.params(model, std=0.05 * (i + 1))
    conftest.save_run(
      folder / name, tok, params, config=configs['sft'].to_dict()
    )
  conftest.save_run(
    folder / 'reward',
    tok,
    tiny.scalar_params(model, std=0.05),
    config=configs['reward'].to_dict(),
  )
  return folder


def config_of(**changes):
  c = heldout_config.get_config('cpu')
  c.inputs.update(data='../lab', rankings='../rankings')
  c.update(
    num_prompts=5, num_rows=4, prompt_len=8, response_len=4, batch_size=8
  )
  c.update(changes)
  return c


def test_a_whole_evaluation(runs, tok, one_device, monkeypatch):
  workdir = runs / 'heldout'
  done = heldout.run(config_of(), workdir)
  results = json.loads((workdir / 'results.json').read_text())
  samples = [
    json.loads(line)
    for line in (workdir / 'samples.jsonl').read_text().splitlines()
  ]
  assert done['prompts'] == len(samples) == 5
  assert [*samples[0]['policies']] == list(heldout.POLICIES)
  for name in ('nll', 'score', 'length', 'ended'):
    assert [*results[name]['policies']] == list(heldout.POLICIES), name
  assert [*results['kl']['policies']] == ['ppo', 'ppo_ptx']
  assert results['nll']['policies']['sft']['n'] == 4
  # The figures are those of the samples.
  scores = [s['policies']['ppo']['score'] for s in samples]
  assert results['score']['policies']['ppo']['value'] == pytest.approx(
    np.mean(scores)
  )
  difference = results['score']['difference']['ppo']['sft']['value']
  assert difference == pytest.approx(
    np.mean(
      [
        s['policies']['ppo']['score'] - s['policies']['sft']['score']
        for s in samples
      ]
    )
  )
  # Longer is better, counted again from the records.
  right = total = 0
  for r in store.read_records(runs / 'rankings', 'rankings', 'validation'):
    if tasks.fits(tasks.chat_prompt(tok, r.prompt.text), 8):
      counted = heldout.pair_counts(
        [len(t) for t in r.response_tokens], r.ranks
      )
      right, total = right + counted[0], total + counted[1]
  assert [*results['accuracy']] == ['rankings']  # their ids name none
  part = results['accuracy']['rankings']
  assert part['pairs'] == total
  assert part['judges']['longer is better']['value'] == pytest.approx(
    right / total
  )
  # The same seed gives the same files, and so does an evaluation that was
  # stopped; that does not ask again who has answered.
  before = [
    (workdir / name).read_bytes() for name in ('results.json', 'samples.jsonl')
  ]
  asked, policy = [], policies.Opener.policy

  def open_policy(self, name, *args):
    asked.append(name)
    if asked == ['base', 'sft', 'ppo']:
      raise KeyboardInterrupt
    return policy(self, name, *args)

  monkeypatch.setattr(policies.Opener, 'policy', open_policy)
  with pytest.raises(KeyboardInterrupt):
    heldout.run(config_of(), workdir)
  heldout.run(config_of(), workdir)
  assert asked[3:] == ['ppo', 'ppo_ptx', 'sft']  # the last for its KL
  assert not (workdir / heldout.KEPT).exists()
  assert before == [
    (workdir / name).read_bytes() for name in ('results.json', 'samples.jsonl')
  ]


def test_policies_and_rows_may_be_left_out(runs, tmp_path, one_device):
  folder = tmp_path / 'study'
  folder.mkdir()
  for path in runs.iterdir():
    if path.name not in ('lab', 'heldout'):
      (folder / path.name).symlink_to(path)
  (folder / 'lab').mkdir()
  for path in (runs / 'lab').iterdir():
    if path.name != 'corpus_validation.rows':
      (folder / 'lab' / path.name).symlink_to(path)
  config = config_of()
  config.inputs.update(base='', ppo='', ppo_ptx='')
  heldout.run(config, folder / 'heldout')
  results = json.loads((folder / 'heldout' / 'results.json').read_text())
  assert [*results['score']['policies']] == ['sft']
  assert 'nll' not in results and 'kl' not in results


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('temperature', 0.0, 'temperature=0.0 must be positive'),
    ('num_rows', 0, 'num_rows=0 must be 1 or more'),
    ('batch_size', 0, 'batch_size=0'),
  ],
)
def test_configs_that_make_no_sense(field, value, message):
  with pytest.raises(checks.ConfigError, match=message):
    heldout.validate(config_of(**{field: value}))


def test_prompts_that_do_not_fit_are_told(runs, one_device):
  config = config_of()
  config.prompt_len = 2
  with pytest.raises(checks.ConfigError, match='fits prompt_len=2'):
    heldout.run(config, runs / 'heldout_short')
