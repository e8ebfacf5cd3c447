"""Data folders: written once, read by part, with clear refusals."""

import pytest

from instructrl.data import folder
from instructrl.runtime.errors import ConfigError
from instructrl.tokenizers import trained
from tests.data import toys

SIZES = {'row_len': 16, 'response_len': 6, 'made_from': 'x'}


@pytest.fixture(scope='module', name='tok')
def _tok():
  texts = ['red green blue cat dog fish'] * 9
  return trained.Tokenizer(trained.train_tokenizer(texts, 300))


@pytest.fixture(name='data')
def _data(tmp_path):
  return folder.DataFolder(tmp_path, 'inputs.mine')


def pages(*texts):
  return [toys.page(text) for text in texts]


def test_what_was_written_is_read(data, tok):
  data.write_tokenizer(tok)
  documents = {
    'train': pages('red', 'cat'),
    'validation': [toys.page('dog', 'validation')],
  }
  shown = {'train': [toys.shown('say', 'red')]}
  data.write_records('corpus', documents, 'x')
  data.write_records('demonstrations', shown, 'x')
  data.write_records('rankings', {}, 'x')
  rows = data.write_rows(documents, shown, tok, **SIZES)
  assert list(rows) == [
    'corpus.rows',
    'demonstrations.rows',
    folder.VALIDATION_CORPUS,
  ]
  assert data.tokenizer().fingerprint == tok.fingerprint
  assert list(data.records('corpus', 'train')) == documents['train']
  assert list(data.records('demonstrations', 'train')) == shown['train']
  assert data.has('corpus', 'validation')
  assert not data.has('demonstrations', 'validation')
  assert not data.has('rankings')
  for name, packed in rows.items():
    assert data.has_rows(name)
    assert len(data.rows(name, data.tokenizer())) == len(packed) > 0
  assert not data.has_rows('demonstrations_validation.rows')
  assert not data.has_rows('')


def test_rows_that_are_finished_are_kept(data, tok):
  (first,) = data.write_rows({'train': pages('red')}, {}, tok, **SIZES).values()
  data.write_rows({'train': pages('cat')}, {}, tok, **SIZES)
  assert (
    data.rows('corpus.rows').load()['tokens'] == first.load()['tokens']
  ).all()
  with pytest.raises(ValueError, match='has source_fingerprint x, .* needs y'):
    data.write_rows(
      {'train': pages('cat')}, {}, tok, **{**SIZES, 'made_from': 'y'}
    )


def test_a_missing_part_names_the_folder_the_part_and_the_field(data, tok):
  for read, message in (
    (
      lambda: data.records('prompts', 'ppo'),
      "has no prompts of the split 'ppo': give the data stage a source for "
      'prompts or rankings, or set inputs.mine',
    ),
    (
      lambda: data.rows('corpus_validation.rows', tok, "set x=''"),
      'has no corpus_validation.rows: give the data stage a source for '
      "documents, or set x=''",
    ),
    (data.tokenizer, f'{data.path} has no tokenizer'),
  ):
    with pytest.raises(ConfigError) as error:
      read()
    assert str(error.value).startswith(f'inputs.mine: {data.path} has no ')
    assert message in str(error.value)
