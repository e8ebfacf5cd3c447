"""Packed language-model rows in an ArrayRecord file.

Rows are packed once, offline, so that a row has a number and a batch of rows is
a function of the step. Record 0 is a header in JSON with the fingerprints of
the rows' origin. Each other record is one row: the fields of `LMBatch` in the
order of `FIELDS`, [5, T] little-endian int32.
"""

import json
import os
import pathlib

from array_record.python import array_record_data_source
from array_record.python import array_record_module
import numpy as np

from instructrl.data import tasks
from instructrl.data.packing import Packed
from instructrl.runtime import files
from instructrl.types import LMBatch

FORMAT_VERSION = 1
FIELDS = ('tokens', 'targets', 'loss_mask', 'positions', 'segment_ids')


def write_rows(
  path: str | pathlib.Path,
  rows: tasks.Rows | Packed,
  *,
  tokenizer_fingerprint: str,
  source_fingerprint: str,
) -> None:
  """Stores packed rows; the file appears whole or not at all.

  Args:
    path: the ArrayRecord file.
    rows: in memory, [rows, T] each, or made when they are written.
    tokenizer_fingerprint: fingerprint of the tokenizer of the tokens.
    source_fingerprint: fingerprint of the documents or demonstrations.
  """
  path = pathlib.Path(path)
  if isinstance(rows, Packed):
    (num_rows, row_len), blocks = rows.shape, rows.blocks()
  else:
    (num_rows, row_len), blocks = rows['tokens'].shape, iter([rows])
  header = {
    'format_version': FORMAT_VERSION,
    'kind': 'lm_rows',
    'num_rows': num_rows,
    'row_len': row_len,
    'tokenizer_fingerprint': tokenizer_fingerprint,
    'source_fingerprint': source_fingerprint,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + '.partial')
  files.refuse_link(partial)
  # A group of one makes every row readable without its neighbours.
  writer = array_record_module.ArrayRecordWriter(str(partial), 'group_size:1')
  try:
    writer.write(json.dumps(header).encode())
    for block in blocks:
      stacked = np.stack([block[name] for name in FIELDS], axis=1)
      for row in stacked.astype('<i4'):
        writer.write(row.tobytes())
  finally:
    writer.close()
  os.replace(partial, path)


class RowFile:
  """Packed rows on disk, in random access; a source for `Batches`."""

  def __init__(self, path: str | pathlib.Path):
    """Opens the file.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is damaged, or not a file of rows.
    """
    self.path = pathlib.Path(path)
    if not self.path.is_file():
      raise FileNotFoundError(f'no packed rows at {path}')
    try:
      source = array_record_data_source.ArrayRecordDataSource([str(path)])
      self._records, self.header = source, json.loads(source[0])
    except (RuntimeError, ValueError, IndexError) as error:
      reason = f'{path} is not a file of packed rows: {error}'
      raise ValueError(reason) from error
    header = self.header
    if not isinstance(header, dict) or header.get('kind') != 'lm_rows':
      raise ValueError(f'{path} is not a file of packed rows')
    if header.get('format_version') != FORMAT_VERSION:
      raise ValueError(
        f'{path} has format version {header.get("format_version")}, this '
        f'program reads {FORMAT_VERSION}: delete the file to pack it again'
      )
    if len(source) != header.get('num_rows', -1) + 1:
      raise ValueError(
        f'{path} has {len(source) - 1} rows, its header says '
        f'{header.get("num_rows")}'
      )

  def __reduce__(self):  # to another process
    return RowFile, (self.path,)

  def __len__(self) -> int:
    return self.header['num_rows']

  @property
  def num_bytes(self) -> int:
    """Size of the rows in memory."""
    return len(self) * len(FIELDS) * self.header['row_len'] * 4

  def gather(self, indices: np.ndarray) -> LMBatch:
    try:
      data = self._records.__getitems__([int(i) + 1 for i in indices])
    except RuntimeError as error:
      raise ValueError(f'{self.path} is damaged: {error}') from error
    values = np.frombuffer(b''.join(data), '<i4').astype(np.int32)
    values = values.reshape(len(data), len(FIELDS), self.header['row_len'])
    fields = {name: values[:, i] for i, name in enumerate(FIELDS)}
    return LMBatch(**{**fields, 'loss_mask': fields['loss_mask'].astype(bool)})

  def load(self) -> tasks.Rows:
    """Reads all rows into memory."""
    return vars(self.gather(np.arange(len(self))))


class Unpacked:
  """The examples of packed rows, each in a row of its own.

  An example keeps its columns, and the other columns are padding. B rows have
  the loss of the B examples: a mean over their targets.
  """

  def __init__(self, rows):
    """Counts the examples of each row.

    Args:
      rows: packed rows with `len` and `gather`, such as a `RowFile`.
    """
    self._rows = rows
    blocks = np.split(np.arange(len(rows)), range(1024, len(rows), 1024))
    counts = np.concatenate(
      [rows.gather(block).segment_ids.max(axis=1) for block in blocks]
    )
    self._row = np.repeat(np.arange(len(rows)), counts)
    first = np.cumsum(counts) - counts  # the number of a row's first example
    self._segment = 1 + np.arange(counts.sum()) - np.repeat(first, counts)

  def __len__(self) -> int:
    return len(self._row)

  def gather(self, indices: np.ndarray) -> LMBatch:
    packed = self._rows.gather(self._row[indices])
    own = packed.segment_ids == self._segment[indices][:, None]
    fields = {name: getattr(packed, name) * own for name in FIELDS}
    return LMBatch(**{**fields, 'segment_ids': own.astype(np.int32)})


def read_rows(
  path: str | pathlib.Path,
  *,
  row_len: int | None = None,
  tokenizer_fingerprint: str | None = None,
  source_fingerprint: str | None = None,
) -> RowFile:
  """Opens packed rows and compares their origin with what a run needs.

  Args:
    path: a file of `write_rows`.
    row_len: T; None takes any, here and below.
    tokenizer_fingerprint: fingerprint of the run's tokenizer.
    source_fingerprint: fingerprint of the run's documents or demonstrations.

  Raises:
    FileNotFoundError: the file is missing.
    ValueError: the file is damaged, or has another origin.
  """
  rows = RowFile(path)
  wanted = {
    'row_len': row_len,
    'tokenizer_fingerprint': tokenizer_fingerprint,
    'source_fingerprint': source_fingerprint,
  }
  for name, value in wanted.items():
    found = rows.header.get(name)
    if value is not None and found != value:
      raise ValueError(
        f'{path} has {name} {str(found)[:12]}, this run needs '
        f'{str(value)[:12]}: delete the file to pack it again'
      )
  return rows
