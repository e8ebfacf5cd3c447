"""The comparisons fail when they should, and say why."""

import numpy as np
import pytest

from tests import close


def test_a_cancelling_sum_is_compared_to_its_terms():
  """1e7 - 1e7 + 1 may be off by half a unit in the last place of 1e7."""
  close.assert_close(1.5, 1.0, scale=2e7, tolerance=1e-7)
  with pytest.raises(AssertionError, match='found 1.5, expected 1; they diff'):
    close.assert_close(1.5, 1.0, scale=1.0, tolerance=1e-7)


def test_the_message_names_the_worst_element_and_its_scale():
  with pytest.raises(
    AssertionError, match=r'loss\[1\]: found 3, expected 2; .* scale 10'
  ):
    close.assert_close(
      [1.0, 3.0], [1.1, 2.0], scale=10.0, tolerance=0.05, what='loss'
    )


@pytest.mark.parametrize('found', [np.nan, np.inf, [1.0, 2.0]])
def test_what_is_no_number_or_of_another_shape_is_refused(found):
  with pytest.raises(AssertionError, match='not finite|shape'):
    close.assert_close(found, 1.0, scale=1.0, tolerance=np.inf)


def test_trees_are_compared_leaf_by_leaf():
  tree = {'a': np.array([1.0, 1e-3]), 'b': np.array([100.0])}
  near = {'a': np.array([1.0, 1e-3 + 1e-6]), 'b': np.array([100.0 + 1e-4])}
  close.assert_trees_close(near, tree, tolerance=2e-6)
  with pytest.raises(AssertionError, match=r"\['a'\]\[1\]: found 0.001001"):
    close.assert_trees_close(near, tree, tolerance=5e-7)
  with pytest.raises(AssertionError):
    close.assert_trees_close({'a': tree['a']}, tree, tolerance=1.0)
