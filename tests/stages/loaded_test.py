"""`instructrl.load`: trained runs as Python objects."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import instructrl
from instructrl import rng
from instructrl import sample
from instructrl.data import records
from instructrl.data import store
from instructrl.data import tasks
from instructrl.evaluators.language_model import Engine
from instructrl.lab.people import chat
from instructrl.runtime import errors
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import opening
from instructrl.stages import scoring
from instructrl.tokenizers import dialogue
from tests import tiny
from tests.stages.conftest import save_run

PROMPTS = ['say red', 'say blue cat', 'say fish']
RESPONSES = ['red red', 'blue', 'dog fish cat']


@pytest.fixture
def saved(configs, tok, tmp_path):
  """stage -> the folder of a run of untrained weights."""

  def save(stage):
    config = configs[stage]
    config.model.max_len = 64
    model = build.make_model(config, tok.vocab_size)
    make = tiny.scalar_params if stage == 'reward' else tiny.params
    folder = tmp_path / stage
    save_run(folder, tok, make(model, std=0.3), config=config.to_dict())
    tok.save(folder / tok.FILE)
    return folder

  return save


def test_generate_gives_n_answers_to_each_prompt(saved, tok):
  policy = instructrl.load(saved('ppo'))
  options = dict(max_tokens=5, temperature=0.9, top_p=0.8, seed=3)
  answers = policy.generate(PROMPTS, n=2, **options)
  assert len(answers) == 3 and all(len(some) == 2 for some in answers)
  assert policy.generate(PROMPTS, n=2, **options) == answers
  assert policy.generate(PROMPTS, n=2, **options | {'seed': 4}) != answers
  # In parts, as from standard input.
  parts = [
    policy.generate([prompt], n=2, first=place, **options)[0]
    for place, prompt in enumerate(PROMPTS)
  ]
  assert parts == answers
  assert policy.generate([]) == []


def test_a_dialogue_is_laid_out_as_in_the_data_of_the_run(saved, tok):
  policy = instructrl.load(saved('ppo'))
  turns = ['say red', 'red', 'say blue']
  length = lambda text, turns=(): len(tok.prompt(text, turns))
  assert policy.prompt_tokens('say red') == length('say red')
  text = dialogue.join_turns(turns)
  assert policy.prompt_tokens(turns) == length(text, turns)
  lab = policy.path.parent / 'lab'
  lab.mkdir()
  (lab / 'config.json').write_text('{"stage": "lab"}')
  in_lab = instructrl.load(policy.path)
  assert in_lab.prompt_tokens(turns) == length(chat.turns(*turns))
  with pytest.raises(checks.ConfigError, match="end with the user's turn"):
    policy.generate([turns[:2]])


def test_prompts_to_try_are_the_shortest_of_each_use_case(saved):
  policy = instructrl.load(saved('ppo'))
  assert policy.prompts_to_try() == []  # the data are gone
  rows = [('chat', 'hello there'), ('other', 'b'), ('chat', 'hi')]
  prompts = [
    records.Prompt(str(i), text, str(i), use_case, 'test')
    for i, (use_case, text) in enumerate(rows)
  ]
  store.write_records(policy.path.parent / 'lab', 'prompts', {'test': prompts})
  assert policy.prompts_to_try() == ['hi', 'b']


def test_greedy_answers_are_those_of_the_engine(saved, tok):
  folder = saved('ppo')
  run = opening.open_run(folder)
  tokens = Engine(run.model, tok, batch_size=3).generate(
    run.params,
    [tasks.chat_prompt(tok, prompt) for prompt in PROMPTS],
    max_tokens=5,
    seed=0,
    purpose=rng.Purpose.SAMPLE,
    temperature=0.0,
  )
  found = instructrl.load(folder).generate(PROMPTS, temperature=0, max_tokens=5)
  assert found == [[tok.decode(ids).strip()] for ids in tokens]


@pytest.mark.parametrize('stage', ['sft', 'pretrain'])
def test_logprobs_are_sums_over_the_tokens_of_the_response(stage, saved, tok):
  """Of a base model: of the text after the prompt and a line break."""
  policy = instructrl.load(saved(stage))
  found = policy.logprobs(PROMPTS, RESPONSES)
  assert found.shape == (3,) and found.dtype == np.float32
  run = opening.open_run(policy.path)
  apply = tiny.jit(run.model.apply)
  for prompt, response, actual in zip(PROMPTS, RESPONSES, found):
    if stage == 'pretrain':
      start, end = tok.plain(prompt + '\n'), tok.continuation(response)
    else:
      start, end = tok.prompt(prompt), tok.response(response)
      assert end[-1] == tok.eos_id
    tokens = np.array([*start, *end])
    # Padding, so that all are of one shape.
    row = np.pad(tokens, (0, 32 - len(tokens)))[None]
    hidden, _ = apply(run.params, row, np.arange(32)[None], np.ones_like(row))
    logits = hidden[0] @ run.model.unembedding(run.params).T
    each = jax.nn.log_softmax(logits)[np.arange(len(tokens) - 1), tokens[1:]]
    np.testing.assert_allclose(actual, each[len(start) - 1 :].sum(), rtol=1e-4)


def test_score_is_that_of_the_reward_model(saved, tok):
  folder = saved('reward')
  found = instructrl.load(folder).score(PROMPTS, RESPONSES)
  run = opening.open_run(folder)
  expected = scoring.Scorer(run.model, tok, batch_size=1)(
    run.params,
    [tok.prompt(prompt) for prompt in PROMPTS],
    [tok.response(response) for response in RESPONSES],
  )
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_wrong_kind_of_run_is_refused(saved):
  policy, model = (instructrl.load(saved(name)) for name in ('ppo', 'reward'))
  assert model.is_reward_model and not policy.is_reward_model
  with pytest.raises(checks.ConfigError, match='ppo is a policy: use generate'):
    policy.score(PROMPTS, RESPONSES)
  for call in (model.generate, lambda x: model.logprobs(x, x)):
    with pytest.raises(
      checks.ConfigError, match='is a reward model: use score'
    ):
      call(PROMPTS)


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda p: p.generate('say red'), 'must be lists of str; got one str'),
    (lambda p: p.generate(['say red', ' ']), 'a prompt is empty'),
    (lambda p: p.logprobs(PROMPTS, ['red']), '3 prompts, but 1 responses'),
    (lambda p: p.logprobs(PROMPTS, 'red'), 'must be lists of str'),
    (lambda p: p.generate([5]), 'must be lists of str; got 5 in one'),
    (lambda p: p.generate(5), 'must be lists of str; got one int'),
    (lambda p: p.logprobs(PROMPTS, None), 'got one NoneType'),
    (lambda p: p.logprobs(PROMPTS, [b'a'] * 3), 'must be lists of str'),
  ],
)
def test_arguments_that_make_no_sense_are_refused(call, message, saved):
  with pytest.raises(checks.ConfigError, match=message):
    call(instructrl.load(saved('ppo')))


@pytest.mark.parametrize(
  'option, value, message',
  [
    ('n', 0, 'n must be at least 1; got 0'),
    ('n', 'x', "n must be an integer; got 'x'"),
    ('n', 1.5, 'n must be an integer; got 1.5'),
    ('n', True, 'n must be an integer; got True'),
    ('max_tokens', -1, 'max_tokens must be at least 1; got -1'),
    ('max_tokens', None, 'max_tokens must be an integer; got None'),
    ('temperature', 'x', "temperature must be a number; got 'x'"),
    ('temperature', -1, 'temperature must be at least 0 and finite; got -1'),
    ('temperature', np.nan, 'temperature must be .*; got nan'),
    ('top_p', 0, 'top_p must be at most 1 and greater than 0; got 0'),
    ('top_p', [1], r'top_p must be a number; got \[1\]'),
    ('seed', 'x', "seed must be an integer; got 'x'"),
    ('first', -1, 'first must be at least 0; got -1'),
  ],
)
def test_an_option_that_makes_no_sense_is_refused(
  option, value, message, saved
):
  with pytest.raises(checks.ConfigError, match=f'^{message}$'):
    instructrl.load(saved('ppo')).generate(PROMPTS, **{option: value})


def test_no_prompts_have_no_answers(saved):
  policy, model = (instructrl.load(saved(name)) for name in ('ppo', 'reward'))
  assert policy.generate([]) == []
  assert policy.logprobs([], []).shape == model.score((), ()).shape == (0,)


def test_score_cuts_at_no_less_than_one_token(saved):
  with pytest.raises(checks.ConfigError, match='max_tokens must be .*got -1'):
    instructrl.load(saved('reward')).score(PROMPTS, RESPONSES, max_tokens=-1)


def test_sample_writes_what_load_gives(saved, capsys):
  folder = saved('ppo')
  options = ['--n=2', '--max_tokens=5', '--seed=3']
  assert sample.main([str(folder), '--prompt=say red', *options]) == 0
  first, second = instructrl.load(folder).generate(
    ['say red'], n=2, max_tokens=5, seed=3
  )[0]
  assert capsys.readouterr().out == f'say red\n  1. {first}\n  2. {second}\n'


def test_sample_scores_with_a_reward_model(saved, capsys):
  folder = saved('reward')
  arguments = [str(folder), '--prompt=say red']
  assert sample.main([*arguments, '--response=red red']) == 0
  expected = instructrl.load(folder).score(['say red'], ['red red'])[0]
  assert capsys.readouterr().out == f'{expected:.4f}\n'
  assert sample.main(arguments) == 1
  assert 'is a reward model: give --prompt and' in capsys.readouterr().err


def test_the_package_and_help_import_nothing_heavy():
  code = """
import sys
import instructrl
import instructrl.sample
print({'jax', 'numpy', 'flax'} & set(sys.modules))
try:
  instructrl.lode
except AttributeError as error:
  print(error)
"""
  lines = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  ).stdout.splitlines()
  assert lines == ['set()', "module 'instructrl' has no attribute 'lode'"]


def test_parameters_that_are_not_finite_are_refused(configs, tok, tmp_path):
  config = configs['ppo']
  params = tiny.params(build.make_model(config, tok.vocab_size))
  params['embed'] = np.array(params['embed'])
  params['embed'][3, 1] = np.nan
  save_run(tmp_path, tok, params, config=config.to_dict())
  tok.save(tmp_path / tok.FILE)
  with pytest.raises(errors.NonFiniteError, match='the parameter embed has'):
    instructrl.load(tmp_path)
