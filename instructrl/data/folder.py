"""The data folder: the stages `lab` and `data` write one, the others read it.

  corpus/ prompts/ demonstrations/ rankings/    data sets: records by split
  corpus.rows, corpus_validation.rows           packed language-model rows
  demonstrations.rows, demonstrations_validation.rows
  public_tasks/ public_tasks.rows ...           of a lab, in the same form
  tokenizer.model or tokenizer.hf.json          the tokenizer of the rows

A folder may lack parts. A lab has no rankings: the stage `rankings` writes them
into a folder of its own. Public data has the parts that its config names
sources for.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import pathlib

from instructrl.data import ranked
from instructrl.data import store
from instructrl.data import tasks
from instructrl.data.packing import Packed
from instructrl.data.records import Record
from instructrl.data.rows import read_rows
from instructrl.data.rows import RowFile
from instructrl.data.rows import write_rows
from instructrl.runtime.errors import ConfigError
from instructrl.tokenizers import loading
from instructrl.tokenizers import protocol

VALIDATION_CORPUS = 'corpus_validation.rows'

# Part -> the field of the data stage whose sources give it.
_FIELDS = {
  'corpus': 'documents',
  'demonstrations': 'demonstrations',
  'rankings': 'rankings',
  'prompts': 'prompts or rankings',
}


@dataclasses.dataclass(frozen=True)
class DataFolder:
  """A data folder, to read or to write.

  Attributes:
    path: the folder.
    field: the config field that names the folder, for messages.
  """

  path: pathlib.Path
  field: str = 'inputs.data'

  def _refuse(self, missing: str, part: str, remedy: str):
    raise ConfigError(
      f'{self.field}: {self.path} has no {missing}: give the data stage a '
      f'source for {_FIELDS.get(part, part)}, or {remedy}'
    )

  # --- Reading ---------------------------------------------------------------

  def has(self, name: str, split: str = 'train') -> bool:
    """Returns whether a data set is there and has a split.

    Raises:
      ConfigError: the data set is of another format version.
    """
    try:
      return split in store.splits(self.path, name)
    except FileNotFoundError as error:
      other = store.other_versions(self.path, name)
      if other:
        raise ConfigError(
          f'{error}, but one of {", ".join(other)}, which another version of '
          'this program wrote: make it again'
        ) from error
      return False

  def records(self, name: str, split: str) -> store.RecordSequence:
    """Opens a split of a data set.

    Raises:
      ConfigError: the data set or the split is missing.
    """
    if not self.has(name, split):
      missing = f'{name} of the split {split!r}'
      self._refuse(missing, name, f'set {self.field}')
    return store.read_records(self.path, name, split)

  def ranked(
    self, split: str, tokenizer: protocol.AnyTokenizer
  ) -> ranked.RankedTokens:
    """Opens a split of the rankings in tokens.

    Args:
      split: the split.
      tokenizer: the tokenizer that the tokens must have been made with.

    Raises:
      ConfigError: the rankings or the split are missing, or the folder has
        another tokenizer.
      ValueError: a ranking is not in tokens.
    """
    self.records('rankings', split)  # refuses a missing part
    if loading.has(self.path):
      own = self.tokenizer().fingerprint
      if own != tokenizer.fingerprint:
        raise ConfigError(
          f'{self.field}: {self.path} has the tokens of another tokenizer '
          f'({own[:12]}) than inputs.data ({tokenizer.fingerprint[:12]}): make '
          'both with one tokenizer'
        )
    return store.read_ranked(self.path, 'rankings', split)

  def has_rows(self, file: str) -> bool:
    """Returns whether a file of packed rows is there."""
    return bool(file) and (self.path / file).exists()

  def rows(
    self,
    file: str,
    tokenizer: protocol.AnyTokenizer | None = None,
    remedy: str = 'set rows',
  ) -> RowFile:
    """Opens packed rows.

    Args:
      file: name of the file, such as 'corpus.rows'.
      tokenizer: the tokenizer that the rows must have been made with; None
        takes any.
      remedy: what a user can do if the rows are missing, for the message.

    Raises:
      ConfigError: the rows are missing.
      ValueError: the rows were made with another tokenizer.
    """
    if not self.has_rows(file):
      part = file.partition('.')[0].removesuffix('_validation')
      self._refuse(file or 'such rows', part, remedy)
    return read_rows(
      self.path / file,
      tokenizer_fingerprint=tokenizer and tokenizer.fingerprint,
    )

  def tokenizer(self) -> protocol.AnyTokenizer:
    """Reads the tokenizer.

    Raises:
      ConfigError: the folder has no tokenizer.
    """
    try:
      return loading.load(self.path)
    except FileNotFoundError as error:
      raise ConfigError(f'{self.field}: {error}') from error

  # --- Writing: what is finished is kept -------------------------------------

  def write_tokenizer(self, tokenizer: protocol.AnyTokenizer) -> None:
    tokenizer.save(self.path / tokenizer.FILE)

  def write_records(
    self,
    name: str,
    records_by_split: Mapping[str, Iterable[Record]],
    made_from: str,
  ) -> None:
    """Writes a data set; one without records is left out.

    Args:
      name: a data set of the module's docstring.
      records_by_split: split -> records, all of one type.
      made_from: fingerprint of what the records are made from.
    """
    if records_by_split:
      store.write_records(
        self.path, name, records_by_split, fingerprint=made_from
      )

  def write_rows(
    self,
    documents: Mapping[str, Iterable[Record]],
    demonstrations: Mapping[str, Iterable[Record]],
    tokenizer: protocol.AnyTokenizer,
    *,
    row_len: int,
    response_len: int,
    made_from: str,
    name: str = 'demonstrations',
  ) -> dict[str, RowFile]:
    """Packs the training and validation splits into rows.

    Args:
      documents: split -> documents.
      demonstrations: split -> demonstrations whose prompts fit a row.
      tokenizer: encodes the texts.
      row_len: tokens per row.
      response_len: tokens of a response at most; longer ones are cut.
      made_from: fingerprint of what the records are made from.
      name: of the demonstrations' files.

    Returns:
      Name of the file -> its rows, for the splits that have records.
    """
    made = {
      'tokenizer_fingerprint': tokenizer.fingerprint,
      'source_fingerprint': made_from,
    }

    def examples(part, records):
      if part == 'corpus':
        return tasks.document_examples(records, tokenizer)
      return tasks.sft_examples(
        records, tokenizer, row_len, response_len=response_len
      )

    written = {}
    for split, suffix in (('train', ''), ('validation', '_validation')):
      for part, by_split in (('corpus', documents), (name, demonstrations)):
        if not by_split.get(split):
          continue
        path = self.path / f'{part}{suffix}.rows'
        if not path.exists():
          found = examples(part, by_split[split])
          write_rows(path, Packed(found, row_len, self.path), **made)
        written[path.name] = read_rows(path, row_len=row_len, **made)
    return written
