"""Tests of how trees of arrays lie in a folder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.runtime import arrays


def make_tree():
  return {
    'a': {'b': jnp.arange(6.0).reshape(2, 3), 'c': jnp.int32(4)},
    'd': jnp.ones(3, jnp.bfloat16),
  }


@pytest.mark.parametrize('in_leaves', [True, False])
def test_what_is_wanted_of_a_tree_is_read(tmp_path, in_leaves):
  tree = make_tree()
  if in_leaves:
    (tmp_path / 'state' / 'a').mkdir(parents=True)
    for name, leaf in (
      ('a/b', tree['a']['b']),
      ('a/c', tree['a']['c']),
      ('d', tree['d']),
    ):
      arrays.save_leaf(tmp_path / 'state', name, leaf)
  else:
    arrays.save_async(tmp_path / 'state', tree).result()
  wanted = {
    'a': {'b': jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)},
    'd': jax.ShapeDtypeStruct((3,), jnp.bfloat16),
  }
  found = arrays.load(tmp_path / 'state', wanted, in_leaves=in_leaves)
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  assert found['a']['b'].dtype == found['d'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(found['a']['b'], tree['a']['b'])
  np.testing.assert_array_equal(found['d'], tree['d'])


def test_names_and_back():
  found = arrays.tensors(make_tree(), arrays=True)
  assert found == {
    'a/b': [[2, 3], 'float32'],
    'a/c': [[], 'int32'],
    'd': [[3], 'bfloat16'],
  }
  assert arrays.nested(found) == jax.eval_shape(make_tree)


@pytest.mark.parametrize(
  'tree, message',
  [
    ({'a/b': jnp.ones(1)}, "a/b: a key of the state has a '/'"),
    ({'a': np.ones(1)}, 'a is ndarray, not a jax.Array'),
    ({'a': jax.random.key(0)}, 'a has dtype key<fry>: save the seed'),
  ],
)
def test_what_cannot_be_saved_is_named(tree, message):
  with pytest.raises(ValueError, match=message):
    arrays.tensors(tree, arrays=True)
