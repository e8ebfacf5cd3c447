"""The evaluation stage, on policies and a reward model of known configs."""

import json
import pathlib

import numpy as np
import pytest

from experiments import real_evaluation
from instructrl.data import store
from instructrl.data import tasks
from instructrl.evaluators import evaluator
from instructrl.evaluators import ranking_accuracy
from instructrl.evaluators import statistics
from instructrl.evaluators.language_model import LanguageModel
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import evaluation
from tests import tiny
from tests.stages import conftest
from tests.stages import stages

POLICIES = ['imported', 'sft', 'ppo', 'ppo_ptx']


@pytest.fixture(scope='module')
def runs(study, tmp_path_factory):
  """A folder with finished policies and a reward model of known configs."""
  folder = tmp_path_factory.mktemp('evaluation')
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
  c = real_evaluation.get_config('cpu')
  c.inputs.update(data='../lab', rankings='../rankings')
  c.evals.reward.num_prompts, c.evals.nll.num_rows = 5, 4
  c.update(prompt_len=8, response_len=4, batch_size=8)
  c.update_from_flattened_dict(changes)
  return c


def read(workdir):
  results = json.loads((workdir / 'results.json').read_text())
  lines = (workdir / 'samples.jsonl').read_text().splitlines()
  return results, [json.loads(line) for line in lines]


def test_a_whole_evaluation(runs, tok, one_device, monkeypatch):
  workdir = runs / 'evaluation'
  done = evaluation.run(config_of(), workdir)
  evals = ['accuracy', 'nll', 'reward']
  assert done == {'policies': POLICIES, 'evals': evals, 'samples': 5}
  content, samples = read(workdir)
  assert content['format_version'] == 3
  assert list(content['policies']) == POLICIES
  assert content['policies']['ppo']['label'] == 'PPO'
  results = {k: v['results'] for k, v in content['evals'].items()}
  assert len(samples) == 5
  assert {s['eval'] for s in samples} == {'reward'}
  assert [*samples[0]['policies']] == POLICIES
  measured = results['reward'] | results['nll']
  for name in ('nll', 'score', 'length', 'ended'):
    assert [*measured[name]['policies']] == POLICIES, name
  assert [*measured['kl']['policies']] == ['ppo', 'ppo_ptx']
  assert measured['nll']['policies']['sft']['n'] == 4
  # The numbers are those of the samples.
  scores = [s['policies']['ppo']['score'] for s in samples]
  assert measured['score']['policies']['ppo']['value'] == pytest.approx(
    np.mean(scores)
  )
  difference = measured['score']['difference']['ppo']['sft']['value']
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
      counted = ranking_accuracy.pair_counts(
        [len(t) for t in r.response_tokens], r.ranks
      )
      right, total = right + counted[0], total + counted[1]
  accuracy = results['accuracy']['accuracy']
  assert [*accuracy] == ['rankings']  # their ids name no data set
  part = accuracy['rankings']
  assert part['pairs'] == total
  assert part['judges']['longer is better']['value'] == pytest.approx(
    right / total
  )
  # The same seed gives the same files, and so does an evaluation that was
  # stopped; a policy that has answered is not asked again.
  before = [
    (workdir / name).read_bytes() for name in ('results.json', 'samples.jsonl')
  ]
  asked, sample = [], LanguageModel.sample_tokens

  def sample_tokens(self, *args, **kwargs):
    asked.append(self.name)
    if asked == ['imported', 'sft', 'ppo']:
      raise KeyboardInterrupt
    return sample(self, *args, **kwargs)

  monkeypatch.setattr(LanguageModel, 'sample_tokens', sample_tokens)
  with pytest.raises(KeyboardInterrupt):
    evaluation.run(config_of(), workdir)
  monkeypatch.setattr(ranking_accuracy, 'accuracies', None)  # finished before
  evaluation.run(config_of(), workdir)
  assert asked[3:] == ['ppo', 'ppo_ptx']
  assert not (workdir / evaluation.KEPT).exists()
  assert before == [
    (workdir / name).read_bytes() for name in ('results.json', 'samples.jsonl')
  ]


def test_policies_and_rows_may_be_left_out(runs, tmp_path, one_device):
  folder = tmp_path / 'study'
  folder.mkdir()
  for path in runs.iterdir():
    if path.name not in ('lab', 'evaluation'):
      (folder / path.name).symlink_to(path)
  (folder / 'lab').mkdir()
  for path in (runs / 'lab').iterdir():
    if path.name != 'corpus_validation.rows':
      (folder / 'lab' / path.name).symlink_to(path)
  config = config_of()
  config.policies.update(imported='', ppo='', ppo_ptx='')
  evaluation.run(config, folder / 'evaluation')
  evals = read(folder / 'evaluation')[0]['evals']
  assert [*evals['reward']['results']['score']['policies']] == ['sft']
  assert evals['nll']['results'] == {}
  assert 'kl' not in evals['reward']['results']


class Mine:
  """An evaluation that is not in the package."""

  def __init__(self, context, *, num_prompts):
    self._context, self._num_prompts = context, num_prompts

  def run(self, policies):
    prompts = self._context.prompts('validation')[: self._num_prompts]
    answers = {
      name: policies[name].respond(prompts, temperature=0.0, seed=0)
      for name in policies
    }
    measures = {
      name: statistics.mean([float(bool(x)) for x in found])
      for name, found in answers.items()
    }
    return evaluator.Outcome(
      evaluator.compared({'said': measures}, seed=self._context.seed),
      [{'answers': answers}],
    )


def test_an_evaluation_without_a_type_is_left_out(runs, one_device):
  config = config_of(**{'evals.nll.type': '', 'evals.accuracy.type': ''})
  done = evaluation.run(config, runs / 'reward_only')
  assert done['evals'] == ['reward']
  config = config_of(**{f'evals.{n}.type': '' for n in config.evals})
  with pytest.raises(checks.ConfigError, match='evals: give one or more'):
    evaluation.validate(config)


def test_a_policy_and_an_evaluation_of_ones_own_are_one_line_each(
  runs, one_device
):
  config = config_of()
  config.policies.another = '../ppo'
  config.evals.mine = dict(type=f'{__name__}:Mine', num_prompts=3)
  evaluation.run(config, runs / 'own')
  content, samples = read(runs / 'own')
  assert list(content['policies']) == [*POLICIES, 'another']
  assert content['policies']['another']['label'] == 'another'
  mine = content['evals']['mine']
  assert mine['type'] == f'{__name__}:Mine'
  said = mine['results']['said']
  assert said['policies']['another'] == said['policies']['ppo']
  assert said['policies']['another']['n'] == 3
  assert samples[-6]['eval'] == 'mine'
  reward = content['evals']['reward']['results']
  assert reward['kl']['policies']['another'] == reward['kl']['policies']['ppo']


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'evals.reward.temperature': 0.0},
      'evals.reward.temperature=0.0 must be positive',
    ),
    ({'evals.nll.num_rows': 0}, 'evals.nll.num_rows=0 must be 1 or more'),
    ({'batch_size': 0}, 'batch_size must .*; got 0'),
    (
      {'evals.nll.type': 'nil'},
      "evals.nll: type must be one of .*, nll, .*, or module:Class; got 'nil'",
    ),
    ({'evals.nll.type': 'preference'}, "evals.nll: .* 'num_prompts'"),
    ({'evals.nll.type': 'nowhere:X'}, "evals.nll: type='nowhere:X' cannot be"),
    (dict.fromkeys(f'policies.{name}' for name in POLICIES), 'policies: give'),
  ],
)
def test_configs_that_make_no_sense(changes, message):
  config = config_of(**{k: '' if v is None else v for k, v in changes.items()})
  with pytest.raises(checks.ConfigError, match=message):
    evaluation.validate(config)


def test_prompts_that_do_not_fit_are_told(runs, one_device):
  config = config_of(prompt_len=2)
  with pytest.raises(checks.ConfigError, match='fits prompt_len=2'):
    evaluation.run(config, runs / 'evaluation_short')


def test_a_reward_model_is_no_policy(runs, one_device):
  config = config_of(**{'policies.sft': '../reward'})
  with pytest.raises(
    checks.ConfigError, match='policies.sft: .*reward is a reward model'
  ):
    evaluation.run(config, runs / 'no_policy')


class Broken:
  def __init__(self, context, how):
    self.how = how

  def run(self, policies):
    if self.how == 'no JSON':
      return evaluator.Outcome({'m': {'value': np.float32(1), 'n': 1}})
    if self.how == 'no file':
      pathlib.Path('/nowhere').read_text()
    if self.how == 'a defect':
      return self.hwo
    return max([]) if self.how == 'raises' else {}


@pytest.mark.parametrize(
  'how, message',
  [
    ('raises', 'max.*evaluation_test.py, line'),
    ('a dict', 'run must return an evaluator.Outcome; got a dict'),
    ('no JSON', 'whole.outcome must hold what JSON can: .*float32'),
  ],
)
def test_an_error_in_an_evaluation_names_it(how, message, runs, one_device):
  config = config_of()
  with config.unlocked():
    config.evals = {'own': {'type': f'{__name__}:Broken', 'how': how}}
  with pytest.raises(ValueError, match=f'evals.own: ValueError: {message}'):
    evaluation.run(config, runs / how)


@pytest.mark.parametrize(
  'how, kind', [('no file', OSError), ('a defect', AttributeError)]
)
def test_another_exception_keeps_its_type_and_names_the_evaluation(
  how, kind, runs, one_device
):
  config = config_of()
  with config.unlocked():
    config.evals = {'own': {'type': f'{__name__}:Broken', 'how': how}}
  with pytest.raises(kind) as caught:
    evaluation.run(config, runs / how)
  (note,) = caught.value.__notes__
  assert note == 'raised in the evaluation config.evals.own'


def test_a_policy_whose_name_results_use_is_refused():
  config = config_of(**{'policies.sft': '../sft'})
  with config.unlocked():
    config.policies.value = '../sft'
  with pytest.raises(checks.ConfigError, match='policies.value: .*another'):
    evaluation.validate(config)
