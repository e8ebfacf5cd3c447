"""TFDS builders of public sources: downloaded and prepared once, then read.

In a data folder, `downloads/SOURCE/` holds a source's files under readable
names, so that a user without network can put them there; `prepared/` holds the
records. TFDS itself would keep the files under hashed names, and cannot resume.

  builder = PublicRankings(source=HhRlhf('helpful-base'), data_dir=FOLDER)
  builder.download_and_prepare(file_format='array_record')
"""

import functools
import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
from typing import Any

import tensorflow_datasets as tfds

from instructrl.data import builders
from instructrl.data import store
from instructrl.data.records import SPLITS
from instructrl.data.sequences import Spool
from instructrl.data.sources import downloads
from instructrl.data.sources.base import Read
from instructrl.data.sources.base import read
from instructrl.data.sources.base import Source
from instructrl.data.sources.row_files import File
from instructrl.data.sources.row_files import SourceError
from instructrl.runtime import progress

# Raise this when rows become other records: sources are then prepared again.
READER_VERSION = 2


def _folder(source: Source, data_dir: pathlib.Path) -> pathlib.Path:
  return data_dir / 'downloads' / source.NAME.partition('/')[0]


def _sizes(source: Source, data_dir: pathlib.Path) -> dict[str, int]:
  """Returns name -> bytes of the source's files that are in its folder."""
  folder = _folder(source, data_dir)
  paths = {remote.name: folder / remote.name for remote in source.remotes()}
  return {
    name: path.stat().st_size for name, path in paths.items() if path.is_file()
  }


def local_files(source: Source, data_dir: pathlib.Path) -> list[File]:
  """Returns the files of a public source; downloads those that are missing.

  Raises:
    SourceError: a file cannot be downloaded; says where to put it.
  """
  folder, found = _folder(source, data_dir), []
  # In the order in which `Source.find` gives them from a folder.
  order = lambda r: (SPLITS.index(r.split), r.name)
  for remote in sorted(source.remotes(), key=order):
    path = folder / remote.name
    try:
      local = downloads.fetch(remote.url, path)
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
    found.append(File(local, remote.split, remote.part))
  return found


class _Public(builders.RecordBuilder):
  """Base class of the builders of public sources."""

  def __init__(self, *, source: Source, data_dir: str | pathlib.Path, **kwargs):
    """Makes a builder.

    Args:
      source: says what to download and how to read it.
      data_dir: the folder of all public data.
      **kwargs: for the TFDS builder.
    """
    self._source, self._root = source, pathlib.Path(data_dir)
    super().__init__(
      data_dir=prepared_folder(source, self._root),
      **kwargs,
      made_from=json.dumps(identity(source), sort_keys=True),
    )

  def _shard_iterators_per_split(self, dl_manager):
    result = read(self._source, local_files(self._source, self._root))
    by_split = store.by_split(result.records)
    self._shards = {
      split: [functools.partial(self._shown, split, by_split[split])]
      for split in SPLITS
      if split in by_split
    }
    report = dict(vars(result))
    del report['records']
    self.info.metadata['sizes'] = _sizes(self._source, self._root)
    self.info.metadata['report'] = report
    return super()._shard_iterators_per_split(dl_manager)

  def _shown(self, split, records):
    """Yields the records of a split, with a line of progress."""
    show = progress.Progress(
      f'prepare {self._source.NAME} {split}',
      len(records),
      unit='record',
      stream=sys.stderr,
    )
    with show as bar:
      for index, record in enumerate(records):
        yield record
        bar.update(index + 1)


class PublicDocuments(_Public, builders.Documents):
  """Documents of a public source."""


class PublicDemonstrations(_Public, builders.Demonstrations):
  """Demonstrations of a public source."""


class PublicRankings(_Public, builders.Rankings):
  """Rankings of a public source, without tokens."""


BUILDERS = (PublicDocuments, PublicDemonstrations, PublicRankings)


def identity(source: Source) -> dict[str, Any]:
  """Returns the values that decide what a source is prepared to."""
  return {
    'reader': READER_VERSION,
    'name': source.NAME,
    'subset': source.subset,
    'options': source.options,
  }


def prepared_folder(source: Source, data_dir: pathlib.Path) -> pathlib.Path:
  """Returns the folder of the prepared source, one for each `identity`."""
  name = '-'.join(filter(None, (*source.NAME.split('/'), source.subset)))
  values = json.dumps(identity(source), sort_keys=True)
  digest = hashlib.sha256(values.encode()).hexdigest()
  return data_dir / 'prepared' / f'{name}-{digest[:8]}'


def load(
  source: Source,
  data_dir: pathlib.Path,
  folder: str | os.PathLike | None = None,
) -> Read:
  """Reads a public source; the first time, downloads and prepares it.

  Prepares it again if a user has put a file of another size in its place, and
  removes the remains of a killed preparation. One process prepares at a time;
  others wait. The records are stored in `folder`, see `Spool`.

  Raises:
    SourceError: a file cannot be downloaded or read.
    RecordError: the prepared data are damaged.
  """
  cls = next(cls for cls in BUILDERS if cls.RECORD is source.RECORD)
  prepared = prepared_folder(source, data_dir)
  with downloads.lock(data_dir):
    for leftover in prepared.glob('*/incomplete.*'):
      shutil.rmtree(leftover)
    builder = cls(source=source, data_dir=data_dir)
    known = builder.info.metadata.get('sizes', {})
    now = _sizes(source, data_dir)  # the downloads may have been deleted
    if known | now != known:
      shutil.rmtree(prepared, ignore_errors=True)
      builder = cls(source=source, data_dir=data_dir)
    tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as unused:
      builder.download_and_prepare(
        download_dir=unused, file_format='array_record'
      )
  records = (
    record
    for split in SPLITS
    if split in builder.info.splits
    for record in store.RecordSequence(builder, split)
  )
  return Read(Spool(records, folder), **builder.info.metadata['report'])
