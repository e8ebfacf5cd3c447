"""Compiling: its errors, and its progress."""

import time

import pytest

from instructrl.planning import compiling


def test_the_reason_of_xla_is_cut_to_its_largest_buffers():
  error = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error.
Used 22.11G of 15.75G hbm. Exceeded hbm capacity by 6.36G.

  1. Size: 6.00G
     Operator: op_name="jit(generate)/while"
     Shape: bf16[2,16]{1,0}
  2. Size: 3.00G
     Operator: op_name="jit(generate)/dot"
     Shape: bf16[1,16]{1,0}
"""
  assert compiling.allocations(error, 1) == (
    'Used 22.11G of 15.75G hbm. Exceeded hbm capacity by 6.36G.; '
    '6.00G bf16[2,16]{1,0} jit(generate)/while'
  )


def test_what_takes_long_tells_and_hands_its_errors_on(monkeypatch):
  monkeypatch.setattr(compiling, '_REPORT_SECONDS', 0.01)
  told = []

  def work():
    time.sleep(0.05)
    return 7

  assert compiling.while_reporting(work, told.append) == 7
  assert told and told == sorted(told)
  with pytest.raises(ZeroDivisionError):
    compiling.while_reporting(lambda: 1 / 0, told.append)
