"""The toy stages of tests/stages, and a server that runs stages with faults."""

import pytest

from tests.faults import server as server_module
from tests.stages.conftest import study  # noqa: F401
from tests.stages.conftest import workdir  # noqa: F401


@pytest.fixture(scope='session')
def server(tmp_path_factory):
  found = server_module.Server(tmp_path_factory.mktemp('logs'))
  yield found
  found.close()


@pytest.fixture
def report_counts(capsys):
  """(line) -> printed, also if pytest captures the output."""

  def report(line):
    with capsys.disabled():
      print(f'\n{line}')

  return report
