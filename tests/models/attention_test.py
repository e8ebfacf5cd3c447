"""Attention against softmax written out, in value and in gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.models import attention

BATCH, QUERIES, KEYS, WIDTH = 2, 6, 7, 4


def inputs(heads, kv_heads, dtype='float32'):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  mask = jnp.arange(KEYS)[None] <= jnp.arange(QUERIES)[:, None] + 1
  mask = jnp.broadcast_to(mask, (BATCH, QUERIES, KEYS))
  mask = mask.at[1, 2].set(False)  # sees nothing
  return (
    draw(BATCH, QUERIES, heads, WIDTH),
    draw(BATCH, kv_heads, KEYS, WIDTH),
    draw(BATCH, kv_heads, KEYS, WIDTH),
    mask,
  )


def written_out(q, k, v, mask):
  share = q.shape[2] // k.shape[1]
  k, v = jnp.repeat(k, share, axis=1), jnp.repeat(v, share, axis=1)
  logits = jnp.einsum('bthd,bhcd->bhtc', q, k) / math.sqrt(WIDTH)
  logits = jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min)
  weights = jnp.where(mask[:, None], jax.nn.softmax(logits), 0)
  return jnp.einsum('bhtc,bhcd->bthd', weights, v)


@pytest.mark.parametrize(
  'heads, kv_heads, block',
  [(3, 3, 0), (4, 2, 0), (4, 1, 0), (3, 3, 2), (4, 2, 3), (4, 2, 4)],
)
def test_attention_and_its_gradient_are_those_of_softmax(
  heads, kv_heads, block
):
  """At once, in blocks of queries, and with a block that does not divide."""
  *qkv, mask = inputs(heads, kv_heads)
  out, pull = jax.vjp(
    lambda *x: attention.attention(*x, mask, block=block), *qkv
  )
  expected, expected_pull = jax.vjp(lambda *x: written_out(*x, mask), *qkv)
  # Outputs and gradients are sums of terms of size 1.
  np.testing.assert_allclose(out, expected, atol=5e-6)
  grad = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
  for found, wanted in zip(pull(grad), expected_pull(grad)):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_blocks_keep_few_logits_in_memory():
  """Also of the gradient, which has the mask in memory beside them."""
  length, heads = 512, 4
  shape = jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32)
  keys = jax.ShapeDtypeStruct((1, heads, length, 8), jnp.float32)
  mask = jax.ShapeDtypeStruct((1, length, length), jnp.bool_)

  def temporaries(block):
    grad = jax.grad(
      lambda q, k, v, mask: attention.attention(
        q, k, v, mask, block=block
      ).sum(),
      (0, 1, 2),
    )
    return (
      jax.jit(grad)
      .lower(shape, keys, keys, mask)
      .compile()
      .memory_analysis()
      .temp_size_in_bytes
    )

  logits = 4 * heads * length**2
  assert temporaries(0) > logits > 3 * temporaries(32)


def test_hidden_keys_get_no_gradient():
  q, k, v, _ = inputs(2, 2)
  mask = jnp.ones((BATCH, QUERIES, KEYS), bool).at[:, :, -2:].set(False)
  grads = jax.grad(
    lambda k, v: attention.attention(q, k, v, mask).sum(), (0, 1)
  )(k, v)
  for grad in grads:
    assert np.all(np.asarray(grad)[:, :, -2:] == 0)
    assert np.any(np.asarray(grad)[:, :, :-2] != 0)


def test_dtypes_are_those_of_the_inputs():
  *qkv, mask = inputs(2, 2, 'bfloat16')
  out, pull = jax.vjp(lambda *x: attention.attention(*x, mask), *qkv)
  exact = attention.attention(*inputs(2, 2))
  assert {x.dtype for x in (out, *pull(out))} == {jnp.dtype('bfloat16')}
  np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=0.03)


def test_rotary_products_depend_on_distances_only():
  rng = np.random.default_rng(0)
  q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
  rotate = lambda x, position: attention.rotary(
    jnp.asarray(x),
    *attention.rotations(jnp.array([[position]]), 100, 8, 10_000.0),
  )
  product = lambda a, b: float((rotate(q, a) * rotate(k, b)).sum())
  assert product(7, 3) == pytest.approx(product(94, 90), abs=1e-5)
  assert product(7, 3) != pytest.approx(product(7, 4), abs=1e-2)


def test_frequencies_are_powers_of_theta_and_may_be_scaled():
  plain = attention.frequencies(4, 100.0)
  np.testing.assert_allclose(plain, [1, 0.1])
  np.testing.assert_allclose(
    attention.frequencies(4, 100.0, ('linear', 4.0)), plain / 4
  )
  # Wavelengths 6.28, 62.8, 628, 6283; they are kept below 100 / 4 tokens,
  # divided by 8 above 100 / 1, and between them: 100 / 62.8 = 1.59 waves, of
  # 1 to 4, is 0.197 of the way.
  smooth = (100 / (20 * np.pi) - 1) / 3
  np.testing.assert_allclose(
    attention.frequencies(8, 1e4, ('llama3', 8.0, 1.0, 4.0, 100)),
    [1, 0.1 * (smooth + (1 - smooth) / 8), 0.01 / 8, 0.001 / 8],
  )


def test_what_is_wider_than_the_angles_is_not_rotated():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 1, 8)))
  angles = attention.rotations(jnp.array([[3]]), 9, 4, 100.0)
  out = attention.rotary(x, *angles)
  np.testing.assert_array_equal(out[..., 4:], x[..., 4:])
  np.testing.assert_array_equal(
    out[..., :4], attention.rotary(x[..., :4], *angles)
  )


def test_a_position_beyond_the_columns_cannot_pass_unseen():
  cos, sin = attention.rotations(jnp.array([[4]]), 4, 8, 10_000.0)
  assert np.isnan(cos).all() and np.isnan(sin).all()
