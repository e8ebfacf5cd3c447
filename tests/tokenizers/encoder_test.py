"""Typed text and special tokens in one text; all families in imported_test."""

import pytest

from instructrl.tokenizers import hf_json
from instructrl.tokenizers.encoder import Encoder
from tests import tokenizer_families as families

END = '<|endoftext|>'


@pytest.fixture(name='encoder')
def encoder_fixture():
  return Encoder(families.bpe([END], plain=['<tool>']), ['<tool>'], None)


def test_specials_are_matched_only_where_they_are_meant(encoder):
  assert set(encoder.specials.values()) == {END, '<tool>'}
  end = encoder.tok.token_to_id(END)
  typed = encoder.encode([(END, False)])
  assert end not in typed and len(typed) > 1
  assert encoder.encode([('a', False), (END, True)])[-1] == end
  assert encoder.encode([(END, True), (END, False)]) == [end, *typed]


def test_a_merge_spans_the_border_of_layout_and_text(encoder):
  whole = encoder.raw('The capital')
  assert encoder.encode([('The cap', True), ('ital', False)]) == whole
  inside = encoder.encode([(' capital', False)], inside=True)
  assert whole[-len(inside) :] == inside


def test_a_special_that_an_ordinary_piece_spells_is_cut():
  tokenizer = families.legacy_unigram()
  tokenizer['added_tokens'] = [hf_json.added_token(2, '</s>', True)]
  encoder = Encoder(tokenizer, [], 0)
  assert 2 in encoder.raw('a</s>')  # the library alone gives it
  ids = encoder.encode([('a</s>', False)])
  assert [encoder.tok.id_to_token(i) for i in ids] == list('a</s>')


def test_a_tokenizer_that_separates_all_parts_is_refused():
  tokenizer = families.bpe([END])
  byte = {'type': 'ByteLevel', 'trim_offsets': True, 'use_regex': False}
  tokenizer['pre_tokenizer'] = hf_json.sequence(
    'pretokenizers', hf_json.split('.'), {**byte, 'add_prefix_space': True}
  )
  with pytest.raises(ValueError, match='cannot continue a text'):
    Encoder(tokenizer, [], None)


def test_text_that_is_not_utf_8_is_refused(encoder):
  with pytest.raises(ValueError, match='cannot be written as UTF-8'):
    encoder.encode([('\ud800', False)])
