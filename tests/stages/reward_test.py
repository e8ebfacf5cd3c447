"""The reward-model stage."""

import collections
import dataclasses
import functools
import math
import shutil
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrl.data import pipeline
from instructrl.data import store
from instructrl.data import tasks
from instructrl.models import heads
from instructrl.runtime import metrics
from instructrl.runtime import optimizer
from instructrl.runtime import run_folder
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import ranking_batches
from instructrl.stages import ranking_parts
from instructrl.stages import reward
from instructrl.stages import scoring
from instructrl.types import RankingBatch
from tests import padded
from tests import tiny

MODEL = tiny.model()
PARAMS = jax.tree.map(jnp.asarray, tiny.scalar_params(MODEL, std=0.15))
P, R, K = 4, 6, 4
RED = 7  # responses are better the more of this token they hold


def make_rankings(count, seed):
  """Rankings of 2 to K responses, with ties, by how often they say RED."""
  rng = np.random.default_rng(seed)
  out = []
  for _ in range(count):
    prompt = rng.integers(10, tiny.VOCAB, rng.integers(1, P + 1)).tolist()
    responses, reds = [], []
    for _ in range(rng.integers(2, K + 1)):
      body = rng.integers(10, tiny.VOCAB, rng.integers(0, R))
      body[rng.random(len(body)) < rng.random()] = RED
      responses.append((*body.tolist(), tiny.EOS))
      reds.append(-int((body == RED).sum()))
    ranks = tuple(sorted(set(reds)).index(n) for n in reds)
    out.append(pipeline.RankingTokens(tuple(prompt), tuple(responses), ranks))
  return out


def make_batch(elements, seq_len=P + K * R) -> RankingBatch:
  built = [
    tasks.ranking_example(
      e.prompt, e.responses, e.ranks, max_k=K, seq_len=seq_len, eos_id=tiny.EOS
    )
    for e in elements
  ]
  return jax.tree.map(lambda *x: np.stack(x), *built)


scores_of = tiny.jit(functools.partial(scoring.ranking_scores, MODEL))


# --- Scores ------------------------------------------------------------------


def test_a_score_is_read_at_the_last_response_token():
  elements = make_rankings(6, seed=0)
  scores = scores_of(PARAMS, make_batch(elements))

  @tiny.jit
  def outputs(line):
    positions = jnp.arange(P + R, dtype=jnp.int32)[None]
    return heads.apply_scalar(
      MODEL, PARAMS, line, positions, jnp.ones_like(line)
    )[0]

  for element, row in zip(elements, scores):
    for response, score in zip(element.responses, row):
      line = np.zeros((1, P + R), np.int32)
      sequence = [*element.prompt, *response]
      line[0, : len(sequence)] = sequence
      np.testing.assert_allclose(
        score, outputs(line)[len(sequence) - 1], atol=2e-5
      )


def test_scores_depend_neither_on_padding_nor_on_order():
  elements = make_rankings(6, seed=0)
  scores = scores_of(PARAMS, make_batch(elements))
  wide = make_batch(elements, seq_len=P + K * R + 3)
  garbage = np.where(wide.segment_ids == 0, 33, wide.tokens)
  np.testing.assert_allclose(
    scores_of(PARAMS, dataclasses.replace(wide, tokens=garbage))[wide.valid],
    scores[wide.valid],
    atol=2e-5,
  )
  backwards = [
    dataclasses.replace(e, responses=e.responses[::-1], ranks=e.ranks[::-1])
    for e in elements[::-1]
  ]
  turned = scores_of(PARAMS, make_batch(backwards))
  for element, a, b in zip(elements, scores, turned[::-1]):
    k = len(element.responses)
    np.testing.assert_allclose(b[:k][::-1], a[:k], atol=2e-5)


def test_the_prompt_and_every_response_are_passed_once():
  """However many pairs they are in."""
  shapes = []

  class Spy:
    def apply(self, params, tokens, positions, segments, **options):
      shapes.append(tokens.shape)
      return MODEL.apply(params, tokens, positions, segments, **options)

  batch = make_batch(make_rankings(6, seed=0))
  jax.eval_shape(lambda: scoring.ranking_scores(Spy(), PARAMS, batch))
  assert shapes == [(6, P + K * R)]


def test_scores_equal_those_of_ppo_and_of_the_scorer():
  """Padding stands on the right here, and on the left of a prompt there."""
  elements = make_rankings(6, seed=0)
  expected = scores_of(PARAMS, make_batch(elements))[:, 0]
  prompts = [e.prompt for e in elements]
  responses = [e.responses[0] for e in elements]
  batch = tiny.prompt_batch(prompts, P)
  tokens, mask = tiny.response_arrays(responses, R)
  in_ppo = tiny.jit(functools.partial(padded.response_scores, MODEL))(
    PARAMS, np.concatenate([batch.tokens, tokens], 1), batch.mask, mask
  )
  np.testing.assert_allclose(in_ppo, expected, atol=2e-5)
  tok = types.SimpleNamespace(pad_id=tiny.PAD)
  scorer = scoring.Scorer(MODEL, tok, batch_size=4)
  got = scorer(PARAMS, prompts, responses)
  assert got.shape == (6,) and got.dtype == np.float32
  np.testing.assert_allclose(got, expected, atol=2e-5)


# --- The step ----------------------------------------------------------------


@functools.cache
def descend(microbatch_size=0):
  tx = optax.sgd(1.0)
  step = tiny.jit(
    reward.make_step(
      MODEL, tx, lambda step: 0.5 + step, microbatch_size=microbatch_size
    )
  )
  return step, build.fresh_state(PARAMS, tx)


def gradient(batch, **kwargs):
  step, state = descend(**kwargs)
  after, values = step(state, batch)
  return jax.tree.map(jnp.subtract, state.params, after.params), values


def pair_loss(params, batch):
  """Equation 1, pair by pair; ties are dropped, prompts weigh the same."""
  scores = scoring.ranking_scores(MODEL, params, batch)
  prompts = []
  for row, ranks, valid in zip(scores, batch.ranks, batch.valid):
    pairs = [
      jnp.log1p(jnp.exp(row[j] - row[i]))
      for i in range(K)
      for j in range(K)
      if valid[i] and valid[j] and ranks[i] < ranks[j]
    ]
    if pairs:
      prompts.append(sum(pairs) / len(pairs))
  return sum(prompts) / len(prompts)


@pytest.mark.slow
@pytest.mark.parametrize('microbatch_size', [0, 1, 2])
def test_microbatches_add_up_to_the_mean_over_prompts(microbatch_size):
  elements = make_rankings(5, seed=3)
  tied = dataclasses.replace(elements[0], ranks=(0,) * len(elements[0].ranks))
  batch = make_batch([*elements, tied])
  got, values = gradient(batch, microbatch_size=microbatch_size)
  loss, expected = expected_gradient()
  chex.assert_trees_all_close(got, expected, atol=1e-5)
  np.testing.assert_allclose(values['loss/train'], loss, rtol=1e-5)
  np.testing.assert_allclose(
    values['optimizer/grad_norm'], optax.tree.norm(expected), rtol=1e-4
  )
  scores = np.asarray(scores_of(PARAMS, batch))
  pairs = [
    (i, j, row)
    for row in range(6)
    for i in range(K)
    for j in range(K)
    if batch.valid[row, i]
    and batch.valid[row, j]
    and batch.ranks[row, i] < batch.ranks[row, j]
  ]
  margins = [scores[row, i] - scores[row, j] for i, j, row in pairs]
  assert values['data/pairs'] == len(pairs)
  np.testing.assert_allclose(
    values['accuracy/train'], np.mean(np.array(margins) > 0), rtol=1e-5
  )
  np.testing.assert_allclose(
    values['reward/margin'], np.mean(margins), rtol=1e-4, atol=1e-5
  )
  assert values['optimizer/lr'] == 0.5


@functools.cache
def expected_gradient():
  elements = make_rankings(5, seed=3)
  tied = dataclasses.replace(elements[0], ranks=(0,) * len(elements[0].ranks))
  batch = make_batch([*elements, tied])
  return tiny.jit(jax.value_and_grad(lambda p: pair_loss(p, batch)))(PARAMS)


def test_a_preference_is_learned():
  """Held-out accuracy; with the labels turned around, it is turned around."""
  tx = optimizer.make_optimizer(
    optimizer.make_schedule(peak_lr=1e-2, num_steps=60),
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    max_grad_norm=1.0,
  )
  step = tiny.jit(
    reward.make_step(MODEL, tx, lambda step: 0.0 * step, microbatch_size=0)
  )
  batches = [make_batch(make_rankings(16, seed)) for seed in range(60)]
  held_out = [make_batch(make_rankings(16, seed)) for seed in range(100, 104)]
  score = lambda params, batch: scores_of(params, batch)
  found = []
  for sign in (1, -1):
    state = build.fresh_state(PARAMS, tx)
    for batch in batches:
      ranks = sign * batch.ranks
      state, _ = step(state, dataclasses.replace(batch, ranks=ranks))
    found.append(scoring.accuracy(score, state.params, held_out, 0))
  right, turned = found
  assert right['accuracy'] > 0.9 > 0.1 > turned['accuracy']
  assert right['ci95'][0] > 0.85 and right['num_prompts'] > 50


def test_accuracy_by_hand():
  """Equal scores are not right; ties and empty prompts do not count."""
  batch = make_batch(make_rankings(4, seed=0))
  batch = dataclasses.replace(
    batch,
    ranks=np.int32([[0, 1, 2, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]),
    valid=np.array(
      [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool
    ),
  )
  scores = np.float32([[3, 1, 2, 9], [1, 2, 3, 4], [1, 1, 2, 0], [5, 4, 0, 0]])
  found = scoring.accuracy(lambda params, batch: scores, None, [batch], 0)
  # Row 0: 2 of 3 pairs; row 2: one of two is right, the other is equal.
  assert found['accuracy'] == pytest.approx(3 / 5)
  assert (found['num_pairs'], found['num_prompts']) == (5, 2)
  lengths = np.stack(
    [(batch.segment_ids == k).sum(1) for k in range(1, 5)], axis=1
  )
  longer = sum(
    0.5 * (1 + np.sign(lengths[row, i] - lengths[row, j]))
    for row, i, j in ((0, 0, 1), (0, 0, 2), (0, 1, 2), (2, 1, 0), (2, 2, 0))
  )
  over = found['over_longer']
  assert over['value'] == pytest.approx(3 / 5 - longer / 5) and over['n'] == 2
  # Margins of row 0: 2, 1 and -1; of row 2: 0 and 1. Prompts weigh the same.
  loss = lambda *margins: np.mean([math.log1p(math.exp(-m)) for m in margins])
  assert found['log_loss']['value'] == pytest.approx(
    (loss(2, 1, -1) + loss(0, 1)) / 2
  )
  assert found['log_loss']['n'] == 2


# --- The bias ----------------------------------------------------------------


def toy_run(configs, study, **changes):
  config = configs['reward']
  config.update(changes)
  return types.SimpleNamespace(
    config=config, input=lambda name: study / name.replace('data', 'lab')
  )


def test_demonstrations_score_zero_after_the_shift(configs, study, tok):
  run = toy_run(configs, study)
  model = build.make_model(run.config, tok.vocab_size)
  params = tiny.scalar_params(model)
  scorer = scoring.Scorer(model, tok, batch_size=8)
  mean = reward.demonstration_mean(run, scorer, params, tok)
  assert abs(mean) > 0.1
  shifted = heads.shift_bias(params, jnp.float32(-mean))
  assert reward.demonstration_mean(run, scorer, shifted, tok) == pytest.approx(
    0, abs=1e-6
  )
  prompts, responses = [[5, 6], [7]] * 3, [[9, 2], [8, 7, 2], [2]] * 2
  np.testing.assert_allclose(
    scorer(shifted, prompts, responses),
    scorer(params, prompts, responses) - np.float32(mean),
    atol=1e-6,
  )


def test_the_mean_is_over_all_demonstrations_whose_prompts_fit(
  configs, study, tok
):
  seen = []

  def scorer(params, prompts, responses):
    seen.extend(zip(map(tuple, prompts), map(tuple, responses), strict=True))
    return np.arange(len(prompts), dtype=np.float32)

  shown = list(store.read_records(study / 'lab', 'demonstrations', 'train'))
  expected = [
    (
      tuple(tasks.chat_prompt(tok, d.prompt.text)),
      tuple(tasks.response_tokens(tok, d.response, 6)),
    )
    for d in shown
  ]
  run = toy_run(configs, study)
  assert reward.demonstration_mean(run, scorer, None, tok) == 19 / 2
  assert seen == expected and len(seen) == 20
  seen.clear()
  run.config.prompt_len = 5
  reward.demonstration_mean(run, scorer, None, tok)
  assert seen == [e for e in expected if len(e[0]) <= 5] != expected


def test_without_demonstrations_the_best_responses_score_zero(
  configs, study, tok, tmp_path
):
  run = toy_run(configs, study)
  model = build.make_model(run.config, tok.vocab_size)
  params = tiny.scalar_params(model)
  scorer = scoring.Scorer(model, tok, batch_size=8)
  elements, _ = ranking_batches.load_rankings(run, tok, 'train', 'train')
  assert reward.bias_source(run) == 'demonstrations'
  with_them = reward.zero_mean(run, scorer, params, tok, elements)
  assert with_them == reward.demonstration_mean(run, scorer, params, tok)
  run.input = lambda name: tmp_path if name == 'data' else study / name
  assert reward.bias_source(run) == 'best-ranked responses'
  mean = reward.zero_mean(run, scorer, params, tok, elements)
  best = [e.responses[int(np.argmin(e.ranks))] for e in elements]
  assert (
    mean
    == pytest.approx(
      float(np.mean(scorer(params, [e.prompt for e in elements], best))),
      abs=1e-6,
    )
    != with_them
  )


# --- Data and configs --------------------------------------------------------


def test_rankings_of_a_split_and_a_group(configs, study, tok):
  load = functools.partial(
    ranking_batches.load_rankings, toy_run(configs, study), tok
  )
  train, dropped = load('train', 'train')
  assert len(train) == 20 and dropped == 0
  both, _ = load('validation')
  assert len(load('validation', 'heldout')[0]) * 2 == len(both) == 12
  with pytest.raises(
    checks.ConfigError,
    match="no ranking of split 'train' "
    "and labeler group 'heldout' whose prompt fits",
  ):
    load('train', 'heldout')
  short, dropped = ranking_batches.load_rankings(
    toy_run(configs, study, prompt_len=5), tok, 'train', 'train'
  )
  assert len(short) + dropped == 20 and dropped > 0
  assert all(len(e.prompt) <= 5 for e in short)
  pairs, _ = ranking_batches.load_rankings(
    toy_run(configs, study, shuffled_pairs=True, prompt_len=8),
    tok,
    'train',
    'train',
  )
  assert {len(e.responses) for e in pairs} == {2}
  assert len(pairs) == sum(
    a != b for e in train for i, a in enumerate(e.ranks) for b in e.ranks[:i]
  )


def write_rankings(folder, study, keep):
  """The toy rankings of which `keep` (split, ranking) is true or a ranking."""
  kept = {}
  for split in ('train', 'validation'):
    for r in store.read_records(study / 'rankings', 'rankings', split):
      if found := keep(split, r):
        kept.setdefault(split, []).append(r if found is True else found)
  store.write_records(folder, 'rankings', kept)


@pytest.mark.parametrize(
  'keep, groups, told',
  [
    (lambda split, r: True, {'in_group', 'heldout'}, ''),
    (
      lambda split, r: r.group == 'train',
      {'in_group'},
      'no labelers are held out: accuracy is that on the training labelers',
    ),
    (
      lambda split, r: (
        r
        if split == 'train'
        else dataclasses.replace(
          r, ranks=r.ranks if r.group == 'heldout' else (0,) * len(r.ranks)
        )
      ),
      {'heldout'},
      "the labelers 'train': the validation split has only ties",
    ),
    (
      lambda split, r: split == 'train',
      set(),
      'accuracy is not measured: inputs.rankings has no validation split',
    ),
  ],
)
def test_accuracy_is_measured_on_those_who_ranked(
  configs, study, tok, tmp_path, capsys, monkeypatch, keep, groups, told
):
  write_rankings(tmp_path, study, keep)
  run, opened, ranked = toy_run(configs, study), [], inputs.ranked
  monkeypatch.setattr(
    inputs, 'ranked', lambda *args: opened.append(args) or ranked(*args)
  )
  run.input, run.primary, run.label = lambda name: tmp_path, True, ''
  assert set(ranking_batches.load_held_out(run, tok)) == groups
  assert len(opened) <= 1
  out = capsys.readouterr().out
  assert told in out and bool(told) == bool(out)


def test_eval_prompts_caps_what_is_measured_in_training(configs, study, tok):
  run = toy_run(configs, study)
  run.rows, run.put = np.arange, lambda batch: batch
  held = ranking_batches.load_held_out(run, tok)
  count = lambda batches: sum(int(b.valid.any(1).sum()) for b in batches)
  batches = functools.partial(ranking_batches.held_out_batches, run, tok, held)
  assert {k: count(v) for k, v in batches().items()} == {
    k: len(v) for k, v in held.items()
  }
  for most in (4, 5):
    assert {count(v) for v in batches(most).values()} == {most}
  some, again = (batches(4)['in_group'][0].tokens for _ in range(2))
  np.testing.assert_array_equal(some, again)


def test_held_out_batches_have_the_longest_rankings_first(configs, study, tok):
  run = toy_run(configs, study)
  run.rows, run.put = np.arange, lambda batch: batch
  run.config.batch_size = 2
  held = ranking_batches.load_held_out(run, tok)['in_group']
  batches = ranking_batches.ordered_batches(run, held, tok)
  lengths = np.concatenate(
    [(b.segment_ids != 0).sum(1)[b.valid.any(1)] for b in batches]
  )
  np.testing.assert_array_equal(lengths, np.sort(held.lengths)[::-1])


def test_the_widths_hold_held_out_rankings_too(
  configs, study, tok, monkeypatch
):
  monkeypatch.setattr(ranking_parts, 'COLUMNS', 1)
  run = toy_run(configs, study)
  held = ranking_batches.load_held_out(run, tok)
  longest = max(found.lengths.max() for found in held.values())
  training = ranking_batches.load_rankings(run, tok, 'train')[0]
  short = training.where(training.lengths < longest)
  assert ranking_parts.widths(short.lengths)[-1] < longest
  assert ranking_batches.widths(short, held)[-1] >= longest


def test_folds_have_equal_data():
  """Twelve labelers of the lab make five folds of two; two are left out."""
  counts = {f'train-{i}': 500 + i for i in range(12)}
  folds = ranking_batches.equal_folds(counts, 5)
  assert {*counts} - {*folds} == {'train-0', 'train-1'}
  amounts = collections.Counter()
  for name, fold in folds.items():
    amounts[fold] += counts[name]
  assert set(amounts.values()) == {1013}
  assert collections.Counter(folds.values()) == dict.fromkeys(range(5), 2)


def test_folds_divide_the_labelers_who_train(configs, study, tok, tmp_path):
  """A labeler of a fold is held out once; the fifth labeler is in no fold."""
  write_rankings(
    tmp_path,
    study,
    lambda split, r: dataclasses.replace(
      r, labeler=f'{r.group}{int(r.prompt.id[-1]) % 5}'
    ),
  )
  records = lambda split: [
    r
    for r in store.read_records(tmp_path, 'rankings', split)
    if r.group == 'train'
  ]
  names = sorted({r.labeler for r in records('train')})
  assert len(names) == 5
  for fold, mine, others in (
    (0, ('train0', 'train3'), ('train1', 'train2')),
    (1, ('train1', 'train2'), ('train0', 'train3')),
  ):
    run = toy_run(configs, study, num_folds=2, fold=fold)
    run.input = lambda name: tmp_path
    for split in ('train', 'validation'):
      for group, people in (('heldout', mine), ('train', others)):
        count = sum(r.labeler in people for r in records(split))
        assert (
          len(ranking_batches.load_rankings(run, tok, split, group)[0]) == count
        )
  run = toy_run(configs, study, num_folds=6, fold=0)
  run.input = lambda name: tmp_path
  with pytest.raises(
    checks.ConfigError,
    match='num_folds must be at most 5, the training labelers .*; got 6',
  ):
    ranking_batches.load_rankings(run, tok, 'train', 'train')


def test_several_rankings_are_one_set(configs, study, tok):
  run = toy_run(configs, study)
  one = {
    split: ranking_batches.load_rankings(run, tok, split)[0]
    for split in ('train', 'validation')
  }
  run.config.inputs.update(rankings_1='../rankings', rankings_2='')
  run.input = lambda name: study / 'rankings'
  for split, elements in one.items():
    both = ranking_batches.load_rankings(run, tok, split)[0]
    assert list(both) == [*elements, *elements]


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      dict(max_responses=3),
      'max_responses must be at least 4, as in inputs.rankings; got 3',
    ),
    (
      dict(response_len=2),
      'response_len must be at least [3-6], as in inputs.rankings; got 2',
    ),
  ],
)
def test_rankings_that_are_larger_than_the_config_are_refused(
  configs, study, tok, changes, message
):
  with pytest.raises(checks.ConfigError, match=message):
    ranking_batches.load_rankings(
      toy_run(configs, study, **changes), tok, 'train'
    )


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('batch_size', 0, 'batch_size must be at least 1; got 0'),
    ('num_epochs', 0, 'num_epochs must .*; got 0'),
    ('max_responses', 1, 'max_responses must be at least 2; got 1'),
    ('num_folds', 1, 'num_folds must be 0, or at least 2; got 1'),
    ('fold', 1, 'fold must be at least 0 and less than num_folds=0; got 1'),
    ('microbatch_size', 3, 'microbatch_size must divide batch_size=8; got 3'),
    ('prompt_len', 11, r'model.max_len must be at least .* = 11 \+ 6; got 16'),
    ('model.dropout', 0.1, 'model.dropout must be 0 to train on rankings'),
    (
      'optimizer.peak_lr',
      -1.0,
      'optimizer.peak_lr must be at least 0.*; got -1.0',
    ),
  ],
)
def test_configs_that_make_no_sense_are_refused_by_name(
  configs, field, value, message
):
  config = configs['reward']
  reward.validate(config)
  config.update_from_flattened_dict({field: value})
  with pytest.raises(checks.ConfigError, match=message):
    reward.validate(config)


# --- A whole stage -----------------------------------------------------------


@pytest.fixture
def untrained(monkeypatch):
  """The stage with steps and evaluations that compute nothing."""
  monkeypatch.setattr(
    reward,
    'make_step',
    lambda *args, **kwargs: (
      lambda state, batch: (dataclasses.replace(state, step=state.step + 1), {})
    ),
  )
  measured = {'accuracy': 0.5, 'log_loss': {'value': 0.7}}
  monkeypatch.setattr(scoring, 'accuracy', lambda *args: measured)


def test_scores_in_parts_are_those_of_the_whole_batch(configs, study, tok):
  run = toy_run(configs, study)
  run.rows, run.put = np.arange, lambda batch: batch
  held = ranking_batches.load_held_out(run, tok)['in_group']
  (batch, *_) = ranking_batches.ordered_batches(run, held, tok)
  params, _ = inputs.exported(study / 'reward')
  mesh = sharding.make_mesh({'data': 1}, jax.devices()[:1])
  with jax.set_mesh(mesh):
    scores = [
      reward.RewardProgram(
        run.config, mesh, vocab_size=tok.vocab_size, num_steps=1, widths=w
      ).score(params, batch)
      for w in ((), (8, 16, batch.tokens.shape[1]))
    ]
  np.testing.assert_allclose(*scores, atol=1e-5)
  assert np.ptp(scores[0]) > 0.01


def test_the_bias_is_added_once_however_often_the_run_is_started(
  configs, workdir, one_device, untrained, monkeypatch
):
  monkeypatch.setattr(reward, 'demonstration_mean', lambda *args: -3.0)
  results = [reward.run(configs['reward'], workdir) for _ in range(3)]
  assert [result['bias'] for result in results] == [3.0] * 3
  assert inputs.exported(workdir)[0]['head']['bias'] == 3.0


def test_a_run_without_held_out_rankings_or_demonstrations(
  configs, study, tok, workdir, one_device, untrained, monkeypatch, capsys
):
  monkeypatch.setattr(reward, 'best_mean', lambda *args: -2.0)
  data = workdir.parent / 'data'
  data.mkdir()
  tok.save(data / tok.FILE)
  write_rankings(data, study, lambda split, r: split == 'train')
  config = configs['reward']
  config.inputs.data = config.inputs.rankings = '../data'
  result = reward.run(config, workdir)
  assert result['accuracy'] == {}
  assert (result['bias'], result['bias_from']) == (2.0, 'best-ranked responses')
  assert 'accuracy is not measured' in capsys.readouterr().out
  assert not [
    line
    for line in metrics.read_metrics(workdir)
    if any(name.startswith('accuracy') for name in line)
  ]


def test_rankings_that_prefer_nothing_are_refused(
  configs, study, workdir, one_device, untrained, tmp_path
):
  ties = tmp_path / 'ties'
  write_rankings(
    ties,
    study,
    lambda split, r: dataclasses.replace(r, ranks=(0,) * len(r.ranks)),
  )
  config = configs['reward']
  config.inputs.rankings = str(ties)
  with pytest.raises(checks.ConfigError, match='there is nothing to learn'):
    reward.run(config, workdir)


def test_a_reward_model_goes_on_with_its_own_head(
  configs, study, workdir, one_device, untrained, monkeypatch
):
  monkeypatch.setattr(reward, 'demonstration_mean', lambda *args: 0.0)
  earlier = workdir.parent / 'earlier'
  shutil.copytree(study / 'reward', earlier)
  run_folder.write_config(earlier, configs['reward'].to_dict())
  run_folder.write_done(earlier, {})
  configs['reward'].inputs.init = '../earlier'
  reward.run(configs['reward'], workdir)
  saved, _ = inputs.exported(study / 'reward')
  chex.assert_trees_all_equal(inputs.exported(workdir)[0], saved)


@pytest.mark.slow
def test_a_reward_model_from_rankings_to_its_bias(
  configs, workdir, one_device, tok
):
  config = configs['reward']
  config.num_epochs = 4
  config.optimizer.peak_lr = 0.02
  result = reward.run(config, workdir)
  num_steps = result['num_steps']
  assert num_steps == 4 * 3  # 20 rankings, 8 at a time
  assert result['accuracy']['in_group']['accuracy'] > 0.8
  lines = metrics.read_metrics(workdir)
  last = [l for l in lines if 'accuracy/validation' in l][-1]
  assert last['step'] == num_steps
  # The bias is added after the last step, and changes no accuracy.
  for group, name in (('in_group', 'validation'), ('heldout', 'heldout')):
    found = result['accuracy'][group]
    assert last[f'accuracy/{name}'] == found['accuracy']
    loss = found['log_loss']['value']
    assert last[f'loss/{name}'] == pytest.approx(loss, rel=1e-4)
    assert loss < math.log(2)
  steps = workdir / 'checkpoints'
  before, _ = inputs.exported(steps / f'{num_steps:08d}')
  after, _ = inputs.exported(workdir)
  chex.assert_trees_all_equal(before['backbone'], after['backbone'])
  np.testing.assert_array_equal(
    before['head']['kernel'], after['head']['kernel']
  )
  assert after['head']['bias'] == np.float32(result['bias'])
  assert after['head']['bias'] != before['head']['bias']
  model = build.make_model(config, tok.vocab_size)
  mean = reward.demonstration_mean(
    toy_run(configs, workdir.parent), scoring.Scorer(model, tok), after, tok
  )
  assert mean == pytest.approx(0, abs=1e-6)
