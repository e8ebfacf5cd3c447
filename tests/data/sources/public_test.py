"""Public sources: downloaded and prepared once, then read from there."""

import gzip
import json
import pathlib
import signal
import subprocess
import sys

import pytest

from instructrl.data import records
from instructrl.data.sources import hh_rlhf
from instructrl.data.sources import instructions
from instructrl.data.sources import lookup
from instructrl.data.sources import public
from instructrl.data.sources.row_files import SourceError
from tests.data.sources import source_files
from tests.data.sources import web as web_lib


def pair(text):
  return {
    'chosen': f'\n\nHuman: {text}\n\nAssistant: good',
    'rejected': f'\n\nHuman: {text}\n\nAssistant: bad',
  }


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
  monkeypatch.setattr(public.downloads, '_PAUSE', 0.0)


@pytest.fixture
def web(monkeypatch):
  with web_lib.serve() as (server, address):
    for part in hh_rlhf.PARTS:
      for split, count in (('train', 5), ('test', 2)):
        rows = [pair(f'{part} {split} è {i}') for i in range(count)] + [{}]
        server.files[f'/{part}/{split}.jsonl.gz'] = gzip.compress(
          '\n'.join(map(json.dumps, rows)).encode()
        )
    monkeypatch.setattr(hh_rlhf, '_URL', address + '/')
    yield server


def test_a_source_is_fetched_and_prepared_once(web, tmp_path, monkeypatch):
  got = lookup.load('hh-rlhf', data_dir=tmp_path)
  assert len(web.asked) == 8 and got.read == 36 and len(got.records) == 28
  assert got.dropped == {"lacks the field 'chosen'": 8}
  assert [r.prompt.split for r in got.records] == ['train'] * 20 + ['test'] * 8
  for record in got.records:
    records.validate(record)
  folder = tmp_path / 'downloads' / 'hh-rlhf'
  assert got.records == lookup.load(f'hh-rlhf:{folder}').records

  web.files.clear()
  monkeypatch.setattr(public, 'read', None)  # not read again
  monkeypatch.setenv(lookup.ENVIRONMENT, str(tmp_path))
  again = lookup.load('hh-rlhf')
  assert again == got and len(web.asked) == 8


def test_a_limit_reads_the_downloads(web, tmp_path):
  got = lookup.load('hh-rlhf/helpful-base?limit=3', data_dir=tmp_path)
  assert [r.prompt.text for r in got.records] == [
    f'helpful-base train è {i}' for i in range(3)
  ]
  assert len(web.asked) == 2 and not (tmp_path / 'prepared').exists()
  with pytest.raises(SourceError, match='train.jsonl.gz:6: lacks the field'):
    lookup.load('hh-rlhf/helpful-base?strict=true', data_dir=tmp_path)


def test_subsets_and_options_are_prepared_apart(tmp_path):
  source = lambda spec: lookup.parse(spec).source()
  folders = {
    public.prepared_folder(source(spec), tmp_path)
    for spec in (
      'hh-rlhf',
      'hh-rlhf/all',
      'hh-rlhf/helpful-base',
      'oasst1',
      'oasst1?lang=de',
      'oasst1/demonstrations',
      'oasst1?lang=en',
    )
  }
  assert len(folders) == 5


def test_without_network_the_file_to_bring_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(hh_rlhf, '_URL', 'http://127.0.0.1:1/')
  with pytest.raises(SourceError) as error:
    lookup.load('hh-rlhf/harmless-base', data_dir=tmp_path)
  message = str(error.value)
  path = tmp_path / 'downloads/hh-rlhf/harmless-base/train.jsonl.gz'
  assert 'http://127.0.0.1:1/harmless-base/train.jsonl.gz' in message
  assert f'put it at {path}' in message and '\n' not in message
  assert 'and harmless-base/test.jsonl.gz in' in message
  assert 'hh-rlhf:FOLDER' in message
  for split in ('train', 'test'):
    source_files.write_lines(path.with_name(f'{split}.jsonl.gz'), [pair(split)])
  assert (
    len(lookup.load('hh-rlhf/harmless-base', data_dir=tmp_path).records) == 2
  )


def test_a_file_of_the_hub_is_read_from_its_cache(tmp_path, monkeypatch):
  asked = []

  def download(repository, name, **about):
    asked.append((repository, name, about['repo_type'], about['revision']))
    return source_files.write_lines(
      tmp_path / 'hub' / name, [{'instruction': 'Do.', 'response': 'Done.'}]
    )

  monkeypatch.setattr(
    public.downloads.huggingface_hub, 'hf_hub_download', download
  )
  for _ in range(2):
    got = lookup.load('dolly', data_dir=tmp_path / 'data')
    assert [r.response for r in got.records] == ['Done.']
  name = 'databricks-dolly-15k'
  assert asked == [(f'databricks/{name}', f'{name}.jsonl', 'dataset', 'main')]


def test_a_file_of_another_size_is_prepared_again(tmp_path):
  path = source_files.write_lines(
    tmp_path / 'downloads/c4/c4-train.00000-of-01024.json.gz',
    [{'text': f'Page {i}.', 'url': 'u'} for i in range(9)],
  )
  other = source_files.write_lines(
    path.with_name('c4-validation.00000-of-00008.json.gz'), [{'text': 'Page.'}]
  )
  got = lookup.load('c4', data_dir=tmp_path)
  assert [r.split for r in got.records] == ['train'] * 9 + ['validation']
  other.unlink()  # which is no change: what is prepared is all there is
  assert lookup.load('c4', data_dir=tmp_path) == got
  source_files.write_lines(other, [{'text': 'Page.'}, {'text': 'Another.'}])
  assert len(lookup.load('c4', data_dir=tmp_path).records) == 11


def test_a_damaged_file_leaves_nothing_prepared(tmp_path):
  folder = tmp_path / 'downloads' / 'dolly'
  path = source_files.write_lines(
    folder / 'databricks-dolly-15k.jsonl',
    [{'instruction': f'Do {i}.', 'response': 'Done.'} for i in range(9)],
  )
  whole = path.read_bytes()
  path.write_bytes(gzip.compress(whole)[:-4])
  for _ in range(2):
    with pytest.raises(SourceError, match='15k.jsonl: the gzip file ends'):
      lookup.load('dolly', data_dir=tmp_path)
  assert not list(tmp_path.glob('prepared/*/*/*/dataset_info.json'))
  path.write_bytes(whole)
  got = lookup.load('dolly', data_dir=tmp_path)
  assert len(got.records) == 9
  assert got.records == lookup.load('dolly', data_dir=tmp_path).records


def test_a_builder_of_its_own(tmp_path):
  source_files.write_lines(
    tmp_path / 'downloads/dolly/databricks-dolly-15k.jsonl',
    [{'instruction': 'Do.', 'response': 'Done.'}],
  )
  builder = public.PublicDemonstrations(
    source=instructions.Dolly(), data_dir=tmp_path
  )
  builder.download_and_prepare(file_format='array_record')
  assert builder.info.metadata['report']['read'] == 1
  example = builder.as_data_source('train')[0]
  assert builder.decode(example).response == 'Done.'


_KILLED = """
import os, signal, sys
from instructrl.data import builders
from instructrl.data.sources import lookup
encode, count = builders.Demonstrations.encode, 0
def killing(record):
  global count
  count += 1
  if count == 20:
    os.kill(os.getpid(), signal.SIGKILL)
  return encode(record)
builders.Demonstrations.encode = staticmethod(killing)
lookup.load('dolly', data_dir=sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_preparation_begins_again(tmp_path):
  source_files.write_lines(
    tmp_path / 'downloads/dolly/databricks-dolly-15k.jsonl',
    [{'instruction': f'Do {i}.', 'response': 'Done.'} for i in range(30)],
  )
  root = pathlib.Path(__file__).resolve().parents[3]
  done = subprocess.run(
    [sys.executable, '-c', _KILLED, str(tmp_path)], cwd=root, check=False
  )
  assert done.returncode == -signal.SIGKILL
  assert list(tmp_path.glob('prepared/*/*/incomplete.*'))
  assert len(lookup.load('dolly', data_dir=tmp_path).records) == 30
  assert not list(tmp_path.glob('prepared/*/*/incomplete.*'))
