import numpy as np

from instructrl.evaluators import batching


def test_items_of_like_length_go_together_and_results_keep_their_order():
  batches = []

  def compute(part):
    batches.append(part)
    return [text.upper() for text in part] + ['PADDING']

  items = ['ccc', 'a', 'dddd', 'bb', 'e']
  found = batching.by_length(compute, items, 2, len)
  assert found == ['CCC', 'A', 'DDDD', 'BB', 'E']
  assert batches == [['a', 'e'], ['bb', 'ccc'], ['dddd']]
  assert batching.by_length(compute, [], 2, len) == []


def test_rows_are_padded_on_the_right():
  tokens, mask = batching.right_padded([[5], [6, 7]], (3, 3), 9)
  np.testing.assert_array_equal(tokens, [[5, 9, 9], [6, 7, 9], [9, 9, 9]])
  np.testing.assert_array_equal(mask.sum(1), [1, 2, 0])
  assert tokens.dtype == np.int32
