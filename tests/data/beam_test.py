"""The same builders on Apache Beam: workers write what one process writes."""

import functools

import pytest

from instructrl.data import store
from instructrl.data.records import Document
from tests.data import store_test

beam = pytest.importorskip('apache_beam', reason='needs the extra beam')


def pages(first):
  return [
    Document(f'd{i}', f'Page {i}.', 'web', 'train')
    for i in range(first, first + 5)
  ]


def test_workers_write_what_one_process_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(store, '_SHARD', 7)
  options = beam.options.pipeline_options.PipelineOptions(
    direct_num_workers=2, direct_running_mode='multi_threading'
  )
  on_beam = {'beam_runner': 'DirectRunner', 'beam_options': options}
  for name, records in (
    ('rankings', [store_test.make_ranking(i) for i in range(20)]),
    (
      'pages',
      store.Shards(Document, [functools.partial(pages, i) for i in (0, 5, 10)]),
    ),
  ):
    for folder, kwargs in (
      (tmp_path / 'one', {}),
      (tmp_path / 'many', {'beam': on_beam}),
    ):
      store.write_records(folder, name, {'train': records}, **kwargs)
    one, many = (
      list(store.read_records(tmp_path / where, name))
      for where in ('one', 'many')
    )
    assert one == many and len(one) in (15, 20)
    assert store.dataset_fingerprint(
      tmp_path / 'one', name
    ) == store.dataset_fingerprint(tmp_path / 'many', name)
  found = store.read_ranked(tmp_path / 'many', 'rankings', 'train')
  assert found.labelers.tolist()[:3] == ['labeler 0', 'labeler 1', 'labeler 2']
