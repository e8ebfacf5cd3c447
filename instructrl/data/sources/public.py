"""TFDS builders of public sources: downloaded, prepared once, then only read.

In a data folder, `downloads/SOURCE/` holds the files of a source as they come,
under readable names, so that a user without network can put them there; what
was made of them lies in `prepared/`. TFDS itself would keep them under hashed
names, and cannot resume.

  builder = PublicRankings(source=HhRlhf('helpful-base'), data_dir=FOLDER)
  builder.download_and_prepare(file_format='array_record')
"""

import hashlib
import json
import pathlib
import shutil
import sys
import tempfile
from typing import Any

import tensorflow_datasets as tfds

from instructrl.data import builders
from instructrl.data import store
from instructrl.data.records import SPLITS
from instructrl.data.sources import downloads
from instructrl.data.sources.base import Read
from instructrl.data.sources.base import read
from instructrl.data.sources.base import Source
from instructrl.data.sources.files import File
from instructrl.data.sources.files import SourceError
from instructrl.runtime import progress

# Raised when a source's rows become other records, so that they are read anew.
READER_VERSION = 2


def _folder(source: Source, data_dir: pathlib.Path) -> pathlib.Path:
  return data_dir / 'downloads' / source.NAME.partition('/')[0]


def _sizes(source: Source, data_dir: pathlib.Path) -> dict[str, int]:
  """Bytes of a source's files that are there."""
  paths = {
    remote.name: _folder(source, data_dir) / remote.name
    for remote in source.remotes()
  }
  return {
    name: path.stat().st_size for name, path in paths.items() if path.is_file()
  }


def local_files(source: Source, data_dir: pathlib.Path) -> list[File]:
  """The files of a public source, downloaded if they are not there.

  Raises:
    SourceError: one cannot be had: names it and where to put it.
  """
  folder, found = _folder(source, data_dir), []
  # In the order in which `Source.find` gives them from a folder.
  order = lambda r: (SPLITS.index(r.split), r.name)
  for remote in sorted(source.remotes(), key=order):
    path = folder / remote.name
    try:
      downloads.fetch(remote.url, path)
    except downloads.DownloadError as error:
      missing = [
        other.name
        for other in source.remotes()
        if other != remote and not (folder / other.name).is_file()
      ]
      others = f' (and {", ".join(missing)} in {folder})' if missing else ''
      raise SourceError(
        f'{source.NAME}: cannot download {remote.url} ({error}). Bring the '
        f'file yourself: put it at {path}{others}, or name a folder that has '
        f'it as {source.NAME}:FOLDER'
      ) from error
    found.append(File(path, remote.split, remote.part))
  return found


class _Public(builders.RecordBuilder):
  """What the builders of public sources share: files, rows, counts."""

  def __init__(self, *, source: Source, data_dir: str | pathlib.Path, **kwargs):
    """Makes a builder.

    Args:
      source: what to download and how to read it.
      data_dir: the folder of all public data.
      **kwargs: of the TFDS builder.
    """
    self._source, self._root = source, pathlib.Path(data_dir)
    super().__init__(
      data_dir=prepared_folder(source, self._root),
      **kwargs,
      made_from=json.dumps(identity(source), sort_keys=True),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # see the file's docstring
    found = local_files(self._source, self._root)
    result = read(self._source, found)
    by_split = store.by_split(result.records)
    self._records = {
      split: by_split[split] for split in SPLITS if split in by_split
    }
    self.info.metadata['sizes'] = _sizes(self._source, self._root)
    self.info.metadata['report'] = {
      'read': result.read,
      'dropped': result.dropped,
      'first': result.first,
      'notes': result.notes,
    }
    return super()._split_generators(None)

  def _generate_examples(self, split):
    show = progress.Progress(
      f'prepare {self._source.NAME} {split}',
      len(self._records[split]),
      unit='record',
      stream=sys.stderr,
    )
    with show as bar:
      for index, example in super()._generate_examples(split):
        yield index, example
        bar.update(index + 1)


class PublicDocuments(_Public, builders.Documents):
  """Documents of a public source."""


class PublicDemonstrations(_Public, builders.Demonstrations):
  """Demonstrations of a public source."""


class PublicRankings(_Public, builders.Rankings):
  """Rankings of a public source, not yet in tokens."""


BUILDERS = (PublicDocuments, PublicDemonstrations, PublicRankings)


def identity(source: Source) -> dict[str, Any]:
  """What a prepared source is made from."""
  return {
    'reader': READER_VERSION,
    'name': source.NAME,
    'subset': source.subset,
    'options': source.options,
  }


def prepared_folder(source: Source, data_dir: pathlib.Path) -> pathlib.Path:
  """Where a source is prepared: readable, and apart for other options."""
  name = '-'.join(filter(None, (*source.NAME.split('/'), source.subset)))
  digest = hashlib.sha256(
    json.dumps(identity(source), sort_keys=True).encode()
  ).hexdigest()
  return data_dir / 'prepared' / f'{name}-{digest[:8]}'


def load(source: Source, data_dir: pathlib.Path) -> Read:
  """Reads a public source, which is downloaded and prepared the first time,
  and prepared again when a user has put a file of another size in its place.

  What a killed preparation left is removed. One process at a time prepares;
  others wait.

  Raises:
    SourceError: a file cannot be had or read.
    RecordError: what was prepared is damaged.
  """
  cls = next(cls for cls in BUILDERS if cls.RECORD is source.RECORD)
  folder = prepared_folder(source, data_dir)
  with downloads.lock(data_dir):
    for leftover in folder.glob('*/incomplete.*'):
      shutil.rmtree(leftover)
    builder = cls(source=source, data_dir=data_dir)
    known = builder.info.metadata.get('sizes', {})
    now = _sizes(source, data_dir)  # the downloads may have been deleted
    if known | now != known:
      shutil.rmtree(folder, ignore_errors=True)
      builder = cls(source=source, data_dir=data_dir)
    tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as unused:
      builder.download_and_prepare(
        download_dir=unused, file_format='array_record'
      )
  report = builder.info.metadata['report']
  records = [
    record
    for split in SPLITS
    if split in builder.info.splits
    for record in store.RecordSequence(builder, split)
  ]
  return Read(records=records, **report)
