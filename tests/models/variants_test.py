"""Windows, frozen layers, and families of models on several devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common as experiments
from instructrl.runtime import optimizer
from instructrl.runtime import sharding
from instructrl.types import PREFIX
from tests import close
from tests import tiny

LENGTH = 12
TOKENS = (
  np.random.default_rng(0).integers(0, tiny.VOCAB, (8, LENGTH)).astype(np.int32)
)
POSITIONS = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), TOKENS.shape)
SEGMENTS = np.ones_like(TOKENS)


@functools.cache
def hidden_fn(**changes):
  model = tiny.model(**changes)
  apply = tiny.jit(
    lambda params, shared_prefix, *inputs: model.apply(
      params, *inputs, shared_prefix=shared_prefix
    )[0],
    static_argnames='shared_prefix',
  )
  params = tiny.params(model)
  return lambda *inputs, shared_prefix=False: np.asarray(
    apply(params, shared_prefix, *inputs)
  )


# --- Windows -----------------------------------------------------------------


def reach(changed, **changes):
  """Whether each later column of row 0 differs when one token does."""
  other = TOKENS.copy()
  other[0, changed] = (other[0, changed] + 1) % tiny.VOCAB
  fn = hidden_fn(**changes)
  one, two = (fn(t, POSITIONS, SEGMENTS)[0] for t in (TOKENS, other))
  return (np.abs(one - two).max(-1) > 0).tolist()


def test_a_window_is_as_wide_as_it_says_its_own_token_included():
  assert (
    reach(2, num_layers=1, windows=(3,))
    == [False] * 2 + [True] * 3 + [False] * 7
  )
  assert reach(2, num_layers=1) == [False] * 2 + [True] * 10


def test_windows_are_repeated_over_the_layers_and_add_up():
  """Two layers of 3 reach 2 + 2 back, and one of them that sees all does."""
  assert (
    reach(2, num_layers=2, windows=(3,))
    == [False] * 2 + [True] * 5 + [False] * 5
  )
  assert reach(2, num_layers=2, windows=(3, 0)) == [False] * 2 + [True] * 10
  # GPT-3's alternate: of four layers the second and the fourth are banded.
  m = tiny.model(num_layers=4, windows=(0, 256)).module
  assert [m.kinds[kind] for kind in m.kind_of_layer] == [0, 256, 0, 256]


@pytest.mark.parametrize(
  'changes',
  [dict(windows=(3, 0)), pytest.param(tiny.GEMMA, marks=pytest.mark.slow)],
)
def test_a_response_sees_as_far_into_a_shared_prefix_as_alone(changes):
  """The columns of the second response are far from the prompt's."""
  fn = hidden_fn(**changes)
  prompt, first, second = (TOKENS[0, :5], TOKENS[0, 5:9], TOKENS[0, 9:])
  row = np.concatenate([prompt, first, second])[None]
  segments = np.array([[PREFIX] * 5 + [1] * 4 + [2] * 3], np.int32)
  positions = np.array([[*range(5), *range(5, 9), *range(5, 8)]], np.int32)
  shared = fn(row, positions, segments, shared_prefix=True)[0, 9:]
  alone = np.zeros((1, LENGTH), np.int32)
  alone[0, :8] = [*prompt, *second]
  expected = fn(
    alone, POSITIONS[:1], (np.arange(LENGTH) < 8)[None].astype(np.int32)
  )[0, 5:8]
  np.testing.assert_allclose(shared, expected, atol=1e-5)
  # So it would be if distances were of columns.
  moved = np.where(segments == 2, POSITIONS[:1], positions)
  assert (
    np.abs(fn(row, moved, segments, shared_prefix=True)[0, 9:] - expected).max()
    > 1e-3
  )


# --- Frozen layers -----------------------------------------------------------


@functools.cache
def gradient(frozen, **changes):
  model = tiny.model(num_layers=4, frozen_layers=frozen, **changes)

  def loss(params):
    hidden, _ = model.apply(
      params, TOKENS, POSITIONS, SEGMENTS, dropout_key=jax.random.key(0)
    )
    out = hidden @ model.unembedding(params).T
    return (out * np.cos(np.arange(out.shape[-1]))).mean()

  return tiny.jit(jax.value_and_grad(loss))(tiny.params(model))


@pytest.mark.parametrize(
  'frozen, changes',
  [
    (3, {}),
    pytest.param(
      1, dict(tiny.GEMMA, scan_unroll=4, remat='full'), marks=pytest.mark.slow
    ),
    pytest.param(4, tiny.NEOX, marks=pytest.mark.slow),
    pytest.param(2, dict(tiny.LLAMA, remat='dots'), marks=pytest.mark.slow),
  ],
)
def test_frozen_parameters_have_no_gradient_and_others_the_same(
  frozen, changes
):
  loss, all_of_it = gradient(0, **changes)
  found_loss, found = gradient(frozen, **changes)
  np.testing.assert_allclose(found_loss, loss, rtol=1e-6)
  expected = jax.tree.map(
    lambda g, rows: g.at[:rows].set(0),
    all_of_it,
    tiny.model(num_layers=4, frozen_layers=frozen, **changes).frozen(),
  )
  chex.assert_trees_all_close(found, expected, atol=1e-6)
  for path, leaf in jax.tree_util.tree_leaves_with_path(found):
    if path[0].key in ('embed', 'positions'):
      assert not np.any(leaf), path
    elif path[0].key == 'blocks':
      assert not np.any(leaf[:frozen]), path
    else:
      assert np.any(leaf), path
  if frozen < 4:
    assert np.any(found['blocks']['q']['kernel'][frozen])


def test_dropout_is_in_frozen_layers_too():
  one, _ = gradient(2, dropout=0.5)
  assert abs(one - gradient(2)[0]) > 1e-4


def test_frozen_layers_cost_no_backward_pass():
  """Of 4 unrolled layers, 3 frozen: as XLA counts the products."""

  def flops(frozen, differentiated):
    model = tiny.model(num_layers=4, frozen_layers=frozen, scan_unroll=4)
    loss = lambda params: model.apply(params, TOKENS, POSITIONS, SEGMENTS)[
      0
    ].sum()
    fn = jax.grad(loss) if differentiated else loss
    return (
      tiny.jit(fn).lower(tiny.params(model)).compile().cost_analysis()['flops']
    )

  forward, whole, part = flops(0, False), flops(0, True), flops(3, True)
  backward = whole - forward
  assert 1.7 < backward / forward < 2.6  # two products for one
  assert 0.2 < (part - forward) / backward < 0.3


def test_the_tree_is_the_same_with_frozen_layers():
  shapes = [
    jax.eval_shape(tiny.model(frozen_layers=n).init, jax.random.key(0))
    for n in (0, 1, 2)
  ]
  assert shapes[0] == shapes[1] == shapes[2]
  assert tiny.model().frozen() is None


def test_weight_decay_moves_no_frozen_parameter():
  model = tiny.model(frozen_layers=1)
  params, frozen = tiny.params(model), model.frozen()
  tx = optimizer.make_optimizer(
    optimizer.make_schedule(peak_lr=0.1, num_steps=9, kind='constant'),
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.5,
    max_grad_norm=1.0,
    frozen=frozen,
  )
  grads = jax.tree.map(
    lambda p, rows: jnp.ones_like(p).at[:rows].set(0), params, frozen
  )
  apply = tiny.jit(functools.partial(optimizer.apply, tx))
  moved, _, _ = apply(grads, tiny.jit(tx.init)(params), params)
  for new, old, rows in zip(*map(jax.tree.leaves, (moved, params, frozen))):
    np.testing.assert_array_equal(new[:rows], old[:rows])
    assert (np.asarray(new[rows:]) != old[rows:]).all()


# --- Families ----------------------------------------------------------------


def test_fresh_norms_multiply_by_one():
  model = tiny.model(**tiny.GEMMA)
  params = tiny.jit(model.init)(jax.random.key(0))
  for part in (
    params['final_norm'],
    params['blocks']['q_norm'],
    params['blocks']['mlp_post_norm'],
  ):
    np.testing.assert_array_equal(part['scale'], 0)  # and 1 is added


def test_an_embedding_may_have_more_rows_than_there_are_tokens():
  model = tiny.model(vocab_rows=56, vocab_multiple=50)
  assert model.vocab_size == 50
  assert tiny.params(model)['embed'].shape[0] == 56


def test_embeddings_are_scaled_in_the_dtype_of_the_computation():
  model = tiny.model(embed_scale=True, dtype='bfloat16')
  text = str(
    jax.make_jaxpr(lambda p: model.apply(p, TOKENS, POSITIONS, SEGMENTS)[0])(
      tiny.params(model)
    )
  )
  assert f'{float(jnp.bfloat16(32**0.5))}:bf16[]' in text


@pytest.mark.parametrize('name', ['gemma'])
def test_eight_devices_equal_one(name):
  changes = dict(tiny.VARIANTS[name], frozen_layers=1)
  rules = tuple(experiments.RULES)

  def run(sizes):
    mesh = sharding.make_mesh(
      sizes, devices=jax.devices()[: int(np.prod(list(sizes.values())))]
    )
    model = tiny.model(rules=rules, **changes)
    params = tiny.params(model)

    def loss(params, *batch):
      hidden, _ = model.apply(params, *batch)
      logits = hidden @ model.unembedding(params).T
      terms = logits * jnp.cos(jnp.arange(logits.shape[-1]))
      return terms.mean(), jnp.abs(terms).mean()

    with jax.set_mesh(mesh):
      shardings = sharding.tree_shardings(
        mesh,
        model.logical_axes(),
        jax.eval_shape(model.init, jax.random.key(0)),
        rules,
      )
      params = jax.device_put(params, shardings)
      batch = sharding.put_batch((TOKENS, POSITIONS, SEGMENTS), mesh)
      value, grads = tiny.jit(
        jax.value_and_grad(loss, has_aux=True),
        out_shardings=((None, None), shardings),
      )(params, *batch)
      return *map(float, value), jax.device_get(grads), grads

  one, scale, grads, _ = run(dict(data=1, fsdp=1, tensor=1))
  eight, _, eight_grads, placed = run(dict(data=2, fsdp=2, tensor=2))
  # The terms of the mean cancel to less than a hundredth of their size.
  close.assert_close(eight, one, scale=scale, tolerance=1e-6, what='loss')
  close.assert_trees_close(eight_grads, grads, tolerance=1e-5)
  kernel = placed['blocks']['gate']['kernel']
  assert kernel.addressable_shards[0].data.size * 4 == kernel.size
