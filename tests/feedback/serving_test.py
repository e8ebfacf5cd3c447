"""Addresses that cannot be served, and commands that have nothing to do."""

import signal
import socket

import pytest

from instructrl import label
from instructrl.feedback import serving
from instructrl.runtime.errors import ConfigError
from tests.feedback import labeling


@pytest.fixture
def desk(tmp_path):
  return labeling.open_desk(labeling.make(tmp_path / 'p'))


@pytest.mark.parametrize('public', ['https://label.example.org', 'a b', '.'])
def test_a_public_name_is_a_name(desk, public):
  with pytest.raises(ConfigError, match='--public must be a name such as'):
    serving.serve(desk, '127.0.0.1', 0, public)


def test_an_address_that_cannot_be_used_is_one_error(desk, capsys):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    used = taken.getsockname()[1]
    for host, port in (
      ('127.0.0.1', used),
      ('127.0.0.1', 99999),
      ('192.0.2.1', 8080),  # of no machine
    ):
      with pytest.raises(ConfigError, match=f'served at {host}:{port}: .*port'):
        serving.serve(desk, host, port, None)
  assert not capsys.readouterr().out  # no link that leads nowhere


def test_a_second_server_of_a_folder_is_refused(tmp_path, capsys):
  folder = labeling.make(tmp_path / 'p')
  with labeling.server(folder):
    assert label.main(['serve', str(folder), '--port', '0'])
  assert 'is at work in this folder' in capsys.readouterr().err


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server(tmp_path, number):
  with labeling.server(labeling.make(tmp_path / 'p')) as (_, _, process):
    process.send_signal(number)
    assert process.wait(60) == (0 if number == signal.SIGINT else 128 + number)


def test_nothing_to_export_is_one_error(tmp_path, capsys):
  folder = labeling.make(tmp_path / 'p')
  out = tmp_path / 'records'
  assert label.main(['export', str(folder), f'--out={out}']) == 1
  assert 'nobody has submitted a label' in capsys.readouterr().err
  assert not out.exists()


def test_a_folder_with_a_project_is_refused_before_sampling(tmp_path, capsys):
  folder = labeling.make(tmp_path / 'p')
  flags = ['--policies=a=none', '--prompts=none', f'--out={folder}']
  assert label.main(['sample', *flags]) == 1
  assert 'has a project already' in capsys.readouterr().err
