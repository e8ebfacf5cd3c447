"""Comparisons of computed numbers, on a scale that the numbers have.

A relative tolerance asks too much of a sum whose terms cancel: its rounding
error is relative to the terms, and differs from one processor to the next.
"""

import jax
import numpy as np


def assert_close(found, expected, *, scale, tolerance: float, what: str = ''):
  """Asserts that |found - expected| <= tolerance * scale, elementwise.

  Args:
    found: computed array or number.
    expected: the array or number it should be.
    scale: magnitude of the terms that were added, such as the sum of their
      absolute values; broadcast to `expected`. Not taken from `expected`.
    tolerance: largest error on that scale.
    what: name of the quantity, for the message.

  Raises:
    AssertionError: the message has the two numbers that differ most, their
      scale, and the error on it.
  """
  found, expected = np.float64(found), np.float64(expected)
  scale = np.broadcast_to(np.float64(scale), expected.shape)
  assert found.shape == expected.shape, (
    f'{what}: shape {found.shape}, expected {expected.shape}'
  )
  if not expected.size:
    return
  assert np.isfinite(found).all(), f'{what}: {found} is not finite'
  error = np.abs(found - expected) / np.maximum(
    scale, np.finfo(np.float64).tiny
  )
  worst = np.unravel_index(error.argmax(), error.shape)
  assert error[worst] <= tolerance, (
    f'{what}{list(map(int, worst)) or ""}: found {found[worst]:.9g}, expected '
    f'{expected[worst]:.9g}; they differ by {error[worst]:.3g} of the scale '
    f'{scale[worst]:.9g}, and {tolerance:.3g} is allowed'
  )


def assert_trees_close(found, expected, *, tolerance: float):
  """Asserts `assert_close` for each leaf, on the scale of its largest value.

  Gradients are sums over the same terms for all elements of a leaf, so that
  the largest element is near the magnitude of the terms.

  Args:
    found: pytree of arrays.
    expected: pytree of the same structure.
    tolerance: largest error relative to the largest value of a leaf.
  """
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  leaves = jax.tree_util.tree_leaves_with_path(expected)
  for (path, want), got in zip(leaves, jax.tree.leaves(found), strict=True):
    largest = np.abs(np.float64(want)).max() if np.size(want) else 0.0
    assert_close(
      got,
      want,
      scale=largest,
      tolerance=tolerance,
      what=jax.tree_util.keystr(path),
    )
