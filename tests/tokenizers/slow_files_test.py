"""Folders without a tokenizer.json."""

import io
import json

import pytest
import sentencepiece

from instructrl.tokenizers.imported import HFTokenizer
from tests import tokenizer_families as families

END = '<|endoftext|>'


def write_bpe(folder, kind, merges=None, vocab=None):
  model = families.bpe([END], bos=END)['model']
  folder.mkdir(exist_ok=True)
  (folder / 'vocab.json').write_text(json.dumps(vocab or model['vocab']))
  lines = merges or [' '.join(pair) for pair in model['merges']]
  (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *lines, '']))
  (folder / 'config.json').write_text(json.dumps({'model_type': kind}))
  return folder


def test_gpt2_is_the_same_with_and_without_tokenizer_json(tmp_path):
  slow = HFTokenizer.from_folder(write_bpe(tmp_path / 'slow', 'gpt2'))
  fast = HFTokenizer.from_folder(
    families.write(
      tmp_path / 'fast', families.bpe([END]), bos_token=END, eos_token=END
    )
  )
  for text in ("It's 1984:\n\n  caf\u00e9", END, 'Human: what?'):
    assert slow.encode(text) == fast.encode(text)
    assert slow.document(text) == fast.document(text)


@pytest.mark.parametrize(
  'merges,message',
  [
    (['a b', 'a'], r"merges.txt:3: 'a' must be two pieces"),
    (['zz qq'], r"merges.txt:2: 'zz qq' must be two pieces"),
  ],
)
def test_damaged_merges_are_named(tmp_path, merges, message):
  vocab = {'a': 0, 'b': 1, 'ab': 2, END: 3}
  with pytest.raises(ValueError, match=message):
    HFTokenizer.from_folder(write_bpe(tmp_path, 'gpt2', merges, vocab))


def test_an_unknown_kind_is_refused_with_what_to_do(tmp_path):
  with pytest.raises(ValueError, match="how 'codegen' splits.*save_pretrained"):
    HFTokenizer.from_folder(write_bpe(tmp_path, 'codegen'))


@pytest.mark.parametrize('model_type', ['bpe', 'unigram'])
@pytest.mark.parametrize('prefix', [True, False])
def test_sentencepiece_ids_are_its_own(tmp_path, model_type, prefix):
  model = families.sentencepiece_model(model_type, add_dummy_prefix=prefix)
  tok = HFTokenizer.from_folder(families.write(tmp_path, model))
  theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
  for text in (
    *families.LINES[:5],
    '  a  b ',
    '\n\n',
    '1984\t\x00',
    '\u00e9',
    '<0x41>',
    ' \u4e16',
  ):
    assert tok.encode(text) == theirs.encode(text), repr(text)
  assert (tok.bos_id, tok.document_eos_id) == (1, 2)


@pytest.mark.parametrize(
  'options,message',
  [
    ({'normalization_rule_name': 'nmt_nfkc'}, 'it changes characters'),
    ({'remove_extra_whitespaces': True}, 'it drops white space'),
    ({'byte_fallback': False}, 'has 0 of 256 bytes'),
    ({'user_defined_symbols': ['<tool>']}, "other ids for 'a<tool>b'"),
  ],
)
def test_what_cannot_be_made_equal_is_refused(tmp_path, options, message):
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    **{
      'sentence_iterator': iter('\n'.join(families.LINES).split('\n')),
      'model_writer': out,
      'model_type': 'bpe',
      'byte_fallback': True,
      'vocab_size': 330,
      'hard_vocab_limit': False,
      'normalization_rule_name': 'identity',
      'minloglevel': 2,
      'remove_extra_whitespaces': False,
      **options,
    }
  )
  with pytest.raises(ValueError, match=f'tokenizer.model.*{message}'):
    HFTokenizer.from_folder(families.write(tmp_path, out.getvalue()))


def test_damage_and_an_empty_folder_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='neither tokenizer.json, nor'):
    HFTokenizer.from_folder(tmp_path)
  families.write(tmp_path, b'\xff\xff\xff')
  with pytest.raises(ValueError, match='tokenizer.model: not a sentencepiece'):
    HFTokenizer.from_folder(tmp_path)
