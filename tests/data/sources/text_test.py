"""Documents of plain text and of C4."""

import gzip

import pytest

from instructrl.data.sources import lookup
from instructrl.data.sources.row_files import SourceError
from tests.data.sources import source_files

TEXT = '\n = A = \n \nOne.\nTwo.\n\n\nThree.\n'


@pytest.mark.parametrize(
  'query, texts',
  [
    ('', [' = A = \n ', 'One.\nTwo.', 'Three.']),
    ('?documents=blank', [' = A = \n ', 'One.\nTwo.', 'Three.']),
    ('?documents=line', [' = A = ', 'One.', 'Two.', 'Three.']),
    ('?documents=file', [' = A = \n \nOne.\nTwo.\n\n\nThree.']),
    ('?min_chars=12', [' = A = \n \nOne.\nTwo.', 'Three.']),
    ('?min_chars=20', [' = A = \n \nOne.\nTwo.\n\nThree.']),
    ('?documents=line&min_chars=12', [' = A = \nOne.', 'Two.\nThree.']),
    ('?documents=line&min_chars=13', [' = A = \nOne.\nTwo.', 'Three.']),
  ],
)
@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('name', ['a.txt', 'a.txt.gz'])
def test_what_is_one_document(tmp_path, name, end, query, texts):
  data = TEXT.replace('\n', end).encode()
  path = tmp_path / name
  path.write_bytes(gzip.compress(data) if name.endswith('.gz') else data)
  got = lookup.load(f'text:{path}{query}')
  assert [r.text for r in got.records] == texts
  assert got.records[0].source == name and got.records[0].split == 'train'


def test_places_files_and_copies(tmp_path):
  (tmp_path / 'b.txt').write_text('B.\n\nA.\n\nA.\n')
  (tmp_path / 'a.md').write_text('C.')
  got = lookup.load(f'text:{tmp_path}?split=validation')
  assert [(r.text, r.source, r.split) for r in got.records] == [
    ('C.', 'a.md', 'validation'),
    ('B.', 'b.txt', 'validation'),
    ('A.', 'b.txt', 'validation'),
  ]
  assert list(got.first.values()) == [
    f'{tmp_path}/b.txt:5: is an exact duplicate of an earlier row'
  ]


def test_an_empty_file_and_one_too_long(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('\n \n')
  with pytest.raises(SourceError, match='a.txt: there are no rows'):
    lookup.load(f'text:{path}')
  path.write_text('a\n\n' + 'b' * 4_194_305)
  got = lookup.load(f'text:{path}')
  assert len(got.records) == 1
  assert got.dropped == {'text has N characters, the limit is N': 1}


def test_c4(tmp_path):
  for name in (
    'c4-train.00000-of-01024.json.gz',
    'c4-validation.00000-of-00008.json.gz',
  ):
    source_files.write_lines(
      tmp_path / name, [{'text': f'Page {name}', 'timestamp': 't', 'url': 'u'}]
    )
  got = lookup.load(f'c4:{tmp_path}').records
  assert [r.split for r in got] == ['train', 'validation']
  own = lookup.load(f'jsonl:{tmp_path}')
  assert [r.text for r in own.records] == [r.text for r in got]
  remotes = lookup.parse('c4?files=3').source().remotes()
  assert [remote.split for remote in remotes] == ['train'] * 3 + ['validation']
