"""Tokenizers in GGUF files."""

import gguf
import pytest
import sentencepiece

from instructrl.tokenizers import gguf_files
from instructrl.tokenizers import hf_json
from instructrl.tokenizers import spm_files
from instructrl.tokenizers.imported import HFTokenizer
from tests import tokenizer_families as families

SPECIALS = ('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<empty_output>')


def bpe_metadata(pre='smollm', **changes):
  """As SmolLM2's file has it: PAD is EOS there."""
  made = families.bpe(SPECIALS, plain=['<tool>'])
  vocab = made['model']['vocab']
  tokens = [*SPECIALS, *vocab, '<tool>']
  types = [3] * 4 + [1] * len(vocab) + [4]
  found = {
    'model': 'gpt2',
    'pre': pre,
    'tokens': tokens,
    'token_type': types,
    'merges': [' '.join(pair) for pair in made['model']['merges']],
    'bos_token_id': 1,
    'eos_token_id': 2,
    'padding_token_id': 2,
    'unknown_token_id': 0,
    **changes,
  }
  return {
    **{
      f'tokenizer.ggml.{name}': value
      for name, value in found.items()
      if value is not None
    },
    'tokenizer.chat_template': families.CHATML,
  }


def spm_metadata(**changes):
  pieces = spm_files.pieces_of(
    spm_files.read_proto(families.sentencepiece_model())
  )
  found = {
    'model': 'llama',
    'tokens': [p.text for p in pieces],
    'scores': [p.score for p in pieces],
    'token_type': [p.type for p in pieces],
    'bos_token_id': 1,
    'eos_token_id': 2,
    **changes,
  }
  return {f'tokenizer.ggml.{name}': value for name, value in found.items()}


def write_gguf(path, metadata):
  writer = gguf.GGUFWriter(path, 'llama')
  for name, value in metadata.items():
    if isinstance(value, list):
      writer.add_array(name, value)
    elif isinstance(value, str):
      writer.add_string(name, value)
    else:
      writer.add_uint32(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  return path


def test_a_file_is_read(tmp_path):
  path = write_gguf(tmp_path / 'model.gguf', bpe_metadata())
  tok = HFTokenizer.from_gguf(path)
  assert tok.vocab_size == len(bpe_metadata()['tokenizer.ggml.tokens'])
  assert (tok.eos_id, tok.bos_id) == (2, None)  # it does not put BOS in front
  assert tok.pad_id == 3 and 'its own PAD <|im_end|> ends' in tok.pad_note
  assert tok.decode(tok.prompt('Hi')) == (
    'system\nBe kind.\nuser\nHi\nassistant\n'
  )
  text = "It's 1984:\n  \u00e9 <|im_end|>"
  assert tok.decode(tok.encode(text)) == text
  assert not {0, 1, 2, 3} & set(tok.encode(text))


@pytest.mark.parametrize(
  'pre,parts',
  [
    ('gpt-2', ['a', '123', ' 4', '.\n', '\n']),
    (None, None),
    ('smollm', ['a', '1', '2', '3', ' ', '4', '.\n', '\n']),
    ('llama-bpe', ['a', '123', ' ', '4', '.\n\n']),
    ('qwen2', ['a', '1', '2', '3', ' ', '4', '.\n\n']),
  ],
)
def test_text_is_parted_as_the_file_says(pre, parts):
  tokenizer = gguf_files.from_metadata(bpe_metadata(pre)).tokenizer
  tok = hf_json.build(tokenizer)
  found = [
    piece for piece, _ in tok.pre_tokenizer.pre_tokenize_str('a123 4.\n\n')
  ]
  plain = [p.replace('\u0120', ' ').replace('\u010a', '\n') for p in found]
  if parts is None:
    assert (
      tokenizer == gguf_files.from_metadata(bpe_metadata('gpt-2')).tokenizer
    )
  elif pre in ('gpt-2', 'smollm'):
    assert plain == [*parts[:-2], '.', '\n\n']
  else:
    assert plain == parts


def test_sentencepiece_gives_the_ids_of_sentencepiece():
  theirs = sentencepiece.SentencePieceProcessor(
    model_proto=families.sentencepiece_model()
  )
  tok = HFTokenizer.from_source(gguf_files.from_metadata(spm_metadata()))
  assert tok.bos_id == 1
  for text in ('Where was Mara born?', '  a', '1984\n\n x', '\u00e9\u4e16'):
    assert tok.encode(text) == theirs.encode(text)
    assert tok.decode(tok.encode(text)) == text


def test_rows_without_a_token_are_none():
  metadata = bpe_metadata()
  num = len(metadata['tokenizer.ggml.tokens'])
  metadata['tokenizer.ggml.tokens'] += [f'[PAD{num + i}]' for i in range(3)]
  metadata['tokenizer.ggml.token_type'] += [5] * 3
  metadata['tokenizer.ggml.tokens'][3] = '<x>'
  source = gguf_files.from_metadata(metadata)
  assert source.rows == num + 3 and len(source.ids()) == num
  tok = HFTokenizer.from_source(source)
  assert (tok.pad_id, tok.added_pad) == (num, False)


@pytest.mark.parametrize(
  'changes,message',
  [
    ({'model': 'bert'}, "model must be .*got 'bert'"),
    ({'pre': 'tekken'}, "pre must be .*got 'tekken'"),
    ({'eos_token_id': None}, 'eos_token_id is missing'),
    ({'eos_token_id': 1 << 20}, 'eos_token_id is missing or not a token'),
    ({'merges': ['a b c']}, "merges must be pairs; got 'a b c'"),
    ({'merges': None}, 'merges is missing'),
    ({'token_type': [1]}, 'token_type has 1 entries'),
    ({'tokens': ['a', 'a'], 'token_type': [1, 1]}, 'a token twice'),
  ],
)
def test_what_cannot_be_read_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    gguf_files.from_metadata(bpe_metadata(**changes))


def test_a_file_that_is_none_or_ends_early_is_named(tmp_path):
  path = write_gguf(tmp_path / 'model.gguf', bpe_metadata())
  content = path.read_bytes()
  for damaged in (b'', b'not one', content[:200], content[: len(content) // 2]):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='model.gguf is not a GGUF file'):
      HFTokenizer.from_gguf(path)
  with pytest.raises(FileNotFoundError, match='is not there'):
    HFTokenizer.from_gguf(tmp_path / 'none.gguf')
