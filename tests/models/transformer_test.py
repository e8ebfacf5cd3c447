"""The decoder, against an explicit one in numpy."""

import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.models import transformer
from tests import tiny

# --- The same model in numpy, float64, one position and one head at a time ---


def norm(x, p, kind, offset=0):
  if kind == 'layernorm':
    x = x - x.mean()
  x = x / np.sqrt((x * x).mean() + 1e-5)
  return x * (offset + p['scale']) + p.get('bias', 0)


def gelu(x):
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
  'gelu': gelu,
  'geglu': gelu,
  'swiglu': lambda x: x / (1 + np.exp(-x)),
  'gelu_exact': lambda x: x * np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2,
}


def scaled(frequency, scaling):
  """What is left of a frequency of rotation."""
  if not scaling:
    return frequency
  if scaling[0] == 'linear':
    return frequency / scaling[1]
  _, factor, low, high, original = scaling
  wavelength = 2 * math.pi / frequency
  if wavelength < original / high:
    return frequency
  if wavelength > original / low:
    return frequency / factor
  smooth = (original / wavelength - low) / (high - low)
  return (1 - smooth) * frequency / factor + smooth * frequency


def rotate(x, position, theta=10_000.0, scaling=(), fraction=1.0):
  """Rotates each pair (x[i], x[i + half]) by its own angle."""
  out, half = np.array(x), int(len(x) * fraction) // 2
  for i in range(half):
    angle = position * scaled(theta ** (-i / half), scaling)
    cos, sin = math.cos(angle), math.sin(angle)
    out[i] = x[i] * cos - x[i + half] * sin
    out[i + half] = x[i + half] * cos + x[i] * sin
  return out


def slow_logits(m, params, tokens, positions, segments):
  """[T, V] logits of one row."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  xs = [
    params['embed'][t] * (math.sqrt(m.d_model) if m.embed_scale else 1)
    for t in tokens
  ]
  normed = lambda x, p, kind=m.norm: norm(x, p, kind, m.norm_offset)
  if m.positions == 'learned':
    xs = [x + params['positions'][p] for x, p in zip(xs, positions)]
  for layer in range(m.num_layers):
    block = jax.tree.map(lambda x: x[layer], params['blocks'])
    project = lambda x, name: (
      np.einsum('d,dhk->hk', x, block[name]['kernel'])
      + block[name].get('bias', 0)
    )
    hs = [normed(x, block['attention_norm']) for x in xs]
    q, k, v = ([project(h, name) for h in hs] for name in 'qkv')
    window = m.windows[layer % len(m.windows)] if m.windows else 0
    if m.qk_norm:
      q, k = (
        [
          np.stack([normed(head, block[name], 'rmsnorm') for head in heads])
          for heads in y
        ]
        for name, y in (('q_norm', q), ('k_norm', k))
      )
    if m.positions == 'rotary':
      local = window and m.rope_theta_local
      turn = functools.partial(
        rotate,
        theta=m.rope_theta_local if local else m.rope_theta,
        scaling=() if local else m.rope_scaling,
        fraction=m.rotary_fraction,
      )
      q, k = (
        [
          np.stack([turn(head, p) for head in heads])
          for heads, p in zip(y, positions)
        ]
        for y in (q, k)
      )
    share = m.num_heads // (m.num_kv_heads or m.num_heads)
    before = list(xs)
    for t in range(len(xs)):
      seen = [
        s
        for s in range(t + 1)
        if segments[s] == segments[t]
        and (not window or positions[t] - positions[s] < window)
      ]
      heads = []
      for h in range(m.num_heads):
        logits = np.array([q[t][h] @ k[s][h // share] for s in seen])
        logits *= m.query_scale or 1 / math.sqrt(q[t].shape[1])
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        heads.append(sum(w * v[s][h // share] for w, s in zip(weights, seen)))
      out = block['out']
      h = np.einsum('hk,hkd->d', np.stack(heads), out['kernel']) + out.get(
        'bias', 0
      )
      if m.post_norm:
        h = normed(h, block['attention_post_norm'])
      xs[t] = xs[t] + h
    for t, x in enumerate(xs):
      h = normed(before[t] if m.parallel_residual else x, block['mlp_norm'])
      up, down = block['up'], block['down']
      u = h @ up['kernel'] + up.get('bias', 0)
      act = ACTIVATIONS[m.mlp]
      if m.mlp in ('swiglu', 'geglu'):
        g = h @ block['gate']['kernel'] + block['gate'].get('bias', 0)
        u = act(g) * u
      else:
        u = act(u)
      h = u @ down['kernel'] + down.get('bias', 0)
      if m.post_norm:
        h = normed(h, block['mlp_post_norm'])
      xs[t] = x + h
  table = params['embed' if m.tie_embeddings else 'unembed']
  return np.stack([normed(x, params['final_norm']) @ table.T for x in xs])


# --- Inputs: a packed row, a left-padded one, a right-padded one -------------

LENGTH = 9
SEGMENTS = np.array(
  [
    [1, 1, 1, 1, 2, 2, 2, 2, 2],
    [0, 0, 0, 1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 1, 1, 0, 0, 0],
  ],
  np.int32,
)
POSITIONS = np.array(
  [
    [0, 1, 2, 3, 0, 1, 2, 3, 4],
    [0, 0, 0, 0, 1, 2, 3, 4, 5],
    [0, 1, 2, 3, 4, 5, 5, 5, 5],
  ],
  np.int32,
)
TOKENS = (
  np.random.default_rng(0)
  .integers(0, tiny.VOCAB, SEGMENTS.shape)
  .astype(np.int32)
)


@functools.cache
def build(**changes):
  model = tiny.model(**changes)
  return model, tiny.params(model)


@functools.cache
def logits_fn(**changes):
  """The jitted (params, tokens, positions, segments) -> [B, T, V] logits."""
  model, _ = build(**changes)

  def logits(params, *inputs):
    hidden, cache = model.apply(params, *inputs)
    assert cache is None
    return hidden @ model.unembedding(params).T

  return tiny.jit(logits)


def logits(*inputs, **changes):
  """Logits of other tokens, or of other tokens, positions and segments."""
  inputs += (TOKENS, POSITIONS, SEGMENTS)[len(inputs) :]
  return np.asarray(logits_fn(**changes)(build(**changes)[1], *inputs))


# Those that differ in everything, and, in the slow tier, each difference.
VARIANTS = [
  name
  if name in ('gpt', 'llama', 'neox', 'gemma')
  else pytest.param(name, marks=pytest.mark.slow)
  for name in tiny.VARIANTS
]


@pytest.mark.parametrize('name', VARIANTS)
def test_logits_equal_the_explicit_forward_pass(name):
  changes = tiny.VARIANTS[name]
  model, params = build(**changes)
  got = logits(**changes)
  assert got.std() > 1  # else an agreement says little
  for row in range(len(TOKENS)):
    expected = slow_logits(
      model.module, params, TOKENS[row], POSITIONS[row], SEGMENTS[row]
    )
    real = SEGMENTS[row] > 0
    np.testing.assert_allclose(got[row][real], expected[real], atol=2e-4)


@pytest.mark.parametrize('unrolled', [False, True])
@pytest.mark.parametrize('name', VARIANTS)
def test_cached_decoding_equals_the_full_pass(name, unrolled):
  """A left-padded prompt in two parts, then one token at a time."""
  changes = tiny.VARIANTS[name]
  model, params = build(**changes, scan_unroll=9 if unrolled else 1)
  assert model.unrolled == unrolled
  full = logits(**changes)

  @tiny.jit
  def decode(params, *inputs):
    cache = model.init_cache(len(TOKENS), LENGTH)
    hidden = []
    for part in (slice(0, 3), slice(3, 5)):
      h, cache = model.apply(params, *(x[:, part] for x in inputs), cache)
      hidden.append(h)

    def step(cache, columns):
      h, cache = model.apply(params, *(x[:, None] for x in columns), cache)
      return cache, h[:, 0]

    cache, rest = jax.lax.scan(step, cache, tuple(x[:, 5:].T for x in inputs))
    hidden.append(rest.swapaxes(0, 1))
    return jnp.concatenate(hidden, 1) @ model.unembedding(params).T, cache

  got, cache = decode(params, TOKENS, POSITIONS, SEGMENTS)
  real = SEGMENTS > 0
  np.testing.assert_allclose(got[real], full[real], atol=1e-4)
  assert int(cache.index) == LENGTH
  np.testing.assert_array_equal(cache.segment_ids, SEGMENTS)


# --- Who sees whom -----------------------------------------------------------


def test_segments_of_a_row_do_not_see_each_other():
  changed = TOKENS.copy()
  changed[0, :4] = (changed[0, :4] + 7) % tiny.VOCAB
  before, after = logits(), logits(changed)
  np.testing.assert_array_equal(after[0, 4:], before[0, 4:])
  assert np.abs(after[0, :4] - before[0, :4]).max() > 0.1


def test_a_packed_example_equals_the_example_alone():
  packed = logits()[0, 4:]
  alone = np.zeros((3, LENGTH), np.int32)
  alone[0, :5] = TOKENS[0, 4:]
  segments = np.zeros_like(alone)
  segments[0, :5] = 1
  positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), alone.shape)
  np.testing.assert_allclose(
    logits(alone, positions, segments)[0, :5], packed, atol=1e-5
  )


def test_a_token_is_not_seen_by_those_before_it():
  changed = TOKENS.copy()
  changed[:, 5] = (changed[:, 5] + 1) % tiny.VOCAB
  before, after = logits(), logits(changed)
  earlier = SEGMENTS[:, :5] > 0
  np.testing.assert_array_equal(after[:, :5][earlier], before[:, :5][earlier])
  assert (np.abs(after[:, 5:] - before[:, 5:]).max((1, 2)) > 0.1).all()


@pytest.mark.parametrize('changes', [{}, tiny.LLAMA, tiny.GEMMA])
def test_padding_changes_nothing_on_either_side(changes):
  """Rows hold the same 4 tokens, moved from the left end to the right."""
  tokens = np.full((3, LENGTH), 3, np.int32)  # whatever padding holds
  segments = np.zeros_like(tokens)
  positions = np.full_like(tokens, 17)
  for row, start in enumerate((0, 2, 5)):
    tokens[row, start : start + 4] = TOKENS[0, :4]
    segments[row, start : start + 4] = 1
    positions[row, start : start + 4] = np.arange(4)
  got = logits(tokens, positions, segments, **changes)
  for row, start in ((1, 2), (2, 5)):
    np.testing.assert_allclose(
      got[row, start : start + 4], got[0, :4], atol=5e-5
    )


# --- What must not change the values -----------------------------------------


@functools.cache
def loss_and_grad(**changes):
  """A loss of the logits that all parameters have a part in."""
  model, params = build(**changes)

  @tiny.jit
  @jax.value_and_grad
  def fn(params):
    hidden, _ = model.apply(params, TOKENS, POSITIONS, SEGMENTS)
    out = (hidden @ model.unembedding(params).T).astype(jnp.float32)
    return (
      out * np.cos(np.arange(tiny.VOCAB)) * (SEGMENTS > 0)[..., None]
    ).mean()

  return fn(params)


@pytest.mark.parametrize(
  'changes',
  [
    dict(remat='full', scan_unroll=2),
    pytest.param(dict(remat='dots'), marks=pytest.mark.slow),
  ],
)
def test_remat_and_unrolling_change_no_value_and_no_gradient(changes):
  expected, gradient = loss_and_grad()
  got, got_gradient = loss_and_grad(**changes)
  np.testing.assert_allclose(got, expected, atol=1e-6)
  chex.assert_trees_all_close(got_gradient, gradient, atol=1e-6)


def test_every_parameter_has_a_gradient():
  _, gradient = loss_and_grad()
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if name != 'blocks/k/bias':  # adds the same to all logits of a query
      assert np.abs(leaf).max() > 1e-5, name


def test_bfloat16_is_of_the_computation_only():
  expected, _ = loss_and_grad()
  got, gradient = loss_and_grad(dtype='bfloat16')
  assert got != expected and abs(got - expected) < 0.02
  model, params = build(dtype='bfloat16')
  for leaf in itertools.chain(
    jax.tree.leaves(gradient),
    jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))),
  ):
    assert leaf.dtype == jnp.float32
  hidden, _ = jax.eval_shape(model.apply, params, TOKENS, POSITIONS, SEGMENTS)
  assert hidden.dtype == jnp.bfloat16
  assert model.unembedding(params).dtype == jnp.bfloat16
  cache = jax.eval_shape(lambda: model.init_cache(2, 5))
  assert cache.k.dtype == cache.v.dtype == jnp.bfloat16


def test_dropout_needs_a_key():
  model, params = build(dropout=0.5)
  apply = tiny.jit(
    lambda params, key: model.apply(
      params, TOKENS, POSITIONS, SEGMENTS, dropout_key=key
    )[0]
  )
  one, two = (apply(params, jax.random.key(i)) for i in (1, 2))
  np.testing.assert_array_equal(one, apply(params, jax.random.key(1)))
  assert np.abs(one - two).max() > 0.1
  np.testing.assert_array_equal(logits(dropout=0.5), logits())


# --- Parameters --------------------------------------------------------------


@pytest.fixture(scope='module')
def fresh():
  model = tiny.model(d_model=64)
  return model, tiny.jit(model.init)(jax.random.key(0))


def test_initial_parameters(fresh):
  model, params = fresh
  blocks = params['blocks']
  out_std = 0.02 / math.sqrt(2 * model.module.num_layers)  # GPT-2, section 2.3
  for leaf, std in (
    (params['embed'], 0.02),
    (params['positions'], 0.02),
    (blocks['q']['kernel'], 0.02),
    (blocks['up']['kernel'], 0.02),
    (blocks['out']['kernel'], out_std),
    (blocks['down']['kernel'], out_std),
  ):
    assert abs(leaf.std() / std - 1) < 0.06
    assert abs(leaf.mean()) < 4 * std / math.sqrt(leaf.size)
  np.testing.assert_array_equal(params['final_norm']['scale'], 1)
  for name in ('q', 'out', 'up', 'down', 'mlp_norm'):
    np.testing.assert_array_equal(blocks[name]['bias'], 0)
  first, second = blocks['up']['kernel']
  assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize('name', tiny.VARIANTS)
def test_every_parameter_has_named_axes(name):
  model, params = build(**tiny.VARIANTS[name])
  axes = model.logical_axes()
  sizes = dict(
    vocab=model.module.padded_vocab,
    embed=32,
    layers=2,
    positions=32,
    norm={32, model.module.head_dim},
    heads={model.module.num_heads, model.module.num_kv_heads or 4},
    kv=model.module.head_dim or 8,
    mlp=model.module.d_ff or 128,
  )

  def check(leaf, names):
    assert len(names) == leaf.ndim
    for size, axis in zip(leaf.shape, names):
      allowed = sizes[axis]
      assert size in (allowed if isinstance(allowed, set) else {allowed}), axis

  jax.tree.map(check, params, axes)


def test_number_of_parameters_of_gpt3_at_its_smallest():
  """12 L D^2 of the layers and what the table leaves out: 125M."""
  model = transformer.make_model(
    vocab_size=50257, num_layers=12, d_model=768, num_heads=12, max_len=2048
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  layer = 12 * 768**2 + 13 * 768  # kernels; biases and norms
  assert count == 12 * layer + (50257 + 2048) * 768 + 2 * 768
  assert len(jax.tree.leaves(shapes)) == 20  # scanned: whatever the depth


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(num_heads=5), 'model.d_model=32 .* model.num_heads=5'),
    (dict(num_kv_heads=3), 'model.num_heads=4 .* model.num_kv_heads=3'),
    (dict(norm='batchnorm'), "model.norm must be one of .*'batchnorm'"),
    (dict(positions='alibi'), "model.positions must be one of .*'alibi'"),
    (dict(mlp='relu'), "model.mlp must be one of .*'relu'"),
    (dict(remat='some'), "model.remat must be one of .*'some'"),
    (dict(attention='flash'), "model.attention must be one of .*'flash'"),
    (dict(windows=(4, -1)), r'model.windows=\(4, -1\) must be whole numbers'),
    (dict(windows=(4, 0, 4)), 'at most model.num_layers=2 of them'),
    (
      dict(positions='rotary', rope_theta_local=9.0),
      'model.rope_theta_local=9.0 .* model.windows has none',
    ),
    (
      dict(positions='rotary', rope_scaling=('yarn', 4.0)),
      r"model.rope_scaling must be one of .*got \('yarn', 4.0\)",
    ),
    (dict(positions='rotary', rope_scaling=('linear',)), 'model.rope_scaling'),
    (
      dict(positions='rotary', rope_scaling=('linear', 0)),
      'model.rope_scaling',
    ),
    (
      dict(positions='rotary', rope_scaling=('llama3', 8.0, 4.0, 4.0, 32)),
      'its third number, high, is not above its second, low',
    ),
    (
      dict(rope_scaling=('linear', 2.0)),
      "model.rope_scaling=.* needs model.positions='rotary'",
    ),
    (
      dict(rotary_fraction=0.5),
      "model.rotary_fraction=0.5 needs model.positions='rotary'",
    ),
    (
      dict(positions='rotary', rotary_fraction=0.4),
      'even width: model.rotary_fraction=0.4 of 8 .* is 3.2',
    ),
    (
      dict(positions='rotary', rotary_fraction=1.5),
      'model.rotary_fraction=1.5',
    ),
    (dict(vocab_rows=49), 'model.vocab_rows=49 .* vocab_size=50'),
    (dict(frozen_layers=3), 'model.frozen_layers=3 .* model.num_layers=2'),
  ],
)
def test_what_makes_no_model_is_refused_by_name(changes, message):
  with pytest.raises(ValueError, match=message):
    tiny.model(**changes)
