"""Documents for the pretraining mix: plain text files, and C4."""

from instructrl.data import records
from instructrl.data.records import Document
from instructrl.data.sources import base
from instructrl.data.sources import fields
from instructrl.data.sources import row_files
from instructrl.data.sources.row_files import Row
from instructrl.runtime import files


class Text(base.Source):
  """Plain text: a document is a file, a paragraph or a line."""

  NAME = 'text'
  RECORD = Document
  ABOUT = 'plain text files'
  PUBLIC = False
  SUFFIXES = row_files.TEXT_SUFFIXES
  OPTIONS = {
    'documents': base.Option(
      'blank',
      base.one_of('file', 'blank', 'line'),
      'a document is a file, a part between blank lines, or a line',
    ),
    'min_chars': base.Option(
      0,
      base.at_least(0, int),
      'join documents until they have this many characters',
    ),
    'split': base.Option(
      'train', base.one_of(*records.DOCUMENT_SPLITS), 'split of all documents'
    ),
  }

  def find(self, path):
    return [
      row_files.File(found, self.options['split'])
      for found in row_files.find(path, self.SUFFIXES)
    ]

  def rows(self, found):
    for file in found:
      yield from self._joined(file, _pieces(file, self.options['documents']))

  def _joined(self, file, pieces):
    """Yields rows of at least `min_chars`; a file's last may be shorter."""
    start, parts, size = 0, [], 0
    for line, piece in pieces:
      start = start or line
      parts.append(piece)
      # The line ends after the last piece are not part of the document.
      if size + len(piece.rstrip('\r\n')) >= self.options['min_chars']:
        yield Row(file, start, ''.join(parts).strip('\r\n'))
        start, parts, size = 0, [], 0
      else:
        size += len(piece)
    if parts:
      yield Row(file, start, ''.join(parts).strip('\r\n'))

  def record(self, row):
    text = fields.checked_text(row.value, 'the document')
    return Document(
      fields.text_id(text), text, row.file.path.name, row.file.split
    )


def _pieces(file, documents):
  """Yields (first line, text) of each document before joining."""
  start, parts, size = 1, [], 0
  for row in row_files.read_texts(file):
    text = row.value.replace('\r\n', '\n')  # Windows line ends
    blank = not text.strip()
    if documents == 'line' and not blank:
      yield row.line, text
    elif documents != 'line':
      if not parts:
        if blank:
          continue
        start, size = row.line, 0
      parts.append(text)
      size += len(text)
      if size > files.MAX_LINE:
        raise row_files.SourceError(
          f'{file.path}:{start}: the document has more than '
          f'{files.MAX_LINE >> 20} MiB; documents=line makes one of each line'
        )
      if blank and documents == 'blank':
        yield start, ''.join(parts)
        parts = []
  if parts:
    yield start, ''.join(parts)


class C4(base.Source):
  """Web pages in English, cleaned; or files of your own in its form.

  Raffel et al. 2020; the copy of AllenAI on the Hugging Face hub. One of the
  1,024 files has about 356,000 pages in 320 MB.
  """

  NAME = 'c4'
  RECORD = Document
  ABOUT = 'C4, cleaned web pages (ODC-BY)'
  OPTIONS = {
    'files': base.Option(
      1, base.at_least(1, int), 'how many of the 1,024 to download'
    )
  }

  def remotes(self):
    url = f'{base.HUB}allenai/c4/resolve/main/en/'
    names = [
      (f'c4-train.{i:05}-of-01024.json.gz', 'train')
      for i in range(min(self.options['files'], 1024))
    ]
    names.append(('c4-validation.00000-of-00008.json.gz', 'validation'))
    return tuple(base.Remote(url + name, name, split) for name, split in names)

  def record(self, row):
    text = fields.text(row.value, 'text')
    return Document(fields.text_id(text), text, 'c4', row.file.split)
