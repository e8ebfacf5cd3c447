"""Documents for the pretraining mix: plain text files, and C4."""

from instructrl.data import records as records_lib
from instructrl.data.datasets import fields, files
from instructrl.data.datasets.files import Row
from instructrl.data.datasets.source import (
    Option, Remote, Source, at_least, one_of)
from instructrl.data.records import Document


class Text(Source):
  """Plain text: a document a file, a paragraph, or a line."""

  NAME = 'text'
  RECORD = Document
  ABOUT = 'plain text files'
  PUBLIC = False
  SUFFIXES = files.TEXT_SUFFIXES
  OPTIONS = {
      'documents': Option(
          'blank', one_of('file', 'blank', 'line'),
          'what is one document: a file, what stands between blank lines, or '
          'a line'),
      'min_chars': Option(
          0, at_least(0, int),
          'documents in a row are joined until they have so many characters'),
      'split': Option(
          'train', one_of(*records_lib.DOCUMENT_SPLITS), 'of all documents'),
  }

  def find(self, path):
    return [files.File(found, self.options['split'])
            for found in files.find(path, self.SUFFIXES)]

  def rows(self, found):
    for file in found:
      yield from self._joined(file, _pieces(file, self.options['documents']))

  def _joined(self, file, pieces):
    """Rows of at least `min_chars`; what is left over joins the last."""
    start, parts, size = 0, [], 0
    for line, piece in pieces:
      start = start or line
      parts.append(piece)
      size += len(piece)
      if size >= self.options['min_chars']:
        yield Row(file, start, ''.join(parts).strip('\n'))
        start, parts, size = 0, [], 0
    if parts:
      yield Row(file, start, ''.join(parts).strip('\n'))

  def record(self, row):
    text = fields.checked_text(row.value, 'the document')
    return Document(
        fields.text_id(text), text, row.file.path.name, row.file.split)


def _pieces(file, documents):
  """(first line, text) of each document before joining."""
  start, parts = 1, []
  for row in files.read_texts(file):
    blank = not row.value.strip()
    if documents == 'line' and not blank:
      yield row.line, row.value
    elif documents != 'line':
      if not parts:
        if blank:
          continue
        start = row.line
      parts.append(row.value)
      if blank and documents == 'blank':
        yield start, ''.join(parts)
        parts = []
  if parts:
    yield start, ''.join(parts)
