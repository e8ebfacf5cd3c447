"""Data sets on disk: what is written is read, killed ones start again."""

import dataclasses
import pathlib
import signal
import subprocess
import sys
import tempfile

import pytest

from instructrl.data import builders
from instructrl.data import records
from instructrl.data import sequences
from instructrl.data import store
from instructrl.data.records import (
  Demonstration,
  Document,
  Prompt,
  Ranking,
  RecordError,
)

VERSION = f'{records.FORMAT_VERSION}.0.0'


def make_prompt(i, split='train'):
  return Prompt(
    id=f'p{i}',
    text=f'Où est né Mara {i}?',
    user=f'u{i}',
    use_case='open_qa',
    split=split,
    spec='{"a": 1}' if i % 2 else '',
    turns=('Où?', f'À Oakton {i}.', 'Né?') if i % 3 else (),
  )


def make_ranking(i, split='train'):
  k = 2 + i % 3
  return Ranking(
    prompt=make_prompt(i, split),
    labeler=f'labeler {i % 5}',
    group='train',
    responses=tuple(f'réponse {j}' * j for j in range(k)),
    response_tokens=tuple((7,) * j + (2,) for j in range(k)),
    sources=('sft', 'base', 'sft', 'human')[:k],
    temperatures=(0.7, 1 / 3, 1.0, 0.0)[:k],
    ranks=(1, 0, 1, 2)[:k],
    metadata=({'overall': 7, 'flag': 0},) * k if i % 2 else (),
    prompt_tokens=(1, 70_000 + i),
  )


def make_demonstration(i, split='train'):
  return Demonstration(make_prompt(i, split), f'À Oakton {i}.', 'labeler 1')


def make_document(i, split='train'):
  return Document(f'd{split}{i}', f'Page {i}.\n  Ende. ', 'forum', split)


def test_rankings_without_tokens_are_read_as_they_were(tmp_path):
  written = [
    dataclasses.replace(make_ranking(i), response_tokens=(), prompt_tokens=())
    for i in range(6)
  ]
  store.write_records(tmp_path, 'some', {'train': written})
  assert list(store.read_records(tmp_path, 'some')) == written


@pytest.mark.parametrize(
  'make, cls',
  [
    (make_document, builders.Documents),
    (make_prompt, builders.Prompts),
    (make_demonstration, builders.Demonstrations),
    (make_ranking, builders.Rankings),
  ],
)
def test_what_is_written_is_read(tmp_path, make, cls):
  train = [make(i) for i in range(30)]
  validation = [make(i, 'validation') for i in range(30, 33)]
  folder = store.write_records(
    tmp_path, 'some', {'train': train, 'validation': iter(validation)}
  )
  assert folder == tmp_path / 'some' / cls.name / VERSION
  got = store.read_records(tmp_path, 'some')
  # Order, labelers, the K responses and theirs: all as they were.
  assert list(got) == train
  assert len(got) == 30 and got[-1] == train[29] and got[4:8:2] == train[4:8:2]
  assert list(store.read_records(tmp_path, 'some', 'validation')) == validation
  assert store.splits(tmp_path, 'some') == {'train': 30, 'validation': 3}
  part = store.read_records(tmp_path, 'some', 'train[10%:20%]')
  assert list(part) == train[3:6]
  with pytest.raises(IndexError):
    got[30]
  assert [p.name for p in (tmp_path / 'some').iterdir()] == [cls.name]


def test_a_long_sequence_is_written_in_shards(tmp_path, monkeypatch):
  monkeypatch.setattr(store, '_SHARD', 7)
  rankings = [make_ranking(i) for i in range(20)]
  made = []
  lazily = sequences.Mapped(lambda r: made.append(r) or r, rankings)
  folder = store.write_records(tmp_path, 'some', {'train': lazily})
  assert len(list(folder.glob('*of-00003'))) == 3
  assert made[1:] == rankings  # and the first, for its type
  assert not list(folder.glob('train.[0-9]*'))
  got = store.read_records(tmp_path, 'some')
  assert list(got) == rankings and got[13] == rankings[13]
  found = store.read_ranked(tmp_path, 'some', 'train')
  assert [r.responses for r in found] == [r.response_tokens for r in rankings]
  assert found.labelers.tolist() == [r.labeler for r in rankings]
  bad = [*rankings[:9], dataclasses.replace(rankings[9], ranks=(0,))]
  with pytest.raises(RecordError, match=r'^other/train\[9\]: ranks has 1'):
    store.write_records(tmp_path, 'other', {'train': bad})


def test_no_temporary_folder_is_left(tmp_path, monkeypatch):
  left = tmp_path / 'temporary'
  left.mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(left))
  store.write_records(tmp_path / 'own', 'prompts', {'train': [make_prompt(0)]})
  assert store.read_records(tmp_path / 'own', 'prompts', 'train')
  assert not list(left.iterdir())


def test_a_finished_data_set_is_used_again(tmp_path):
  def never():
    raise AssertionError('must not be read')
    yield  # pylint: disable=unreachable

  docs = [make_document(i) for i in range(3)]
  store.write_records(tmp_path, 'corpus', {'train': docs}, fingerprint='abc')
  store.write_records(tmp_path, 'corpus', {'train': never()}, fingerprint='abc')
  with pytest.raises(ValueError, match='was made from abc, this run makes def'):
    store.write_records(
      tmp_path, 'corpus', {'train': never()}, fingerprint='def'
    )
  assert list(store.read_records(tmp_path, 'corpus')) == docs


def test_the_fingerprint_is_that_of_the_records(tmp_path):
  docs = [make_document(i) for i in range(5)]
  for name, given in [('a', docs), ('b', docs), ('c', docs[::-1])]:
    store.write_records(tmp_path, name, {'train': given})
  a, b, c = (store.dataset_fingerprint(tmp_path, name) for name in 'abc')
  assert a == b and a != c and len(a) == 64


KILLED = """
import os, signal, sys
from instructrl.data import records, store
from instructrl.data.records import Document
def documents():
  for i in range(100):
    if i == 50:
      os.kill(os.getpid(), signal.SIGKILL)
    yield Document(f'd{i}', 'text', 'forum', 'train')
store.write_records(sys.argv[1], 'corpus', {'train': documents()})
"""


def test_a_killed_preparation_starts_again(tmp_path):
  root = str(pathlib.Path(__file__).parents[2])
  process = subprocess.run(
    [sys.executable, '-c', KILLED, str(tmp_path)],
    cwd=root,
    check=False,
    capture_output=True,
  )
  assert process.returncode == -signal.SIGKILL, process.stderr.decode()
  folder = tmp_path / 'corpus' / 'documents'
  assert [p.name[:11] for p in folder.iterdir()] == ['incomplete.']
  with pytest.raises(FileNotFoundError, match="no finished data set 'corpus'"):
    store.read_records(tmp_path, 'corpus')
  docs = [make_document(i) for i in range(3)]
  store.write_records(tmp_path, 'corpus', {'train': docs})
  assert [p.name for p in folder.iterdir()] == [VERSION]
  assert list(store.read_records(tmp_path, 'corpus')) == docs


def test_a_malformed_record_is_refused_when_written(tmp_path):
  good = [make_ranking(i) for i in range(20)]
  bad = dataclasses.replace(good[17], ranks=(0,))
  with pytest.raises(
    RecordError,
    match=(r'^rankings/train\[17\]: ranks has 1 entries for 4 responses$'),
  ):
    store.write_records(
      tmp_path, 'rankings', {'train': good[:17] + [bad] + good[18:]}
    )
  with pytest.raises(FileNotFoundError):
    store.read_records(tmp_path, 'rankings')
  store.write_records(tmp_path, 'rankings', {'train': good})


@pytest.mark.parametrize(
  'records_by_split, reason',
  [
    ({}, "'x' has no splits"),
    ({'train': []}, "split 'train' of data set 'x' has no records"),
    (
      {'train': [make_prompt(1), make_document(1)]},
      r'x/train\[1\]: Document among records of the type Prompt',
    ),
    (
      {'train': [make_prompt(1)], 'test': [make_prompt(2)]},
      r"x/test\[0\]: belongs to the split 'train'",
    ),
    (
      {'train': [make_prompt(1)], 'test': [make_prompt(1, 'test')]},
      r"x/test\[0\]: id 'p1' is already that of x/train\[0\]",
    ),
    ({'train': ['text']}, r'x\[0\]: str is not a record type'),
  ],
)
def test_what_is_no_data_set_is_refused(tmp_path, records_by_split, reason):
  with pytest.raises(ValueError, match=reason):
    store.write_records(tmp_path, 'x', records_by_split)


def test_many_labelers_may_rank_one_prompt(tmp_path):
  rankings = [dataclasses.replace(make_ranking(1), labeler=n) for n in 'ab']
  store.write_records(tmp_path, 'x', {'train': rankings})
  assert [r.labeler for r in store.read_records(tmp_path, 'x')] == ['a', 'b']


def test_a_malformed_record_is_refused_when_read(tmp_path, monkeypatch):
  docs = [make_document(i) for i in range(4)]
  docs[2] = dataclasses.replace(docs[2], text='long ' * 10)
  store.write_records(tmp_path, 'corpus', {'train': docs})
  monkeypatch.setattr(records, 'LIMITS', records.Limits(document_chars=20))
  got = store.read_records(tmp_path, 'corpus')
  assert got[1] == docs[1]
  with pytest.raises(
    RecordError,
    match=(r'documents-train.array_record-00000-of-00001\[2\]: text has 50'),
  ):
    got[2]
  part = store.read_records(tmp_path, 'corpus', 'train[2:]')
  with pytest.raises(RecordError, match=r'of-00001\[2\]: text has 50'):
    part[0]


def test_text_on_disk_that_is_not_utf8_is_refused(tmp_path, monkeypatch):
  encode = builders.Documents.encode
  monkeypatch.setattr(
    builders.Documents,
    'encode',
    staticmethod(lambda r: {'record': encode(r)['record'] + b'\xff\xfe'}),
  )
  store.write_records(tmp_path, 'corpus', {'train': [make_document(0)]})
  with pytest.raises(RecordError, match=r'of-00001\[0\]: text is not UTF-8'):
    list(store.read_records(tmp_path, 'corpus'))


@pytest.mark.parametrize(
  'damage, count', [('flip', 2000), ('cut', 2000), ('cut', 3)]
)
def test_a_damaged_file_is_refused(tmp_path, damage, count):
  docs = [make_document(i) for i in range(count)]
  folder = store.write_records(tmp_path, 'corpus', {'train': docs})
  (path,) = folder.glob('*.array_record*')
  data = bytearray(path.read_bytes())
  data[len(data) // 4] ^= 1
  path.write_bytes(data if damage == 'flip' else data[: len(data) // 2])
  with pytest.raises(RecordError, match='damaged|cannot be read'):
    list(store.read_records(tmp_path, 'corpus'))


def test_a_damaged_index_is_refused(tmp_path):
  folder = store.write_records(
    tmp_path, 'corpus', {'train': [make_document(1)]}
  )
  path = folder / 'dataset_info.json'
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(RecordError, match='dataset_info.json: cannot be read'):
    store.read_records(tmp_path, 'corpus')


def test_the_index_of_another_data_set_is_refused(tmp_path):
  folder = store.write_records(
    tmp_path, 'corpus', {'train': [make_document(1)]}
  )
  for content in ('[]', '{}', '{"name": "prompts"}'):
    (folder / 'dataset_info.json').write_text(content)
    with pytest.raises(RecordError, match='dataset_info.json: is not that of'):
      store.read_records(tmp_path, 'corpus')


def test_records_of_another_split_are_refused(tmp_path):
  folder = store.write_records(
    tmp_path,
    'corpus',
    {
      split: [make_document(i, split=split) for i in range(3)]
      for split in ('train', 'validation')
    },
  )
  train, validation = (
    next(folder.glob(f'*{split}.array_record*'))
    for split in ('train', 'validation')
  )
  validation.write_bytes(train.read_bytes())
  with pytest.raises(
    RecordError, match=(rf"{validation}\[0\]: belongs to the split 'train'")
  ):
    list(store.read_records(tmp_path, 'corpus', 'validation'))


def test_an_unknown_split_is_named(tmp_path):
  store.write_records(tmp_path, 'corpus', {'train': [make_document(1)]})
  with pytest.raises(ValueError, match="no split 'test'; it has train"):
    store.read_records(tmp_path, 'corpus', 'test')


def test_records_go_to_the_split_that_they_name():
  prompts = [make_prompt(0), make_prompt(1, 'test'), make_prompt(2)]
  rankings = [make_ranking(0, 'validation')]
  assert store.by_split(prompts) == {
    'train': [prompts[0], prompts[2]],
    'test': [prompts[1]],
  }
  assert store.by_split(rankings) == {'validation': rankings}
