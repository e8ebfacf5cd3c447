"""The scalar head of the reward and the value model."""

import jax
import jax.numpy as jnp
import numpy as np

from instructrl.models import heads
from instructrl.stages import build
from tests import tiny

TOKENS = (
  np.random.default_rng(0).integers(0, tiny.VOCAB, (3, 7)).astype(np.int32)
)
POSITIONS = np.broadcast_to(np.arange(7, dtype=np.int32), TOKENS.shape)
SEGMENTS = np.ones_like(TOKENS)


class Echo:
  """A stand-in for a model: the hidden state is the token and a half."""

  def __init__(self, dtype):
    self._dtype = dtype

  def apply(self, params, tokens, positions, segment_ids, **options):
    del params, positions, segment_ids, options
    hidden = jnp.stack([tokens, jnp.full(tokens.shape, 0.5)], axis=-1)
    return hidden.astype(self._dtype), None


def test_the_head_starts_with_variance_one_over_width_plus_one():
  width = 20_000
  head = heads.init_head(jax.random.key(0), width)
  assert head['kernel'].shape == (width,)
  np.testing.assert_allclose(head['kernel'].var() * (width + 1), 1, atol=0.04)
  assert abs(head['kernel'].mean()) < 4 / width
  assert head['bias'].shape == () and head['bias'] == 0
  small = heads.init_head(jax.random.key(0), 3)
  normal = jax.random.normal(jax.random.key(0), (3,))
  np.testing.assert_allclose(small['kernel'], normal / 2, rtol=1e-6)


def test_head_and_backbone_draw_from_keys_of_their_own():
  model = tiny.model(num_layers=1)
  init = tiny.jit(lambda seed: build.init_scalar(model, seed))
  one, again, other = (init(seed) for seed in (0, 0, 1))
  head = one['head']['kernel']
  np.testing.assert_array_equal(head, again['head']['kernel'])
  for drawn in (other['head']['kernel'], one['backbone']['embed'][0]):
    assert abs(np.corrcoef(head, drawn)[0, 1]) < 0.6


def test_the_output_is_a_projection_of_every_hidden_state():
  params = {
    'backbone': {},
    'head': {'kernel': jnp.float32([2, 10]), 'bias': jnp.float32(0.7)},
  }
  out = heads.apply_scalar(
    Echo(jnp.float32), params, TOKENS, POSITIONS, SEGMENTS
  )
  np.testing.assert_allclose(out, 2 * TOKENS + 5.7, rtol=1e-6)


def test_a_score_keeps_its_fraction_whatever_the_compute_dtype():
  params = {
    'backbone': {},
    'head': {'kernel': jnp.float32([1, 0.001]), 'bias': jnp.float32(0.7)},
  }
  out = heads.apply_scalar(
    Echo(jnp.bfloat16), params, TOKENS, POSITIONS, SEGMENTS
  )
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out - TOKENS, 0.7005, atol=1e-5)


def test_scores_of_a_bfloat16_model_are_float32():
  model = tiny.model(dtype='bfloat16')
  out = jax.eval_shape(
    lambda *args: heads.apply_scalar(model, *args),
    tiny.scalar_params(model),
    TOKENS,
    POSITIONS,
    SEGMENTS,
  )
  assert out.dtype == jnp.float32 and out.shape == TOKENS.shape


def test_gradients_reach_backbone_and_head():
  model = tiny.model(num_layers=1)
  gradient = tiny.jit(
    jax.grad(
      lambda params: heads.apply_scalar(
        model, params, TOKENS, POSITIONS, SEGMENTS
      )[0, 4]
    )
  )(tiny.scalar_params(model))
  np.testing.assert_allclose(gradient['head']['bias'], 1)
  assert np.abs(gradient['head']['kernel']).min() > 0
  assert np.abs(gradient['backbone']['embed'][TOKENS[0, 0]]).max() > 1e-4


def test_a_shift_of_the_bias_shifts_every_score_and_nothing_else():
  model = tiny.model()
  params = tiny.scalar_params(model)
  shifted = heads.shift_bias(params, jnp.float32(-1.25))
  np.testing.assert_allclose(
    shifted['head']['bias'], params['head']['bias'] - 1.25
  )
  assert shifted['head']['kernel'] is params['head']['kernel']
  assert shifted['backbone'] is params['backbone']


def test_the_axes_fit_the_parameters():
  model = tiny.model()
  axes = {'backbone': model.logical_axes(), 'head': heads.head_axes()}
  jax.tree.map(
    lambda leaf, names: None if len(names) == leaf.ndim else 1 / 0,
    tiny.scalar_params(model),
    axes,
  )
