"""The bookkeeping around a stage."""

import pytest

from instructrl.stages import runner


@pytest.mark.parametrize('content', ['1.5s', 'nan', '-inf', ''])
def test_damaged_seconds_are_refused_before_the_stage_runs(tmp_path, content):
  """NaN would be refused by DONE only, after all was computed."""
  assert runner._earlier_seconds(tmp_path) == 0
  (tmp_path / 'seconds').write_text('1.5\n')
  assert runner._earlier_seconds(tmp_path) == 1.5
  (tmp_path / 'seconds').write_text(content)
  with pytest.raises(ValueError, match=f'{tmp_path}/seconds: '):
    runner._earlier_seconds(tmp_path)
