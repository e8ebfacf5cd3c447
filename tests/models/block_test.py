"""What a layer is made of; whole layers are in `transformer_test`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.models import block


@pytest.mark.parametrize(
  'inputs, outputs',
  [
    ((6,), (4,)),
    ((4,), (6,)),
    ((7,), (3,)),
    ((4,), (3, 2)),
    ((3, 4), (5,)),
    ((3, 3), (2,)),
  ],
)
def test_the_gradients_of_a_dense_map_are_its_own(inputs, outputs):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 5, *inputs)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(*inputs, *outputs)), jnp.float32)
  grad = jnp.asarray(rng.normal(size=(2, 5, *outputs)), jnp.float32)
  out, pull = jax.vjp(lambda x, k: block.dense(x, k, len(inputs)), x, kernel)
  expected, expected_pull = jax.vjp(
    lambda x, k: jnp.tensordot(x, k, len(inputs)), x, kernel
  )
  np.testing.assert_allclose(out, expected, atol=1e-5)
  for found, wanted in zip(pull(grad), expected_pull(grad)):
    np.testing.assert_allclose(found, wanted, atol=1e-5)
