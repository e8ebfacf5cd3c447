"""Policies as text, against computing the same directly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl import rng
from instructrl import rollout
from instructrl.data import tasks
from instructrl.evaluators import language_model
from instructrl.tokenizers.imported import HFTokenizer
from instructrl.tokenizers.trained import Tokenizer
from instructrl.tokenizers.trained import train_tokenizer
from tests import tiny
from tests import tokenizer_families as families

TEXTS = [
  'the cat sat on the mat',
  'a dog ran',
  'two birds sing in the tree\nand a fish swims',
  'hello there',
]
PROMPTS = ['the cat', 'two birds sing in the tree', 'a', 'dog ran on', 'fish']


@pytest.fixture(scope='module')
def tok():
  return Tokenizer(train_tokenizer(TEXTS, 310))


@pytest.fixture(scope='module')
def model(tok):
  return tiny.model(vocab_size=tok.vocab_size, max_len=72, num_layers=1)


@pytest.fixture(scope='module')
def params(model):
  return tiny.params(model, std=0.15)


@pytest.fixture(scope='module')
def engine(model, tok):
  return language_model.Engine(model, tok, batch_size=4)


@pytest.fixture(scope='module')
def logprobs_of(model, params):
  """(tokens) -> [N, V] log-probabilities of what follows each of them."""

  @tiny.jit
  def run(line):
    positions = jnp.arange(line.shape[1], dtype=jnp.int32)[None]
    hidden, _ = model.apply(params, line, positions, jnp.ones_like(line))
    return jax.nn.log_softmax(hidden[0] @ model.unembedding(params).T)

  def call(tokens):
    line = np.zeros((1, 72), np.int32)
    line[0, : len(tokens)] = tokens
    return np.asarray(run(line))[: len(tokens)]

  return call


def spy(engine, answer='one\ntwo '):
  """An engine that keeps the prompts and settings it is asked for."""

  class Spy(language_model.Engine):
    def generate(self, params, prompts, **kwargs):
      self.asked = prompts, kwargs
      return [self.tok.encode(answer) + [self.tok.eos_id]] * len(prompts)

  return Spy(engine.model, engine.tok)


# --- Sampling ----------------------------------------------------------------


def generate(engine, params, prompts, **kwargs):
  kwargs = {
    **dict(
      max_tokens=6, seed=3, temperature=1.0, purpose=rng.Purpose.EVALUATION
    ),
    **kwargs,
  }
  return engine.generate(params, prompts, **kwargs)


@pytest.fixture(scope='module')
def prompts(tok):
  return [tasks.chat_prompt(tok, text) for text in PROMPTS]


@pytest.fixture(scope='module')
def sampled(engine, params, prompts):
  return generate(engine, params, prompts)


def test_samples_equal_those_of_the_rollout(
  sampled, model, params, tok, prompts
):
  """All at once there, four at a time here, and padded otherwise."""
  out = tiny.jit(
    lambda prompts, key: rollout.generate(
      model,
      params,
      prompts,
      key,
      response_len=6,
      eos_id=tok.eos_id,
      pad_id=tok.pad_id,
    )
  )(tiny.prompt_batch(prompts, 20), rng.key(3, rng.Purpose.EVALUATION))
  assert sampled == [
    row[keep].tolist()
    for row, keep in zip(np.asarray(out.tokens), np.asarray(out.mask))
  ]
  assert len({tuple(tokens) for tokens in sampled}) == len(prompts)
  assert max(map(len, sampled)) == 6  # and not the 32 that are computed


@pytest.mark.slow
def test_the_batch_changes_nothing(sampled, model, params, tok, prompts):
  other = language_model.Engine(model, tok, batch_size=3)
  assert generate(other, params, prompts) == sampled


def test_a_row_has_its_number(sampled, engine, params, prompts):
  assert generate(engine, params, prompts[2:4], rows=[2, 3]) == sampled[2:4]
  assert generate(engine, params, prompts[2:4]) != sampled[2:4]


def test_seed_and_purpose_decide(sampled, engine, params, prompts):
  assert generate(engine, params, prompts) == sampled
  assert generate(engine, params, prompts, seed=4) != sampled
  assert generate(engine, params, [], seed=4) == []


def test_greedy_answers(engine, params, prompts, logprobs_of, tok):
  out = generate(engine, params, prompts, temperature=0.0)
  for prompt, response in zip(prompts, out):
    scores = logprobs_of(prompt + response)
    assert len(response) == 6 or response[-1] == tok.eos_id
    for t, token in enumerate(response, len(prompt)):
      assert scores[t - 1, token] > scores[t - 1].max() - 1e-4


def test_all_temperatures_share_one_compilation(model, params, tok):
  engine = language_model.Engine(model, tok, batch_size=4)
  for temperature in (0.0, 0.4, 1.0):
    engine.generate(
      params,
      [[5, 6], [7]],
      max_tokens=4,
      seed=0,
      purpose=rng.Purpose.PROBE,
      temperature=temperature,
    )
  assert engine._generate._cache_size() == 1


def test_a_negative_temperature_is_refused(engine, params):
  with pytest.raises(ValueError, match='temperature must be 0 or more'):
    engine.generate(
      params,
      [[5, 6]],
      max_tokens=4,
      seed=0,
      purpose=rng.Purpose.PROBE,
      temperature=-0.5,
    )


def test_prompts_that_are_too_long_are_refused(engine, params, tok):
  model = language_model.LanguageModel('policy', engine, params, response_len=6)
  long = ' '.join(['cat'] * 65)
  message = r'needs \d+ positions, the model has 72 \(model.max_len\): shorten'
  with pytest.raises(ValueError, match=message):
    model.respond([long], temperature=0.0, seed=0)
  with pytest.raises(ValueError, match=message):
    model.complete([long], max_tokens=10)
  with pytest.raises(ValueError, match=message):
    model.logprobs(['a cat'], [long + long])


# --- Layouts -----------------------------------------------------------------


def test_a_chat_policy_is_asked_with_roles(engine, tok):
  engine = spy(engine)
  policy = language_model.LanguageModel('sft', engine, {}, response_len=9)
  assert (
    policy.respond(['the cat', '<|user|>'], temperature=0.5, seed=7, top_p=0.9)
    == ['one\ntwo'] * 2
  )
  asked, settings = engine.asked
  assert asked[0] == [
    tok.bos_id,
    tok.user_id,
    *tok.encode('the cat'),
    tok.assistant_id,
  ]
  assert asked[1].count(tok.user_id) == 1  # what is typed stays text
  assert settings == dict(
    max_tokens=9,
    seed=7,
    temperature=0.5,
    top_p=0.9,
    stop_id=-1,
    purpose=rng.Purpose.EVALUATION,
    rows=None,
  )


def test_a_base_policy_continues_a_line(engine, tok):
  engine = spy(engine)
  policy = language_model.LanguageModel('base', engine, {}, template='plain')
  assert policy.respond(['the cat'], temperature=1.0, seed=0) == ['one\ntwo']
  assert engine.asked[0] == [[tok.bos_id, *tok.encode('the cat\n')]]


def test_a_prompted_policy_continues_its_examples(engine, tok):
  engine = spy(engine)
  policy = language_model.LanguageModel(
    'prompted', engine, {}, template='few_shot', few_shot='a\nQ: {prompt}\nA:'
  )
  assert policy.respond(['hello'], temperature=1.0, seed=0) == ['one']
  assert engine.asked[0] == [[tok.bos_id, *tok.encode('a\nQ: hello\nA:')]]
  assert engine.asked[1]['stop_id'] == tok.encode('\n')[0]


def test_a_continuation_ends_at_its_stop(engine, tok):
  engine = spy(engine)
  policy = language_model.LanguageModel('base', engine, {})
  assert policy.complete(['the'], max_tokens=5) == ['one']
  asked, settings = engine.asked
  assert asked == [[tok.bos_id, *tok.encode('the')]]
  assert settings == dict(
    max_tokens=5,
    seed=0,
    temperature=0.0,
    stop_id=tok.encode('\n')[0],
    purpose=rng.Purpose.PROBE,
  )
  # A stop of several pieces is cut from the text.
  assert policy.complete(['the'], max_tokens=5, stop='e\nt') == ['on']
  assert engine.asked[1]['stop_id'] == -1
  assert policy.complete(['the'], max_tokens=5, stop=None) == ['one\ntwo ']


@pytest.mark.parametrize(
  'kwargs, message',
  [
    (dict(template='chatty'), 'template must be one of'),
    (
      dict(template='few_shot', few_shot='Q:'),
      r'few_shot must contain \{prompt\}',
    ),
  ],
)
def test_templates_that_make_no_sense(engine, kwargs, message):
  with pytest.raises(ValueError, match=message):
    language_model.LanguageModel('x', engine, {}, **kwargs)


# --- Scores ------------------------------------------------------------------


def test_logprobs_of_continuations(engine, params, tok, logprobs_of):
  policy = language_model.LanguageModel('base', engine, params)
  continuations = ['sat', 'in the tree', 'ran on', 'dog', 'a cat']
  sums, counts = policy.logprobs(PROMPTS, continuations)
  for i, (context, text) in enumerate(zip(PROMPTS, continuations)):
    prompt, tokens = tasks.plain_prompt(tok, context), tok.encode(text)
    scores = logprobs_of(prompt + tokens)
    expected = sum(
      scores[t - 1, token] for t, token in enumerate(tokens, len(prompt))
    )
    np.testing.assert_allclose(sums[i], expected, rtol=1e-5)
    assert counts[i] == len(tokens)


# --- A tokenizer of another program ------------------------------------------


def test_a_tokenizer_without_bos(tmp_path):
  """Byte-level BPE: a space belongs to the word after it."""
  tok = HFTokenizer.from_folder(
    families.write(
      tmp_path, families.bpe(['<|end|>', '<pad>']), eos_token='<|end|>'
    )
  )
  model = tiny.model(vocab_size=tok.vocab_size, max_len=72, num_layers=1)
  spied = spy(language_model.Engine(model, tok))
  policy = language_model.LanguageModel('policy', spied, None)
  assert policy.respond(['Who?'], temperature=1.0, seed=0) == ['one\ntwo']
  assert spied.asked[0] == [tok.encode('Human: Who?\n\nAssistant:')]
  assert policy.complete(['The capital'], max_tokens=3) == ['one']
  assert spied.asked[0] == [tok.encode('The capital')]
  (newline,) = tok.encode('\n')
  assert spied.asked[1]['stop_id'] == newline
  scored = []
  spied.score = lambda params, *asked: scored.append(asked) or np.zeros(2)
  _, counts = policy.logprobs(['The capital of', ''], [' France', 'The'])
  ((prompts, tokens),) = scored
  assert prompts[0] + tokens[0] == tok.encode('The capital of France')
  assert prompts[1] == [tok.eos_id] and tokens[1] == tok.encode('The')
  assert counts.tolist() == [len(tokens[0]), len(tokens[1])]


def test_an_answer_that_begins_with_its_stop_is_empty(engine, tok):
  engine = spy(engine, '\n one')
  policy = language_model.LanguageModel('sft', engine, {})
  assert policy.respond(['hello'], temperature=0.0, seed=0) == ['one']
  ask = dict(temperature=0.0, seed=0, stop='\n')
  assert policy.respond(['hello'], **ask) == ['']
  assert engine.asked[1]['stop_id'] == tok.encode('\n')[0]
