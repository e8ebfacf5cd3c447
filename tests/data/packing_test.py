"""Rows that are made in blocks are those that are made at once."""

import numpy as np

from instructrl.data import packing
from instructrl.data import tasks


def examples(count):
  rng = np.random.default_rng(0)
  for n in rng.integers(2, 90, count):
    yield tasks.lm_example(rng.integers(3, 70_000, n), int(n) // 2)


def test_blocks_are_the_rows_in_order(tmp_path, monkeypatch):
  whole = packing.pack_rows(examples(300), 32)
  assert len(whole['tokens']) > 100
  monkeypatch.setattr(packing, '_BLOCK', 7)
  packed = packing.Packed(examples(300), 32, tmp_path)
  assert not list(tmp_path.iterdir())  # the file has no name
  blocks = list(packed.blocks())
  assert packed.shape == whole['tokens'].shape
  assert {len(block['tokens']) for block in blocks[:-1]} == {7}
  for name, values in whole.items():
    found = np.concatenate([block[name] for block in blocks])
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype


def test_every_target_is_in_a_row_once():
  rows = packing.pack_rows(examples(300), 32)
  wanted = sorted(
    target
    for example in examples(300)
    for target in example.targets[example.loss_mask].tolist()
  )
  assert sorted(rows['targets'][rows['loss_mask']].tolist()) == wanted
