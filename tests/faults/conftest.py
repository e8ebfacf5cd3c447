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
def report_counts(record_property):
  """(line) -> printed at the end of pytest; see tests/conftest.py."""
  return lambda line: record_property('faults', line)
